"""RMSNorm on the CPU: x / sqrt(mean(x^2) + eps) * gain in two sweeps over the rows, and its gradients in one.

Reference: `model.block.Norm`, which torch computes one operation, and one sweep, at a time. With s the row's scale
    forward   y  = x * s * gain,                           s = 1 / sqrt(mean(x^2) + eps)
    backward  gx = s * (t - x * s^2 * mean(t * x)),        t = gy * gain;     g_gain = sum over rows of gy * x * s
Sums are taken in another order than torch's (compiled with reassociation), so results agree to rounding. The products of the
forward pass are not reordered: with `rms_scale`, which gives the same s, torch's own `x * s * gain` is the same bit for bit, so a
tap that replaces a recorded scale by itself changes nothing. The gain's gradient is summed per block of rows.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparse_circuits.kernels.compiled import njit_cached, over_rows

BLOCK = 64
"""Rows whose share of the gain's gradient is summed at once."""


def available(x: Tensor) -> bool:
    """Whether the kernel serves rows like those of x."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0 and not torch.compiler.is_compiling()


def rms_norm(x: Float32[Tensor, "*batch width"], gain: Float32[Tensor, " width"], eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * gain over the last axis."""
    return _RMSNorm.apply(x, gain, eps)


def rms_scale(x: Float32[Tensor, "*batch width"], eps: float) -> Float32[Tensor, "*batch 1"]:
    """1 / sqrt(mean(x^2) + eps) over the last axis: what `rms_norm` multiplies by."""
    return _RMSScale.apply(x, eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gain, eps):  # pyright: ignore
        rows = x.detach().reshape(-1, x.shape[-1]).contiguous()
        out, scale = torch.empty_like(rows), _scales_of(rows, eps)
        arrays = (rows.numpy(), scale.numpy(), out.numpy())
        over_rows(njit_cached(_apply), arrays, gain.detach().contiguous().numpy())
        ctx.save_for_backward(rows, gain, scale)
        return out.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # pyright: ignore
        rows, gain, scale = ctx.saved_tensors
        given = grad.detach().reshape(rows.shape).contiguous()
        out = torch.empty_like(rows)
        whole = len(rows) // BLOCK * BLOCK
        shares = []
        for part, size in ((slice(0, whole), BLOCK), (slice(whole, None), len(rows) - whole)):
            if not size or not len(rows[part]):
                continue
            share = torch.zeros(len(rows[part]) // size, rows.shape[1])
            blocks = (tensor[part].unflatten(0, (-1, size)).numpy() for tensor in (given, rows, scale, out))
            over_rows(njit_cached(_backward, True), (*blocks, share.numpy()), gain.detach().contiguous().numpy())
            shares.append(share.sum(0))
        return out.view(grad.shape), torch.stack(shares).sum(0), None


class _RMSScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, eps):  # pyright: ignore
        rows = x.detach().reshape(-1, x.shape[-1]).contiguous()
        scale = _scales_of(rows, eps).view(*x.shape[:-1], 1)
        ctx.save_for_backward(x, scale)
        return scale

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # pyright: ignore
        x, scale = ctx.saved_tensors
        return -grad * scale**3 / x.shape[-1] * x, None


def _scales_of(rows: Float32[Tensor, "rows width"], eps: float) -> Float32[Tensor, " rows"]:
    scale = torch.empty(len(rows))
    over_rows(njit_cached(_scales, True), (rows.numpy(), scale.numpy()), np.float32(eps))
    return scale


def _scales(x: Any, scale: Any, eps: Any) -> None:
    rows, width = x.shape
    for i in range(rows):
        total = np.float32(0)
        for j in range(width):
            total += x[i, j] * x[i, j]
        scale[i] = np.float32(1) / np.sqrt(total / np.float32(width) + eps)


def _apply(x: Any, scale: Any, out: Any, gain: Any) -> None:
    rows, width = x.shape
    for i in range(rows):
        for j in range(width):
            out[i, j] = x[i, j] * scale[i] * gain[j]


def _backward(grad: Any, x: Any, scale: Any, out: Any, share: Any, gain: Any) -> None:
    blocks, rows, width = x.shape
    for b in range(blocks):
        for i in range(rows):
            s = scale[b, i]
            dot = np.float32(0)
            for j in range(width):
                dot += grad[b, i, j] * gain[j] * x[b, i, j]
            back = s * s * dot / np.float32(width)
            for j in range(width):
                out[b, i, j] = s * (grad[b, i, j] * gain[j] - x[b, i, j] * back)
            for j in range(width):
                share[b, j] += grad[b, i, j] * x[b, i, j] * s
