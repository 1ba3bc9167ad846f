"""Verbs on frontiers: make the models of a grid with their circuits, and show capability against circuit size."""

from typing import Any

from sparse_circuits.commands.common import DEFAULTS, Output, Shared, Where, usable_device


def frontier_run(out: str, grid: str = "default", workers: int = 2, common: Shared = DEFAULTS) -> Output:
    """Trains, scores and prunes every model of a grid; goes on where it stopped.

    Args:
        out: Folder of everything it makes.
        grid: default, quick, or a JSON or YAML file with fields of Grid; --seed is added to its training seeds.
        workers: Processes side by side, each with its share of the cores.
    """
    from sparse_circuits.frontier.grid import load_grid
    from sparse_circuits.frontier.sweep import run_frontier

    chosen = load_grid(grid)
    chosen = chosen.replace(seeds=tuple(seed + common.seed for seed in chosen.seeds))
    device = usable_device(common.device)
    found = run_frontier(chosen, out, workers=workers, device=device, progress=common.progress)
    data, text = _summary(found)
    return Output(
        {**data, "path": out}, f"{text}\nin {out}; draw it with: sparse-circuits frontier show {out} --out FILE"
    )


def frontier_show(
    folder: Where,
    out: str | None = None,
    report: str | None = None,
    common: Shared = DEFAULTS,  # noqa: ARG001 (options of every verb)
) -> Output:
    """Shows circuit size against validation loss, sparse and dense: as a table, a figure, a page.

    Args:
        folder: Folder of `frontier run`, finished or not.
        out: Figure, .svg or .png (extra `plot`).
        report: One-file HTML page with the figure and every number (extra `plot`).
    """
    from sparse_circuits.frontier.curves import curves
    from sparse_circuits.frontier.sweep import read_frontier

    found = read_frontier(folder)
    data, text = _summary(found)
    figure = page = None
    if out is not None:
        from sparse_circuits.viz.frontier_figure import draw_frontier

        figure = str(draw_frontier(curves(found.records), out))
        text += f"\nfigure in {figure}"
    if report is not None:
        from sparse_circuits.viz.frontier_page import write_frontier_page

        page = str(write_frontier_page(curves(found.records), report, found.failed))
        text += f"\npage in {page}"
    return Output({**data, "figure": figure, "report": page}, text)


def _summary(found: Any) -> tuple[dict[str, Any], str]:
    """A frontier as JSON values and as a table."""
    from sparse_circuits.frontier.curves import MEASURES, curves
    from sparse_circuits.markdown import markdown_table

    beside = {"failed": found.failed, "missing": list(found.missing)}
    lines = [f"{name} FAILED: {error}" for name, error in found.failed.items()]
    if found.missing:
        lines.append(f"not there yet: {', '.join(found.missing)}")
    if not found.records:
        return {"points": [], "ratio_at_matched_loss": None, **beside}, "\n".join(["no point is finished", *lines])
    shown = curves(found.records)
    head = ("model", "val loss", "nonzero", "met on test", "on val", *MEASURES, "missed on test")
    rows = [_row(point, shown) for point in shown.points]
    drawn = shown.drawn
    ratios = [_ratio(measure, shown.ratios[measure, drawn]) for measure in MEASURES]
    where = "" if drawn == "common" else " (met on validation, where circuits are chosen)"
    over = f"sizes are geometric means over {', '.join(shown.over[drawn].tasks)}{where}"
    if drawn == "bound":
        over = "sparse and dense models share no task, so sizes are bounds: a miss counts as the whole model"
    ratios += [_by_task(measure, shown) for measure in MEASURES]
    text = "\n".join([markdown_table(head, rows), over, *ratios, *lines])
    return {**shown.summary(), **beside}, text


def _row(point: Any, shown: Any) -> tuple[str, ...]:
    from sparse_circuits.frontier.curves import misses

    sizes = (shown.sizes[measure, shown.drawn].get(point.name) for measure in ("nodes", "edges"))
    missed = misses(point, shown.tasks)
    return (
        point.name,
        f"{point.val_loss:.3f}",
        f"{point.nonzero:,} ({point.nonzero_fraction:.2%})",
        f"{len(shown.tasks) - len(missed)}/{len(shown.tasks)}",
        f"{len(shown.tasks) - len(misses(point, shown.tasks, 'chosen'))}/{len(shown.tasks)}",
        *("-" if size is None else f"{size:.1f}" for size in sizes),
        ", ".join(missed),
    )


def _by_task(measure: Any, shown: Any) -> str:
    """The ratios of single tasks in the middle of the losses that both families have, and their mean."""
    found = {task: shown.by_task[measure, task].ratios for task in shown.tasks}
    each = ", ".join(f"{task} {ratios[1]:.2f}" for task, ratios in found.items() if ratios)
    number = shown.mean_by_task(measure)
    mean = None if number is None else f"{number:.2f}"
    shared = f"{mean}, mean over {sum(map(bool, found.values()))} of {len(found)} tasks, met on validation: {each}"
    return f"{measure}, dense / sparse at matched loss, task by task: {'no task has both' if mean is None else shared}"


def _ratio(measure: str, found: Any) -> str:
    if found.reason is not None:
        return f"{measure}, dense / sparse at matched loss: {found.reason}"
    at = ", ".join(f"{r:.2f} at {x:.3f} nats" for x, r in zip(found.val_losses, found.ratios, strict=True))
    return f"{measure}, dense / sparse at matched loss: {at}"
