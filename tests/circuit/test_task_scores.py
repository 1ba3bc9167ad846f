"""Scores of many tasks at once: what they are made of, what is refused and in which words."""

import json
from pathlib import Path

import pytest
import torch

import sparse_circuits as sc
from sparse_circuits.circuit.evaluate import evaluate_model
from sparse_circuits.circuit.task_scores import (
    HEAD,
    score_shifted,
    score_table,
    score_tasks,
    table_rows,
    tasks_page,
    unusable_reason,
    usable_tasks,
)
from sparse_circuits.cli import main
from sparse_circuits.data.corpus import open_source
from sparse_circuits.data.source import split_place
from sparse_circuits.data.tokenizer import save_tokenizer, tokenizer_hash, train_tokenizer
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.folder import save_model, stored_val_threshold
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.tasks.load import load_task, task_names
from sparse_circuits.tasks.mined import HELD_OUT, mined_share


def natural(name: str) -> list[str]:
    task = load_task(name)
    return [
        p.prompt(side) + p.completion(side) + after
        for split in task.splits
        for p in task.sample(split, 100)
        for side, after in ((0, p.continuation_a), (1, p.continuation_b))
    ]


@pytest.fixture(scope="module")
def tokenizer():
    """Knows all tasks but `lambda_func`: the corpus never shows its completions whole."""
    texts = [text.replace("):\n", ")  :\n") for name in task_names() if name != "lambda_func" for text in natural(name)]
    return train_tokenizer([*texts, "x = {1, 2}\n" * 300, 'print("a")\n' * 300], 1200)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("model")
    config = ModelConfig(vocab_size=1200, n_layer=1, d_model=16, n_head=1, d_head=16, block_size=64, afrac=0.5)
    model = SparseTransformer(config).initialize(3)
    save_model(model, where, tokenizer_hash(tokenizer))
    save_tokenizer(tokenizer, where)
    return where


def test_a_task_that_cannot_be_asked_is_listed_with_its_reason(folder):
    model, tokenizer = sc.load_model(folder), sc.load_tokenizer(folder)
    found = score_tasks(model, tokenizer, n=16)
    assert set(found.unusable) == {"lambda_func"} and set(found.scores) == set(task_names()) - {"lambda_func"}
    assert "completion '):\\n' splits into" in found.unusable["lambda_func"]
    assert found.scores["with_as"] == evaluate_model(model, load_task("with_as"), tokenizer, "test", n=16)
    assert usable_tasks(tokenizer) == tuple(name for name in task_names() if name != "lambda_func")
    assert unusable_reason(load_task("with_as"), tokenizer) is None


def test_the_only_task_being_unusable_is_an_error_that_names_the_others(folder):
    model, tokenizer = sc.load_model(folder), sc.load_tokenizer(folder)
    with pytest.raises(
        ValueError, match=r"splits into .*\(tasks usable with this tokenizer: single_double_quote, .*class_init\)"
    ):
        score_tasks(model, tokenizer, [load_task("lambda_func")], n=16)


def test_shifted_scores_are_the_mean_of_the_shifted_splits(folder):
    model, tokenizer, task = sc.load_model(folder), sc.load_tokenizer(folder), load_task("bracket_counting")
    found = score_shifted(model, tokenizer, task, n=16)
    each = {
        split: evaluate_model(model, task, tokenizer, split, n=16) for split in ("longer", "deeper", "names", "fillers")
    }
    assert dict(found.splits) == each and found.n_pairs == 64
    assert found.loss == pytest.approx(sum(e.loss for e in each.values()) / 4)
    with pytest.raises(
        ValueError, match="unknown split 'dev' of task 'bracket_counting'; allowed: train, val, test, longer"
    ):
        evaluate_model(model, task, tokenizer, "dev", n=4)


def test_the_table_has_a_row_for_every_task(folder):
    scores = score_table(sc.load_model(folder), sc.load_tokenizer(folder), n=8)
    rows = table_rows(scores)
    assert [row[0] for row in rows] == list(task_names()) and {len(row) for row in rows} == {len(HEAD)}
    assert rows[16][1] == "cannot be asked" and json.loads(json.dumps(scores)) == scores
    page = tasks_page(scores, "m")
    assert all(f"\n## {name}\n" in page and load_task(name).statement in page for name in task_names())


def told(capsys, *arguments: str) -> dict:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments: str) -> str:
    assert main([*arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    return said.err


def test_tasks_eval_verb(folder, capsys, tmp_path):
    where = str(folder)
    found = told(capsys, "tasks", "eval", "--model", where, "--pairs", "8")
    assert len(found["tasks"]) == 19 and set(found["unusable"]) == {"lambda_func"}
    found = told(
        capsys,
        "tasks",
        "eval",
        "--model",
        where,
        "--pairs",
        "8",
        "--split",
        "shifted",
        "--task",
        "with_as",
        "if_equals",
    )
    assert set(found["tasks"]["with_as"]["splits"]) == {"longer", "deeper", "names", "fillers"}
    found = told(capsys, "tasks", "eval", "--model", where, "--pairs", "8", "--split", "deeper")
    assert "with_as" in found["tasks"] and "class_init" not in found["tasks"]  # it has no deeper split
    code = tmp_path / "code"
    code.mkdir()
    (code / "a.py").write_text("def f(value):\n    while value < 3:\n        value += 1\n    return value\n")
    (code / "b.py").write_text("def g(items):\n    for value in items:\n        print(value)\n")
    found = told(capsys, "tasks", "eval", "--model", where, "--source", str(code), "--task", "for_while")
    assert found["tasks"]["for_while"]["n_points"] == {"A": 1, "B": 1} and found["tasks"]["for_while"]["n_pairs"] == 1
    found = told(capsys, "tasks", "eval", "--model", where, "--source", "mined", "--task", "if_ternary")
    assert found["tasks"]["if_ternary"]["n_pairs"] > 0


def test_a_model_is_asked_of_what_its_own_training_held_out(folder, capsys, tmp_path):
    """The same points as in a folder of just those files of the library, which is mined whole."""
    model, tokenizer = sc.load_model(folder), sc.load_tokenizer(folder)
    save_model(model, tmp_path / "model", tokenizer_hash(tokenizer), val_threshold=0.04)
    save_tokenizer(tokenizer, tmp_path / "model")
    for document in open_source("python-env").documents():
        if split_place(document.split_key) < 0.04:
            copy = tmp_path / "code" / document.split_key
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(document.text, encoding="utf-8")
    given = ("tasks", "eval", "--model", str(tmp_path / "model"), "--task", "if_ternary", "if_equals")
    found = told(capsys, *given, "--source", "mined")
    assert found["held_out"] == 0.04 and found["tasks"]["if_equals"]["n_points"]["B"] > 0
    assert found["tasks"] == told(capsys, *given, "--source", str(tmp_path / "code"))["tasks"]
    assert stored_val_threshold(sc.load_model("bundled").source) is None and mined_share(None) == HELD_OUT


def test_tasks_eval_refuses(folder, capsys, tmp_path):
    where = str(folder)
    assert "tasks usable with this tokenizer" in refused(
        capsys, "tasks", "eval", "--model", where, "--task", "lambda_func"
    )
    assert "unknown task 'quotes'; allowed: single" in refused(
        capsys, "tasks", "eval", "--model", where, "--task", "quotes"
    )
    assert "unknown split 'dev'" in refused(capsys, "tasks", "eval", "--model", where, "--split", "dev")
    assert "mined ones have no splits" in refused(
        capsys, "tasks", "eval", "--model", where, "--source", "mined", "--split", "val"
    )
    (tmp_path / "empty.py").write_text("x = 1\n")
    said = refused(capsys, "tasks", "eval", "--model", where, "--source", str(tmp_path), "--task", "with_open")
    assert "with_open" in said and "give" in said


def test_tasks_table_verb(folder, capsys, tmp_path):
    page = tmp_path / "tasks.md"
    found = told(capsys, "tasks", "table", "--model", str(folder), "--pairs", "4", "--out", str(page))
    assert set(found["tasks"]) == set(task_names())
    assert (
        f"| single_double_quote | {found['tasks']['single_double_quote']['template']['loss']:.3f} |" in page.read_text()
    )


def test_halved_tensors_are_what_a_reader_gets(folder, tmp_path):
    model = sc.load_model(folder)
    save_model(model, tmp_path, None, halved=("bigram.weight",))
    again = sc.load_model(tmp_path)
    assert (
        torch.equal(again.bigram.weight, model.bigram.weight.half().float())
        and again.bigram.weight.dtype == torch.float32
    )
    assert torch.equal(again.embed.weight, model.embed.weight)
    with torch.no_grad():
        model.bigram.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match="bigram.weight has entries beyond 65,504"):
        save_model(model, tmp_path / "x", None, halved=("bigram.weight",))
