"""Models whose circuit is known because it was written by hand: the known-answer test of pruning.

A `Compiler` writes algorithms into the weights of an empty transformer and remembers every node and edge it wrote, hides
them among random distractor weights, and at last measures that what it remembers is the truth.

1. An algorithm is a few neurons and heads that talk over residual channels of their own, the *signals*.
2. Distractors fill the other weights. Those of a layer either read no signal and may disturb the signals (noise that
   knows nothing of the answer), or read everything and write no signal (knowledge that leads nowhere).
3. `check_truth`: the model solves the task; each true node alone is necessary, in the model and in the circuit; no other
   node is; the true nodes suffice; their edges are those compiled, and every node lies on a path (METHOD D5).

`quote_model` closes a string with the quote that opened it. An opening quote writes one of two channels; a neuron detects
either, another tells which; a head of constant query finds the detected token and copies its kind to the end of the
prompt. 12 nodes, 9 edges.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from sparse_circuits.circuit.ablation import Reference, reference_sites
from sparse_circuits.circuit.edges import find_edges
from sparse_circuits.circuit.evaluate import MaskScorer
from sparse_circuits.data.tokenizer import encode, end_id, train_tokenizer, vocab_size
from sparse_circuits.files import json_hash
from sparse_circuits.model.edge_weights import SitePair, site_biases, site_pairs
from sparse_circuits.model.folder import model_hash
from sparse_circuits.model.taps import Record
from sparse_circuits.model.transformer import ModelConfig, SparseTransformer
from sparse_circuits.prune.mask import NodeLayout
from sparse_circuits.sites import FINAL_SITE, Edge, Node, node_sites, split_site
from sparse_circuits.tasks.load import load_task
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.tasks.task import SPLITS, Task

TARGET = 0.01
"""Task loss, nats, that model and circuit stay below and that no true node can be ablated without passing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroundTruth:
    """A model, a task, and the one circuit of the model for that task."""

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


class Compiler:
    """Writes algorithms into an empty transformer (weights, biases and bigram table zero, gains one)."""

    def __init__(self, config: ModelConfig) -> None:
        self.model = SparseTransformer(config).initialize(0).eval()
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.fill_(1.0 if name.endswith("gain") else 0.0)
        self._matrices: dict[tuple[str, str], SitePair] = {(m.source, m.target): m for m in site_pairs(self.model)}
        self._biases = site_biases(self.model)
        self._nodes: set[Node] = set()
        self._edges: list[Edge] = []
        self._private: set[Node] = set()
        """Channels that no distractor may write."""

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node written so far, in forward order."""
        place = {site: i for i, site in enumerate(node_sites(self.model.config.n_layer))}
        return tuple(sorted(self._nodes, key=lambda node: (place[node.site], node.channel)))

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge written so far."""
        return tuple(self._edges)

    @property
    def signals(self) -> frozenset[int]:
        """Residual channels that the algorithms use."""
        residual = ("attn.act_in", "attn.resid_delta", "mlp.act_in", "mlp.resid_delta", FINAL_SITE)
        return frozenset(node.channel for node in self._nodes if split_site(node.site)[1] in residual)

    def embed(self, tokens: Iterable[int], channel: int, value: float) -> None:
        """These tokens write `value` into a residual channel."""
        self.model.embed.weight.detach()[list(tokens), channel] = value

    def bias(self, node: Node, value: float) -> None:
        """Sets the bias of a channel."""
        self._biases[node.site][node.channel] = value

    def neuron(self, layer: int, index: int, *, reads: Mapping[int, float], writes: Mapping[int, float]) -> Node:
        """A hidden neuron that reads and writes residual channels with these weights."""
        neuron = Node(f"{layer}.mlp.post_act", index)
        for channel, weight in reads.items():
            self._connect(Node(f"{layer}.mlp.act_in", channel), neuron, weight)
        for channel, weight in writes.items():
            self._connect(neuron, Node(f"{layer}.mlp.resid_delta", channel), weight)
        self._private.add(neuron)
        return neuron

    def lookup(
        self,
        layer: int,
        head: int,
        *,
        query: float,
        keys: Mapping[int, float],
        values: Mapping[int, float],
        writes: Mapping[int, float],
        sink: float,
    ) -> None:
        """A head that always looks for tokens whose `keys` channels are high, and copies their `values` channels.

        The query is constant (a bias), so no q channel is a node: its mean is what it always is.
        """
        first = head * self.model.config.d_head
        q, k, v = (Node(f"{layer}.attn.{name}", first + place) for name, place in (("q", 0), ("k", 0), ("v", 1)))
        for channel, weight in keys.items():
            self._connect(Node(f"{layer}.attn.act_in", channel), k, weight)
        for channel, weight in values.items():
            self._connect(Node(f"{layer}.attn.act_in", channel), v, weight)
        for channel, weight in writes.items():
            self._connect(v, Node(f"{layer}.attn.resid_delta", channel), weight)
        self.bias(q, query)
        self.model.state_dict()[f"blocks.{layer}.attn.sink"][head] = sink
        self._private |= {q, k, v}

    def answer(self, channel: int, weights: Mapping[int, float]) -> None:
        """A channel of final_resid that writes the logits of these tokens."""
        self._nodes.add(Node(FINAL_SITE, channel))
        for token, weight in weights.items():
            self.model.unembed.weight.detach()[token, channel] = weight

    def _connect(self, source: Node, target: Node, weight: float) -> None:
        matrix = self._matrices[source.site, target.site].weight
        matrix[target.channel, source.channel] = weight
        self._nodes |= {source, target}
        self._edges.append(Edge(source, target, float(matrix[target.channel, source.channel])))

    def distract_layer(
        self, layer: int, seed: int, *, blind: bool, density: float = 0.2, strength: float = 0.3, murmur: float = 0.15
    ) -> None:
        """Random sparse weights and biases in all that is not the algorithms' own.

        blind: they read no signal, and write signals `murmur` times as strongly as other channels; otherwise they read
        everything and write no signal.
        """
        draw = torch.Generator().manual_seed(seed)
        signals = sorted(self.signals)
        for (source, target), matrix in self._matrices.items():
            if split_site(target)[0] != layer:
                continue
            noise = strength * _sparse(matrix.weight.shape, density, draw)
            bias = strength * _sparse(self._biases[target].shape, density, draw)
            if source.endswith("act_in") and blind:
                noise[:, signals] = 0
            if target.endswith("resid_delta"):
                noise[signals] *= murmur if blind else 0
                noise[:, self._own(source)] = 0
                bias[signals] = 0
            noise[self._own(target)] = 0
            bias[self._own(target)] = 0
            matrix.weight.add_(noise)
            self._biases[target].add_(bias)

    def _own(self, site: str) -> list[int]:
        return [node.channel for node in self._private if node.site == site]

    def distract_tokens(self, seed: int, alike: Sequence[Collection[int]], density: float = 0.15) -> None:
        """Random sparse embeddings, unembeddings and bigrams outside the signals; a group of `alike` tokens shares its rows."""
        draw = torch.Generator().manual_seed(seed)
        model, signals = self.model, sorted(self.signals)
        shape = model.embed.weight.shape
        embed, unembed = _sparse(shape, density, draw), 0.3 * _sparse(shape, density, draw)
        bigram = torch.randn(shape[0], shape[0], generator=draw)
        embed[:, signals] = unembed[:, signals] = 0
        for group in alike:
            first, *others = sorted(group)
            for table in (embed, unembed, bigram, bigram.T):
                table[others] = table[first].clone()
        model.embed.weight.detach().add_(embed)
        model.unembed.weight.detach().add_(unembed)
        if model.bigram is not None:
            model.bigram.weight.detach().add_(bigram)


def _sparse(shape: torch.Size, density: float, draw: torch.Generator) -> Float[Tensor, "..."]:
    """Normal entries, most of them dropped."""
    return torch.randn(shape, generator=draw) * (torch.rand(shape, generator=draw) < density)


def check_truth(truth: GroundTruth, target: float = TARGET, pairs: int = 6) -> None:
    """Measures on validation pairs that the circuit is what it claims to be. Raises ValueError naming what is not true.

    For a model that keeps to `target`, a node whose lone ablation passes it is necessary, every other node is not.
    """
    layout = NodeLayout.of(truth.model.widths)
    batch = truth.task.pairs("val", pairs, truth.tokenizer)
    scorer = MaskScorer(model=truth.model, layout=layout, values=truth.reference.values, pairs=batch)
    everything, own = torch.ones(layout.size), layout.flat(truth.nodes)
    indices = own.nonzero().flatten()
    alone = scorer.losses(torch.cat([everything[None], own[None]])).mean(-1).tolist()
    for name, loss in zip(("model", "circuit"), alone, strict=True):
        if loss >= target:
            raise ValueError(
                f"the {name} loses {loss:.4f} nats, not below {target}; make the compiled weights stronger"
            )
    necessary = scorer.losses(1 - torch.eye(layout.size)).mean(-1) > target
    _expect("the model", necessary, own > 0, layout)
    needed = torch.zeros(layout.size, dtype=torch.bool)
    needed[indices] = scorer.losses((own - torch.eye(layout.size))[indices]).mean(-1) > target
    _expect("the circuit", needed, own > 0, layout)
    found = find_edges(truth.model, truth.nodes, batch.tokens.unique().tolist(), batch.completions.unique().tolist())
    if set(found.edges) != set(truth.edges):
        different = sorted(f"{edge.source} -> {edge.target}" for edge in set(found.edges) ^ set(truth.edges))
        raise ValueError(f"compiled edges and edges between the nodes differ at {', '.join(different)}")
    if idle := (*found.candidates, *found.constant):
        raise ValueError(f"{', '.join(map(str, idle))} on no path from a token to the logits")


def _expect(what: str, necessary: Bool[Tensor, " N"], true: Bool[Tensor, " N"], layout: NodeLayout) -> None:
    """Raises where the nodes that `what` needs are not the true ones."""
    parts = []
    for problem, nodes in (("also needs", necessary & ~true), ("does not need", true & ~necessary)):
        if nodes.any():
            parts.append(f"{problem} {', '.join(map(str, layout.nodes(nodes.float())))}")
    if parts:
        raise ValueError(f"the circuit is not the truth: {what} {' and '.join(parts)}")


@torch.no_grad()
def stream_reference(model: SparseTransformer, stream: Int64[Tensor, "B T"]) -> Reference:
    """Mean activations over a made-up token stream."""
    tap = Record(reference_sites(model.config.n_layer))
    model(stream, tap=tap)
    values = {site: x.double().mean((0, 1)).float() for site, x in tap.acts.items()}
    corpus = json_hash(stream.tolist())
    return Reference(values=values, tokens=stream.numel(), corpus_hash=corpus, model_hash=model_hash(model))


def task_stream(task: Task, tokenizer: Any, *, context: int, pairs: int = 256, seed: int = 0) -> Int64[Tensor, "B T"]:
    """A made-up corpus in windows: training prompts of both classes, answered, in random order between random tokens."""
    texts = [text for pair in task.sample("train", pairs, seed) for text in _answered(pair)]
    rng = Random(seed)
    rng.shuffle(texts)
    ids: list[int] = []
    for text in texts:
        filler = [rng.randrange(vocab_size(tokenizer)) for _ in range(rng.randrange(8))]
        ids += [*encode(tokenizer, text), end_id(tokenizer), *filler]
    rows = len(ids) // context
    return torch.tensor(ids[: rows * context]).view(rows, context)


def _answered(pair: Any) -> tuple[str, str]:
    """Both prompts of a pair with what naturally follows."""
    return (
        pair.prompt_a + pair.completion_a + pair.continuation_a,
        pair.prompt_b + pair.completion_b + pair.continuation_b,
    )


def task_tokenizer(task: Task, size: int) -> Any:
    """A tokenizer that learned its vocabulary from the task's own texts."""
    return train_tokenizer((text for s in SPLITS for pair in task.sample(s, 200) for text in _answered(pair)), size)


def opening_tokens(pairs: Pairs) -> tuple[tuple[int, int], ...]:
    """The tokens in which prompts A and B differ, as (token in A, token in B), place by place."""
    a, b = pairs.tokens.unbind(1)
    return tuple(sorted(set(zip(a[a != b].tolist(), b[a != b].tolist(), strict=True))))


QUOTE_CONFIG = dict(n_layer=2, d_model=48, n_head=3, d_head=16, d_mlp=144, block_size=64, afrac=0.25)
"""The quote model's shape, but for its vocabulary."""


def quote_model(seed: int = 0) -> GroundTruth:
    """A model that closes a string with the quote that opened it, checked; `seed` draws the distractors."""
    task = load_task("single_double_quote")
    tokenizer = task_tokenizer(task, 384)
    pairs = task.pairs("train", 64, tokenizer)
    compiler = Compiler(ModelConfig(vocab_size=vocab_size(tokenizer), **QUOTE_CONFIG))
    openings, completions = opening_tokens(pairs), tuple(pairs.completions[0].tolist())
    _write_quote_circuit(compiler, openings, completions)
    compiler.distract_layer(0, seed, blind=True)
    compiler.distract_layer(1, seed + 1, blind=False)
    compiler.distract_tokens(seed + 2, [*openings, completions])
    reference = stream_reference(compiler.model, task_stream(task, tokenizer, context=64))
    truth = GroundTruth(
        model=compiler.model,
        task=task,
        tokenizer=tokenizer,
        reference=reference,
        nodes=compiler.nodes,
        edges=compiler.edges,
        description="a neuron detects an opening quote, another tells which; a head finds it and copies its kind to the end",
    )
    check_truth(truth)
    return truth


def _write_quote_circuit(compiler: Compiler, openings: Sequence[tuple[int, int]], completions: tuple[int, int]) -> None:
    """The classifier rests at `rest`, which its bias in the residual takes off: -, 0 or + for single, no or double quote."""
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
    compiler.lookup(1, 1, query=3.0, keys={quote: 2.0}, values={kind: 1.0}, writes={closer: 3.0}, sink=1.0)
    compiler.answer(closer, {completions[0]: -0.9, completions[1]: 0.9})
