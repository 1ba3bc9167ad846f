"""From a learned mask to a definite set of nodes (METHOD D11).

Clamped taus saturate, so their order says nothing. Instead, on one fixed validation batch:
0. active nodes that cost next to nothing together go together, which leaves fewer to look at one by one;
1. each active node's effect = loss with that node alone ablated - loss with all active nodes;
2. for every k <= active, the loss with the k most effective nodes kept (all of them: monotonicity is not assumed);
3. the smallest k whose loss + 1 standard error meets the target;
4. greedy deletion: the node whose removal costs least goes, while the target still holds;
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_circuits.circuit.circuit import CurvePoint

TRIED_PER_ROUND = 8
"""Nodes a round of greedy deletion tries at once."""
IDLE_SHARE = 0.1
"""Share of the distance to the target that one round of `without_idle` may use up."""
Losses = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Masks [K, N] -> mean task loss on the fixed validation pairs and its standard error, [K] each."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A definite set of nodes."""

    mask: Float[Tensor, " N"]
    """1 at kept nodes."""
    curve: tuple[CurvePoint, ...]
    """Validation loss of every k, in the order of the effects."""
    met: bool
    """Whether validation loss + 1 standard error meets the target."""


def mean_and_error(losses: Float[Tensor, "K n"], templates: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Mean over pairs and its standard error, [K] each.

    Pairs of one template stand or fall together, so the error is that of the template means (a cluster-robust error): with
    C templates, std(template means) / sqrt(C). With a single template it falls back to the error over pairs.
    """
    found = templates.unique()
    if len(found) > 1:
        groups = torch.stack([losses[:, templates == template].mean(-1) for template in found], -1)
    else:
        groups = losses
    error = groups.std(-1) / math.sqrt(groups.shape[-1]) if groups.shape[-1] > 1 else torch.zeros(len(losses))
    return losses.mean(-1), error


def choose(losses: Losses, active: Float[Tensor, " N"], target: float) -> Chosen:
    """Steps 0-4 for one learned mask. Where no k meets the target, the k with the lowest loss is taken and `met` is False."""
    active = without_idle(losses, active, target)
    order = _by_effect(losses, active)
    curve = _curve(losses, order, len(active))
    fitting = [point.nodes for point in curve if point.loss + point.standard_error <= target]
    if not fitting:
        best = min(curve, key=lambda point: point.loss).nodes
        return Chosen(mask=_mask(order[:best], len(active)), curve=curve, met=False)
    kept = delete_greedily(losses, order[: min(fitting)], len(active), target)
    return Chosen(mask=_mask(kept, len(active)), curve=curve, met=True)


def without_idle(losses: Losses, active: Float[Tensor, " N"], target: float) -> Float[Tensor, " N"]:
    """Step 0: the mask without nodes that do next to nothing, even together.

    Each round orders the nodes by the loss without each alone and takes out the longest prefix of that order (of several
    lengths) after which loss + 1 error has used up no more than `IDLE_SHARE` of its distance to the target.
    """
    size = len(active)
    kept = active.nonzero().flatten().tolist()
    while len(kept) > TRIED_PER_ROUND:
        without, _ = losses(_without_each(kept, size))
        order = [node for _, node in sorted(zip(without.tolist(), kept, strict=True))]
        lengths = _lengths(len(order))
        means, errors = losses(torch.stack([_mask(order[length:], size) for length in (0, *lengths)]))
        now, *bounds = (means + errors).tolist()
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
    base, _ = losses(_mask(nodes, size)[None])
    return (losses(_without_each(nodes, size))[0] - base).tolist()


def _by_effect(losses: Losses, active: Float[Tensor, " N"]) -> list[int]:
    """Active nodes, the most effective first; ties by position."""
    nodes = active.nonzero().flatten().tolist()
    effects = node_effects(losses, nodes, len(active))
    return [node for _, node in sorted(zip(effects, nodes, strict=True), key=lambda pair: (-pair[0], pair[1]))]


def _curve(losses: Losses, order: Sequence[int], size: int) -> tuple[CurvePoint, ...]:
    masks = torch.stack([_mask(order[:k], size) for k in range(len(order) + 1)])
    means, errors = losses(masks)
    points = zip(means.tolist(), errors.tolist(), strict=True)
    return tuple(CurvePoint(nodes=k, loss=mean, standard_error=error) for k, (mean, error) in enumerate(points))


def delete_greedily(losses: Losses, nodes: Sequence[int], size: int, target: float) -> list[int]:
    """Takes out the node whose removal costs least, again and again, while loss + 1 error meets the target.

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
            means, errors = losses(masks)
            cost.update(zip(tried, means.tolist(), strict=True))
            fitting = [node for node, fits in zip(tried, (means + errors <= target).tolist(), strict=True) if fits]
            holding = min(fitting, key=cost.__getitem__, default=None)
        if holding is None:
            break
        kept.remove(holding)
    return kept
