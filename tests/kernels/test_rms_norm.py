"""The norm kernel against torch's own operations: values, both gradients, rows that do not fill a block, extremes."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparse_circuits.kernels.compiled import side_by_side
from sparse_circuits.kernels.rms_norm_cpu import BLOCK, available, rms_norm, rms_scale
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.taps import Record
from sparse_circuits.model.transformer import SparseTransformer

EPS = 2.0**-23


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def plain(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * gain


def compare(x: Tensor, gain: Tensor, weight: Tensor) -> None:
    """Against float64, relative to the largest entry."""
    one, two = (tensor.clone().requires_grad_() for tensor in (x, gain))
    wide = [tensor.double().requires_grad_() for tensor in (x, gain)]
    out, expected = rms_norm(one, two, EPS), plain(*wide, EPS)
    grads = torch.autograd.grad((out * weight).sum(), (one, two))
    wanted = torch.autograd.grad((expected * weight.double()).sum(), wide)
    factor = torch.rsqrt(x.double().square().mean(-1) + EPS).max() * gain.abs().max() * weight.abs().max()
    sizes = (
        expected.detach().abs().max(),
        factor,
        wanted[1].abs().max(),
    )  # the gradient of x is a difference of terms of that size
    for found, exact, size in zip((out, *grads), (expected, *wanted), sizes, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=2e-5, atol=4e-6 * float(size) + 1e-30)


@given(
    rows=st.integers(1, 3 * BLOCK),
    width=st.integers(1, 70),
    scale=st.sampled_from([1e-6, 1e-2, 1.0, 1e4]),
    seed=st.integers(0, 9),
)
def test_values_and_gradients(rows: int, width: int, scale: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    x, weight = (torch.randn(rows, width, generator=draw) for _ in range(2))
    compare(scale * x, torch.randn(width, generator=draw), weight)


@pytest.mark.parametrize("shape", [(32, 128, 256), (1, 1, 5), (7, 3, 2, 9), (BLOCK, 8), (BLOCK + 1, 8)])
def test_shapes(shape: tuple[int, ...]) -> None:
    compare(torch.randn(shape), torch.randn(shape[-1]), torch.randn(shape))


def test_strided_rows_zeros_and_no_numbers() -> None:
    x = torch.randn(6, 20)[:, ::2]
    compare(x, torch.randn(10), torch.randn(6, 10))
    assert torch.equal(rms_norm(torch.zeros(2, 3), torch.ones(3), EPS), torch.zeros(2, 3))
    for bad in (math.nan, math.inf):
        out = rms_norm(torch.tensor([[1.0, bad], [3.0, 4.0]]), torch.ones(2), EPS)
        assert out[0].isnan().any() and out[1].isfinite().all()


def test_who_is_served() -> None:
    assert available(torch.zeros(1))
    assert not available(torch.zeros(1, dtype=torch.float64)) and not available(torch.zeros(0))
    assert not available(torch.zeros(1, device="meta"))


def test_the_model_leaves_the_kernel_where_somebody_asks_for_the_scale() -> None:
    model = SparseTransformer(ModelConfig(vocab_size=9, n_layer=1, d_model=8, n_head=2, d_head=4)).initialize(0)
    tokens, seen = torch.arange(9)[None], Record({"0.attn.norm_scale", "0.mlp.norm_scale", "final_norm_scale"})
    assert torch.equal(model(tokens, tap=seen).view(torch.int32), model(tokens).view(torch.int32))
    assert len(seen.acts) == 3


def test_the_scale_and_its_gradient() -> None:
    x = torch.randn(5, 7, 9, requires_grad=True)
    wide, weight = x.detach().double().requires_grad_(), torch.randn(5, 7, 1)
    scale, expected = rms_scale(x, EPS), torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)
    torch.testing.assert_close(scale.double(), expected)
    (found,) = torch.autograd.grad((scale * weight).sum(), x)
    (exact,) = torch.autograd.grad((expected * weight.double()).sum(), wide)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


def test_jobs_side_by_side_all_run_and_raise() -> None:
    done: list[int] = []
    side_by_side([lambda i=i: done.append(i) for i in range(5)])
    assert sorted(done) == list(range(5))
    side_by_side([])
    with pytest.raises(ZeroDivisionError):
        side_by_side([lambda: None, lambda: 1 / 0])  # pyright: ignore
