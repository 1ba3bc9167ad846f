"""The k entries of largest |w| of a flat vector on any device, in plain torch, without a sort and without waiting for the device.

Reference: `train.sparsity.reference_top_k`; the CPU has a faster kernel (kernels.select_cpu). The bits of |w| are integers that
order like |w|; 31 halvings of the interval of thresholds, each one comparison and one count, leave the largest threshold that k
entries reach. Protected entries get a key above all others, NaN one above infinity. What lies above the threshold stays, of the
entries at it those with the lower index (METHOD D8). Every step is a device operation; no number comes back to the host.
"""

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

NAN, PROTECTED = 0x7F800001, 0x7F800002


def top_k_mask(w: Float32[Tensor, " n"], protected: Bool[Tensor, " n"] | None, k: int) -> Bool[Tensor, " n"]:
    """True at exactly k entries: all protected ones, then the largest |w|. Needs protected.sum() <= k <= n and 0 < k."""
    keys = (w.detach().contiguous().view(torch.int32) & 0x7FFFFFFF).clamp(max=NAN)
    if protected is not None:
        keys = keys.masked_fill(protected, PROTECTED)
    low = torch.zeros((), dtype=torch.int32, device=w.device)
    high = torch.full_like(low, PROTECTED + 1)
    for _ in range(31):
        middle = low + ((high - low) >> 1)
        enough = (keys >= middle).sum() >= k
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    above, tied = keys > low, keys == low
    return above | (tied & (tied.cumsum(0) <= k - above.sum()))
