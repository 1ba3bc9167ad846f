"""Taps for calls one does not make oneself: `with recording(...)` and `with intervening(...)` around any use of a model.

The seam is an argument (`model(tokens, tap=...)`). Where a library calls the model (`generate`, a pipeline, a training loop),
a context adds the tap to every call inside the `with`, through torch's own forward hooks: per model, nestable in any order,
gone when the block ends. The call's own tap acts first, then the contexts from the outside in, each on what the one before
returned; so an inner recording sees what an outer intervention made.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sparse_circuits.model.taps import Chain, Record, Replace, Tap
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import match_sites


@contextmanager
def tapped(model: nn.Module, tap: Tap) -> Iterator[Tap]:
    """Adds a tap to every forward pass of a model (or of the transformers class around one) inside the block."""
    network = network_of(model)

    def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:  # noqa: ARG001
        if (
            kwargs.get("weights") is not None
        ):  # a pass with other weights calls the model once more, and that one is tapped
            return args, kwargs
        given = args[1] if len(args) > 1 else kwargs.get("tap")
        both = tap if given is None else Chain(given, tap)
        return ((args[0], both, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "tap": both})

    handle = network.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield tap
    finally:
        handle.remove()


@contextmanager
def recording(model: nn.Module, sites: str | Iterable[str] = "*", *, gradients: bool = False) -> Iterator[Record]:
    """Records the last pass made inside the block: `.acts` and, after backward, `.grads`, by full site name.

    sites: full names, globs or a list. Raises ValueError for one that matches nothing.
    """
    record = Record(match_sites(sites, network_of(model).config.n_layer), gradients=gradients)
    with tapped(model, record):
        yield record


@contextmanager
def intervening(model: nn.Module, replacements: Mapping[str, Tensor | Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Replaces activations, as `intervene` does, in every pass inside the block."""
    layers = network_of(model).config.n_layer
    with tapped(
        model, Replace({site: value for glob, value in replacements.items() for site in match_sites(glob, layers)})
    ):
        yield


def network_of(model: nn.Module) -> SparseTransformer:
    """The model itself, or the one inside a transformers class. Raises ValueError for anything else."""
    network = getattr(model, "circuit_model", model)
    if not isinstance(network, SparseTransformer):
        raise ValueError(
            f"{type(model).__name__} is no model of this library; give what load_model or from_pretrained returned"
        )
    return network
