"""Does the circuit compute what the model computes: agreement, faithfulness, sufficiency, necessity, completeness, minimality.

A low loss alone is not faithfulness. Of one subject, with f the model, f_C the circuit, L the task loss (METHOD F1-F5):
- `agreement`: how alike the outputs are, prompt by prompt.
- `faithfulness`: how much of the way from the empty circuit's loss to the model's the circuit goes.
- `sufficiency`: L(f_C), and `necessity`: L(f with C ablated) - L(f), each beside random sets with as many nodes per site.
- `completeness`: whether f_C breaks the way f breaks, when the same part of C is ablated in both.
- `minimality`: what each node adds.

Shapes: n pairs, K sets of nodes, V vocabulary.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_circuits.circuit.evaluate import last_logits
from sparse_circuits.sites import Node
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.validate.statistics import Estimate, Resampling, means, varying
from sparse_circuits.validate.subject import Subject

IDLE = 0.01
"""Nats by which ablating a node must raise the loss for the node to count as needed (METHOD F5, eps)."""
MASKS_AT_ONCE = 256
"""One-node masks in memory: a model has up to some 10^5 nodes."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How alike the outputs of circuit and model are on the same prompts (F1)."""

    kl_binary: Estimate
    """KL(f || f_C) between the chances of the pair's two completions, nats, mean over prompts."""
    kl_vocab: Estimate
    """The same over the whole vocabulary."""
    same_choice: Estimate
    """Share of prompts where both give the same of the two completions the higher logit."""
    same_token: Estimate
    """Share of prompts where both give the same token of the vocabulary the highest logit."""
    contrast_correlation: Estimate | None
    """Pearson correlation over prompts of z_A - z_B in f and in f_C; None where either is the same on all prompts."""


@torch.no_grad()
def agreement(subject: Subject) -> Agreement:
    """F1 on every prompt of the subject. Raises ValueError for logits that are not finite."""
    found = subject.per_pair(lambda pairs: _compared(subject, pairs))
    kl_binary, kl_vocab, choice, token = (subject.resampling.mean(row) for row in found[:4])
    correlation = subject.resampling.estimate(lambda weights: _pearson(means(found[4:], weights)))
    return Agreement(
        kl_binary=kl_binary,
        kl_vocab=kl_vocab,
        same_choice=choice,
        same_token=token,
        contrast_correlation=correlation,
    )


def _compared(subject: Subject, pairs: Pairs) -> Float[Tensor, "9 n"]:
    """Both KLs, both agreements, and the first and second moments of the contrasts x of f and y of f_C: x y xx yy xy."""
    tokens, last = pairs.flat_tokens, pairs.last
    f, f_c = (last_logits(subject.model, tokens, last, *subject.way(circuit)).double() for circuit in (False, True))
    of_pair = pairs.completions[:, None].expand(-1, 2, -1).flatten(0, 1)
    two, two_c = f.gather(-1, of_pair), f_c.gather(-1, of_pair)
    x, y = two[:, 0] - two[:, 1], two_c[:, 0] - two_c[:, 1]
    rows = [
        kl_divergence(two, two_c),
        kl_divergence(f, f_c),
        ((x > 0) == (y > 0)).double(),
        (f.argmax(-1) == f_c.argmax(-1)).double(),
        *(x, y, x * x, y * y, x * y),
    ]
    return torch.stack(rows).unflatten(-1, (-1, 2)).mean(-1)


def kl_divergence(logits: Float[Tensor, "rows V"], others: Float[Tensor, "rows V"]) -> Float[Tensor, " rows"]:
    """KL of the distributions of two sets of logits, nats; rounding cannot make it negative."""
    p, q = logits.log_softmax(-1), others.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)


def _pearson(moments: Float[Tensor, "R 5"]) -> Float[Tensor, " R"]:
    """From the means of x, y, xx, yy, xy; NaN where x or y does not vary."""
    x, y, xx, yy, xy = moments.unbind(-1)
    variances = torch.stack([varying(xx, x), varying(yy, y)])
    return (xy - x * y) / variances.prod(0).sqrt()


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """Losses, and how much of the way from empty circuit to model the circuit goes (F2)."""

    model_loss: Estimate
    """L(f), nats."""
    circuit_loss: Estimate
    """L(f_C), nats."""
    empty_loss: Estimate
    """Loss with every node ablated, nats."""
    faithfulness: Estimate | None
    """(L(empty) - L(f_C)) / (L(empty) - L(f)), not clipped; None where the model does no better than the empty circuit."""
    better_than_model: bool
    """Whether faithfulness is above 1: the circuit then lacks something that misleads the model."""


@torch.no_grad()
def faithfulness(subject: Subject) -> Faithfulness:
    """F2."""
    resampling = subject.resampling
    model, circuit, empty = subject.model_losses(), subject.circuit_losses(), subject.empty_losses()
    ratio = resampling.ratio(empty - circuit, empty - model) if float((empty - model).mean()) > 1e-6 else None
    return Faithfulness(
        model_loss=resampling.mean(model),
        circuit_loss=resampling.mean(circuit),
        empty_loss=resampling.mean(empty),
        faithfulness=ratio,
        better_than_model=ratio is not None and ratio.value > 1,
    )


@dataclass(frozen=True, kw_only=True)
class AgainstRandom:
    """A number of the circuit beside the same number of random sets with as many nodes at every site (F3)."""

    value: Estimate
    """Of the circuit, nats."""
    random: Estimate
    """Mean over the random sets, nats."""
    z: float | None
    """How many standard deviations of the random sets the circuit is better than their mean; None where all score alike."""
    sets: int
    """Random sets."""
    as_good: int
    """How many of them do as well as the circuit, or better."""


@torch.no_grad()
def sufficiency(subject: Subject, *, sets: int = 32, seed: int = 0) -> AgainstRandom:
    """F3: L(f_C), nats. Better is lower. `sets` random sets, at least 2."""
    others = subject.losses(subject.random_masks(_several(sets), seed), cut=0.0)
    return _against(subject.resampling, subject.circuit_losses(), others, better=-1)


@torch.no_grad()
def necessity(subject: Subject, *, sets: int = 32, seed: int = 0) -> AgainstRandom:
    """F3: L(f with C ablated) - L(f), nats. Better is higher. `sets` random sets, at least 2."""
    masks = torch.cat([subject.kept[None], subject.random_masks(_several(sets), seed)])
    rises = subject.losses(1 - masks, cut=0.0) - subject.model_losses()
    return _against(subject.resampling, rises[0], rises[1:], better=1)


def _several(sets: int) -> int:
    if sets < 2:
        raise ValueError(f"{sets} random sets of nodes asked for; ask for at least 2")
    return sets


def _against(resampling: Resampling, own: Tensor, others: Float[Tensor, "K n"], better: int) -> AgainstRandom:
    scores = others.double().mean(-1)
    spread, ahead = float(scores.std()), better * float(own.double().mean() - scores.mean())
    return AgainstRandom(
        value=resampling.mean(own),
        random=resampling.over_draws(others),
        z=ahead / spread if spread > 1e-6 else None,
        sets=len(others),
        as_good=int((better * (scores - own.double().mean()) >= -1e-6).sum()),
    )


@dataclass(frozen=True, kw_only=True)
class Completeness:
    """Whether the circuit breaks the way the model breaks (F4)."""

    mean_gap: Estimate | None
    """|L(f_C without K) - L(f without K)|, nats, mean over random parts K of C; None for an empty circuit."""
    largest_gap: Estimate | None
    """Its maximum over the parts drawn."""
    largest_part: tuple[Node, ...]
    """The part with the largest gap."""
    parts: int
    """Parts drawn; their sizes are spread evenly over 1 .. |C|."""


@torch.no_grad()
def completeness(subject: Subject, *, parts: int = 32, seed: int = 0) -> Completeness:
    """F4 on `parts` random parts of the circuit."""
    if not subject.nodes:
        return Completeness(mean_gap=None, largest_gap=None, largest_part=(), parts=0)
    removed = _random_parts(subject.kept, parts, seed)
    gaps = subject.losses(subject.kept - removed, cut=1.0) - subject.losses(1 - removed, cut=0.0)
    return Completeness(
        mean_gap=subject.resampling.over_draws(gaps, lambda found: found.abs().mean(-1)),
        largest_gap=subject.resampling.estimate(lambda weights: means(gaps, weights).abs().amax(-1)),
        largest_part=subject.layout.nodes(removed[int(gaps.mean(-1).abs().argmax())]),
        parts=parts,
    )


def _random_parts(kept: Float[Tensor, " N"], parts: int, seed: int) -> Float[Tensor, "K N"]:
    generator, inside = torch.Generator().manual_seed(seed), kept.nonzero().flatten()
    found = torch.zeros(parts, len(kept))
    for i in range(parts):
        size = max(1, round((i + 0.5) / parts * len(inside)))
        found[i, inside[torch.randperm(len(inside), generator=generator)[:size]]] = 1.0
    return found


@dataclass(frozen=True, kw_only=True)
class NodeEffect:
    """What one node adds."""

    node: Node
    effect: Estimate
    """L(f_C without the node) - L(f_C), nats."""


@dataclass(frozen=True, kw_only=True)
class Minimality:
    """What each node of the circuit adds (F5)."""

    effects: tuple[NodeEffect, ...]
    """One per node asked for, in forward order."""
    idle: tuple[Node, ...]
    """Nodes whose effect is at most `eps`."""
    idle_share: Estimate | None
    """Their share of the nodes; None for an empty circuit."""
    eps: float
    """Nats."""


@torch.no_grad()
def minimality(subject: Subject, *, eps: float = IDLE, most: int | None = None) -> Minimality:
    """F5: one node at a time. (What could go without missing the target is `prune.refine.minimality`.)

    most: nodes that are asked for, spread evenly over the circuit; None: all.
    """
    if not subject.nodes:
        return Minimality(effects=(), idle=(), idle_share=None, eps=eps)
    inside = subject.kept.nonzero().flatten()
    step = 1 if most is None else -(-len(inside) // most)
    inside, nodes = inside[::step], subject.nodes[::step]
    rises = torch.cat([subject.losses(_without(subject.kept, part), cut=1.0) for part in inside.split(MASKS_AT_ONCE)])
    rises = (rises - subject.circuit_losses()).double()
    effects = tuple(map(subject.resampling.mean, rises))
    return Minimality(
        effects=tuple(NodeEffect(node=node, effect=e) for node, e in zip(nodes, effects, strict=True)),
        idle=tuple(node for node, e in zip(nodes, effects, strict=True) if e.value <= eps),
        idle_share=subject.resampling.estimate(lambda weights: (means(rises, weights) <= eps).double().mean(-1)),
        eps=eps,
    )


def _without(kept: Float[Tensor, " N"], nodes: Int[Tensor, " K"]) -> Float[Tensor, "K N"]:
    """One mask per node: all that is kept but that one."""
    masks = kept.repeat(len(nodes), 1)
    masks[torch.arange(len(nodes)), nodes] = 0.0
    return masks
