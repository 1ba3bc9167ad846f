"""Pruning again: the same recipe gives the same circuits, is run once, and sizes are compared in bits."""

import math
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

import pytest
import torch

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.log import Progress
from sparse_circuits.prune import pipeline
from sparse_circuits.prune.discretize import Chosen, choose
from sparse_circuits.prune.pipeline import prune_seeds
from sparse_circuits.prune.problem import Problem
from sparse_circuits.validate import again
from sparse_circuits.validate.again import Rerun, bits_more, figures, log_sizes, sizes
from sparse_circuits.validate.reruns import CONTROL_STANDARDS, CONTROLS
from sparse_circuits.validate.thresholds import STANDARDS
from validate.planted import SMALL, small, truth
from validate.repeated import NODES, QUICK, TASK, made, rerun_of


def test_the_controls_and_their_rows_have_names_of_their_own() -> None:
    assert set(CONTROLS) == {"nonsense", "random_init", "ablation", "norm", "seeds"}
    assert not set(CONTROL_STANDARDS) & set(STANDARDS)
    for standard in CONTROL_STANDARDS.values():
        assert standard.number in ("F10", "F11", "F12", "F13", "F15") and len(standard.why) > 40


def test_the_same_recipe_gives_what_prune_gives_and_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rerun, known, ran = rerun_of(seeds=3), truth(), []

    def counting(problem: Problem, seeds: Sequence[int], progress: Progress) -> tuple[Circuit, ...]:
        ran.append(tuple(seeds))
        return solve(problem, seeds, progress)

    solve = again.solve
    monkeypatch.setattr(again, "solve", counting)
    again_found = rerun.own((0, 1))
    by_prune = prune_seeds(rerun.model, TASK, tokenizer=known.tokenizer, seeds=(0, 1), config=QUICK)
    for one, other in zip(again_found, by_prune, strict=True):
        assert one.summary() == other.summary() and one.edges == other.edges and one.recipe == QUICK.to_dict()
    assert rerun.own((1, 0, 1))[0] is again_found[1]
    rerun.own(rerun.seeds)
    assert ran == [(0, 1), (2,)] and rerun.few == (0, 1)


def test_only_a_control_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """METHOD D11 holds for what is pruned as everybody prunes; of what is expected to find nothing, half of guessing is enough."""
    asked = []

    def noting(
        problem: Problem, seeds: Sequence[int], progress: Progress, give_up_above: float = inf
    ) -> tuple[Circuit, ...]:
        asked.append(give_up_above)
        return ()

    monkeypatch.setattr(again, "solve", noting)
    problem = rerun_of(n=2).problem
    again.solve_control(problem, (0,))
    again.solve_control(replace(problem, config=QUICK.replace(loss_kind="full_vocab")), (0,))
    rerun_of(n=2).own(())
    assert asked == [pytest.approx(0.34657359), inf], "other losses have no scale of guessing"
    monkeypatch.undo()
    chosen_with = []

    def choosing(*given: Any, give_up_above: float) -> Chosen:
        chosen_with.append(give_up_above)
        return choose(*given, give_up_above=give_up_above)

    monkeypatch.setattr(pipeline, "choose", choosing)
    again.solve(problem, (0,))
    again.solve_control(problem, (0,))
    assert chosen_with == asked[::-1]


def test_reference_values_come_from_the_circuit() -> None:
    recipe = QUICK.replace(ablation="mean_pretrain")
    rerun = rerun_of(recipe=recipe, reference={"tokens": 7, "corpus_hash": "ab"})
    assert rerun.reference is not None and (rerun.reference.tokens, rerun.reference.corpus_hash) == (7, "ab")
    for site, value in rerun.subject.circuit.values.items():
        assert torch.equal(rerun.problem.values[site], value)
    assert rerun_of().reference is None  # the small model lies in no folder


def test_a_circuit_that_does_not_say_how_it_was_pruned() -> None:
    for changes in ({}, {"recipe": {"lr": "high"}}, {"recipe": QUICK.to_dict(), "target_loss": None}):
        with pytest.raises(ValueError, match="does not say how it was pruned .*leave out the controls") as caught:
            Rerun.of(small(n=2, **changes))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="0 seeds asked for"):
        Rerun.of(small(n=2, recipe=QUICK.to_dict()), seeds=0)


def test_an_older_recipe_chooses_on_validation_alone() -> None:
    older = {name: value for name, value in QUICK.to_dict().items() if name != "choice_train_pairs"}
    assert Rerun.of(small(n=2, recipe=older)).config == QUICK.replace(choice_train_pairs=0)


def test_bits_by_hand() -> None:
    two, eight, missed = made(NODES[:2]), made(NODES[:8]), made(NODES[:3], val=0.2)
    assert log_sizes([two, missed, made(())]).tolist() == [1.0, math.log2(60), 0.0]
    found = bits_more([eight, eight], [two, two])
    assert found is not None and (found.value, found.low, found.high, found.n) == (2.0, 2.0, 2.0, 2)
    spread = bits_more([eight, two], [two, two])
    assert spread is not None and (spread.value, spread.low, spread.high) == (1.0, 0.0, 2.0)
    bound = bits_more([eight, missed], [two, missed])  # the own side that misses does not count
    assert bound is not None and bound.value == pytest.approx((3 + math.log2(60)) / 2 - 1)
    assert bits_more([eight], [missed]) is None
    assert sizes([two, missed]) == "2, all 60 (target missed)"
    assert figures([two, missed])["met_on_val"] == [True, False] and figures([two])["nodes"] == [2]


def test_another_circuit_on_the_same_pairs() -> None:
    rerun = rerun_of()
    other = rerun.seen_as(made(SMALL[:2]))
    assert other.pairs is rerun.subject.pairs and other.nodes == SMALL[:2]
