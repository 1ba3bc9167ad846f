"""Kinds of ablation: sizes compared by hand, and the circuit's losses under other values by loops."""

from collections.abc import Sequence

import pytest
import torch

from sparse_circuits.circuit.ablation import task_means
from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.log import Progress
from sparse_circuits.prune.problem import Problem
from sparse_circuits.validate import ablations
from sparse_circuits.validate.ablations import ablation_sensitivity, size_range, with_ablation
from sparse_circuits.validate.faithfulness import agreement
from sparse_circuits.validate.interchange import resample_ablation
from validate.planted import SMALL, loss_by_hand
from validate.repeated import NODES, QUICK, made, rerun_of

WEAK = SMALL[:1] + SMALL[3:]
"""Without the mark that the head looks for: it averages instead."""


def test_the_range_of_sizes_by_hand() -> None:
    two, eight, missed = made(NODES[:2]), made(NODES[:8]), made(NODES[:2], val=0.3)
    assert size_range({"zero": [two, two], "mean_task": [eight, two]}).value == 1.0
    assert size_range({"zero": [two, two], "mean_task": [eight, eight], "mean_pretrain": [two, eight]}).value == 2.0
    assert size_range({"zero": [two], "mean_task": [missed]}).value == pytest.approx(4.907, abs=1e-3)  # log2 60 - 1


def test_every_kind_is_run_and_the_circuit_is_measured_under_it() -> None:
    rerun = rerun_of(nodes=WEAK, n=3, recipe=QUICK.replace(ablation="mean_pretrain"))
    (row,) = ablation_sensitivity(rerun)
    assert row.number == "F12" and row.outcome == "pass" and row.value.value <= 1
    kinds = row.details["kinds"]
    assert set(kinds) == {"zero", "mean_pretrain", "mean_task"} and row.details["left_out"] == {}
    assert row.details["own"] == "mean_pretrain"
    for kind, seen in kinds.items():
        problem = with_ablation(rerun, kind)
        circuit = rerun.subject.circuit.replace(values=problem.values, ablation=kind)
        loss = loss_by_hand(rerun.seen_as(circuit), WEAK)
        assert row.details["circuit_loss"][kind][0] == pytest.approx(loss, abs=1e-5)
        assert seen["met_on_val"] == [True, True] and len(seen["kl_binary"]) == len(seen["repurposed_share"]) == 2
    own = agreement(rerun.seen_as(rerun.found[0])).kl_binary.value
    assert kinds["mean_pretrain"]["kl_binary"][0] == own and own > kinds["zero"]["kl_binary"][0]
    resampled = resample_ablation(rerun.subject, seed=rerun.subject.seed)
    assert row.details["resample"]["other_class"][0] == resampled.other_class.value


def test_values_of_every_kind() -> None:
    rerun = rerun_of()
    assert with_ablation(rerun, "mean_task") is rerun.problem
    assert not any(bool(value.any()) for value in with_ablation(rerun, "zero").values.values())
    with pytest.raises(ValueError, match="mean_pretrain ablation needs the model's reference values"):
        with_ablation(rerun, "mean_pretrain")
    rerun = rerun_of(recipe=QUICK.replace(ablation="mean_pretrain"))
    problem = with_ablation(rerun, "mean_task")
    assert problem.reference is None and rerun.problem.reference is not None
    for site, value in task_means(rerun.model, problem.pairs["train"]).items():
        assert torch.equal(problem.values[site], value)


def test_a_kind_that_misses_the_target_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(problem: Problem, seeds: Sequence[int], progress: Progress) -> tuple[Circuit, ...]:
        return tuple(made(NODES[:1], seed=seed, val=0.6) for seed in seeds)

    monkeypatch.setattr(ablations, "solve", missing)
    (row,) = ablation_sensitivity(rerun_of(n=2))
    assert row.outcome == "fail" and "zero: all 60 (target missed)" in row.reason
    assert list(row.details["left_out"]) == ["mean_pretrain"]
