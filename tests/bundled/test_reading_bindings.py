"""docs/circuits/set_or_string_fixedvarname.md: the value is looked up, the name is not."""

from pathlib import Path

import pytest

import sparse_circuits as sc
from bundled.readings import Way, open_way, right
from sparse_circuits.tasks.pairs import Pair

DOCS = Path(__file__).parent.parent.parent / "docs" / "circuits"
SITES = ("1.attn.k", "1.attn.v", "1.attn.pattern")
KEYS, VALUES = (147, 232, 239), (149, 152, 232, 234)


@pytest.fixture(scope="module", params=["circuit", "model"])
def way(request: pytest.FixtureRequest) -> Way:
    return open_way("set_or_string_fixedvarname", request.param == "circuit", SITES, 160)


def test_one_head_finds_the_set_and_another_the_string(way: Way) -> None:
    found = {head: way.looks(1, head) for head in (9, 14)}
    most = {head: (row[:, :-1].argmax(-1) == way.opening).view(-1, 2).float().mean(0) for head, row in found.items()}
    weight = {head: row[way.rows, way.opening].view(-1, 2).mean(0) for head, row in found.items()}
    assert float(most[14][0]) == 1 and float(weight[14][0]) == pytest.approx(0.78, abs=0.01)
    assert float(weight[14][1]) < 0.04, "of a string, head 14 sees nothing"
    assert float(most[9][1]) == 1
    assert float(weight[9][1]) == pytest.approx(0.27 if way.is_circuit else 0.96, abs=0.01)
    assert (float(weight[9][0]) < 0.06) == way.is_circuit, "in the model head 9 also looks at sets"


def test_exchanged_keys_and_values_turn_the_answers_around(way: Way) -> None:
    assert min(right(way.contrasts)) == 1
    changes = {"1.attn.k": way.exchanged("1.attn.k", KEYS), "1.attn.v": way.exchanged("1.attn.v", VALUES)}
    a, b = right(way.changed(changes))
    assert (a, b) == (0, 0) if way.is_circuit else (a < 0.07 and b < 0.22)
    whole = [*range(144, 160), *range(224, 240)]  # heads 9 and 14
    changes = {f"1.attn.{part}": way.exchanged(f"1.attn.{part}", whole) for part in "kv"}
    assert right(way.changed(changes)) == (0, 0)


def test_the_name_does_not_matter(way: Way) -> None:
    """`total = set()` ... `current` is answered like `current = set()` ... `current`, by circuit and model."""

    def renamed(pair: Pair) -> Pair:
        a, b = (prompt.replace("current =", "total =", 1) for prompt in (pair.prompt_a, pair.prompt_b))
        assert a != pair.prompt_a and a.count("current") == 1
        return pair._replace(prompt_a=a, prompt_b=b)

    assert right(way.asked(renamed)) == (1, 1)


def test_sizes_and_losses_in_the_text_are_the_circuits() -> None:
    circuit = sc.load_circuit("bundled/set_or_string_fixedvarname")
    text = (DOCS / "set_or_string_fixedvarname.md").read_text()
    assert circuit.loss is not None and circuit.model_loss is not None
    assert f"It has {len(circuit.nodes)} of {circuit.nodes_total:,} nodes and {len(circuit.edges)} edges" in text
    assert f"test loss {circuit.loss.test:.3f}" in text and f"the model's {circuit.model_loss.test:.3f}" in text
