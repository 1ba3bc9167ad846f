"""Pruning benchmark: one circuit, and many seeds as one batch, of a trained model (the quickstart's, or one that is named)."""

from collections.abc import Iterator
from pathlib import Path

from sparse_circuits.bench.result import Measured, seconds
from sparse_circuits.hub.load import load_model, load_tokenizer
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.prune.pipeline import prune_seeds
from sparse_circuits.tasks.load import load_task

QUICKSTART = "runs/quickstart/run"
TASK = "single_double_quote"
SEEDS = 32


def bench_pruning(where: str | Path = QUICKSTART, progress: Progress = SILENT) -> Iterator[Measured]:
    """Seconds for one circuit and for 32 seeds, reading the model and drawing the pairs included; after one to warm up.

    Raises ValueError, one line, if there is no model at `where`.
    """
    task = load_task(TASK)

    def run(seeds: int) -> None:
        model, tokenizer = load_model(where), load_tokenizer(where)
        prune_seeds(model, task, tokenizer=tokenizer, seeds=range(seeds), progress=progress)

    progress.say(f"pruning {TASK} in {where}: once to warm up, once alone, {SEEDS} seeds together")
    run(1)
    one, many = seconds(lambda: run(1)), seconds(lambda: run(SEEDS))
    yield Measured(name="prune 1 seed", ours=one, theirs=one, unit="s", theirs_is="itself")
    yield Measured(name=f"prune {SEEDS} seeds", ours=many, theirs=SEEDS * one, unit="s", theirs_is=f"{SEEDS} times one")
