"""sparse_circuits: train weight-sparse transformers, prune them to circuits, prove and read them.

Importing loads nothing: each public name loads its module at first use. It does one thing: when transformers' auto modules are
there, or as soon as they come, our classes are registered with them (hub.registration).

Some functions are named like the folder they live in: `validate(...)` is in `validate/run.py`. Python makes the name mean the
folder as soon as anything in it is imported; so that it stays the function too, such a folder is made callable.
"""

import sys
from importlib import import_module
from inspect import Signature, signature
from types import ModuleType
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
    "validate": "validate.run",
}


def _public(name: str) -> Any:
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


class _Callable(ModuleType):
    """A folder, or a file, that is also the public function of its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _public(self.__name__.rpartition(".")[2])(*args, **kwargs)

    @property
    def __signature__(self) -> Signature:
        return signature(_public(self.__name__.rpartition(".")[2]))


class _Package(ModuleType):
    """This package: where Python sets a submodule that has the name of a public function, it becomes callable."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOMES.get(name, "").split(".")[0] == name:
            value.__class__ = _Callable
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sparse_circuits' has no attribute {name!r}")
    if _HOMES[name].split(".")[0] == name:
        return import_module(f"{__name__}.{name}")
    globals()[name] = _public(name)
    return globals()[name]


sys.modules[__name__].__class__ = _Package
_install()


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
