"""The verb that measures this machine."""

from typing import Annotated

import tyro

from sparse_circuits.commands.common import DEFAULTS, Output, Shared


def bench(names: Annotated[tuple[str, ...], tyro.conf.Positional] = (), common: Shared = DEFAULTS) -> Output:
    """Measures ours against the other way to do it, side by side in one run.

    Args:
        names: Benchmarks to run: loading (a 419M-parameter model in every layout; 2 minutes, 6 GB of disk). None = all.
    """
    from sparse_circuits.bench.suite import run_benchmarks, table

    measured = run_benchmarks(names, common.progress)
    return Output({"benchmarks": {line.name: line.to_dict() for line in measured}}, table(measured))
