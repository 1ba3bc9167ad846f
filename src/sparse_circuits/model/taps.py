"""The seam: a tap is passed into the one forward pass and may read or replace the activation at any named site.

At each site, after AbsTopK, the model does `x = tap(site, x)` if `tap.wants(site)`. Recording, mean or zero ablation,
masks, interchange, norm freezing and bridges are all taps, so nobody copies the forward pass (STYLE 3). A replaced
value is used as it is: AbsTopK is not applied again.

Laws (tests/model/test_seam.py): an all-on mask equals the base pass bit for bit; replacing a site by its recorded value
equals the base pass bit for bit; entering at residual site i with the recorded residual equals the base pass.

Shapes: B batch, T tokens, w width of the site (sites.site_widths).
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Value = Float[Tensor, "..."] | Callable[[Tensor], Tensor]


@runtime_checkable
class Tap(Protocol):
    """What the forward pass asks of whoever is listening."""

    def wants(self, site: str) -> bool:
        """Whether the activation at this site should be delivered."""
        ...

    def __call__(self, site: str, x: Tensor) -> Tensor:
        """Receives the activation [B, T, w]; what it returns is used from there on."""
        ...


class Record:
    """Keeps the activation at each of some sites in `acts`, site -> Float[B, T, w].

    gradients: whether a later backward pass also leaves the gradient at each site in `grads`, under the same full name.
    """

    def __init__(self, sites: Collection[str], *, gradients: bool = False) -> None:
        self.sites, self.gradients = frozenset(sites), gradients
        self.acts: dict[str, Tensor] = {}
        self.grads: dict[str, Tensor] = {}

    def wants(self, site: str) -> bool:
        return site in self.sites

    def __call__(self, site: str, x: Tensor) -> Tensor:
        if self.gradients:
            x = x if x.requires_grad else x.detach().requires_grad_()  # a model whose weights need no gradient
            x.register_hook(partial(self.grads.__setitem__, site))
        self.acts[site] = x
        return x


class Replace:
    """Replaces activations: site -> a tensor of the same (or broadcastable) shape, or a function of the activation.

    Freezing norms is replacing the norm-scale sites (`sites.request_sites`) by scales recorded on another pass.
    """

    def __init__(self, values: Mapping[str, Value]) -> None:
        self.values = dict(values)

    def wants(self, site: str) -> bool:
        return site in self.values

    def __call__(self, site: str, x: Tensor) -> Tensor:
        value = self.values[site]
        new = value(x) if callable(value) else value
        if not isinstance(new, Tensor):
            given = type(new).__name__
            raise ValueError(f"the replacement at {site} gave {given}; give a tensor of shape {list(x.shape)}")
        try:
            return new.to(dtype=x.dtype, device=x.device).expand(x.shape)
        except RuntimeError:
            given, wanted = list(new.shape), list(x.shape)
            message = f"the replacement at {site} has shape {given}; allowed: {wanted} or what broadcasts to it"
            raise ValueError(message) from None


class Mask:
    """x -> x * m + mu * (1 - m) at each masked site (METHOD 1f): kept channels pass, others take their ablation value.

    masks: site -> Float[..., w], 1 kept, 0 ablated; values between 0 and 1 mix, Bool is read as 1 and 0. Shape
    [B, 1, w] gives every row of the batch its own mask. values: site -> Float[..., w], the ablation values mu, of
    shape [w], [B, 1, w] or [B, T, w]. Sites not in `masks` pass unchanged.
    kept: site -> Int[n], the channels that any row keeps, where the caller knows them and values are [w]: the others are then
    constants, and the pass need not compute them (same result up to rounding).
    """

    def __init__(
        self,
        masks: Mapping[str, Tensor],
        values: Mapping[str, Tensor],
        kept: Mapping[str, Tensor] | None = None,
    ) -> None:
        missing = [site for site in masks if site not in values]
        if missing:
            named = ", ".join(missing)
            raise ValueError(f"no ablation values for {named}; give one value per channel of every masked site")
        self.masks, self.values, self.kept = dict(masks), dict(values), dict(kept or {})

    def fixed(self, site: str) -> Float[Tensor, " w"] | None:
        """The activation at a site where nothing is kept, None elsewhere."""
        kept = self.kept.get(site)
        return self.values[site] if kept is not None and not len(kept) else None

    def narrow(self, site: str, x: Float[Tensor, "B T w"], most: float = 0.5) -> tuple[Tensor, Tensor, Tensor] | None:
        """(channels that any row keeps, their masked activation [B, T, n], the values [w] of all others, 0 at those kept);
        None where they are not known, or more than a share `most` of all."""
        kept = self.kept.get(site)
        if kept is None or len(kept) > most * x.shape[-1]:
            return None
        mask, values = self.masks[site].index_select(-1, kept).to(x.dtype), self.values[site]
        masked = torch.addcmul(values[kept] * (1 - mask), x.index_select(-1, kept), mask)
        return kept, masked, values.index_fill(0, kept, 0.0)

    @property
    def positionwise(self) -> bool:
        """Whether all positions are treated alike, so that a pass may leave out those that nobody reads."""
        return all(part.dim() == 1 or part.shape[-2] == 1 for part in (*self.masks.values(), *self.values.values()))

    def wants(self, site: str) -> bool:
        return site in self.masks

    def __call__(self, site: str, x: Tensor) -> Tensor:
        mask = self.masks[site].to(x.dtype)
        return torch.addcmul(self.values[site] * (1 - mask), x, mask)


class Chain:
    """Several taps in order; each sees what the one before returned."""

    def __init__(self, *taps: Tap) -> None:
        self.taps = taps

    def wants(self, site: str) -> bool:
        return any(tap.wants(site) for tap in self.taps)

    def __call__(self, site: str, x: Tensor) -> Tensor:
        for tap in self.taps:
            if tap.wants(site):
                x = tap(site, x)
        return x
