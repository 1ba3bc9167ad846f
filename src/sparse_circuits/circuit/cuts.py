"""Cutting edges (METHOD D13): what a cut edge sends is what its source is ablated to.

Cutting j -> i replaces w * x_j by w * mu_j: w becomes 0 and bias_i grows by w * mu_j. The model is never edited: a pass gets the
changed parameters as `model(..., weights=cut_weights(...))`. Value channels reach `attn.resid_delta` through attention, so mu is
that of `attn.y` there.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sparse_circuits.model.edge_weights import SitePair, site_pairs
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import Edge


def cut_weights(model: SparseTransformer, edges: Iterable[Edge], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameter name -> the parameter with these edges cut; empty for no edges.

    values: ablation value of every channel, site -> Float[width], `attn.y` included where an edge leaves `attn.v`.
    Raises ValueError for a model without biases, an edge the model does not have, or a value that is missing.
    """
    pairs = {(pair.source, pair.target): pair for pair in site_pairs(model)}
    own = dict(model.named_parameters())
    changed: dict[str, Tensor] = {}

    def parameter(name: str) -> Tensor:
        if name not in own:
            raise ValueError(
                f"an edge is cut by changing a bias, and this model has no {name}; give a model with biases"
            )
        return changed.setdefault(name, own[name].detach().clone())

    with torch.no_grad():
        for edge in edges:
            pair = _pair(pairs, edge)
            row, column = pair.first_row + edge.target.channel, edge.source.channel
            weight, bias = parameter(f"{pair.linear}.weight"), parameter(f"{pair.linear}.bias")
            bias[row] += weight[row, column] * sent_when_cut(edge, values)
            weight[row, column] = 0
    return changed


def sent_when_cut(edge: Edge, values: Mapping[str, Tensor]) -> Tensor:
    """mu: what the source of a cut edge is taken to send. Raises ValueError where it is not known."""
    site = edge.source.site.removesuffix("v") + "y" if edge.source.site.endswith("attn.v") else edge.source.site
    if site not in values:
        raise ValueError(
            f"no ablation value of {site}, which the cut edge {edge.source} -> {edge.target} needs; prune again"
        )
    return values[site][edge.source.channel]


def _pair(pairs: Mapping[tuple[str, str], SitePair], edge: Edge) -> SitePair:
    pair = pairs.get((edge.source.site, edge.target.site))
    rows, columns = (0, 0) if pair is None else pair.weight.shape
    if pair is None or not (edge.target.channel < rows and edge.source.channel < columns):
        raise ValueError(
            f"this model has no weight {edge.source} -> {edge.target}; give the model the circuit was made on"
        )
    return pair
