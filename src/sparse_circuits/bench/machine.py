"""What this machine can do at most, measured: multiply-adds of a large matrix product, bytes of a large copy.

A roofline: a step that needs F operations and moves at least M bytes cannot take less than max(F / ceiling of operations,
M / ceiling of bytes) seconds. Both ceilings are taken in the same run, by the same library, with the same number of threads.
"""

import platform
from dataclasses import dataclass

import torch

from sparse_circuits.bench.result import seconds
from sparse_circuits.model.config import ModelConfig

SIDE = 2048
"""Of the square matrices whose product gives the ceiling."""
REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Of one device, fp32 on a CPU, the given dtype on a GPU."""

    operations: float
    """Per second; a multiply-add counts as two."""
    bytes: float
    """Read and written per second by a copy."""


def measure_ceilings(device: torch.device, dtype: torch.dtype = torch.float32) -> Ceilings:
    """The best of a few repetitions of each."""
    one = torch.randn(SIDE, SIDE, device=device).to(dtype)
    other, out = torch.randn_like(one), torch.empty_like(one)
    large = torch.zeros(64 * 2**20 // 4, device=device)
    target = torch.empty_like(large)

    def product() -> None:
        torch.mm(one, other, out=out)
        synchronize(device)

    def copy() -> None:
        target.copy_(large)
        synchronize(device)

    product()
    copy()
    return Ceilings(
        operations=2 * SIDE**3 / min(seconds(product) for _ in range(REPEATS)),
        bytes=2 * large.nbytes / min(seconds(copy) for _ in range(REPEATS)),
    )


def synchronize(device: torch.device) -> None:
    """Waits for a GPU; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_operations(config: ModelConfig, batch: int, tokens: int) -> float:
    """Multiply-adds (as two) of the matrix products of one training step: forward once, backward twice.

    Dense products: weights that are zero are multiplied too. Attention counts the lower triangle.
    """
    d, width = config.d_model, config.d_attn
    per_token = config.n_layer * (3 * d * width + width * d + 2 * d * config.mlp_width) + d * config.vocab_size
    attention = config.n_layer * 2 * width * (tokens + 1) / 2
    return 3.0 * 2 * batch * tokens * (per_token + attention)


def step_bytes(config: ModelConfig, parameters: int, batch: int, tokens: int) -> float:
    """Bytes that one step must move at least, fp32: weights, gradients and Adam's two moments read and written once, and the
    activations that backward needs (what every matrix product reads, and the logits) written and read once."""
    d = config.d_model
    per_token = (
        config.n_layer * (3 * d + 3 * config.d_attn + config.d_attn + 2 * config.mlp_width) + 2 * config.vocab_size
    )
    return 4.0 * (2 * 4 * parameters + 2 * batch * tokens * per_token)


def describe(device: torch.device) -> str:
    """The machine in one line."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _cpuinfo() -> list[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return file.read().splitlines()
    except OSError:
        return []
