"""The numbers of the figure: means by hand, fronts against their definition, interpolation against numpy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontier.made_up_points import four_points, point
from refusals import refused
from sparse_circuits.frontier.curves import Sized, curves, front, mean_size, met, ratio_at_matched_loss, size_at

LOSSES = st.floats(1.0, 4.0)
SIZES = st.floats(1.0, 1e5)


def sized(*places: tuple[float, float]) -> list[Sized]:
    return [Sized(name=f"p{i}", val_loss=loss, size=size) for i, (loss, size) in enumerate(places)]


# --- means and misses


def test_the_geometric_mean_by_hand() -> None:
    found = point("p", "sparse", 3.0, a=(2, 1), b=(8, 100))
    assert mean_size(found, "nodes", ("a", "b")) == pytest.approx(4)
    assert mean_size(found, "edges", ("a", "b")) == pytest.approx(10)


def test_no_edges_count_as_one() -> None:
    assert mean_size(point("p", "sparse", 3.0, a=(3, 0), b=(3, 9)), "edges", ("a", "b")) == pytest.approx(3)


def test_common_means_leave_out_a_missed_task_for_everybody() -> None:
    found = curves(four_points()[:2] + four_points()[3:])  # without the dense point that misses two of three
    assert found.tasks == ("quotes", "brackets", "chains")
    assert found.over["common"].tasks == ("quotes", "brackets") and found.drawn == "common"
    nodes, edges = found.sizes["nodes", "common"], found.sizes["edges", "common"]
    assert nodes == pytest.approx({"w64": 8, "w128": math.sqrt(200), "dense_w64": 120})
    assert edges == pytest.approx({"w64": 4, "w128": 10, "dense_w64": 400})


def test_in_the_bound_a_miss_is_the_whole_model() -> None:
    """`missed` counts as 1,000 nodes although its circuit has 7."""
    bound = curves(four_points()).sizes["nodes", "bound"]
    assert bound["w128"] == pytest.approx((10 * 20 * 1000) ** (1 / 3))
    assert bound["w64"] == pytest.approx((4 * 16 * 1000) ** (1 / 3))
    assert bound["dense_w16"] == pytest.approx((40 * 500 * 500) ** (1 / 3))


def test_who_misses_more_than_half_is_not_compared_and_takes_no_task_away() -> None:
    found = curves(four_points())
    assert found.compared == ("w128", "w64", "dense_w64") and found.over["common"].tasks == ("quotes", "brackets")
    summary = {row["name"]: row for row in found.summary()["points"]}
    assert not summary["dense_w16"]["compared"] and summary["dense_w16"]["missed"] == ["brackets", "chains"]
    assert summary["dense_w16"]["mean"]["nodes"]["common"] is None


def test_a_task_that_nobody_can_be_asked_does_not_count() -> None:
    found = curves(
        [point("a", "sparse", 3.0, x=(5, 5), y="unusable"), point("b", "sparse", 2.0, x=(7, 7), y="unusable")]
    )
    assert found.tasks == ("x",) and found.sizes["nodes", "bound"] == pytest.approx({"a": 5, "b": 7})


def test_without_a_common_task_the_bound_is_drawn_and_the_reason_given() -> None:
    found = curves(
        [point("s", "sparse", 3.0, x=(5, 5), y="unsolved"), point("d", "dense", 2.0, x="unsolved", y=(50, 50))]
    )
    assert found.over["common"].tasks == () and found.drawn == "bound" and found.sizes["edges", "common"] == {}
    reason = found.summary()["ratio_at_matched_loss"]["edges"]["common"]["reason"]
    assert "no dense and sparse point with a size" in reason


def test_nothing_finished() -> None:
    with refused("no point of this frontier is finished", "frontier run"):
        curves([])


# --- fronts


@given(st.lists(st.tuples(st.sampled_from((1.0, 1.5, 2.0, 3.0)) | LOSSES, st.sampled_from((2.0, 5.0)) | SIZES)))
def test_the_front_is_what_nobody_beats(places: list[tuple[float, float]]) -> None:
    def beats(one: Sized, other: Sized) -> bool:
        no_worse = one.val_loss <= other.val_loss and one.size <= other.size
        return no_worse and (one.val_loss, one.size) != (other.val_loss, other.size)

    points = sized(*places)
    expected = {(p.val_loss, p.size) for p in points if not any(beats(q, p) for q in points)}
    found = front(points)
    assert [(p.val_loss, p.size) for p in found] == sorted(expected)


# --- curves and ratios


def test_interpolation_by_hand() -> None:
    curve = sized((2.0, 100.0), (4.0, 1.0))
    assert [size_at(curve, x) for x in (2.0, 3.0, 3.5, 4.0)] == pytest.approx([100, 10, math.sqrt(10), 1])


@given(st.lists(st.tuples(LOSSES, SIZES), min_size=1), st.floats(0, 1))
def test_interpolation_is_numpys_on_logarithms(places: list[tuple[float, float]], share: float) -> None:
    curve = front(sized(*places))
    losses, logs = [p.val_loss for p in curve], np.log([p.size for p in curve])
    at = min(max(losses[0] + share * (losses[-1] - losses[0]), losses[0]), losses[-1])
    assert math.log(size_at(curve, at)) == pytest.approx(float(np.interp(at, losses, logs)), abs=1e-6)


def test_ratios_by_hand() -> None:
    """On the dense curve log10(size) falls by 2 per nat from 3 at 2.0, on the sparse one by 1 per nat from 1 at 2.5."""
    dense, sparse = sized((2.0, 1000.0), (3.0, 10.0)), sized((2.5, 10.0), (3.5, 1.0))
    found = ratio_at_matched_loss(dense=dense, sparse=sparse)
    assert found.val_losses == pytest.approx((2.5, 2.75, 3.0)) and found.reason is None
    assert found.ratios == pytest.approx((10, 10**0.75, 10**0.5))


@given(
    st.lists(st.tuples(LOSSES, SIZES), min_size=1),
    st.lists(st.tuples(LOSSES, SIZES), min_size=1),
    st.floats(1.5, 100),
)
def test_ratios_scale_and_stay_where_both_were_measured(
    dense: list[tuple[float, float]], sparse: list[tuple[float, float]], factor: float
) -> None:
    one, two = front(sized(*dense)), front(sized(*sparse))
    found = ratio_at_matched_loss(dense=one, sparse=two)
    larger = ratio_at_matched_loss(dense=sized(*((p.val_loss, factor * p.size) for p in one)), sparse=two)
    turned = ratio_at_matched_loss(dense=two, sparse=one)
    assert larger.ratios == pytest.approx([factor * ratio for ratio in found.ratios])
    assert turned.ratios == pytest.approx([1 / ratio for ratio in found.ratios])
    for loss in found.val_losses:
        assert all(curve[0].val_loss <= loss <= curve[-1].val_loss for curve in (one, two))
    assert bool(found.ratios) == (found.reason is None)


def test_curves_that_share_no_loss_have_no_ratio() -> None:
    found = ratio_at_matched_loss(dense=sized((2.0, 50.0), (2.2, 40.0)), sparse=sized((2.5, 9.0)))
    assert found.ratios == () and found.reason is not None
    assert "dense has 2.000 to 2.200 nats, sparse 2.500 to 2.500" in found.reason


def test_the_whole_ratio_from_records() -> None:
    """Common tasks quotes and brackets; sparse edges 10 at 2.5 and 4 at 3.0, dense 400 at 2.4 and 100 at 2.9."""
    records = [
        *four_points()[:2],
        four_points()[3],
        point("d", "dense", 2.9, quotes=(20, 10), brackets=(20, 1000), chains="unsolved"),
    ]
    found = curves(records).ratios["edges", "common"]
    assert found.val_losses == pytest.approx((2.5, 2.7, 2.9))
    assert found.ratios[0] == pytest.approx(400 * 4 ** (-0.1 / 0.5) / 10)
    assert found.ratios[2] == pytest.approx(100 / (10 * 0.4 ** (0.4 / 0.5)))


def test_the_chosen_mean_takes_circuits_that_hold_on_validation() -> None:
    """w128 misses chains on test, at 7 nodes, and meets it on validation; so does w64. `common` leaves chains out."""
    one = point("w64", "sparse", 3.0, quotes=(4, 2), chains=(9, 9))
    two = point("w128", "sparse", 2.5, quotes=(10, 5), chains="missed")
    quotes, chains = two.tasks
    two = two.replace(tasks=(quotes, chains.replace(met_on_val=True)))
    found = curves([one, two])
    assert found.over["common"].tasks == ("quotes",) and found.over["chosen"].tasks == ("quotes", "chains")
    assert found.drawn == "chosen" and found.sizes["nodes", "common"] == pytest.approx({"w64": 4, "w128": 10})
    assert found.sizes["nodes", "chosen"] == pytest.approx({"w64": 6, "w128": math.sqrt(70)})
    assert found.sizes["nodes", "bound"]["w128"] == pytest.approx(math.sqrt(10 * 1000)), "a miss on test is one there"
    assert found.summary()["drawn"] == "chosen" and found.summary()["chosen_tasks"] == ["quotes", "chains"]


def test_the_ratio_of_single_tasks() -> None:
    """quotes: sparse edges 5 at 2.5 and 2 at 3.0, dense 200 at 2.4 and 50 at 2.9; brackets has no dense curve that reaches 2.5."""
    found = curves(four_points())
    one = found.by_task["edges", "quotes"]
    assert one.val_losses == pytest.approx((2.5, 2.7, 2.9))
    sparse, dense = 5 * (2 / 5) ** 0.4, 200 * (50 / 200) ** 0.6
    assert one.ratios[1] == pytest.approx(dense / sparse)
    assert found.by_task["edges", "brackets"].ratios == () and "dense has 2.400" in str(
        found.by_task["edges", "brackets"].reason
    )
    assert found.mean_by_task("edges") == pytest.approx(dense / sparse)
    summary = found.summary()
    assert summary["mean_ratio_by_task"]["edges"] == pytest.approx(dense / sparse)
    assert summary["ratio_by_task"]["edges"]["quotes"]["ratios"][1] == pytest.approx(dense / sparse)
    assert curves([point("a", "sparse", 3.0, x=(5, 5))]).mean_by_task("nodes") is None


def test_on_validation_is_on_validation_alone() -> None:
    """A circuit that happens to meet the target on test only was not at the target where it was chosen."""
    one = point("w64", "sparse", 3.0, quotes=(4, 2))
    one = one.replace(tasks=(one.tasks[0].replace(met_on_val=False),))
    assert met(one, "quotes") and not met(one, "quotes", "chosen")
    older = one.replace(tasks=(one.tasks[0].replace(met_on_val=None),))
    assert met(older, "quotes", "chosen"), "records without the field are taken at their word"


def test_a_mean_that_leaves_a_family_out_is_not_drawn() -> None:
    """Two sparse points share two tasks; the dense one misses more than half, so a mean of the others compares nothing."""
    records = [
        point("w64", "sparse", 3.0, a=(4, 2), b=(4, 2), c=(4, 2)),
        point("w128", "sparse", 2.5, a=(9, 9), b=(9, 9), c=(9, 9)),
        point("dense_w8", "dense", 2.9, a=(40, 60), b="unsolved", c="unsolved"),
    ]
    found = curves(records)
    assert found.over["common"].points == ("w128", "w64") and found.over["common"].tasks == ("a", "b", "c")
    assert found.drawn == "bound" and found.compared == ("w128", "w64", "dense_w8")
    assert curves(records[:2]).drawn == "common", "of one family alone there is nobody to leave out"
