"""The circuits in the box: what their files, the table of them and their report cards say is what is so."""

from pathlib import Path

import pytest

import sparse_circuits as sc
from sparse_circuits.bundled.folders import bundled_circuits
from sparse_circuits.files import read_json
from sparse_circuits.prune.suite_page import circuits_page, ratios, read_suite
from sparse_circuits.tasks.load import task_names
from sparse_circuits.validate.card_folder import card_beside

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
    found = ratios(suite, dense)["plain"]
    text = (ROOT / "README.md").read_text()
    assert f"{found['ratio']['edges']:.1f} times fewer edges" in text
    assert f"{sum(bool(t['plain']['met']) for t in suite['tasks'].values() if 'plain' in t)} of the fifteen" in text


@pytest.mark.parametrize("name", CIRCUITS)
def test_report_cards_belong_to_their_circuits_and_to_the_text(name):
    circuit = sc.load_circuit(f"bundled/{name}")
    card = card_beside(circuit)
    assert card is not None and card.settings["quick"]
    failed = [row.name for row in card.rows.values() if row.outcome == "fail"]
    line = f"| {name} | {len(circuit.nodes)} | {card.verdict} | {', '.join(failed) or 'none'} |"
    assert line in (ROOT / "docs" / "validation.md").read_text(), line


def test_cards_name_no_machine():
    for name in CIRCUITS:
        for file in CIRCUITS[name].rglob("*.json"):
            assert "/tmp" not in file.read_text() and "/work" not in file.read_text(), file
    for file in SUITES.glob("*/suite.json"):
        assert read_json(file)["model"]["where"] == file.parent.name
