"""ModelConfig: every option that decides the function a model computes (METHOD 1a, RELEASE_FORMAT 1.2).

The defaults are the paper's model; the other options are those of the released models. How a released config file is read
into these fields, and written from them, is `hub.released`.
"""

import math
from typing import Literal

from sparse_circuits.config import Config
from sparse_circuits.model.abs_topk import kept_count
from sparse_circuits.sites import site_widths

AbsTopKSite = Literal[
    "attn_in",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_out",
    "resid_post_attn",
    "mlp_in",
    "mlp_neuron",
    "mlp_out",
    "resid_post_mlp",
]
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
"""The eight places of the paper. The two others, `resid_post_attn` and `resid_post_mlp`, act on the residual stream itself."""

NORM_EPS = {"rms": 2.0**-23, "layer": 1e-5}
"""Released models: RMSNorm's default for fp32 and LayerNorm's (METHOD D9, RELEASE_FORMAT 1.8)."""


class ModelConfig(Config):
    """Shapes and options of one model."""

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
    learnable_bigram: bool = True
    """Whether training changes that table; same function either way."""
    logits_bias: bool = False
    """A fixed bias per vocabulary entry added to the logits."""
    tied_unembed: bool = False
    """W_U is the embedding matrix itself."""
    bias: bool = True
    """Biases of c_attn, both c_proj and c_fc, all or none."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm (a gain), or LayerNorm (a gain and, with ln_bias, a bias)."""
    ln_bias: bool = True
    """Biases of LayerNorms; RMSNorm has none."""
    norm_eps: float | None = None
    """Added to the mean square before the root; None = 2^-23 (rms, METHOD D9) or 1e-5 (layer)."""
    activation: Literal["gelu", "relu"] = "gelu"
    """Of the MLP neurons; gelu is the exact one (erf)."""
    residual_activation: Literal["identity", "relu"] = "identity"
    """Applied to the whole residual stream after each of the two additions of a block."""
    positions: Literal["none", "learned", "concat"] = "none"
    """Learned vectors per position: added to the embedding, or normed and set beside what every sublayer reads."""
    d_pos_emb: int | None = None
    """p, width of concatenated positions; needed by them and allowed only there."""
    sinusoidal_positions: bool = False
    """Concatenated positions start as sinusoids and stay fixed in training."""

    def model_post_init(self, context: object) -> None:  # noqa: ARG002 (pydantic's signature)
        for name in ("vocab_size", "n_layer", "d_model", "n_head", "d_head", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, given {getattr(self, name)}")
        if self.d_mlp is not None and self.d_mlp < 1:
            raise ValueError(f"d_mlp must be at least 1 or null, given {self.d_mlp}")
        if self.afrac is not None and not 0 <= self.afrac <= 1:
            raise ValueError(f"afrac must lie in 0..1 or be null, given {self.afrac}")
        if self.norm_eps is not None and not 0 < self.norm_eps < math.inf:
            raise ValueError(f"norm_eps must be above 0 or null, given {self.norm_eps}")
        concat = self.positions == "concat"
        if concat != (self.d_pos_emb is not None) or (self.d_pos_emb is not None and self.d_pos_emb < 1):
            raise ValueError(
                f"positions {self.positions!r} with d_pos_emb {self.d_pos_emb}; allowed: concat with at least 1"
            )
        if self.sinusoidal_positions and not concat:
            raise ValueError(f"sinusoidal_positions is for concatenated positions, given {self.positions!r}")

    @property
    def d_attn(self) -> int:
        """A, width of q, k, v over all heads."""
        return self.n_head * self.d_head

    @property
    def d_read(self) -> int:
        """d, plus p with concatenated positions: the width of what c_attn and c_fc read."""
        return self.d_model + (self.d_pos_emb or 0)

    @property
    def mlp_width(self) -> int:
        """M with the default resolved."""
        return 4 * self.d_model if self.d_mlp is None else self.d_mlp

    @property
    def eps(self) -> float:
        """norm_eps with the default resolved."""
        return NORM_EPS[self.norm] if self.norm_eps is None else self.norm_eps

    @property
    def widths(self) -> dict[str, int]:
        """Channels at every site."""
        return site_widths(self.n_layer, self.d_model, self.d_attn, self.mlp_width, self.d_read)

    def kept(self, place: AbsTopKSite, width: int) -> int:
        """Entries AbsTopK keeps at a place of that width; the width itself where AbsTopK is off."""
        return width if self.afrac is None or place not in self.afrac_sites else kept_count(self.afrac, width)
