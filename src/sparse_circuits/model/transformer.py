"""The model: a pre-norm GPT-2-style transformer with sparse activations, one forward pass, and a tap at every site.

Per layer (METHOD 1a), K_s = AbsTopK at site s:
    u = K(RMSNorm(x; g1))              q, k, v = K(W_q u + b_q), K(W_k u + b_k), K(W_v u + b_v)
    y = causal softmax attention with a sink logit per head, scale 1/sqrt(d_head)
    x = x + K(W_o y + b_o)
    w = K(RMSNorm(x; g2))              h = K(GELU(W_1 w + b_1))              x = x + K(W_2 h + b_2)
then logits = W_U RMSNorm(x; g_f) + B[token], B the bigram table. No positions. Every analysis is a tap on this pass.

Shapes: B batch, T tokens, d d_model, H heads, D d_head, A = H * D, M d_mlp, V vocabulary, S keys.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparse_circuits.config import Config
from sparse_circuits.kernels import sink_attention
from sparse_circuits.model.abs_topk import abs_topk, kept_count
from sparse_circuits.model.taps import Tap
from sparse_circuits.sites import FINAL_SITE, site_widths, split_site, start_sites

AbsTopKSite = Literal["attn_in", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_neuron", "mlp_out"]
ABS_TOPK_SITES: tuple[AbsTopKSite, ...] = (
    "attn_in",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_out",
    "mlp_in",
    "mlp_neuron",
    "mlp_out",
)


class ModelConfig(Config):
    """Everything that decides the function a model computes; named as in the released configs where they have it."""

    vocab_size: int
    """V, tokens of the tokenizer."""
    n_layer: int
    """L, blocks."""
    d_model: int
    """d, residual channels."""
    n_head: int
    """H, attention heads per layer."""
    d_head: int = 16
    """D, width of one head; n_head * d_head need not equal d_model."""
    d_mlp: int | None = None
    """M, hidden neurons per layer; None = 4 * d_model."""
    block_size: int = 256
    """T in training, tokens. Without positions longer inputs are allowed."""
    afrac: float | None = None
    """Fraction of entries AbsTopK keeps per token and site (METHOD 1a); None = off."""
    afrac_sites: tuple[AbsTopKSite, ...] = ABS_TOPK_SITES
    """Places at which AbsTopK acts when afrac is set."""
    sink: bool = True
    """A learned sink logit per head (METHOD 1d)."""
    bigram: bool = True
    """A table B[token] added to the logits (METHOD 1d)."""
    norm: Literal["rms"] = "rms"
    """Kind of norm."""
    norm_eps: float = 2.0**-23
    """Added to the mean square before the root (METHOD D9)."""
    positions: Literal["none"] = "none"
    """Position embeddings."""

    def model_post_init(self, context: object) -> None:  # noqa: ARG002 (pydantic's signature)
        for name in ("vocab_size", "n_layer", "d_model", "n_head", "d_head", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, given {getattr(self, name)}")
        if self.d_mlp is not None and self.d_mlp < 1:
            raise ValueError(f"d_mlp must be at least 1 or null, given {self.d_mlp}")
        if self.afrac is not None and not 0 <= self.afrac <= 1:
            raise ValueError(f"afrac must lie in 0..1 or be null, given {self.afrac}")
        if not 0 < self.norm_eps < math.inf:
            raise ValueError(f"norm_eps must be above 0, given {self.norm_eps}")

    @property
    def d_attn(self) -> int:
        """A, width of q, k, v over all heads."""
        return self.n_head * self.d_head

    @property
    def mlp_width(self) -> int:
        """M with the default resolved."""
        return 4 * self.d_model if self.d_mlp is None else self.d_mlp

    @property
    def widths(self) -> dict[str, int]:
        """Channels at every site."""
        return site_widths(self.n_layer, self.d_model, self.d_attn, self.mlp_width)

    def kept(self, place: AbsTopKSite, width: int) -> int:
        """Entries AbsTopK keeps at a place of that width; the width itself where AbsTopK is off."""
        return width if self.afrac is None or place not in self.afrac_sites else kept_count(self.afrac, width)


class KVCache:
    """Keys and values of the tokens seen so far, one pair per layer: Float[B, H, S, D] after taps and AbsTopK."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Appends this pass's keys and values and returns all of them."""
        if layer in self.layers:
            old_k, old_v = self.layers[layer]
            k, v = torch.cat([old_k, k], 2), torch.cat([old_v, v], 2)
        self.layers[layer] = (k, v)
        return k, v


class Site:
    """Delivers activations of one pass to the tap, under the name of their layer."""

    def __init__(self, tap: Tap | None, prefix: str = "") -> None:
        self.tap, self.prefix = tap, prefix

    def __call__(self, name: str, x: Tensor) -> Tensor:
        site = self.prefix + name
        return self.tap(site, x) if self.tap is not None and self.tap.wants(site) else x

    def wanted(self, name: str) -> bool:
        """Whether anybody listens there."""
        return self.tap is not None and self.tap.wants(self.prefix + name)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * gain."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch width"], site: Site, name: str) -> Float[Tensor, "*batch width"]:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return x * site(name, scale) * self.gain


class Attention(nn.Module):
    """Multi-head causal attention; its result is what the block adds to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        d, width = config.d_model, config.d_attn
        self.config, self.layer = config, layer
        self.norm = RMSNorm(d, config.norm_eps)
        self.c_attn = nn.Linear(d, 3 * width)
        self.c_proj = nn.Linear(width, d)
        self.sink = nn.Parameter(torch.zeros(config.n_head)) if config.sink else None

    def forward(self, x: Float[Tensor, "B T d"], site: Site, cache: KVCache | None) -> Float[Tensor, "B T d"]:
        config = self.config
        u = abs_topk(self.norm(x, site, "attn.norm_scale"), config.kept("attn_in", config.d_model))
        q, k, v = self.c_attn(site("attn.act_in", u)).chunk(3, -1)
        q = site("attn.q", abs_topk(q, config.kept("attn_q", config.d_attn)))
        k = site("attn.k", abs_topk(k, config.kept("attn_k", config.d_attn)))
        v = site("attn.v", abs_topk(v, config.kept("attn_v", config.d_attn)))
        y = site("attn.y", self.attend(self.heads(q), self.heads(k), self.heads(v), site, cache))
        return site("attn.resid_delta", abs_topk(self.c_proj(y), config.kept("attn_out", config.d_model)))

    def heads(self, x: Float[Tensor, "B T A"]) -> Float[Tensor, "B H T D"]:
        """Splits the width into heads."""
        return x.unflatten(-1, (self.config.n_head, self.config.d_head)).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, cache: KVCache | None) -> Float[Tensor, "B T A"]:
        """Attention over heads; the pattern is formed only where somebody asks for it or no fused kernel serves."""
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        whole = q.shape[2] == k.shape[2]  # no earlier tokens in the cache
        if whole and not site.wanted("attn.pattern") and sink_attention.available(q):
            y = sink_attention.sink_attention(q, k, v, self.sink)
        else:
            pattern = site("attn.pattern", attention_pattern(q, k, self.sink))
            y = pattern[..., : k.shape[2]].to(v.dtype) @ v
        return y.transpose(1, 2).flatten(2)


def attention_pattern(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B H S D"], sink: Float[Tensor, " H"] | None
) -> Float[Tensor, "B H T K"]:
    """Causal attention weights, K = S plus one last column for the sink; the last query sees every key."""
    tokens, keys = q.shape[2], k.shape[2]
    scores = q @ k.transpose(-1, -2)
    scores = (scores.float() if scores.dtype.itemsize < 4 else scores) / math.sqrt(q.shape[-1])
    visible = torch.ones(tokens, keys, dtype=torch.bool, device=q.device).tril(keys - tokens)
    scores = scores.masked_fill(~visible, -math.inf)
    if sink is not None:
        scores = torch.cat([scores, sink.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], -1)
    return scores.softmax(-1)


class MLP(nn.Module):
    """One hidden layer; its result is what the block adds to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.c_fc = nn.Linear(config.d_model, config.mlp_width)
        self.c_proj = nn.Linear(config.mlp_width, config.d_model)

    def forward(self, x: Float[Tensor, "B T d"], site: Site) -> Float[Tensor, "B T d"]:
        config = self.config
        w = abs_topk(self.norm(x, site, "mlp.norm_scale"), config.kept("mlp_in", config.d_model))
        h = F.gelu(site("mlp.pre_act", self.c_fc(site("mlp.act_in", w))))
        h = site("mlp.post_act", abs_topk(h, config.kept("mlp_neuron", config.mlp_width)))
        return site("mlp.resid_delta", abs_topk(self.c_proj(h), config.kept("mlp_out", config.d_model)))


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(
        self, x: Float[Tensor, "B T d"], site: Site, cache: KVCache | None, from_mid: bool
    ) -> Float[Tensor, "B T d"]:
        if not from_mid:
            x = site("resid_in", x)
            x = x + self.attn(x, site, cache)
        x = site("resid_mid", x)
        return x + self.mlp(x, site)


class SparseTransformer(nn.Module):
    """The model. `sites` and `widths` name what a tap can reach."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.source: Path | None = None
        """Folder it was loaded from; its reference values and tokenizer lie there."""
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.final_norm = RMSNorm(config.d_model, config.norm_eps)
        self.unembed = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.bigram = nn.Embedding(config.vocab_size, config.vocab_size) if config.bigram else None

    @property
    def widths(self) -> dict[str, int]:
        """Channels at every site, in forward order."""
        return self.config.widths

    def initialize(self, seed: int) -> "SparseTransformer":
        """Draws the starting weights (METHOD 1a, Init) from their own generator and returns self."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name == "bigram.weight":
                    parameter.uniform_(0, 0.02, generator=generator)
                elif parameter.dim() > 1:
                    shrink = math.sqrt(2 * self.config.n_layer) if "c_proj" in name else 1.0
                    parameter.normal_(0, 0.02 / shrink, generator=generator)
                else:
                    parameter.fill_(1.0 if name.endswith("gain") else 0.0)
        return self

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        tap: Tap | None = None,
        start: tuple[str, Float[Tensor, "B T d"]] | None = None,
        *,
        logits_at: Int[Tensor, " B"] | None = None,
        cache: KVCache | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "B T_out V"]:
        """Logits of the next token.

        tap: sees, and may replace, the activation at every site it wants.
        start: (residual site, its activation); the pass is entered there, before the tap of that site.
        logits_at: position per row; logits are then formed there only and T_out = 1.
        cache: keys and values of earlier tokens, extended in place.
        weights: parameters to use instead of the model's own for this pass (METHOD D13), by name.
        Raises ValueError for token ids outside the vocabulary, an unknown start site, and misshapen or unknown inputs.
        """
        if weights is not None:
            self._check_weights(weights)
            keywords = {"tap": tap, "start": start, "logits_at": logits_at, "cache": cache}
            return torch.func.functional_call(self, dict(weights), (tokens,), keywords)
        if logits_at is not None and logits_at.shape != tokens.shape[:1]:
            given, rows = list(logits_at.shape), len(tokens)
            raise ValueError(f"logits_at has shape {given}; allowed: [{rows}], one position per row of tokens")
        first, x = self._enter(tokens, tap, start)
        for layer, block in enumerate(self.blocks):
            if layer >= first[0]:
                x = block(x, Site(tap, f"{layer}."), cache, from_mid=first == (layer, "resid_mid"))
        site = Site(tap)
        x = self.final_norm(site(FINAL_SITE, x), site, "final_norm_scale")
        if logits_at is not None:
            rows = torch.arange(len(tokens), device=tokens.device)
            x, tokens = x[rows, logits_at].unsqueeze(1), tokens[rows, logits_at].unsqueeze(1)
        logits = self.unembed(x)
        return logits if self.bigram is None else logits + self.bigram(tokens)

    def _enter(
        self, tokens: Tensor, tap: Tap | None, start: tuple[str, Tensor] | None
    ) -> tuple[tuple[int, str], Tensor]:
        """Where the pass begins, (layer, residual site), and the residual stream there."""
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.config.vocab_size:
            span, last = f"{int(tokens.min())}..{int(tokens.max())}", self.config.vocab_size - 1
            raise ValueError(f"token ids {span} do not fit the model's vocabulary 0..{last}; check the tokenizer")
        if start is None:
            return (0, "resid_in"), Site(tap)("embed", self.embed(tokens))
        name, x = start
        if name not in start_sites(self.config.n_layer):
            raise ValueError(f"cannot start at {name!r}; allowed: {', '.join(start_sites(self.config.n_layer))}")
        allowed = [*tokens.shape, self.config.d_model]
        if list(x.shape) != allowed:
            raise ValueError(f"start at {name} has shape {list(x.shape)}; allowed: {allowed}")
        layer, place = split_site(name)
        return (self.config.n_layer if layer is None else layer, place), x

    def _check_weights(self, weights: Mapping[str, Tensor]) -> None:
        own = dict(self.named_parameters())
        for name, value in weights.items():
            if name not in own:
                raise ValueError(f"no weight {name!r} in this model; allowed: {', '.join(own)}")
            if value.shape != own[name].shape:
                raise ValueError(f"weight {name} has shape {list(value.shape)}; allowed: {list(own[name].shape)}")
