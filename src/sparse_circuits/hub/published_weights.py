"""What the edge tables of a published circuit say, against the weights of its model.

A table lists edges by what cutting them costs; the model has weights. An edge without weight cannot matter, and one with
weight may cost nothing: both are worth knowing, so both are listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparse_circuits.hub.published_parts import bias_rows, edge_rows, read_biases, read_edges
from sparse_circuits.hub.viz_data import BiasValue, EdgeTable, EdgeValue
from sparse_circuits.sites import Edge, Node


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Where a file and the weights of its model differ."""

    zero_weight: tuple[EdgeValue, ...]
    """Published edges whose weight in the model is 0."""
    unlisted: tuple[Edge, ...]
    """Nonzero weights between kept nodes to which the file gives no effect."""
    zero_bias: tuple[BiasValue, ...]
    """Published bias edges whose bias in the model is 0."""
    unlisted_bias: tuple[Node, ...]
    """Kept nodes with a nonzero bias to which the file gives no effect."""
    connections_off: float | None
    """Largest |value - weight| over `connections`, which the release does not explain; None: it has none."""


def compare(
    effects: EdgeTable, connections: EdgeTable | None, edges: tuple[Edge, ...], biased: tuple[Node, ...]
) -> Comparison:
    """The tables of a file against the model's edges between kept nodes and the kept nodes with a nonzero bias."""
    weights = {(edge.source, edge.target): edge.weight or 0.0 for edge in edges}
    listed = {(edge.source, edge.target) for edge in effects.edges}
    listed_bias = {edge.target for edge in effects.biases}
    off = None
    if connections is not None:
        values = {(edge.source, edge.target): edge.value for edge in connections.edges}
        covered = {key for key in weights if (key[0].site, key[1].site) in connections.pairs} | values.keys()
        off = max((abs(values.get(key, 0.0) - weights.get(key, 0.0)) for key in covered), default=0.0)
    return Comparison(
        zero_weight=tuple(edge for edge in effects.edges if (edge.source, edge.target) not in weights),
        unlisted=tuple(edge for edge in edges if (edge.source, edge.target) not in listed),
        zero_bias=tuple(edge for edge in effects.biases if edge.target not in biased),
        unlisted_bias=tuple(node for node in biased if node not in listed_bias),
        connections_off=off,
    )


def comparison_values(compared: Comparison) -> dict[str, Any]:
    """Plain JSON values."""
    return {
        "zero_weight": edge_rows(compared.zero_weight),
        "unlisted": [[str(edge.source), str(edge.target), edge.weight] for edge in compared.unlisted],
        "zero_bias": bias_rows(compared.zero_bias),
        "unlisted_bias": [str(node) for node in compared.unlisted_bias],
        "connections_off": compared.connections_off,
    }


def read_comparison(stored: Mapping[str, Any]) -> Comparison:
    """The way back of `comparison_values`."""
    return Comparison(
        zero_weight=read_edges(stored["zero_weight"]),
        unlisted=tuple(Edge(Node.parse(a), Node.parse(b), weight) for a, b, weight in stored["unlisted"]),
        zero_bias=read_biases(stored["zero_bias"]),
        unlisted_bias=tuple(Node.parse(name) for name in stored["unlisted_bias"]),
        connections_off=stored["connections_off"],
    )
