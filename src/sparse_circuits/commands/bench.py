"""The verb that measures this machine."""

from typing import Annotated

import tyro

from sparse_circuits.commands.common import DEFAULTS, Output, Shared, usable_device


def bench(
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    model: str = "runs/quickstart/run",
    common: Shared = DEFAULTS,
) -> Output:
    """Measures ours against the other way to do it, side by side in one run, on this machine.

    Args:
        names: abs-topk, step (both: under a minute), pruning (a trained model; minutes), loading (a 419M-parameter model in
            every layout; minutes, 6 GB of disk), ground-truth (what pruning and other methods find of circuits that are
            known; minutes). Nothing = abs-topk and step.
        model: Model that the pruning benchmark prunes.
    """
    from sparse_circuits.bench.machine import describe
    from sparse_circuits.bench.suite import run_benchmarks, table

    device = usable_device(common.device)
    measured = run_benchmarks(names, model=model, device=device, progress=common.progress)
    import torch

    data = {"machine": describe(torch.device(device)), "benchmarks": {line.name: line.to_dict() for line in measured}}
    return Output(data, table(measured, device))
