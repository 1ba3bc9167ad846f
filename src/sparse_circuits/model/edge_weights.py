"""The weights between sites: which matrix leads from which site to which (METHOD 1g), as views on the model.

Everything that counts, draws or cuts edges asks here, so nobody outside `model/` walks over its blocks.
"""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from sparse_circuits.model.block import MLP, Attention, Block
from sparse_circuits.model.transformer import SparseTransformer


class SitePair(NamedTuple):
    """One weight matrix between two sites."""

    source: str
    """Site whose channels are the columns. For attn.resid_delta it is attn.v: v[c] reaches it through y[c]."""
    target: str
    """Site whose channels are the rows."""
    weight: Tensor
    """Float[target width, source width], a view."""
    linear: str
    """Name of the layer it belongs to: its parameters are `linear.weight` and, with biases, `linear.bias`."""
    first_row: int
    """Row of that layer's weight at which this matrix begins (q, k and v share one)."""


def site_pairs(model: SparseTransformer) -> tuple[SitePair, ...]:
    """Every matrix between node sites, in forward order."""
    pairs = []
    for layer, (attn, mlp) in enumerate(_sublayers(model)):
        at, block = f"{layer}.", f"blocks.{layer}."
        width = model.config.d_attn
        for place, (name, weight) in enumerate(zip("qkv", attn.c_attn.weight.detach().chunk(3), strict=True)):
            names = (f"{at}attn.act_in", f"{at}attn.{name}")
            pairs.append(SitePair(*names, weight, f"{block}attn.c_attn", place * width))
        for source, target, linear, name in (
            ("attn.v", "attn.resid_delta", attn.c_proj, "attn.c_proj"),
            ("mlp.act_in", "mlp.post_act", mlp.c_fc, "mlp.c_fc"),
            ("mlp.post_act", "mlp.resid_delta", mlp.c_proj, "mlp.c_proj"),
        ):
            pairs.append(SitePair(at + source, at + target, linear.weight.detach(), block + name, 0))
    return tuple(pairs)


def site_biases(model: SparseTransformer) -> dict[str, Tensor]:
    """Site -> Float[width]: the bias added where the site's matrix product is formed; empty for a model without biases."""
    biases = {}
    if not model.config.bias:
        return biases
    for layer, (attn, mlp) in enumerate(_sublayers(model)):
        for name, bias in zip("qkv", attn.c_attn.bias.detach().chunk(3), strict=True):
            biases[f"{layer}.attn.{name}"] = bias
        biases[f"{layer}.attn.resid_delta"] = attn.c_proj.bias.detach()
        biases[f"{layer}.mlp.post_act"] = mlp.c_fc.bias.detach()
        biases[f"{layer}.mlp.resid_delta"] = mlp.c_proj.bias.detach()
    return biases


def _sublayers(model: SparseTransformer) -> Iterator[tuple[Attention, MLP]]:
    for block in model.blocks:
        assert isinstance(block, Block)
        yield block.attn, block.mlp
