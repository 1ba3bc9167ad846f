"""What the controls that prune again are tested on: the small model of planted.py, pruned in a second, and made-up circuits."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from sparse_circuits.circuit.ablation import task_means
from sparse_circuits.circuit.circuit import Circuit, SplitLosses
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.problem import Problem
from sparse_circuits.sites import Edge, Node
from sparse_circuits.tasks.task import Task
from sparse_circuits.validate.again import Rerun
from sparse_circuits.validate.subject import Subject
from validate.planted import SMALL, all_nodes, circuit_of, small_model, truth

TASK = replace(
    truth().task,
    fillers={"word": {split: words[:3] for split, words in truth().task.fillers["word"].items()}},
)
"""The quote task with few words, so that there are 18 to 24 pairs of a split to score, not 512."""
QUICK = PruneConfig(
    steps=16,
    lr=0.05,
    k_coef=3e-3,
    batch_pairs=2,
    train_pairs=24,
    val_pairs=9,
    choice_train_pairs=9,
    ablation="mean_task",
)
NODES = all_nodes(small_model())
"""All 60 of the small model."""


def rerun_of(
    model: SparseTransformer | None = None,
    nodes: Sequence[Node] = SMALL,
    *,
    seeds: int = 2,
    n: int = 6,
    task: Task | None = None,
    recipe: PruneConfig = QUICK,
    **changes: Any,
) -> Rerun:
    """The small model's circuit, as if that recipe had found it."""
    model, task, tokenizer = model or small_model(), task or TASK, truth().tokenizer
    values = task_means(model, task.pairs("train", 24, tokenizer))
    given = {"recipe": recipe.to_dict(), "ablation": recipe.ablation, **changes}
    circuit = circuit_of(model, nodes, {site: x.detach() for site, x in values.items()}, task, **given)
    return Rerun.of(Subject.of(circuit, model, task, tokenizer, n=n), seeds=seeds)


def made(
    nodes: Sequence[Node], *, seed: int = 0, val: float = 0.1, test: float = 0.1, edges: Sequence[Edge] = ()
) -> Circuit:
    """A circuit of the small model that is said to lose this; the target is 0.15."""
    values = {site: torch.zeros(width) for site, width in small_model().widths.items()}
    circuit = circuit_of(small_model(), nodes, values, TASK)
    return circuit.replace(seed=seed, loss=SplitLosses(train=0.1, val=val, test=test), edges=tuple(edges))


def first(problem: Problem, n: int) -> dict[str, Any]:
    """The first pairs of every split."""
    return {split: pairs.take(range(n)) for split, pairs in problem.pairs.items()}
