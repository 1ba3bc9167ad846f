"""Fused attention with a sink against the explicit pattern: values, and gradients of q, k, v and the sink."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from sparse_circuits.kernels.sink_attention import available, sink_attention
from sparse_circuits.model.attention import attention_pattern

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw(tokens: int, heads: int = 3, width: int = 8, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Inputs:
    q, k, v = (scale * torch.randn(2, heads, tokens, width) for _ in range(3))
    leaves = (q, k, v, torch.linspace(-2, 3, heads))
    return tuple(leaf.to(dtype).requires_grad_() for leaf in leaves)


def explicit(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    """softmax over (scores, sink), sink column dropped; written out with exponentials."""
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
    visible = torch.arange(q.shape[2])[:, None] >= torch.arange(k.shape[2])
    mass = torch.where(visible, scores, -math.inf).exp()
    return mass @ v / (mass.sum(-1, keepdim=True) + sink.exp()[:, None, None])


def through_pattern(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    return attention_pattern(q, k, sink)[..., :-1] @ v


def gradients(attend: Callable[..., Tensor], inputs: Inputs, grad: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(attend(*inputs), inputs, grad)


@pytest.mark.parametrize("tokens", [1, 2, 7, 64, 130])
def test_values_and_gradients(tokens: int) -> None:
    inputs = draw(tokens)
    grad = torch.randn(2, 3, tokens, 8)
    precise = tuple(leaf.detach().double().requires_grad_() for leaf in inputs)
    expected, fused = explicit(*precise), sink_attention(*inputs)
    torch.testing.assert_close(fused, expected.float(), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(through_pattern(*inputs), fused, atol=2e-6, rtol=1e-5)
    exact = gradients(explicit, precise, grad.double())
    by_pattern = gradients(through_pattern, inputs, grad)
    for name, one, other, reference in zip(
        "qkvs", gradients(sink_attention, inputs, grad), by_pattern, exact, strict=True
    ):
        torch.testing.assert_close(
            one, reference.float(), atol=1e-5, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_the_gradient_of_the_sink_by_differences() -> None:
    q, k, v, sink = draw(5)
    grad = torch.randn(2, 3, 5, 8)
    found = gradients(sink_attention, (q, k, v, sink), grad)[3]
    for head in range(3):
        shift = torch.zeros(3)
        shift[head] = 1e-2
        difference = (
            (sink_attention(q, k, v, sink + shift) - sink_attention(q, k, v, sink - shift)) * grad
        ).sum() / 2e-2
        torch.testing.assert_close(found[head], difference.detach(), atol=1e-3, rtol=1e-3)


def test_large_scores_and_sinks_stay_finite() -> None:
    q, k, v, _ = draw(9, scale=30.0)
    for logit in (-80.0, 80.0):
        sink = torch.full((3,), logit, requires_grad=True)
        inputs, grad = (q, k, v, sink), torch.ones(2, 3, 9, 8)
        torch.testing.assert_close(sink_attention(*inputs), through_pattern(*inputs), atol=1e-4, rtol=1e-4)
        for one, other in zip(
            gradients(sink_attention, inputs, grad), gradients(through_pattern, inputs, grad), strict=True
        ):
            assert one.isfinite().all()
            torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-3)


def test_no_sink_is_a_sink_at_minus_infinity() -> None:
    q, k, v, _ = draw(6)
    grad, never = torch.randn(2, 3, 6, 8), torch.full((3,), -math.inf)
    without = torch.autograd.grad(sink_attention(q, k, v, None), (q, k, v), grad)
    at_minus_infinity = torch.autograd.grad(sink_attention(q, k, v, never), (q, k, v), grad)
    pattern = torch.autograd.grad(attention_pattern(q, k, None) @ v, (q, k, v), grad)
    for one, two, three in zip(without, at_minus_infinity, pattern, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(one, three, atol=1e-5, rtol=1e-5)


def test_strided_inputs_and_expanded_gradients() -> None:
    fused = torch.randn(2, 6, 3 * 24, requires_grad=True)  # heads as the model makes them: views of one tensor
    q, k, v = (part.unflatten(-1, (3, 8)).transpose(1, 2) for part in fused.chunk(3, -1))
    sink = torch.zeros(3)
    (one,) = torch.autograd.grad(sink_attention(q, k, v, sink).sum(), fused, retain_graph=True)
    (other,) = torch.autograd.grad(through_pattern(q, k, v, sink).sum(), fused)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_gradients_of_gradients_are_refused_not_wrong() -> None:
    q, k, v, sink = draw(4)
    (first,) = torch.autograd.grad(sink_attention(q, k, v, sink).pow(2).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_bfloat16_is_close() -> None:
    inputs = draw(32, dtype=torch.bfloat16)
    wide = tuple(leaf.detach().float() for leaf in inputs)
    torch.testing.assert_close(sink_attention(*inputs).float(), explicit(*wide), atol=3e-2, rtol=3e-2)
    grads = gradients(sink_attention, inputs, torch.ones(2, 3, 32, 8, dtype=torch.bfloat16))
    assert all(grad.dtype == torch.bfloat16 and grad.isfinite().all() for grad in grads)


def test_where_it_serves() -> None:
    assert available(torch.zeros(1))
    assert not available(torch.zeros(1, dtype=torch.float64))
    assert not available(torch.zeros(1, device="meta"))


def test_patterns_are_causal_and_sum_to_one_with_the_sink() -> None:
    q, k, _, sink = draw(6)
    pattern = attention_pattern(q, k, sink)
    assert pattern.shape == (2, 3, 6, 7)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(2, 3, 6))
    assert (pattern[..., :6].triu(1) == 0).all()
    assert (pattern[..., 6] > 0).all()
    last = attention_pattern(q[:, :, 4:], k, sink)  # two new queries behind four cached keys
    torch.testing.assert_close(last, pattern[:, :, 4:])


def test_an_empty_prompt_is_no_crash() -> None:
    """The fused kernel divides by the number of tokens; asked for none, the process would die."""
    assert not available(torch.zeros(1, 2, 0, 4))
    assert not available(torch.zeros(0, 2, 3, 4))
