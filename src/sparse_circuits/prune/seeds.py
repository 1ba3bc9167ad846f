"""Circuits of several seeds in one folder: the best, and below it in `seeds/` all of them (docs/format.md)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparse_circuits.circuit.circuit import Circuit, Origin
from sparse_circuits.files import new_folder, write_json
from sparse_circuits.prune.pipeline import best
from sparse_circuits.tasks.load import task_names


def save_seeds(
    circuits: Sequence[Circuit], out: str | Path, removable: tuple[str, ...] | None = None
) -> list[dict[str, Any]]:
    """Writes the best circuit (by validation) into `out` and, of several, all into `out/seeds`; returns their key figures.

    removable: what of the best one could still go alone (refine.with_minimality); None: not measured.
    """
    best(circuits).replace(removable=removable).save(out)
    summaries = [circuit.summary() for circuit in circuits]
    runs = [{**{k: s[k] for k in ("seed", "nodes", "edges")}, "test_loss": s["loss"]["test"]} for s in summaries]
    if len(circuits) > 1:
        with new_folder(Path(out) / "seeds", "seeds") as draft:
            write_json(draft / "seeds.json", {"kind": "seeds", "format_version": 1, "seeds": runs})
        for circuit in circuits:
            circuit.save(seed_folder(out, circuit))
    return runs


def naming_task(circuits: Sequence[Circuit], where: str) -> tuple[Circuit, ...]:
    """The circuits of a task that was loaded from `where`: a built-in one is found again by its name, an own one by its file."""
    if where in task_names():
        return tuple(circuits)
    file = str(Path(where).absolute())
    return tuple(c.replace(task_origin=Origin(where=file, hash=c.task_origin.hash)) for c in circuits)


def seed_folder(out: str | Path, circuit: Circuit) -> Path:
    """Where the circuit of one of several seeds lies."""
    return Path(out) / "seeds" / f"seed_{circuit.seed}"
