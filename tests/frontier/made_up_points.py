"""Points of a frontier as somebody might have measured them."""

from sparse_circuits.frontier.record import Family, PointRecord, TaskRecord


def task(name: str, found: tuple[int, int] | str) -> TaskRecord:
    """found: (nodes, edges) of a circuit that meets the target, or a status that is a miss."""
    if isinstance(found, str):
        sizes = {"nodes": 7, "edges": 3, "loss": 0.2} if found == "missed" else {}
        return TaskRecord.from_dict({"task": name, "status": found, "reason": "made up", **sizes})
    nodes, edges = found
    return TaskRecord(task=name, status="met", model_loss=0.03, accuracy=0.99, loss=0.1, nodes=nodes, edges=edges)


def point(
    name: str, family: Family, val_loss: float, nodes_total: int = 1000, edges_total: int = 8000, **tasks: object
) -> PointRecord:
    """A point; tasks: name -> what `task` takes."""
    dense = family == "dense"
    return PointRecord(
        name=name,
        family=family,
        width=64,
        fraction=1.0 if dense else 0.02,
        afrac=None if dense else 0.25,
        seed=0,
        val_loss=val_loss,
        nonzero=2 * edges_total,
        nonzero_fraction=1.0 if dense else 0.02,
        zero_rows=0,
        nodes_total=nodes_total,
        edges_total=edges_total,
        tasks=tuple(task(title, found) for title, found in tasks.items()),  # type: ignore[arg-type]
        seconds={"training": 60.0, "tasks": 20.0},
    )


def four_points() -> list[PointRecord]:
    """Two per family; quotes by all, brackets by three, `chains` by nobody and only two can be asked it."""
    return [
        point("w64", "sparse", 3.0, quotes=(4, 2), brackets=(16, 8), chains="unusable"),
        point("w128", "sparse", 2.5, quotes=(10, 5), brackets=(20, 20), chains="missed"),
        point("dense_w16", "dense", 2.9, 500, 6000, quotes=(40, 50), brackets="unsolved", chains="unsolved"),
        point("dense_w64", "dense", 2.4, 2000, 40_000, quotes=(90, 200), brackets=(160, 800), chains="unusable"),
    ]
