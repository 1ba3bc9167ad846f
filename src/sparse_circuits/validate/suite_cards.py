"""The report cards of a suite: of every circuit that `circuits run` left in a folder, plain and refined.

1. A circuit whose card is finished is left alone; a task with one that is not is a call, which validates its circuits one after the
   other, as `validate` does alone (run.py). Calls run at once in several processes.
2. A circuit that cannot be examined costs no other its card: it stands in the result with the reason.
3. cards.json joins all of it with the suite's recipe, so that pages (verdicts_page.py) are made from this one file.

What was measured is not measured again: every card goes on where it stopped (card_folder.py), in its circuit's folder.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_circuits.circuit.circuit import load_circuit
from sparse_circuits.executors import Executor, Here, Processes
from sparse_circuits.files import check_format, read_json, write_json
from sparse_circuits.json_values import plain
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.prune.suite_page import read_suite
from sparse_circuits.prune.suite_scores import KINDS
from sparse_circuits.validate import run
from sparse_circuits.validate.card import ReportCard
from sparse_circuits.validate.card_folder import CARD, QUICK_CARD, CardFolder, load_card
from sparse_circuits.validate.reruns import CONTROLS
from sparse_circuits.validate.subject import PAIRS

KIND, FORMAT_VERSION, FILE = "suite_cards", 1, "cards.json"


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What every process knows."""

    root: str
    quick: bool
    seed: int
    device: str = "cpu"

    def circuit(self, task: str, kind: str) -> Path:
        """The folder of a circuit."""
        return Path(self.root) / task / kind

    def card(self, task: str, kind: str) -> Path:
        """The folder of its card, where the report page finds it."""
        return self.circuit(task, kind) / (QUICK_CARD if self.quick else CARD)

    @property
    def settings(self) -> dict[str, Any]:
        """What all cards share."""
        return {
            "quick": self.quick,
            "pairs": run.QUICK_PAIRS if self.quick else PAIRS,
            "split": "test",
            "seed": self.seed,
        }

    @property
    def parts(self) -> set[str]:
        """The measurements and controls of a whole card."""
        return set(run.QUICK_MEASURES) if self.quick else {*run.QUICK_MEASURES, *run.MORE_MEASURES, *CONTROLS}


def make_cards(
    folder: str | Path,
    *,
    workers: int = 1,
    full: bool = False,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Makes the card of every plain and refined circuit of a suite, where it lacks one; returns the content of cards.json.

    workers: processes, among which the cores are shared. full: whole cards with every control, which prune again, in place of
    quick ones. seed: of everything random. device: of every process. Raises ValueError, one line, for a folder that is no suite, or
    holds none of its circuits; and, once all others have theirs and cards.json is written, where some card could not be made.
    """
    if workers < 1:
        raise ValueError(f"{workers} workers; at least 1 is needed")
    plan, suite = _Plan(root=str(folder), quick=not full, seed=seed, device=device), read_suite(folder)
    circuits = {task: [kind for kind in KINDS if kind in found] for task, found in suite["tasks"].items()}
    _check_circuits(plan, circuits)
    waiting = {task: [kind for kind in kinds if not _finished(plan, task, kind)] for task, kinds in circuits.items()}
    calls = [(plan, task, tuple(kinds)) for task, kinds in waiting.items() if kinds]
    executor: Executor = Here() if workers == 1 else Processes(workers=workers)
    errors: dict[tuple[str, str], str] = {}
    for done, outcome in enumerate(executor.run(_examine, calls), 1):
        _, task, kinds = calls[outcome.number]
        told = dict.fromkeys(kinds, outcome.failure.error) if outcome.failure else outcome.value
        lost = {
            kind: error for kind, error in told.items() if not _finished(plan, task, kind)
        }  # one of a dead process may be
        errors |= {(task, kind): error for kind, error in lost.items()}
        words = (f"{kind} {lost.get(kind) or load_card(plan.card(task, kind)).verdict}" for kind in kinds)
        progress.say(f"{done} of {len(calls)} tasks, {task}: {', '.join(words)}")
    made = _content(plan, suite, circuits, errors)
    write_json(Path(folder) / FILE, made)
    if errors:
        (task, kind), error = next(iter(errors.items()))
        total = sum(map(len, circuits.values()))
        raise ValueError(
            f"{len(errors)} of {total} cards failed, first {task}/{kind}: {error}; the others are kept, run again"
        )
    return made


def read_cards(folder: str | Path) -> dict[str, Any]:
    """The content of a suite's cards.json. Raises ValueError where there is none."""
    file = Path(folder) / FILE
    if not file.is_file():
        raise ValueError(f"no file {FILE} in {folder}; `circuits cards {folder}` makes it")
    found = read_json(file)
    check_format(found, KIND, FORMAT_VERSION, file)
    return found


def verdicts(made: Mapping[str, Any]) -> Counter[str]:
    """How often every verdict was given; `no card` counts as one."""
    circuits = [found[kind] for found in made["tasks"].values() for kind in KINDS if kind in found]
    return Counter(circuit.get("verdict", "no card") for circuit in circuits)


def _check_circuits(plan: _Plan, circuits: Mapping[str, list[str]]) -> None:
    """Refuses a suite.json on its own, which would be a failure per circuit."""
    places = [plan.circuit(task, kind) for task, kinds in circuits.items() for kind in kinds]
    if not any(place.is_dir() for place in places):
        raise ValueError(f"no circuits beside {plan.root}/suite.json; give the folder that `circuits run` made")


def _finished(plan: _Plan, task: str, kind: str) -> bool:
    """Whether a circuit has its card: its own, with these settings, and with every measurement there is."""
    where = plan.card(task, kind)
    if not (where / "card.json").is_file():
        return False
    try:
        CardFolder.open(where, load_circuit(plan.circuit(task, kind)), plan.settings)
        return plan.parts <= load_card(where).parts.keys()
    except ValueError:  # validate says why, or mends it
        return False


def _examine(plan: _Plan, task: str, kinds: tuple[str, ...]) -> dict[str, str]:
    """The cards of one task's circuits, in whatever process. Returns kind -> why it has none, of those that failed."""
    outcomes = Here().run(_validate, [(plan, task, kind) for kind in kinds])
    return {kinds[outcome.number]: outcome.failure.error for outcome in outcomes if outcome.failure}


def _validate(plan: _Plan, task: str, kind: str) -> None:
    card = plan.card(task, kind)
    run.validate(plan.circuit(task, kind), quick=plan.quick, out=card, seed=plan.seed, device=plan.device)


def _content(
    plan: _Plan, suite: Mapping[str, Any], circuits: Mapping[str, list[str]], errors: Mapping[tuple[str, str], str]
) -> dict[str, Any]:
    """cards.json. circuits: task -> kinds. errors: (task, kind) -> why there is no card."""
    tasks: dict[str, Any] = {}
    for task, found in suite["tasks"].items():
        if not circuits[task]:
            tasks[task] = {"reason": found["reason"]}
            continue
        tasks[task] = {"missed": found.get("missed")}
        for kind in circuits[task]:
            error = errors.get((task, kind))
            card = None if error else load_card(plan.card(task, kind))
            tasks[task][kind] = _unexamined(found[kind], error) if card is None else _examined(card)
    head = {"kind": KIND, "format_version": FORMAT_VERSION}
    same = {name: suite[name] for name in ("model", "recipe", "target_loss", "seeds")}
    return plain({**head, **same, "settings": plan.settings, "tasks": tasks})


def _unexamined(scored: Mapping[str, Any], error: str | None) -> dict[str, Any]:
    """A circuit without a card, with the size that the suite says."""
    sizes = {"nodes": scored["nodes"], "edges": scored["edges"]}
    return {**sizes, "test_loss": scored["test"]["loss"], "met": scored["met"], "error": error}


def _examined(card: ReportCard) -> dict[str, Any]:
    facts, rows = card.circuit, {}
    for name, row in card.rows.items():
        ends = ("value", "low", "high")
        measured = {end: None if row.value is None else getattr(row.value, end) for end in ends}
        rows[name] = {**measured, "threshold": row.threshold, "outcome": row.outcome}
    return {
        "nodes": facts["nodes"],
        "edges": facts["edges"],
        "test_loss": facts["loss"]["test"],
        "met": facts["met_target"],
        "verdict": card.verdict,
        "passed": card.passed,
        "failing": [name for name, row in card.rows.items() if row.outcome == "fail"],
        "reasons": list(card.reasons),
        "rows": rows,
        "seconds": sum(card.seconds.values()),
    }
