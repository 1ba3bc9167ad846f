"""The page of verdicts: many circuits of one model, found by one recipe or several, and what their report cards say.

It reads cards.json of suites (suite_cards.py) and computes only what tables need:
1. every circuit: its size, its verdict and the rows it fails; a task without a circuit with the reason;
2. what each recipe does: geometric means of sizes, medians of the rows and how many circuits pass them, over the tasks in which
   all suites have a circuit with a card, so that recipes are compared on the same tasks;
3. row by row: how the plain circuits of the first suite do.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from sparse_circuits.markdown import markdown_table
from sparse_circuits.prune.suite_page import geometric_size
from sparse_circuits.prune.suite_scores import KINDS
from sparse_circuits.validate.suite_cards import read_cards

Cards = Mapping[str, Any]
SAME = ("model", "target_loss", "settings")
"""What suites that are compared must share."""
OBJECTIVES = {
    "task_loss": "learned to do the task: a small task loss",
    "kl_to_model": "learned to agree with the model: a small KL(model || circuit) over the two completions",
}
NOISE = "with training noise: a step ablates each node outside only with a probability drawn anew"
HEAD = ("task", "circuit", "nodes", "edges", "test loss", "verdict", "rows that fail, or the reason")


def compare(folders: Sequence[str | Path]) -> dict[str, Any]:
    """What the page shows of the suites in these folders, as plain values.

    Returns `model`, `target_loss`, `settings` of the cards, `suites` {label: {path, seeds, recipe}}, `differs` {field of the
    recipe: {label: value}}, `tasks` {task: {label: as in cards.json}}, `recipes` {kind: {tasks, suites {label: {nodes, edges
    (geometric means), met, passed, rows}}}}, and `rows` of the first suite's plain circuits; rows: {name: {pass, fail, not
    applicable (counts), min, median, max, threshold}}. Raises ValueError for no suite, suites without cards.json, one given
    twice, or suites of different models, targets or settings of the cards.
    """
    suites = _labelled(folders)
    first = next(iter(suites.values()))
    tasks = list(dict.fromkeys(task for cards in suites.values() for task in cards["tasks"]))
    found = {
        task: {at: cards["tasks"][task] for at, cards in suites.items() if task in cards["tasks"]} for task in tasks
    }
    fields = list(dict.fromkeys(field for cards in suites.values() for field in cards["recipe"]))
    recipes = {field: {label: cards["recipe"].get(field) for label, cards in suites.items()} for field in fields}
    return {
        **{name: first[name] for name in SAME},
        "suites": {
            label: {"path": str(folder), "seeds": cards["seeds"], "recipe": cards["recipe"]}
            for folder, (label, cards) in zip(folders, suites.items(), strict=True)
        },
        "differs": {field: told for field, told in recipes.items() if len({str(value) for value in told.values()}) > 1},
        "tasks": found,
        "recipes": {kind: _side_by_side(suites, kind) for kind in KINDS},
        "rows": _rows(list(_examined(first, "plain").values())),
    }


def recipe_label(recipe: Mapping[str, Any]) -> str:
    """A recipe in a word: its objective, `stochastic ablation`, or both."""
    if not recipe["stochastic_ablation"]:
        return recipe["objective"]
    return "stochastic ablation" + ("" if recipe["objective"] == "task_loss" else f", {recipe['objective']}")


def _labelled(folders: Sequence[str | Path]) -> dict[str, Cards]:
    """Label -> cards.json; the folder stands in the label where recipes do not tell the suites apart."""
    if not folders:
        raise ValueError("no suite given; name folders in which `circuits cards` has been")
    if twice := [where for where, times in Counter(Path(folder).resolve() for folder in folders).items() if times > 1]:
        raise ValueError(f"{twice[0]} is given twice; name every suite once")
    read = [read_cards(folder) for folder in folders]
    for folder, cards in zip(folders, read, strict=True):
        if differing := [name for name in SAME if _key(read[0], name) != _key(cards, name)]:
            told = " and ".join(str(suite[differing[0]]) for suite in (read[0], cards))
            raise ValueError(
                f"{folders[0]} and {folder} differ in their {differing[0]}, {told}; compare suites that share it"
            )
    names = [recipe_label(cards["recipe"]) for cards in read]
    labels = [name if names.count(name) == 1 else f"{name} ({at})" for name, at in zip(names, folders, strict=True)]
    return dict(zip(labels, read, strict=True))


def _key(cards: Cards, name: str) -> Any:
    """What must be the same: of a model its hash, wherever it lay."""
    return cards["model"]["hash"] if name == "model" else cards[name]


def _examined(cards: Cards, kind: str) -> dict[str, Cards]:
    """Task -> circuit of this kind that has a card."""
    return {task: found[kind] for task, found in cards["tasks"].items() if "rows" in found.get(kind, {})}


def _side_by_side(suites: Mapping[str, Cards], kind: str) -> dict[str, Any]:
    """The recipes over the tasks in which every suite has such a circuit."""
    examined = {label: _examined(cards, kind) for label, cards in suites.items()}
    tasks = [task for task in next(iter(examined.values())) if all(task in circuits for circuits in examined.values())]
    return {
        "tasks": tasks,
        "suites": {label: _summary([circuits[task] for task in tasks]) for label, circuits in examined.items()},
    }


def _summary(circuits: Sequence[Cards]) -> dict[str, Any]:
    """Of one recipe's circuits; the sizes are None for no circuits, and a circuit without edges counts as one."""
    return {
        **{size: geometric_size([circuit[size] for circuit in circuits]) for size in ("nodes", "edges")},
        "met": sum(bool(circuit["met"]) for circuit in circuits),
        "passed": sum(circuit["passed"] for circuit in circuits),
        "rows": _rows(circuits),
    }


def _rows(circuits: Sequence[Cards]) -> dict[str, Any]:
    """Row of the card -> how these circuits do; a threshold that is not the same for all is None."""
    names = dict.fromkeys(name for circuit in circuits for name in circuit["rows"])
    found: dict[str, Any] = {}
    for name in names:
        rows = [circuit["rows"][name] for circuit in circuits if name in circuit["rows"]]
        values = [row["value"] for row in rows if row["value"] is not None]
        thresholds = {row["threshold"] for row in rows}
        outcomes = Counter(row["outcome"] for row in rows)
        found[name] = {
            **{outcome: outcomes[outcome] for outcome in ("pass", "fail", "not applicable")},
            **{what.__name__: what(values) if values else None for what in (min, median, max)},
            "threshold": thresholds.pop() if len(thresholds) == 1 else None,
        }
    return found


def verdicts_page(found: Mapping[str, Any], command: str) -> str:
    """What `compare` found as markdown. command: what makes it."""
    settings = found["settings"]
    card = f"{'quick ' if settings['quick'] else ''}report card on {settings['pairs']} pairs of {settings['split']} per split"
    parts = [
        f"# Verdicts on the circuits of {found['model']['where']}",
        f"Made by `{command}`. Every circuit was examined by `circuits cards` with the {card}; docs/validation.md says what "
        "its rows ask and when a verdict is given. *plain*: as pruning found it, the best of its seeds on validation pairs; "
        "*refined*: without the weights and nodes that its target does not need. MISS: the target of "
        f"{found['target_loss']} nats is missed on test.",
        _legend(found),
        "## Every circuit",
        markdown_table(HEAD, [line for task in found["tasks"] for line in _task_lines(found, task)]),
        "## What each recipe does",
        *(_compared(kind, side) for kind, side in found["recipes"].items()),
        "## Row by row",
        f"The plain circuits of {next(iter(found['suites']))}: how many pass and fail every row of the card or cannot be asked it, "
        "and the values of those that can.",
        markdown_table(
            ("row", "needed", "pass", "fail", "not applicable", "min", "median", "max"),
            [_row_line(name, row) for name, row in found["rows"].items()],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _legend(found: Mapping[str, Any]) -> str:
    lines = []
    for label, suite in found["suites"].items():
        recipe = suite["recipe"]
        words = OBJECTIVES[recipe["objective"]] + (f", {NOISE}" if recipe["stochastic_ablation"] else "")
        lines.append(f"- **{label}**: {words}; seeds per task: {suite['seeds']}.")
    others = {name: told for name, told in found["differs"].items() if name not in ("objective", "stochastic_ablation")}
    for name, told in others.items():
        lines.append(
            f"- They also differ in `{name}`: {', '.join(f'{value} ({label})' for label, value in told.items())}."
        )
    return "\n".join(lines)


def _task_lines(found: Mapping[str, Any], task: str) -> list[tuple[str, ...]]:
    """The lines of one task; one for all suites where none has a circuit, for the same reason."""
    suites, circuits = list(found["suites"]), found["tasks"][task]
    reasons = {circuits.get(label, {}).get("reason") for label in suites}
    if len(suites) > 1 and len(reasons) == 1 and None not in reasons:
        return [(task, "all", "no circuit", "", "", "", reasons.pop())]
    return [line for label in suites for line in _suite_lines(task, label, circuits.get(label))]


def _suite_lines(task: str, label: str, found: Cards | None) -> list[tuple[str, ...]]:
    if found is None:
        return [(task, label, "not run", "", "", "", "")]
    if "reason" in found:
        return [(task, label, "no circuit", "", "", "", found["reason"])]
    lines = [(task, f"{label}, {kind}", *_cells(found[kind])) for kind in KINDS if kind in found]
    if "refined" not in found and found["missed"]:
        lines.append((task, f"{label}, refined", "no circuit", "", "", "", found["missed"]))
    return lines


def _cells(circuit: Cards) -> tuple[str, ...]:
    loss = f"{circuit['test_loss']:.3f}" + ("" if circuit["met"] else " MISS")
    size = (str(circuit["nodes"]), str(circuit["edges"]), loss)
    if "error" in circuit:
        return (*size, "no card", circuit["error"])
    why = ", ".join(circuit["failing"])
    if circuit["verdict"] == "unproven":  # no row that fails explains it
        why = "; ".join([circuit["reasons"][0], *([why] if why else [])])
    return (*size, circuit["verdict"], why)


def _compared(kind: str, side: Mapping[str, Any]) -> str:
    """The table of one kind of circuit, a column per recipe."""
    tasks, suites = side["tasks"], side["suites"]
    if not tasks:
        return f"There is no task in which every suite has a {kind} circuit with a card."
    told = (
        f"The {kind} circuits of tasks in which every suite has one with a card ({len(tasks)}: {', '.join(tasks)}): geometric "
        "means of the sizes, and of every row the median, with how many circuits pass it of those that can be asked."
    )
    lines = [
        (f"{size} (geometric mean)", *(f"{one[size]:.1f}" for one in suites.values())) for size in ("nodes", "edges")
    ]
    counts = {"met": "target met on test", "passed": "verdict faithful or better"}
    lines += [(words, *(f"{one[what]} of {len(tasks)}" for one in suites.values())) for what, words in counts.items()]
    names = dict.fromkeys(name for one in suites.values() for name in one["rows"])
    lines += [(name, *(_median(one["rows"].get(name)) for one in suites.values())) for name in names]
    return told + "\n\n" + markdown_table((kind, *suites), lines)


def _median(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "not measured"
    asked = row["pass"] + row["fail"]
    return f"{_number(row['median'])} ({row['pass']} of {asked})" if asked else "not applicable"


def _row_line(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    counts = (str(row[outcome]) for outcome in ("pass", "fail", "not applicable"))
    return (
        name,
        row["threshold"] or "differs by circuit",
        *counts,
        *(_number(row[what]) for what in ("min", "median", "max")),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
