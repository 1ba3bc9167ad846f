"""The whole call: known circuits pass, planted faults fail on the row meant to catch them, and nothing is measured twice."""

import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sparse_circuits as sc
from refusals import refused
from sparse_circuits.circuit.ablation import save_reference
from sparse_circuits.data.tokenizer import save_tokenizer, tokenizer_hash
from sparse_circuits.files import new_folder, write_json
from sparse_circuits.model.folder import save_model
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.sites import Node
from sparse_circuits.tasks.mined import MinedTask
from sparse_circuits.validate import measure_inside, run
from sparse_circuits.validate.card import ReportCard, Row
from sparse_circuits.validate.card_folder import load_card
from sparse_circuits.validate.robustness import scored
from sparse_circuits.validate.run import CONTROLS, MORE_MEASURES, QUICK_MEASURES, ROWS, validate
from sparse_circuits.validate.thresholds import STANDARDS
from validate.cards import card, failed, row_of
from validate.planted import BLIND, all_nodes, circuit_of, quotes, small, small_model, truth

PAGE = (Path(__file__).parents[2] / "docs" / "validation.md").read_text("utf-8")
ROW = re.compile(r"^\| (?:F\d+\w?|1h) \| (\w+) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
NUMBER = re.compile(r"-?\d[\d.]*(?:e-?\d+)?")


@pytest.fixture(scope="module")
def whole() -> ReportCard:
    """The true circuit of the quote model, everything but the controls: the worked example of docs/validation.md."""
    subject = quotes(n=12)
    subject = replace(subject, circuit=subject.circuit.replace(target_loss=0.01))
    return card(subject, quick=False, controls=())


@pytest.fixture(scope="module")
def quick() -> ReportCard:
    return card(quotes(n=4))


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Cards of few measurements, where the test is not about these; returns them."""
    few = {name: QUICK_MEASURES[name] for name in ("agreement", "faithfulness", "sufficiency", "necessity")}
    monkeypatch.setattr(run, "QUICK_MEASURES", few)
    return few


def test_the_true_circuit_is_faithful(whole: ReportCard) -> None:
    assert whole.verdict == "faithful" and whole.passed and failed(whole) == set()
    assert whole.reasons == ("controls without an answer: nonsense, random_init",)
    skipped = {name for name, row in whole.rows.items() if row.outcome == "not applicable"}
    assert skipped == {"shifted_splits", "mined"}
    assert whole.rows["shifted_splits"].reason == "the task declares no shifted split"
    for name, row in whole.rows.items():
        if name not in skipped:
            assert row.value is not None and row.control is not None and row.control_name, name
            assert row.value.low <= row.value.value <= row.value.high and row.threshold in row.reason
    # the controls are no circuits: what asks for little would fail with them, and what asks for much as well
    controls = {name: row.control.value for name, row in whole.rows.items() if row.control is not None}
    for name in ("agreement", "completeness", "minimality", "robust_loss", "resample_ablation", "adversarial"):
        assert not STANDARDS[name].holds(controls[name]), name
    assert controls["same_choice"] == 0.5 and controls["faithfulness"] == pytest.approx(0, abs=0.05)
    assert whole.settings == {"quick": False, "pairs": 12, "split": "test", "seed": 0, "controls": []}
    assert set(whole.seconds) == set(whole.parts) == {*QUICK_MEASURES, *MORE_MEASURES}


def test_another_seed_draws_anew(quick: ReportCard) -> None:
    other = card(quotes(n=4), seed=1)
    assert set(quick.parts) == set(QUICK_MEASURES) and other.verdict == quick.verdict == "faithful"
    assert other.rows["necessity"] != quick.rows["necessity"]


def test_the_full_circuit_is_unproven() -> None:
    """It is the model, but so is every choice of as many nodes: nothing was found."""
    found = card(small(nodes=all_nodes(small_model()), n=4))
    assert found.verdict == "unproven"
    assert [reason.split(":")[0] for reason in found.reasons[:2]] == ["random_circuit", "necessity"]
    assert found.rows["agreement"].value.value == 0 and found.rows["faithfulness"].value.value == 1


def test_the_targets_own_loss_is_what_suffices(brief: dict[str, Any]) -> None:
    loose, strict = (card(small(nodes=BLIND, target_loss=target, n=4)) for target in (0.3, 0.01))
    assert loose.rows["sufficiency"].outcome == "pass" and loose.rows["sufficiency"].threshold == "at most 0.3"
    assert strict.rows["sufficiency"].outcome == "fail"
    unsaid = card(small(target_loss=None, n=2)).rows["sufficiency"]
    assert unsaid.threshold == "at most 0.15" and unsaid.outcome == "pass"
    calibrated = card(small(target_on="calibrated", n=2)).rows["sufficiency"]
    assert calibrated.outcome == "not applicable" and "calibrated loss" in calibrated.reason


def test_a_circuit_of_one_node_without_heads() -> None:
    found = card(small(nodes=[Node("final_resid", 1)], n=2), quick=False, controls=())
    assert found.verdict == "unfaithful" and found.rows["dead_heads"].outcome == "not applicable"
    assert found.rows["dead_heads"].reason == "the circuit has no q, k or v node"
    assert found.rows["roles"].reason == "no node varies both in the model and in the circuit"


def test_real_code_is_asked_where_the_task_is_built_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subject = small(n=4)
    mined = MinedTask("closing_quote", (), subject.on("val").pairs, {"A": 4, "B": 4}, (), "")
    monkeypatch.setattr(measure_inside, "mine_task", lambda *given, **named: mined)
    monkeypatch.setattr(measure_inside, "is_built_in", lambda task: task == subject.task)
    (row,) = measure_inside.mined_rows(subject, run.QUICK)
    assert row.value == scored(subject.on("val")).accuracy_gap and "4 pairs, mined: model 100%" in row.reason
    monkeypatch.setattr(measure_inside, "mine_task", lambda *given, **named: replace(mined, pairs=None))
    assert measure_inside.mined_rows(subject, run.QUICK)[0].outcome == "not applicable"
    write_json(tmp_path / "config.json", {"val_threshold": 0.03})
    model, asked = deepcopy(subject.model), []
    model.source = tmp_path
    monkeypatch.setattr(
        measure_inside, "mine_task", lambda *given, **named: asked.append(named["val_threshold"]) or mined
    )
    (row,) = measure_inside.mined_rows(replace(subject, model=model), run.QUICK)
    assert asked == [0.03] and row.details["held_out"] == 0.03


# --- docs/validation.md


def close(told: str, measured: float) -> bool:
    """As far as three printed digits say; differences of rounding in what is nearly 0 do not count."""
    return float(told) == pytest.approx(measured, rel=0.02, abs=5e-4)


def test_the_table_of_the_worked_example_is_what_is_measured(whole: ReportCard) -> None:
    told = {name: rest for name, *rest in ROW.findall(PAGE)}
    assert set(whole.rows) < set(told)
    for name, row in whole.rows.items():
        value, control, needed, outcome = told[name]
        assert needed == row.threshold, name
        if row.value is None:
            assert (value, control, outcome) == ("-", "-", "does not apply"), name
            continue
        assert outcome == row.outcome == "pass", name
        ends = (row.value.low, row.value.high) if "(" in value else ()
        for number, measured in zip(NUMBER.findall(value), (row.value.value, *ends), strict=True):
            assert close(number, measured), name
        number, _, control_name = control.partition(", ")
        assert row.control is not None and control_name == row.control_name and close(number, row.control.value), name


def test_the_page_names_every_control() -> None:
    assert {row for control in CONTROLS for row in ROWS[control]} <= set(re.findall(r"`(\w+)`", PAGE))


# --- resuming


def test_what_was_measured_is_not_measured_again(
    brief: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, calls = small(n=4), []

    def spied(name: str, measure: Any) -> Any:
        def measured(*given: Any) -> tuple[Row, ...]:
            calls.append(name)
            if name == "sufficiency" and calls.count(name) == 1:
                raise KeyboardInterrupt
            return measure(*given)

        return measured

    monkeypatch.setattr(run, "QUICK_MEASURES", {name: spied(name, m) for name, m in brief.items()})
    with pytest.raises(KeyboardInterrupt):
        card(subject, out=tmp_path / "card")
    first = ["agreement", "faithfulness", "sufficiency"]
    assert calls == first and not (tmp_path / "card" / "card.json").exists()
    found = card(subject, out=tmp_path / "card")
    assert calls == [*first, "sufficiency", "necessity"]
    assert found.rows == card(subject).rows and found.verdict == "faithful"
    before = len(calls)
    again = card(subject, out=tmp_path / "card")
    assert len(calls) == before and again.to_dict() == found.to_dict() == load_card(tmp_path / "card").to_dict()
    with refused("with another pairs", "new folder"):
        card(subject, n=5, out=tmp_path / "card")
    with refused("of another circuit"):
        card(small(nodes=BLIND, n=4), out=tmp_path / "card")


# --- controls


@pytest.fixture
def controls(brief: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three made-up ones that record their calls: one passes, one fails, one cannot be run."""
    calls: list[str] = []

    def made(name: str, outcome: Any) -> Any:
        def control(rerun: Any, progress: Any) -> tuple[Row, ...]:
            calls.append(name)
            if outcome is None:
                raise ValueError("no labels to shuffle")
            return (row_of(f"{name}_row", outcome),)

        return control

    outcomes = {"nonsense": "pass", "random_init": "fail", "seeds": None}
    monkeypatch.setattr(run, "CONTROLS", {name: made(name, outcome) for name, outcome in outcomes.items()})
    return calls


def test_controls_are_chosen_by_name(controls: list[str], tmp_path: Path) -> None:
    subject = small(n=2, recipe=PruneConfig().to_dict())
    assert card(subject).settings["controls"] == controls == []
    found = card(subject, controls=["seeds", "nonsense"], out=tmp_path / "card")
    assert controls == ["nonsense", "seeds"] and found.settings["controls"] == controls
    assert found.rows["nonsense_row"].outcome == "pass" and found.verdict == "faithful"
    assert {found.rows[name].reason for name in run.ROWS["seeds"]} == {"no labels to shuffle"}
    later = card(subject, controls=["random_init"], out=tmp_path / "card")  # those of before belong to the card
    assert controls == ["nonsense", "seeds", "random_init"] and later.settings["controls"] == [
        "nonsense",
        "random_init",
        "seeds",
    ]
    assert later.verdict == "unproven" and later.reasons[0].startswith("random_init_row fails, so that")
    with refused("unknown control 'sede'; allowed: nonsense, random_init, seeds"):
        card(subject, controls=["seeds", "sede"])
    with refused("list of names", "'seeds'"):
        card(subject, controls="seeds")


def test_without_a_recipe_controls_say_so(brief: dict[str, Any]) -> None:
    """A circuit that others published, or one made up: the real controls, none of which may crash."""
    found = card(small(n=2), controls=list(run.CONTROLS))
    for control in run.CONTROLS:
        assert found.parts[control] == run.ROWS[control]
        for name in run.ROWS[control]:
            assert found.rows[name].outcome == "not applicable" and "how it was pruned" in found.rows[name].reason
    numbers = [found.rows[names[0]].number for names in map(run.ROWS.__getitem__, run.CONTROLS)]
    assert found.verdict == "faithful" and numbers == ["F15", "F10", "F11", "F12", "F13"]


# --- what is given


def test_the_circuit_in_a_folder_finds_the_rest(brief: dict[str, Any], tmp_path: Path) -> None:
    known = truth()
    with new_folder(tmp_path / "model") as draft:
        save_model(known.model, draft, tokenizer_hash(known.tokenizer))
        save_tokenizer(known.tokenizer, draft)
        save_reference(known.reference, draft)
    circuit = circuit_of(known.model, known.nodes, known.reference.values)
    where = {name: replace(getattr(circuit, name), where=str(tmp_path / "model")) for name in ("model", "tokenizer")}
    circuit.replace(**where).save(tmp_path / "circuit")
    found = validate(tmp_path / "circuit", task=known.task, quick=True, n=4)
    assert found.rows == card(quotes(n=4)).rows  # and the same seed gives the same card
    with refused("made with another model"):
        validate(circuit, small_model(), known.task, tokenizer=known.tokenizer, quick=True, n=2, out=tmp_path / "card")
    assert not (tmp_path / "card").exists()
    with refused("does not say where its model lies"):
        validate(circuit, task=known.task, quick=True, n=2)
    with refused("unknown task 'closing_quotes'"):
        validate(circuit, known.model, "closing_quotes", tokenizer=known.tokenizer, quick=True, n=2)
    with refused("1 pairs asked for", "at least 2"):
        validate(circuit, known.model, known.task, tokenizer=known.tokenizer, n=1)
    with refused("no ablation values"):
        validate(circuit.replace(values=None), known.model, known.task, tokenizer=known.tokenizer)
    with refused("nowhere"):
        validate(tmp_path / "nowhere")


def test_a_function_that_is_named_like_its_folder_stays_one(brief: dict[str, Any]) -> None:
    """Python has set `sparse_circuits.validate` to the folder by now."""
    import inspect

    assert callable(sc.validate) and sc.validate.__name__.endswith("validate")
    assert list(inspect.signature(sc.validate).parameters)[:3] == ["circuit", "model", "task"]
    subject = small(n=2)
    assert sc.validate(
        subject.circuit, subject.model, subject.task, tokenizer=subject.tokenizer, quick=True, n=2
    ).passed
    assert callable(sc.prune) and callable(sc.train)
