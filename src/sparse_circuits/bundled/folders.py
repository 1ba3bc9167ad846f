"""The models in the box: `bundled`, weight-sparse, and `bundled-dense`, its dense twin at matched loss (METHOD D12).

Each is a model folder like any other, with tokenizer, ablation reference and model card. `recipe/` makes both.
"""

from pathlib import Path

NAMES = {"bundled": "sparse", "bundled-dense": "dense"}
"""name -> folder beside this file"""


def bundled_folder(name: str) -> Path:
    """The model folder of a bundled name. Raises ValueError for another name, or where the installation lacks it."""
    if name not in NAMES:
        raise ValueError(f"unknown bundled model {name!r}; allowed: {', '.join(NAMES)}")
    folder = Path(__file__).parent / NAMES[name]
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"no model {name!r} at {folder}: it does not ship yet; make one with `sparse-circuits bundle`, or give a model folder"
        )
    return folder


def bundled_name(folder: str | Path) -> str | None:
    """The bundled name of a folder, None for any other folder: what a circuit remembers of its model."""
    here = Path(__file__).resolve().parent
    return next((name for name, below in NAMES.items() if Path(folder).resolve() == here / below), None)
