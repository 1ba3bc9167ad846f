"""The weight selection by four routes: radix kernel, bisection, the plain-torch reference and a sort in plain Python."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_circuits.kernels import select_bisect
from sparse_circuits.kernels.select_cpu import keep_top_k_, top_k_mask
from sparse_circuits.train.sparsity import reference_top_k

VALUES = (0.0, -0.0, 1.0, -1.0, 1.0000001, 0.5, -0.5, 1e-45, -1e-45, 3.4e38, math.inf, -math.inf, math.nan)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[float], list[bool] | None, int]:
    size = draw(st.integers(1, 40))
    number = st.one_of(st.sampled_from(VALUES), st.floats(width=32))
    w = draw(st.lists(number, min_size=size, max_size=size))
    protected = draw(st.none() | st.lists(st.booleans(), min_size=size, max_size=size))
    return w, protected, draw(st.integers(sum(protected or ()), size))


def naive(w: list[float], protected: list[bool] | None, k: int) -> list[bool]:
    """Protected entries first, then by falling size with NaN above infinity, then by index."""

    def rank(i: int) -> tuple[bool, bool, float, int]:
        return not (protected and protected[i]), not math.isnan(w[i]), -abs(w[i]) if w[i] == w[i] else 0.0, i

    kept = sorted(range(len(w)), key=rank)[:k]
    return [i in kept for i in range(len(w))]


@given(cases())
def test_kernel_reference_and_sort_keep_the_same_entries(case: tuple[list[float], list[bool] | None, int]) -> None:
    w, protected, k = case
    flat, guard = torch.tensor(w, dtype=torch.float32), None if protected is None else torch.tensor(protected)
    expected = naive(flat.tolist(), protected, k)
    assert top_k_mask(flat, guard, k).tolist() == expected
    changed = flat.clone()
    keep_top_k_(changed, guard, k)
    kept = torch.tensor(expected)
    assert torch.equal(changed.view(torch.int32), flat.masked_fill(~kept, 0.0).view(torch.int32))
    assert select_bisect.top_k_mask(flat, guard, k).tolist() == expected
    assert reference_top_k(flat, guard, k).tolist() == expected
    assert sum(expected) == k


@pytest.mark.parametrize("spread", ["normal", "rounded", "tiny", "equal"])
def test_large_vectors(spread: str) -> None:
    w = torch.randn(30_011)
    w = {"normal": w, "rounded": w.round(decimals=1), "tiny": w * 1e-41, "equal": torch.ones_like(w)}[spread]
    protected = torch.rand(len(w)) < 0.01
    for k in (int(protected.sum()), 1000, 30_010):
        for guard in (None, protected):
            kept = top_k_mask(w, guard, k)
            assert int(kept.sum()) == k
            assert torch.equal(kept, reference_top_k(w, guard, k))
            assert torch.equal(kept, select_bisect.top_k_mask(w, guard, k))


def test_ties_go_to_the_lower_index_after_protection() -> None:
    w = torch.tensor([1.0, -1.0, 1.0, 0.5, 1.0])
    assert top_k_mask(w, None, 2).tolist() == [True, True, False, False, False]
    guard = torch.tensor([False, False, False, True, False])
    assert top_k_mask(w, guard, 2).tolist() == [True, False, False, True, False]


def test_strided_views_and_leaves_that_require_gradients() -> None:
    w = torch.randn(100, requires_grad=True)
    assert torch.equal(top_k_mask(w, None, 9), reference_top_k(w.detach(), None, 9))
    halves, guards = torch.randn(100)[::2], (torch.rand(100) < 0.1)[::2]
    assert torch.equal(top_k_mask(halves, guards, 20), reference_top_k(halves, guards, 20))


def test_bisection_never_waits_for_the_device() -> None:
    """On torch's meta device nothing has a value, so whatever asked for one would fail."""
    w, guard = torch.empty(100, device="meta"), torch.empty(100, dtype=torch.bool, device="meta")
    assert select_bisect.top_k_mask(w, guard, 9).shape == (100,)
