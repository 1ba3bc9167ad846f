"""Calibration: as good as a grid search, and unable to swap the answers (METHOD D6)."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_circuits.prune.calibrate import calibrate


def loss(contrasts: Tensor, scale: float, shift: float) -> float:
    z = scale * contrasts.numpy().astype(np.float64) + shift
    return float((np.logaddexp(0, -z[:, 0]) + np.logaddexp(0, z[:, 1])).mean() / 2)


def drawn(scale: float, shift: float, noise: float, n: int = 200) -> Tensor:
    """Contrasts of a model that is right on the whole, too bold by 1 / scale and off by shift."""
    draw = torch.Generator().manual_seed(0)
    truth = torch.tensor([1.0, -1.0]).expand(n, 2) + noise * torch.randn(n, 2, generator=draw)
    return (truth - shift) / scale


@pytest.mark.parametrize(("scale", "shift"), [(0.2, 0.0), (3.0, 0.5), (1.0, -2.0)])
def test_it_is_as_good_as_a_grid_search(scale: float, shift: float) -> None:
    contrasts = drawn(scale, shift, noise=1.2)
    found = calibrate(contrasts, shift=True)
    grid = min(loss(contrasts, a, b) for a in np.geomspace(0.02, 20, 60) for b in np.linspace(-4, 4, 81))
    assert found.scale > 0
    assert loss(contrasts, found.scale, found.shift) <= grid + 1e-4
    assert loss(contrasts, found.scale, found.shift) < loss(contrasts, 1.0, 0.0) - 1e-3


def test_swapped_answers_stay_wrong() -> None:
    """An unsigned scale would bring this to 0; a positive one can only give up, at ln 2."""
    swapped = -drawn(0.2, 0.0, noise=0.1)
    for shift in (True, False):
        found = calibrate(swapped, shift=shift)
        assert found.scale > 0
        assert math.log(2) - 1e-6 <= loss(swapped, found.scale, found.shift) < loss(swapped, 1.0, 0.0)


def test_no_shift_where_the_completions_are_not_fixed() -> None:
    contrasts = drawn(1.0, -2.0, noise=1.2)
    without, free = calibrate(contrasts, shift=False), calibrate(contrasts, shift=True)
    assert without.shift == 0 and abs(free.shift) > 0.3
    best = min(loss(contrasts, a, 0.0) for a in np.geomspace(0.02, 20, 400))
    assert loss(contrasts, without.scale, 0.0) <= best + 1e-4


@pytest.mark.parametrize("contrasts", [torch.zeros(4, 2), torch.tensor([[80.0, -90.0]]), torch.tensor([[1e4, 1e4]])])
def test_it_never_makes_things_worse(contrasts: Tensor) -> None:
    found = calibrate(contrasts, shift=True)
    assert math.isfinite(found.scale) and found.scale > 0 and math.isfinite(found.shift)
    assert loss(contrasts, found.scale, found.shift) <= loss(contrasts, 1.0, 0.0) + 1e-12
