"""Choosing a definite set of nodes, on made-up loss functions without a model, against brute force."""

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparse_circuits.prune.choice import Scores
from sparse_circuits.prune.discretize import Losses, choose, delete_greedily, node_effects, remembered


def exactly(loss: Callable[[frozenset[int]], float], error: float = 0.0) -> Losses:
    """Losses of sets, without noise."""

    def losses(masks: Tensor) -> Scores:
        means = torch.tensor([loss(frozenset(m.nonzero().flatten().tolist())) for m in masks], dtype=torch.double)
        return Scores(means, torch.full_like(means, error), means + error)

    return losses


def additive(weights: list[float]) -> Callable[[frozenset[int]], float]:
    """Leaving node i out costs weights[i]."""
    return lambda kept: sum(weight for i, weight in enumerate(weights) if i not in kept)


def kept(mask: Tensor) -> frozenset[int]:
    return frozenset(mask.nonzero().flatten().tolist())


@given(st.lists(st.integers(0, 8), min_size=1, max_size=7), st.integers(1, 20), st.data())
def test_of_additive_losses_the_smallest_set_is_found(units: list[int], target: int, data: st.DataObject) -> None:
    """Against every subset of the active nodes; weights in eighths, so that sums are exact and ties are many."""
    active = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(units), max_size=len(units)))).float()
    loss = additive([unit / 8 for unit in units])
    chosen = choose(exactly(loss), active, target / 8)
    allowed = sorted(kept(active))
    fitting = [
        size
        for size in range(len(allowed) + 1)
        if any(loss(frozenset(subset)) <= target / 8 for subset in combinations(allowed, size))
    ]
    assert chosen.met == bool(fitting)
    assert kept(chosen.mask) <= set(allowed)
    if fitting:
        assert loss(kept(chosen.mask)) <= target / 8 and len(kept(chosen.mask)) == min(fitting)


def test_the_curve_keeps_the_most_effective_nodes_for_every_k() -> None:
    loss = additive([0.1, 0.5, 0.0, 0.2])
    chosen = choose(exactly(loss), torch.tensor([1.0, 1.0, 0.0, 1.0]), 0.01)
    assert [point.nodes for point in chosen.curve] == [0, 1, 2, 3]
    assert [point.loss for point in chosen.curve] == pytest.approx([0.8, 0.3, 0.1, 0.0])


def test_equal_effects_are_taken_by_position() -> None:
    chosen = choose(exactly(lambda nodes: 0.3 * max(0, 2 - len(nodes))), torch.ones(5), 0.0)
    assert [point.loss for point in chosen.curve] == pytest.approx([0.6, 0.3, 0, 0, 0, 0])
    assert kept(chosen.mask) == {0, 1}


def test_a_curve_that_falls_and_rises_still_gives_the_smallest_k() -> None:
    """One node is enough, two are not, four are: bisection between 0 and 4 would say four (METHOD C10)."""
    by_size = {0: 0.7, 1: 0.1, 2: 0.5, 3: 0.5, 4: 0.05}
    chosen = choose(exactly(lambda nodes: by_size[len(nodes)]), torch.ones(4), 0.15)
    assert chosen.met and kept(chosen.mask) == {0}


def test_greedy_deletion_follows_the_choice_of_k() -> None:
    """Node 0 only makes up for node 2: most effective of all at first, useless once 2 is gone."""

    def loss(nodes: frozenset[int]) -> float:
        return 0.3 * (1 not in nodes) + 0.5 * (2 in nodes and 0 not in nodes)

    chosen = choose(exactly(loss), torch.ones(3), 0.15)
    assert [point.loss for point in chosen.curve] == pytest.approx([0.3, 0.3, 0.0, 0.0])  # order 0, 1, 2: k = 2
    assert kept(chosen.mask) == {1}


def test_one_standard_error_belongs_to_the_condition() -> None:
    loss = additive([0.1, 0.5])
    assert kept(choose(exactly(loss, error=0.0), torch.ones(2), 0.12).mask) == {1}
    assert kept(choose(exactly(loss, error=0.05), torch.ones(2), 0.12).mask) == {0, 1}
    assert not choose(exactly(loss, error=0.2), torch.ones(2), 0.12).met


def test_where_no_k_meets_the_target_the_best_is_given_as_a_miss() -> None:
    by_size = {0: 0.9, 1: 0.4, 2: 0.6}
    chosen = choose(exactly(lambda nodes: by_size[len(nodes)]), torch.ones(2), 0.15)
    assert not chosen.met and kept(chosen.mask) == {0}


def test_nothing_active_and_nothing_needed() -> None:
    assert not choose(exactly(additive([1.0, 1.0])), torch.zeros(2), 0.5).met
    chosen = choose(exactly(lambda nodes: 0.0), torch.ones(3), 0.5)
    assert chosen.met and kept(chosen.mask) == frozenset()


@given(st.integers(1, 14), st.integers(0, 10**6), st.floats(0.1, 2))
def test_after_greedy_deletion_no_single_node_can_go(count: int, seed: int, target: float) -> None:
    """Arbitrary interactions: every pair of nodes that is not whole costs or gives something of its own."""
    draw = torch.Generator().manual_seed(seed)
    alone, together = torch.rand(count, generator=draw), torch.randn(count, count, generator=draw) / 4

    def loss(nodes: frozenset[int]) -> float:
        out = torch.ones(count)
        out[list(nodes)] = 0
        return float(out @ alone + out @ together @ out)

    left = delete_greedily(exactly(loss), list(range(count)), count, target)
    if loss(frozenset(range(count))) <= target:
        assert loss(frozenset(left)) <= target
    assert all(loss(frozenset(left) - {node}) > target for node in left)


def test_greedy_deletion_takes_the_cheapest_first() -> None:
    """0.1 + 0.2 fits into 0.35; taking out 0.3 first would leave room for nothing else."""
    loss = additive([0.3, 0.1, 0.2, 9.0])
    assert set(delete_greedily(exactly(loss), [0, 1, 2, 3], 4, 0.35)) == {0, 3}


def test_node_effects_are_the_rise_when_one_alone_is_taken_out() -> None:
    effects = node_effects(exactly(additive([0.3, 0.1, 0.2])), [2, 0], 3)
    assert effects == pytest.approx([0.2, 0.3])
    assert node_effects(exactly(additive([1.0])), [], 1) == []


def test_remembered_losses_are_the_same_and_each_mask_is_scored_once() -> None:
    asked: list[int] = []
    weights = [0.3, 0.1, 0.2]

    def losses(masks: Tensor) -> Scores:
        asked.append(len(masks))
        return exactly(additive(weights), error=0.25)(masks)

    known = remembered(losses)
    first, second = torch.eye(3), torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    for masks in (first, second, first):
        found, expected = known(masks), exactly(additive(weights), error=0.25)(masks)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        assert torch.equal(found.bound, expected.bound)
    assert asked == [3, 1]
    assert len(known(torch.zeros(2, 3)).mean) == 2 and asked == [3, 1, 1], "equal masks of one call are one"
    assert len(known(torch.zeros(0, 3)).mean) == 0


def test_what_loses_too_much_is_given_up() -> None:
    """By hand: {0, 1} loses 0.9, alone each would do; neither is tried, which is the price of it."""
    asked: list[int] = []
    by_set = {frozenset(): 0.95, frozenset({0, 1}): 0.9}

    def losses(masks: Tensor) -> Scores:
        asked.append(len(masks))
        return exactly(lambda nodes: by_set.get(nodes, 0.0))(masks)

    chosen = choose(losses, torch.ones(2), 0.15, give_up_above=0.7)
    assert not chosen.met and chosen.given_up and kept(chosen.mask) == frozenset() and sum(asked) == 3
    assert [(point.nodes, point.loss) for point in chosen.curve] == [(0, 0.95), (2, 0.9)]
    assert choose(exactly(lambda nodes: 0.9), torch.ones(2), 1.0, give_up_above=0.7).met, (
        "a target above it is a target"
    )
    assert choose(exactly(lambda nodes: by_set.get(nodes, 0.0)), torch.ones(2), 0.15).met, "without it every k is tried"
