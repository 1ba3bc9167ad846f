"""The models in the box: what they score is what their files say, and a stranger's prompts are answered.

`tests/golden/own_prompts.jsonl` holds ten prompts per task and half, written from the one-line descriptions of the tasks by
somebody who had seen neither templates nor grammar. Nothing was chosen on the half `heldout`.
"""

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch

import sparse_circuits as sc
from sparse_circuits.bundled import folders
from sparse_circuits.bundled.folders import NAMES, bundled_folder, bundled_name
from sparse_circuits.circuit.ablation import load_reference
from sparse_circuits.circuit.evaluate import evaluate_model
from sparse_circuits.circuit.mask_scorer import check_task_on_model
from sparse_circuits.circuit.task_scores import tasks_page
from sparse_circuits.data.tokenizer import encode
from sparse_circuits.files import read_json
from sparse_circuits.prune.pipeline import _where
from sparse_circuits.recipe.matched import TOLERANCE
from sparse_circuits.tasks.load import load_task, task_names

HERE = Path(folders.__file__).parent
ROOT = Path(__file__).parent.parent.parent
PROMPTS = [json.loads(line) for line in (ROOT / "tests" / "golden" / "own_prompts.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def scores():
    return read_json(HERE / "scores.json")


def test_both_load_by_name_with_their_reference(model):
    for name in NAMES:
        loaded = sc.load_model(name)
        assert load_reference(loaded.source, loaded).tokens >= 262_144
        assert bundled_name(loaded.source) == name == _where(loaded)
    assert bundled_name("elsewhere") is None
    with pytest.raises(ValueError, match="unknown bundled model 'x'; allowed: bundled, bundled-dense"):
        bundled_folder("x")


def test_they_fit_into_a_wheel():
    files = [file for name in NAMES for file in bundled_folder(name).rglob("*")]
    assert sum(file.stat().st_size for file in files) < 30e6
    assert {"config.json", "model.safetensors", "reference.safetensors", "README.md", "tokenizer.json"} <= {
        f.name for f in files
    }


def test_no_matrix_has_more_than_its_share(model):
    """f = 1/32 of every matrix and bias, embeddings included; norms, sinks, positions and the bigram table are exempt."""
    for name, parameter in model.named_parameters():
        if "weight" in name and not any(part in name for part in ("bigram", "positions")):
            assert int(parameter.count_nonzero()) <= parameter.numel() / 32, name
    assert model.config.d_model <= 384 and model.config.n_layer <= 6


def test_the_dense_twin_has_the_same_loss(scores):
    sparse, dense = scores["bundled"]["val_loss"], scores["bundled-dense"]["val_loss"]
    assert abs(sparse - dense) <= TOLERANCE
    assert sc.load_model("bundled-dense").config.afrac is None


@pytest.mark.parametrize("name", task_names())
def test_scores_are_those_of_the_file(name, model, tokenizer, scores):
    stored = scores["bundled"]["tasks"][name]["template"]
    found = evaluate_model(model, load_task(name), tokenizer, "test")
    assert found.loss == pytest.approx(stored["loss"], abs=2e-5)
    assert (found.accuracy, found.n_pairs) == (pytest.approx(stored["accuracy"], abs=1e-3), stored["n_pairs"])


@pytest.mark.parametrize("name", task_names())
def test_tasks_are_well_posed_for_it(name, model, tokenizer):
    report = check_task_on_model(load_task(name), tokenizer, model, load_reference(model.source, model).values)
    assert report.ok, [condition.detail for condition in report.failed]
    assert load_task(name).pairs("test", 2000, tokenizer).n == 2000


UNSOLVED = frozenset(("set_or_string", "var_swap", "final_kwarg"))
"""Tasks at 0.15 nats or more. The recipe aims at none, and at 18 below 0.05 (METHOD D3): this model misses both."""


def test_what_is_said_of_the_model_is_so(scores):
    """Docs and README name the tasks that are not solved; a better model has to shorten the list."""
    losses = {name: scores["bundled"]["tasks"][name]["template"]["loss"] for name in task_names()}
    assert {name for name, loss in losses.items() if loss >= 0.15} == UNSOLVED
    assert all(name in (ROOT / "README.md").read_text() for name in UNSOLVED)
    assert sum(loss < 0.05 for loss in losses.values()) >= 10


MISSED = {
    "dev": {"bracket_counting", "var_swap", "final_kwarg"},
    "heldout": {"single_double_quote", "bracket_counting", "else_elif", "fstring_brace", "var_swap", "final_kwarg"},
}
"""Tasks of which fewer than nine of a stranger's ten prompts are answered."""


@pytest.mark.parametrize("half", ["dev", "heldout"])
def test_a_strangers_prompts_are_answered(half, model, tokenizer):
    right = defaultdict(list)
    for row in (row for row in PROMPTS if row["half"] == half):
        ids = encode(tokenizer, row["prompt"])
        good, bad = (encode(tokenizer, row["prompt"] + row[side])[len(ids) :] for side in ("right", "wrong"))
        assert good[0] != bad[0]  # a stranger's name may be several tokens: the first ones decide
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0, -1]
        right[row["task"]].append(bool(logits[good[0]] > logits[bad[0]]))
    assert set(right) == set(task_names()) and {len(found) for found in right.values()} == {10}
    missed = {name for name, found in right.items() if sum(found) < 9}
    assert missed == MISSED[half], missed  # the aim is none


def test_the_page_of_the_tasks_is_made_from_the_scores(scores):
    assert (ROOT / "docs" / "tasks.md").read_text() == tasks_page(scores["bundled"]["tasks"], "bundled")


def test_the_card_tells_the_scores(scores):
    for name in NAMES:
        card = (bundled_folder(name) / "README.md").read_text()
        for task in task_names():
            assert f"| {task} | {scores[name]['tasks'][task]['template']['loss']:.3f} |" in card
        assert "python-env" in card and f"{scores[name]['val_loss']:.3f}"[:4] in card
