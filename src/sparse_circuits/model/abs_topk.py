"""AbsTopK: keep the k entries of largest |x| along the last axis, zero the rest; gradients reach kept entries only.

k = int(fraction * width), per token; k = 0 zeroes everything, k = width is the identity; ties go to the lower index
(METHOD 1a, D8). `abs_topk` chooses the fast path where one exists; all paths keep the same entries.
"""

import math
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_circuits.kernels import abs_topk_cpu


def kept_count(fraction: float, width: int) -> int:
    """Entries kept per token: the float product, truncated (RELEASE_FORMAT 1.6)."""
    return int(fraction * width)


def abs_topk(x: Float[Tensor, "*batch width"], k: int) -> Float[Tensor, "*batch width"]:
    """x with all but its k entries of largest |x| along the last axis set to zero.

    Raises ValueError unless 0 <= k <= width.
    """
    width = x.shape[-1]
    if not 0 <= k <= width:
        raise ValueError(f"AbsTopK with k={k} of width {width}; allowed: 0..{width}")
    if k == width:
        return x
    if k == 0:
        return torch.zeros_like(x)
    return _AbsTopK.apply(x, k)


def abs_topk_mask(x: Float[Tensor, "*batch width"], k: int) -> Bool[Tensor, "*batch width"]:
    """Which entries AbsTopK keeps: the plain-torch reference, on any device and dtype. Needs 0 < k <= width.

    NaN counts as infinity, so that it reaches the logits instead of vanishing.
    """
    size = x.abs()
    size = size.masked_fill(size.isnan(), math.inf)
    smallest = size.topk(k, sorted=True).values[..., -1:]
    above, tied = size > smallest, size == smallest
    return above | (tied & (tied.cumsum(-1) <= k - above.sum(-1, keepdim=True)))


class _AbsTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, k):  # pyright: ignore
        kernel = _forward_kernel(x)
        if kernel is None:
            kept = abs_topk_mask(x, k)
            out = torch.where(kept, x, 0)
        else:
            out, kept = kernel(x.reshape(-1, x.shape[-1]), k)
            out, kept = out.view(x.shape), kept.view(x.shape)
        ctx.save_for_backward(kept)
        return out

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore
        (kept,) = ctx.saved_tensors
        if _has_kernel(grad) and not torch.is_grad_enabled():  # enabled: create_graph, the gradient of a gradient
            width = grad.shape[-1]
            return abs_topk_cpu.abs_topk_backward(grad.reshape(-1, width), kept.view(-1, width)).view(grad.shape), None
        return torch.where(kept, grad, 0), None


def _forward_kernel(x: Tensor) -> Callable[[Tensor, int], tuple[Tensor, Tensor]] | None:
    """The fast path for tensors like x; None where only the reference serves."""
    if _has_kernel(x):
        return abs_topk_cpu.abs_topk_forward
    if x.is_cuda and not torch.compiler.is_compiling() and _triton_installed():
        from sparse_circuits.kernels import abs_topk_triton

        return abs_topk_triton.abs_topk_forward if abs_topk_triton.serves(x) else None
    return None


@cache
def _triton_installed() -> bool:
    return find_spec("triton") is not None


def _has_kernel(x: Tensor) -> bool:
    if torch.compiler.is_compiling():  # the compiler reads the reference, and no numba
        return False
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0
