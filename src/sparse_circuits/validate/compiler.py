"""Writes algorithms into the weights of an empty transformer by hand, and hides them among random distractor weights.

An algorithm is a few neurons and heads that talk over residual channels of their own, the *signals*. What the compiler can
write:
1. Tokens: `embed` lets tokens write a signal, `answer` lets a signal write logits. Positions: `circle` and `ramp` set two
   position channels beside what every layer reads, from which heads can tell how far back, or how late, a token is.
2. Heads: `head` scores keys by any number of products of what query and key read (`Match`), or not at all (the plain
   average of all tokens), and copies values. `lookup` is the head with a constant query; `shifted` are the matches of a
   head that looks a fixed number of tokens back.
3. Neurons: `neuron` reads and writes; `threshold` is one that fires above a value.

Every node and edge written is remembered, under the part named last (`begin`), so that a circuit can be asked for by its
parts. Distractors fill the other weights (`distract_layer`, `distract_tokens`): those of a layer either read no signal and may
disturb the signals (noise that knows nothing of the answer), or read everything and write no signal (knowledge that leads
nowhere).
"""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.edge_weights import SitePair, site_biases, site_pairs
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import FINAL_SITE, Edge, Node, node_sites, split_site

Weights = Mapping[int, float]
"""Residual (or position) channel -> weight."""
NO_SINK = -30.0
"""Sink logit of a head that always attends."""
MAIN = "main"
"""The part under which everything is remembered until another is begun."""


class Match(NamedTuple):
    """One q and k channel of a head; their product is a term of the score, over sqrt(d_head)."""

    query: float | Weights
    """What q reads, or its constant value (a bias: then no q channel is a node, its mean is what it always is)."""
    key: Weights
    """What k reads."""


class Copy(NamedTuple):
    """One v channel of a head."""

    reads: Weights
    writes: Weights


@dataclass(frozen=True, kw_only=True)
class CompiledCircuit:
    """Nodes in forward order and the edges between them, as METHOD D5 counts them."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


class Compiler:
    """Writes algorithms into an empty transformer (weights, biases and bigram table zero, gains one)."""

    def __init__(self, config: ModelConfig) -> None:
        self.model = SparseTransformer(config).eval()
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.fill_(1.0 if name.endswith("gain") else 0.0)
        self._matrices: dict[tuple[str, str], SitePair] = {(m.source, m.target): m for m in site_pairs(self.model)}
        self._biases = site_biases(self.model)
        self._part = MAIN
        self._nodes: dict[str, set[Node]] = defaultdict(set)
        self._edges: dict[str, tuple[Edge, ...]] = defaultdict(tuple)
        self._private: set[Node] = set()
        """Channels that no distractor may write."""

    def begin(self, part: str) -> None:
        """What is written from here on belongs to this part."""
        self._part = part

    def circuit(self, *parts: str) -> CompiledCircuit:
        """Nodes and edges of these parts; of everything written where none is named."""
        chosen = parts or tuple(self._nodes)
        place = {site: i for i, site in enumerate(node_sites(self.model.config.n_layer))}
        nodes = {node for part in chosen for node in self._nodes[part]}
        return CompiledCircuit(
            nodes=tuple(sorted(nodes, key=lambda node: (place[node.site], node.channel))),
            edges=tuple(edge for part in chosen for edge in self._edges[part]),
        )

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node written so far, in forward order."""
        return self.circuit().nodes

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge written so far."""
        return self.circuit().edges

    @property
    def signals(self) -> frozenset[int]:
        """Residual and position channels that the algorithms use."""
        return frozenset(n.channel for n in self.nodes if n.site.endswith(("act_in", "resid_delta", FINAL_SITE)))

    def embed(self, tokens: Collection[int], channel: int, value: float) -> None:
        """These tokens write `value` into a residual channel."""
        self.model.embed.weight.detach()[list(tokens), channel] = value

    def circle(self, period: int) -> tuple[int, int]:
        """Positions run round a circle, once in `period` tokens; returns the channels of cosine and sine.

        A reader sees sqrt(2) times them: position vectors are normed. Needs two concatenated position channels.
        """
        return self._positions(2 * math.pi / period * torch.arange(self.model.config.block_size))

    def ramp(self) -> tuple[int, int]:
        """Positions run along a quarter circle, block_size tokens from -45 to 45 degrees: the sine rises nearly evenly.

        Returns and needs what `circle` does.
        """
        return self._positions(
            math.pi / 2 * (torch.arange(self.model.config.block_size) / self.model.config.block_size - 0.5)
        )

    def _positions(self, angles: Float[Tensor, " T"]) -> tuple[int, int]:
        config, table = self.model.config, self.model.positions
        if table is None or config.d_pos_emb != 2:
            given = f"positions {config.positions!r}, d_pos_emb {config.d_pos_emb}"
            raise ValueError(f"this compiles into positions 'concat' with d_pos_emb 2, given {given}; choose those")
        table.weight.detach().copy_(torch.stack([angles.cos(), angles.sin()], -1))
        return config.d_model, config.d_model + 1

    def bias(self, node: Node, value: float) -> None:
        """Sets the bias of a channel."""
        self._biases[node.site][node.channel] = value

    def neuron(self, layer: int, index: int, *, reads: Weights, writes: Weights) -> Node:
        """A hidden neuron that reads and writes residual channels with these weights."""
        neuron = Node(f"{layer}.mlp.post_act", index)
        self._read(f"{layer}.mlp.act_in", reads, neuron)
        self._write(neuron, f"{layer}.mlp.resid_delta", writes)
        self._private.add(neuron)
        return neuron

    def threshold(self, layer: int, index: int, *, channel: int, above: float, slope: float, writes: Weights) -> Node:
        """A neuron that is about 0 while a channel, as the layer reads it, is below `above`, and then rises by `slope`."""
        neuron = self.neuron(layer, index, reads={channel: slope}, writes=writes)
        self.bias(neuron, -slope * above)
        return neuron

    def lookup(
        self, layer: int, head: int, *, query: float, keys: Weights, values: Weights, writes: Weights, sink: float
    ) -> None:
        """A head that always looks for tokens whose `keys` channels are high, and copies their `values` channels.

        The query is constant. Distractors may use the other channels of the head, and so blur where it looks.
        """
        look, copy = Match(query, keys), Copy(values, writes)
        self.head(layer, head, matches=[look], copies=[copy], sink=sink, shared=True)

    def head(
        self,
        layer: int,
        head: int,
        *,
        matches: Sequence[Match] = (),
        copies: Sequence[Copy],
        sink: float = NO_SINK,
        shared: bool = False,
    ) -> None:
        """A head whose score is the sum of its matches; without any it attends to all tokens alike.

        Takes the first q and k channels of the head for its matches and the v channels behind them for its copies.
        shared: whether distractors may use the head's other q and k channels.
        """
        width = self.model.config.d_head
        first = head * width
        for place, (query, key) in enumerate(matches):
            q, k = (Node(f"{layer}.attn.{name}", first + place) for name in "qk")
            self._read(f"{layer}.attn.act_in", key, k)
            if isinstance(query, Mapping):
                self._read(f"{layer}.attn.act_in", query, q)
            else:
                self.bias(q, query)
            self._private |= {q, k}
        for place, (reads, writes) in enumerate(copies, len(matches)):
            v = Node(f"{layer}.attn.v", first + place)
            self._read(f"{layer}.attn.act_in", reads, v)
            self._write(v, f"{layer}.attn.resid_delta", writes)
            self._private.add(v)
        if not shared:
            self._private |= {Node(f"{layer}.attn.{name}", first + place) for name in "qk" for place in range(width)}
        self.model.state_dict()[f"blocks.{layer}.attn.sink"][head] = sink

    def answer(self, channel: int, weights: Weights) -> None:
        """A channel of final_resid that writes the logits of these tokens."""
        self._nodes[self._part].add(Node(FINAL_SITE, channel))
        for token, weight in weights.items():
            self.model.unembed.weight.detach()[token, channel] = weight

    def _read(self, site: str, reads: Weights, target: Node) -> None:
        for channel, weight in reads.items():
            self._connect(Node(site, channel), target, weight)

    def _write(self, source: Node, site: str, writes: Weights) -> None:
        for channel, weight in writes.items():
            self._connect(source, Node(site, channel), weight)

    def _connect(self, source: Node, target: Node, weight: float) -> None:
        matrix = self._matrices[source.site, target.site].weight
        matrix[target.channel, source.channel] = weight
        self._nodes[self._part] |= {source, target}
        self._edges[self._part] += (Edge(source, target, float(matrix[target.channel, source.channel])),)

    def distract_layer(
        self, layer: int, seed: int, *, blind: bool, density: float = 0.2, strength: float = 0.3, murmur: float = 0.15
    ) -> None:
        """Random sparse weights and biases in all that is not the algorithms' own.

        blind: they read no signal, and write signals `murmur` times as strongly as other channels; otherwise they read
        everything and write no signal.
        """
        draw = torch.Generator().manual_seed(seed)
        read, written = sorted(self.signals), self._residual_signals
        for (source, target), matrix in self._matrices.items():
            if split_site(target)[0] != layer:
                continue
            noise = strength * _sparse(matrix.weight.shape, density, draw)
            bias = strength * _sparse(self._biases[target].shape, density, draw)
            if source.endswith("act_in") and blind:
                noise[:, read] = 0
            if target.endswith("resid_delta"):
                noise[written] *= murmur if blind else 0
                noise[:, self._own(source)] = 0
                bias[written] = 0
            noise[self._own(target)] = bias[self._own(target)] = 0
            matrix.weight.add_(noise)
            self._biases[target].add_(bias)

    def _own(self, site: str) -> list[int]:
        return [node.channel for node in self._private if node.site == site]

    @property
    def _residual_signals(self) -> list[int]:
        return sorted(channel for channel in self.signals if channel < self.model.config.d_model)

    def distract_tokens(self, seed: int, alike: Sequence[Collection[int]], density: float = 0.15) -> None:
        """Random sparse embeddings, unembeddings and bigrams outside the signals; `alike` tokens share their rows.

        Groups of `alike` tokens are disjoint.
        """
        draw = torch.Generator().manual_seed(seed)
        model, signals = self.model, self._residual_signals
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


def shifted(cosine: int, sine: int, *, back: int, period: int, strength: float) -> tuple[Match, Match]:
    """Matches that score a key by how near it stands to `back` tokens before the query, on a circle of this period.

    The score at s tokens before is 2 * strength^2 * cos(2 pi (s - back) / period) / sqrt(d_head).
    """
    c, s = (strength * turn(2 * math.pi * back / period) for turn in (math.cos, math.sin))
    return (
        Match({cosine: c, sine: s}, {cosine: strength}),
        Match({cosine: -s, sine: c}, {sine: strength}),
    )


def _sparse(shape: torch.Size, density: float, draw: torch.Generator) -> Float[Tensor, "..."]:
    """Normal entries, most of them dropped."""
    return torch.randn(shape, generator=draw) * (torch.rand(shape, generator=draw) < density)
