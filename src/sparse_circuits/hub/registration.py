"""Registers our classes with transformers' Auto classes, whichever of the two libraries is imported first.

`import sparse_circuits` calls `install`. If transformers' auto modules are loaded already, the classes are registered at
once; otherwise a finder at the head of `sys.meta_path` waits for each of the three modules and registers right after it has
run. Neither order imports what the user did not ask for.

One thing registration cannot say: AutoTokenizer follows the class that a tokenizer_config.json names before it looks at what is
registered, and a released folder may name code that was never shipped. Its `from_pretrained` is therefore wrapped, for such folders
of our two types only; every other call goes through unchanged.
"""

import sys
import warnings
from collections.abc import Callable
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

AUTO = "transformers.models.auto."


def register_configs() -> None:
    """AutoConfig knows both model types."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from sparse_circuits.hub.hf_config import CircuitGPTConfig, SparseCircuitsConfig

    for config in (SparseCircuitsConfig, CircuitGPTConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)


def register_models() -> None:
    """AutoModelForCausalLM knows both classes."""
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM

    from sparse_circuits.hub.modeling import CircuitGPTForCausalLM, SparseCircuitsForCausalLM

    for model in (SparseCircuitsForCausalLM, CircuitGPTForCausalLM):
        AutoModelForCausalLM.register(model.config_class, model, exist_ok=True)


def register_tokenizers() -> None:
    """AutoTokenizer reads both, the released files included, even where the folder names a class that is not there."""
    from transformers.models.auto.tokenization_auto import AutoTokenizer

    from sparse_circuits.hub.auto_tokenizer import SparseCircuitsTokenizer, is_our_repo, read_first
    from sparse_circuits.hub.hf_config import CircuitGPTConfig, SparseCircuitsConfig

    for config in (SparseCircuitsConfig, CircuitGPTConfig):
        AutoTokenizer.register(config, fast_tokenizer_class=SparseCircuitsTokenizer, exist_ok=True)
    theirs = AutoTokenizer.from_pretrained.__func__
    if hasattr(theirs, "reads_ours"):  # by an earlier call
        return

    @wraps(theirs)
    def from_pretrained(cls: type, pretrained_model_name_or_path: Any, *inputs: Any, **kwargs: Any) -> Any:
        where = pretrained_model_name_or_path
        if not read_first(where):
            try:
                return theirs(cls, where, *inputs, **kwargs)
            except (ValueError, OSError):
                if not is_our_repo(where, kwargs):
                    raise
        return SparseCircuitsTokenizer.from_pretrained(where, *inputs, **kwargs)

    from_pretrained.reads_ours = True  # pyright: ignore[reportAttributeAccessIssue, reportFunctionMemberAccess]
    AutoTokenizer.from_pretrained = classmethod(from_pretrained)  # pyright: ignore[reportAttributeAccessIssue]


ACTIONS: dict[str, Callable[[], None]] = {
    AUTO + "configuration_auto": register_configs,
    AUTO + "modeling_auto": register_models,
    AUTO + "tokenization_auto": register_tokenizers,
}


def install() -> None:
    """Registers now what is loaded, and the rest when it is. Calling it again changes nothing."""
    for name, action in ACTIONS.items():
        if name in sys.modules:
            _attempt(action)
    if not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def _attempt(action: Callable[[], None]) -> None:
    try:
        action()
    except Exception as error:  # a transformers we do not fit must not break for its other users
        reason = " ".join(str(error).split())
        warnings.warn(
            f"sparse_circuits could not register with transformers ({type(error).__name__}: {reason})", stacklevel=2
        )


class _Waiting(MetaPathFinder):
    """Finds the auto modules like everybody else, and has them registered when they have run."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in ACTIONS:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Then(spec.loader, ACTIONS[fullname])
                return spec
        return None


class _Then(Loader):
    """A loader that acts once the module has run; everything else is the loader it stands for."""

    def __init__(self, loader: Loader, action: Callable[[], None]) -> None:
        self.loader, self.action = loader, action

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _attempt(self.action)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not set yet, in a copy under way
            raise AttributeError(name)
        return getattr(self.loader, name)
