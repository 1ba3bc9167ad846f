"""The models in the box: `bundled`, weight-sparse, and `bundled-dense`, its dense twin at matched loss (METHOD D12).

Each is a model folder like any other, with tokenizer, ablation reference and model card. `recipe/` makes both. Beside them lie
the circuits of the sparse one, `circuits/TASK/`, named `bundled/TASK`.
"""

from pathlib import Path

NAMES = {"bundled": "sparse", "bundled-dense": "dense"}
"""name -> folder beside this file"""
CIRCUITS = "circuits"
"""Folder of the circuits, beside this file."""


def bundled_folder(name: str) -> Path:
    """The model folder of a bundled name. Raises ValueError for another name, or where the installation lacks it."""
    if name not in NAMES:
        raise ValueError(f"unknown bundled model {name!r}; allowed: {', '.join(NAMES)}")
    folder = Path(__file__).parent / NAMES[name]
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"no model {name!r} at {folder}; install the package again, or make one with `sparse-circuits bundle`"
        )
    return folder


def bundled_name(folder: str | Path) -> str | None:
    """The bundled name of a folder, None for any other folder: what a circuit remembers of its model."""
    here = Path(__file__).resolve().parent
    return next((name for name, below in NAMES.items() if Path(folder).resolve() == here / below), None)


def bundled_circuits() -> dict[str, Path]:
    """Task -> folder of its circuit in the box, in alphabetical order. Raises ValueError where the installation has none."""
    root = Path(__file__).parent / CIRCUITS
    found = {file.parent.name: file.parent for file in sorted(root.glob("*/circuit.json"))}
    if not found:
        raise ValueError(
            f"no circuits at {root}: install the package again, or make some: `circuits run`, `circuits ship`"
        )
    return found


def circuit_folder(where: str | Path) -> Path:
    """The folder of a circuit: a path, or `bundled/TASK`. Raises ValueError for a task without a circuit in the box."""
    head, _, task = str(where).partition("/")
    if head != "bundled" or Path(where).exists():
        return Path(where)
    found = bundled_circuits()
    if task not in found:
        raise ValueError(
            f"no circuit {str(where)!r} in the box; there are {', '.join(f'bundled/{name}' for name in found)}"
        )
    return found[task]
