"""The circuits in the box: what their files, the table of them and their report cards say is what is so."""

from pathlib import Path
from statistics import median

import pytest

import sparse_circuits as sc
from sparse_circuits.bundled.folders import bundled_circuits
from sparse_circuits.files import read_json
from sparse_circuits.prune.suite_page import circuits_page, ratios, read_suite, summary_table
from sparse_circuits.tasks.load import task_names
from sparse_circuits.validate.card_folder import card_beside
from sparse_circuits.validate.suite_cards import read_cards
from sparse_circuits.validate.verdicts_page import compare, verdicts_page

ROOT = Path(__file__).parent.parent.parent
SUITES = ROOT / "docs" / "circuits"
CIRCUITS = bundled_circuits()


@pytest.fixture(scope="module")
def suite():
    return read_suite(SUITES / "bundled")


@pytest.mark.parametrize("name", CIRCUITS)
def test_a_fresh_evaluation_agrees_with_circuit_and_table(name, suite, model, tokenizer):
    circuit = sc.load_circuit(f"bundled/{name}")
    fresh = sc.evaluate(circuit, model, sc.load_task(name), tokenizer=tokenizer)
    assert circuit.loss is not None and fresh.loss == pytest.approx(circuit.loss.test, abs=2e-5)
    row = suite["tasks"][name]["plain"]
    assert (row["nodes"], row["edges"]) == (len(circuit.nodes), len(circuit.edges))
    assert row["test"]["loss"] == pytest.approx(fresh.loss, abs=2e-5) and row["met"] == circuit.met_target
    assert fresh.loss_kind == "binary" and circuit.model.where == "bundled"


def test_every_task_has_a_circuit_or_a_reason(suite):
    assert tuple(suite["tasks"]) == tuple(task_names())
    for name, found in suite["tasks"].items():
        assert ("reason" in found) == (name not in CIRCUITS)


def test_the_page_is_made_from_the_files(suite):
    dense = read_suite(SUITES / "bundled-dense")
    command = "sparse-circuits circuits table docs/circuits/bundled --dense docs/circuits/bundled-dense"
    assert (ROOT / "docs" / "circuits.md").read_text() == circuits_page(suite, dense, command)
    assert summary_table(suite, dense).strip() in (ROOT / "README.md").read_text()
    text = " ".join((ROOT / "README.md").read_text().split())
    for kind, found in ratios(suite, dense, "val").items():
        assert f"{found['ratio']['edges']:.1f} times fewer edges" in text, kind
        assert len(found["tasks"]) == 14
    assert f"{1 / ratios(suite, dense, 'val')['plain']['ratio']['nodes']:.1f} times more nodes" in text
    assert f"{sum(bool(t['plain']['met']) for t in suite['tasks'].values() if 'plain' in t)} of the fifteen" in text


@pytest.mark.parametrize("name", CIRCUITS)
def test_report_cards_belong_to_their_circuits_and_to_the_page(name):
    circuit = sc.load_circuit(f"bundled/{name}")
    card = card_beside(circuit)
    assert card is not None and card.settings["quick"]
    listed = read_cards(SUITES / "bundled")["tasks"][name]["plain"]
    assert (listed["nodes"], listed["edges"]) == (len(circuit.nodes), len(circuit.edges))
    assert listed["verdict"] == card.verdict
    assert {row: found["outcome"] for row, found in listed["rows"].items()} == {
        row.name: row.outcome for row in card.rows.values()
    }


@pytest.mark.parametrize(("other", "page"), [("kl", "verdicts.md"), ("stochastic", "verdicts_stochastic.md")])
def test_the_pages_of_verdicts_are_made_from_the_files(other, page):
    folders = ["docs/circuits/bundled", f"docs/circuits/bundled-{other}"]
    found = compare([ROOT / folder for folder in folders])
    made = verdicts_page(found, f"sparse-circuits circuits verdicts {' '.join(folders)}")
    assert (ROOT / "docs" / page).read_text() == made


def validation_text() -> str:
    """docs/validation.md as one line."""
    return " ".join((ROOT / "docs" / "validation.md").read_text().split())


def test_what_the_text_says_of_random_sets_is_what_the_cards_say():
    files = (ROOT / "src" / "sparse_circuits" / "bundled" / "circuits").glob("*/card_quick/card.json")
    rows = {file.parts[-3]: read_json(file)["metrics"]["necessity"] for file in files}
    means = [row["control"] for row in rows.values()]
    as_much = {task: row["details"]["as_good"] for task, row in rows.items() if row["details"]["as_good"]}
    assert {row["details"]["sets"] for row in rows.values()} == {16} and len(rows) == 15
    assert as_much.pop("bracket_counting") == 7 and sorted(as_much.values()) == [1, 2, 3]
    text = validation_text()
    assert f"as many random nodes {min(means):.2f} to {max(means):.2f} (mean of 16 sets" in text
    assert "for `bracket_counting` 7 of them do as much damage as its circuit, for three other tasks 1 to 3" in text


def test_what_the_text_says_of_training_noise_is_what_the_cards_say():
    beside = compare([SUITES / "bundled", SUITES / "bundled-stochastic"])["recipes"]["plain"]
    plain, noisy = (beside["suites"][label] for label in ("task_loss", "stochastic ablation"))
    before, after = ({name: row["median"] for name, row in one["rows"].items()} for one in (plain, noisy))
    text = validation_text()
    for said in (
        f"{noisy['nodes'] / plain['nodes'] - 1:.0%} more nodes and {noisy['edges'] / plain['edges'] - 1:.0%} more edges",
        f"met as often ({noisy['met']} of {len(beside['tasks'])})",
        f"({after['agreement']:.3f} nats, {before['agreement']:.3f} without)",
        f"loses {after['robust_loss']:.2f} nats in place of {before['robust_loss']:.2f}",
        f"{after['completeness']:.2f} apart in place of {before['completeness']:.2f}",
        f"{100 * after['shifted_splits']:.0f} percentage points in place of {100 * before['shifted_splits']:.0f}",
    ):
        assert said in text, said
    assert plain["met"] == noisy["met"] and len(beside["tasks"]) == 10
    assert {one["rows"][name]["pass"] for one in (plain, noisy) for name in ("robust_loss", "relaxation")} == {0}


def test_what_the_text_says_of_the_cards_is_what_they_say():
    """The sentences of docs/validation.md that answer the criticism, from cards.json."""
    tasks = read_cards(SUITES / "bundled")["tasks"]
    rows = [found["plain"]["rows"] for found in tasks.values() if "plain" in found]
    values = {name: [row[name]["value"] for row in rows] for name in rows[0]}
    passing = {name: sum(row[name]["outcome"] == "pass" for row in rows) for name in rows[0]}
    middle = {name: median(found) for name, found in values.items()}
    text = validation_text()
    for said in (
        f"{middle['same_choice']:.0%} of prompts (median; {min(values['same_choice']):.0%} at worst)",
        f"at least {min(values['faithfulness']):.0%} of the way",
        f"costs {min(values['necessity']):.2f} to {max(values['necessity']):.1f} nats",
        f"between {min(values['roles']):.0%} and {max(values['roles']):.0%} of a circuit's nodes (median {middle['roles']:.0%})",
        f"is {middle['attention']:.2f} of the way to another distribution",
        f"{min(values['completeness']):.1f} to {max(values['completeness']):.1f} nats apart (median {middle['completeness']:.2f})",
        f"first rises, by {middle['relaxation']:.1f} nats (median)",
        f"differ by {100 * middle['shifted_splits']:.0f} percentage points of accuracy (median), "
        f"{100 * max(values['shifted_splits']):.0f} at most",
        f"rises by up to {max(values['binarisation']):.1f} nats",
    ):
        assert said in text, said
    beside = compare([SUITES / "bundled", SUITES / "bundled-kl"])["recipes"]["plain"]
    plain, kl = (beside["suites"][label] for label in ("task_loss", "kl_to_model"))
    assert len(beside["tasks"]) == 14 and (kl["met"], plain["met"]) == (4, 9)
    assert kl["nodes"] / plain["nodes"] == pytest.approx(1.1, abs=0.02)
    assert kl["edges"] / plain["edges"] == pytest.approx(7 / 6, abs=0.02)
    counts = {15: ("agreement", "same_choice", "faithfulness", "necessity", "random_circuit"), 3: ("shifted_splits",)}
    counts |= {0: ("roles", "completeness", "relaxation", "robust_loss"), 4: ("binarisation",), 11: ("dead_heads",)}
    for count, names in counts.items():
        assert {passing[name] for name in names} == {count}


def test_files_name_no_machine():
    for file in (*SUITES.rglob("*.json"), *(file for folder in CIRCUITS.values() for file in folder.rglob("*.json"))):
        assert "/tmp" not in file.read_text() and "/work" not in file.read_text(), file
    for file in SUITES.glob("*/suite.json"):
        assert read_json(file)["model"]["where"] == file.parent.name
