"""From a learned mask to a definite set of nodes (METHOD D11).

Clamped taus saturate, so their order says nothing. Instead, on one fixed batch (choice.py):
0. active nodes that cost next to nothing together go together, which leaves fewer to look at one by one;
1. each active node's effect = loss with that node alone ablated - loss with all active nodes;
2. for every k <= active, the loss with the k most effective nodes kept (all of them: monotonicity is not assumed);
3. the smallest k that meets the target with its standard error, on each split (choice.py);
4. greedy deletion: the node whose removal costs least goes, while the target still holds;
None of it for a learned mask that a control gives up (`give_up_above`): it is a miss. (A subset that does the task while all of
what was learned does not would be overlooked, so what is no control is never given up.)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_circuits.circuit.circuit import CurvePoint
from sparse_circuits.prune.choice import Scores

TRIED_PER_ROUND = 8
"""Nodes a round of greedy deletion tries at once."""
IDLE_SHARE = 0.1
"""Share of the distance to the target that one round of `without_idle` may use up."""
Losses = Callable[[Tensor], Scores]
"""Masks [K, N] -> what they score on the choice batch."""


def remembered(losses: Losses) -> Losses:
    """The same losses, each mask scored once: the steps ask for many masks again."""
    known: dict[bytes, tuple[float, ...]] = {}

    def look_up(masks: Tensor) -> Scores:
        keys = [mask.nonzero().numpy().tobytes() for mask in masks]
        new = {key: i for i, key in enumerate(keys) if key not in known}
        if new:
            rows = torch.stack(list(losses(masks[list(new.values())])), -1).tolist()
            known.update(zip(new, map(tuple, rows), strict=True))
        found = torch.tensor([known[key] for key in keys], dtype=torch.float64)
        return Scores(*found.view(len(keys), len(Scores._fields)).unbind(-1))

    return look_up


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A definite set of nodes."""

    mask: Float[Tensor, " N"]
    """1 at kept nodes."""
    curve: tuple[CurvePoint, ...]
    """Loss of every k on the choice batch, in the order of the effects; of none and all, where the mask was given up."""
    met: bool
    """Whether the target holds."""
    given_up: bool = False
    """Whether no choice was tried."""


def choose(losses: Losses, active: Float[Tensor, " N"], target: float, *, give_up_above: float = math.inf) -> Chosen:
    """Steps 0-4 for one learned mask. Where no k meets the target, the k with the lowest loss is taken and `met` is False.

    give_up_above: a mask with a larger loss than this, and the target, is given up without any node, nats.
    """
    if float(losses(active[None]).mean) > max(target, give_up_above):
        return _given_up(losses, active)
    active = without_idle(losses, active, target)
    order = _by_effect(losses, active)
    curve, bounds = _curve(losses, order, len(active))
    fitting = [point.nodes for point, bound in zip(curve, bounds, strict=True) if bound <= target]
    if not fitting:
        best = min(curve, key=lambda point: point.loss).nodes
        return Chosen(mask=_mask(order[:best], len(active)), curve=curve, met=False)
    kept = delete_greedily(losses, order[: min(fitting)], len(active), target)
    return Chosen(mask=_mask(kept, len(active)), curve=curve, met=True)


def _given_up(losses: Losses, active: Float[Tensor, " N"]) -> Chosen:
    """No node, as a miss."""
    masks = torch.stack([torch.zeros_like(active), active])
    found = losses(masks)
    points = zip(masks.sum(-1).int().tolist(), found.mean.tolist(), found.error.tolist(), strict=True)
    curve = tuple(CurvePoint(nodes=k, loss=mean, standard_error=error) for k, mean, error in points)
    return Chosen(mask=masks[0], curve=curve, met=False, given_up=True)


def without_idle(losses: Losses, active: Float[Tensor, " N"], target: float) -> Float[Tensor, " N"]:
    """Step 0: the mask without nodes that do next to nothing, even together.

    Each round orders the nodes by the loss without each alone and takes out the longest prefix of that order (of several
    lengths) after which the bound has used up no more than `IDLE_SHARE` of its distance to the target.
    """
    size = len(active)
    kept = active.nonzero().flatten().tolist()
    while len(kept) > TRIED_PER_ROUND:
        without = losses(_without_each(kept, size)).mean
        order = [node for _, node in sorted(zip(without.tolist(), kept, strict=True))]
        lengths = _lengths(len(order))
        now, *bounds = losses(torch.stack([_mask(order[length:], size) for length in (0, *lengths)])).bound.tolist()
        allowed = now + IDLE_SHARE * (target - now)
        fitting = [length for length, bound in zip(lengths, bounds, strict=True) if bound <= allowed]
        if now > target or not fitting:
            break
        kept = sorted(order[max(fitting) :])
    return _mask(kept, size)


def _lengths(number: int) -> list[int]:
    """Prefix lengths to try: from most of a number down, each three quarters of the one before."""
    lengths = []
    while (number := 3 * number // 4) >= TRIED_PER_ROUND:
        lengths.append(number)
    return lengths


def _mask(nodes: Sequence[int], size: int) -> Float[Tensor, " N"]:
    mask = torch.zeros(size)
    mask[list(nodes)] = 1.0
    return mask


def _without_each(nodes: Sequence[int], size: int) -> Float[Tensor, "K N"]:
    """One mask per node: all of them but that one."""
    masks = _mask(nodes, size).repeat(len(nodes), 1)
    masks[range(len(nodes)), list(nodes)] = 0.0
    return masks


def node_effects(losses: Losses, nodes: Sequence[int], size: int) -> list[float]:
    """Rise of the mean loss when each node alone is taken out of the set."""
    if not nodes:
        return []
    base = losses(_mask(nodes, size)[None]).mean
    return (losses(_without_each(nodes, size)).mean - base).tolist()


def _by_effect(losses: Losses, active: Float[Tensor, " N"]) -> list[int]:
    """Active nodes, the most effective first; ties by position."""
    nodes = active.nonzero().flatten().tolist()
    effects = node_effects(losses, nodes, len(active))
    return [node for _, node in sorted(zip(effects, nodes, strict=True), key=lambda pair: (-pair[0], pair[1]))]


def _curve(losses: Losses, order: Sequence[int], size: int) -> tuple[tuple[CurvePoint, ...], list[float]]:
    """What every k scores, and its bound."""
    found = losses(torch.stack([_mask(order[:k], size) for k in range(len(order) + 1)]))
    points = enumerate(zip(found.mean.tolist(), found.error.tolist(), strict=True))
    curve = tuple(CurvePoint(nodes=k, loss=mean, standard_error=error) for k, (mean, error) in points)
    return curve, found.bound.tolist()


def delete_greedily(losses: Losses, nodes: Sequence[int], size: int, target: float) -> list[int]:
    """Takes out the node whose removal costs least, again and again, while the target holds.

    What a removal costs changes little from one round to the next, so each round tries the few nodes that were cheapest
    when last tried and takes the best of them; only when none of them holds are the others tried. At the end every
    remaining node has been tried alone and none can go.
    """
    kept = list(nodes)
    cost = dict.fromkeys(kept, -math.inf)
    while kept:
        waiting = sorted(kept, key=lambda node: (cost[node], -kept.index(node)))
        holding = None
        while waiting and holding is None:
            tried, waiting = waiting[:TRIED_PER_ROUND], waiting[TRIED_PER_ROUND:]
            masks = _without_each(kept, size)[[kept.index(node) for node in tried]]
            found = losses(masks)
            cost.update(zip(tried, found.mean.tolist(), strict=True))
            fitting = [node for node, bound in zip(tried, found.bound.tolist(), strict=True) if bound <= target]
            holding = min(fitting, key=cost.__getitem__, default=None)
        if holding is None:
            break
        kept.remove(holding)
    return kept
