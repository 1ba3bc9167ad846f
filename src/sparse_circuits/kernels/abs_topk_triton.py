"""AbsTopK on a GPU: one program per row, the row in registers, the k-th largest |x| by bisection on its bits.

Reference: `model.abs_topk.abs_topk_mask`; the same algorithm as the CPU kernel (kernels.abs_topk_cpu). Steps per row:
1. take the bits, strip the sign, let NaN count as infinity: integers that order like |x|;
2. 31 halvings (15 for 16-bit floats) of the interval of thresholds, each one count over the row, leave the largest that k
   entries reach;
3. keep what lies above it, of the entries at it those with the lower index (METHOD D8).
The gradient goes to kept entries only, by a mask of one byte per entry.

This module needs triton, so it is imported only where there is one and a GPU asks. Under TRITON_INTERPRET=1 the same kernel runs
on CPU tensors, which is how the tests compare it with the reference.
"""

# pyright: reportOperatorIssue=false
import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor

WIDEST = 65_536
"""Entries of the longest row that one program takes."""
INFINITY = {torch.float32: 0x7F800000, torch.bfloat16: 0x7F80, torch.float16: 0x7C00}
"""Bits of infinity, by dtype served."""


def serves(x: Tensor) -> bool:
    """Whether the kernel takes rows like those of x."""
    return x.dtype in INFINITY and 0 < x.shape[-1] <= WIDEST and x.numel() > 0


def abs_topk_forward(
    x: Float[Tensor, "rows width"], k: int
) -> tuple[Float[Tensor, "rows width"], Bool[Tensor, "rows width"]]:
    """x with all but its k entries of largest |x| per row set to zero, and which entries were kept. 0 < k < width."""
    x = x.detach().contiguous()
    rows, width = x.shape
    out, kept = torch.empty_like(x), torch.empty(x.shape, dtype=torch.bool, device=x.device)
    block = 1 << max(width - 1, 1).bit_length()
    warps = min(16, max(1, block // 256))
    settings = {"infinity": INFINITY[x.dtype], "wide": x.dtype == torch.float32, "block": block, "num_warps": warps}
    _keep_largest[(rows,)](x, out, kept.view(torch.uint8), width, k, **settings)
    return out, kept


@triton.jit
def _keep_largest(x_at, out_at, kept_at, width, k, infinity: tl.constexpr, wide: tl.constexpr, block: tl.constexpr):  # pyright: ignore
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, block)
    inside = column < width
    x = tl.load(x_at + row + column, mask=inside, other=0.0)
    if wide:
        bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    else:
        bits = x.to(tl.int16, bitcast=True).to(tl.int32) & 0x7FFF
    bits = tl.where(inside, tl.minimum(bits, infinity), -1)
    low = tl.max(bits, axis=0) * 0
    high = tl.max(bits, axis=0) + 1
    for _ in range(
        31 if wide else 15
    ):  # afterwards high == low + 1, and low is the largest threshold that k entries reach
        middle = low + ((high - low) >> 1)
        enough = tl.sum((bits >= middle).to(tl.int32), axis=0) >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    above = bits > low
    tied = bits == low
    room = k - tl.sum(above.to(tl.int32), axis=0)
    keep = above | (tied & (tl.cumsum(tied.to(tl.int32), axis=0) <= room))
    tl.store(out_at + row + column, tl.where(keep, x, 0.0), mask=inside)
    tl.store(kept_at + row + column, keep.to(tl.uint8), mask=inside)
