"""How simply can the circuit be read: does it still work when every node only says yes or no.

Feature binarisation is named among the validations of the method (METHOD 1h), its details are not known; this is the library's own
definition. A circuit that averages or counts has graded nodes and is no less faithful for it, so the row stands beside the verdict.
1. Levels. f_C runs on training prompts, or on those of val where the scored pairs are of train. What a node takes there is split
   in two so that the mean above and the mean below the split leave the least squared error: two-means in one dimension, exact over
   all splits of the sorted values. What comes in later goes to the nearer of the two. A node that does not vary stays as it is.
2. Positions. All tokens that are no padding count alike, not only those that the task is about: a node is in the circuit at every
   one of them, and attention may read it at any. Only what can reach no answer is left out: in the last block, from its queries on
   (keys and values aside), the last position is the only one that is ever read.
3. Jointly. f_C runs on the scored pairs, and each node in forward order goes to its nearer level, given what the nodes before it,
   at their levels already, make of it. AbsTopK acts as it does in f_C.
4. Beside it, the same with one level, the node's mean: what is lost where the nodes tell nothing. And each node alone, which says
   where two levels are too few; a pass per node is what costs here, so that is done on a few of the pairs. A node may lose more
   alone than all do jointly: later nodes, at two levels themselves, set right again what falls between.

Shapes: n pairs, T tokens, rows = 2 n prompts, c nodes of the circuit, w those at one site, m values of a node, K sets of nodes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_circuits.circuit.evaluate import Start, pair_losses
from sparse_circuits.circuit.mask_scorer import chunk_tokens, repeat_pairs
from sparse_circuits.model.taps import Chain, Mask, Record
from sparse_circuits.sites import Node, start_before
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.validate.statistics import Estimate, defined, means, varying
from sparse_circuits.validate.subject import Subject, real_tokens

FIT_PAIRS = 64
"""Pairs that levels are fitted on."""
NODES_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Levels:
    """The two levels of every node."""

    low: Float[Tensor, " c"]
    high: Float[Tensor, " c"]
    mean: Float[Tensor, " c"]
    """Of all values."""
    varies: Bool[Tensor, " c"]
    """Where not, nothing is replaced."""

    @property
    def one(self) -> "Levels":
        """Both levels at the mean."""
        return replace(self, low=self.mean, high=self.mean)

    def nearest(self, values: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch c"]:
        """The nearer level of every value; the value itself where the node does not vary."""
        near = torch.where(values > (self.low + self.high) / 2, self.high, self.low).to(values.dtype)
        return torch.where(self.varies, near, values)

    def split(self, widths: list[int]) -> list["Levels"]:
        """Of the first `widths[0]` nodes, of the next, and so on."""
        parts = zip(*(part.split(widths) for part in (self.low, self.high, self.mean, self.varies)), strict=True)
        return [Levels(low=low, high=high, mean=mean, varies=varies) for low, high, mean, varies in parts]


def two_means(values: Float[Tensor, "m w"]) -> Levels:
    """For every column the two levels that leave the least squared error, m >= 2. A split between equal values is never best."""
    ordered = values.double().sort(0).values
    mean = ordered.mean(0)
    below = (ordered - mean).cumsum(0)[:-1]  # of the lowest 1, 2, ... m - 1
    count = torch.arange(1, len(ordered), device=values.device, dtype=torch.float64)[:, None]
    best = (below.square() / (count * (len(ordered) - count))).argmax(0, keepdim=True)
    size, sums = best[0] + 1, ordered.cumsum(0).gather(0, best)[0]
    low, high = sums / size, (ordered.sum(0) - sums) / (len(ordered) - size)
    varies = varying(ordered.square().mean(0), mean).isfinite()
    return Levels(low=low.float(), high=high.float(), mean=mean.float(), varies=varies)


@dataclass(frozen=True, kw_only=True)
class BinarisedNode:
    """One node at two levels."""

    node: Node
    low: float
    high: float
    rise: Estimate
    """Of the circuit's task loss when this node alone is binarised, nats."""
    explained: Estimate | None
    """Share of the variance of its activation in f_C that the two levels explain, on the scored pairs: at most 1, below 0 where
    the mean would do better. None where it does not vary there."""


@dataclass(frozen=True, kw_only=True)
class Binarisation:
    """What is lost where nodes have two levels."""

    rise: Estimate | None
    """Of the circuit's task loss when all its nodes are binarised, nats; None where none of them varies."""
    loss: Estimate | None
    """Task loss of the binarised circuit."""
    one_level: Estimate | None
    """Rise with one level each, the node's mean: what is lost where the nodes tell nothing."""
    nodes: tuple[BinarisedNode, ...]
    """Those that vary, in forward order."""
    constant: tuple[Node, ...]
    """Those that do not: left as they are."""


@torch.no_grad()
def binarisation(subject: Subject, *, alone: int = 32) -> Binarisation | None:
    """METHOD 1h for the circuit, and for every node alone on at most `alone` pairs; None for an empty circuit.

    Raises ValueError if the training pairs, which the levels come from, cannot be asked with this tokenizer.
    """
    if not subject.nodes:
        return None
    levels = _fitted(subject)
    constant = tuple(node for node, varies in zip(subject.nodes, levels.varies.tolist(), strict=True) if not varies)
    if len(constant) == len(subject.nodes):
        return Binarisation(rise=None, loss=None, one_level=None, nodes=(), constant=constant)
    none_and_all = torch.tensor([[False], [True]], device=subject.device).expand(-1, len(subject.nodes))
    before, loss = subject.per_pair(lambda pairs: _losses(subject, pairs, levels, none_and_all))
    flat = subject.per_pair(lambda pairs: _losses(subject, pairs, levels.one, none_and_all[1:]))[0]
    return Binarisation(
        rise=subject.resampling.mean(loss - before),
        loss=subject.resampling.mean(loss),
        one_level=subject.resampling.mean(flat - before),
        nodes=_each(subject, levels, before, alone),
        constant=constant,
    )


def _fitted(subject: Subject) -> Levels:
    """Levels of all nodes on pairs that are not scored."""
    pairs = subject.on("val" if subject.split == "train" else "train", FIT_PAIRS).pairs
    found = [two_means(x[_counted(x, pairs)]) for x in _values(subject, pairs).values()]
    low, high, mean, varies = (torch.cat([getattr(part, name) for part in found]) for name in vars(found[0]))
    return Levels(low=low, high=high, mean=mean, varies=varies)


def _values(subject: Subject, pairs: Pairs) -> dict[str, Float[Tensor, "rows T_out w"]]:
    """Site -> what the circuit's nodes there take in f_C. T_out is 1 where only the last position can reach the answer."""
    seen = Record(subject.channels)
    tap, weights = subject.way(True, seen)
    subject.model(pairs.flat_tokens, tap=tap, logits_at=pairs.last, trim=True, weights=weights)
    return {site: seen.acts[site].index_select(-1, channels) for site, channels in subject.channels.items()}


def _counted(x: Float[Tensor, "rows T_out w"], pairs: Pairs) -> Bool[Tensor, "rows T_out"]:
    """The positions of x that are tokens."""
    return real_tokens(pairs) if x.shape[1] == pairs.tokens.shape[-1] else x.new_ones(x.shape[:2]).bool()


class _TwoLevels(Mask):
    """The circuit's mask, behind which chosen nodes go to the nearer of their two levels. chosen: which, in every row."""

    def __init__(self, subject: Subject, levels: Levels, chosen: Bool[Tensor, "rows c"]) -> None:
        own, channels = subject.tap, subject.channels
        super().__init__(own.masks, own.values, own.kept)
        widths = [len(part) for part in channels.values()]
        self.channels, self.levels = channels, dict(zip(channels, levels.split(widths), strict=True))
        self.chosen: Mapping[str, Tensor] = dict(zip(channels, chosen[:, None].split(widths, -1), strict=True))

    def narrow(self, site: str, x: Tensor, most: float = 0.5) -> tuple[Tensor, Tensor, Tensor] | None:
        found = super().narrow(site, x, most)
        return found if found is None or site not in self.levels else (found[0], self._near(site, found[1]), found[2])

    def __call__(self, site: str, x: Tensor) -> Tensor:
        x = super().__call__(site, x)
        if site not in self.levels:
            return x
        channels = self.channels[site]
        return x.index_copy(-1, channels, self._near(site, x.index_select(-1, channels)))

    def _near(self, site: str, own: Float[Tensor, "rows T_out w"]) -> Float[Tensor, "rows T_out w"]:
        return torch.where(self.chosen[site], self.levels[site].nearest(own), own)


def _losses(
    subject: Subject, pairs: Pairs, levels: Levels, chosen: Bool[Tensor, "K c"], start: Start | None = None
) -> Float[Tensor, "K n"]:
    """Task loss of f_C with each set of nodes at its levels, nats, several sets per forward."""
    rows, tokens = pairs.flat_tokens.shape
    weights, found = subject.way(True)[1], []
    for part in chosen.split(max(1, chunk_tokens(subject.device) // (rows * tokens))):
        tap = _TwoLevels(subject, levels, part.repeat_interleave(rows, 0))
        entered = None if start is None else (start[0], start[1].repeat(len(part), 1, 1))
        repeated = repeat_pairs(pairs, len(part))
        losses = pair_losses(subject.model, repeated, tap, subject.circuit.loss_kind, weights, entered)
        found.append(losses.unflatten(0, (len(part), -1)))
    return torch.cat(found)


def _each(subject: Subject, levels: Levels, before: Float[Tensor, " n"], alone: int) -> tuple[BinarisedNode, ...]:
    """The nodes that vary. before: the circuit's own loss on every pair. Templates take turns, so the first pairs are of all."""
    own = levels.varies.nonzero().flatten()
    few = replace(subject, pairs=subject.pairs.take(range(min(subject.pairs.n, alone))))
    lost = few.per_pair(lambda pairs: _alone(few, pairs, levels)) - before[: few.pairs.n]
    rises = few.resampling.estimates(lambda weights: means(lost, weights))
    moments = subject.per_pair(lambda pairs: _moments(subject, pairs, levels)[own], width=8 * len(subject.nodes))
    explained: list[Estimate | None] = []
    for part in moments.split(NODES_AT_ONCE):
        explained += subject.resampling.estimates(lambda weights, part=part: _explained(weights, part))
    names = [subject.nodes[index] for index in own.tolist()]
    ends = levels.low[own].tolist(), levels.high[own].tolist()
    return tuple(
        BinarisedNode(node=node, low=low, high=high, rise=defined(rise), explained=share)
        for node, low, high, rise, share in zip(names, *ends, rises, explained, strict=True)
    )


def _alone(subject: Subject, pairs: Pairs, levels: Levels) -> Float[Tensor, "nodes n"]:
    """Task loss with each node that varies alone at its levels. A pass is entered where its node's sublayer begins."""
    weights = subject.way(True)[1]
    entries = [start_before(node.site) for node in subject.nodes]
    seen = Record(set(entries))
    subject.model(pairs.flat_tokens, tap=Chain(subject.tap, seen), logits_at=pairs.last, weights=weights)
    single = torch.eye(len(entries), dtype=torch.bool, device=subject.device)
    varying_here, found = levels.varies.tolist(), []
    for entry in dict.fromkeys(entries):  # in forward order, as the nodes are
        own = [index for index, place in enumerate(entries) if place == entry and varying_here[index]]
        if own:
            found.append(_losses(subject, pairs, levels, single[own], (entry, seen.acts[entry])))
    return torch.cat(found)


def _moments(subject: Subject, pairs: Pairs, levels: Levels) -> Float[Tensor, "c 4 n"]:
    """Per node and pair, sums over positions of 1, a, a a and (a - its level)^2, with a the activation in f_C."""
    found, values = [], _values(subject, pairs)
    for (_, x), own in zip(values.items(), levels.split([x.shape[-1] for x in values.values()]), strict=True):
        a, near = x.double(), own.nearest(x).double()
        counted = _counted(x, pairs)[..., None].double().expand_as(a)
        terms = torch.stack([counted, counted * a, counted * a * a, counted * (a - near).square()])
        found.append(terms.unflatten(1, (pairs.n, -1)).sum((2, 3)).permute(2, 0, 1))
    return torch.cat(found)


def _explained(weights: Float[Tensor, "R n"], moments: Float[Tensor, "c 4 n"]) -> Float[Tensor, "R c"]:
    """1 - what is left over the variance; NaN where there is none."""
    count, a, aa, left = means(moments.transpose(0, 1), weights).unbind(1)
    return 1 - left / count / varying(aa / count, a / count)
