"""The card as data: it comes back from JSON, knows its circuit, judges by its rule, and its folder is never mixed up."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refusals import refused
from sparse_circuits.circuit.circuit import Circuit, Origin
from sparse_circuits.json_values import plain
from sparse_circuits.sites import Edge, Node
from sparse_circuits.validate.card import ReportCard, Row, circuit_hash
from sparse_circuits.validate.card_folder import CardFolder, Part, card_beside, default_folder, load_card
from sparse_circuits.validate.reruns import CONTROL_STANDARDS, CONTROLS
from sparse_circuits.validate.run import MORE_MEASURES, QUICK_MEASURES, ROWS
from sparse_circuits.validate.statistics import Estimate
from sparse_circuits.validate.thresholds import GUESS, STANDARDS
from sparse_circuits.validate.verdict import judge
from validate.cards import card_of, row_of, rows_of
from validate.planted import small

SETTINGS = {"quick": True, "pairs": 6, "split": "test", "seed": 0}


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    return small(n=2).circuit


def test_a_card_comes_back_from_its_json(circuit: Circuit) -> None:
    card = card_of(circuit, relaxation="fail", mined="not applicable")
    stored = json.loads(json.dumps(card.to_dict(), allow_nan=False))
    again = ReportCard.from_dict(stored)
    assert again.to_dict() == card.to_dict() == stored
    assert again.rows["roles"] == card.rows["roles"] and again.rows["mined"].value is None
    assert again.rows["agreement"].details == {"a": None, "b": [1, {"c": [2.5]}]}
    metric = stored["metrics"]["relaxation"]
    assert metric["value"] == 0.125 and metric["interval"] == [0.1, 1 / 3] and metric["pass"] is False
    assert metric["control"] == 0.125 and metric["control_name"] == "chance" and metric["threshold"] == "at most 0.2"
    assert (
        stored["verdict"] == "unfaithful" and stored["passed"] is False and stored["metrics"]["mined"]["pass"] is None
    )
    assert stored["circuit"]["hash"] == circuit_hash(circuit) and stored["circuit"]["nodes"] == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "circuit"}, ("circuit", "not a report_card")),
        ({"format_version": 2}, ("format_version 2",)),
        ({"verdict": "true"}, ("damaged", "'true'", "trustworthy")),
        ({"metrics": {"roles": {"outcome": "maybe"}}}, ("damaged", "'maybe'", "not applicable")),
        ({"metrics": {"roles": {"outcome": "pass", "value": 1}}}, ("damaged", "interval")),
        ({"seconds": None}, ("damaged",)),
    ],
)
def test_a_damaged_card_is_refused(circuit: Circuit, change: dict[str, Any], words: tuple[str, ...]) -> None:
    with refused(*words):
        ReportCard.from_dict({**card_of(circuit).to_dict(), **change})


def test_the_hash_is_of_what_is_examined(circuit: Circuit) -> None:
    values = {site: value + (site == "0.attn.v") for site, value in circuit.values.items()}
    edge = Edge(Node("0.attn.v", 0), Node("0.attn.resid_delta", 1), 3.0)
    others = (
        circuit.replace(nodes=circuit.nodes[1:]),
        circuit.replace(cut_edges=(edge,)),
        circuit.replace(values=values),
        circuit.replace(loss_kind="full_vocab"),
        circuit.replace(model=Origin(where="", hash="0" * 64)),
    )
    assert len({circuit_hash(one) for one in (circuit, *others)}) == 6
    assert circuit_hash(circuit.replace(removable=(), seed=7, model=replace(circuit.model, where="x"))) == circuit_hash(
        circuit
    )


def test_plain_values() -> None:
    assert plain({1: (float("nan"), -0.0, True, "x"), "y": None}) == {"1": [None, 0.0, True, "x"], "y": None}
    assert str(plain(-0.0)) == "0.0"


# --- the verdict


def test_every_row_has_a_standard_and_every_standard_a_row() -> None:
    assert {row for part in (*QUICK_MEASURES, *MORE_MEASURES) for row in ROWS[part]} == set(STANDARDS)
    assert set(ROWS) == {*QUICK_MEASURES, *MORE_MEASURES, *CONTROLS}
    assert {row for control in CONTROLS for row in ROWS[control]} == set(CONTROL_STANDARDS)
    assert all(standard.why and standard.unit for standard in STANDARDS.values())


def test_standards_say_what_they_test() -> None:
    texts = {name: STANDARDS[name].text for name in ("agreement", "same_choice", "faithfulness", "adversarial")}
    assert texts == {
        "agreement": "at most 0.2",
        "same_choice": "at least 0.9",
        "faithfulness": "0.75 to 1.25",
        "adversarial": "at most 0.693",
    }
    band = STANDARDS["faithfulness"]
    assert [band.holds(value) for value in (0.74, 0.75, 1.25, 1.26)] == [False, True, True, False]
    assert STANDARDS["adversarial"].holds(GUESS) and not STANDARDS["dead_heads"].holds(1.0)


ESSENTIAL = [name for name, standard in STANDARDS.items() if standard.need != "beside"]
ALWAYS = [name for name, standard in STANDARDS.items() if standard.need == "always"]


def test_all_passed() -> None:
    assert judge(*rows_of()).word == "trustworthy" and judge(*rows_of()).reasons == ()


@pytest.mark.parametrize("name", ESSENTIAL)
def test_one_essential_failure_decides(name: str) -> None:
    found = judge(*rows_of(**{name: "fail", "minimality": "fail", "selectivity": "fail"}))
    assert found.word == "unfaithful" and found.reasons[0] == f"{name} fails: made up for {name}"
    assert any(reason.startswith("selectivity fails") for reason in found.reasons[1:])
    assert found.reasons[-1] == "beside the verdict, minimality fails: made up for minimality"


@pytest.mark.parametrize("outcome", ["not applicable", None])
@pytest.mark.parametrize("name", ALWAYS)
def test_without_what_is_always_needed_nothing_is_proven(name: str, outcome: Any) -> None:
    found = judge(*rows_of(**{name: outcome}))
    assert found.word == "unproven"
    assert found.reasons == (f"{name}: {'not measured' if outcome is None else f'made up for {name}'}",)


def test_what_does_not_apply_is_no_fault() -> None:
    rows, parts = rows_of(**dict.fromkeys(set(ESSENTIAL) - set(ALWAYS), "not applicable"))
    assert judge(rows, parts).word == "trustworthy"


def test_a_recipe_that_finds_circuits_of_nothing_proves_nothing() -> None:
    for control in ("selectivity", "shuffled"):
        found = judge(*rows_of(**{control: "fail"}))
        assert found.word == "unproven" and "having found this circuit shows little" in found.reasons[0]


def test_a_quick_card_is_faithful_at_best() -> None:
    found = judge(*rows_of(quick=True, gates=False))
    assert found.word == "faithful"
    assert found.reasons == (
        "not measured: interchange, resample_ablation, interchange_accuracy",
        "controls without an answer: nonsense, random_init",
    )
    rows, parts = rows_of(selectivity="not applicable")
    assert judge(rows, parts).word == "faithful"  # nothing could be pruned again


@pytest.mark.parametrize("name", sorted(set(STANDARDS) - set(ESSENTIAL)))
def test_what_stands_beside_does_not_decide(name: str) -> None:
    found = judge(*rows_of(**{name: "fail"}))
    assert found.word == "trustworthy" and found.reasons == (f"beside the verdict, {name} fails: made up for {name}",)


def test_close_calls_are_named() -> None:
    rows, parts = rows_of()
    rows["roles"] = row_of("roles", details={"close": True})
    assert judge(rows, parts).reasons == ("passed, with an interval that reaches across the threshold: roles",)


# --- its folder


def part() -> Part:
    row = Row(
        name="agreement",
        number="F1",
        unit="nats",
        value=Estimate(value=0.1, low=0.05, high=0.30000000000000004, n=3),
        threshold="at most 0.2",
        outcome="pass",
        reason="it is",
        details={"close": True},
    )
    return Part(rows=(row,), seconds=1.5)


def test_parts_are_kept_and_read_again(circuit: Circuit, tmp_path: Path) -> None:
    folder = CardFolder.open(tmp_path / "card", circuit, SETTINGS)
    assert not folder.holds("agreement")
    folder.keep("agreement", part())
    again = CardFolder.open(tmp_path / "card", circuit, SETTINGS)
    assert again.holds("agreement") and again.read("agreement") == part() and not again.holds("roles")
    with refused("is not finished", "run validate again"):
        load_card(tmp_path / "card")
    again.conclude(card_of(circuit))
    assert load_card(tmp_path / "card").to_dict() == card_of(circuit).to_dict()
    assert not CardFolder(None).holds("agreement")
    CardFolder(None).keep("agreement", part())


def test_the_folder_of_something_else_is_refused(circuit: Circuit, tmp_path: Path) -> None:
    CardFolder.open(tmp_path / "card", circuit, SETTINGS)
    with refused("card of another circuit", "new folder"):
        CardFolder.open(tmp_path / "card", circuit.replace(nodes=()), SETTINGS)
    for name, value in (("quick", False), ("pairs", 7), ("seed", 1)):
        with refused(f"card with another {name}", "new folder"):
            CardFolder.open(tmp_path / "card", circuit, {**SETTINGS, name: value})
    (tmp_path / "thesis.tex").write_text("years of work")
    with refused("holds something else"):
        CardFolder.open(tmp_path, circuit, SETTINGS)
    with refused("holds something else"):
        CardFolder.open(tmp_path / "thesis.tex", circuit, SETTINGS)
    file = tmp_path / "card" / "parts" / "agreement.json"
    folder = CardFolder.open(tmp_path / "card", circuit, SETTINGS)
    folder.keep("agreement", part())
    stored = json.loads(file.read_text())
    file.write_text(json.dumps({**stored, "seconds": "long"}))
    with refused("agreement.json", "damaged", "remove it"):
        folder.read("agreement")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_the_card_beside_a_circuit(circuit: Circuit, tmp_path: Path) -> None:
    known = circuit.replace(folder=tmp_path)
    assert card_beside(circuit) is None and card_beside(known) is None
    quick, full = (CardFolder.open(tmp_path / name, known, SETTINGS) for name in ("card_quick", "card"))
    quick.conclude(card_of(known, quick=True))
    assert card_beside(known).settings["quick"]
    full.conclude(card_of(known))
    assert not card_beside(known).settings["quick"]  # the fuller one
    with refused("that of another circuit", "validate again"):
        card_beside(known.replace(nodes=circuit.nodes[1:]))


def test_where_cards_lie(tmp_path: Path) -> None:
    assert default_folder(tmp_path, quick=False) == tmp_path / "card"
    assert default_folder(str(tmp_path), quick=True) == tmp_path / "card_quick"
