"""AbsTopK by three routes: the kernel, the plain-torch reference and a sort in plain Python, bit for bit."""

import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparse_circuits.kernels.abs_topk_cpu import abs_topk_backward, abs_topk_forward
from sparse_circuits.model.abs_topk import abs_topk, abs_topk_mask, kept_count

# few distinct values, so that ties are the rule; signed zeros, subnormals, the ends of float32
VALUES = (0.0, -0.0, 1.0, -1.0, 1.0000001, 2.5, -2.5, 1e-45, -1e-45, 1e-40, 3.4e38, -3.4e38, math.inf, -math.inf)


@st.composite
def rows_and_k(draw: st.DrawFn, values: tuple[float, ...] = VALUES) -> tuple[list[list[float]], int]:
    width = draw(st.integers(2, 20))
    number = st.one_of(st.sampled_from(values), st.floats(width=32, allow_nan=False))
    rows = draw(st.lists(st.lists(number, min_size=width, max_size=width), min_size=1, max_size=4))
    return rows, draw(st.integers(1, width - 1))


def naive(row: list[float], k: int) -> list[bool]:
    """Stable sort by falling size: ties stay in order of index."""
    order = sorted(range(len(row)), key=lambda i: -abs(row[i]))
    return [i in order[:k] for i in range(len(row))]


def bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int32)


@given(rows_and_k())
def test_kernel_reference_and_sort_keep_the_same_entries(case: tuple[list[list[float]], int]) -> None:
    rows, k = case
    x = torch.tensor(rows, dtype=torch.float32)
    expected = torch.tensor([naive(row, k) for row in x.tolist()])
    out, kept = abs_topk_forward(x, k)
    assert torch.equal(kept, expected)
    assert torch.equal(abs_topk_mask(x, k), expected)
    assert torch.equal(bits(out), bits(torch.where(expected, x, 0.0)))
    assert torch.equal(bits(abs_topk(x, k)), bits(out))


@given(rows_and_k(values=(*VALUES, math.nan)))
def test_nan_counts_as_infinite_and_is_never_dropped_quietly(case: tuple[list[list[float]], int]) -> None:
    rows, k = case
    x = torch.tensor(rows, dtype=torch.float32)
    expected = torch.tensor([naive([math.inf if math.isnan(v) else v for v in row], k) for row in x.tolist()])
    assert torch.equal(abs_topk_forward(x, k)[1], expected)
    assert torch.equal(abs_topk_mask(x, k), expected)


def test_every_nan_of_float32_is_one_size() -> None:
    """The largest NaN has all bits set: adding one to them would overflow."""
    patterns = torch.tensor([[0x7FFFFFFF, 0x7F800001, 0x3F800000, 0x7FC00000], [-1, 0, 1, 2]], dtype=torch.int32)
    assert abs_topk_forward(patterns.view(torch.float32), 2)[1].tolist() == [
        [True, True, False, False],
        [True, False, False, True],
    ]


@pytest.mark.parametrize("width", [2, 3, 64, 257, 1000])
def test_random_rows_of_many_widths(width: int) -> None:
    x = torch.randn(50, width)
    x[::5] = x[::5].round()  # many ties
    x[7] = 0.0
    for k in sorted({1, width // 4 or 1, width - 1}):
        out, kept = abs_topk_forward(x, k)
        assert (kept.sum(-1) == k).all()
        assert torch.equal(kept, abs_topk_mask(x, k))
        assert torch.equal(kept, torch.tensor([naive(row, k) for row in x.tolist()]))
        assert torch.equal(out, torch.where(kept, x, 0.0))


def test_ties_go_to_the_lower_index() -> None:
    x = torch.tensor([[-2.0, 2.0, 1.0, -2.0, 2.0]])
    assert abs_topk(x, 3).tolist() == [[-2.0, 2.0, 0.0, -2.0, 0.0]]
    assert abs_topk_mask(torch.zeros(1, 4), 2).tolist() == [[True, True, False, False]]


def test_no_entries_and_all_entries() -> None:
    x = torch.randn(3, 5)
    assert torch.equal(abs_topk(x, 0), torch.zeros(3, 5))
    assert abs_topk(x, 5) is x
    assert torch.equal(abs_topk_mask(x, 5), torch.ones(3, 5, dtype=torch.bool))
    for k in (-1, 6):
        with pytest.raises(ValueError, match=rf"^AbsTopK with k={k} of width 5; allowed: 0\.\.5$"):
            abs_topk(x, k)


@pytest.mark.parametrize(
    ("fraction", "width", "kept"),
    [(0.29, 100, 28), (0.062, 256, 15), (0.25, 128, 32), (1.0, 7, 7), (0.0, 7, 0), (0.999, 3, 2), (0.05, 12, 0)],
)
def test_kept_count_truncates_the_float_product(fraction: float, width: int, kept: int) -> None:
    assert kept_count(fraction, width) == kept


def test_shapes_and_strides() -> None:
    x = torch.randn(4, 6, 10)
    expected = torch.where(abs_topk_mask(x, 3), x, 0.0)
    assert torch.equal(abs_topk(x, 3), expected)
    assert torch.equal(abs_topk(x.transpose(0, 1), 3), expected.transpose(0, 1))
    wide = torch.randn(4, 6, 30)
    part = wide.chunk(3, -1)[1]
    assert not part.is_contiguous()
    assert torch.equal(abs_topk(part, 3), abs_topk(part.clone(), 3))
    flipped = torch.randn(10, 8).T
    assert torch.equal(abs_topk(flipped, 3), abs_topk(flipped.contiguous(), 3))
    assert torch.equal(abs_topk(x[0, 0], 3), expected[0, 0])
    assert torch.equal(abs_topk(x[:1, :1].expand(4, 6, 10), 3), expected[:1, :1].expand(4, 6, 10))
    assert abs_topk(torch.zeros(0, 10), 3).shape == (0, 10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_fall_back_to_the_reference(dtype: torch.dtype) -> None:
    x = torch.randn(20, 33).to(dtype)
    out = abs_topk(x.requires_grad_(), 8)
    assert out.dtype == dtype
    expected = torch.tensor([naive(row, 8) for row in x.detach().double().tolist()])
    assert torch.equal(out.detach(), torch.where(expected, x.detach(), 0))
    out.backward(torch.full_like(out, 2.0))
    assert torch.equal(x.grad, 2.0 * expected.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_reach_kept_entries_only_kept_zeros_included(dtype: torch.dtype) -> None:
    x = torch.tensor([[0.0, 3.0, 0.0, 0.0, -1.0]], dtype=dtype, requires_grad=True)  # keeps 3, -1 and the first zero
    grad = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]], dtype=dtype)
    abs_topk(x, 3).backward(grad)
    assert x.grad.tolist() == [[1.0, 2.0, 0.0, 0.0, 16.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_that_are_infinite_strided_or_expanded(dtype: torch.dtype) -> None:
    x = torch.tensor([[5.0, 1.0, 4.0], [0.5, 2.0, 3.0]], dtype=dtype, requires_grad=True)
    abs_topk(x, 2).backward(torch.full((2, 3), math.inf, dtype=dtype))
    assert x.grad.tolist() == [[math.inf, 0.0, math.inf], [0.0, math.inf, math.inf]]  # not inf * 0
    x.grad = None
    abs_topk(x, 2).sum().backward()  # an expanded gradient
    assert x.grad.tolist() == [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    x.grad = None
    (abs_topk(x, 2).T * torch.tensor([[1.0], [2.0], [3.0]])).sum().backward()  # a transposed one
    assert x.grad.tolist() == [[1.0, 0.0, 3.0], [0.0, 2.0, 3.0]]


def test_gradients_of_gradients() -> None:
    x = torch.tensor([[5.0, 1.0, 4.0]], requires_grad=True)
    (first,) = torch.autograd.grad(abs_topk(x, 2).pow(3).sum(), x, create_graph=True)
    assert first.tolist() == [[75.0, 0.0, 48.0]]
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.tolist() == [[30.0, 0.0, 24.0]]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def test_sharing_rows_among_threads_changes_nothing() -> None:
    x, grad = torch.randn(2003, 301), torch.randn(2003, 301)  # large enough to be shared, and not evenly
    with threads(1):
        alone, kept = abs_topk_forward(x, 75)
        alone_grad = abs_topk_backward(grad, kept)
    with threads(4):
        assert torch.equal(abs_topk_forward(x, 75)[0], alone)
        assert torch.equal(abs_topk_backward(grad, kept), alone_grad)
    assert torch.equal(alone, torch.where(abs_topk_mask(x, 75), x, 0.0))
    assert torch.equal(alone_grad, torch.where(kept, grad, 0.0))


def test_many_threads_may_call_at_once() -> None:
    x = torch.randn(2000, 300)
    expected, found = abs_topk_forward(x, 75)[0], []
    callers = [threading.Thread(target=lambda: found.append(abs_topk_forward(x, 75)[0])) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 6
    assert all(torch.equal(out, expected) for out in found)


FORK = """
import os, torch
from sparse_circuits.model.abs_topk import abs_topk
torch.set_num_threads(2)
x = torch.randn(4000, 200)
expected = abs_topk(x, 50)
child = os.fork()
if child == 0:
    torch.set_num_threads(2)
    os._exit(0 if torch.equal(abs_topk(x, 50), expected) else 3)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
"""


@pytest.mark.parametrize("writable", [True, False], ids=["cached", "no_cache_folder"])
def test_a_forked_process_and_one_without_a_cache_folder(writable: bool, tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "src"
    code = FORK
    if not writable:  # as numba does where neither the package nor the user's folder can be written
        code = "import numba.core.caching as c; c.CacheImpl._locator_classes = []\n" + FORK
    environment = {**os.environ, "PYTHONPATH": str(source), "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert bool(list(tmp_path.rglob("*.nbc"))) == writable


def test_the_compiled_kernel_is_found_again(tmp_path: Path) -> None:
    """A second process must not compile again: the number of cached files stays."""
    source = Path(__file__).parents[2] / "src"
    code = "import torch; from sparse_circuits.model.abs_topk import abs_topk; abs_topk(torch.randn(4, 8), 2)"
    environment = {**os.environ, "PYTHONPATH": str(source), "NUMBA_CACHE_DIR": str(tmp_path)}
    counts = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
        counts.append(len(list(tmp_path.rglob("*.nbc"))))
    assert counts == [1, 1]
