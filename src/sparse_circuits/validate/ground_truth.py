"""Models whose circuit is known because it was written by hand: the known-answer test of pruning.

1. An algorithm is compiled into an empty transformer and hidden among distractors (compiler.py); the compiler remembers
   every node and edge it wrote. `begin_model` starts that for a task, `finish_model` ends it.
2. `check_truth` then measures that what was remembered is the truth. A circuit is a set of nodes that solves the task
   when all others are ablated (to their means on a made-up stream of text), and that needs each of its nodes.
3. Most models have one. Where two paths do the same, each with what they share is a circuit, no node of either path alone
   is necessary, and to break the model one must break both: then the truth is all of them, and is not unique.
4. A node the model needs need not be part of a circuit: where two cancel each other, ablating one leaves the other's noise,
   while the task is solved without both. Such `cancelling` nodes are no part of the truth; they are checked beside it.

`quote_model`, the first of them, closes a string with the quote that opened it. An opening quote writes one of two channels;
a neuron detects either, another tells which; a head of constant query finds the detected token and copies its kind to the
end of the prompt. 12 nodes, 9 edges. Its margins are small and its attention soft on purpose: where a loss vanishes, so does
the gradient that holds true nodes against the price, and two that fall at once in a chain block each other's return. The
others are in known_models.py.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor

from sparse_circuits.circuit.ablation import Reference, reference_sites
from sparse_circuits.circuit.edges import find_edges
from sparse_circuits.circuit.mask_scorer import MaskScorer
from sparse_circuits.data.tokenizer import encode, end_id, train_tokenizer, vocab_size
from sparse_circuits.files import json_hash
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.folder import model_hash
from sparse_circuits.model.taps import Record
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.mask import NodeLayout
from sparse_circuits.sites import Edge, Node
from sparse_circuits.tasks.pairs import Pair, Pairs
from sparse_circuits.tasks.task import SPLITS, Task, Template
from sparse_circuits.validate.compiler import CompiledCircuit, Compiler

TARGET = 0.01
"""Task loss, nats, that model and circuit stay below, and that ablating any one true node exceeds."""
SOLVE_PAIRS, ABLATE_PAIRS = 64, 3
"""Pairs per split on which model and circuit are scored whole, and validation pairs with nodes ablated unless told otherwise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroundTruth:
    """A model, a task, and the circuit of the model for that task, or all of them where there are several."""

    model: SparseTransformer
    task: Task
    tokenizer: Any
    reference: Reference
    """Ablation values, measured on a made-up stream of text."""
    nodes: tuple[Node, ...]
    """The circuit's nodes, in forward order."""
    edges: tuple[Edge, ...]
    """The circuit's edges, as METHOD D5 counts them."""
    description: str
    """What the circuit computes, for people."""
    alternatives: tuple[CompiledCircuit, ...] = ()
    """The other circuits, each of which solves the task as well."""
    cancelling: tuple[Node, ...] = ()
    """Nodes that the model needs one by one and does not need together; in no circuit."""

    @property
    def unique(self) -> bool:
        """Whether there is one circuit only."""
        return not self.alternatives

    @property
    def circuits(self) -> tuple[CompiledCircuit, ...]:
        """All circuits; `nodes` and `edges` are those of the first."""
        return (CompiledCircuit(nodes=self.nodes, edges=self.edges), *self.alternatives)


def check_truth(truth: GroundTruth, target: float = TARGET, ablate_pairs: int = ABLATE_PAIRS) -> None:
    """Measures that the circuits are what they claim to be. Raises ValueError naming what is not true.

    1. Model and circuits lose less than `target` on every split; the rest is measured on validation pairs. 2. Each circuit
    needs each of its nodes: ablating it lifts the loss above `target`. 3. The model needs, one by one, the nodes that all
    circuits share and the cancelling ones, and no others. 4. It does without the cancelling ones together, but not without
    a node of every circuit: so no other set can be a circuit unless ablating more helps. 5. The edges are those compiled,
    and every node lies on a path (METHOD D5).
    """
    layout = NodeLayout.of(truth.model.widths)
    pairs = {split: truth.task.pairs(split, SOLVE_PAIRS, truth.tokenizer) for split in SPLITS}
    score = MaskScorer(model=truth.model, layout=layout, values=truth.reference.values, pairs=pairs["val"])
    own = [layout.flat(circuit.nodes) for circuit in truth.circuits]
    whole = torch.ones(layout.size)
    for split, drawn in pairs.items():
        for name, mask in (("model", whole), *(("circuit", mask) for mask in own)):
            loss = float(replace(score, pairs=drawn).losses(mask[None]).mean())
            if not loss < target:
                raise ValueError(
                    f"the {name} loses {loss:.4f} nats on {split}, not below {target}: compile it stronger"
                )
    few = replace(score, pairs=score.pairs.take(range(min(ablate_pairs, score.pairs.n))))
    needed = (reduce(torch.mul, own) + layout.flat(truth.cancelling)).clamp(max=1)
    for name, mask, claimed in (("model", whole, needed), *(("circuit", mask, mask) for mask in own)):
        _check_needed(few, name, mask, claimed, target)
    if truth.cancelling and not float(score.losses((whole - layout.flat(truth.cancelling))[None]).mean()) < target:
        raise ValueError(f"{_names(truth.cancelling)}: the model needs them together too, so they do not cancel")
    if not truth.unique:
        _check_nothing_else(few, truth.circuits, target)
    for circuit in truth.circuits:
        _check_edges(truth.model, circuit, pairs["val"])


def _check_needed(score: MaskScorer, name: str, whole: Tensor, claimed: Tensor, target: float) -> None:
    """The nodes of `whole` that cannot go alone are the claimed ones."""
    inside = whole.nonzero().flatten()
    necessary = torch.zeros_like(whole)
    necessary[inside] = (score.losses((whole - torch.eye(len(whole)))[inside]).mean(-1) > target).float()
    if not torch.equal(necessary, claimed):
        extra, idle = (score.layout.nodes(part.clamp(min=0)) for part in (necessary - claimed, claimed - necessary))
        raise ValueError(f"true nodes the {name} does not need: {_names(idle)}; others it needs: {_names(extra)}")


def _check_nothing_else(score: MaskScorer, circuits: Sequence[CompiledCircuit], target: float) -> None:
    """The model fails without one node of each circuit, whichever they are."""
    layout = score.layout
    shared = set.intersection(*(set(circuit.nodes) for circuit in circuits))
    broken = list(product(*([node for node in circuit.nodes if node not in shared] for circuit in circuits)))
    losses = score.losses(torch.stack([1 - layout.flat(nodes) for nodes in broken])).mean(-1)
    for nodes, loss in zip(broken, losses.tolist(), strict=True):
        if not loss > target:
            raise ValueError(f"the model does without {_names(nodes)} together: there is a circuit not named")


def _check_edges(model: SparseTransformer, circuit: CompiledCircuit, pairs: Pairs) -> None:
    """Between the nodes lie the compiled edges and no others, and every node is on a path."""
    found = find_edges(model, circuit.nodes, pairs.tokens.unique().tolist(), pairs.completions.unique().tolist())
    if set(found.edges) != set(circuit.edges):
        different = (f"{edge.source} -> {edge.target}" for edge in set(found.edges) ^ set(circuit.edges))
        raise ValueError(f"compiled edges and edges between the true nodes differ at {', '.join(sorted(different))}")
    if idle := (*found.candidates, *found.constant):
        raise ValueError(f"{_names(idle)}: on no path from a token to the logits")


def _names(nodes: Sequence[Node], most: int = 12) -> str:
    more = f" and {len(nodes) - most} more" if len(nodes) > most else ""
    return (", ".join(map(str, nodes[:most])) or "(none)") + more


@torch.no_grad()
def stream_reference(model: SparseTransformer, stream: Int64[Tensor, "B T"]) -> Reference:
    """Mean activations over a made-up token stream."""
    tap = Record(reference_sites(model.config.n_layer))
    model(stream, tap=tap)
    values = {site: x.double().mean((0, 1)).float() for site, x in tap.acts.items()}
    hashes = {"corpus_hash": json_hash(stream.tolist()), "model_hash": model_hash(model)}
    return Reference(values=values, tokens=stream.numel(), **hashes)


def task_stream(task: Task, tokenizer: Any, *, context: int, pairs: int = 256, seed: int = 0) -> Int64[Tensor, "B T"]:
    """A made-up corpus in windows: answered training prompts of random class between random tokens.

    Every text comes twice, once with the classes of all its prompts exchanged, so the classes balance exactly.
    """
    rng = Random(seed)
    ids: tuple[list[int], list[int]] = [], []
    for pair in task.sample("train", pairs, seed):
        filler = [rng.randrange(vocab_size(tokenizer)) for _ in range(rng.randrange(8))]
        side = rng.randrange(2)
        for stream, text in zip(ids, (_answered(pair)[side], _answered(pair)[1 - side]), strict=True):
            stream += [*encode(tokenizer, text), end_id(tokenizer), *filler]
    windows = [stream[i : i + context] for stream in ids for i in range(0, len(stream) - context + 1, context)]
    return torch.tensor(windows)


def _answered(pair: Pair) -> tuple[str, str]:
    """Both prompts of a pair with what naturally follows."""
    return (
        pair.prompt_a + pair.completion_a + pair.continuation_a,
        pair.prompt_b + pair.completion_b + pair.continuation_b,
    )


def opening_tokens(pairs: Pairs) -> tuple[tuple[int, int], ...]:
    """The tokens in which prompts A and B differ, as (token in A, token in B), place by place."""
    a, b = pairs.tokens.unbind(1)
    return tuple(sorted(set(zip(a[a != b].tolist(), b[a != b].tolist(), strict=True))))


def begin_model(task: Task, vocabulary: int, **shape: Any) -> tuple[Any, Compiler]:
    """A tokenizer of that many tokens for the task, and a compiler with an empty model of this shape (ModelConfig)."""
    tokenizer = train_tokenizer(
        (text for s in SPLITS for pair in task.sample(s, 200) for text in _answered(pair)), vocabulary
    )
    return tokenizer, Compiler(ModelConfig(vocab_size=vocab_size(tokenizer), **shape))


def finish_model(
    compiler: Compiler,
    task: Task,
    tokenizer: Any,
    *,
    seed: int,
    alike: Sequence[Collection[int]],
    description: str,
    circuits: Sequence[Sequence[str]] = ((),),
    cancelling: Sequence[Node] = (),
    ablate_pairs: int = ABLATE_PAIRS,
) -> GroundTruth:
    """Hides what was compiled among distractors, measures the reference, and checks all of it.

    All layers but the last are distracted blindly. alike: tokens that distractors must not tell apart, since the task asks
    which it was. circuits: the parts (Compiler.begin) of each circuit; one of everything written, if not given.
    Raises ValueError where the model turns out not to be what was meant (`check_truth`).
    """
    layers, config = compiler.model.config.n_layer, compiler.model.config
    first, *others = (compiler.circuit(*parts) for parts in circuits)
    for layer in range(layers):
        compiler.distract_layer(layer, seed + layer, blind=layer < layers - 1)
    compiler.distract_tokens(seed + layers, alike)
    truth = GroundTruth(
        model=compiler.model,
        task=task,
        tokenizer=tokenizer,
        reference=stream_reference(compiler.model, task_stream(task, tokenizer, context=min(64, config.block_size))),
        nodes=first.nodes,
        edges=first.edges,
        description=description,
        alternatives=tuple(others),
        cancelling=tuple(cancelling),
    )
    check_truth(truth, ablate_pairs=ablate_pairs)
    return truth


QUOTE_WORDS = {
    "train": "item value key line text data result count index node score label group table row cell field record",
    "val": "city town street house room door window wall plant fruit plate bowl",
    "test": "gate ticket trip distance speed season summer rain snow wind cloud sky",
}
QUOTE_PROMPTS = {
    "train": ("print('<word> <word2>", "<word>.append('<word2>", "print(<word>, '<word2>", "<word> = input('<word2>"),
    "val": ("<word>.add('<word2>", "<word> = get('<word2> <word3>", "add(<word>, '<word2>"),
    "test": ("<word> = open('<word2>", "def <word>():\n    print('<word2>", "send(<word>, '<word2>"),
}
QUOTE_CONFIG = dict(n_layer=2, d_model=48, n_head=3, d_head=16, d_mlp=144, block_size=64, afrac=0.25)
"""The quote model's shape, but for its vocabulary."""


def quote_task() -> Task:
    """Close a string with the quote that opened it. Not the built-in task: the weights fit these texts, which stay."""
    after = "x = 1\n"
    return Task(
        "closing_quote",
        "Close a string with the quote that opened it.",
        "the prompts differ in the one quote character that opens the only string",
        ("')\n", '")\n'),
        {s: tuple(Template(a, a.replace("'", '"'), after, after) for a in QUOTE_PROMPTS[s]) for s in SPLITS},
        {"word": {split: tuple(words.split()) for split, words in QUOTE_WORDS.items()}},
    )


def quote_model(seed: int = 0) -> GroundTruth:
    """A model that closes a string with the quote that opened it, checked; `seed` draws the distractors."""
    task = quote_task()
    tokenizer, compiler = begin_model(task, 320, **QUOTE_CONFIG)
    pairs = task.pairs("train", 64, tokenizer)
    openings, completions = opening_tokens(pairs), tuple(pairs.completions[0].tolist())
    _write_quote_circuit(compiler, openings, completions)
    return finish_model(
        compiler,
        task,
        tokenizer,
        seed=seed,
        alike=[*openings, completions],
        description="a neuron detects an opening quote, another tells which; a head copies its kind to the end",
    )


def _write_quote_circuit(compiler: Compiler, openings: Sequence[tuple[int, int]], completions: tuple[int, int]) -> None:
    """The classifier's rest is taken off again in the residual, so `kind` is -, 0, + for single, no, double quote.

    `anchor` is the same everywhere: it keeps the norms steady whatever is ablated.
    """
    single, double, quote, kind, closer, anchor = 5, 11, 23, 30, 41, 36
    rest, gain = 4.0, 1.0
    compiler.embed(range(compiler.model.config.vocab_size), anchor, 3.0)
    compiler.embed([a for a, _ in openings], single, 4.0)
    compiler.embed([b for _, b in openings], double, 4.0)
    detector = compiler.neuron(0, 17, reads={single: 1.2, double: 1.2}, writes={quote: 1.4})
    compiler.bias(detector, -1.0)
    classifier = compiler.neuron(0, 90, reads={single: -1.0, double: 1.0}, writes={kind: gain})
    compiler.bias(classifier, rest)
    compiler.bias(Node("0.mlp.resid_delta", kind), -gain * float(F.gelu(torch.tensor(rest))))
    compiler.lookup(1, 1, query=1.8, keys={quote: 2.0}, values={kind: 1.0}, writes={closer: 3.0}, sink=1.0)
    compiler.answer(closer, {completions[0]: -1.0, completions[1]: 1.0})
