"""One block of the model: attention and MLP, what they read, and the sites at which a tap listens.

The equations are at the top of model.transformer. A `Site` hands activations to the tap under their layer's name; a `Context` is
what all blocks of a pass share beside the residual stream.

Shapes: B batch, T tokens, S keys, d d_model, p d_pos_emb, H heads, D d_head, A = H * D, M d_mlp.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparse_circuits.kernels import rms_norm_cpu, sink_attention, sparse_product
from sparse_circuits.model.abs_topk import abs_topk
from sparse_circuits.model.attention import Cache, attention_pattern, causal, up_to
from sparse_circuits.model.config import AbsTopKSite, ModelConfig
from sparse_circuits.model.taps import Mask, Tap

NARROW, NARROW_SPARSE = 0.5, 0.125
"""Share of a site's channels up to which those that a mask keeps are gathered, where the alternative is to multiply all, or all
nonzeros. (Gathering an eighth of them took 0.5 to 0.7 of the time of a sparse product at one nonzero in 32.)"""


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

    def fixed(self, name: str) -> Tensor | None:
        """The activation [w] there, where a mask makes it the same whatever comes in."""
        return self.tap.fixed(self.prefix + name) if isinstance(self.tap, Mask) else None

    def linear(self, name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """weight @ (the activation at the site) + bias. Channels that a mask holds constant are folded into the bias."""
        few = NARROW_SPARSE if sparse_product.form_of(weight, x) is not None else NARROW
        narrow = self.tap.narrow(self.prefix + name, x, few) if isinstance(self.tap, Mask) else None
        if narrow is None:
            return product(self(name, x), weight, bias)
        kept, masked, others = narrow
        constant = weight @ others
        return product(masked, weight.index_select(1, kept), constant if bias is None else constant + bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """weight @ x + bias. Under autocast on a CPU the product alone is in bf16: what comes out has x's dtype again, since
    AbsTopK, attention and norms have their kernels for fp32 there. A frozen sparse weight is multiplied by its nonzeros."""
    form = sparse_product.form_of(weight, x)
    if form is not None:
        return sparse_product.sparse_product(x, form, bias)
    y = F.linear(x, weight, bias)
    return y.to(x.dtype) if y.device.type == "cpu" else y


UNHEARD = Site(None)


class Context:
    """What the blocks of one pass share beside the residual stream."""

    def __init__(
        self,
        positions: Tensor | None = None,
        real: Tensor | None = None,
        cache: Cache | None = None,
    ) -> None:
        self.positions = positions
        """Float[T or B T, p]: concatenated position vectors, raw; every sublayer norms them for itself."""
        self.real = real
        """Bool[B, S]: keys that are no padding; None = all."""
        self.cache = cache

    def at(self, only: Int[Tensor, " B"]) -> "Context":
        """The same for one position per row."""
        if self.positions is None:
            return self
        picked = self.positions[only].unsqueeze(1) if self.positions.dim() == 2 else at(self.positions, only)
        return Context(picked, self.real, self.cache)


def at(x: Float[Tensor, "B T w"], only: Int[Tensor, " B"] | None) -> Float[Tensor, "B T_out w"]:
    """One position per row, T_out = 1; None leaves all."""
    return x if only is None else x[torch.arange(len(x), device=x.device), only].unsqueeze(1)


class Norm(nn.Module):
    """RMSNorm x / sqrt(mean(x^2) + eps) * gain; LayerNorm is the same on x - mean(x), plus a bias if configured."""

    def __init__(self, width: int, config: ModelConfig) -> None:
        super().__init__()
        self.centered, self.eps = config.norm == "layer", config.eps
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if self.centered and config.ln_bias else None

    def forward(self, x: Float[Tensor, "*batch w"], site: Site = UNHEARD, name: str = "") -> Float[Tensor, "*batch w"]:
        if not self.centered and rms_norm_cpu.available(x):
            if not site.wanted(name):
                return rms_norm_cpu.rms_norm(x, self.gain, self.eps)
            return x * site(name, rms_norm_cpu.rms_scale(x, self.eps)) * self.gain
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
        """The normed stream, beside it the normed positions, through AbsTopK (over both together); what act_in is."""
        u = self.norm(x, site, f"{kind}.norm_scale")
        if self.pos_norm is not None and context.positions is not None:
            positions = self.pos_norm(context.positions)
            u = torch.cat([u, positions.expand(*u.shape[:-1], -1)], -1)
        return self.sparse(u, "attn_in" if kind == "attn" else "mlp_in")

    def deliver(self, site: Site, name: str, x: Float[Tensor, "B T w"], place: AbsTopKSite) -> Float[Tensor, "B T w"]:
        """The activation at a site: AbsTopK, then the tap; no AbsTopK where a mask fixes all of it anyway."""
        fixed = site.fixed(name)
        return site(name, self.sparse(x, place)) if fixed is None else fixed.to(x.dtype).expand_as(x)

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

    def forward(
        self, x: Float[Tensor, "B T d"], site: Site, context: Context, only: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B T_out d"]:
        """only: the one position per row whose result is needed; T_out is then 1."""
        u, weight, bias = self.read(x, site, "attn", context), self.c_attn.weight, self.c_attn.bias
        q, k, v = site.linear("attn.act_in", u, weight, bias).chunk(3, -1)
        q = self.deliver(site, "attn.q", at(q, only), "attn_q")
        k = self.deliver(site, "attn.k", k, "attn_k")
        v = self.deliver(site, "attn.v", v, "attn_v")
        y = site("attn.y", self.attend(self.heads(q), self.heads(k), self.heads(v), site, context, only))
        return self.deliver(site, "attn.resid_delta", product(y, self.c_proj.weight, self.c_proj.bias), "attn_out")

    def heads(self, x: Float[Tensor, "B T A"]) -> Float[Tensor, "B H T D"]:
        """Splits the width into heads."""
        return x.unflatten(-1, (self.config.n_head, self.config.d_head)).transpose(1, 2)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, site: Site, context: Context, only: Tensor | None
    ) -> Float[Tensor, "B T_out A"]:
        """Attention over heads; the pattern is formed only where somebody asks for it or no fused kernel serves."""
        if context.cache is not None:
            k, v = context.cache.extend(self.layer, k, v)
        whole = only is None and q.shape[2] == k.shape[2]  # every position asks, none lies in the cache
        if whole and context.real is None and not site.wanted("attn.pattern") and sink_attention.available(q):
            y = sink_attention.sink_attention(q, k, v, self.sink)
        else:
            if only is None:
                visible = causal(q.shape[2], k.shape[2], context.real, q.device)
            else:
                visible = up_to(only, k.shape[2], context.real)
            pattern = site("attn.pattern", attention_pattern(q, k, self.sink, visible))
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
        w = self.read(x, site, "mlp", context)
        h = self.act(site("mlp.pre_act", site.linear("mlp.act_in", w, self.c_fc.weight, self.c_fc.bias)))
        h = site.linear("mlp.post_act", self.sparse(h, "mlp_neuron"), self.c_proj.weight, self.c_proj.bias)
        return self.deliver(site, "mlp.resid_delta", h, "mlp_out")


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.rectified = config.residual_activation == "relu"
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Float[Tensor, "B T d"],
        site: Site,
        context: Context,
        from_mid: bool,
        only: Int[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B T_out d"]:
        """only: the one position per row that is needed after this block; T_out is then 1."""
        if from_mid:
            x = at(x, only)
        else:
            x = site("resid_in", x)
            fixed = site.fixed("attn.resid_delta")
            delta = self.attn(x, site, context, only) if fixed is None else fixed
            x = self.attn.sparse(self.rectify(at(x, only) + delta), "resid_post_attn")
        context = context if only is None else context.at(only)
        x = site("resid_mid", x)
        fixed = site.fixed("mlp.resid_delta")
        delta = self.mlp(x, site, context) if fixed is None else fixed
        return self.mlp.sparse(self.rectify(x + delta), "resid_post_mlp")

    def rectify(self, x: Float[Tensor, "B T d"]) -> Float[Tensor, "B T d"]:
        """The residual stream's own nonlinearity, where the config asks for one."""
        return F.relu(x) if self.rectified else x
