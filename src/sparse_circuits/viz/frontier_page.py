"""One self-contained HTML file of a frontier: the figure, every point with its tasks, and the ratios at matched loss.

A static page (static_page.py) with the figure as an SVG image. A task's row says what every model makes of it: the size of its
circuit, or which kind of miss it is.
"""

from collections.abc import Iterable
from pathlib import Path

from sparse_circuits.files import write_text
from sparse_circuits.frontier.curves import MEANS, MEASURES, Curves, misses
from sparse_circuits.frontier.record import PointRecord, TaskRecord
from sparse_circuits.viz.frontier_figure import frontier_svg
from sparse_circuits.viz.static_page import picture, section, static_page, table

MEANING = (
    "Size is the geometric mean over tasks. The common mean takes the tasks that all compared models meet on test, the chosen "
    "mean those that they meet on validation, where circuits are chosen; a model that misses more than half of the tasks is not "
    "compared. The bound takes every task, a miss counting as the whole model. A ratio is dense "
    "size over sparse size where both families' fronts have the same validation loss; nothing is extrapolated. "
    "A single task's ratio takes the models that meet it on validation."
)


def write_frontier_page(curves: Curves, out: str | Path, failed: dict[str, str] | None = None) -> Path:
    """Writes the page, atomically, and returns its path. Raises ValueError where the extra `plot` is missing, OSError."""
    path = Path(out)
    write_text(path, render_frontier_page(curves, failed or {}))
    return path


def render_frontier_page(curves: Curves, failed: dict[str, str]) -> str:
    """The page as text. failed: point -> why it is not there."""
    sections = [
        section("Frontier", picture(frontier_svg(curves), _alt(curves))),
        section("Models", table(("model", *_HEAD), (_model_row(curves, point) for point in curves.points))),
        section("Ratio at matched loss", table(("mean", "at loss", "dense / sparse"), _ratio_rows(curves))),
        section("Tasks", table(("task", *(p.name for p in curves.points)), _task_rows(curves))),
    ]
    if failed:
        sections.append(section("Points that failed", table(("point", "why"), list(failed.items()))))
    return static_page("Capability against circuit size", MEANING, sections)


_HEAD = (
    "validation loss",
    "nonzero weights",
    "share",
    "met on test",
    "on validation",
    "edges",
    "nodes",
    "of nodes",
    "compared",
)


def _model_row(curves: Curves, point: PointRecord) -> tuple[str, ...]:
    met = len(curves.tasks) - len(misses(point, curves.tasks))
    edges, nodes = (curves.sizes[measure, curves.drawn].get(point.name) for measure in ("edges", "nodes"))
    return (
        point.name,
        f"{point.val_loss:.3f}",
        f"{point.nonzero:,}",
        f"{point.nonzero_fraction:.2%}",
        f"{met} of {len(curves.tasks)}",
        f"{len(curves.tasks) - len(misses(point, curves.tasks, 'chosen'))} of {len(curves.tasks)}",
        "-" if edges is None else f"{edges:.1f}",
        "-" if nodes is None else f"{nodes:.1f}",
        f"{point.nodes_total:,}",
        "yes" if point.name in curves.compared else "no",
    )


def _ratio_rows(curves: Curves) -> Iterable[tuple[str, ...]]:
    for measure in MEASURES:
        for mean in MEANS:
            found = curves.ratios[measure, mean]
            if found.reason is not None:
                yield f"{measure}, {mean}", "-", found.reason
            for loss, ratio in zip(found.val_losses, found.ratios, strict=True):
                yield f"{measure}, {mean}", f"{loss:.3f}", f"{ratio:.2f}"
        for task in curves.tasks:
            one = curves.by_task[measure, task]
            if one.reason is not None:
                yield f"{measure}, {task}", "-", one.reason
            for loss, ratio in zip(one.val_losses, one.ratios, strict=True):
                yield f"{measure}, {task}", f"{loss:.3f}", f"{ratio:.2f}"
        if (mean := curves.mean_by_task(measure)) is not None:
            yield f"{measure}, mean of the tasks in the middle", "-", f"{mean:.2f}"


def _task_rows(curves: Curves) -> Iterable[tuple[str, ...]]:
    """What every model makes of every task of the grid, those that nobody can be asked included."""
    for name in (task.task for task in curves.points[0].tasks):
        yield name, *(_told(point.task(name)) for point in curves.points)


def _told(task: TaskRecord) -> str:
    if task.status == "met":
        return f"{task.edges} edges, {task.nodes} nodes"
    if task.status == "missed":
        where = "MISSED on test" if task.met_on_val else "MISSED"
        return f"{where}: {task.edges} edges, {task.nodes} nodes"
    return {"unsolved": "not solved", "unusable": "cannot be asked"}[task.status]


def _alt(curves: Curves) -> str:
    return f"circuit size against validation loss of {len(curves.points)} models; the tables below hold the numbers"
