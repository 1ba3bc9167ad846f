"""Searching a recipe: what it counts, that it goes on where it was stopped, and that the winner is the best it saw."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sparse_circuits.cli import main
from sparse_circuits.prune import search as searching
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.pipeline import best, prune_seeds
from sparse_circuits.prune.search import SPACE, search
from sparse_circuits.tasks.load import load_task
from sparse_circuits.validate.ground_truth import GroundTruth

QUICK = PruneConfig(steps=60, lr=0.03, k_coef=3e-3, batch_pairs=2, train_pairs=64, val_pairs=9, choice_train_pairs=9)


def test_trials_are_counted_kept_and_gone_on_with(truth: GroundTruth, folder: Path, tmp_path: Path) -> None:
    task = str(folder / "task.jsonl")
    out = tmp_path / "search"
    one = search(folder / "model", [task], out, trials=1, seeds=2, start=QUICK)
    assert one.best == one.first == one.trials[0] and len(one.trials) == 1
    again = search(folder / "model", [task], out, trials=3, seeds=2, start=QUICK)
    assert again.trials[0] == one.trials[0] and [t.number for t in again.trials] == [0, 1, 2]
    assert len({tuple(trial.settings.values()) for trial in again.trials}) == 3
    assert again.best.nodes == min(trial.nodes for trial in again.trials) <= again.first.nodes
    for trial in again.trials:
        assert all(low <= trial.settings[name] <= high for name, (low, high) in SPACE.items())
    # the first trial is the recipe given, and its value what pruning by hand gives
    circuits = prune_seeds(
        truth.model, load_task(task), tokenizer=truth.tokenizer, reference=truth.reference, seeds=(0, 1), config=QUICK
    )
    sizes = [len(c.nodes) if c.loss.val <= 0.15 else c.nodes_total for c in circuits]
    assert one.first.nodes == pytest.approx(math.prod(sizes) ** (1 / len(sizes)))
    assert best(circuits).loss.val <= 0.15  # so that the comparison is not of misses
    stored = json.loads((out / "search.json").read_text())
    assert stored["best"]["nodes"] == again.best.nodes and len(stored["trials"]) == 3
    recipe = PruneConfig.from_file(out / "recipe.json")
    assert recipe == again.config and recipe.k_coef == again.best.settings["k_coef"]
    assert 1 - recipe.beta2 == pytest.approx(again.best.settings["inv_beta2"]) and recipe.steps == QUICK.steps


def test_a_trial_that_was_cut_off_is_done_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, out = str(folder / "task.jsonl"), tmp_path / "search"

    def dies(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(searching, "prune_seeds", dies)
        with pytest.raises(KeyboardInterrupt):
            search(folder / "model", [task], out, trials=1, seeds=1, start=QUICK)
    found = search(folder / "model", [task], out, trials=1, seeds=1, start=QUICK)
    assert len(found.trials) == 1 and found.first.settings["lr"] == pytest.approx(QUICK.lr)
    with pytest.raises(ValueError, match="holds a search with another seeds; give the same, or an empty folder"):
        search(folder / "model", [task], out, trials=2, seeds=2, start=QUICK)


def test_the_recipe_it_starts_from_is_tried_whatever_was_killed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with two processes: trial 1 ends, and the search is killed while trial 0, the recipe it starts from, runs."""
    out = tmp_path / "search"
    given = {"model": folder / "model", "tasks": [str(folder / "task.jsonl")], "out": out, "seeds": 1, "start": QUICK}
    real, tried = searching._try, []

    def dies(plan: Any, number: int) -> str:
        if not tried:
            tried.append(number)
            searching._study(plan).ask()  # trial 0, which a killed process took and never ended
            real(plan, number)
            raise KeyboardInterrupt
        return real(plan, number)

    with monkeypatch.context() as patched:
        patched.setattr(searching, "_try", dies)
        with pytest.raises(KeyboardInterrupt):
            search(**given, trials=1)
    found = search(**given, trials=1)
    lr = {trial.number: trial.settings["lr"] for trial in found.trials}
    assert (
        lr.pop(found.first.number) == pytest.approx(QUICK.lr) and list(lr) == [1] and lr[1] != pytest.approx(QUICK.lr)
    )
    assert found.best.nodes <= found.first.nodes
    assert search(**given, trials=1) == found, "once is enough"


def test_a_miss_counts_as_the_whole_model(folder: Path, tmp_path: Path) -> None:
    """A price that removes every node: the circuit is empty and misses, and must not win by being small."""
    found = search(
        folder / "model",
        [str(folder / "task.jsonl")],
        tmp_path / "search",
        trials=1,
        seeds=1,
        start=QUICK.replace(k_coef=3e-2, k_coef_warmup=0.0, steps=150, lr=0.03, least_loss_share=0.0, steer_to=None),
    )
    assert found.first.misses == 1 and found.first.nodes == pytest.approx(48 * 7 * 2 + 144 * 2 + 48)


def test_two_processes_share_a_journal(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "quick.json").write_text(json.dumps(QUICK.to_dict()))
    model, task, out = str(folder / "model"), str(folder / "task.jsonl"), str(tmp_path / "search")
    given = ["--model", model, "--task", task, "--out", out, "--trials", "2", "--seeds", "1", "--workers", "2"]
    assert main(["prune", "search", *given, "--config", str(tmp_path / "quick.json"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["trials"]) == 2 and found["path"] == out and (Path(out) / "recipe.json").is_file()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_device_reaches_every_process(
    workers: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch's device `meta` holds no numbers, so what runs on it cannot find anything."""
    model, task, out = str(folder / "model"), str(folder / "task.jsonl"), str(tmp_path / "search")
    given = ["--model", model, "--task", task, "--out", out, "--trials", "1", "--seeds", "1", "--workers", workers]
    assert main(["prune", "search", *given, "--device", "meta", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "meta" in said and said.count("\n") == 1 and not (tmp_path / "search" / "search.json").exists()


@pytest.mark.parametrize("changes", [{"trials": 0}, {"seeds": 0}, {"workers": 0}, {"tasks": []}])
def test_an_impossible_budget(changes: dict[str, object], tmp_path: Path) -> None:
    given = {"tasks": ["x"], "trials": 1, "seeds": 1, "workers": 1, **changes}
    with pytest.raises(ValueError, match="each must be at least 1"):
        search("nowhere", out=tmp_path / "s", **given)
    assert not (tmp_path / "s").exists()


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ValueError, match=r'needs the extra search; run pip install "sparse-circuits\[search\]"'):
        search("nowhere", ["x"], tmp_path / "s")
