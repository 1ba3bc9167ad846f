"""What a pruning starts from: model, task, recipe, ablation values and pairs, with everything measured once.

`prepare` refuses what cannot work before any time is spent. The controls of a report card change parts of a problem (labels,
weights, values) with `dataclasses.replace` and solve it in the same way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_circuits.circuit.ablation import Reference, ablation_values, load_reference, measure_reference
from sparse_circuits.circuit.circuit import SplitLosses
from sparse_circuits.circuit.evaluate import EVAL_PAIRS, check_tokenizer, score, usable_tokens
from sparse_circuits.circuit.mask_scorer import MaskScorer
from sparse_circuits.circuit.task_scores import with_usable
from sparse_circuits.data.shards import Shards
from sparse_circuits.kernels.sparse_product import frozen
from sparse_circuits.model.folder import model_hash
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.choice import ChoiceBatch, choice_batch
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.mask import NodeLayout
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.tasks.task import Task, UnusableTokens


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One model, task and recipe. target: nats. values: ablation values, site -> Float[width]. pairs: of train, val and test."""

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

    @cached_property
    def choice(self) -> ChoiceBatch:
        """What nodes are chosen on."""
        return choice_batch(self.pairs, self.config.val_pairs, self.config.choice_train_pairs)

    def scorer(self, split: str) -> MaskScorer:
        """Scores masks on the pairs of a split that losses are reported on."""
        pairs = self.pairs[split]
        return self.scorer_of(pairs.take(range(min(EVAL_PAIRS, pairs.n))))

    def scorer_of(self, pairs: Pairs) -> MaskScorer:
        """Scores masks on these pairs."""
        return MaskScorer(
            model=self.model, layout=self.layout, values=self.values, pairs=pairs, kind=self.config.loss_kind
        )

    @cached_property
    def model_loss(self) -> SplitLosses:
        """Loss of the whole model on the pairs behind every reported loss."""
        kind, splits = self.config.loss_kind, self.pairs
        with torch.no_grad(), frozen(self.model):
            return SplitLosses(**{s: score(self.model, self.scorer(s).pairs, None, kind, None).loss for s in splits})

    @property
    def aim(self) -> float | None:
        """The task loss at which learning is to stay, nats. For a model above the target nothing lies between: a share of it."""
        share, own = self.config.steer_to, self.model_loss.train
        if share is None:
            return None
        return own + share * (self.target - own) if own < self.target else share * self.target


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
