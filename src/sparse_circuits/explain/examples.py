"""Where a circuit's nodes fire on examples of its task, in the full model and in the circuit.

1. Take a few pairs of one split (reports use test); each pair gives one prompt of class A and one of class B.
2. One pass of the full model and one of the circuit (its mask on), both with a `Record` tap behind the mask.
3. Keep, per kept node, its activation at every token of every prompt; per attention head that has a kept q, k or v, its
   pattern on the first few pairs, the sink as last column; per prompt, the chance of the right completion of the two.

Only computes; `viz` draws. Shapes: N prompts (A and B of a pair adjacent), T tokens of one prompt, H heads.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.circuit.evaluate import circuit_tap, circuit_weights, contrast, usable_tokens
from sparse_circuits.model.taps import Chain, Record, Tap
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import Node, split_site
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.tasks.task import Task

HEAD_SITES = ("attn.q", "attn.k", "attn.v")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One prompt of the task with its two possible completions."""

    pair: int
    """Index of the pair it belongs to."""
    label: int
    """0: class A, 1: class B."""
    tokens: tuple[int, ...]
    right: int
    """Token id of the right completion."""
    wrong: int
    """Token id of the other class's completion."""
    p_model: float
    """Chance of the right completion among the two, full model."""
    p_circuit: float
    """The same in the circuit, uncalibrated."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NodeHeat:
    """Activations of one kept node, one Float[T] per example."""

    node: Node
    model: tuple[Tensor, ...]
    """In the full model."""
    circuit: tuple[Tensor, ...]
    """With everything outside the circuit ablated."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadHeat:
    """Attention of one head, one Float[T, T + sink] per example of the first pairs; a sink is the last column."""

    layer: int
    head: int
    model: tuple[Tensor, ...]
    circuit: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskHeat:
    """Everything recorded on the examples of one task."""

    split: str
    seed: int
    examples: tuple[Example, ...]
    nodes: tuple[NodeHeat, ...]
    """One per node of the circuit, in its order."""
    heads: tuple[HeadHeat, ...]
    sink: bool
    """Whether the patterns end in a sink column."""


def head_of(node: Node, d_head: int) -> int | None:
    """The attention head a q, k or v channel belongs to; None elsewhere."""
    return node.channel // d_head if split_site(node.site)[1] in HEAD_SITES else None


def kept_heads(circuit: Circuit, d_head: int) -> tuple[tuple[int, int], ...]:
    """(layer, head) of every head with a kept q, k or v channel, ascending."""
    pairs = ((split_site(node.site)[0], head_of(node, d_head)) for node in circuit.nodes)
    return tuple(sorted({(layer, head) for layer, head in pairs if layer is not None and head is not None}))


@torch.no_grad()
def task_heat(
    circuit: Circuit,
    model: SparseTransformer,
    task: Task,
    tokenizer: Any,
    *,
    n_pairs: int = 6,
    n_attention_pairs: int = 2,
    split: str = "test",
    seed: int = 0,
) -> TaskHeat:
    """Records the circuit's nodes and heads on a few pairs. Raises ValueError if the circuit has no ablation values."""
    tap = circuit_tap(circuit, model)
    device = next(model.parameters()).device
    pairs = task.pairs(split, n_pairs, tokenizer, seed, usable=usable_tokens(model)).to(device)
    tokens, lengths = pairs.flat_tokens, pairs.lengths.flatten().tolist()
    right, wrong = pairs.completions.flatten().tolist(), pairs.completions.flip(1).flatten().tolist()
    heads = kept_heads(circuit, model.config.d_head)
    sites = {node.site for node in circuit.nodes} | {f"{layer}.attn.pattern" for layer, _ in heads}
    full, p_full = _run(model, pairs, sites, None, {})
    kept, p_kept = _run(model, pairs, sites, tap, circuit_weights(circuit, model))
    examples = tuple(
        Example(
            pair=row // 2,
            label=row % 2,
            tokens=tuple(tokens[row, :length].tolist()),
            right=right[row],
            wrong=wrong[row],
            p_model=p_full[row],
            p_circuit=p_kept[row],
        )
        for row, length in enumerate(lengths)
    )
    few = lengths[: 2 * n_attention_pairs]
    return TaskHeat(
        split=split,
        seed=seed,
        examples=examples,
        nodes=tuple(
            NodeHeat(node=node, model=_channel(full, node, lengths), circuit=_channel(kept, node, lengths))
            for node in circuit.nodes
        ),
        heads=tuple(
            HeadHeat(
                layer=layer, head=head, model=_pattern(full, layer, head, few), circuit=_pattern(kept, layer, head, few)
            )
            for layer, head in heads
        ),
        sink=model.config.sink,
    )


def _run(
    model: SparseTransformer, pairs: Pairs, sites: Iterable[str], tap: Tap | None, weights: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[float]]:
    """Activations at the sites behind the tap, and the chance of the right completion per prompt."""
    seen = Record(frozenset(sites))
    contrasts = contrast(model, pairs, seen if tap is None else Chain(tap, seen), weights)
    return seen.acts, (contrasts * torch.tensor([1, -1], device=contrasts.device)).sigmoid().flatten().tolist()


def _channel(acts: dict[str, Tensor], node: Node, lengths: Sequence[int]) -> tuple[Tensor, ...]:
    x = acts[node.site][..., node.channel].float().cpu()
    return tuple(x[row, :length] for row, length in enumerate(lengths))


def _pattern(acts: dict[str, Tensor], layer: int, head: int, lengths: Sequence[int]) -> tuple[Tensor, ...]:
    """Rows and columns of real tokens only, the sink column kept."""
    x = acts[f"{layer}.attn.pattern"][:, head].float().cpu()
    padded = x.shape[1]
    return tuple(
        torch.cat([x[row, :length, :length], x[row, :length, padded:]], -1) for row, length in enumerate(lengths)
    )
