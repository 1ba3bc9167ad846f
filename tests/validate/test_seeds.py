"""Seeds: equal ones agree fully, and shares, ranges, medians and gaps are those computed by hand."""

from dataclasses import replace
from statistics import median_low

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_circuits.sites import Edge
from sparse_circuits.tasks.task import Shift, Template
from sparse_circuits.validate.robustness import shifted_splits
from sparse_circuits.validate.seeds import (
    failures,
    gaps,
    jaccard,
    median_jaccard,
    overlap,
    seeds,
    sizes,
    weighted_median,
)
from validate.planted import SMALL
from validate.repeated import NODES, TASK, made, rerun_of

BLIND = (SMALL[0], *SMALL[3:])
EDGE = Edge(NODES[0], NODES[1], 1.0)


def test_identical_seeds_agree_fully() -> None:
    rerun = replace(rerun_of(n=2), seeds=(3, 3, 3))
    failed, size, shared, gap = seeds(rerun)
    assert list(rerun.found) == [3] and [row.number for row in (failed, size, shared, gap)] == ["F15"] * 4
    assert (shared.value.value, shared.value.low, shared.value.n) == (1.0, 1.0, 3) and shared.outcome == "pass"
    assert shared.control.value < 0.5 and shared.details["edges"] == [1.0, 1.0, 1.0]
    assert size.value.value == 0 and failed.value.value == 0
    assert gap.outcome == "not applicable" and "no shifted split" in gap.reason


def test_failures_and_sizes_by_hand() -> None:
    rerun = rerun_of()
    circuits = [made(NODES[:n], seed=n, test=test) for n, test in ((2, 0.1), (4, 0.2), (10, 0.1), (5, 0.16))]
    failed = failures(rerun, circuits)
    assert failed.value.value == 0.5 and failed.outcome == "fail" and "2 of 4 seeds" in failed.reason
    assert failed.details["nodes"] == [2, 4, 10, 5] and failed.details["circuit"]["nodes"] == len(SMALL)
    size = sizes(rerun, circuits)
    assert size.value.value == pytest.approx(float(torch.tensor(5.0).log2())) and size.outcome == "fail"
    assert size.details["median_nodes"][0] == 4 and "2 to 10 nodes in 4 seeds" in size.reason
    assert sizes(rerun, circuits[1:2] * 2 + circuits[3:]).outcome == "pass"


def test_overlap_by_hand() -> None:
    """Three circuits: a and b share 2 of 4 nodes, a and c all 3 nodes but no edge, b and c again 2 of 4."""
    a, b, c = made(NODES[:3], edges=[EDGE]), made(NODES[1:4], seed=1, edges=[EDGE]), made(NODES[:3], seed=2)
    row = overlap(rerun_of(nodes=NODES[:4]), [a, b, c])
    assert row.value.value == 0.5 and row.outcome == "pass" and row.details["edges"][0] == 0.0
    assert row.value.low == 0.5 and row.value.high == 1.0
    assert row.details["with_circuit"] == {"nodes": 0.75, "edges": 0.0}
    assert overlap(rerun_of(), [a]).outcome == "not applicable"
    assert overlap(rerun_of(), [a, made(NODES[2:6])]).outcome == "fail"


def test_random_circuits_share_what_their_sizes_give() -> None:
    """Two random choices of 4 of the 8 final channels share about a third of what they hold."""
    finals = [node for node in NODES if node.site == "final_resid"]
    row = overlap(rerun_of(), [made(finals[:4], seed=seed) for seed in range(6)])
    assert row.value.value == 1 and 0.1 < row.control.value < 0.65


def test_nothing_to_compare() -> None:
    for row in (sizes(rerun_of(), []), gaps(rerun_of(), [])):
        assert row.outcome == "not applicable" and "too few seeds" in row.reason


def test_gaps_are_those_of_the_shifted_splits() -> None:
    after = "x = 1\n"
    long = "item = value\n" * 12 + "send(<word>, '<word2>"
    shifts = {
        "longer": Shift((Template(long, long.replace("'", '"'), after, after),)),
        "odd": Shift((Template("send('<word2>", 'send("<word2>', after, after, ("' zq zq", '" zq zq')),)),
    }
    rerun = rerun_of(task=replace(TASK, shifted=shifts), n=4)
    values = rerun.subject.circuit.values
    circuits = [made(nodes, seed=seed).replace(values=values) for seed, nodes in enumerate((SMALL, BLIND, ()))]
    row = gaps(rerun, circuits)
    expected = [shifted_splits(rerun.seen_as(circuit)).splits["longer"].accuracy_gap.value for circuit in circuits]
    assert row.details["gaps"] == {"longer": pytest.approx(expected)} and row.details["circuit"] == expected[0]
    assert row.value.value == pytest.approx(max(expected) - min(expected)) and row.value.value >= 0.5
    assert row.outcome == "fail"


def test_jaccard_by_hand() -> None:
    assert jaccard({1, 2, 3}, {2, 3, 4}) == 0.5 and jaccard(set(), set()) == 1 and jaccard({1}, set()) == 0
    assert median_jaccard([{1}]) is None
    assert median_jaccard([{1, 2}, {1, 2}, {3}]).value == 0


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 4)), min_size=1, max_size=9))
def test_the_weighted_median_is_that_of_repeated_values(drawn: list[tuple[int, int]]) -> None:
    values = torch.tensor([float(value) for value, _ in drawn])
    weights = torch.tensor([[float(weight) for _, weight in drawn]])
    repeated = [value for value, weight in drawn for _ in range(weight)]
    found = float(weighted_median(values, weights)[0])
    assert found == median_low(repeated) if repeated else found != found
