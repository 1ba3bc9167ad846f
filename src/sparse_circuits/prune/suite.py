"""The circuits of many tasks in one model: pruned with several seeds, refined, and scored where pruning never looked.

Per task, in a folder of its name:
1. `plain/`: the best of the seeds by validation, with all of them in `seeds/`.
2. `refined/`: that circuit without the weights and nodes its target does not need (refine.py), until none can go alone.
3. circuits.json, once both are there: figures of every seed, their median, seconds; or why there is no circuit.
4. scores.json: model, plain and refined circuit on the test split, the shifted splits and mined pairs.
After each task suite.json is written, with all that are finished. What an earlier call has finished is not done again; steps 1-3
of several tasks run at once.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sparse_circuits.circuit.ablation import load_reference
from sparse_circuits.circuit.circuit import Circuit, load_circuit
from sparse_circuits.executors import Executor, Here, Processes
from sparse_circuits.files import read_json, write_json
from sparse_circuits.hub.load import load_model, load_tokenizer
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.folder import model_hash
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.pipeline import best, meets_on_val, prune_seeds, rank
from sparse_circuits.prune.refine import refine, with_minimality
from sparse_circuits.prune.seeds import naming_task, save_seeds
from sparse_circuits.prune.suite_scores import KINDS, SuiteScorer
from sparse_circuits.tasks.load import load_task, task_names
from sparse_circuits.tasks.task import Task

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What every process knows."""

    model: str
    out: str
    seeds: int
    seed: int
    target: float
    config: PruneConfig
    refined: bool
    mined: str | None
    device: str


class _Asked(NamedTuple):
    """A task and where it comes from."""

    where: str
    task: Task


def prune_tasks(
    model: str | Path,
    out: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    seeds: int = 8,
    seed: int = 0,
    target_loss: float = 0.15,
    config: PruneConfig | None = None,
    refined: bool = True,
    workers: int = 1,
    mined: str | None = None,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Finds and scores the circuits of the tasks (all twenty by default) in a model; returns the content of suite.json, which is
    on all tasks that `out` holds.

    model: name or folder. seeds: pruning seeds per task, learned as one batch. refined: whether to refine the best one.
    workers: processes, among which the cores are shared. mined: source of mined pairs, by default what the model's training held
    out of the standard library. device: of every process, for pruning and scoring; a folder may be gone on with on another.
    tasks: names, or .jsonl files of your own. A task without a circuit is listed with its reason. Raises ValueError for an
    unknown task, two tasks of one name, an impossible budget, or a folder that holds the circuits of another model or recipe, or
    those of another task under one of these names.
    """
    asked = _asked(task_names() if tasks is None else tasks)
    if min(seeds, workers) < 1 or not asked:
        raise ValueError(f"{seeds} seeds, {workers} workers, {len(asked)} tasks; each must be at least 1")
    recipe = config or PruneConfig()
    plan = _Plan(
        model=str(model),
        out=str(out),
        seeds=seeds,
        seed=seed,
        target=target_loss,
        config=recipe,
        refined=refined,
        mined=mined,
        device=device,
    )
    _open(plan, [given.task for given in asked.values()])
    scoring, lost = _Scoring(plan, SuiteScorer(plan.model, plan.device, plan.mined, progress), progress), {}
    found = [name for name in asked if (Path(out) / name / "circuits.json").is_file()]
    waiting = [given for name, given in asked.items() if name not in found]
    for name in found:
        scoring.finish(asked[name].task)
    executor: Executor = Here() if workers == 1 else Processes(workers=workers)
    for outcome in executor.run(_find, [(plan, given.where) for given in waiting]):
        where, task = waiting[outcome.number]
        if outcome.failure:  # the others go on
            lost[where] = outcome.failure.error
        progress.say(outcome.value or f"{where}: {lost[where]}")
        if not outcome.failure:
            scoring.finish(task)
    if lost:
        first, error = next(iter(lost.items()))
        raise ValueError(
            f"{len(lost)} of {len(asked)} tasks failed, first {first}: {error}; the others are kept, run again"
        )
    return _conclude(plan)


def _asked(places: Sequence[str]) -> dict[str, _Asked]:
    """Name -> task. Raises ValueError, one line, where two different ones have the same."""
    found: dict[str, _Asked] = {}
    for where in places:
        task = load_task(where)
        if found.setdefault(task.name, _Asked(where, task)).task.hash != task.hash:
            raise ValueError(f"two tasks are named {task.name!r}; circuits are stored by name, so rename one")
    return found


def _open(plan: _Plan, tasks: Sequence[Task]) -> None:
    """Creates the folder, or checks that the one there is of the same model and recipe, and what it holds of these tasks too."""
    model = load_model(plan.model)
    if plan.config.ablation == "mean_pretrain":
        load_reference(
            plan.model if model.source is None else model.source, model
        )  # once for all, not as every task's miss
    facts = {
        "kind": "suite_plan",
        "format_version": FORMAT_VERSION,
        "model": {"where": plan.model, "hash": model_hash(model)},
        "recipe": plan.config.to_dict(),
        "target_loss": plan.target,
        "seeds": plan.seeds,
        "seed": plan.seed,
        "refined": plan.refined,
        "mined": plan.mined,
    }
    file = Path(plan.out) / "plan.json"
    if not file.is_file():
        write_json(file, facts)
        return
    before = read_json(file)
    if changed := [name for name in facts if name != "model" and before.get(name) != facts[name]]:
        raise ValueError(f"{plan.out} was begun with another {changed[0]}; give the same, or an empty folder")
    if before["model"]["hash"] != facts["model"]["hash"]:
        raise ValueError(f"{plan.out} was begun with another model; give the same, or an empty folder")
    for task in tasks:
        _check_same(Path(plan.out) / task.name, task)


def _check_same(folder: Path, task: Task) -> None:
    """Refuses a folder with the circuits of another task, changed or only of the same name. What an earlier release left says which
    task it is of in its circuit; where it found none, nothing does."""
    held = None
    if (folder / "circuits.json").is_file():
        held = read_json(folder / "circuits.json").get("task_hash")
    if held is None and (folder / "plain" / "circuit.json").is_file():
        held = load_circuit(folder / "plain").task_origin.hash
    if held not in (None, task.hash):
        raise ValueError(
            f"{folder} holds the circuits of another task {task.name!r}; give that one, rename this one, or give an empty folder"
        )


def _find(plan: _Plan, where: str) -> str:
    """Steps 1-3 for one task, in whatever process. Returns what to say of it."""
    model, tokenizer, task = load_model(plan.model, plan.device), load_tokenizer(plan.model), load_task(where)
    name = task.name
    folder, begun = Path(plan.out) / name, time.perf_counter()
    head = {"kind": "task_circuits", "format_version": FORMAT_VERSION, "task": name, "task_hash": task.hash}
    try:
        circuits = prune_seeds(
            model,
            task,
            tokenizer=tokenizer,
            target_loss=plan.target,
            seeds=range(plan.seed, plan.seed + plan.seeds),
            config=plan.config,
        )
    except ValueError as error:  # the model misses the target, or the tokenizer cannot ask the task
        write_json(folder / "circuits.json", {**head, "reason": str(error)})
        return f"{name}: {error}"
    chosen = with_minimality(best(circuits), model, task, tokenizer=tokenizer)
    save_seeds(naming_task(circuits, where), folder / "plain", removable=chosen.removable)
    seconds = {"prune": time.perf_counter() - begun}
    plain = load_circuit(folder / "plain")
    figures = {"nodes_total": plain.nodes_total, "seeds": [_figures(c) for c in circuits], "median": _median(circuits)}
    missed = None if meets_on_val(plain) else "no seed meets the target on validation"
    if plan.refined and missed is None:
        begun = time.perf_counter()
        try:
            refine(plain.located(), model, task, tokenizer=tokenizer, minimal=True).save(folder / "refined")
        except ValueError as error:  # validation meets the target, but not with its standard error
            missed = str(error)
        seconds["refine"] = time.perf_counter() - begun
    write_json(folder / "circuits.json", {**head, **figures, "seconds": seconds, "missed": missed})
    return f"{name}: {len(plain.nodes)} nodes, {len(plain.edges)} edges" + (f"; {missed}" if missed else "")


def _figures(circuit: Circuit) -> dict[str, Any]:
    assert circuit.loss is not None
    return {
        "seed": circuit.seed,
        "nodes": len(circuit.nodes),
        "edges": len(circuit.edges),
        "val_loss": circuit.loss.val,
        "test_loss": circuit.loss.test,
        "met_on_val": meets_on_val(circuit),
        "met": circuit.met_target,
    }


def _median(circuits: Sequence[Circuit]) -> dict[str, Any]:
    """The median seed in the order of `best`, the worse of two in the middle. Seeds that miss the target on validation come last;
    where the median is one, it says so."""
    return _figures(sorted(circuits, key=rank)[len(circuits) // 2])


@dataclass(frozen=True)
class _Scoring:
    """Step 4, and suite.json after it."""

    plan: _Plan
    scorer: SuiteScorer
    progress: Progress

    def finish(self, task: Task) -> None:
        """Scores a task that has circuits, where it lacks that, and writes suite.json anew."""
        folder = Path(self.plan.out) / task.name
        if (folder / "plain").is_dir() and not (folder / "scores.json").is_file():
            self.progress.say(f"scoring {task.name}")
            scores = self.scorer.scores(task, folder)
            write_json(folder / "scores.json", {"kind": "task_scores", "format_version": FORMAT_VERSION, **scores})
        _conclude(self.plan)


def ship_circuits(suite: str | Path, out: str | Path, kind: str = "plain") -> dict[str, Path]:
    """Copies the circuit of every task that has one to `out`/TASK.

    This is how the circuits in the box are made. What was there is replaced, task by task; a circuit that misses its target goes
    along, since it says so itself. kind: plain or refined; a task without a refined circuit gives its plain one. Returns task ->
    its new folder. Raises ValueError for another kind, or where there is no circuit.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; allowed: {', '.join(KINDS)}")
    found = {}
    for file in sorted(Path(suite).glob("*/circuits.json")):
        there = [file.parent / name for name in (kind, "plain") if (file.parent / name / "circuit.json").is_file()]
        if there:
            found[file.parent.name] = load_circuit(there[0])
    if not found:
        raise ValueError(f"no circuits in {suite}; give a folder that `circuits run` made")
    for name, circuit in found.items():
        circuit.located().save(Path(out) / name)
    return {name: Path(out) / name for name in found}


def _conclude(plan: _Plan) -> dict[str, Any]:
    """Joins everything that is known of the finished tasks, asked for in this call or not, into suite.json."""
    root, built_in = Path(plan.out), task_names()
    names = sorted(file.parent.name for file in root.glob("*/circuits.json"))
    tasks: dict[str, Mapping[str, Any]] = {}
    for name in (*(name for name in built_in if name in names), *(name for name in names if name not in built_in)):
        found, scored = read_json(root / name / "circuits.json"), root / name / "scores.json"
        if "reason" not in found and not scored.is_file():  # a table has nothing to show of it yet
            continue
        scores = read_json(scored) if scored.is_file() else {}
        tasks[name] = {
            **{key: value for key, value in found.items() if key not in ("kind", "format_version", "task")},
            **{key: value for key, value in scores.items() if key in ("model", *KINDS)},
        }
    made = {**read_json(root / "plan.json"), "kind": "suite", "tasks": tasks}
    write_json(root / "suite.json", made)
    return made
