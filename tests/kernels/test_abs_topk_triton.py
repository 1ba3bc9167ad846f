"""The GPU kernel of AbsTopK against the reference: in triton's interpreter, on CPU tensors, in a process of its own.

The interpreter has to be chosen before triton is imported, hence the process. On a GPU the compiled kernel is compared too.
"""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from sparse_circuits.model.abs_topk import abs_topk, abs_topk_mask

DRAWN = """
import math, random
import torch
from sparse_circuits.kernels.abs_topk_triton import abs_topk_forward
from sparse_circuits.model.abs_topk import abs_topk_mask

VALUES = (0.0, -0.0, 1.0, -1.0, 1.0000001, 2.5, -2.5, 1e-45, 1e-40, 3.4e38, math.inf, -math.inf, math.nan)
draw = random.Random(0)
for case in range(120):
    dtype = draw.choice((torch.float32, torch.bfloat16, torch.float16))
    width, rows = draw.choice((2, 3, 7, 31, 32, 33, 100, 257)), draw.randint(1, 3)
    drawn = [draw.choice(VALUES) if draw.random() < 0.5 else draw.gauss(0, 1) for _ in range(rows * width)]
    x, k = torch.tensor(drawn).view(rows, width).to(dtype), draw.randint(1, width - 1)
    if case % 3 == 0:
        x = x.t().contiguous().t()  # strided
    out, kept = abs_topk_forward(x, k)
    expected = abs_topk_mask(x, k)
    assert torch.equal(kept, expected), (case, dtype, width, k)
    assert kept.sum(-1).eq(k).all()
    wanted = torch.where(expected, x, 0).contiguous()
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(out.isnan(), wanted.isnan())  # the interpreter may give NaN another payload
    same = out.view(bits) == wanted.view(bits)
    assert (same | wanted.isnan()).all(), (case, dtype, width, k)
print("same")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed on this platform")
def test_the_interpreted_kernel_keeps_the_same_entries() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", DRAWN], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "same", done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("width", [3, 256, 1000, 8192])
def test_on_a_gpu(dtype: torch.dtype, width: int) -> None:
    x = torch.randn(64, width, device="cuda").to(dtype)
    x[::7] = x[::7].round()
    x.requires_grad_()
    out = abs_topk(x, width // 3)
    kept = abs_topk_mask(x.detach(), width // 3)
    assert torch.equal(out, torch.where(kept, x, 0))
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(grad != 0, kept)
