"""`viz_data.pt`, the paper's published circuits, as plain typed values: all quirks of the file are met here (RELEASE_FORMAT 4.2).

1. Read the zip without running code. Plain tensors, containers, numbers and strings: all that a published file holds.
2. Nodes from `circuit_data`, put into forward order, with the loss of the circuit when that one node is ablated.
3. The two edge tables: `pair_data` (loss delta when an edge is cut) and `pair_data_connections` (meaning not said).
   The last source of a table may be "bias": a pseudo-node, kept apart.
4. Samples and task samples, for viewing.

Numbers stay as stored. The stored task losses SUM two terms, so half of one is a mean binary cross-entropy in nats; who
halves what is said in published.py. What is absent or ambiguous becomes a note, what contradicts itself a ValueError.

Shapes: T tokens, N documents.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparse_circuits.hub.stored_values import (
    as_integer,
    as_items,
    as_mapping,
    as_node,
    as_number,
    as_parts,
    as_plain,
    as_tensor,
    required,
)
from sparse_circuits.hub.torch_zip import read_torch_zip
from sparse_circuits.sites import NODE_BLOCK_SITES, Node, split_site

BIAS = "bias"


class EdgeValue(NamedTuple):
    """A nonzero entry of an edge table."""

    source: Node
    target: Node
    value: float


class BiasValue(NamedTuple):
    """A nonzero entry of an edge table in the row of the pseudo-node "bias"."""

    target: Node
    value: float


@dataclass(frozen=True, kw_only=True)
class EdgeTable:
    """One edge table, raw."""

    pairs: tuple[tuple[str, str], ...]
    """(source site, target site) of every matrix, in the order of the file."""
    edges: tuple[EdgeValue, ...]
    biases: tuple[BiasValue, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A text on which a node is unusually strong or weak."""

    tokens: Tensor
    """Int[T]"""
    activations: Tensor
    """Float[T], fp32"""
    position: int
    """Token at which it is so."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Texts from the lowest and the highest fraction of a node's activations on pretraining data."""

    fraction: float
    bottom: tuple[Sample, ...]
    top: tuple[Sample, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskSamples:
    """Prompts of the task: the first half of the documents is class 1, the second class 2, i paired with i + N/2."""

    tokens: Tensor
    """Int[N, T], padded on the right with 0."""
    activations: Mapping[Node, Tensor]
    """Node -> Float[N, T], fp32."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Length per document: the first index from which all is 0. A real last token 0 is cut too, as in the release."""
        return tuple(max((i + 1 for i, token in enumerate(row) if token), default=0) for row in self.tokens.tolist())

    @property
    def documents(self) -> tuple[Tensor, ...]:
        """Int[length] per document, without the padding."""
        return tuple(row[:length] for row, length in zip(self.tokens, self.lengths, strict=True))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(document of class 1, its counterpart of class 2)."""
        half = len(self.tokens) // 2
        return tuple((i, i + half) for i in range(half))


@dataclass(frozen=True, kw_only=True, eq=False)
class VizData:
    """The content of a file; losses as stored, twice a mean in nats."""

    nodes: tuple[Node, ...]
    """Kept nodes in forward order."""
    nodes_total: int
    loss: float
    """Of the circuit."""
    model_loss: float
    node_losses: tuple[float, ...]
    """Of the circuit without that node, one per node."""
    layer_losses: Mapping[str, float]
    effects: EdgeTable
    connections: EdgeTable | None
    samples: Mapping[Node, tuple[Bucket, ...]]
    task_samples: TaskSamples | None
    curve: tuple[tuple[int, float], ...]
    """(step, stored loss) while the published circuit was pruned."""
    config: Mapping[str, Any]
    prune_config: Mapping[str, Any] | None
    notes: tuple[str, ...]


def read_viz_data(path: str | Path) -> VizData:
    """Reads a `viz_data.pt`. Raises ValueError, one line with the file and the key, for anything that is none."""
    stored = read_torch_zip(path, verify=True)
    try:
        return _parse(stored)
    except (ValueError, TypeError, LookupError, RuntimeError, OverflowError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path} is not a viz_data.pt of the release: {said}; give the published file") from None


def _parse(stored: Any) -> VizData:
    notes: list[str] = []
    given = as_mapping(stored, "the file")
    kept = dict(as_mapping(required(given, "circuit_data"), "circuit_data"))
    prune_config = given.get("prune_config")
    if "prune_config" in kept:
        misplaced = kept.pop("prune_config")
        prune_config = misplaced if prune_config is None else prune_config
        notes.append("prune_config stood inside circuit_data, where it is no node")
    found = as_mapping(required(given, "importances"), "importances")
    config = as_mapping(required(found, "beeg_model_config", "importances"), "beeg_model_config")
    losses = _node_losses(kept, as_mapping(required(found, "ch_interv_losses", "importances"), "ch_interv_losses"))
    nodes = tuple(sorted(losses, key=place))
    layers = config.get("n_layer")
    beyond = [node for node in nodes if layers is not None and (split_site(node.site)[0] or 0) >= layers]
    if beyond:
        raise ValueError(f"circuit_data keeps {beyond[0]}, but beeg_model_config has {layers} layers")
    optional = {"samples": given, "all_loss": given, "prune_config": {"prune_config": prune_config}}
    optional |= dict.fromkeys(("pair_data_connections", "task_samples", "layer_interv_losses"), found)
    notes += [f"{name} is absent" for name, holder in optional.items() if holder.get(name) is None]
    connections, task = found.get("pair_data_connections"), found.get("task_samples")
    layer_losses = as_mapping(found.get("layer_interv_losses") or {}, "layer_interv_losses")
    return VizData(
        nodes=nodes,
        nodes_total=as_integer(required(given, "num_total_nodes"), "num_total_nodes"),
        loss=as_number(required(found, "interv_loss", "importances"), "interv_loss"),
        model_loss=as_number(required(found, "loss", "importances"), "loss"),
        node_losses=tuple(losses[node] for node in nodes),
        layer_losses={str(name): as_number(x, f"layer_interv_losses[{name}]") for name, x in layer_losses.items()},
        effects=_table(required(found, "pair_data", "importances"), "pair_data", losses),
        connections=None if connections is None else _table(connections, "pair_data_connections", losses),
        samples=_samples(given.get("samples") or {}),
        task_samples=None if task is None else _task_samples(task),
        curve=tuple(_step(entry) for entry in as_items(given.get("all_loss") or (), "all_loss")),
        config=as_plain(config),
        prune_config=None if prune_config is None else as_plain(as_mapping(prune_config, "prune_config")),
        notes=tuple(notes),
    )


def place(node: Node) -> tuple[int, int, int]:
    """Sorts nodes into forward order."""
    layer, kind = split_site(node.site)
    return (sys.maxsize, 0, node.channel) if layer is None else (layer, NODE_BLOCK_SITES.index(kind), node.channel)


def _node_losses(kept: Mapping[str, Any], losses: Mapping[str, Any]) -> dict[Node, float]:
    """Every kept node with the stored loss of the circuit without it."""
    found: dict[Node, float] = {}
    for site, channels in kept.items():
        nodes = [as_node(site, channel, "circuit_data") for channel in as_items(channels, f"circuit_data[{site}]")]
        given = as_items(required(losses, site, "ch_interv_losses") if nodes else (), f"ch_interv_losses[{site}]")
        if len(given) != len(nodes):
            raise ValueError(f"ch_interv_losses[{site}] has {len(given)} losses for {len(nodes)} nodes of circuit_data")
        for node, loss in zip(nodes, given, strict=True):
            if node in found:
                raise ValueError(f"circuit_data keeps {node} twice")
            found[node] = as_number(loss, f"ch_interv_losses[{site}]")
    return found


def _table(stored: Any, where: str, kept: Mapping[Node, Any]) -> EdgeTable:
    """Every entry [W, source ids, target ids, (source site, target site)], listed plainly or per rank."""
    pairs: dict[tuple[str, str], None] = {}
    edges: dict[tuple[Node | str, Node], float] = {}
    for entry in _entries(stored, where):
        matrix, (source, target) = as_tensor(entry[0], where), entry[3]
        pairs[source, target] = None
        rows = [x if isinstance(x, str) and x == BIAS else as_node(source, x, where) for x in as_items(entry[1], where)]
        columns = [as_node(target, x, where) for x in as_items(entry[2], where)]
        if BIAS in rows[:-1]:
            raise ValueError(f"{where} of {source} -> {target} has {BIAS!r} before its last source")
        if rows and columns and tuple(matrix.shape) != (len(rows), len(columns)):
            raise ValueError(
                f"{where} of {source} -> {target} has shape {tuple(matrix.shape)} for {len(rows)} sources "
                f"and {len(columns)} targets"
            )
        for i, j in matrix.nonzero().tolist():
            unknown = {rows[i], columns[j]} - {BIAS, *kept}
            if unknown:
                raise ValueError(f"{where} has an edge at {unknown.pop()}, which circuit_data does not keep")
            value = as_number(matrix[i, j], where)
            if edges.setdefault((rows[i], columns[j]), value) != value:
                raise ValueError(f"{where} gives {rows[i]} -> {columns[j]} two different values")
    plain = ((source, target, value) for (source, target), value in edges.items())
    split = [(EdgeValue(a, b, x) if isinstance(a, Node) else BiasValue(b, x)) for a, b, x in plain]
    return EdgeTable(
        pairs=tuple(pairs),
        edges=tuple(edge for edge in split if isinstance(edge, EdgeValue)),
        biases=tuple(edge for edge in split if isinstance(edge, BiasValue)),
    )


def _entries(stored: Any, where: str, nested: bool = False) -> Iterator[Sequence[Any]]:
    for entry in as_items(stored, where):
        names = entry[-1] if isinstance(entry, (list, tuple)) and len(entry) == 4 else None
        if isinstance(names, (list, tuple)) and len(names) == 2 and all(isinstance(name, str) for name in names):
            yield entry
        elif nested:
            raise ValueError(f"{where} must list [W, source ids, target ids, (source site, target site)]")
        else:
            yield from _entries(entry, where, nested=True)


def _samples(stored: Any) -> dict[Node, tuple[Bucket, ...]]:
    def texts(listed: Any, node: Node) -> tuple[Sample, ...]:
        return tuple(_sample(text, f"samples of {node}") for text in as_items(listed, f"samples of {node}"))

    found: dict[Node, tuple[Bucket, ...]] = {}
    for node, fractions in _channels(stored, "samples"):
        buckets = []
        for fraction, ends in as_mapping(fractions, f"samples of {node}").items():
            bottom, top = as_parts(ends, 2, f"samples of {node}")
            buckets.append(
                Bucket(fraction=as_number(fraction, "samples"), bottom=texts(bottom, node), top=texts(top, node))
            )
        found[node] = tuple(buckets)
    return found


def _sample(stored: Any, where: str) -> Sample:
    text, strengths, position = as_parts(stored, 3, where)
    tokens, activations = _copy(text, torch.long, where).flatten(), _copy(strengths, torch.float32, where).flatten()
    if len(tokens) != len(activations):
        raise ValueError(f"{where} have {len(tokens)} tokens and {len(activations)} activations in one text")
    return Sample(tokens=tokens, activations=activations, position=as_integer(position, where))


def _task_samples(stored: Any) -> TaskSamples:
    documents, channels = as_parts(stored, 2, "task_samples")
    tokens = _copy(documents, torch.long, "task_samples")
    if tokens.dim() != 2 or len(tokens) % 2:
        raise ValueError(
            f"task_samples have shape {tuple(tokens.shape)}; they must be [documents, tokens], half per class"
        )
    found = {
        node: _copy(x, torch.float32, f"task_samples of {node}") for node, x in _channels(channels, "task_samples")
    }
    wrong = [node for node, x in found.items() if x.shape != tokens.shape]
    if wrong:
        raise ValueError(f"task_samples of {wrong[0]} have another shape than their tokens, {tuple(tokens.shape)}")
    return TaskSamples(tokens=tokens, activations=found)


def _channels(stored: Any, where: str) -> Iterator[tuple[Node, Any]]:
    """{site: {channel: x}} -> (node, x); a channel may be a 0-d tensor."""
    seen: set[Node] = set()
    for site, channels in as_mapping(stored, where).items():
        for channel, value in as_mapping(channels, f"{where}[{site}]").items():
            node = as_node(site, channel, where)
            if node in seen:
                raise ValueError(f"{where} hold {node} twice")
            seen.add(node)
            yield node, value


def _copy(value: Any, dtype: torch.dtype, where: str) -> Tensor:
    """In memory of its own: what was read is a view of the file."""
    return as_tensor(value, where).to(dtype, copy=True)


def _step(entry: Any) -> tuple[int, float]:
    step, loss = as_parts(entry, 2, "all_loss")
    return as_integer(step, "all_loss"), as_number(loss, "all_loss")
