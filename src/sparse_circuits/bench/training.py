"""Training benchmarks: AbsTopK, the projection, and whole steps, sparse against dense and against straightforward torch.

All pairs run interleaved in one process. The dense step of the same shape is the faster of two: this library's model with
sparsity off, and stock torch (bench.plain). Sparsity is at its target, as in the second half of training.
"""

from collections.abc import Callable, Iterator
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_circuits.bench.machine import measure_ceilings, step_bytes, step_operations, synchronize
from sparse_circuits.bench.plain import PlainAdam, PlainTransformer, plain_abs_topk
from sparse_circuits.bench.result import Measured, interleaved, seconds, spread
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.abs_topk import abs_topk
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.train.optimizer import OptimizerConfig, SparseAdam
from sparse_circuits.train.sparsity import SparsityConfig, project, rules

STEPS = 1000
"""Length of the pretended training; the timed steps lie behind the anneal."""
CPU = torch.device("cpu")
CPU_SHAPE = ModelConfig(vocab_size=2048, n_layer=4, d_model=256, n_head=16, d_head=16, block_size=128, afrac=0.25)
GPU_SHAPE = ModelConfig(vocab_size=2048, n_layer=8, d_model=1024, n_head=64, d_head=16, block_size=256, afrac=0.25)
SPARSITY = SparsityConfig(fraction=1 / 16)
DENSE = SparsityConfig(fraction=1.0, min_alive=0)
OPTIMIZER = OptimizerConfig(lr=1e-3)
TOKENS = {"cpu": 4096, "cuda": 65_536}

Step = Callable[[], None]


def bench_abs_topk(device: torch.device = CPU, repeats: int = 9) -> Iterator[Measured]:
    """Forward and backward against stock topk + scatter, on the activations of one layer."""
    for width in (256, 1024, 2048):
        x = torch.randn(TOKENS[device.type], width, device=device, requires_grad=True)
        for name, grad in (("forward", None), ("forward and backward", torch.randn_like(x))):
            fast, plain = (_abs_topk_call(function, x, grad) for function in (abs_topk, plain_abs_topk))
            ours, theirs = interleaved(fast, plain, repeats)
            yield Measured(
                name=f"AbsTopK {name}, width {width}",
                ours=1e3 * median(ours),
                theirs=1e3 * median(theirs),
                unit="ms",
                theirs_is="topk + scatter",
                spread=spread(ours),
            )


def _abs_topk_call(function: Callable[[Tensor, int], Tensor], x: Tensor, grad: Tensor | None) -> Step:
    def run() -> None:
        out = function(x, x.shape[1] // 4)
        if grad is not None:
            torch.autograd.grad(out, x, grad)
        synchronize(x.device)

    run()
    return run


def bench_step(device: torch.device = CPU, progress: Progress = SILENT, repeats: int = 9) -> Iterator[Measured]:
    """Whole training steps, the projection's share of ours, and how near the step is to what the machine can do."""
    config = GPU_SHAPE if device.type == "cuda" else CPU_SHAPE
    tokens = TOKENS[device.type]
    progress.say(f"training steps of {tokens:,} tokens: d_model {config.d_model}, {config.n_layer} layers")
    sides = {
        "sparse": ours_step(config, SPARSITY, device),
        "plain": plain_step(config, SPARSITY, device),
        "dense": ours_step(config.replace(afrac=None), DENSE, device),
        "plain dense": plain_step(config.replace(afrac=None), DENSE, device),
    }
    for step in sides.values():  # compile, allocate, touch the moments
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, step in sides.items():
            times[name].append(seconds(step))
    middle = {name: median(found) for name, found in times.items()}
    faster = min(("dense", "plain dense"), key=lambda name: middle[name])
    ours = {"spread": spread(times["sparse"]), "unit": "ms", "ours": 1e3 * middle["sparse"]}
    label = "ours" if faster == "dense" else "stock torch"
    yield Measured(name="sparse step", theirs=1e3 * middle[faster], theirs_is=f"dense step, {label}", **ours)
    yield Measured(
        name="tokens per second", ours=tokens / middle["sparse"], theirs=tokens / middle["plain"], unit="1/s",
        theirs_is="straightforward torch", spread=spread(times["sparse"]),
    )  # fmt: skip
    yield _projection(config, device, 1e3 * middle["sparse"], repeats)
    yield _roofline(config, device, middle["sparse"])


def _projection(config: ModelConfig, device: torch.device, step: float, repeats: int) -> Measured:
    model = SparseTransformer(config).initialize(0).to(device)
    todo = rules(model, SPARSITY)

    def run() -> None:
        project(model, SPARSITY, todo, 1.0)
        synchronize(device)

    nudge(model)
    run()
    times = []
    for _ in range(repeats):
        nudge(model)  # a step moves every weight a little, zeros too
        times.append(seconds(run))
    ours = 1e3 * median(times)
    return Measured(
        name="projection", ours=ours, theirs=step, unit="ms", theirs_is="the whole step", spread=spread(times)
    )


@torch.no_grad()
def nudge(model: nn.Module) -> None:
    """Moves every weight as an optimizer step would."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=1e-4)


def _roofline(config: ModelConfig, device: torch.device, step: float) -> Measured:
    ceilings = measure_ceilings(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    batch = TOKENS[device.type] // config.block_size
    parameters = sum(p.numel() for p in SparseTransformer(config).parameters())
    operations = step_operations(config, batch, config.block_size)
    moved = step_bytes(config, parameters, batch, config.block_size)
    least = max(operations / ceilings.operations, moved / ceilings.bytes)
    told = (
        f"least time: {operations / 1e9:.0f} Gop at {ceilings.operations / 1e9:.0f} Gop/s, "
        f"{moved / 1e9:.2f} GB at {ceilings.bytes / 1e9:.1f} GB/s"
    )
    return Measured(name="step over roofline", ours=1e3 * step, theirs=1e3 * least, unit="ms", theirs_is=told)


def batches(config: ModelConfig, device: torch.device) -> list[Tensor]:
    """A few batches [B, T + 1] of random tokens."""
    generator = torch.Generator().manual_seed(0)
    rows = TOKENS[device.type] // config.block_size
    shape = (rows, config.block_size + 1)
    return [torch.randint(config.vocab_size, shape, generator=generator).to(device) for _ in range(4)]


def ours_step(config: ModelConfig, sparsity: SparsityConfig, device: torch.device) -> Step:
    """A whole step of this library."""
    model = SparseTransformer(config).initialize(0).to(device)
    return _stepper(model, SparseAdam(model, OPTIMIZER, sparsity), config, device)


def plain_step(config: ModelConfig, sparsity: SparsityConfig, device: torch.device) -> Step:
    """A whole step of straightforward torch, from the same weights."""
    model = PlainTransformer(config)
    model.load_state_dict(SparseTransformer(config).initialize(0).state_dict())
    model.to(device)
    return _stepper(model, PlainAdam(model, OPTIMIZER, sparsity), config, device)


def _stepper(model: nn.Module, optimizer: SparseAdam | PlainAdam, config: ModelConfig, device: torch.device) -> Step:
    data, done = batches(config, device), [STEPS // 2]

    def step() -> None:
        batch = data[done[0] % len(data)]
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(batch[:, :-1])
        F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten()).backward()
        done[0] += 1
        optimizer.step(done[0], STEPS)
        synchronize(device)

    return step
