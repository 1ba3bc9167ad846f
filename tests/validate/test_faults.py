"""Planted faults (planted.py): each fails on the row that is meant to catch it, and the verdict says so."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from sparse_circuits.circuit.ablation import task_means
from sparse_circuits.sites import Node
from sparse_circuits.tasks.task import Shift, Template
from sparse_circuits.validate import run
from sparse_circuits.validate.measure_inside import interchange_rows, resample_rows, swap_rows
from sparse_circuits.validate.run import validate
from sparse_circuits.validate.subject import Subject
from validate.cards import card, failed
from validate.planted import BLIND, SMALL, circuit_of, small, small_model, truth

# What is planted, the row that is meant to catch it, and its value there as docs/validation.md quotes it.
FAULTS: dict[str, tuple[Callable[[], Subject], str, float]] = {
    "the model's answer is turned round outside": (
        lambda: small(small_model(writes=((1, 1, -6.0),))),
        "agreement",
        21.8,
    ),
    "the model is hindered outside": (lambda: small(small_model(writes=((1, 1, -2.9),))), "faithfulness", 1.89),
    "a backup is left out": (lambda: small(small_model(writes=((1, 2, 3.0),), reads=(1, 2))), "completeness", 0.372),
    "nodes mean the opposite": (
        lambda: small(small_model(writes=((1, 1, -6.0), (1, 2, 6.0)), reads=(1, 2))),
        "roles",
        1 / 3,
    ),
    "a head lost its keys": (lambda: small(nodes=BLIND), "dead_heads", 1),
    "neurons outside cancel": (lambda: small(small_model(neurons=(2.0, -2.0))), "relaxation", 7.88),
    "random nodes": (lambda: small(nodes=one_random_of(small(n=2))), "random_circuit", 0.693),
    "no nodes": (lambda: small(nodes=()), "same_choice", 0.5),
}


def one_random_of(subject: Subject) -> tuple[Node, ...]:
    return subject.layout.nodes(subject.random_masks(1, seed=5)[0])


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_fail_where_they_should(fault: str) -> None:
    make, name, value = FAULTS[fault]
    found = card(make())
    assert found.rows[name].value.value == pytest.approx(value, rel=0.01)
    assert name in failed(found), found.rows[name].reason
    assert found.verdict == "unfaithful" and not found.passed
    assert any(reason.startswith(f"{name} fails: ") for reason in found.reasons)
    if fault in ("a backup is left out", "a head lost its keys"):
        assert failed(found) == {name}  # nothing else sees it
    if fault == "neurons outside cancel":
        assert failed(found) == {"relaxation", "robust_loss"}


def test_faults_that_only_the_full_card_sees() -> None:
    outside = small(small_model(writes=((1, 1, 6.0),)))
    (resampled,), (swapped,) = resample_rows(outside, run.FULL), swap_rows(outside, run.FULL)
    assert resampled.outcome == swapped.outcome == "fail" and resampled.value.value == pytest.approx(7.28, rel=0.01)
    flipped = small(small_model(writes=((1, 1, -6.0), (1, 2, 6.0)), reads=(1, 2)))
    rows = (*interchange_rows(flipped, run.FULL), *swap_rows(flipped, run.FULL), *resample_rows(flipped, run.FULL))
    assert {row.outcome for row in rows} == {"fail"} and "into the circuit" in rows[0].reason
    assert {row.outcome for row in (*interchange_rows(small(), run.FULL), *resample_rows(small(), run.FULL))} == {
        "pass"
    }


def test_idle_nodes_are_no_lie() -> None:
    idle = tuple(Node("0.attn.v", channel) for channel in (2, 3))
    found = card(small(nodes=(*SMALL, *idle)))
    assert failed(found) == {"minimality"} and found.verdict == "faithful"
    assert found.rows["minimality"].details["idle"] == ["0.attn.v[2]", "0.attn.v[3]"]
    assert found.reasons[-1].startswith("beside the verdict, minimality fails: share of nodes")


def test_a_circuit_that_fails_where_the_model_does_not() -> None:
    """Brackets open with a quote token of their own, which a second value channel outside the circuit reads."""
    known = truth()
    text = "<word> = {'<word2>"
    shift = Shift((Template(text, text.replace("'", '"'), "x = 1\n", "x = 1\n"),))
    task = replace(known.task, shifted={"braces": shift})
    a, b = task.pairs("braces", 8, known.tokenizer).tokens.unbind(1)
    model = deepcopy(small_model())
    weights = model.state_dict()
    assert not weights["embed.weight"][a[a != b], 0].any()  # no token that the circuit knows
    for tokens, kind in ((a[a != b], -1.0), (b[a != b], 1.0)):
        weights["embed.weight"][tokens] = torch.tensor([0, 0, 1, kind, 0, 0, 0, 3])
    weights["blocks.0.attn.c_attn.weight"][9, 3] = 1.0  # v[1]
    weights["blocks.0.attn.c_proj.weight"][1, 1] = 3.0
    values = {site: x.detach() for site, x in task_means(model, task.pairs("train", 64, known.tokenizer)).items()}
    found = validate(circuit_of(model, SMALL, values, task), model, task, tokenizer=known.tokenizer, quick=True, n=6)
    assert failed(found) == {"shifted_splits"} and found.verdict == "unfaithful"
    row = found.rows["shifted_splits"]
    assert row.value.value == 1 and row.control.value == 0  # the circuit is undecided, which is not right
    assert "braces: model 100%, circuit 0%" in row.reason
