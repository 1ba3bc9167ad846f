"""`prune()`: the circuit of a task in a model, from learned masks to a frozen `Circuit` (METHOD 1f, D3-D6, D11).

1. Refuse what cannot work: other tokenizer, no reference values, a model that itself misses the target.
2. Learn masks on training pairs. 3. Choose nodes on the fixed validation batch. 4. Count edges; nodes without a path to
the logits go if the target still holds without them. 5. Calibrate on training pairs. 6. Score; test is only reported.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_circuits.bundled.folders import bundled_name
from sparse_circuits.circuit.ablation import Reference, ablation_values, load_reference, measure_reference
from sparse_circuits.circuit.circuit import Calibration, Circuit, Origin, SplitLosses
from sparse_circuits.circuit.edges import EdgeSet, find_edges
from sparse_circuits.circuit.evaluate import (
    EVAL_PAIRS,
    binary_losses,
    check_tokenizer,
    contrast,
    score,
    usable_tokens,
)
from sparse_circuits.circuit.mask_scorer import MaskScorer
from sparse_circuits.circuit.task_scores import with_usable
from sparse_circuits.data.shards import Shards
from sparse_circuits.data.tokenizer import tokenizer_hash
from sparse_circuits.kernels.sparse_product import frozen
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.folder import model_hash
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.calibrate import calibrate
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.discretize import Chosen, Losses, choose, mean_and_error, node_effects
from sparse_circuits.prune.learn import learn_masks
from sparse_circuits.prune.mask import NodeLayout
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.tasks.task import Task, UnusableTokens


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What steps 2-6 start from. target: nats. values: ablation values, site -> Float[width]. pairs: of train, val and test.

    The controls of a report card change parts of it with `dataclasses.replace`."""

    model: SparseTransformer
    task: Task
    tokenizer: Any
    config: PruneConfig
    target: float
    values: Mapping[str, Tensor]
    reference: Reference | None
    pairs: Mapping[str, Pairs]

    @property
    def layout(self) -> NodeLayout:
        return NodeLayout.of(self.model.widths)

    def scorer(self, split: str, n: int = EVAL_PAIRS) -> MaskScorer:
        """Scores masks on the first n pairs of a split."""
        pairs = self.pairs[split]
        return MaskScorer(
            model=self.model,
            layout=self.layout,
            values=self.values,
            pairs=pairs.take(range(min(n, pairs.n))),
            kind=self.config.loss_kind,
        )

    @cached_property
    def model_loss(self) -> SplitLosses:
        """Loss of the whole model on the pairs behind every reported loss."""
        kind, splits = self.config.loss_kind, self.pairs
        with torch.no_grad(), frozen(self.model):
            return SplitLosses(**{s: score(self.model, self.scorer(s).pairs, None, kind, None).loss for s in splits})


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


def solve(problem: Problem, seeds: Sequence[int], progress: Progress = SILENT) -> tuple[Circuit, ...]:
    """Steps 2-6: one circuit per seed, in their order. Nothing is refused: a circuit may miss the target, as may the model."""
    with frozen(problem.model):
        return _solved(problem, seeds, progress)


def _solved(problem: Problem, seeds: Sequence[int], progress: Progress) -> tuple[Circuit, ...]:
    config, train = problem.config, problem.pairs["train"]
    least_loss = config.least_loss_share * problem.target
    tau = learn_masks(
        problem.model, problem.values, train, config, seeds, progress, least_loss=least_loss, aim=_aim(problem)
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
                finished[key] = _finish(problem, active.float(), seed, progress)
            found.append(finished[key].replace(seed=seed))
    return tuple(found)


def _aim(problem: Problem) -> float | None:
    """The task loss at which learning is to stay. A model above the target leaves nothing between the two: then a share of it."""
    share, own = problem.config.steer_to, problem.model_loss.train
    if share is None:
        return None
    return own + share * (problem.target - own) if own < problem.target else share * problem.target


def best(circuits: Sequence[Circuit]) -> Circuit:
    """The smallest circuit among those that meet the target on validation: fewest nodes, then edges, then loss.

    Raises ValueError for an imported circuit, which has no validation loss.
    """

    def rank(circuit: Circuit) -> tuple[bool, int, int, float]:
        loss, target = _val_and_target(circuit)
        return loss > target, len(circuit.nodes), len(circuit.edges), loss

    return min(circuits, key=rank)


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


def prepare(
    model: SparseTransformer,
    task: Task,
    tokenizer: Any,
    target: float,
    config: PruneConfig,
    reference: str | Path | Reference | Shards | None,
) -> Problem:
    """Draws pairs, finds ablation values. Raises ValueError as `prune` does, but takes a model that misses the target."""
    if not target > 0:
        raise ValueError(f"target_loss must be above 0 nats, given {target}")
    check_tokenizer(model, tokenizer)
    if isinstance(reference, Shards):
        reference.check_tokenizer(tokenizer)
    found = _reference(model, reference, config)
    usable = usable_tokens(model)
    counts = {"train": config.train_pairs, "val": max(config.val_pairs, EVAL_PAIRS), "test": EVAL_PAIRS}
    device = next(model.parameters()).device
    try:
        pairs = {split: task.pairs(split, n, tokenizer, usable=usable).to(device) for split, n in counts.items()}
    except UnusableTokens as error:
        raise with_usable(error, tokenizer) from None
    values = ablation_values(model, config.ablation, found, pairs["train"])
    return Problem(
        model=model,
        task=task,
        tokenizer=tokenizer,
        config=config,
        target=target,
        values={site: value.to(device) for site, value in values.items()},
        reference=found,
        pairs=pairs,
    )


def _reference(
    model: SparseTransformer, given: str | Path | Reference | Shards | None, config: PruneConfig
) -> Reference | None:
    if config.ablation != "mean_pretrain":
        return None
    if isinstance(given, Reference):
        if given.model_hash != model_hash(model):
            raise ValueError("these reference values were measured on another model; measure them on this one")
        return given
    if isinstance(given, Shards):
        return measure_reference(model, given)
    where = given or model.source
    if where is None:
        raise ValueError(
            "this model was not loaded from a folder, so give reference=: a model folder, a file, or token shards"
        )
    return load_reference(where, model)


def _finish(problem: Problem, active: Tensor, seed: int, progress: Progress) -> Circuit:
    """Steps 3-6 for one learned mask."""
    losses = _choice_losses(problem)
    chosen = choose(losses, active, problem.target)
    chosen, found = _drop_unreachable(problem, chosen, losses)
    layout = problem.layout
    nodes = layout.nodes(chosen.mask)
    calibration = _calibration(problem, chosen.mask)
    missed = (
        "" if chosen.met else "; no choice of nodes meets the target on validation: try other seeds or a lower k_coef"
    )
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
    """What chooses nodes: mean and error on the fixed validation batch, calibrated anew for each mask if the target asks."""
    scorer = problem.scorer("val", problem.config.val_pairs)
    templates = torch.tensor([pair.template for pair in scorer.pairs.texts])

    def calibrated(masks: Tensor) -> Tensor:
        found = []
        for mask in masks:
            fit = _calibration(problem, mask)
            values = contrast(problem.model, scorer.pairs, scorer.tap(mask[None], 2 * scorer.pairs.n))
            found.append(binary_losses(fit.scale * values + fit.shift))
        return torch.stack(found)

    per_pair = scorer.losses if problem.config.target_on == "loss" else calibrated
    return lambda masks: mean_and_error(per_pair(masks).cpu(), templates)


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
        mean, error = losses(fewer[None])
        if float(mean + error) > problem.target:
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
