"""The figure of a frontier (extra `plot`): validation loss across, circuit size up on a log axis, sparse and dense.

Two panels, edges and nodes. Per model: a small dot for every task it meets, an x at the circuit's own size where it misses
the target on test alone, a + at the size of the whole model for every other miss, and a large marker with its name at the geometric
mean; a line joins each family's front. Open markers are models that the mean leaves out because they miss more than half of
the tasks (curves.py); they show the bound instead.

figure_files.py writes it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparse_circuits.frontier.curves import FAMILIES, MEASURES, Curves, Measure, met, task_size
from sparse_circuits.frontier.record import Family, PointRecord
from sparse_circuits.viz.figure_files import render, write_figure

COLORS: dict[Family, str] = {"sparse": "#5b3fd6", "dense": "#d9640a"}
SIZE = (12.0, 5.0)


def draw_frontier(curves: Curves, out: str | Path) -> Path:
    """Writes the figure as .svg or .png, atomically, and returns its path.

    Raises ValueError for another ending or where the extra `plot` is missing, OSError where it cannot be written.
    """
    return write_figure(out, SIZE, lambda figure: _draw(figure, curves))


def frontier_svg(curves: Curves) -> str:
    """The figure as the text of one SVG file. Raises ValueError where the extra `plot` is missing."""
    return render("svg", SIZE, lambda figure: _draw(figure, curves)).decode("utf-8")


def _draw(figure: Any, curves: Curves) -> None:
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.16, top=0.93, wspace=0.17)
    panels = figure.subplots(1, len(MEASURES))
    for axes, measure in zip(panels, reversed(MEASURES), strict=True):
        _panel(axes, curves, measure)
    _legend(figure, panels[0])


def _panel(axes: Any, curves: Curves, measure: Measure) -> None:
    for family in FAMILIES:
        color = COLORS[family]
        members = [point for point in curves.points if point.family == family]
        for kind, marker, size in (("met", ".", 18), ("missed", "x", 16), ("none", "+", 22)):
            places = list(_task_places(members, curves, measure, kind))
            if places:
                axes.scatter(*zip(*places, strict=True), s=size, c=color, marker=marker, alpha=0.45, linewidths=0.8)
        line = curves.fronts[measure, curves.drawn, family]
        axes.plot(
            [p.val_loss for p in line], [p.size for p in line], color=color, linewidth=1.4, label=f"{family}: front"
        )
        _means(axes, members, curves, measure, color)
    axes.set_yscale("log")
    axes.set_xlabel("validation loss, nats")
    axes.set_ylabel(f"{measure} of a circuit")
    axes.set_title(f"{measure}, geometric mean over {_over(curves)}", fontsize=10)
    axes.grid(True, which="major", linewidth=0.4, alpha=0.5)
    axes.margins(x=0.08)


def _task_places(
    members: list[PointRecord], curves: Curves, measure: Measure, kind: str
) -> Iterator[tuple[float, float]]:
    """Places of the tasks that are met, missed on test alone, or missed altogether."""
    for point in members:
        for task in curves.tasks:
            found = "met" if met(point, task) else "missed" if met(point, task, "chosen") else "none"
            if found == kind:
                yield point.val_loss, task_size(point, task, measure, "chosen")


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
    where = {"common": "that all compared meet", "chosen": "that all compared meet on validation"}
    return f"the {number} tasks {where.get(curves.drawn, 'of the grid, a miss counting as the whole model')}"


def _legend(figure: Any, axes: Any) -> None:
    """One line below both panels."""
    handles = list(axes.get_legend_handles_labels()[0])
    grey = "#5d606c"
    for label, marker, size, face in (
        ("mean of a model", "o", 7, grey),
        ("left out of the mean (bound)", "o", 7, "none"),
        ("one task", ".", 6, grey),
        ("missed on test", "x", 5, grey),
        ("no circuit: whole model", "+", 6, grey),
    ):
        style = {"color": grey, "markerfacecolor": face, "markersize": size, "linestyle": ""}
        handles += axes.plot([], [], marker=marker, label=label, **style)
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=8, frameon=False)
