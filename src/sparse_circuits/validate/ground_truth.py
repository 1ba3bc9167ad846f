"""Models whose circuit is known because it was written by hand: the known-answer test of pruning.

A `Compiler` writes algorithms into the weights of an empty transformer and remembers every node and edge it wrote, and
hides them among random distractor weights; then it is measured that what was remembered is the truth.

1. An algorithm is a few neurons and heads that talk over residual channels of their own, the *signals*.
2. Distractors fill the other weights. Those of a layer either read no signal and may disturb the signals (noise that
   knows nothing of the answer), or read everything and write no signal (knowledge that leads nowhere).
3. `check_truth`: model and true nodes alone solve the task; each true node is necessary, in the model and in the
   circuit, and no other node is; the edges are those compiled, and every node lies on a path (METHOD D5).

`quote_model` closes a string with the quote that opened it. An opening quote writes one of two channels; a neuron
detects either, another tells which; a head of constant query finds the detected token and copies its kind to the end of
the prompt. 12 nodes, 9 edges. Its margins are small and its attention soft on purpose: where a loss vanishes, so does
the gradient that holds true nodes against the price, and two that fall at once in a chain block each other's return.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from sparse_circuits.circuit.ablation import Reference, reference_sites
from sparse_circuits.circuit.edges import find_edges
from sparse_circuits.circuit.evaluate import MaskScorer
from sparse_circuits.data.tokenizer import encode, end_id, train_tokenizer, vocab_size
from sparse_circuits.files import json_hash
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.edge_weights import SitePair, site_biases, site_pairs
from sparse_circuits.model.folder import model_hash
from sparse_circuits.model.taps import Record
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.mask import NodeLayout
from sparse_circuits.sites import FINAL_SITE, Edge, Node, node_sites, split_site
from sparse_circuits.tasks.pairs import Pair, Pairs
from sparse_circuits.tasks.task import SPLITS, Task, Template

TARGET = 0.01
"""Task loss, nats, that model and circuit stay below, and that ablating any one true node exceeds."""
SOLVE_PAIRS, ABLATE_PAIRS = 64, 3
"""Validation pairs on which model and circuit are scored whole, and with each node ablated."""


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
        self.model = SparseTransformer(config).eval()
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.fill_(1.0 if name.endswith("gain") else 0.0)
        self._matrices: dict[tuple[str, str], SitePair] = {(m.source, m.target): m for m in site_pairs(self.model)}
        self._biases = site_biases(self.model)
        self._nodes: set[Node] = set()
        self.edges: tuple[Edge, ...] = ()
        """Every edge written so far."""
        self._private: set[Node] = set()
        """Channels that no distractor may write."""

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node written so far, in forward order."""
        place = {site: i for i, site in enumerate(node_sites(self.model.config.n_layer))}
        return tuple(sorted(self._nodes, key=lambda node: (place[node.site], node.channel)))

    @property
    def signals(self) -> frozenset[int]:
        """Residual channels that the algorithms use."""
        return frozenset(n.channel for n in self._nodes if n.site.endswith(("act_in", "resid_delta", FINAL_SITE)))

    def embed(self, tokens: Sequence[int], channel: int, value: float) -> None:
        """These tokens write `value` into a residual channel."""
        self.model.embed.weight.detach()[tokens, channel] = value

    def bias(self, node: Node, value: float) -> None:
        """Sets the bias of a channel."""
        self._biases[node.site][node.channel] = value

    def neuron(self, layer: int, index: int, *, reads: Mapping[int, float], writes: Mapping[int, float]) -> Node:
        """A hidden neuron that reads and writes residual channels with these weights."""
        neuron = Node(f"{layer}.mlp.post_act", index)
        self._read(f"{layer}.mlp.act_in", reads, neuron)
        self._write(neuron, f"{layer}.mlp.resid_delta", writes)
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
        self._read(f"{layer}.attn.act_in", keys, k)
        self._read(f"{layer}.attn.act_in", values, v)
        self._write(v, f"{layer}.attn.resid_delta", writes)
        self.bias(q, query)
        self.model.state_dict()[f"blocks.{layer}.attn.sink"][head] = sink
        self._private |= {q, k, v}

    def answer(self, channel: int, weights: Mapping[int, float]) -> None:
        """A channel of final_resid that writes the logits of these tokens."""
        self._nodes.add(Node(FINAL_SITE, channel))
        for token, weight in weights.items():
            self.model.unembed.weight.detach()[token, channel] = weight

    def _read(self, site: str, reads: Mapping[int, float], target: Node) -> None:
        for channel, weight in reads.items():
            self._connect(Node(site, channel), target, weight)

    def _write(self, source: Node, site: str, writes: Mapping[int, float]) -> None:
        for channel, weight in writes.items():
            self._connect(source, Node(site, channel), weight)

    def _connect(self, source: Node, target: Node, weight: float) -> None:
        matrix = self._matrices[source.site, target.site].weight
        matrix[target.channel, source.channel] = weight
        self._nodes |= {source, target}
        self.edges += (Edge(source, target, float(matrix[target.channel, source.channel])),)

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
            noise[self._own(target)] = bias[self._own(target)] = 0
            matrix.weight.add_(noise)
            self._biases[target].add_(bias)

    def _own(self, site: str) -> list[int]:
        return [node.channel for node in self._private if node.site == site]

    def distract_tokens(self, seed: int, alike: Sequence[Collection[int]], density: float = 0.15) -> None:
        """Random sparse embeddings, unembeddings and bigrams outside the signals; `alike` tokens share their rows."""
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


def check_truth(truth: GroundTruth, target: float = TARGET) -> None:
    """Measures on validation pairs that the circuit is what it claims to be. Raises ValueError naming what is not true.

    A node is necessary where ablating it alone lifts the loss of the model, or of the circuit, above `target`.
    """
    layout = NodeLayout.of(truth.model.widths)
    pairs = truth.task.pairs("val", SOLVE_PAIRS, truth.tokenizer)
    own = layout.flat(truth.nodes)
    score = MaskScorer(model=truth.model, layout=layout, values=truth.reference.values, pairs=pairs)
    for name, mask in (("model", torch.ones(layout.size)), ("circuit", own)):
        loss = float(score.losses(mask[None]).mean())
        if not loss < target:
            raise ValueError(f"the {name} loses {loss:.4f} nats, not below {target}: compile it stronger")
    few = replace(score, pairs=pairs.take(range(ABLATE_PAIRS)))
    for name, whole in (("model", torch.ones(layout.size)), ("circuit", own)):
        inside = whole.nonzero().flatten()
        necessary = torch.zeros(layout.size)
        necessary[inside] = (few.losses((whole - torch.eye(layout.size))[inside]).mean(-1) > target).float()
        if not torch.equal(necessary, own):
            extra, idle = layout.nodes((necessary - own).clamp(min=0)), layout.nodes((own - necessary).clamp(min=0))
            raise ValueError(f"true nodes the {name} does not need: {_names(idle)}; others it needs: {_names(extra)}")
    found = find_edges(truth.model, truth.nodes, pairs.tokens.unique().tolist(), pairs.completions.unique().tolist())
    if set(found.edges) != set(truth.edges):
        different = (f"{edge.source} -> {edge.target}" for edge in set(found.edges) ^ set(truth.edges))
        raise ValueError(f"compiled edges and edges between the true nodes differ at {', '.join(sorted(different))}")
    if idle := (*found.candidates, *found.constant):
        raise ValueError(f"{_names(idle)}: on no path from a token to the logits")


def _names(nodes: Iterable[Node]) -> str:
    return ", ".join(map(str, nodes)) or "(none)"


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


def task_tokenizer(task: Task, size: int) -> Any:
    """A tokenizer that learned its vocabulary from the task's own texts."""
    return train_tokenizer((text for s in SPLITS for pair in task.sample(s, 200) for text in _answered(pair)), size)


def opening_tokens(pairs: Pairs) -> tuple[tuple[int, int], ...]:
    """The tokens in which prompts A and B differ, as (token in A, token in B), place by place."""
    a, b = pairs.tokens.unbind(1)
    return tuple(sorted(set(zip(a[a != b].tolist(), b[a != b].tolist(), strict=True))))


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
    tokenizer = task_tokenizer(task, 320)
    pairs = task.pairs("train", 64, tokenizer)
    compiler = Compiler(ModelConfig(vocab_size=vocab_size(tokenizer), **QUOTE_CONFIG))
    openings, completions = opening_tokens(pairs), tuple(pairs.completions[0].tolist())
    _write_quote_circuit(compiler, openings, completions)
    compiler.distract_layer(0, seed, blind=True)
    compiler.distract_layer(1, seed + 1, blind=False)
    compiler.distract_tokens(seed + 2, [*openings, completions])
    truth = GroundTruth(
        model=compiler.model,
        task=task,
        tokenizer=tokenizer,
        reference=stream_reference(compiler.model, task_stream(task, tokenizer, context=64)),
        nodes=compiler.nodes,
        edges=compiler.edges,
        description="a neuron detects an opening quote, another tells which; a head copies its kind to the end",
    )
    check_truth(truth)
    return truth


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
