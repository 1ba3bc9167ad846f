"""The figure of a frontier (extra `plot`): validation loss across, circuit size up on a log axis, sparse and dense.

One panel per task, edges, with the ratio of the families in the middle of the losses that both have; above them, where both
families have a mean over common tasks, edges and nodes of that mean. A small dot is a model's circuit of a task, an x one that
misses the target on test alone, a + the size of the whole model for every other miss; lines are the families' curves
(curves.py). In the panels of the mean a large marker with its name stands for every model, an open one where the mean leaves
the model out because it misses more than half of the tasks: it shows the bound instead.

figure_files.py writes it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparse_circuits.frontier.curves import FAMILIES, MEASURES, Curves, Measure, Sized, met, task_size
from sparse_circuits.frontier.record import Family, PointRecord
from sparse_circuits.viz.figure_files import render, write_figure

COLORS: dict[Family, str] = {"sparse": "#5b3fd6", "dense": "#d9640a"}
COLUMNS = 3
"""Panels of tasks in a row."""
WIDTH, MEAN_HEIGHT, TASK_HEIGHT, FOOT = 12.0, 4.4, 3.0, 0.5
"""Inches: of the figure, of the row of means, of a row of tasks, of the legend."""


def draw_frontier(curves: Curves, out: str | Path) -> Path:
    """Writes the figure as .svg or .png, atomically, and returns its path.

    Raises ValueError for another ending or where the extra `plot` is missing, OSError where it cannot be written.
    """
    return write_figure(out, _size(curves), lambda figure: _draw(figure, curves))


def frontier_svg(curves: Curves) -> str:
    """The figure as the text of one SVG file. Raises ValueError where the extra `plot` is missing."""
    return render("svg", _size(curves), lambda figure: _draw(figure, curves)).decode("utf-8")


def _heights(curves: Curves) -> list[float]:
    """Of the rows: the means, where both families have one, then the tasks."""
    fronts = [curves.fronts["edges", curves.drawn, family] for family in FAMILIES]
    rows = -(-len(curves.tasks) // COLUMNS)
    several = len(curves.over[curves.drawn].tasks) > 1 and curves.drawn != "bound"
    return [*([MEAN_HEIGHT] if (all(fronts) and several) or not rows else []), *[TASK_HEIGHT] * rows]


def _size(curves: Curves) -> tuple[float, float]:
    return WIDTH, sum(_heights(curves)) + FOOT


def _draw(figure: Any, curves: Curves) -> None:
    heights = _heights(curves)
    total = sum(heights) + FOOT
    top = figure.add_gridspec(
        len(heights),
        1,
        height_ratios=heights,
        left=0.07,
        right=0.985,
        bottom=(FOOT + 0.3) / total,
        top=1 - 0.5 / total,
        hspace=0.5,
    )
    means = heights[0] == MEAN_HEIGHT
    first = None
    if means:
        panels = top[0].subgridspec(1, len(MEASURES), wspace=0.17)
        for column, measure in enumerate(reversed(MEASURES)):
            axes = figure.add_subplot(panels[column])
            _panel(axes, curves, measure)
            first = first or axes
    shared = None
    for number, task in enumerate(curves.tasks):
        row, column = divmod(number, COLUMNS)
        panel = top[row + means].subgridspec(1, COLUMNS, wspace=0.12)[column]
        shared = figure.add_subplot(panel, sharex=shared, sharey=shared)
        _task_panel(shared, curves, task, column == 0)
        first = first or shared
    _legend(figure, first, means)


def _task_panel(axes: Any, curves: Curves, task: str, leftmost: bool) -> None:
    """One task's circuits, edges."""
    axes.set_yscale("log")
    found = curves.by_task["edges", task]
    lacking = [family for family in FAMILIES if not curves.task_curves["edges", task, family]]
    ratio = f"no {' and no '.join(lacking)} circuit" if lacking else "no loss in common"
    if found.ratios:
        ratio = f"dense / sparse {found.ratios[1]:.1f} at {found.val_losses[1]:.2f} nats"
    for family in FAMILIES:
        members = [point for point in curves.points if point.family == family]
        _dots(axes, members, "edges", [task], COLORS[family])
        _line(axes, curves.task_curves["edges", task, family], family)
    _style(axes, f"{task}\n{ratio}", "edges" if leftmost else None)


def _panel(axes: Any, curves: Curves, measure: Measure) -> None:
    """The mean over common tasks, or the bound."""
    axes.set_yscale("log")
    for family in FAMILIES:
        members = [point for point in curves.points if point.family == family]
        _dots(axes, members, measure, curves.tasks, COLORS[family])
        _line(axes, curves.fronts[measure, curves.drawn, family], family)
        _means(axes, members, curves, measure, COLORS[family])
    _style(axes, f"{measure}, geometric mean over {_over(curves)}", f"{measure} of a circuit")


def _style(axes: Any, title: str, size: str | None) -> None:
    axes.set_xlabel("validation loss, nats", fontsize=8)
    if size is not None:
        axes.set_ylabel(size)
    axes.set_title(title, fontsize=9)
    axes.grid(True, which="major", linewidth=0.4, alpha=0.5)
    axes.tick_params(labelsize=8, which="both")
    axes.margins(x=0.08)


def _line(axes: Any, line: Sequence[Sized], family: Family) -> None:
    losses, sizes = [point.val_loss for point in line], [point.size for point in line]
    axes.plot(losses, sizes, color=COLORS[family], linewidth=1.4, label=f"smallest {family} circuit")


def _dots(axes: Any, members: list[PointRecord], measure: Measure, tasks: Sequence[str], color: str) -> None:
    for kind, marker, size in (("met", ".", 26), ("missed", "x", 18), ("none", "+", 24)):
        places = list(_task_places(members, measure, tasks, kind))
        if places:
            axes.scatter(*zip(*places, strict=True), s=size, c=color, marker=marker, alpha=0.55, linewidths=0.9)


def _task_places(
    members: list[PointRecord], measure: Measure, tasks: Sequence[str], kind: str
) -> Iterator[tuple[float, float]]:
    """Places of the tasks that are met, missed on test alone, or missed altogether."""
    for point in members:
        for task in tasks:
            found = "met" if met(point, task) else "missed" if met(point, task, "chosen") else "none"
            if found == kind:
                yield point.val_loss, task_size(point, task, measure, "chosen" if kind == "missed" else "common")


def _means(axes: Any, members: list[PointRecord], curves: Curves, measure: Measure, color: str) -> None:
    drawn, bound = curves.sizes[measure, curves.drawn], curves.sizes[measure, "bound"]
    losses = [point.val_loss for point in curves.points]
    middle = (min(losses) + max(losses)) / 2
    for point in members:
        size = drawn.get(point.name, bound.get(point.name))
        if size is None:
            continue
        face = color if point.name in drawn else "none"
        axes.plot([point.val_loss], [size], marker="o", markersize=7, color=color, markerfacecolor=face, linestyle="")
        right = point.val_loss > middle  # names point inwards, so that none is cut off
        side = {"xytext": (-5, 4) if right else (5, 4), "ha": "right" if right else "left"}
        axes.annotate(point.name, (point.val_loss, size), textcoords="offset points", fontsize=6, **side)


def _over(curves: Curves) -> str:
    number = len(curves.over[curves.drawn].tasks)
    tasks = f"the {number} task" + ("" if number == 1 else "s")
    where = {"common": "that all compared meet", "chosen": "that all compared meet on validation"}
    return f"{tasks} {where.get(curves.drawn, 'of the grid, a miss counting as the whole model')}"


def _legend(figure: Any, axes: Any, means: bool) -> None:
    """One line below all panels."""
    handles = list(axes.get_legend_handles_labels()[0])
    grey = "#5d606c"
    large = [("mean of a model", "o", 7, grey), ("left out of the mean (bound)", "o", 7, "none")]
    for label, marker, size, face in (
        *(large if means else []),
        ("a circuit", ".", 6, grey),
        ("misses the target on test", "x", 5, grey),
        ("none at the target: the whole model", "+", 6, grey),
    ):
        style = {"color": grey, "markerfacecolor": face, "markersize": size, "linestyle": ""}
        handles += axes.plot([], [], marker=marker, label=label, **style)
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=8, frameon=False)
