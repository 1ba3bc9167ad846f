"""The table of many tasks' circuits, of a sparse model and beside it of its dense twin (docs/circuits.md).

It reads suite.json (suite.py) and computes only what a table needs: geometric means over the tasks in which both models have
a circuit that meets its target, and their ratios. A miss is printed as a miss and is in no mean. Which tasks count is decided on
test; beside it on validation, where circuits are chosen: both are pruned to the same loss there, in more tasks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any, Literal

from sparse_circuits.files import check_format, read_json
from sparse_circuits.markdown import markdown_table
from sparse_circuits.prune.suite_scores import KINDS

Suite = Mapping[str, Any]
Split = Literal["test", "val"]
HEAD = (
    "task",
    "nodes",
    "edges",
    "test loss",
    "shifted",
    "mined",
    "median nodes",
    "seeds met",
    "refined nodes",
    "edges",
    "test loss",
)
TWIN_HEAD = ("task", "nodes", "edges", "test loss", "median nodes", "seeds met", "refined nodes", "edges", "test loss")

SUMMARY_HEAD = (
    "task",
    "nodes",
    "edges",
    "test loss",
    "median nodes",
    "median edges",
    "refined nodes",
    "refined edges",
    "refined loss",
    "dense nodes",
    "dense edges",
    "dense loss",
    "dense refined edges",
    "dense refined loss",
)


def read_suite(folder: str | Path) -> Suite:
    """The content of a folder's suite.json. Raises ValueError where there is none."""
    file = Path(folder) / "suite.json"
    found = read_json(file)
    check_format(found, "suite", 1, file)
    return found


def ratios(sparse: Suite, dense: Suite, where: Split = "test") -> dict[str, Any]:
    """Geometric means over the tasks that both models meet on that split, and dense / sparse, for plain and refined circuits.

    Returns kind -> {"tasks": names, "sparse": {nodes, edges}, "dense": {nodes, edges}, "ratio": {nodes, edges}}; the numbers
    are None where no task is met by both.
    """
    found: dict[str, Any] = {}
    for kind in KINDS:
        both = [name for name in sparse["tasks"] if all(_met(suite, name, kind, where) for suite in (sparse, dense))]
        means = {
            side: {
                what: geometric_size([suite["tasks"][name][kind][what] for name in both]) for what in ("nodes", "edges")
            }
            for side, suite in (("sparse", sparse), ("dense", dense))
        }
        ratio = {what: _over(means["dense"][what], means["sparse"][what]) for what in ("nodes", "edges")}
        found[kind] = {"tasks": both, **means, "ratio": ratio}
    return found


def _over(dense: float | None, sparse: float | None) -> float | None:
    return None if dense is None or sparse is None else dense / sparse


def _met(suite: Suite, name: str, kind: str, where: Split) -> bool:
    """Whether a task has such a circuit and it meets the target there. Where a folder does not say so of validation, its seeds do:
    the best one meets it if any does, and only a circuit that does is refined."""
    found = suite["tasks"].get(name, {})
    if kind not in found or where == "test":
        return bool(found.get(kind, {}).get("met"))
    if _says_val(found[kind]):
        return found[kind]["met_on_val"]
    return any(seed["met_on_val"] for seed in found["seeds"])


def _says_val(scored: Mapping[str, Any]) -> bool:
    """Earlier releases did not store whether a circuit meets its target on validation."""
    return "met_on_val" in scored


def geometric_size(sizes: Sequence[int]) -> float | None:
    """Geometric mean of circuit sizes: None for none; a circuit without edges counts as one."""
    return geometric_mean(max(1, size) for size in sizes) if sizes else None


def circuits_page(sparse: Suite, dense: Suite | None, command: str) -> str:
    """The page as markdown. command: what makes it."""
    parts = [
        "# Circuits of the twenty tasks",
        f"Made by `{command}`. Losses are binary (two-sided, nats; chance is 0.693), target {sparse['target_loss']}. Every "
        f"circuit is the best of {sparse['seeds']} seeds, chosen on validation pairs; *median* is the median seed's (of two in the "
        "middle the worse), misses last. *refined*: without the weights and nodes that the target does not need, until none can go "
        "alone. *shifted* is the mean over the task's shifted splits, *mined* the loss on pairs from the standard library's "
        f"held-out files. MISS: the target is missed on test. {_budget(sparse)}",
        f"## {sparse['model']['where']}",
        markdown_table(HEAD, [_row(name, found) for name, found in sparse["tasks"].items()]),
    ]
    if dense is not None:
        rows = [_twin_row(name, found) for name, found in dense["tasks"].items()]
        parts += [
            f"## {dense['model']['where']}",
            markdown_table(TWIN_HEAD, rows),
            "## Side by side",
            _compared(sparse, dense),
        ]
    if reasons := [
        f"- {suite['model']['where']}, {name}: {found.get('reason') or found['missed']}"
        for suite in (sparse, *([dense] if dense else []))
        for name, found in suite["tasks"].items()
        if found.get("reason") or found.get("missed")
    ]:
        parts += ["## Misses", "\n".join(reasons)]
    return "\n\n".join(parts) + "\n"


def summary_table(sparse: Suite, dense: Suite) -> str:
    """Sizes and test losses of both models' circuits, a task per row, as markdown (the README's table)."""
    return markdown_table(SUMMARY_HEAD, [_summary_row(name, sparse, dense) for name in sparse["tasks"]])


def _summary_row(name: str, sparse: Suite, dense: Suite) -> tuple[str, ...]:
    own, twin = (suite["tasks"].get(name, {}) for suite in (sparse, dense))
    median = own.get("median", {})
    middle = (
        [str(median[what]) if median["met_on_val"] else "missed" for what in ("nodes", "edges")] if median else ["", ""]
    )
    first = (
        (*_sizes(own["plain"]), *middle, *_sizes(own.get("refined"))) if own.get("plain") else ("no circuit", *[""] * 7)
    )
    second = (
        (*_sizes(twin["plain"]), *_sizes(twin.get("refined"))[1:]) if twin.get("plain") else ("no circuit", *[""] * 4)
    )
    return (name, *first, *second)


def _budget(suite: Suite) -> str:
    """The processor time that the circuits took, in words."""
    spent = [found["seconds"] for found in suite["tasks"].values() if "seconds" in found]
    total = {what: sum(seconds.get(what, 0.0) for seconds in spent) / 60 for what in ("prune", "refine")}
    return f"{len(spent)} tasks: {total['prune']:.0f} min of pruning, {total['refine']:.0f} min of refining."


def _compared(sparse: Suite, dense: Suite) -> str:
    splits: dict[Split, str] = {"test": "test", "val": "validation"}
    rows = [
        _ratio_row(f"{kind}, {said}", found)
        for where, said in splits.items()
        for kind, found in ratios(sparse, dense, where).items()
    ]
    head = ("circuits, met on", "tasks met by both", "nodes sparse", "dense", "ratio", "edges sparse", "dense", "ratio")
    words = "Geometric means over the tasks that both models meet, on test or where circuits are chosen, on validation."
    refined = [found["refined"] for suite in (sparse, dense) for found in suite["tasks"].values() if "refined" in found]
    if not all(map(_says_val, refined)):
        words += (
            " The validation loss of refined circuits was not stored by the release that made these: one counts as met on "
            "validation where the circuit that it was refined from is."
        )
    return f"{words}\n\n{markdown_table(head, rows)}"


def _ratio_row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    if not found["tasks"]:
        return (name, "0", *["none"] * 6)
    sizes = [f"{found[side][what]:.1f}" for what in ("nodes", "edges") for side in ("sparse", "dense")]
    ratio = [f"{found['ratio'][what]:.1f}" for what in ("nodes", "edges")]
    return (name, str(len(found["tasks"])), *sizes[:2], ratio[0], *sizes[2:], ratio[1])


def _row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    if "plain" not in found:
        return (name, "no circuit", *[""] * (len(HEAD) - 2))
    plain = found["plain"]
    losses = [(plain[where] or {}).get("loss") for where in ("shifted", "mined")]
    elsewhere = ["none" if loss is None else f"{loss:.3f}" for loss in losses]
    return (name, *_sizes(plain), *elsewhere, *_seeds(found), *_sizes(found.get("refined")))


def _twin_row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    if "plain" not in found:
        return (name, "no circuit", *[""] * (len(TWIN_HEAD) - 2))
    return (name, *_sizes(found["plain"]), *_seeds(found), *_sizes(found.get("refined")))


def _sizes(scored: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if scored is None:
        return ("", "", "")
    loss = f"{scored['test']['loss']:.3f}" + ("" if scored["met"] else " MISS")
    return (str(scored["nodes"]), str(scored["edges"]), loss)


def _seeds(found: Mapping[str, Any]) -> tuple[str, str]:
    median = found["median"]
    met = sum(seed["met_on_val"] for seed in found["seeds"])
    return (str(median["nodes"]) if median["met_on_val"] else "missed", f"{met} of {len(found['seeds'])}")
