"""sparse_circuits: train weight-sparse transformers, prune them to circuits, prove and read them.

Importing loads nothing: each public name loads its module at first use. It does one thing: when transformers' auto modules are
there, or as soon as they come, our classes are registered with them (hub.registration).
"""

from importlib import import_module
from typing import Any

from sparse_circuits.hub.registration import install as _install

__version__ = "0.1.0"

_HOMES = {
    "Circuit": "circuit.circuit",
    "Evaluation": "circuit.evaluate",
    "Node": "sites",
    "Edge": "sites",
    "SparseCircuitsConfig": "hub.hf_config",
    "SparseCircuitsForCausalLM": "hub.modeling",
    "evaluate": "circuit.evaluate",
    "export_model": "hub.io",
    "generate": "model.generate",
    "import_circuit": "hub.published",
    "import_model": "hub.io",
    "intervene": "model.generate",
    "intervening": "model.contexts",
    "load_circuit": "circuit.circuit",
    "load_model": "hub.load",
    "load_task": "tasks.load",
    "load_tokenizer": "hub.load",
    "preset": "train.presets",
    "prune": "prune.pipeline",
    "prune_seeds": "prune.pipeline",
    "quickstart": "quickstart",
    "record": "model.generate",
    "recording": "model.contexts",
    "report": "viz.page",
    "train": "train.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sparse_circuits' has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


_install()


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
