"""Scoring many masks of one model on one fixed set of pairs, without computing again what they share.

Masks differ from one another in few nodes. Whatever comes before the first node in which a mask differs from the union of
all of them is the same for all, so the residual stream of the union is recorded once where each sublayer begins, and a mask's
pass is entered at the last of these places that lies before its first difference. Chunks are small enough to stay in cache.

Shapes: n pairs, K masks, N nodes, T tokens, d d_model.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_circuits.circuit.circuit import LossKind
from sparse_circuits.circuit.evaluate import (
    Start,
    Weights,
    binary_losses,
    contrast_of,
    last_logits,
    pair_losses,
    usable_tokens,
)
from sparse_circuits.model.taps import Chain, Mask, Record
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.mask import NodeLayout
from sparse_circuits.sites import start_before, start_sites
from sparse_circuits.tasks.check import CheckReport, Condition, check_task
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.tasks.task import Task

CHUNK_TOKENS = 16_384
"""Tokens of one forward when many masks are scored on a device."""
CACHED_TOKENS = 2_048
"""The same on a CPU: what one sublayer makes of so many stays in the processor's cache (a quarter less time)."""
LEAST_BASELINE = 0.6
"""What the empty circuit and the bigram table alone must at least lose, nats (METHOD D3)."""
SHARING = 3
"""Masks from which on it pays to record what they share."""


Change = tuple[str, Callable[[], Weights]]
"""The first site that other parameters reach, and what gives them."""


def chunk_tokens(device: torch.device) -> int:
    """Tokens of one forward when many masks are scored."""
    return CACHED_TOKENS if device.type == "cpu" else CHUNK_TOKENS


@dataclass(frozen=True, kw_only=True)
class MaskScorer:
    """Scores many masks on one fixed set of pairs in few forwards."""

    model: SparseTransformer
    layout: NodeLayout
    values: Mapping[str, Tensor]
    pairs: Pairs
    kind: LossKind = "binary"
    weights: Weights | None = None
    """With edges cut; None: the model's own."""

    def tap(self, masks: Float[Tensor, "K N"], rows: int) -> Mask:
        """A tap for K * rows batch rows, mask k for rows k * rows onwards."""
        masks = masks.to(self.pairs.tokens.device)
        values = {site: self.values[site] for site in self.layout.widths}
        return Mask(self.layout.batched(masks, rows), values, self.layout.kept(masks))

    @torch.no_grad()
    def losses(self, masks: Float[Tensor, "K N"]) -> Float[Tensor, "K n"]:
        """Task loss of every mask on every pair, nats."""
        groups = self.pairs.by_length(len(masks))
        found = torch.cat([self._losses(masks, self.pairs.take(group)) for group in groups], -1)
        return found[:, torch.cat(groups).argsort()]

    @torch.no_grad()
    def losses_where(self, mask: Float[Tensor, "1 N"], changes: Sequence[Change]) -> Float[Tensor, "K n"]:
        """Task loss of one mask with other parameters, for each of K changes."""
        groups = self.pairs.by_length()
        found = torch.cat([self._losses_where(mask, changes, self.pairs.take(group)) for group in groups], -1)
        return found[:, torch.cat(groups).argsort()]

    def _losses_where(
        self, mask: Float[Tensor, "1 N"], changes: Sequence[Change], pairs: Pairs
    ) -> Float[Tensor, "K n"]:
        entries = [start_before(site) for site, _ in changes]
        shared = self._residuals(mask[0], pairs, set(entries))
        tap = self.tap(mask, len(pairs.flat_tokens))
        found = [
            pair_losses(self.model, pairs, tap, self.kind, weights(), (entry, shared[entry]))
            for entry, (_, weights) in zip(entries, changes, strict=True)
        ]
        return torch.stack(found)

    def _losses(self, masks: Float[Tensor, "K N"], pairs: Pairs) -> Float[Tensor, "K n"]:
        union = masks.amax(0)
        entries = [self._entry(mask, union) for mask in masks]
        late = {entry for entry in entries if entry is not None}
        shared = self._residuals(union, pairs, late) if late and len(masks) >= SHARING else {}
        found = torch.empty(len(masks), pairs.n, device=pairs.tokens.device)
        for entry in {entry if entry in shared else None for entry in entries}:
            own = [k for k, other in enumerate(entries) if (other if other in shared else None) == entry]
            start = None if entry is None else (entry, shared[entry])
            found[own] = self._entered(masks[own], pairs, start)
        return found

    def _entry(self, mask: Float[Tensor, " N"], union: Float[Tensor, " N"]) -> str | None:
        """The last residual site before the first node in which a mask differs from the union; None: the beginning."""
        differing = (mask != union).nonzero().flatten()
        if not len(differing):
            return None
        found = start_before(self.layout.node(int(differing[0])).site)
        return None if found == start_sites(1)[0] else found

    def _residuals(
        self, mask: Float[Tensor, " N"], pairs: Pairs, sites: set[str]
    ) -> dict[str, Float[Tensor, "rows T d"]]:
        """The residual stream under one mask at some places."""
        record = Record(sites)
        rows = pairs.flat_tokens
        last_logits(self.model, rows, pairs.last, Chain(self.tap(mask[None], len(rows)), record), self.weights)
        return record.acts

    def _entered(self, masks: Float[Tensor, "K N"], pairs: Pairs, start: Start | None) -> Float[Tensor, "K n"]:
        rows, tokens = pairs.flat_tokens.shape
        per_chunk = max(1, chunk_tokens(pairs.tokens.device) // (rows * tokens))
        found = []
        for chunk in masks.split(per_chunk):
            repeated, tap = repeat_pairs(pairs, len(chunk)), self.tap(chunk, rows)
            entered = None if start is None else (start[0], start[1].repeat(len(chunk), 1, 1))
            losses = pair_losses(self.model, repeated, tap, self.kind, self.weights, entered)
            found.append(losses.view(len(chunk), -1))
        return torch.cat(found)


def repeat_pairs(pairs: Pairs, times: int) -> Pairs:
    """The same pairs several times over, for one forward with several masks."""
    return Pairs(
        pairs.tokens.repeat(times, 1, 1),
        pairs.lengths.repeat(times, 1),
        pairs.completions.repeat(times, 1),
        pairs.texts * times,
        pairs.fixed_completions,
    )


@torch.no_grad()
def check_task_on_model(
    task: Task, tokenizer: Any, model: SparseTransformer, values: Mapping[str, Tensor], n: int = 128
) -> CheckReport:
    """`tasks check` with a model: D3's conditions on the empty circuit and on the bigram table alone, added to the others."""
    report = check_task(task, tokenizer)
    if not report.ok:
        return report
    device = next(model.parameters()).device
    pairs = task.pairs("test", n, tokenizer, usable=usable_tokens(model)).to(device)
    layout = NodeLayout.of(model.widths)
    own = {site: value.to(device) for site, value in values.items()}
    empty = MaskScorer(model=model, layout=layout, values=own, pairs=pairs)
    losses = {
        "empty circuit": float(empty.losses(torch.zeros(1, layout.size)).mean()),
        "bigram table alone": math.log(2),
    }
    if model.bigram is not None:
        last = pairs.flat_tokens[torch.arange(2 * pairs.n, device=device), pairs.last]
        losses["bigram table alone"] = float(binary_losses(contrast_of(model.bigram(last), pairs)).mean())
    fix = "make both prompts end in the same way, or choose completions that are equally likely without context"
    return report.extended(
        tuple(
            Condition(f"{name} scores >= {LEAST_BASELINE}", loss >= LEAST_BASELINE, f"loss {loss:.3f}", fix)
            for name, loss in losses.items()
        )
    )
