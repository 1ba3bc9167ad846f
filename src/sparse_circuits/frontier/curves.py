"""From the points of a frontier to the numbers of its figure: sizes, fronts, ratios at matched loss. Pure functions.

Size is the count of nodes or of edges of a task's circuit (a circuit without edges counts as 1 on the log axis), averaged over
tasks by the geometric mean. Misses must not flatter, so there are three means, and none leaves a point's misses out alone:
- `common`: over the tasks that all compared points meet on test; the same tasks for everybody. A point that misses more than half
  of the tasks is not compared: it would take the tasks from everybody else.
- `chosen`: the same with the target held on validation, where circuits are chosen: all are pruned to one loss there, in more tasks
  than hold it on the wordings of test.
- `bound`: over all tasks that any point can be asked; a miss counts as the whole model, which no circuit can exceed. An upper
  bound for its own point; as a ratio it favours whichever family misses less, so the others are the ones to quote.

Per family and mean:
1. The front: points that no other beats in both validation loss and size (Pareto).
2. The curve: straight lines between them in log(size) against loss, and on at the last size as far as points were measured that
   are beaten: the smallest circuit of a model at least as good.
3. `ratio_at_matched_loss`: dense size / sparse size on the two curves at the ends and the middle of the losses that both have.
   Nothing is extrapolated.

Small models differ in which tasks they do, so few tasks are common to all of them. Hence also every task by itself
(`ratio_by_task`): the same on the points whose circuit of it holds on validation. That does leave misses out; they are counted.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import geometric_mean
from typing import Any, Literal

from sparse_circuits.frontier.record import Family, PointRecord

Measure = Literal["nodes", "edges"]
Mean = Literal["common", "chosen", "bound"]
MEASURES: tuple[Measure, ...] = ("nodes", "edges")
MEANS: tuple[Mean, ...] = ("common", "chosen", "bound")
FAMILIES: tuple[Family, ...] = ("sparse", "dense")


@dataclass(frozen=True, kw_only=True)
class Sized:
    """One point of a curve."""

    name: str
    val_loss: float
    """Nats."""
    size: float
    """Geometric mean over tasks, at least 1."""


@dataclass(frozen=True, kw_only=True)
class MatchedRatio:
    """Dense size / sparse size where both families have the same validation loss."""

    val_losses: tuple[float, ...]
    """Lower end, middle and upper end of the losses that both curves have, nats; empty where there are none."""
    ratios: tuple[float, ...]
    """One per loss; above 1 means that sparse circuits are smaller."""
    reason: str | None = None
    """Why there is no ratio, one line."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What one mean is taken over."""

    points: tuple[str, ...]
    """Names of points."""
    tasks: tuple[str, ...]
    """The same for all of them."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Everything that is drawn."""

    points: tuple[PointRecord, ...]
    """Sparse before dense, by validation loss."""
    tasks: tuple[str, ...]
    """Tasks that at least one point can be asked."""
    over: Mapping[Mean, Compared]
    sizes: Mapping[tuple[Measure, Mean], Mapping[str, float]]
    """point -> geometric mean, of compared points only, and of none where they share no task."""
    fronts: Mapping[tuple[Measure, Mean, Family], tuple[Sized, ...]]
    """By validation loss, with the end of the curve."""
    ratios: Mapping[tuple[Measure, Mean], MatchedRatio]
    task_curves: Mapping[tuple[Measure, str, Family], tuple[Sized, ...]]
    """Of one task's circuits, over the points that meet it on validation."""
    by_task: Mapping[tuple[Measure, str], MatchedRatio]
    """Between the two families of them."""

    @property
    def drawn(self) -> Mean:
        """The mean that figures and tables show: of `common` and `chosen` the one over more tasks that has points of every family
        there is, else the bound."""
        families = {point.family for point in self.points}
        best: Mean = "bound"
        means: tuple[Mean, ...] = ("chosen", "common")
        for mean in means:
            whole = {family for family in FAMILIES if self.fronts["edges", mean, family]} == families
            if whole and (best == "bound" or len(self.over[mean].tasks) >= len(self.over[best].tasks)):
                best = mean
        return best

    def mean_by_task(self, measure: Measure) -> float | None:
        """Geometric mean of the tasks' ratios in the middle of the losses that both families have; None where no task has one."""
        middles = [found.ratios[1] for task in self.tasks if (found := self.by_task[measure, task]).ratios]
        return geometric_mean(middles) if middles else None

    @property
    def compared(self) -> tuple[str, ...]:
        """Names of the points in the mean that is drawn."""
        return self.over[self.drawn].points

    def summary(self) -> dict[str, Any]:
        """Plain JSON values: points with their sizes, and the ratios."""
        return {
            "tasks": list(self.tasks),
            "common_tasks": list(self.over["common"].tasks),
            "chosen_tasks": list(self.over["chosen"].tasks),
            "drawn": self.drawn,
            "points": [self._point(point) for point in self.points],
            "ratio_at_matched_loss": {
                measure: {mean: asdict(self.ratios[measure, mean]) for mean in MEANS} for measure in MEASURES
            },
            "ratio_by_task": {
                measure: {task: asdict(self.by_task[measure, task]) for task in self.tasks} for measure in MEASURES
            },
            "mean_ratio_by_task": {measure: self.mean_by_task(measure) for measure in MEASURES},
        }

    def _point(self, point: PointRecord) -> dict[str, Any]:
        means = {measure: {mean: self.sizes[measure, mean].get(point.name) for mean in MEANS} for measure in MEASURES}
        on_front = [
            measure
            for measure in MEASURES
            if any(found.name == point.name for found in self.fronts[measure, self.drawn, point.family])
        ]
        return {
            **point.to_dict(),
            "compared": point.name in self.compared,
            "missed": list(misses(point, self.tasks)),
            "mean": means,
            "on_front": on_front,
        }


def curves(records: Sequence[PointRecord]) -> Curves:
    """Sizes, fronts and ratios of finished points. Raises ValueError where there are none."""
    if not records:
        raise ValueError("no point of this frontier is finished; go on with `sparse-circuits frontier run`")
    points = tuple(sorted(records, key=lambda point: (FAMILIES.index(point.family), point.val_loss)))
    tasks = asked_tasks(points)
    over: dict[Mean, Compared] = {
        "common": _comparable(points, tasks, "common"),
        "chosen": _comparable(points, tasks, "chosen"),
        "bound": Compared(points=tuple(point.name for point in points), tasks=tasks),
    }
    sizes: dict[tuple[Measure, Mean], dict[str, float]] = {}
    fronts: dict[tuple[Measure, Mean, Family], tuple[Sized, ...]] = {}
    ratios: dict[tuple[Measure, Mean], MatchedRatio] = {}
    for measure in MEASURES:
        for mean, which in over.items():
            members = [point for point in points if point.name in which.points and which.tasks]
            found = {point.name: mean_size(point, measure, which.tasks, mean) for point in members}
            sizes[measure, mean] = found
            for family in FAMILIES:
                fronts[measure, mean, family] = curve(
                    [
                        Sized(name=point.name, val_loss=point.val_loss, size=found[point.name])
                        for point in members
                        if point.family == family
                    ]
                )
            ratios[measure, mean] = ratio_at_matched_loss(
                dense=fronts[measure, mean, "dense"], sparse=fronts[measure, mean, "sparse"]
            )
    keys: list[tuple[Measure, str]] = [(measure, task) for measure in MEASURES for task in tasks]
    single: dict[tuple[Measure, str, Family], tuple[Sized, ...]] = {
        (measure, task, family): _task_curve(points, measure, task, family)
        for measure, task in keys
        for family in FAMILIES
    }
    by_task: dict[tuple[Measure, str], MatchedRatio] = {
        (measure, task): ratio_at_matched_loss(
            dense=single[measure, task, "dense"], sparse=single[measure, task, "sparse"]
        )
        for measure, task in keys
    }
    return Curves(
        points=points,
        tasks=tasks,
        over=over,
        sizes=sizes,
        fronts=fronts,
        ratios=ratios,
        task_curves=single,
        by_task=by_task,
    )


def _task_curve(points: Sequence[PointRecord], measure: Measure, task: str, family: Family) -> tuple[Sized, ...]:
    """The curve of one task's circuits."""
    found = [point for point in points if point.family == family and met(point, task, "chosen")]
    sizes = [float(task_size(point, task, measure, "chosen")) for point in found]
    return curve([Sized(name=p.name, val_loss=p.val_loss, size=size) for p, size in zip(found, sizes, strict=True)])


def _comparable(points: Sequence[PointRecord], tasks: tuple[str, ...], mean: Mean) -> Compared:
    """The points that do not miss more than half of the tasks, and the tasks that all of them meet."""
    found = [point for point in points if tasks and 2 * len(misses(point, tasks, mean)) <= len(tasks)]
    common = tuple(task for task in tasks if all(met(point, task, mean) for point in found)) if found else ()
    return Compared(points=tuple(point.name for point in found), tasks=common)


def asked_tasks(points: Sequence[PointRecord]) -> tuple[str, ...]:
    """Tasks that at least one point can be asked, in the order of the grid."""
    return tuple(
        task.task for task in points[0].tasks if any(point.task(task.task).status != "unusable" for point in points)
    )


def met(point: PointRecord, task: str, mean: Mean = "common") -> bool:
    """Whether a circuit meets the target: on validation for `chosen`, else on test."""
    found = point.task(task)
    if mean == "chosen" and found.met_on_val is not None:
        return found.met_on_val
    return found.status == "met"


def misses(point: PointRecord, tasks: Sequence[str], mean: Mean = "common") -> tuple[str, ...]:
    """Those of the tasks that the point does not meet, for whatever reason."""
    return tuple(task for task in tasks if not met(point, task, mean))


def task_size(point: PointRecord, task: str, measure: Measure, mean: Mean = "common") -> int:
    """Size of a task's circuit, at least 1; the whole model where the task is missed."""
    size = getattr(point.task(task), measure)
    return point.total(measure) if not met(point, task, mean) or size is None else max(1, size)


def mean_size(point: PointRecord, measure: Measure, tasks: Sequence[str], mean: Mean = "common") -> float:
    """Geometric mean over the tasks; a miss counts as the whole model."""
    return geometric_mean(task_size(point, task, measure, mean) for task in tasks)


def front(points: Sequence[Sized]) -> tuple[Sized, ...]:
    """The points that no other beats in loss and size at once, by loss; their sizes fall strictly."""
    kept: list[Sized] = []
    for point in sorted(points, key=lambda point: (point.val_loss, point.size, point.name)):
        if not kept or point.size < kept[-1].size:
            kept.append(point)
    return tuple(kept)


def curve(points: Sequence[Sized]) -> tuple[Sized, ...]:
    """The front, and where points with a larger loss were measured, its last size again at the largest loss."""
    kept = front(points)
    reach = max((point.val_loss for point in points), default=0.0)
    return (*kept, replace(kept[-1], val_loss=reach)) if kept and reach > kept[-1].val_loss else kept


def size_at(curve: Sequence[Sized], val_loss: float) -> float:
    """Size on the curve at a loss within its range: log(size) runs straight from point to point."""
    losses = [point.val_loss for point in curve]
    assert losses[0] <= val_loss <= losses[-1], "nothing is extrapolated"
    right = bisect_left(losses, val_loss)
    if losses[right] == val_loss:
        return curve[right].size
    one, two = curve[right - 1], curve[right]
    share = (val_loss - one.val_loss) / (two.val_loss - one.val_loss)
    return math.exp((1 - share) * math.log(one.size) + share * math.log(two.size))


def ratio_at_matched_loss(*, dense: Sequence[Sized], sparse: Sequence[Sized]) -> MatchedRatio:
    """Dense size / sparse size on two fronts, at the ends and the middle of the losses that both have."""
    if not dense or not sparse:
        lacking = " and ".join(name for name, curve in (("dense", dense), ("sparse", sparse)) if not curve)
        return MatchedRatio(val_losses=(), ratios=(), reason=f"there is no {lacking} point with a size to compare")
    low = max(dense[0].val_loss, sparse[0].val_loss)
    high = min(dense[-1].val_loss, sparse[-1].val_loss)
    if low > high:
        reason = (
            f"no validation loss is on both curves: dense has {dense[0].val_loss:.3f} to {dense[-1].val_loss:.3f} nats, sparse "
            f"{sparse[0].val_loss:.3f} to {sparse[-1].val_loss:.3f}; add points to the grid where one of them is missing"
        )
        return MatchedRatio(val_losses=(), ratios=(), reason=reason)
    losses = (low, min(max((low + high) / 2, low), high), high)
    return MatchedRatio(val_losses=losses, ratios=tuple(size_at(dense, x) / size_at(sparse, x) for x in losses))
