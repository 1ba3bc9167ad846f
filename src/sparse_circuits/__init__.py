"""sparse_circuits: train weight-sparse transformers, prune them to circuits, prove and read them.

Importing does nothing; each public name loads its module at first use.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Circuit": "circuit.circuit",
    "Evaluation": "circuit.evaluate",
    "Node": "sites",
    "Edge": "sites",
    "evaluate": "circuit.evaluate",
    "generate": "model.generate",
    "intervene": "model.generate",
    "load_circuit": "circuit.circuit",
    "load_model": "hub.load",
    "load_task": "tasks.load",
    "load_tokenizer": "hub.load",
    "preset": "train.presets",
    "prune": "prune.pipeline",
    "prune_seeds": "prune.pipeline",
    "quickstart": "quickstart",
    "record": "model.generate",
    "report": "viz.page",
    "train": "train.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sparse_circuits' has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
