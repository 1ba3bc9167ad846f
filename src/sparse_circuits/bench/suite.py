"""The benchmarks by name, and their table."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from sparse_circuits.bench.ground_truth import Recovered, bench_ground_truth, recovered_table
from sparse_circuits.bench.loading import bench_loading
from sparse_circuits.bench.machine import describe
from sparse_circuits.bench.pruning import bench_pruning
from sparse_circuits.bench.result import Measured
from sparse_circuits.bench.training import bench_abs_topk, bench_step
from sparse_circuits.log import SILENT, Progress

Line = Measured | Recovered
Benchmark = Callable[[torch.device, str, Progress], Iterator[Line]]
BENCHMARKS: Mapping[str, Benchmark] = {
    "abs-topk": lambda device, model, progress: bench_abs_topk(device),  # noqa: ARG005 (one signature for all)
    "step": lambda device, model, progress: bench_step(device, progress),  # noqa: ARG005
    "pruning": lambda device, model, progress: bench_pruning(model, progress),  # noqa: ARG005
    "loading": lambda device, model, progress: bench_loading(progress=progress),  # noqa: ARG005
    "ground-truth": lambda device, model, progress: bench_ground_truth(progress),  # noqa: ARG005
}
QUICK = ("abs-topk", "step")
"""What runs when nothing is named: under a minute, no files."""


def run_benchmarks(
    names: Sequence[str] = (), *, model: str, device: str = "cpu", progress: Progress = SILENT
) -> tuple[Line, ...]:
    """The benchmarks named, or the quick ones. Raises ValueError for an unknown name."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise ValueError(f"unknown benchmark {unknown[0]!r}; allowed: {', '.join(BENCHMARKS)}")
    found: list[Line] = []
    for name in names or QUICK:
        progress.say(f"benchmark {name}")
        found.extend(BENCHMARKS[name](torch.device(device), model, progress))
    return tuple(found)


def table(measured: Sequence[Line], device: str = "cpu") -> str:
    """The machine, then one line per measurement; what was recovered of known models in a table of its own."""
    times = [line for line in measured if isinstance(line, Measured)]
    recovered = [line for line in measured if isinstance(line, Recovered)]
    rows = [describe(torch.device(device))]
    if times:
        rows += _times(times)
    if recovered:
        rows.append(recovered_table(recovered))
    return "\n".join(rows)


def _times(measured: Sequence[Measured]) -> list[str]:
    width = max(len(line.name) for line in measured)
    rows = [f"{'':{width}}  {'ours':>10}  {'theirs':>10}  {'ratio':>6}  spread  unit  against"]
    for line in measured:
        figures = f"{line.ours:>10.4g}  {line.theirs:>10.4g}  {line.ratio:>6.2f}  {line.spread:>6.0%}  {line.unit:<4}"
        rows.append(f"{line.name:{width}}  {figures}  {line.theirs_is}")
    return rows
