"""`prune()`: the circuit of a task in a model, from learned masks to a frozen `Circuit` (METHOD 1f, D3-D6, D11).

1. Refuse what cannot work: other tokenizer, no reference values, a model that itself misses the target.
2. Learn masks on training pairs. 3. Choose nodes on the fixed choice batch. 4. Count edges; nodes without a path to
the logits go if the target still holds without them. 5. Calibrate on training pairs. 6. Score; test is only reported.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_circuits.bundled.folders import bundled_name
from sparse_circuits.circuit.ablation import Reference
from sparse_circuits.circuit.circuit import Calibration, Circuit, Origin, SplitLosses
from sparse_circuits.circuit.edges import EdgeSet, find_edges
from sparse_circuits.circuit.evaluate import (
    binary_losses,
    contrast,
    score,
)
from sparse_circuits.data.shards import Shards
from sparse_circuits.data.tokenizer import tokenizer_hash
from sparse_circuits.kernels.sparse_product import frozen
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.folder import model_hash
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.calibrate import calibrate
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.discretize import Chosen, Losses, choose, node_effects, remembered
from sparse_circuits.prune.learn import learn_masks
from sparse_circuits.prune.problem import Problem, prepare
from sparse_circuits.tasks.task import Task


def prune(
    model: SparseTransformer,
    task: Task,
    *,
    tokenizer: Any,
    target_loss: float = 0.15,
    seed: int = 0,
    reference: str | Path | Reference | Shards | None = None,
    config: PruneConfig | None = None,
    progress: Progress = SILENT,
    **settings: Any,
) -> Circuit:
    """Finds the circuit of `task` in `model`.

    target_loss: mean task loss to reach, nats. reference: the model's ablation values: its folder, a file, token shards to
    measure them on, or None for the folder the model was loaded from. settings: fields of PruneConfig.
    Raises ValueError if tokenizer, task or reference do not fit, or if the model itself misses the target.
    """
    return prune_seeds(
        model,
        task,
        tokenizer=tokenizer,
        target_loss=target_loss,
        seeds=(seed,),
        reference=reference,
        config=config,
        progress=progress,
        **settings,
    )[0]


def prune_seeds(
    model: SparseTransformer,
    task: Task,
    *,
    tokenizer: Any,
    target_loss: float = 0.15,
    seeds: Sequence[int] = (0,),
    reference: str | Path | Reference | Shards | None = None,
    config: PruneConfig | None = None,
    progress: Progress = SILENT,
    **settings: Any,
) -> tuple[Circuit, ...]:
    """`prune` for several seeds, learned as one batch: one circuit per seed, in their order."""
    recipe = (config or PruneConfig()).replace(**settings)
    problem = prepare(model, task, tokenizer, target_loss, recipe, reference)
    worst = max(problem.model_loss.train, problem.model_loss.val)
    if worst > target_loss:
        raise ValueError(
            f"the model itself scores {worst:.3f} on {task.name} ({recipe.loss_kind}), above the target {target_loss}: no circuit "
            "can be expected to meet it; train the model longer, choose another task or raise target_loss"
        )
    return solve(problem, seeds, progress)


def solve(
    problem: Problem, seeds: Sequence[int], progress: Progress = SILENT, *, give_up_above: float = math.inf
) -> tuple[Circuit, ...]:
    """Steps 2-6: one circuit per seed, in their order. Nothing is refused: a circuit may miss the target, as may the model.

    give_up_above: learned masks with a larger loss than this, and than the target, become misses without a node, nats; for
    controls, which are expected to find nothing (discretize.py).
    """
    with frozen(problem.model):
        return _solved(problem, seeds, progress, give_up_above)


def _solved(problem: Problem, seeds: Sequence[int], progress: Progress, give_up_above: float) -> tuple[Circuit, ...]:
    config, train = problem.config, problem.pairs["train"]
    losses = _choice_losses(problem)

    def excess(masks: Tensor) -> Tensor:
        return losses(masks).bound - problem.target

    tau = learn_masks(
        problem.model,
        problem.values,
        train,
        config,
        seeds,
        progress,
        least_loss=config.least_loss_share * problem.target,
        aim=problem.aim,
        excess=excess,
    )
    finished: dict[bytes, Circuit] = {}
    found = []
    with torch.no_grad():
        for row, seed in zip(tau, seeds, strict=True):
            active = row >= 0
            key = active.numpy().tobytes()
            if key in finished:  # seeds often learn the same mask; what follows depends on nothing else
                progress.say(f"seed {seed}: the mask of seed {finished[key].seed}")
            else:
                finished[key] = _finish(problem, active.float(), seed, progress, give_up_above)
            found.append(finished[key].replace(seed=seed))
    return tuple(found)


def best(circuits: Sequence[Circuit]) -> Circuit:
    """The smallest circuit among those that meet the target on validation: fewest nodes, then edges, then loss. Of circuits that
    all miss it, the one with the lowest loss.

    Raises ValueError for an imported circuit, which has no validation loss.
    """
    return min(circuits, key=rank)


def rank(circuit: Circuit) -> tuple[bool, float, int, int, float]:
    """What `best` orders circuits by. Raises ValueError as it does."""
    loss, target = _val_and_target(circuit)
    missed = loss > target
    return missed, loss if missed else 0.0, len(circuit.nodes), len(circuit.edges), loss


def meets_on_val(circuit: Circuit) -> bool:
    """Whether the validation loss meets the target: what choices may look at. Raises ValueError as `best` does."""
    loss, target = _val_and_target(circuit)
    return loss <= target


def _val_and_target(circuit: Circuit) -> tuple[float, float]:
    losses = circuit.loss if circuit.target_on == "loss" else circuit.calibrated_loss
    if losses is None or circuit.target_loss is None:
        raise ValueError(
            f"the circuit of {circuit.task} has no validation loss or target; give circuits that were pruned here"
        )
    return losses.val, circuit.target_loss


def _finish(problem: Problem, active: Tensor, seed: int, progress: Progress, give_up_above: float) -> Circuit:
    """Steps 3-6 for one learned mask."""
    losses = remembered(_choice_losses(problem))
    chosen = choose(losses, active, problem.target, give_up_above=give_up_above)
    chosen, found = _drop_unreachable(problem, chosen, losses)
    layout = problem.layout
    nodes = layout.nodes(chosen.mask)
    calibration = _calibration(problem, chosen.mask)
    missed = ""
    if not chosen.met:
        what = (
            "the learned mask is nearer to guessing than to the answer, so none was looked for"
            if chosen.given_up
            else "none was found"
        )
        missed = f"; a choice of nodes that meets the target: {what}; try other seeds or a lower k_coef"
    progress.say(f"seed {seed}: {int(active.sum())} nodes learned, {len(nodes)} kept, {len(found.edges)} edges{missed}")
    return Circuit(
        **_scores(problem, chosen.mask, calibration),
        task=problem.task.name,
        model=Origin(where=_where(problem.model), hash=model_hash(problem.model)),
        task_origin=Origin(where=problem.task.name, hash=problem.task.hash),
        tokenizer=Origin(where=_where(problem.model), hash=tokenizer_hash(problem.tokenizer)),
        nodes=nodes,
        nodes_total=layout.size,
        edges=found.edges,
        edges_embed=found.edges_embed,
        edges_unembed=found.edges_unembed,
        edges_bias=found.edges_bias,
        constant_nodes=found.constant,
        stranded_nodes=found.candidates,
        values={site: value.cpu() for site, value in problem.values.items()},
        ablation=problem.config.ablation,
        loss_kind=problem.config.loss_kind,
        target_loss=problem.target,
        target_on=problem.config.target_on,
        model_loss=problem.model_loss,
        calibration=calibration,
        curve=chosen.curve,
        node_effects=tuple(node_effects(losses, chosen.mask.nonzero().flatten().tolist(), layout.size)),
        reference=_reference_facts(problem.reference),
        recipe=problem.config.to_dict(),
        seed=seed,
    )


def _choice_losses(problem: Problem) -> Losses:
    """What chooses nodes: scores on the choice batch, calibrated anew for each mask if the target asks."""
    scorer = problem.scorer_of(problem.choice.pairs)

    def calibrated(masks: Tensor) -> Tensor:
        found = []
        for mask in masks:
            fit = _calibration(problem, mask)
            values = contrast(problem.model, scorer.pairs, scorer.tap(mask[None], 2 * scorer.pairs.n))
            found.append(binary_losses(fit.scale * values + fit.shift))
        return torch.stack(found)

    per_pair = scorer.losses if problem.config.target_on == "loss" else calibrated
    return lambda masks: problem.choice.scores(per_pair(masks))


def _calibration(problem: Problem, mask: Tensor) -> Calibration:
    scorer = problem.scorer("train")
    values = contrast(problem.model, scorer.pairs, scorer.tap(mask[None], 2 * scorer.pairs.n))
    with torch.enable_grad():
        return calibrate(values, shift=scorer.pairs.fixed_completions)


def _drop_unreachable(problem: Problem, chosen: Chosen, losses: Losses) -> tuple[Chosen, EdgeSet]:
    """Removes the nodes without a path to the logits while the target holds without them (METHOD D5).

    Greedy deletion has tried each of them alone, so here they go together or stay.
    """
    layout = problem.layout
    while True:
        found = _edges(problem, layout.nodes(chosen.mask))
        if not found.candidates or not chosen.met:
            return chosen, found
        fewer = chosen.mask - layout.flat(found.candidates)
        if float(losses(fewer[None]).bound) > problem.target:
            return chosen, found
        chosen = Chosen(mask=fewer, curve=chosen.curve, met=True)


def _edges(problem: Problem, nodes: Sequence[Any]) -> EdgeSet:
    train = problem.pairs["train"]
    real = torch.arange(train.tokens.shape[-1], device=train.tokens.device) < train.lengths[..., None]
    prompt_tokens = train.tokens[real].unique().tolist()
    return find_edges(problem.model, nodes, prompt_tokens, train.completions.unique().tolist())


def _scores(problem: Problem, mask: Tensor, calibration: Calibration) -> dict[str, Any]:
    """Losses of the chosen mask on every split, and of the empty circuit on test."""
    scores = {}
    for split in problem.pairs:
        scorer = problem.scorer(split)
        tap = scorer.tap(mask[None], 2 * scorer.pairs.n)
        scores[split] = score(problem.model, scorer.pairs, tap, scorer.kind, calibration)
    return {
        "loss": SplitLosses(**{split: found.loss for split, found in scores.items()}),
        "calibrated_loss": SplitLosses(**{split: found.calibrated_loss for split, found in scores.items()}),
        "empty_loss": float(problem.scorer("test").losses(torch.zeros(1, len(mask))).mean()),
        "accuracy": scores["test"].accuracy,
    }


def _where(model: SparseTransformer) -> str:
    if model.source is None:
        return ""
    return bundled_name(model.source) or os.path.abspath(model.source)


def _reference_facts(reference: Reference | None) -> dict[str, Any]:
    return {} if reference is None else {"tokens": reference.tokens, "corpus_hash": reference.corpus_hash}
