"""The benchmarks by name, and their table."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from sparse_circuits.bench.loading import bench_loading
from sparse_circuits.bench.result import Measured
from sparse_circuits.log import SILENT, Progress

BENCHMARKS: Mapping[str, Callable[[Progress], Iterator[Measured]]] = {
    "loading": lambda progress: bench_loading(progress=progress),
}


def run_benchmarks(names: Sequence[str] = (), progress: Progress = SILENT) -> tuple[Measured, ...]:
    """All benchmarks, or those named. Raises ValueError for an unknown name."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise ValueError(f"unknown benchmark {unknown[0]!r}; allowed: {', '.join(BENCHMARKS)}")
    found: list[Measured] = []
    for name in names or BENCHMARKS:
        progress.say(f"benchmark {name}")
        found.extend(BENCHMARKS[name](progress))
    return tuple(found)


def table(measured: Sequence[Measured]) -> str:
    """One line per measurement."""
    width = max(len(line.name) for line in measured)
    rows = [f"{'':{width}}  {'ours':>10}  {'theirs':>10}  {'ratio':>6}  unit  against"]
    for line in measured:
        figures = f"{line.ours:>10.4g}  {line.theirs:>10.4g}  {line.ratio:>6.2f}  {line.unit:<4}"
        rows.append(f"{line.name:{width}}  {figures}  {line.theirs_is}")
    return "\n".join(rows)
