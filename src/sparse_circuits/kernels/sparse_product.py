"""Products with frozen sparse weights on the CPU: only the nonzeros are multiplied, forward and backward.

Reference: `torch.nn.functional.linear`. A weight with one nonzero in 32 needs a 32nd of the multiplications, if they vectorise:
1. A block of `BLOCK` rows of x is turned, so that one channel's values for the block lie side by side.
2. Every output channel adds weight * channel over its nonzeros, `BLOCK` values at a time, which is one multiply-add per vector.
3. The block of results is turned back.
The gradient of x is the same product with the weight transposed; the weight itself gets none: it is frozen.

A weight is known to be frozen because somebody said so: inside `with frozen(module)` its sparse form is made once and used by
`sparse_product`. Whoever changes the weight within gets results of the weight as it was, so training never uses this.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from sparse_circuits.kernels.compiled import njit_cached, over_rows

BLOCK = 64
"""Rows that are multiplied at once: they and one result fit the first cache."""
DENSEST = 0.125
"""A weight with a larger share of nonzeros is multiplied as it is: the dense product then takes 1.4 times as long (at one nonzero
in 32, 3 to 4 times), at a quarter of nonzeros both take the same (docs/performance.md)."""


class Rows(NamedTuple):
    """The nonzeros of a matrix, row by row."""

    begins: np.ndarray
    """Int64[rows + 1]: where each row's entries begin."""
    columns: np.ndarray
    values: np.ndarray
    width: int
    """Columns of the matrix."""

    @classmethod
    def of(cls, matrix: Float32[Tensor, "rows columns"]) -> "Rows":
        found = matrix.nonzero()
        counts = torch.bincount(found[:, 0], minlength=len(matrix)) if len(found) else torch.zeros(len(matrix))
        begins = np.concatenate([[0], counts.cumsum(0).long().numpy()]).astype(np.int64)
        values = matrix[found[:, 0], found[:, 1]].contiguous()
        return cls(begins, found[:, 1].int().contiguous().numpy(), values.numpy(), matrix.shape[1])


class Form(NamedTuple):
    """A frozen weight: its rows for the forward pass, those of its transpose for the backward pass."""

    forward: Rows
    backward: Rows


_FROZEN: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within, the module's sparse matrices do not change, so products with them may skip their zeros. May be nested."""
    made = []
    for part in module.modules():
        if isinstance(part, nn.Linear) and part.weight not in _FROZEN and _worth_it(part.weight):
            matrix = part.weight.detach()
            _FROZEN[part.weight] = Form(Rows.of(matrix), Rows.of(matrix.T))
            made.append(part.weight)
    try:
        yield
    finally:
        for weight in made:
            del _FROZEN[weight]


def _worth_it(weight: Tensor) -> bool:
    fits = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() > 0
    return fits and int(weight.count_nonzero()) <= DENSEST * weight.numel()


def form_of(weight: Tensor, x: Tensor) -> Form | None:
    """The sparse form to multiply x by, if the weight has one and it is worth it."""
    if torch.compiler.is_compiling() or not len(_FROZEN):
        return None
    if x.dtype != torch.float32 or not x.numel() or torch.is_autocast_enabled("cpu"):
        return None
    if weight.requires_grad and torch.is_grad_enabled():  # whoever asks for its gradient does not take it for frozen
        return None
    return _FROZEN.get(weight)


def sparse_product(x: Float32[Tensor, "*batch n"], form: Form, bias: Tensor | None) -> Float32[Tensor, "*batch m"]:
    """weight @ x + bias; gradients go to x and to the bias."""
    return _SparseProduct.apply(x, form, bias)


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, form, bias):  # pyright: ignore
        ctx.form, ctx.shape, ctx.biased = form, x.shape, bias is not None
        return _multiplied(x, form.forward, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # pyright: ignore
        grad_x = _multiplied(grad, ctx.form.backward, None) if ctx.needs_input_grad[0] else None
        grad_bias = grad.flatten(0, -2).sum(0) if ctx.biased and ctx.needs_input_grad[2] else None
        return grad_x, None, grad_bias


def _multiplied(x: Tensor, rows: Rows, bias: Tensor | None) -> Tensor:
    given = x.detach().reshape(-1, rows.width).contiguous()
    outputs = len(rows.begins) - 1
    out = torch.empty(len(given), outputs)
    start = np.zeros(outputs, np.float32) if bias is None else bias.detach().float().contiguous().numpy()
    over_rows(njit_cached(_product), (out.numpy(), given.numpy()), rows.begins, rows.columns, rows.values, start)
    return out.view(*x.shape[:-1], outputs)


def _product(out: Any, x: Any, begins: Any, columns: Any, values: Any, start: Any) -> None:
    rows, width = x.shape
    outputs = len(start)
    turned = np.empty((width, BLOCK), np.float32)
    total = np.empty((outputs, BLOCK), np.float32)
    for first in range(0, rows, BLOCK):
        size = min(BLOCK, rows - first)
        for i in range(size):
            for j in range(width):
                turned[j, i] = x[first + i, j]
        for o in range(outputs):
            row = total[o]
            for i in range(BLOCK):
                row[i] = start[o]
            for entry in range(begins[o], begins[o + 1]):
                weight, channel = values[entry], turned[columns[entry]]
                for i in range(BLOCK):
                    row[i] += weight * channel[i]
        for i in range(size):
            for o in range(outputs):
                out[first + i, o] = total[o, i]
