"""A model on many tasks: template splits, shifted splits and mined pairs, and the table that shows them side by side.

A task that the model's tokenizer cannot ask (a completion splits, no pair has known tokens) is no error here as long as
another can be asked: it is listed with the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.circuit.evaluate import EVAL_PAIRS, Evaluation, evaluate, evaluate_model, usable_tokens
from sparse_circuits.circuit.evaluate_mined import MinedEvaluation, evaluate_mined
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.markdown import markdown_table
from sparse_circuits.model.folder import stored_val_threshold
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.tasks.load import load_task, task_names
from sparse_circuits.tasks.mined import mine_all
from sparse_circuits.tasks.task import Task, UnusableTokens


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """What a model scores on tasks that it can be asked, and why the others cannot."""

    scores: Mapping[str, Evaluation]
    """task -> score, in the order asked"""
    unusable: Mapping[str, str] = field(default_factory=dict)
    """task -> reason, one line"""


@dataclass(frozen=True, kw_only=True)
class ShiftedEvaluation:
    """A model on all shifted splits of a task."""

    loss: float
    """Mean over the shifted splits, nats."""
    accuracy: float
    n_pairs: int
    splits: Mapping[str, Evaluation]
    """shifted split -> score"""


def score_tasks(
    model: SparseTransformer,
    tokenizer: Any,
    tasks: Sequence[Task] | None = None,
    split: str = "test",
    *,
    n: int = EVAL_PAIRS,
    seed: int = 0,
) -> TaskScores:
    """Scores one split of each task (all built-in tasks by default) on at most n pairs each.

    Raises ValueError, one line, for a split that a task does not have, or where no task can be asked: it says which of the
    built-in tasks this tokenizer can ask.
    """
    scores, unusable, last = {}, {}, None
    for task in tasks if tasks is not None else [load_task(name) for name in task_names()]:
        try:
            scores[task.name] = evaluate_model(model, task, tokenizer, split, n=n, seed=seed)
        except UnusableTokens as error:
            unusable[task.name], last = str(error), error
    if last is not None and not scores:
        raise with_usable(last, tokenizer)
    return TaskScores(scores=scores, unusable=unusable)


def score_shifted(
    model: SparseTransformer,
    tokenizer: Any,
    task: Task,
    *,
    circuit: Circuit | None = None,
    n: int = EVAL_PAIRS,
    seed: int = 0,
) -> ShiftedEvaluation:
    """Scores every shifted split of a task. circuit: None scores the whole model.

    Raises ValueError for a task without any, or that cannot be asked, and as `evaluate` does.
    """
    if not task.shifted:
        raise ValueError(f"task {task.name!r} has no shifted splits; score one of {', '.join(task.splits)}")

    def scored(split: str) -> Evaluation:
        if circuit is None:
            return evaluate_model(model, task, tokenizer, split, n=n, seed=seed)
        return evaluate(circuit, model, task, split, tokenizer=tokenizer, n=n, seed=seed)

    found = {split: scored(split) for split in task.shifted}
    scores = list(found.values())
    return ShiftedEvaluation(
        loss=sum(s.loss for s in scores) / len(scores),
        accuracy=sum(s.accuracy for s in scores) / len(scores),
        n_pairs=sum(s.n_pairs for s in scores),
        splits=found,
    )


def score_mined(
    model: SparseTransformer,
    tokenizer: Any,
    names: Sequence[str] | None = None,
    source: str | None = None,
    seed: int = 0,
) -> dict[str, MinedEvaluation]:
    """Scores what a source holds of each task; by default the part of the standard library that the model's training held out.

    Raises ValueError as mine_all does.
    """
    threshold = stored_val_threshold(model.source)
    mined = mine_all(tokenizer, names, source, usable=usable_tokens(model), val_threshold=threshold, seed=seed)
    return {name: evaluate_mined(model, found) for name, found in mined.items()}


def usable_tasks(tokenizer: Any) -> tuple[str, ...]:
    """The built-in tasks that a tokenizer can ask: every completion is one token, both prompts end in the same one."""
    return tuple(name for name in task_names() if unusable_reason(load_task(name), tokenizer) is None)


def unusable_reason(task: Task, tokenizer: Any) -> str | None:
    """Why a tokenizer cannot ask a task, one line; None if it can."""
    try:
        task.pairs("test", 64, tokenizer)
    except UnusableTokens as error:
        return str(error)
    return None


def with_usable(error: UnusableTokens, tokenizer: Any) -> ValueError:
    """The same error, with the tasks that this tokenizer can ask."""
    return ValueError(f"{error} (tasks usable with this tokenizer: {', '.join(usable_tasks(tokenizer)) or 'none'})")


def score_table(
    model: SparseTransformer, tokenizer: Any, *, n: int = EVAL_PAIRS, seed: int = 0, progress: Progress = SILENT
) -> dict[str, dict[str, Any]]:
    """Everything known about a model's tasks as plain values: task -> template, shifted (each and mean), mined.

    A task that cannot be asked has `unusable` with the reason instead.
    """
    progress.say("mining the held-out standard library")
    mined = score_mined(model, tokenizer, seed=seed)
    rows: dict[str, dict[str, Any]] = {}
    for name in task_names():
        progress.say(f"scoring {name}")
        task = load_task(name)
        try:
            template = evaluate_model(model, task, tokenizer, "test", n=n, seed=seed)
            shifted = score_shifted(model, tokenizer, task, n=n, seed=seed)
        except UnusableTokens as error:
            rows[name] = {"unusable": str(error)}
            continue
        rows[name] = {"template": _figures(template), "shifted": _figures(shifted), "mined": asdict(mined[name])}
    return rows


def _figures(found: Evaluation | ShiftedEvaluation) -> dict[str, Any]:
    figures: dict[str, Any] = {"loss": found.loss, "accuracy": found.accuracy, "n_pairs": found.n_pairs}
    if isinstance(found, ShiftedEvaluation):
        figures["splits"] = {split: _figures(score) for split, score in found.splits.items()}
    return figures


HEAD = ("task", "test loss", "accuracy", "shifted loss", "worst shift", "mined loss", "pairs", "single points")


def table_rows(scores: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The rows under HEAD: losses in nats; mined points alone as the mean accuracy of both classes and their counts."""
    return [_row(name, found) for name, found in scores.items()]


def tasks_page(scores: Mapping[str, Mapping[str, Any]], model: str) -> str:
    """The page of docs/tasks.md: the table of a model, then what each task asks, with an example of its test split."""
    parts = [
        "# The twenty tasks",
        f"Made by `sparse-circuits tasks table --model {model} --out FILE`. Losses are binary (two-sided, nats; chance is 0.693): "
        "on the template pairs of the test split, on the shifted splits (their mean, and the worst), and on pairs mined from the "
        "standard library's held-out files. The last column asks each mined point alone: mean accuracy of both classes, and how "
        "many points of class A and B there are.",
        markdown_table(HEAD, table_rows(scores)),
        *(_described(load_task(name)) for name in scores),
    ]
    return "\n\n".join(parts) + "\n"


def _described(task: Task) -> str:
    (pair,) = task.sample("test", 1)
    asked = [f"{pair.prompt(side)!r} -> {pair.completion(side)!r}" for side in (0, 1)]
    return (
        f"## {task.name}\n\n{task.statement} Decided by: {task.determined_by}. Shifted splits: {', '.join(task.shifted)}.\n\n"
        f"```\nA  {asked[0]}\nB  {asked[1]}\n```"
    )


def _row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    if "unusable" in found:
        return (name, "cannot be asked", *[""] * (len(HEAD) - 2))
    template, shifted, mined = found["template"], found["shifted"], found["mined"]
    worst = max(shifted["splits"], key=lambda split: shifted["splits"][split]["loss"])
    pairs = ("none", "0") if mined["loss"] is None else (f"{mined['loss']:.3f}", str(mined["n_pairs"]))
    points = f"{mined['n_points']['A']} + {mined['n_points']['B']}"
    alone = "none" if mined["balanced_accuracy"] is None else f"{mined['balanced_accuracy']:.0%} of {points}"
    return (
        name,
        f"{template['loss']:.3f}",
        f"{template['accuracy']:.1%}",
        f"{shifted['loss']:.3f}",
        f"{worst} {shifted['splits'][worst]['loss']:.3f}",
        *pairs,
        alone,
    )
