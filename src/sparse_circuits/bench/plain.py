"""The other side of the training benchmarks: the same method in straightforward torch, as one would first write it.

topk + scatter for AbsTopK, a full-matrix topk projection with its masks rebuilt every step, softmax attention with the sink as
one more column, a gradient norm per tensor with a host sync each, torch's own Adam. It has the parameter names of
SparseTransformer and computes the same function and the same updates (tests/bench), only slower.

Shapes: B batch, T tokens, d d_model, H heads, D d_head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_circuits.model.config import AbsTopKSite, ModelConfig
from sparse_circuits.train.optimizer import RMS_FLOOR, OptimizerConfig, learning_rate
from sparse_circuits.train.sparsity import SparsityConfig, entries, rules


def plain_abs_topk(x: Tensor, k: int) -> Tensor:
    """Stock torch: topk of |x|, a mask by scatter, a product."""
    if k == x.shape[-1]:
        return x
    places = x.abs().topk(k, dim=-1).indices
    return x * torch.zeros_like(x).scatter(-1, places, 1.0)


class PlainAttention(nn.Module):
    """Attention as matrices: scores, causal mask, sink column, softmax, product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = PlainNorm(config)
        self.c_attn = nn.Linear(config.d_model, 3 * config.d_attn)
        self.c_proj = nn.Linear(config.d_attn, config.d_model)
        self.sink = nn.Parameter(torch.zeros(config.n_head)) if config.sink else None

    def forward(self, x: Tensor) -> Tensor:
        config, (batch, tokens, _) = self.config, x.shape
        q, k, v = self.c_attn(sparse(config, "attn_in", self.norm(x))).chunk(3, -1)
        q, k, v = (sparse(config, place, t) for place, t in (("attn_q", q), ("attn_k", k), ("attn_v", v)))
        q, k, v = (t.view(batch, tokens, config.n_head, config.d_head).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(config.d_head)
        hidden = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill(hidden, -math.inf)
        if self.sink is not None:
            column = self.sink.view(1, -1, 1, 1).expand(batch, -1, tokens, 1)
            scores = torch.cat([scores, column], -1)
        y = scores.softmax(-1)[..., :tokens] @ v
        y = y.transpose(1, 2).reshape(batch, tokens, config.d_attn)
        return sparse(config, "attn_out", self.c_proj(y))


class PlainMLP(nn.Module):
    """One hidden layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = PlainNorm(config)
        self.c_fc = nn.Linear(config.d_model, config.mlp_width)
        self.c_proj = nn.Linear(config.mlp_width, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.c_fc(sparse(self.config, "mlp_in", self.norm(x))))
        return sparse(self.config, "mlp_out", self.c_proj(sparse(self.config, "mlp_neuron", h)))


class PlainNorm(nn.Module):
    """RMSNorm by torch's own function."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(config.d_model))
        self.eps = config.eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.gain, self.eps)


class PlainTransformer(nn.Module):
    """The paper's architecture: RMSNorm, no positions, untied."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"attn": PlainAttention(config), "mlp": PlainMLP(config)}) for _ in range(config.n_layer)
        )
        self.final_norm = PlainNorm(config)
        self.unembed = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.bigram = nn.Embedding(config.vocab_size, config.vocab_size) if config.bigram else None

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = x + block["attn"](x)  # pyright: ignore[reportIndexIssue]
            x = x + block["mlp"](x)  # pyright: ignore[reportIndexIssue]
        logits = self.unembed(self.final_norm(x))
        return logits if self.bigram is None else logits + self.bigram(tokens)


def sparse(config: ModelConfig, place: AbsTopKSite | str, x: Tensor) -> Tensor:
    """AbsTopK where the config has it."""
    if config.afrac is None or place not in config.afrac_sites:
        return x
    return plain_abs_topk(x, int(config.afrac * x.shape[-1]))


class PlainAdam:
    """Gradient normalisation, torch's Adam, projection and decay, tensor by tensor."""

    def __init__(self, model: nn.Module, config: OptimizerConfig, sparsity: SparsityConfig) -> None:
        self.model, self.config, self.sparsity = model, config, sparsity
        self.rules = {rule.name: rule for rule in rules(model, sparsity)}
        self.adam = torch.optim.Adam(model.parameters(), lr=config.lr, betas=config.betas, eps=config.eps)

    @torch.no_grad()
    def step(self, step: int, steps: int) -> None:
        """Update number `step` of `steps` from the gradients present."""
        lr = learning_rate(self.config, self.sparsity, step, steps)
        total, count = 0.0, 0
        for parameter in self.model.parameters():
            assert parameter.grad is not None
            total += parameter.grad.norm().item() ** 2
            count += parameter.numel()
        for parameter in self.model.parameters():
            assert parameter.grad is not None
            parameter.grad /= math.sqrt(total / count) + RMS_FLOOR
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        self.adam.zero_grad()
        for name, parameter in self.model.named_parameters():
            if name in self.rules:
                self.project(name, parameter, step / steps)
            if parameter.dim() > 1 and name != "bigram.weight":
                parameter -= self.config.weight_decay * lr * parameter

    def project(self, name: str, parameter: Tensor, share: float) -> None:
        """The k largest entries, the best per neuron among them, by topk over the whole matrix."""
        rule = self.rules[name]
        fraction = self.sparsity.embed_fraction_at(share) if rule.is_embed else self.sparsity.fraction_at(share)
        k = entries(fraction, parameter.numel())
        if k == parameter.numel():
            return
        size = parameter.abs()
        if rule.protect:
            axis = 1 if rule.axis == "row" else 0
            best = size.topk(min(rule.protect, size.shape[axis]), dim=axis).indices
            size = size.scatter(axis, best, math.inf)
        mask = torch.zeros(parameter.numel()).scatter(0, size.flatten().topk(k).indices, 1.0)
        parameter *= mask.view(parameter.shape)
