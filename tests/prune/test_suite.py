"""Circuits of many tasks: what is found is what pruning by hand finds, misses are listed, and the table counts only what is met."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sparse_circuits as sc
from refusals import refused
from sparse_circuits.cli import main
from sparse_circuits.files import write_json
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.pipeline import best, prune_seeds
from sparse_circuits.prune.refine import minimality
from sparse_circuits.prune.suite import prune_tasks
from sparse_circuits.prune.suite_page import circuits_page, ratios, read_suite
from sparse_circuits.tasks.custom import save_task
from sparse_circuits.validate.ground_truth import GroundTruth

QUICK = PruneConfig(steps=80, lr=0.05, k_coef=3e-3, batch_pairs=2, train_pairs=64, val_pairs=9, choice_train_pairs=9)


@pytest.fixture(scope="module")
def suite(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The quote task, which the model does, and a built-in one that its tokenizer cannot ask."""
    out = tmp_path_factory.mktemp("suite") / "suite"
    tasks = [str(folder / "task.jsonl"), "lambda_func"]
    return {"out": out, **prune_tasks(folder / "model", out, tasks=tasks, seeds=2, config=QUICK)}


def test_circuits_are_those_of_prune(suite: dict[str, Any], folder: Path, truth: GroundTruth) -> None:
    found = suite["tasks"]["closing_quote"]
    task = sc.load_task(str(folder / "task.jsonl"))
    circuits = prune_seeds(
        truth.model, task, tokenizer=truth.tokenizer, reference=truth.reference, seeds=(0, 1), config=QUICK
    )
    assert [(s["nodes"], s["edges"]) for s in found["seeds"]] == [(len(c.nodes), len(c.edges)) for c in circuits]
    plain = sc.load_circuit(suite["out"] / "closing_quote" / "plain")
    assert plain.nodes == best(circuits).nodes and found["plain"]["nodes"] == len(plain.nodes)
    model = sc.load_model(folder / "model")
    assert plain.removable == minimality(plain, model, task, tokenizer=truth.tokenizer)
    refined = sc.load_circuit(suite["out"] / "closing_quote" / "refined")
    assert refined.removable == () and found["refined"]["removable"] == 0
    for kind, circuit in (("plain", plain), ("refined", refined)):
        fresh = sc.evaluate(circuit, model, task, split="test", tokenizer=truth.tokenizer)
        assert found[kind]["test"]["loss"] == pytest.approx(fresh.loss, abs=1e-6)
        on_val = sc.evaluate(circuit, model, task, split="val", tokenizer=truth.tokenizer).loss
        assert found[kind]["val_loss"] == pytest.approx(on_val, abs=1e-6)
        assert found[kind]["met_on_val"] == (on_val <= 0.15)
        assert found[kind]["shifted"] is None and found[kind]["mined"] is None  # an own task without either
    assert found["median"] in found["seeds"] and found["missed"] is None


@pytest.mark.parametrize("kind", ["plain", "refined"])
def test_shipping_copies_circuits_and_their_origins(suite: dict[str, Any], tmp_path: Path, kind: str) -> None:
    box = tmp_path / "box"
    assert main(["circuits", "ship", str(suite["out"]), "--out", str(box), "--kind", kind]) == 0
    source, copy = sc.load_circuit(suite["out"] / "closing_quote" / kind), sc.load_circuit(box / "closing_quote")
    assert copy.nodes == source.nodes and copy.edges == source.edges and copy.cut_edges == source.cut_edges
    assert [path.name for path in box.iterdir()] == ["closing_quote"]
    assert main(["circuit", "eval", str(box / "closing_quote"), "--json"]) == 0, "it finds model and task"


def test_shipping_refuses_what_it_cannot_ship(suite: dict[str, Any], tmp_path: Path) -> None:
    assert main(["circuits", "ship", str(tmp_path), "--out", str(tmp_path / "none")]) == 2
    assert main(["circuits", "ship", str(suite["out"]), "--out", str(tmp_path / "none"), "--kind", "best"]) == 2
    assert not (tmp_path / "none").exists()


def test_a_task_that_cannot_be_asked_is_listed(suite: dict[str, Any]) -> None:
    found = suite["tasks"]["lambda_func"]
    assert set(found) == {"task_hash", "reason"} and "\n" not in found["reason"] and "lambda_func" in found["reason"]
    page = circuits_page(suite, None, "the command")
    assert "| lambda_func | no circuit |" in page and f"lambda_func: {found['reason']}" in page


def test_what_is_done_is_not_done_again(suite: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparse_circuits.prune import suite as module

    monkeypatch.setattr(module, "prune_seeds", lambda *given, **named: pytest.fail("pruned again"))
    tasks = [str(folder / "task.jsonl"), "lambda_func"]
    again = prune_tasks(folder / "model", suite["out"], tasks=tasks, seeds=2, config=QUICK)
    assert again["tasks"] == suite["tasks"]
    with pytest.raises(ValueError, match="was begun with another seeds; give the same, or an empty folder"):
        prune_tasks(folder / "model", suite["out"], tasks=tasks, seeds=3, config=QUICK)


def spoilt(suite: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of the suite, to go on in."""
    shutil.copytree(suite["out"], tmp_path / "suite")
    return tmp_path / "suite"


def changed_task(folder: Path, to: Path, **header: str) -> str:
    """The quote task with one word more in a prompt, in another file."""
    first, second, *others = (folder / "task.jsonl").read_text().splitlines()
    template = json.loads(second)
    lines = [
        json.dumps({**json.loads(first), **header}),
        json.dumps({**template, **{side: "x = 1\n" + template[side] for side in "ab"}}),
        *others,
    ]
    to.write_text("\n".join(lines) + "\n")
    return str(to)


@pytest.mark.parametrize("before", ["this release", "an earlier one"])
def test_a_changed_task_is_refused(suite: dict[str, Any], folder: Path, tmp_path: Path, before: str) -> None:
    """An earlier release stored no hash of the task; its circuits have it."""
    out, own = spoilt(suite, tmp_path), changed_task(folder, tmp_path / "task.jsonl")
    if before == "an earlier one":
        for file in (*out.glob("*/circuits.json"), out / "plan.json"):
            stored = json.loads(file.read_text())
            write_json(file, {key: value for key, value in stored.items() if key not in ("task_hash", "mined")})
        again = prune_tasks(folder / "model", out, tasks=["lambda_func"], seeds=2, config=QUICK)
        assert set(again["tasks"]["lambda_func"]) == {"reason"}, "unknown stays unknown"
    kept = (out / "suite.json").read_bytes()
    with refused("closing_quote holds the circuits of another task 'closing_quote'", "rename this one"):
        prune_tasks(folder / "model", out, tasks=[own], seeds=2, config=QUICK)
    assert (out / "suite.json").read_bytes() == kept


def test_another_source_of_mined_pairs_is_refused(suite: dict[str, Any], folder: Path) -> None:
    with refused("was begun with another mined; give the same"):
        prune_tasks(folder / "model", suite["out"], tasks=["lambda_func"], seeds=2, config=QUICK, mined="elsewhere")


def test_two_tasks_of_one_name_are_refused(folder: Path, tmp_path: Path) -> None:
    tasks = [str(folder / "task.jsonl"), changed_task(folder, tmp_path / "task.jsonl")]
    with refused("two tasks are named 'closing_quote'", "rename one"):
        prune_tasks(folder / "model", tmp_path / "suite", tasks=tasks)
    assert not (tmp_path / "suite").exists()


def test_an_own_task_named_like_a_built_in_one_is_not_mined(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparse_circuits.prune import suite_scores as module

    monkeypatch.setattr(module, "mine_all", lambda *given, **named: pytest.fail("mined"))
    own = changed_task(folder, tmp_path / "own.jsonl", task="single_double_quote")
    found = prune_tasks(folder / "model", tmp_path / "suite", tasks=[own], seeds=1, config=QUICK, refined=False)
    assert found["tasks"]["single_double_quote"]["plain"]["mined"] is None


def test_a_call_on_some_tasks_keeps_the_others(suite: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    out = spoilt(suite, tmp_path)
    again = prune_tasks(folder / "model", out, tasks=["lambda_func"], seeds=2, config=QUICK)
    assert again["tasks"] == suite["tasks"] == json.loads((out / "suite.json").read_text())["tasks"]
    more = prune_tasks(folder / "model", out, tasks=["with_as"], seeds=2, config=QUICK)
    assert list(more["tasks"]) == ["with_as", "lambda_func", "closing_quote"], "built-in ones in their order first"


def test_an_interrupted_run_can_be_tabled(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparse_circuits.prune import suite as module

    def dies(model: Any, task: Any, **named: Any) -> Any:
        if task.name != "closing_quote":
            raise KeyboardInterrupt
        return prune_seeds(model, task, **named)

    tasks, out = [str(folder / "task.jsonl"), "lambda_func"], tmp_path / "suite"
    with monkeypatch.context() as patched:
        patched.setattr(module, "prune_seeds", dies)
        with pytest.raises(KeyboardInterrupt):
            prune_tasks(folder / "model", out, tasks=tasks, seeds=1, config=QUICK, refined=False)
    found = read_suite(out)["tasks"]
    assert list(found) == ["closing_quote"] and found["closing_quote"]["plain"]["test"]["loss"] > 0
    (out / "closing_quote" / "scores.json").unlink()  # as if it had been killed before that
    more = prune_tasks(folder / "model", out, tasks=["lambda_func"], seeds=1, config=QUICK, refined=False)
    assert list(more["tasks"]) == ["lambda_func"], "nothing to show of a task that is not scored"
    assert prune_tasks(folder / "model", out, tasks=tasks, seeds=1, config=QUICK, refined=False)["tasks"].items() >= (
        found.items()
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_device_reaches_every_process(
    workers: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch's device `meta` holds no numbers, so what runs on it cannot find anything."""
    model, task = str(folder / "model"), str(folder / "task.jsonl")
    given = ["--model", model, "--task", task, "--out", str(tmp_path / "suite"), "--seeds", "1", "--workers", workers]
    assert main(["circuits", "run", *given, "--device", "meta", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "1 of 1 tasks failed" in said and "meta" in said and said.count("\n") == 1
    assert not (tmp_path / "suite" / "closing_quote").exists()


def test_scores_are_taken_on_the_device(suite: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    shutil.copytree(suite["out"], tmp_path / "suite")
    (tmp_path / "suite" / "closing_quote" / "scores.json").unlink()
    given = {"tasks": [str(folder / "task.jsonl")], "seeds": 2, "config": QUICK}
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        prune_tasks(folder / "model", tmp_path / "suite", device="meta", **given)
    again = prune_tasks(folder / "model", tmp_path / "suite", device="cpu:0", **given)  # another than before
    assert again["tasks"]["closing_quote"] == suite["tasks"]["closing_quote"]


def test_a_library_that_asks_nothing_costs_no_other_score(
    truth: GroundTruth, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mining looks at what this model's training held out, which may be next to nothing; an own source must hold something."""
    from sparse_circuits.prune import suite_scores as module

    shutil.copytree(folder / "model", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    write_json(config, {**json.loads(config.read_text()), "val_threshold": 0.01})
    task, asked = tmp_path / "task.jsonl", []
    save_task(replace(truth.task, name="single_double_quote"), task)  # a name that is mined

    def nothing(*given: Any, **named: Any) -> None:
        asked.append(named["val_threshold"])
        raise ValueError("there is none")

    monkeypatch.setattr(module, "mine_all", nothing)
    monkeypatch.setattr(module, "is_built_in", lambda task: True)
    given = {"tasks": [str(task)], "seeds": 1, "config": QUICK, "refined": False}
    with pytest.raises(ValueError, match="there is none"):
        prune_tasks(tmp_path / "model", tmp_path / "other", mined="some/code", **given)
    found = prune_tasks(tmp_path / "model", tmp_path / "suite", **given)["tasks"]["single_double_quote"]
    assert found["plain"]["mined"] is None and found["plain"]["test"]["n_pairs"] > 0 and asked == [0.01, 0.01]


def scored(nodes: int, edges: int, met: bool = True) -> dict[str, Any]:
    losses = {"loss": 0.1 if met else 0.2}
    return {"nodes": nodes, "edges": edges, "met": met, "test": losses, "shifted": losses, "mined": {"loss": None}}


def made(name: str, tasks: dict[str, tuple[int, int, bool]]) -> dict[str, Any]:
    rows = {}
    for task, (nodes, edges, met) in tasks.items():
        seed = {"nodes": nodes, "edges": edges, "met_on_val": met}
        rows[task] = {
            "plain": scored(nodes, edges, met),
            "seeds": [seed],
            "median": seed,
            "missed": None,
            "seconds": {"prune": 60.0},
        }
    return {"model": {"where": name}, "target_loss": 0.15, "seeds": 1, "tasks": rows}


def test_ratios_by_hand() -> None:
    """Only tasks that both models meet count: 2 and 8 nodes against 8 and 32 is 4 against 16; edges 1 and 4 against 16 and 256."""
    sparse = made("s", {"a": (2, 1, True), "b": (8, 4, True), "c": (9, 9, True)})
    dense = made("d", {"a": (8, 16, True), "b": (32, 256, True), "c": (1, 1, False)})
    found = ratios(sparse, dense)
    assert found["plain"]["tasks"] == ["a", "b"]
    assert found["plain"]["sparse"]["nodes"] == pytest.approx(4) and found["plain"]["dense"]["nodes"] == pytest.approx(
        16
    )
    assert found["plain"]["ratio"]["edges"] == pytest.approx(math.sqrt(16 * 256) / 2)
    assert found["refined"] == {
        "tasks": [],
        **{side: {"nodes": None, "edges": None} for side in ("sparse", "dense", "ratio")},
    }
    dense["tasks"]["c"]["seeds"].append({"nodes": 1, "edges": 1, "met_on_val": True})  # chosen well, and a miss on test
    found = ratios(sparse, dense, "val")["plain"]
    assert found["tasks"] == ["a", "b", "c"] and found["ratio"]["nodes"] == pytest.approx(
        (8 * 32 / 2 / 8 / 9) ** (1 / 3)
    )
    page = circuits_page(sparse, dense, "the command")
    assert "not stored" not in page  # no circuit is refined
    assert "| c | 1 | 1 | 0.200 MISS |" in page and "3 tasks: 3 min of pruning" in page


def test_refined_circuits_are_met_on_validation_by_their_own_loss() -> None:
    """Its seeds meet the target there, the refined circuit does not; a folder that does not say is read off the seeds."""
    sparse, dense = (made(name, {"a": (2, 1, True), "b": (8, 4, True)}) for name in "sd")
    for suite in (sparse, dense):
        for found in suite["tasks"].values():
            found["refined"] = {**scored(2, 2), "val_loss": 0.1, "met_on_val": True}
    sparse["tasks"]["b"]["refined"] |= {"val_loss": 0.16, "met_on_val": False}
    assert ratios(sparse, dense, "val")["refined"]["tasks"] == ["a"]
    assert ratios(sparse, dense, "val")["plain"]["tasks"] == ["a", "b"]
    assert "not stored" not in circuits_page(sparse, dense, "the command")
    del sparse["tasks"]["b"]["refined"]["met_on_val"]
    assert ratios(sparse, dense, "val")["refined"]["tasks"] == ["a", "b"]
    assert "The validation loss of refined circuits was not stored" in circuits_page(sparse, dense, "the command")


def test_verbs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "quick.json").write_text(json.dumps(QUICK.to_dict()))
    out, given = str(tmp_path / "suite"), ["--model", str(folder / "model"), "--task", str(folder / "task.jsonl")]
    assert (
        main(
            [
                "circuits",
                "run",
                *given,
                "--out",
                out,
                "--seeds",
                "1",
                "--no-refine",
                "--config",
                str(tmp_path / "quick.json"),
                "--json",
            ]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)["tasks"]["closing_quote"]
    assert "refined" not in found and found["plain"]["met"]
    assert main(["circuits", "table", out, "--out", str(tmp_path / "circuits.md"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["closing_quote"] == found
    assert f"| closing_quote | {found['plain']['nodes']} |" in (tmp_path / "circuits.md").read_text()
    assert main(["circuits", "table", out, "--dense", out, "--summary"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| closing_quote"))
    nodes, edges = (str(found["plain"][what]) for what in ("nodes", "edges"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:3] == cells[4:6] == cells[9:11] == [nodes, edges] and cells[6:9] == ["", "", ""]
    assert main(["circuits", "table", out, "--summary"]) == 2
    assert "--dense" in capsys.readouterr().err
    assert main(["circuits", "run", "--model", str(folder / "model"), "--task", "quotes", "--out", out]) == 2
    assert "quotes" in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert main(["circuits", "table", str(tmp_path)]) == 2
    assert "suite.json" in capsys.readouterr().err
