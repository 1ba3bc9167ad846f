"""The model: a pre-norm GPT-2-style transformer with sparse activations, one forward pass, and a tap at every site.

Per layer (METHOD 1a, RELEASE_FORMAT 1.5), K_s = AbsTopK at site s, p_t the position's vector:
    u = K(norm(x; g1))  [concat: beside norm(p_t), before K]
    q, k, v = K(W_q u + b_q), K(W_k u + b_k), K(W_v u + b_v)
    y = causal softmax attention with a sink logit per head, scale 1/sqrt(d_head)
    x = K(relu?(x + K(W_o y + b_o)))
    w = K(norm(x; g2))  [concat: the same]       h = K(gelu or relu(W_1 w + b_1))       x = K(relu?(x + K(W_2 h + b_2)))
from x = E[token] (+ p_t, learned), to logits = W_U norm(x; g_f) + c + B[token], B the bigram table. The paper's model has
no positions and none of the options in question marks. Every analysis is a tap on this pass.

Shapes: B batch, T tokens, S keys, d d_model, p d_pos_emb, H heads, D d_head, A = H * D, M d_mlp, V vocabulary.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparse_circuits.kernels import sink_attention
from sparse_circuits.model.abs_topk import abs_topk
from sparse_circuits.model.attention import Cache, attention_pattern, token_positions
from sparse_circuits.model.config import AbsTopKSite, ModelConfig
from sparse_circuits.model.taps import Tap
from sparse_circuits.sites import FINAL_SITE, split_site, start_sites


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


UNHEARD = Site(None)


class Context:
    """What the blocks of one pass share beside the residual stream."""

    def __init__(self, positions: Tensor | None = None, real: Tensor | None = None, cache: Cache | None = None) -> None:
        self.positions = positions
        """Float[T or B T, p]: concatenated position vectors, raw; every sublayer norms them for itself."""
        self.real = real
        """Bool[B, S]: keys that are no padding; None = all."""
        self.cache = cache


class Norm(nn.Module):
    """RMSNorm x / sqrt(mean(x^2) + eps) * gain; LayerNorm is the same on x - mean(x), plus a bias if configured."""

    def __init__(self, width: int, config: ModelConfig) -> None:
        super().__init__()
        self.centered, self.eps = config.norm == "layer", config.eps
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if self.centered and config.ln_bias else None

    def forward(self, x: Float[Tensor, "*batch w"], site: Site = UNHEARD, name: str = "") -> Float[Tensor, "*batch w"]:
        wide = x.float() if x.dtype.itemsize < 4 else x
        wide = wide - wide.mean(-1, keepdim=True) if self.centered else wide
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        x = (wide * site(name, scale)).to(x.dtype) * self.gain
        return x if self.bias is None else x + self.bias


class Sublayer(nn.Module):
    """What attention and MLP share: how they read the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = Norm(config.d_model, config)
        self.pos_norm = None if config.d_pos_emb is None else Norm(config.d_pos_emb, config)

    def read(self, x: Float[Tensor, "B T d"], site: Site, kind: str, context: Context) -> Float[Tensor, "B T d_read"]:
        """The normed stream, beside it the normed positions, through AbsTopK (over both together)."""
        u = self.norm(x, site, f"{kind}.norm_scale")
        if self.pos_norm is not None and context.positions is not None:
            positions = self.pos_norm(context.positions)
            u = torch.cat([u, positions.expand(*u.shape[:-1], -1)], -1)
        return site(f"{kind}.act_in", self.sparse(u, "attn_in" if kind == "attn" else "mlp_in"))

    def sparse(self, x: Float[Tensor, "B T w"], place: AbsTopKSite) -> Float[Tensor, "B T w"]:
        """AbsTopK as configured for this place."""
        return abs_topk(x, self.config.kept(place, x.shape[-1]))


class Attention(Sublayer):
    """Multi-head causal attention; its result is what the block adds to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config)
        self.layer = layer
        self.c_attn = nn.Linear(config.d_read, 3 * config.d_attn, bias=config.bias)
        self.c_proj = nn.Linear(config.d_attn, config.d_model, bias=config.bias)
        self.sink = nn.Parameter(torch.zeros(config.n_head)) if config.sink else None

    def forward(self, x: Float[Tensor, "B T d"], site: Site, context: Context) -> Float[Tensor, "B T d"]:
        q, k, v = self.c_attn(self.read(x, site, "attn", context)).chunk(3, -1)
        q = site("attn.q", self.sparse(q, "attn_q"))
        k = site("attn.k", self.sparse(k, "attn_k"))
        v = site("attn.v", self.sparse(v, "attn_v"))
        y = site("attn.y", self.attend(self.heads(q), self.heads(k), self.heads(v), site, context))
        return site("attn.resid_delta", self.sparse(self.c_proj(y), "attn_out"))

    def heads(self, x: Float[Tensor, "B T A"]) -> Float[Tensor, "B H T D"]:
        """Splits the width into heads."""
        return x.unflatten(-1, (self.config.n_head, self.config.d_head)).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, context: Context) -> Float[Tensor, "B T A"]:
        """Attention over heads; the pattern is formed only where somebody asks for it or no fused kernel serves."""
        if context.cache is not None:
            k, v = context.cache.extend(self.layer, k, v)
        plain = q.shape[2] == k.shape[2] and context.real is None  # no earlier tokens in the cache, no padding
        if plain and not site.wanted("attn.pattern") and sink_attention.available(q):
            y = sink_attention.sink_attention(q, k, v, self.sink)
        else:
            pattern = site("attn.pattern", attention_pattern(q, k, self.sink, context.real))
            y = pattern[..., : k.shape[2]].to(v.dtype) @ v
        return y.transpose(1, 2).flatten(2)


class MLP(Sublayer):
    """One hidden layer; its result is what the block adds to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.act = F.gelu if config.activation == "gelu" else F.relu
        self.c_fc = nn.Linear(config.d_read, config.mlp_width, bias=config.bias)
        self.c_proj = nn.Linear(config.mlp_width, config.d_model, bias=config.bias)

    def forward(self, x: Float[Tensor, "B T d"], site: Site, context: Context) -> Float[Tensor, "B T d"]:
        h = self.act(site("mlp.pre_act", self.c_fc(self.read(x, site, "mlp", context))))
        h = site("mlp.post_act", self.sparse(h, "mlp_neuron"))
        return site("mlp.resid_delta", self.sparse(self.c_proj(h), "mlp_out"))


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.rectified = config.residual_activation == "relu"
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(
        self, x: Float[Tensor, "B T d"], site: Site, context: Context, from_mid: bool
    ) -> Float[Tensor, "B T d"]:
        if not from_mid:
            x = site("resid_in", x)
            x = self.attn.sparse(self.rectify(x + self.attn(x, site, context)), "resid_post_attn")
        x = site("resid_mid", x)
        return self.mlp.sparse(self.rectify(x + self.mlp(x, site, context)), "resid_post_mlp")

    def rectify(self, x: Float[Tensor, "B T d"]) -> Float[Tensor, "B T d"]:
        """The residual stream's own nonlinearity, where the config asks for one."""
        return F.relu(x) if self.rectified else x


class SparseTransformer(nn.Module):
    """The model. `sites` and `widths` name what a tap can reach."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.source: Path | None = None
        """Folder it was loaded from; its reference values and tokenizer lie there."""
        self.released: Mapping[str, Any] | None = None
        """The config file of the released layout it came from, word for word; kept for export (RELEASE_FORMAT 1.2)."""
        vocabulary, d = config.vocab_size, config.d_model
        self.embed = nn.Embedding(vocabulary, d)
        self.positions = None
        if config.positions != "none":
            self.positions = nn.Embedding(config.block_size, config.d_pos_emb or d)
            self.positions.requires_grad_(not config.sinusoidal_positions)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.final_norm = Norm(d, config)
        self.unembed = nn.Linear(d, vocabulary, bias=False)
        if config.tied_unembed:
            self.unembed.weight = self.embed.weight
        self.register_buffer("logits_bias", torch.zeros(vocabulary) if config.logits_bias else None)
        self.bigram = None
        if config.bigram:
            self.bigram = nn.Embedding(vocabulary, vocabulary).requires_grad_(config.learnable_bigram)

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
                    parameter.uniform_(0, 0.02 if self.config.learnable_bigram else 0.0, generator=generator)
                elif name == "positions.weight" and self.config.sinusoidal_positions:
                    parameter.copy_(sinusoids(*parameter.shape))
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
        cache: Cache | None = None,
        attention_mask: Int[Tensor, "B S"] | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "B T_out V"]:
        """Logits of the next token.

        tap: sees, and may replace, the activation at every site it wants.
        start: (residual site, its activation); the pass is entered there, before the tap of that site.
        logits_at: position per row; logits are then formed there only and T_out = 1.
        cache: keys and values of earlier tokens, extended in place.
        attention_mask: 1 for tokens, 0 for padding, over cached and given tokens; no token sees padding or counts its place.
        weights: parameters to use instead of the model's own for this pass (METHOD D13), by name.
        Raises ValueError for token ids outside the vocabulary, an unknown start site, more tokens than there are positions,
        and misshapen or unknown inputs.
        """
        given = {"start": start, "logits_at": logits_at, "cache": cache, "attention_mask": attention_mask}
        if weights is not None:
            self._check_weights(weights)
            return torch.func.functional_call(self, dict(weights), (tokens,), {"tap": tap, **given})
        if logits_at is not None and logits_at.shape != tokens.shape[:1]:
            found, rows = list(logits_at.shape), len(tokens)
            raise ValueError(f"logits_at has shape {found}; allowed: [{rows}], one position per row of tokens")
        self._check_tokens(tokens)
        seen = 0 if cache is None else cache.length
        real = self._real(tokens, attention_mask, seen)
        positions = self._positions(tokens, seen, real)
        context = Context(positions if self.config.positions == "concat" else None, real, cache)
        first, x = self._enter(tokens, positions, tap, start)
        for layer, block in enumerate(self.blocks):
            if layer >= first[0]:
                x = block(x, Site(tap, f"{layer}."), context, from_mid=first == (layer, "resid_mid"))
        site = Site(tap)
        x = self.final_norm(site(FINAL_SITE, x), site, "final_norm_scale")
        if logits_at is not None:
            rows = torch.arange(len(tokens), device=tokens.device)
            x, tokens = x[rows, logits_at].unsqueeze(1), tokens[rows, logits_at].unsqueeze(1)
        logits = self.unembed(x)
        logits = logits if self.logits_bias is None else logits + self.logits_bias
        if self.bigram is None and not site.wanted("bigram"):
            return logits
        return logits + site("bigram", torch.zeros_like(logits) if self.bigram is None else self.bigram(tokens))

    def _enter(
        self, tokens: Tensor, positions: Tensor | None, tap: Tap | None, start: tuple[str, Tensor] | None
    ) -> tuple[tuple[int, str], Tensor]:
        """Where the pass begins, (layer, residual site), and the residual stream there."""
        if start is None:
            x = Site(tap)("embed", self.embed(tokens))
            return (0, "resid_in"), x + positions if self.config.positions == "learned" and positions is not None else x
        name, x = start
        if name not in start_sites(self.config.n_layer):
            raise ValueError(f"cannot start at {name!r}; allowed: {', '.join(start_sites(self.config.n_layer))}")
        allowed = [*tokens.shape, self.config.d_model]
        if list(x.shape) != allowed:
            raise ValueError(f"start at {name} has shape {list(x.shape)}; allowed: {allowed}")
        layer, place = split_site(name)
        return (self.config.n_layer if layer is None else layer, place), x

    def _check_tokens(self, tokens: Tensor) -> None:
        if torch.compiler.is_compiling() or not tokens.numel():
            return
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < self.config.vocab_size:
            span, last = f"{int(tokens.min())}..{int(tokens.max())}", self.config.vocab_size - 1
            raise ValueError(f"token ids {span} do not fit the model's vocabulary 0..{last}; check the tokenizer")

    def _real(self, tokens: Tensor, attention_mask: Tensor | None, seen: int) -> Tensor | None:
        """Which keys are tokens, Bool[B, S]; None where all are."""
        if attention_mask is None:
            return None
        allowed = [len(tokens), seen + tokens.shape[1]]
        if list(attention_mask.shape) != allowed:
            raise ValueError(
                f"attention_mask has shape {list(attention_mask.shape)}; allowed: {allowed}, cached tokens included"
            )
        real = attention_mask.bool()
        return real if torch.compiler.is_compiling() or not bool(real.all()) else None

    def _positions(self, tokens: Tensor, seen: int, real: Tensor | None) -> Tensor | None:
        """Vectors of the tokens' positions, Float[T or B T, d or p]; None for a model without."""
        if self.positions is None:
            return None
        length, allowed = seen + tokens.shape[1], self.config.block_size
        if length > allowed:
            raise ValueError(f"{length} tokens are more than this model has positions for; allowed: up to {allowed}")
        return self.positions(token_positions(tokens, seen, real))

    def _check_weights(self, weights: Mapping[str, Tensor]) -> None:
        own = dict(self.named_parameters())
        for name, value in weights.items():
            if name not in own:
                raise ValueError(f"no weight {name!r} in this model; allowed: {', '.join(own)}")
            if value.shape != own[name].shape:
                raise ValueError(f"weight {name} has shape {list(value.shape)}; allowed: {list(own[name].shape)}")


def sinusoids(length: int, width: int) -> Float[Tensor, "length width"]:
    """Starting values of concatenated positions: [sin | cos] of periods log-spaced from 4 to `length` (RELEASE_FORMAT 1.8)."""
    half = max(1, width // 2)
    periods = torch.logspace(math.log10(4), math.log10(max(4, length)), half, dtype=torch.float64)
    angles = 2 * math.pi * torch.arange(length, dtype=torch.float64)[:, None] / periods
    waves = torch.cat([angles.sin(), angles.cos()], -1)[:, :width]
    return F.pad(waves, (0, width - waves.shape[1])).float()
