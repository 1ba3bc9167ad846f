"""The k entries of largest |w| of a flat vector on the CPU, without sorting it.

Reference: `train.sparsity.reference_top_k`. Radix selection on the bits of |w| (integers that order like the values):
1. a histogram of the top 11 bits finds the bucket that holds the k-th largest entry;
2. the same with the next 10 and the last 10 bits inside that bucket gives its exact value;
3. everything above it is kept, of the tied entries those with the lower index (METHOD D8).
NaN counts as larger than infinity, and all NaN as equal. numba is imported and the kernel compiled at first use.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from sparse_circuits.kernels.compiled import njit_cached


def top_k_mask(w: Float32[Tensor, " n"], protected: Bool[Tensor, " n"] | None, k: int) -> Bool[Tensor, " n"]:
    """True at exactly k entries: all protected ones, then the largest |w|. Needs protected.sum() <= k <= n."""
    w = w.detach().contiguous()
    kept = torch.empty(w.shape, dtype=torch.bool)
    guard = torch.zeros(0, dtype=torch.bool) if protected is None else protected.contiguous()
    njit_cached(_top_k)(w.view(torch.int32).numpy(), guard.numpy(), k, kept.numpy())
    return kept


def keep_top_k_(w: Float32[Tensor, " n"], protected: Bool[Tensor, " n"] | None, k: int) -> None:
    """Zeroes all other entries of w, in place. w is contiguous."""
    guard = torch.zeros(0, dtype=torch.bool) if protected is None else protected.contiguous()
    flat = w.detach()
    njit_cached(_top_k)(flat.view(torch.int32).numpy(), guard.numpy(), k, np.empty(0, np.bool_))


def _top_k(bits: Any, guard: Any, k: int, kept: Any) -> None:
    n, guarded, in_place = bits.shape[0], guard.shape[0] > 0, kept.shape[0] == 0
    if guarded:
        for i in range(n):
            k -= guard[i]
    prefix, left, above_bits = np.int64(0), k, 31
    counts = np.zeros(2048, np.int64)
    for digit in (11, 10, 10):
        shift = above_bits - digit
        counts[:] = 0
        for i in range(n):
            key = min(np.int64(bits[i]) & 0x7FFFFFFF, 0x7F800001)
            if key >> above_bits == prefix and not (guarded and guard[i]):
                counts[(key >> shift) & ((1 << digit) - 1)] += 1
        bucket = (1 << digit) - 1
        while bucket > 0 and counts[bucket] < left:
            left -= counts[bucket]
            bucket -= 1
        prefix, above_bits = (prefix << digit) | bucket, shift
    for i in range(n):
        key = min(np.int64(bits[i]) & 0x7FFFFFFF, 0x7F800001)
        keep = key > prefix
        if guarded and guard[i]:
            keep = True
        elif key == prefix and left > 0:
            keep = True
            left -= 1
        if in_place:
            if not keep:
                bits[i] = 0
        else:
            kept[i] = keep
