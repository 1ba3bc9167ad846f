"""From the points of a frontier to the numbers of its figure: sizes, fronts, ratios at matched loss. Pure functions.

Size is the count of nodes or of edges of a task's circuit (a circuit without edges counts as 1 on the log axis), averaged over
tasks by the geometric mean. Misses must not flatter, so there are two means, and neither leaves a point's misses out alone:
- `common`: over the tasks that all compared points meet; the same tasks for everybody. A point that misses more than half of
  the tasks is not compared: it would take the tasks from everybody else.
- `bound`: over all tasks that any point can be asked; a miss counts as the whole model, which no circuit can exceed. An upper
  bound for its own point; as a ratio it favours whichever family misses less, so `common` is the one to quote.

Per family and mean:
1. The front: points that no other beats in both validation loss and size (Pareto).
2. The curve: straight lines between them in log(size) against loss.
3. `ratio_at_matched_loss`: dense size / sparse size on the two curves at the ends and the middle of the losses that both have.
   Nothing is extrapolated.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sparse_circuits.frontier.record import Family, PointRecord

Measure = Literal["nodes", "edges"]
Mean = Literal["common", "bound"]
MEASURES: tuple[Measure, ...] = ("nodes", "edges")
MEANS: tuple[Mean, ...] = ("common", "bound")
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
class Curves:
    """Everything that is drawn."""

    points: tuple[PointRecord, ...]
    """Sparse before dense, by validation loss."""
    tasks: tuple[str, ...]
    """Tasks that at least one point can be asked."""
    compared: tuple[str, ...]
    """Names of the points that `common` compares."""
    common: tuple[str, ...]
    """Tasks that all of them meet."""
    sizes: Mapping[tuple[Measure, Mean], Mapping[str, float]]
    """point -> geometric mean; `common` has compared points only, and none where no task is common."""
    fronts: Mapping[tuple[Measure, Mean, Family], tuple[Sized, ...]]
    """By validation loss."""
    ratios: Mapping[tuple[Measure, Mean], MatchedRatio]

    @property
    def drawn(self) -> Mean:
        """The mean that figures and tables show: `common` where there is any common task."""
        return "common" if self.common else "bound"

    def summary(self) -> dict[str, Any]:
        """Plain JSON values: points with their sizes, and the ratios."""
        return {
            "tasks": list(self.tasks),
            "common_tasks": list(self.common),
            "points": [self._point(point) for point in self.points],
            "ratio_at_matched_loss": {
                measure: {mean: asdict(self.ratios[measure, mean]) for mean in MEANS} for measure in MEASURES
            },
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
    compared = [point for point in points if 2 * len(misses(point, tasks)) <= len(tasks)] if tasks else []
    common = tuple(task for task in tasks if all(point.task(task).status == "met" for point in compared))
    common = common if compared else ()
    over: dict[Mean, tuple[Sequence[PointRecord], tuple[str, ...]]] = {
        "common": (compared, common),
        "bound": (points, tasks),
    }
    sizes: dict[tuple[Measure, Mean], dict[str, float]] = {}
    fronts: dict[tuple[Measure, Mean, Family], tuple[Sized, ...]] = {}
    ratios: dict[tuple[Measure, Mean], MatchedRatio] = {}
    for measure in MEASURES:
        for mean, (which, asked) in over.items():
            found = {point.name: mean_size(point, measure, asked) for point in which if asked}
            sizes[measure, mean] = found
            for family in FAMILIES:
                fronts[measure, mean, family] = front(
                    [
                        Sized(name=point.name, val_loss=point.val_loss, size=found[point.name])
                        for point in which
                        if point.family == family and point.name in found
                    ]
                )
            ratios[measure, mean] = ratio_at_matched_loss(
                dense=fronts[measure, mean, "dense"], sparse=fronts[measure, mean, "sparse"]
            )
    names = tuple(point.name for point in compared)
    return Curves(points=points, tasks=tasks, compared=names, common=common, sizes=sizes, fronts=fronts, ratios=ratios)


def asked_tasks(points: Sequence[PointRecord]) -> tuple[str, ...]:
    """Tasks that at least one point can be asked, in the order of the grid."""
    return tuple(
        task.task for task in points[0].tasks if any(point.task(task.task).status != "unusable" for point in points)
    )


def misses(point: PointRecord, tasks: Sequence[str]) -> tuple[str, ...]:
    """Those of the tasks that the point does not meet, for whatever reason."""
    return tuple(task for task in tasks if point.task(task).status != "met")


def task_size(point: PointRecord, task: str, measure: Measure) -> int:
    """Size of a task's circuit, at least 1; the whole model where the task is missed."""
    found = point.task(task)
    size = getattr(found, measure)
    return point.total(measure) if found.status != "met" or size is None else max(1, size)


def mean_size(point: PointRecord, measure: Measure, tasks: Sequence[str]) -> float:
    """Geometric mean over the tasks; a miss counts as the whole model."""
    return math.exp(math.fsum(math.log(task_size(point, task, measure)) for task in tasks) / len(tasks))


def front(points: Sequence[Sized]) -> tuple[Sized, ...]:
    """The points that no other beats in loss and size at once, by loss; their sizes fall strictly."""
    kept: list[Sized] = []
    for point in sorted(points, key=lambda point: (point.val_loss, point.size, point.name)):
        if not kept or point.size < kept[-1].size:
            kept.append(point)
    return tuple(kept)


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
