"""From tensors in a file to a model: every name, shape and dtype is checked, then each tensor is taken as it lies.

Nothing ever loads as random weights: the model is made without storage (on torch's meta device), and what the file lacks
or has too much is an error that lists it. Tensors are taken one at a time and memory-mapped ones stay so, so a model needs
its size once.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.transformer import SparseTransformer

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INFINITE_ALLOWED = ("bigram.weight", "logits_bias")
"""What is added to logits may forbid a token outright."""
LISTED = 8
"""Names an error lists before it counts the rest."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors of a file (or several), by the names of this library; nothing is read before `get`."""

    where: Path
    """What an error names."""
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]
    get: Callable[[str], Tensor]
    """The tensor of a name of `shapes`, memory-mapped where the format allows."""
    label: Callable[[str], str] = str
    """Our name -> the name in the file, for errors."""


def own_tensors(model: SparseTransformer) -> dict[str, Tensor]:
    """What a file of this model holds: parameters and buffers, a tied unembedding once, as the embedding."""
    tied = ("unembed.weight",) if model.config.tied_unembed else ()
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}


def assemble(
    config: ModelConfig, weights: Weights, *, check_values: bool, dtype: torch.dtype | None
) -> SparseTransformer:
    """The model of a config with the weights of a file, in evaluation mode.

    check_values: whether every value is read and NaN refused. dtype: what the weights become; None leaves them as stored.
    Raises ValueError, one line, that lists missing and unexpected tensors, wrong shapes, dtypes or NaN.
    """
    if dtype is not None and dtype not in FLOATS:
        raise ValueError(f"dtype {dtype} cannot hold weights; allowed: {', '.join(map(str, FLOATS))}, None = as stored")
    model = without_storage(config, weights.where, len(weights.shapes))
    expected = {name: tuple(tensor.shape) for name, tensor in own_tensors(model).items()}
    _check_names(expected, weights)
    _check_dtypes(weights)
    tensors = {}
    for name in expected:
        tensor = weights.get(name)
        if check_values:
            _check_values(name, tensor, weights)
        tensors[name] = tensor if dtype is None else tensor.to(dtype)
    if config.tied_unembed:
        tensors["unembed.weight"] = tensors["embed.weight"]
    model.load_state_dict(tensors, assign=True)
    if config.tied_unembed:
        model.unembed.weight = model.embed.weight
    return model.eval()


def without_storage(config: ModelConfig, where: object, held: int) -> SparseTransformer:
    """A model that has shapes but no memory. held: how many tensors the file has.

    Raises ValueError for a config that no such file can fit, before it costs time or memory.
    """
    if config.n_layer > held:
        raise ValueError(
            f"{where} does not fit its config: {config.n_layer} layers, and only {held} tensors in the file"
        )
    try:
        with torch.device("meta"):
            return SparseTransformer(config)
    except (RuntimeError, TypeError, OverflowError):  # sizes beyond 64 bits
        raise ValueError(f"{where} does not fit its config, which asks for tensors larger than any memory") from None


def _check_names(expected: Mapping[str, tuple[int, ...]], weights: Weights) -> None:
    missing, extra = expected.keys() - weights.shapes.keys(), weights.shapes.keys() - expected.keys()
    if missing or extra:
        told = [
            f"{word} {_listed(names, weights)}"
            for word, names in (("missing:", missing), ("unexpected:", extra))
            if names
        ]
        raise ValueError(f"{weights.where} does not fit its config; {'; '.join(told)}")
    wrong = [
        f"{weights.label(name)} {list(weights.shapes[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if weights.shapes[name] != shape
    ]
    if wrong:
        raise ValueError(f"{weights.where} does not fit its config; wrong shapes: {_listed(wrong)}")


def _check_dtypes(weights: Weights) -> None:
    kinds = sorted({str(dtype).removeprefix("torch.") for dtype in weights.dtypes.values()})
    if len(kinds) != 1 or next(iter(weights.dtypes.values())) not in FLOATS:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
        rare = [name for name, dtype in weights.dtypes.items() if dtype != torch.float32]
        raise ValueError(
            f"{weights.where} holds {' and '.join(kinds)} ({_listed(rare, weights)}); allowed: one of {allowed}, the same for all"
        )


def _check_values(name: str, tensor: Tensor, weights: Weights) -> None:
    # One pass without a temporary the size of the tensor: a sum is finite only if no entry is NaN or infinite; where it is
    # not (a sum may also overflow), look again.
    if torch.isfinite(tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))):
        return
    bad = tensor.isnan().any() if name in INFINITE_ALLOWED else not tensor.isfinite().all()
    if bad:
        raise ValueError(f"{weights.where} is damaged: {weights.label(name)} holds NaN or infinity; get the file again")


def _listed(names: Collection[str] | Iterable[str], weights: Weights | None = None) -> str:
    shown = sorted(weights.label(name) if weights else name for name in names)
    rest = f" and {len(shown) - LISTED} more" if len(shown) > LISTED else ""
    return ", ".join(shown[:LISTED]) + rest
