"""A frontier of two tiny models: what is recorded, what survives a failure and an interruption, what a folder refuses."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest

from frontier.made_up_points import four_points
from refusals import refused
from sparse_circuits.circuit.ablation import save_reference
from sparse_circuits.circuit.circuit import load_circuit
from sparse_circuits.circuit.evaluate import evaluate
from sparse_circuits.data.shards import Shards
from sparse_circuits.data.tokenizer import read_tokenizer, save_tokenizer, tokenizer_hash
from sparse_circuits.executors import Here
from sparse_circuits.files import new_folder, write_json
from sparse_circuits.frontier import grid as grid_module
from sparse_circuits.frontier import point as point_module
from sparse_circuits.frontier.grid import Cells, Grid
from sparse_circuits.frontier.point import run_point, training_seconds
from sparse_circuits.frontier.record import read_point, write_point
from sparse_circuits.frontier.sweep import Frontier, read_frontier, run_frontier
from sparse_circuits.model.folder import save_model
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.tasks.load import load_task
from sparse_circuits.train.config import TrainConfig
from sparse_circuits.train.loop import train
from sparse_circuits.train.presets import tiny
from sparse_circuits.validate.ground_truth import quote_model
from train.runs import StopAfter, model_hashes

QUICK = PruneConfig(steps=60, lr=0.03, k_coef=3e-3, batch_pairs=2, train_pairs=64, val_pairs=9, choice_train_pairs=9)
SPARSE, DENSE = "w16_f0.3_a0.25", "dense_w8"


def task_lines(name: str, completions: tuple[str, str]) -> str:
    """A task of quotes; completions that the tokenizer splits make one that cannot be asked."""
    header = {"task": name, "completions": completions, "slots": {"word": ["a", "b", "c", "d", "e", "f"]}}
    starts = {"train": ("p(", "f(", "x = g("), "val": ("y = h(", "z(", "a = b("), "test": ("o(", "k = l(", "m(")}
    templates = [
        {"split": split, "a": f"{s}'<word>", "b": f'{s}"<word>', "continuation_a": "x", "continuation_b": "x"}
        for split, all_starts in starts.items()
        for s in all_starts
    ]
    return "".join(json.dumps(line) + "\n" for line in (header, *templates))


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "asked.jsonl").write_text(task_lines("asked", ("'", '"')))
    (folder / "split.jsonl").write_text(task_lines("split", ("')qqz", '")qqz')))
    return Grid(
        sparse=(Cells(widths=(16,), fractions=(0.3,)),),
        dense_widths=(8,),
        n_layer=1,
        steps=5,
        batch_size=2,
        sources=("tiny-python:100KB",),
        vocab_size=300,
        tasks=(str(folder / "asked.jsonl"), str(folder / "split.jsonl")),
        prune_seeds=1,
        prune=QUICK,
    )


def shorter(vocab_size: int) -> TrainConfig:
    base = tiny(vocab_size)
    model = base.model.replace(block_size=16)
    return base.replace(model=model, eval_tokens=256, reference_tokens=256, checkpoint_every=2)


@contextmanager
def training_as(function: Callable[..., Any]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(point_module, "train", function)
        yield


@pytest.fixture(scope="module")
def made(grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Frontier, Frontier]]:
    """The folder of a frontier, what it held after one point failed and one was interrupted, and what in the end."""
    out = tmp_path_factory.mktemp("frontier") / "out"

    def stopping(config: TrainConfig, *given: Any, **named: Any) -> Any:
        return train(config, *given, **named, progress=StopAfter(3))

    def failing(config: TrainConfig, *given: Any, **named: Any) -> Any:
        if "dense" in config.name:
            raise ValueError("the loss is not finite\nat step 3")
        return train(config, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid_module, "tiny", shorter)
        with training_as(stopping), pytest.raises(KeyboardInterrupt):
            run_frontier(grid, out, executor=Here())
        assert read_frontier(out).missing == (SPARSE, DENSE)
        assert (out / "points" / SPARSE / "run" / "checkpoints").is_dir()
        with training_as(failing):
            halfway = run_frontier(grid, out, executor=Here())
        before = {path: path.stat().st_mtime_ns for path in (out / "points" / SPARSE).rglob("*")}
        corpus = (out / "shards" / "manifest.json").stat().st_mtime_ns
        final = run_frontier(grid, out, executor=Here())
        assert {path: path.stat().st_mtime_ns for path in (out / "points" / SPARSE).rglob("*")} == before
        assert (out / "shards" / "manifest.json").stat().st_mtime_ns == corpus
        yield out, halfway, final


def test_a_failed_point_is_recorded_and_tried_again(made: tuple[Path, Frontier, Frontier]) -> None:
    out, halfway, final = made
    assert halfway.failed == {DENSE: "the loss is not finite at step 3"} and halfway.missing == ()
    assert [record.name for record in halfway.records] == [SPARSE]
    assert {record.name for record in final.records} == {SPARSE, DENSE} and final.failed == {}
    assert not (out / "points" / DENSE / "error.json").exists()


def test_an_interrupted_point_ends_as_if_it_had_not_been(
    made: tuple[Path, Frontier, Frontier], grid: Grid, tmp_path: Path
) -> None:
    out = made[0]
    train(grid.point(SPARSE).config, Shards.open(out / "shards"), read_tokenizer(out / "tokenizer"), tmp_path / "run")
    assert model_hashes(tmp_path / "run") == model_hashes(out / "points" / SPARSE / "run")


def test_tasks_that_the_model_cannot_do_are_misses_with_the_reason(made: tuple[Path, Frontier, Frontier]) -> None:
    for record in made[2].records:
        asked, split = record.task("asked"), record.task("split")
        assert asked.status == "unsolved" and asked.nodes is None and asked.model_loss is not None
        assert asked.model_loss > 0.15 and "above the target 0.15" in (asked.reason or "")
        assert split.status == "unusable" and "tokens" in (split.reason or "") and split.model_loss is None
        assert not (made[0] / "points" / record.name / "circuits").exists()


def test_a_finished_point_is_read_not_made(made: tuple[Path, Frontier, Frontier], grid: Grid) -> None:
    def never(*given: Any, **named: Any) -> Any:
        raise AssertionError("trained again")

    with training_as(never):
        assert run_point(str(made[0]), grid.to_dict(), SPARSE) == read_point(made[0] / "points" / SPARSE).to_dict()


def test_a_run_that_was_not_timed_is_refused(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 3.0, "seconds": 0.5}, {"step": 2, "loss": 2.0}]
    path = tmp_path / "run" / "metrics.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with refused("has no `seconds` at step 2", "older version", f"delete {path.parent}"):
        training_seconds(path)
    path.write_text(json.dumps(lines[0]) + "\n")
    assert training_seconds(path) == 0.5


def test_a_larger_grid_goes_on_and_another_is_refused(made: tuple[Path, Frontier, Frontier], grid: Grid) -> None:
    out = made[0]
    larger = grid.replace(dense_widths=(8, 4))
    assert {record.name for record in run_frontier(larger, out, executor=Here()).records} == {SPARSE, DENSE, "dense_w4"}
    with refused("points that this grid lacks (dense_w4)", "another folder"):
        run_frontier(grid, out, executor=Here())
    with refused("another target_loss (0.15)"):
        run_frontier(larger.replace(target_loss=0.2), out, executor=Here())
    assert read_frontier(out).grid == larger


def test_a_changed_task_is_refused(
    made: tuple[Path, Frontier, Frontier], grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file with one word more in a prompt; a point from before hashes were stored is taken as it is."""
    monkeypatch.setattr(grid_module, "tiny", shorter)
    out, asked = tmp_path / "out", Path(grid.tasks[0])
    shutil.copytree(made[0], out)
    grid = read_frontier(out).grid
    for record in read_frontier(out).records:
        assert [task.task_hash for task in record.tasks] == [load_task(task).hash for task in grid.tasks]
    before = asked.read_text()
    try:
        for changed in (before.replace("z('<word>", "zz('<word>"), before.replace('"asked"', '"renamed"')):
            asked.write_text(changed)
            with refused("holds points of another task 'asked'", "another folder"):
                run_frontier(grid, out, executor=Here())
        asked.write_text(before.replace("z('<word>", "zz('<word>"))
        for file in (out / "points").glob("*/point.json"):
            stored = json.loads(file.read_text())
            for task in stored["tasks"]:
                del task["task_hash"]
            write_json(file, stored)
        assert len(run_frontier(grid, out, executor=Here()).records) == len(grid.points())
    finally:
        asked.write_text(before)


def test_other_folders_are_refused(tmp_path: Path, grid: Grid) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with refused("holds other files"):
        run_frontier(grid, tmp_path, executor=Here())
    with refused("no frontier at", "frontier run"):
        read_frontier(tmp_path)
    (tmp_path / "notes.txt").unlink()
    write_json(tmp_path / "grid.json", {"kind": "frontier", "format_version": 2, "grid": grid.to_dict()})
    with refused("format_version 2"):
        read_frontier(tmp_path)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    write_point(tmp_path, four_points()[0])
    assert read_point(tmp_path) == four_points()[0]
    stored = json.loads((tmp_path / "point.json").read_text())
    write_json(tmp_path / "point.json", {**stored, "val_loss": "low"})
    with refused("point.json is damaged", "val_loss", "delete it"):
        read_point(tmp_path)


def test_a_point_can_be_sent_to_another_process(grid: Grid) -> None:
    function, arguments = ForkingPickler.loads(
        ForkingPickler.dumps((run_point, ("out", grid.to_dict(), SPARSE, "cpu")))
    )
    assert function is run_point and Grid.from_dict(arguments[1]) == grid


def test_a_task_that_is_done_gets_its_circuit(grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a trained model whose circuit is known, put where the point's training would have left it."""
    truth = quote_model()
    run = tmp_path / "points" / SPARSE / "run"
    with new_folder(run / "model", "model") as draft:
        save_model(truth.model, draft, tokenizer_hash(truth.tokenizer))
        save_tokenizer(truth.tokenizer, draft)
        save_reference(truth.reference, draft)
        figures = {"val_loss": 2.0, "nonzero": 900, "nonzero_fraction": 0.01, "zero_rows": 0}
        write_json(draft / "training.json", figures)
    (run / "metrics.jsonl").write_text('{"step": 1, "seconds": 0.5}\n{"step": 2, "seconds": 1.25}\n')
    save_tokenizer(truth.tokenizer, tmp_path / "tokenizer")
    monkeypatch.setattr(Grid, "loaded_tasks", lambda self: (truth.task,))
    record = run_point(str(tmp_path), grid.replace(prune_seeds=2).to_dict(), SPARSE)
    (task,) = record["tasks"]
    circuit = load_circuit(tmp_path / "points" / SPARSE / "circuits" / truth.task.name)
    found = evaluate(circuit, truth.model, truth.task, tokenizer=truth.tokenizer)
    assert task["status"] == "met" and task["reason"] is None and len(task["seeds"]) == 2
    assert task["loss"] == pytest.approx(found.loss, abs=1e-5) and found.loss <= 0.15
    assert (task["nodes"], task["edges"]) == (len(circuit.nodes), len(circuit.edges))
    matrices = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    nonzero = [int((w != 0).sum()) for name, w in truth.model.named_parameters() if name.endswith(matrices)]
    assert record["edges_total"] == sum(nonzero) >= task["edges"]
    assert record["seconds"]["training"] == 1.75
    assert task["met_on_val"] is True
    assert record["nodes_total"] == circuit.nodes_total and record["val_loss"] == 2.0
