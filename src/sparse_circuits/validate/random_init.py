"""Does the recipe find small circuits in a model that has learned nothing (METHOD F11)?

The same recipe and target on the same task, but on models of the same sparsity whose weights are noise:
- `redrawn`: every nonzero weight is drawn anew from a normal distribution. Each matrix (q, k and v apart) keeps its zeros, its mean
  and its standard deviation exactly, and all vectors stay: norm gains, biases, sink logits. Only what was learned is gone. (A
  control that draws gains around 0 is nearly dead and says nothing: METHOD C5.)
- `shuffled`: the nonzero weights of each matrix change places among themselves; every value stays.

Each seed has a model of its own. Ablation values are measured anew: means over 262,144 training tokens would need the corpus, which
whoever was given a circuit need not have, so where the circuit's are `mean_pretrain`, these are means over the task's training
prompts (`mean_task`). Such a model misses the target itself; it is pruned all the same, and a target never reached is a bound.

(The method's third control, random circuits of the same size, stands beside the metrics it controls.)
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_circuits.circuit.ablation import ablation_values
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.problem import Problem
from sparse_circuits.validate.again import FACTOR, Rerun, selectivity_row, solve_control
from sparse_circuits.validate.card import Row
from sparse_circuits.validate.thresholds import Standard

STANDARD = Standard(
    number="F11",
    unit="bits, log2 of the nodes in a model of random weights over those in the model, smaller of the two kinds",
    low=FACTOR,
    why="Twice the nodes: seeds of one recipe may differ by that factor, so noise that costs less is as good as what was learned.",
)


def random_init(rerun: Rerun, progress: Progress = SILENT) -> tuple[Row, ...]:
    """F11, one row. Costs two runs of learning per variant, and two for the model itself where no control made them."""
    own, runs, losses, kind = rerun.own(rerun.few, progress), {}, {}, ""
    for variant, change in VARIANTS.items():
        progress.say(f"pruning a model with weights {variant}")
        problems = [on_model(rerun.problem, change(rerun.model, seed)) for seed in rerun.few]
        runs[f"weights {variant}"] = tuple(
            solve_control(problem, [seed], progress)[0] for problem, seed in zip(problems, rerun.few, strict=True)
        )
        losses[f"weights {variant}"] = [problem.model_loss.val for problem in problems]
        kind = problems[0].config.ablation
    details = {"model_loss": losses, "ablation": kind, "own_ablation": rerun.config.ablation}
    return (selectivity_row("random_init_control", STANDARD, own, runs, counted=tuple(runs), details=details),)


def on_model(problem: Problem, model: SparseTransformer) -> Problem:
    """The same problem on a changed model, its ablation values measured anew."""
    kind = "mean_task" if problem.config.ablation == "mean_pretrain" else problem.config.ablation
    values = ablation_values(model, kind, None, problem.pairs["train"])
    device = next(model.parameters()).device
    return replace(
        problem,
        model=model,
        config=problem.config.replace(ablation=kind),
        values={site: value.to(device) for site, value in values.items()},
        reference=None,
    )


def redrawn(model: SparseTransformer, seed: int) -> SparseTransformer:
    """A copy with every nonzero weight drawn anew; each matrix keeps its zeros, mean and standard deviation."""
    return _changed(model, seed, _like)


def shuffled(model: SparseTransformer, seed: int) -> SparseTransformer:
    """A copy with the nonzero weights of each matrix in other places of those they had."""
    return _changed(model, seed, lambda own, generator: own[torch.randperm(len(own), generator=generator)])


VARIANTS: Mapping[str, Callable[[SparseTransformer, int], SparseTransformer]] = {
    "redrawn": redrawn,
    "shuffled": shuffled,
}


def _like(own: Float[Tensor, " n"], generator: torch.Generator) -> Float[Tensor, " n"]:
    """Normal numbers with the mean and the standard deviation of these; fewer than two numbers have none to keep."""
    if len(own) < 2:
        return own
    drawn = torch.randn(len(own), generator=generator, dtype=torch.float64)
    drawn = (drawn - drawn.mean()) / drawn.std(correction=0)
    return own.mean() + own.std(correction=0) * drawn


@torch.no_grad()
def _changed(
    model: SparseTransformer, seed: int, change: Callable[[Tensor, torch.Generator], Tensor]
) -> SparseTransformer:
    """A copy with the nonzero values of each matrix replaced. It is no longer what lies in the model's folder."""
    copy, generator = deepcopy(model), torch.Generator().manual_seed(seed)
    copy.source, copy.released = None, None
    for matrix in matrices(copy):
        places = matrix != 0
        matrix[places] = change(matrix[places].cpu().double(), generator).to(matrix)
    return copy


def matrices(model: SparseTransformer) -> Iterator[Float[Tensor, "rows columns"]]:
    """Every learned weight matrix, as views: q, k and v apart, a tied one once; not the fixed sinusoids of positions."""
    for name, weight in model.named_parameters():
        if weight.dim() < 2 or (name == "positions.weight" and model.config.sinusoidal_positions):
            continue
        yield from weight.detach().chunk(3 if name.endswith("c_attn.weight") else 1)
