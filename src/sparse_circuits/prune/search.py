"""Searching one pruning recipe for several tasks of a model (METHOD 1f), with Optuna (extra `search`).

1. A trial is a recipe: the five numbers that METHOD 1f searches, drawn from ranges around the defaults of `PruneConfig` (SPACE),
   which are not the paper's; the rest as in the recipe the search starts from. The first trial is that recipe itself (moved
   into SPACE), and no search ends without it, so what is found is never worse on what is measured.
2. Its value is the geometric mean of nodes over tasks and seeds. A circuit that misses its target on validation counts as
   the whole model: a recipe cannot win by giving up on a task. Test pairs are never looked at.
3. Trials are kept in an append-only journal in the search's folder, which its processes share. A search that was stopped goes
   on there; a trial that was cut off is done again.
4. At the end: search.json (every trial, the budget, the winner) and recipe.json (the winner, for `prune --config`).

With one process a seed fixes the trials; with several the order in which they finish decides what the sampler knows.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.executors import Executor, Here, Processes
from sparse_circuits.files import write_json
from sparse_circuits.hub.load import load_model, load_tokenizer
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.folder import model_hash
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.pipeline import meets_on_val, prune_seeds
from sparse_circuits.tasks.load import load_task

SPACE: dict[str, tuple[float, float]] = {
    "k_coef": (3e-4, 3e-2),
    "lr": (3e-3, 3e-2),
    "weight_decay": (1e-4, 1e-2),
    "inv_beta2": (1e-2, 2e-1),
    "temperature": (0.5, 2.0),
}
"""Searched setting -> its range, drawn log-uniformly; inv_beta2 is 1 - beta2."""
STARTUP = 6
"""Trials drawn at random before the sampler models what it has seen."""
JOURNAL = "journal.log"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One recipe and what it scored."""

    number: int
    settings: Mapping[str, float]
    """Searched setting -> value."""
    nodes: float
    """Geometric mean over tasks and seeds; a miss counts as the whole model."""
    misses: int
    """Circuits that missed their target on validation."""
    per_task: Mapping[str, float]
    """task -> geometric mean of nodes over seeds."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search found."""

    config: PruneConfig
    best: Trial
    first: Trial
    """The recipe it started from."""
    trials: tuple[Trial, ...]
    seconds: float
    """The trials' own seconds added up, whichever process ran them."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        trials = [asdict(trial) for trial in self.trials]
        return {
            "recipe": self.config.to_dict(),
            "best": asdict(self.best),
            "first": asdict(self.first),
            "trials": trials,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What every process of a search knows."""

    model: str
    tasks: tuple[str, ...]
    out: str
    seeds: int
    target: float
    start: PruneConfig
    seed: int
    device: str


def search(
    model: str | Path,
    tasks: Sequence[str],
    out: str | Path,
    *,
    trials: int = 16,
    seeds: int = 2,
    workers: int = 1,
    target_loss: float = 0.15,
    start: PruneConfig | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> Searched:
    """Looks for the recipe whose circuits of these tasks are smallest.

    model: name or folder. tasks: names or .jsonl files. trials: finished trials in all, earlier calls included; more where the
    recipe it starts from is not among them. seeds: pruning seeds per task and trial. workers: processes, among which the cores
    are shared. start: recipe of the first trial. device: of every process.
    Raises ValueError for an empty or impossible budget, a folder of another search, a missing extra, and as `prune` does.
    """
    _optuna()
    if min(trials, seeds, workers) < 1 or not tasks:
        raise ValueError(
            f"{trials} trials, {seeds} seeds, {workers} workers, {len(tasks)} tasks; each must be at least 1"
        )
    executor: Executor = Here() if workers == 1 else Processes(workers=workers)
    plan = _Plan(
        model=str(model),
        tasks=tuple(tasks),
        out=str(out),
        seeds=seeds,
        target=target_loss,
        start=start or PruneConfig(),
        seed=seed,
        device=device,
    )
    done, least = _open(plan, _facts(plan))
    trials = max(trials, done + least)
    progress.say(f"{done} of {trials} trials are done; {len(tasks)} tasks x {seeds} seeds each")
    for outcome in executor.run(_try, [(plan, number) for number in range(done, trials)]):
        if outcome.failure:
            raise ValueError(outcome.failure.error)
        progress.say(outcome.value)
    return _conclude(plan, progress)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ValueError(
            'searching recipes needs the extra search; run pip install "sparse-circuits[search]"'
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # its own log of every trial
    return optuna


def _facts(plan: _Plan) -> dict[str, Any]:
    """What makes two searches the same, as plain JSON values. Opens the model and the tasks, so it refuses what is not there."""
    return {
        "model": model_hash(load_model(plan.model)),
        "tasks": {name: load_task(name).hash for name in plan.tasks},
        "seeds": plan.seeds,
        "target_loss": plan.target,
        "start": plan.start.to_dict(),
        "space": {name: list(limits) for name, limits in SPACE.items()},
        "seed": plan.seed,
    }


def _study(plan: _Plan, seed: int = 0) -> Any:
    """The study in the search's folder. seed: of the sampler."""
    optuna = _optuna()
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(Path(plan.out) / JOURNAL)))
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
    return optuna.create_study(storage=storage, study_name="recipe", sampler=sampler, load_if_exists=True)


def _open(plan: _Plan, facts: dict[str, Any]) -> tuple[int, int]:
    """Makes the study or opens the one to go on with. What an interrupted call left comes again.

    Returns its finished trials, and how many it needs at least until the recipe it starts from is among them.
    """
    facts = json.loads(json.dumps(facts))
    Path(plan.out).mkdir(parents=True, exist_ok=True)
    study = _study(plan)
    before = study.user_attrs.get("facts")
    if before is not None and before != facts:
        other = next(name for name in facts if before.get(name) != facts[name])
        raise ValueError(f"{plan.out} holds a search with another {other}; give the same, or an empty folder")
    if before is None:
        study.set_user_attr("facts", facts)
    for trial in study.trials:
        if trial.state.name == "RUNNING":
            study.tell(trial.number, state=_optuna().trial.TrialState.FAIL)
            if trial.params:
                study.enqueue_trial(trial.params)
    start, finished = _settings(plan.start), _finished(study)
    if any(trial.params == start for trial in finished):
        return len(finished), 0
    waiting = [trial.system_attrs["fixed_params"] for trial in study.trials if trial.state.name == "WAITING"]
    if start not in waiting:  # a new search, or one that was killed before the trial had its settings
        study.enqueue_trial(start)
        waiting.append(start)
    return len(finished), waiting.index(start) + 1  # they are taken in this order


def _settings(config: PruneConfig) -> dict[str, float]:
    """The searched settings of a recipe, moved into their ranges."""
    given = {**{name: getattr(config, name) for name in SPACE if name != "inv_beta2"}, "inv_beta2": 1 - config.beta2}
    return {name: min(max(given[name], low), high) for name, (low, high) in SPACE.items()}


def _config(start: PruneConfig, settings: Mapping[str, float]) -> PruneConfig:
    changed = {name: value for name, value in settings.items() if name != "inv_beta2"}
    return start.replace(**changed, beta2=1 - settings["inv_beta2"])


def _finished(study: Any) -> list[Any]:
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def _try(plan: _Plan, number: int) -> str:
    """One trial, in whatever process; number: how many come before it. Returns what to say of it."""
    model, tokenizer = load_model(plan.model, plan.device), load_tokenizer(plan.model)
    study = _study(plan, plan.seed + number)
    trial = study.ask()
    settings = {name: trial.suggest_float(name, low, high, log=True) for name, (low, high) in SPACE.items()}
    begun, seeds = time.perf_counter(), range(plan.seed, plan.seed + plan.seeds)
    found: dict[str, tuple[Circuit, ...]] = {}
    for name in plan.tasks:
        config = _config(plan.start, settings)
        found[name] = prune_seeds(
            model, load_task(name), tokenizer=tokenizer, target_loss=plan.target, seeds=seeds, config=config
        )
    sizes = {name: [_size(circuit) for circuit in circuits] for name, circuits in found.items()}
    misses = sum(not meets_on_val(circuit) for circuits in found.values() for circuit in circuits)
    trial.set_user_attr("per_task", {name: geometric_mean(size) for name, size in sizes.items()})
    trial.set_user_attr("misses", misses)
    trial.set_user_attr("seconds", time.perf_counter() - begun)
    value = geometric_mean([size for every in sizes.values() for size in every])
    study.tell(trial, value)
    return f"trial {trial.number}: {value:.1f} nodes, {misses} misses"


def _size(circuit: Circuit) -> int:
    """Nodes, of the whole model for a circuit that misses its target on validation."""
    return max(1, len(circuit.nodes)) if meets_on_val(circuit) else circuit.nodes_total


def _conclude(plan: _Plan, progress: Progress) -> Searched:
    """Reads the journal, names the winner (ties: the earlier) and the trial of the start recipe, and writes both files."""
    study = _study(plan)
    trials = tuple(_trial(trial) for trial in _finished(study))
    best = min(trials, key=lambda trial: (trial.nodes, trial.number))
    first = next(trial for trial in trials if trial.settings == _settings(plan.start))
    config = _config(plan.start, best.settings)
    found = Searched(config=config, best=best, first=first, trials=trials, seconds=sum(t.seconds for t in trials))
    head = {"kind": "search", "format_version": FORMAT_VERSION, "model": plan.model, "facts": study.user_attrs["facts"]}
    write_json(Path(plan.out) / "recipe.json", config.to_dict())
    write_json(Path(plan.out) / "search.json", {**head, **found.to_dict()})
    progress.say(
        f"best of {len(trials)}: {best.nodes:.1f} nodes, {best.misses} misses; it started from {first.nodes:.1f}"
    )
    return found


def _trial(trial: Any) -> Trial:
    kept = trial.user_attrs
    return Trial(
        number=trial.number,
        settings=dict(trial.params),
        nodes=float(trial.value),
        misses=int(kept["misses"]),
        per_task=dict(kept["per_task"]),
        seconds=float(kept["seconds"]),
    )
