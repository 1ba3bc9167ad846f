"""The parts of a published circuit as JSON values and tensors, and back: what published.py writes into its folder.

Texts are many and short, so all of them lie end to end in two tensors; the JSON says how long each one is.

Shapes: T tokens, N documents, S tokens of all samples together, K nodes with task samples.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sparse_circuits.hub.viz_data import BiasValue, Bucket, EdgeTable, EdgeValue, Sample, TaskSamples
from sparse_circuits.sites import Node

Rows = list[list[Any]]


def table_values(table: EdgeTable) -> dict[str, Any]:
    """`pairs`, `edges` as [source, target, value], `biases` as [target, value]."""
    return {
        "pairs": [list(pair) for pair in table.pairs],
        "edges": edge_rows(table.edges),
        "biases": bias_rows(table.biases),
    }


def read_table(stored: Mapping[str, Any]) -> EdgeTable:
    """The way back of `table_values`."""
    return EdgeTable(
        pairs=tuple((source, target) for source, target in stored["pairs"]),
        edges=read_edges(stored["edges"]),
        biases=read_biases(stored["biases"]),
    )


def edge_rows(edges: tuple[EdgeValue, ...]) -> Rows:
    """[source, target, value] per edge."""
    return [[str(edge.source), str(edge.target), edge.value] for edge in edges]


def read_edges(rows: Rows) -> tuple[EdgeValue, ...]:
    """The way back of `edge_rows`."""
    return tuple(EdgeValue(Node.parse(source), Node.parse(target), float(value)) for source, target, value in rows)


def bias_rows(biases: tuple[BiasValue, ...]) -> Rows:
    """[target, value] per bias edge."""
    return [[str(edge.target), edge.value] for edge in biases]


def read_biases(rows: Rows) -> tuple[BiasValue, ...]:
    """The way back of `bias_rows`."""
    return tuple(BiasValue(Node.parse(target), float(value)) for target, value in rows)


def pack_samples(samples: Mapping[Node, tuple[Bucket, ...]]) -> tuple[Rows, dict[str, Tensor]]:
    """[node, [[fraction, bottom, top], ...]] with [length, position] per text, and the texts end to end: Int[S], Float[S]."""

    def places(texts: tuple[Sample, ...]) -> Rows:
        return [[len(text.tokens), text.position] for text in texts]

    rows: Rows = [
        [str(node), [[bucket.fraction, places(bucket.bottom), places(bucket.top)] for bucket in buckets]]
        for node, buckets in samples.items()
    ]
    texts = [text for buckets in samples.values() for bucket in buckets for text in (*bucket.bottom, *bucket.top)]
    tokens = [torch.empty(0, dtype=torch.long), *(text.tokens for text in texts)]
    activations = [torch.empty(0), *(text.activations for text in texts)]
    return rows, {"samples.tokens": torch.cat(tokens), "samples.activations": torch.cat(activations)}


def unpack_samples(rows: Rows, tensors: Mapping[str, Tensor]) -> dict[Node, tuple[Bucket, ...]]:
    """The way back of `pack_samples`. Raises ValueError if the texts have another length than the rows say."""
    lengths = [length for _, buckets in rows for _, *ends in buckets for end in ends for length, _ in end]
    tokens, activations = tensors["samples.tokens"], tensors["samples.activations"]
    if not len(tokens) == len(activations) == sum(lengths):
        raise ValueError(f"{len(tokens)} tokens and {len(activations)} activations of samples, not {sum(lengths)}")
    texts = zip(tokens.split(lengths), activations.split(lengths), strict=True) if lengths else iter(())

    def take(places: Rows) -> Iterator[Sample]:
        for _, position in places:
            text, strengths = next(texts)
            yield Sample(tokens=text, activations=strengths, position=int(position))

    return {
        Node.parse(name): tuple(
            Bucket(fraction=float(fraction), bottom=tuple(take(bottom)), top=tuple(take(top)))
            for fraction, bottom, top in buckets
        )
        for name, buckets in rows
    }


def pack_task_samples(samples: TaskSamples) -> tuple[list[str], dict[str, Tensor]]:
    """Node names, and `task.tokens` Int[N, T], `task.activations` Float[K, N, T]."""
    held = [*samples.activations.values()]
    activations = torch.stack(held) if held else torch.empty(0, *samples.tokens.shape)
    return [str(node) for node in samples.activations], {"task.tokens": samples.tokens, "task.activations": activations}


def unpack_task_samples(names: list[str], tensors: Mapping[str, Tensor]) -> TaskSamples:
    """The way back of `pack_task_samples`. Raises ValueError if there is not one activation per node and token."""
    tokens, activations = tensors["task.tokens"], tensors["task.activations"]
    if tuple(activations.shape) != (len(names), *tokens.shape):
        raise ValueError(
            f"task activations of shape {tuple(activations.shape)} for {len(names)} nodes, tokens {tuple(tokens.shape)}"
        )
    return TaskSamples(
        tokens=tokens, activations={Node.parse(name): x for name, x in zip(names, activations, strict=True)}
    )
