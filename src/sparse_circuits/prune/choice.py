"""The fixed batch on which everything about a circuit is chosen: which nodes and edges stay, and whether the target holds.

METHOD D11 chooses on validation pairs, where loss + 1 standard error must meet the target. Those come from three or four
templates, and hundreds of deletions that each look at the same few fit them: on the bundled model 9 of 15 circuits met the target
there and missed it on test. So pairs of the training templates stand beside them, on which the target must hold in the same way;
test templates are in neither. Which node is needed least is read off all pairs together.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_circuits.tasks.pairs import Pairs, joined


class Scores(NamedTuple):
    """What K masks score on a choice batch, nats."""

    mean: Float[Tensor, " K"]
    """Mean loss over all pairs."""
    error: Float[Tensor, " K"]
    """Its standard error."""
    bound: Float[Tensor, " K"]
    """What the target is held against: mean + standard error on the split where that is more."""


@dataclass(frozen=True, kw_only=True)
class ChoiceBatch:
    """Pairs of one or two splits."""

    pairs: Pairs
    templates: Int[Tensor, " n"]
    """The template of each pair, numbered over both splits."""
    splits: Int[Tensor, " n"]
    """The split of each pair."""

    def scores(self, losses: Float[Tensor, "K n"]) -> Scores:
        """Sums up the losses of all pairs."""
        losses = losses.cpu()
        bounds = []
        for split in self.splits.unique():
            own = self.splits == split
            bounds.append(torch.stack(mean_and_error(losses[:, own], self.templates[own])).sum(0))
        return Scores(*mean_and_error(losses, self.templates), torch.stack(bounds).amax(0))


def choice_batch(splits: Mapping[str, Pairs], val_pairs: int, train_pairs: int) -> ChoiceBatch:
    """The first `val_pairs` validation pairs, then the first `train_pairs` training pairs (as many as there are)."""
    counts = {"val": val_pairs, "train": train_pairs}
    parts = [splits[split].take(range(min(count, splits[split].n))) for split, count in counts.items() if count]
    owners = [(part, pair.template) for part, pairs in enumerate(parts) for pair in pairs.texts]
    numbers = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
    return ChoiceBatch(
        pairs=joined(parts),
        templates=torch.tensor([numbers[owner] for owner in owners]),
        splits=torch.tensor([part for part, _ in owners]),
    )


def mean_and_error(losses: Float[Tensor, "K n"], templates: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Mean over pairs and its standard error, [K] each.

    Pairs of one template stand or fall together, so the error is that of the template means (a cluster-robust error): with
    C templates, std(template means) / sqrt(C). With a single template it falls back to the error over pairs.
    """
    found = templates.unique()
    if len(found) > 1:
        groups = torch.stack([losses[:, templates == template].mean(-1) for template in found], -1)
    else:
        groups = losses
    error = groups.std(-1) / math.sqrt(groups.shape[-1]) if groups.shape[-1] > 1 else torch.zeros(len(losses))
    return losses.mean(-1), error
