"""A pair of prompts traced through a circuit: the numbers from which a circuit is read.

1. One pass of the circuit on both prompts of a pair (examples.task_heat).
2. Per node, its activation at two places: where the prompts part (the first token in which they differ) and at the last token;
   beside it what the node is ablated to, and the weights by which it writes to the circuit's other nodes.
3. Per head with a kept channel, where the last token looks: the attention to every token, and the sink.

A node that carries the difference is one whose activations differ between the prompts, the rest is constant or detects what both
have; which of the two is what a reading claims, and an intervention has to prove (docs/circuits/).
"""

from dataclasses import asdict, dataclass
from typing import Any

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.circuit.evaluate import EVAL_PAIRS, own_values
from sparse_circuits.data.tokenizer import token_text
from sparse_circuits.explain.examples import HeadHeat, NodeHeat, TaskHeat, task_heat
from sparse_circuits.markdown import markdown_table
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.tasks.task import Task

SHOWN_TOKENS = 3
"""Tokens of an attention row that a page shows, the most attended first."""
Weights = tuple[tuple[str, float | None], ...]
"""Names with weights; None where an imported circuit does not say."""


@dataclass(frozen=True, kw_only=True)
class TracedNode:
    """One node of the circuit on both prompts."""

    node: str
    ablated: float
    """What it is outside the circuit."""
    parting: tuple[float, float]
    """Its activation where the prompts part, after prompt A and prompt B."""
    last: tuple[float, float]
    """The same at the last token."""
    writes: Weights
    """The nodes it has an edge to, with the weights."""
    reads_tokens: Weights
    """Tokens of the two prompts that write to it through the embedding, with the weights."""
    unembeds: Weights
    """Completions whose logits it writes to, with the weights."""


@dataclass(frozen=True, kw_only=True)
class TracedHead:
    """Where the last token looks through one head, on one prompt."""

    head: str
    """Layer and head, e.g. `1.11`."""
    label: int
    """0: prompt A, 1: prompt B."""
    attention: tuple[float, ...]
    """To every token of the prompt."""
    sink: float | None
    """To the sink; None for a model without."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A pair traced through a circuit."""

    task: str
    prompts: tuple[tuple[str, ...], tuple[str, ...]]
    """Both prompts as tokens."""
    completions: tuple[str, str]
    chances: tuple[float, float]
    """Chance of the right completion of the two in the circuit, after prompt A and prompt B."""
    parting: tuple[int, int]
    """Position of the token where the prompts part, in each; the last one where one is the beginning of the other."""
    nodes: tuple[TracedNode, ...]
    heads: tuple[TracedHead, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def trace(
    circuit: Circuit,
    model: SparseTransformer,
    task: Task,
    tokenizer: Any,
    *,
    pair: int = 0,
    split: str = "test",
    seed: int = 0,
) -> Trace:
    """Traces one pair of a split. Raises ValueError for a pair that is not there, or a circuit without ablation values."""
    if not 0 <= pair < EVAL_PAIRS:
        raise ValueError(f"pair must lie in 0..{EVAL_PAIRS - 1}, given {pair}; another seed draws others")
    own_values(circuit)
    heat = task_heat(
        circuit, model, task, tokenizer, n_pairs=pair + 1, n_attention_pairs=pair + 1, split=split, seed=seed
    )
    if len(heat.examples) < 2 * (pair + 1):
        raise ValueError(f"{task.name}, {split} has {len(heat.examples) // 2} pairs; give a pair below that")
    a, b = heat.examples[2 * pair :][:2]
    parting = next(
        (i for i, (x, y) in enumerate(zip(a.tokens, b.tokens, strict=False)) if x != y),
        min(len(a.tokens), len(b.tokens)) - 1,
    )
    here = {*a.tokens, *b.tokens}
    return Trace(
        task=task.name,
        prompts=(_texts(tokenizer, a.tokens), _texts(tokenizer, b.tokens)),
        completions=(token_text(tokenizer, a.right), token_text(tokenizer, b.right)),
        chances=(a.p_circuit, b.p_circuit),
        parting=(parting, parting),
        nodes=tuple(_node(found, circuit, tokenizer, pair, parting, here) for found in heat.nodes),
        heads=tuple(_head(found, heat, pair, label) for found in heat.heads for label in (0, 1)),
    )


def _texts(tokenizer: Any, tokens: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(token_text(tokenizer, token) for token in tokens)


def _node(found: NodeHeat, circuit: Circuit, tokenizer: Any, pair: int, parting: int, here: set[int]) -> TracedNode:
    node, (a, b) = found.node, found.circuit[2 * pair :][:2]
    return TracedNode(
        node=str(node),
        ablated=float(own_values(circuit)[node.site][node.channel]),
        parting=(float(a[parting]), float(b[parting])),
        last=(float(a[-1]), float(b[-1])),
        writes=tuple((str(edge.target), edge.weight) for edge in circuit.edges if edge.source == node),
        reads_tokens=tuple(
            (token_text(tokenizer, edge.token), edge.weight)
            for edge in circuit.edges_embed or ()
            if edge.node == node and edge.token in here
        ),
        unembeds=tuple(
            (token_text(tokenizer, edge.token), edge.weight)
            for edge in circuit.edges_unembed or ()
            if edge.node == node
        ),
    )


def _head(found: HeadHeat, heat: TaskHeat, pair: int, label: int) -> TracedHead:
    row = found.circuit[2 * pair + label][-1].tolist()
    return TracedHead(
        head=f"{found.layer}.{found.head}",
        label=label,
        attention=tuple(row[:-1] if heat.sink else row),
        sink=row[-1] if heat.sink else None,
    )


def trace_page(found: Trace) -> str:
    """The trace as markdown."""
    parts = [f"# {found.task}, traced"]
    for side in (0, 1):
        tokens = " ".join(f"`{text!r}`" for text in found.prompts[side])
        where = found.prompts[side][found.parting[side]]
        parts.append(
            f"Prompt {'AB'[side]}: {tokens} -> `{found.completions[side]!r}` (chance {found.chances[side]:.3f} of the two); the "
            f"prompts part at `{where!r}`."
        )
    rows = [
        (
            node.node,
            f"{node.ablated:.2f}",
            *(f"{value:.2f}" for value in (*node.parting, *node.last)),
            _listed(node.reads_tokens, quoted=True),
            "; ".join(part for part in (_listed(node.writes), _listed(node.unembeds, quoted=True)) if part),
        )
        for node in found.nodes
    ]
    head = ("node", "ablated", "A: parting", "B: parting", "A: last", "B: last", "embedded by", "writes to")
    parts.append(markdown_table(head, rows))
    if found.heads:
        parts.append("Where the last token looks:")
        parts.append(markdown_table(("head", "prompt", "attention", "sink"), [_looks(found, h) for h in found.heads]))
    return "\n\n".join(parts) + "\n"


def _listed(found: Weights, quoted: bool = False) -> str:
    return ", ".join(
        (f"`{name!r}`" if quoted else name) + (" ?" if weight is None else f" {weight:+.2f}") for name, weight in found
    )


def _looks(found: Trace, head: TracedHead) -> tuple[str, ...]:
    most = sorted(range(len(head.attention)), key=lambda i: -head.attention[i])[:SHOWN_TOKENS]
    shown = ", ".join(f"`{found.prompts[head.label][i]!r}` {head.attention[i]:.2f}" for i in most)
    return (head.head, "AB"[head.label], shown, "none" if head.sink is None else f"{head.sink:.2f}")
