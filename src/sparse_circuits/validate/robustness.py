"""Does the circuit hold when what is outside it is ablated only in part, or when the question is asked differently.

A circuit is found with everything else ablated at once. Two ablations outside it may cancel, and then the loss is low only as long
as both are made.
- `stochastic_ablation` (METHOD F9a): every outside node is ablated with probability r. The curve from r = 1 (the circuit) to 0
  (the model) should lead straight from one loss to the other; a bump means ablations that cancel.
- `adversarial_ablation` (F9b): one strength per outside node, the same for all prompts, chosen by gradient ascent on the loss.
- `shifted_splits` (F14): circuit and model on the task's shifted splits. What counts is the gap between the two.

What a circuit's cut edges send is outside it as well: they are cut to the degree r, or to a strength of their own.

Shapes: n pairs, N nodes, K draws, P points of the curve.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_circuits.circuit.evaluate import contrast, pair_losses
from sparse_circuits.model.taps import Mask
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.tasks.task import UnusableTokens
from sparse_circuits.validate.statistics import Curve, Estimate, curve, defined, means
from sparse_circuits.validate.subject import Subject

LEVELS = 10
"""Probabilities r between the two ends."""
BUMP = 0.05
"""Nats that a bump must certainly exceed to count: a third of the loss that circuits are usually pruned to."""


@dataclass(frozen=True, kw_only=True)
class StochasticAblation:
    """Task loss with every outside node ablated with probability r (F9a)."""

    loss: Estimate
    """Mean over r ~ U(0, 1), nats."""
    high_loss: Estimate
    """95th percentile over r and the subsets drawn, nats; the loss of a subset is its mean over pairs."""
    relaxation: Curve
    """Loss from r = 1, the circuit, to r = 0, the model."""
    bump: Estimate
    """Largest move against the direction from the first point to the last, nats: of the loss along every single order in which
    nodes are let back in, mean over the orders. (Few subsets undo a cancellation, so their mean at one r would hide it.)"""
    monotone: bool
    """Whether `bump` is, within its error, no more than 0.05."""


@torch.no_grad()
def stochastic_ablation(subject: Subject, *, draws: int = 16, seed: int = 0) -> StochasticAblation:
    """F9a on `draws` random orders in which outside nodes are let back in: subsets of one draw are nested.

    r takes 10 evenly spread values, which makes the mean over them that over r ~ U(0, 1).
    """
    when = torch.rand(draws, subject.layout.size, generator=torch.Generator().manual_seed(seed))
    at = (1.0, *((LEVELS - i - 0.5) / LEVELS for i in range(LEVELS)), 0.0)
    points = torch.stack([_relaxed(subject, when, r) for r in at])
    between, resampling = points[1:-1], subject.resampling
    sign = 1 if points[-1].mean() <= points[0].mean() else -1
    bump = resampling.over_draws(points, lambda found: _largest_rise(sign * found).mean(-1))
    return StochasticAblation(
        loss=resampling.over_draws(between),
        high_loss=resampling.over_draws(between, lambda found: found.flatten(1).quantile(0.95, dim=1)),
        relaxation=curve(resampling, at, points),
        bump=bump,
        monotone=bump.low <= BUMP,
    )


def _relaxed(subject: Subject, when: Float[Tensor, "K N"], r: float) -> Float[Tensor, "K n"]:
    """Loss with the outside nodes ablated whose number is below r."""
    masks = torch.maximum(subject.kept, (when >= r).float())
    alike = r in (0, 1)
    losses = subject.losses(masks[:1] if alike else masks, cut=r)
    return losses.expand(len(masks), -1) if alike else losses


def _largest_rise(losses: Float[Tensor, "R P K"]) -> Float[Tensor, "R K"]:
    """Along the points: how far a later one lies above an earlier one, at most."""
    return (losses - losses.cummin(1).values).amax(1)


STEPS, FIRST_STEP = 16, 0.25
"""Of gradient ascent: steps, and the size of the first; they shrink linearly."""


@dataclass(frozen=True, kw_only=True)
class AdversarialAblation:
    """The worst that ablating outside nodes to chosen degrees does to the loss (F9b)."""

    loss: Estimate
    """Highest loss found, nats: strengths between 0 (as in the model) and 1 (ablated), the same for all pairs. What maximises
    it was chosen on these very pairs."""
    ablated: int
    """Outside nodes with a strength of at least 1/2 there."""
    outside: int
    """Nodes outside the circuit."""


@torch.no_grad()
def adversarial_ablation(subject: Subject, *, steps: int = STEPS) -> AdversarialAblation:
    """F9b: signed gradient ascent from the circuit, from the model and from halfway between; of all points visited, and of each
    ascent's best one rounded to 0 and 1, the worst."""
    found: list[tuple[float, Tensor]] = []
    if not bool((subject.kept == 0).any()) and not subject.circuit.cut_edges:
        steps = 0  # nothing to choose
    for start in (1.0, 0.5, 0.0):
        here, visited = torch.full((subject.layout.size + 1,), start), []
        for step in range(steps + 1):
            losses, slope = _ascended(subject, here)
            visited.append((float(losses.mean()), here))
            here = (here + FIRST_STEP * (1 - step / max(1, steps)) * slope.sign()).clamp(0, 1)
        best = max(visited, key=lambda point: point[0])
        subset = (best[1] >= 0.5).float()
        found += [best, (float(_ascended(subject, subset)[0].mean()), subset)]
    _, strengths = max(found, key=lambda point: point[0])
    outside = subject.kept == 0
    return AdversarialAblation(
        loss=subject.resampling.mean(_ascended(subject, strengths)[0]),
        ablated=int((strengths[:-1] >= 0.5)[outside].sum()),
        outside=int(outside.sum()),
    )


def _ascended(subject: Subject, strengths: Float[Tensor, " N_1"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " N_1"]]:
    """Losses with every outside node ablated to its strength, the cut edges to the last, and the gradient of their sum."""
    leaf, slope = strengths.detach().to(subject.device).requires_grad_(), torch.zeros_like(strengths)
    outside = 1 - subject.kept.to(subject.device)

    def measured(pairs: Pairs) -> Float[Tensor, " n"]:
        # The mask's `kept` stays open: where it names the channels to keep, the others are constants without a gradient.
        tap = Mask(subject.layout.split(1 - leaf[:-1] * outside), subject.values)
        losses = pair_losses(subject.model, pairs, tap, subject.circuit.loss_kind, subject.edges(leaf[-1]) or None)
        slope.add_(torch.autograd.grad(losses.sum(), leaf)[0].cpu())
        return losses.detach()

    with torch.enable_grad():
        return subject.per_pair(measured), slope


@dataclass(frozen=True, kw_only=True)
class ShiftedScore:
    """Model and circuit on one split (F14)."""

    model_accuracy: Estimate
    """Share of prompts whose right completion of the two has the higher logit, in the model."""
    circuit_accuracy: Estimate
    accuracy_gap: Estimate
    """|model - circuit|, of the two shares."""
    model_loss: Estimate
    """Nats."""
    circuit_loss: Estimate
    loss_gap: Estimate
    """circuit - model, nats; negative where the circuit does better."""


@dataclass(frozen=True, kw_only=True)
class ShiftedSplits:
    """Model and circuit where the question is asked differently (F14)."""

    own: ShiftedScore
    """On the subject's own split, to compare with."""
    splits: Mapping[str, ShiftedScore]
    """Shifted split -> score; empty for a task that declares none."""
    largest_gap: Estimate | None
    """The largest accuracy gap among them; None where none was scored."""
    unusable: Mapping[str, str] = field(default_factory=dict)
    """Shifted splits that this model or tokenizer cannot be asked -> the reason, one line."""


@torch.no_grad()
def shifted_splits(subject: Subject) -> ShiftedSplits:
    """F14 with as many pairs per split as the subject has."""
    splits, unusable = {}, {}
    for split in subject.task.shifted:
        try:
            splits[split] = scored(subject.on(split))
        except UnusableTokens as error:
            unusable[split] = str(error)
    gaps = [score.accuracy_gap for score in splits.values()]
    return ShiftedSplits(
        own=scored(subject),
        splits=splits,
        largest_gap=max(gaps, key=lambda gap: gap.value, default=None),
        unusable=unusable,
    )


@torch.no_grad()
def scored(subject: Subject) -> ShiftedScore:
    """Model and circuit on the subject's own pairs."""
    resampling = subject.resampling
    right = [subject.per_pair(lambda pairs, c=circuit: _right(subject, pairs, c)).double() for circuit in (False, True)]
    losses = subject.model_losses(), subject.circuit_losses()
    gap = right[0] - right[1]
    return ShiftedScore(
        model_accuracy=resampling.mean(right[0]),
        circuit_accuracy=resampling.mean(right[1]),
        accuracy_gap=defined(resampling.estimate(lambda weights: means(gap, weights).abs())),
        model_loss=resampling.mean(losses[0]),
        circuit_loss=resampling.mean(losses[1]),
        loss_gap=resampling.mean(losses[1] - losses[0]),
    )


def _right(subject: Subject, pairs: Pairs, circuit: bool) -> Float[Tensor, " n"]:
    """Share of both prompts answered right."""
    found = contrast(subject.model, pairs, *subject.way(circuit))
    return ((found[:, 0] > 0).float() + (found[:, 1] < 0).float()) / 2
