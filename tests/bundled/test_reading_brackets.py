"""docs/circuits/bracket_counting.md: what the circuit does, and where the whole model does something else."""

import json
from pathlib import Path

import pytest

import sparse_circuits as sc
from bundled.readings import Way, open_way, right
from sparse_circuits.validate.attack import ADDED

DOCS = Path(__file__).parent.parent.parent / "docs" / "circuits"
SITES = ("0.attn.k", "0.attn.v", "0.attn.pattern", "0.mlp.post_act")
KEYS, VALUES = (2, 10, 167, 169), (7, 13, 174)
HEADS = (0, 10)
NEURONS = (3, 145, 190, 233, 248, 299)
LISTS_OF_LISTS = 3
"""The test template whose prompts differ in more than the opening token."""


@pytest.fixture(scope="module", params=["circuit", "model"])
def way(request: pytest.FixtureRequest) -> Way:
    alike = 160, lambda pair: pair.template != LISTS_OF_LISTS
    return open_way("bracket_counting", request.param == "circuit", SITES, *alike)


def test_two_heads_look_for_the_double_bracket(way: Way) -> None:
    """In the circuit both do; in the model one does, and it looks at a single bracket as well."""
    weights = {head: way.looks(0, head)[way.rows, way.opening].view(-1, 2).mean(0).tolist() for head in HEADS}
    expected = {0: [0.05, 0.80], 10: [0.05, 0.88]} if way.is_circuit else {0: [0.41, 0.70], 10: [0.00, 0.36]}
    for head in HEADS:
        assert weights[head] == pytest.approx(expected[head], abs=0.02)


def test_what_the_opening_sends_decides_the_circuit_and_only_partly_the_model(way: Way) -> None:
    changes = {"0.attn.k": way.exchanged("0.attn.k", KEYS), "0.attn.v": way.exchanged("0.attn.v", VALUES)}
    a, b = right(way.changed(changes))
    if way.is_circuit:
        assert a < 0.2 and b < 0.05
    else:
        assert 0.75 < a < 0.9 and 0.75 < b < 0.9, "most answers do not depend on these seven channels"


def test_neurons_fire_for_nested_lists_only_in_the_circuit(way: Way) -> None:
    fired = way.acts["0.mlp.post_act"][way.rows, way.pairs.last][:, list(NEURONS)].view(-1, 2, 6).mean(0)
    flat, nested = fired[0], fired[1]
    assert bool((nested > 2.5).all())
    if way.is_circuit:
        assert bool((flat < 1).all())
    else:
        assert float(flat[0]) > 4 and float(flat[1]) > float(nested[1]), "two of the six also fire for flat lists"


def test_the_dilution_in_the_text_is_the_file() -> None:
    found = json.loads((DOCS / "bracket_counting_dilution.json").read_text())
    assert [point["added"] for point in found["points"]] == list(ADDED) and found["filling"] == "elements"
    text = (DOCS / "bracket_counting.md").read_text()
    for point in found["points"]:
        score = point["score"]
        row = (point["added"], score["model_accuracy"]["value"], score["circuit_accuracy"]["value"])
        z = [point[name][side]["value"] for side in (0, 1) for name in ("contrasts_model", "contrasts_circuit")]
        line = "| {} | {:.0%} | {:.0%} | {:+.1f} | {:+.1f} | {:+.1f} | {:+.1f} |".format(*row, *z)
        assert line in text, line
    assert f"correlation of both contrasts over all prompts is {found['correlation']:.2f}" in text


def test_sizes_and_losses_in_the_text_are_the_circuits() -> None:
    circuit = sc.load_circuit("bundled/bracket_counting")
    text = (DOCS / "bracket_counting.md").read_text()
    assert circuit.loss is not None and circuit.model_loss is not None
    assert f"It has {len(circuit.nodes)} of {circuit.nodes_total:,} nodes and {len(circuit.edges)} edges" in text
    assert f"test loss {circuit.loss.test:.3f}" in text and f"the model's {circuit.model_loss.test:.3f}" in text
