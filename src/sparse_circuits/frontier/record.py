"""What one point of a frontier was found to be, as plain frozen records: the content of point.json (docs/format.md).

A task ends in one of four ways at a point: `met` (there is a circuit, and on test it reaches the target), `missed` (there
is one, and it does not), `unsolved` (the model itself is above the target, so no circuit was looked for) and `unusable`
(the tokenizer cannot ask it, or the model has no embedding for its words). Everything but `met` is a miss.
"""

from pathlib import Path
from typing import Any, Literal

from sparse_circuits.config import Config
from sparse_circuits.files import check_format, read_json, write_json

Family = Literal["sparse", "dense"]
Status = Literal["met", "missed", "unsolved", "unusable"]
FORMAT_VERSION = 1
POINT_FILE = "point.json"


class TaskRecord(Config):
    """One task at one point."""

    task: str
    """Name of the task."""
    task_hash: str | None = None
    """Hash of the task; None in a point from before it was stored: unknown."""
    status: Status
    reason: str | None = None
    """Why it is a miss, one line; None where it is met."""
    model_loss: float | None = None
    """Test loss of the whole model, nats; None where the task cannot be asked."""
    accuracy: float | None = None
    """Test accuracy of the whole model."""
    loss: float | None = None
    """Test loss of the circuit, nats; None where none was looked for."""
    nodes: int | None = None
    """Nodes of the circuit that was chosen on validation."""
    edges: int | None = None
    """Its edges."""
    met_on_val: bool | None = None
    """Whether it reaches the target on validation, where it was chosen; None where none was looked for."""
    seeds: tuple[dict[str, Any], ...] = ()
    """Every pruning seed: `seed`, `nodes`, `edges`, `test_loss`."""


class PointRecord(Config):
    """One model of the grid, trained, evaluated and pruned."""

    name: str
    family: Family
    width: int
    """d_model."""
    fraction: float
    """f of the block matrices; 1 for a dense model."""
    afrac: float | None
    """Activation sparsity; None = off."""
    seed: int
    """Training seed."""
    val_loss: float
    """Mean next-token loss on validation documents, nats."""
    nonzero: int
    """Nonzero weights and biases, the bigram table excluded."""
    nonzero_fraction: float
    zero_rows: int
    """Occurring tokens without embedding."""
    nodes_total: int
    """Nodes of the whole model."""
    edges_total: int
    """Edges of the whole model: nonzero weights between node sites."""
    tasks: tuple[TaskRecord, ...]
    seconds: dict[str, float]
    """Wall-clock seconds per stage: of all training steps, whichever calls made them, and of the tasks."""

    def task(self, name: str) -> TaskRecord:
        """The record of a task of the grid."""
        return next(task for task in self.tasks if task.task == name)

    def total(self, measure: Literal["nodes", "edges"]) -> int:
        """The whole model in that measure, at least 1: what no circuit of it can exceed."""
        return max(1, self.nodes_total if measure == "nodes" else self.edges_total)


def write_point(folder: str | Path, record: PointRecord) -> None:
    """Writes point.json, atomically; from then on the point counts as finished. Raises OSError."""
    stored = {"kind": "frontier_point", "format_version": FORMAT_VERSION, **record.to_dict()}
    write_json(Path(folder) / POINT_FILE, stored)


def read_point(folder: str | Path) -> PointRecord:
    """Reads point.json. Raises ValueError, one line, if it is absent, damaged or of another version."""
    where = Path(folder) / POINT_FILE
    stored = read_json(where)
    check_format(stored, "frontier_point", FORMAT_VERSION, where)
    try:
        return PointRecord.from_dict({k: v for k, v in stored.items() if k not in ("kind", "format_version")})
    except ValueError as error:
        raise ValueError(f"{where} is damaged ({error}); delete it, and `frontier run` makes it again") from None
