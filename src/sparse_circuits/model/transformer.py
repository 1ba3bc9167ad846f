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

from sparse_circuits.model.attention import Cache, token_positions
from sparse_circuits.model.block import Block, Context, Norm, Site, at, product
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.taps import Tap
from sparse_circuits.sites import FINAL_SITE, split_site, start_sites


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
        self.logits_bias: Tensor | None
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
        trim: bool = False,
        cache: Cache | None = None,
        attention_mask: Int[Tensor, "B S"] | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "B T_out V"]:
        """Logits of the next token.

        tap: sees, and may replace, the activation at every site it wants.
        start: (residual site, its activation); the pass is entered there, before the tap of that site.
        logits_at: position per row; logits are then formed there only and T_out = 1.
        trim: with logits_at, the last block forms only what those logits need: its sites from q on (k and v aside), and all
        after it, hold that one position. Not with a cache.
        cache: keys and values of earlier tokens, extended in place.
        attention_mask: 1 for tokens, 0 for padding, over cached and given tokens; no token sees padding or counts its place.
        weights: parameters to use instead of the model's own for this pass (METHOD D13), by name.
        Raises ValueError for token ids outside the vocabulary, an unknown start site, more tokens than there are positions,
        and misshapen or unknown inputs.
        """
        given = {"start": start, "logits_at": logits_at, "trim": trim, "cache": cache, "attention_mask": attention_mask}
        if weights is not None:
            self._check_weights(weights)
            return torch.func.functional_call(self, dict(weights), (tokens,), {"tap": tap, **given})
        if logits_at is not None and logits_at.shape != tokens.shape[:1]:
            found, rows = list(logits_at.shape), len(tokens)
            raise ValueError(f"logits_at has shape {found}; allowed: [{rows}], one position per row of tokens")
        if trim and (logits_at is None or cache is not None):
            raise ValueError("trim needs logits_at, and no cache; leave it out")
        self._check_tokens(tokens)
        seen = 0 if cache is None else cache.length
        real = self._real(tokens, attention_mask, seen)
        positions = self._positions(tokens, seen, real)
        context = Context(positions if self.config.positions == "concat" else None, real, cache)
        first, x = self._enter(tokens, positions, tap, start)
        for layer, block in enumerate(self.blocks):
            if layer >= first[0]:
                only = logits_at if trim and layer == len(self.blocks) - 1 else None
                x = block(x, Site(tap, f"{layer}."), context, first == (layer, "resid_mid"), only)
        site = Site(tap)
        if trim and first[0] == len(self.blocks):  # entered behind the last block
            x = at(x, logits_at)
        x = self.final_norm(site(FINAL_SITE, x), site, "final_norm_scale")
        if logits_at is not None:
            x = x if trim else at(x, logits_at)
            tokens = tokens.gather(1, logits_at[:, None])
        logits = product(x, self.unembed.weight, None)
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
