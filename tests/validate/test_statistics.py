"""Intervals: by hand where two templates leave no choice, against simulations where they do."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_circuits.prune.choice import mean_and_error
from sparse_circuits.validate.statistics import Resampling, curve, defined, means, varying

numbers = st.floats(-100, 100)


def per_template(*counts: int) -> torch.Tensor:
    """Templates 0, 1, ... with these many pairs."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def test_two_templates_leave_their_two_means() -> None:
    """Of two templates one is drawn: a replicate is the mean of one, [1, 2] or [6, 10], and each comes half the time."""
    resampling = Resampling.of(per_template(2, 2))
    found = resampling.mean(torch.tensor([1.0, 2.0, 6.0, 10.0]))
    assert (found.value, found.low, found.high, found.n) == (4.75, 1.5, 8.0, 4)
    replicates = means(torch.tensor([1.0, 2.0, 6.0, 10.0]), resampling.weights)
    assert set(replicates.tolist()) == {1.5, 8.0} and 400 < int((replicates == 1.5).sum()) < 600


def test_three_templates_of_different_size_by_enumeration() -> None:
    """Two of three are drawn; pairs weigh alike within a replicate, so a template of two pairs counts twice."""
    values, sizes = {0: 1.0, 1: 5.0, 2: 9.0}, {0: 2, 1: 1, 2: 1}
    expected = {
        round(sum(values[t] * sizes[t] for t in drawn) / sum(sizes[t] for t in drawn), 9)
        for drawn in product(range(3), repeat=2)
    }
    resampling = Resampling.of(per_template(2, 1, 1))
    replicates = means(torch.tensor([1.0, 1.0, 5.0, 9.0]), resampling.weights)
    assert {round(value, 9) for value in replicates.tolist()} == expected


def test_spread_is_the_standard_error_of_pruning() -> None:
    """What discretisation takes as the error of a mean: the deviation of template means over sqrt(C)."""
    templates = per_template(*[5] * 6)
    values = torch.randn(30, generator=torch.Generator().manual_seed(3)) + templates
    resampling = Resampling.of(templates, replicates=20_000)
    _, error = mean_and_error(values[None], templates)
    assert float(means(values, resampling.weights).std()) == pytest.approx(float(error), rel=0.02)


def test_intervals_hold_the_truth_and_those_that_ignore_templates_do_not() -> None:
    templates, draw = per_template(*[8] * 10), torch.Generator().manual_seed(0)
    known, ignored = Resampling.of(templates), Resampling.of(torch.arange(80))
    held = [0, 0]
    for _ in range(200):
        effects = torch.randn(10, generator=draw)
        values = effects[templates] + 0.2 * torch.randn(80, generator=draw)
        for i, resampling in enumerate((known, ignored)):
            found = resampling.mean(values)
            held[i] += found.low <= 0 <= found.high
    assert held[0] > 0.85 * 200 and held[1] < 0.65 * 200


@given(st.lists(numbers, min_size=1, max_size=12), st.integers(1, 4), numbers, st.floats(0.1, 10))
def test_mean_and_interval_move_with_the_values(
    values: list[float], templates: int, shift: float, scale: float
) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    resampling = Resampling.of(torch.arange(len(values)) % templates, replicates=60)
    found, moved = resampling.mean(x), resampling.mean(x * scale + shift)
    assert found.value == pytest.approx(sum(values) / len(values), abs=1e-9) and found.n == len(values)
    assert min(values) - 1e-9 <= found.low <= found.value <= found.high <= max(values) + 1e-9
    for name in ("value", "low", "high"):
        assert getattr(moved, name) == pytest.approx(getattr(found, name) * scale + shift, abs=1e-6)


def test_one_pair_has_no_spread() -> None:
    found = Resampling.of(torch.tensor([0])).mean(torch.tensor([0.25]))
    assert (found.low, found.value, found.high) == (0.25, 0.25, 0.25)


@given(st.floats(0, 1), st.integers(1, 40), st.integers(1, 5))
def test_equal_numbers_have_exactly_their_mean(value: float, n: int, templates: int) -> None:
    found = Resampling.of(torch.arange(n) % templates, replicates=40).mean(torch.full((n,), round(value)).double())
    assert found.low == found.value == found.high == round(value)


def test_ratio_of_means_not_mean_of_ratios() -> None:
    resampling = Resampling.of(per_template(1, 1))
    found = resampling.ratio(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 7.0]))
    assert found is not None and found.value == pytest.approx(4 / 8)
    assert (found.low, found.high) == (pytest.approx(3 / 7), pytest.approx(1.0))
    assert resampling.ratio(torch.ones(2), torch.zeros(2)) is None
    with pytest.raises(ValueError, match="not finite; check the model's weights"):
        defined(None)
    with pytest.raises(ValueError, match="not finite"):
        resampling.mean(torch.tensor([1.0, math.inf]))


def test_draws_that_differ_widen_the_interval() -> None:
    resampling = Resampling.of(torch.zeros(6, dtype=torch.long))
    alike = resampling.over_draws(torch.ones(8, 6))
    assert (alike.low, alike.value, alike.high) == (1.0, 1.0, 1.0)
    values = torch.arange(8.0)[:, None].expand(8, 6)
    found = resampling.over_draws(values)
    assert found.value == 3.5 and found.low < 2.5 and found.high > 4.5
    assert resampling.over_draws(values, lambda found: found.amax(-1)).value == 7


def test_levels_keep_their_draws_together() -> None:
    """A difference of two levels that is the same in every draw has no spread, however far the draws lie apart."""
    resampling = Resampling.of(torch.zeros(6, dtype=torch.long))
    draws = torch.tensor([1.0, 10.0, 100.0])[:, None].expand(3, 6)
    found = resampling.over_draws(torch.stack([draws, draws + 2]), lambda found: (found[:, 1] - found[:, 0]).mean(-1))
    assert found.value == pytest.approx(2) and found.low == pytest.approx(2) and found.high == pytest.approx(2)


def test_area_under_a_curve_by_hand() -> None:
    """Heights 0, 2, 4, 4 at 1, 0.5, 0.25, 0: areas 0.5 + 0.75 + 1 over a length of 1; it rises 2.25 above its first point."""
    losses = torch.tensor([0.0, 2.0, 4.0, 4.0])[:, None, None].expand(4, 3, 5)
    found = curve(Resampling.of(torch.arange(5)), (1.0, 0.5, 0.25, 0.0), losses + 1)
    assert [point.value for point in found.losses] == pytest.approx([1, 3, 5, 5])
    assert found.area.value == pytest.approx(3.25) and found.rise.value == pytest.approx(2.25)
    assert found.at == (1.0, 0.5, 0.25, 0.0)


@given(numbers, st.floats(1e-3, 1e3), st.integers(2, 30))
def test_variance_of_constants_is_not_defined(mean: float, spread: float, n: int) -> None:
    x = torch.linspace(-spread, spread, n).double() + mean
    assert float(varying(x.square().mean(), x.mean())) == pytest.approx(float(x.var(correction=0)), rel=1e-4)
    flat = torch.full((n,), mean).double()
    assert math.isnan(float(varying(flat.square().mean(), flat.mean())))
