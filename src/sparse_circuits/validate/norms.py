"""Does the circuit live on norms that amplify it (METHOD F13)?

Ablating most nodes makes the residual stream smaller, and a norm that divides by its size makes whatever is left louder: small
writes may then do what they cannot do in the model. Here norms divide by what they divide by in the model on the same prompt,
either all of them (`all`) or the last before the logits (`final`); AbsTopK acts as ever.
- `norm_reliance`: what that does to the loss of the circuit as it is, and beside it the ratio of the final residual stream's RMS in
  the circuit to that in the model, at the tokens where the answer is formed (1: as in the model).
- `norm_control`: how much larger the recipe's circuits become when masks are learned and chosen under frozen norms.

The recipe runs under frozen norms on a model that freezes them itself (`FrozenNorms`): before a masked pass it makes one without,
whose scales it then uses. Learning thus costs a third more, and nothing of it had to be written again.

Shapes: n pairs, rows = 2 n prompts, T tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_circuits.circuit.evaluate import pair_losses
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.taps import Chain, Mask, Record, Replace, Tap
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.pipeline import solve
from sparse_circuits.sites import request_sites
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.validate.again import FACTOR, NO_SIZE, Rerun, bits_more, figures, sizes
from sparse_circuits.validate.card import Row
from sparse_circuits.validate.measure import brief, missing, number, row
from sparse_circuits.validate.statistics import Estimate
from sparse_circuits.validate.subject import Subject
from sparse_circuits.validate.thresholds import Standard

Frozen = Literal["all", "final"]
FROZEN: tuple[Frozen, ...] = get_args(Frozen)
FINAL_SCALE = "final_norm_scale"
RISE = Standard(
    number="F13",
    unit="nats that freezing all norms at their scales in the model adds to the circuit's loss",
    high=0.15,
    need="beside",
    why="The usual target once more: a circuit that loses more needs norms that say something else than they say in the model.",
)
SIZE = Standard(
    number="F13",
    unit="bits, log2 of the recipe's nodes with all norms frozen over those without",
    high=FACTOR,
    need="beside",
    why="A factor of two, as between seeds: beyond it the recipe's small size is owed to norms that amplify.",
)


def scale_sites(model: SparseTransformer, frozen: Frozen) -> tuple[str, ...]:
    """The sites that `frozen` freezes."""
    every = [site for site in request_sites(model.config.n_layer) if site.endswith("norm_scale")]
    return tuple(every) if frozen == "all" else (FINAL_SCALE,)


class FrozenNorms(SparseTransformer):
    """A model (the same weights, shared) whose norms use, in a masked pass, the scales of the unmasked one on the same tokens."""

    frozen: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: SparseTransformer, frozen: Frozen) -> "FrozenNorms":
        """The model with all norms frozen, or the final one."""
        with torch.device("meta"):
            made = cls(model.config)
        made.load_state_dict(model.state_dict(), assign=True)
        made.source, made.frozen = model.source, scale_sites(model, frozen)
        return made.eval()

    def forward(
        self, tokens: Tensor, tap: Tap | None = None, start: tuple[str, Tensor] | None = None, **given: Any
    ) -> Tensor:  # pyright: ignore
        """As the model's, which see. With a tap, two passes: the scales are those of the tokens, wherever the tap's is entered.

        Not with other weights than its own, which the scales would come from.
        """
        if tap is None:
            return super().forward(tokens, None, start, **given)
        assert given.get("weights") is None
        seen = Record(self.frozen)
        with torch.no_grad():
            super().forward(tokens, seen, **given)
        frozen = _Scaled(tap, seen.acts) if isinstance(tap, Mask) else Chain(tap, Replace(seen.acts))
        return super().forward(tokens, frozen, start, **given)


class _Scaled(Mask):
    """A mask that also sets norm scales; still a mask, so that the pass keeps its short cuts."""

    def __init__(self, mask: Mask, scales: Mapping[str, Tensor]) -> None:
        super().__init__(mask.masks, mask.values, mask.kept)
        self.scales = dict(scales)

    def wants(self, site: str) -> bool:
        return site in self.scales or super().wants(site)

    def __call__(self, site: str, x: Tensor) -> Tensor:
        return self.scales[site] if site in self.scales else super().__call__(site, x)


@dataclass(frozen=True, kw_only=True)
class NormReliance:
    """What norms do for a circuit (F13)."""

    own_loss: Estimate
    """L(f_C), nats."""
    losses: Mapping[Frozen, Estimate]
    """The same with norms frozen at their scales in f."""
    rises: Mapping[Frozen, Estimate]
    """How much more that is, pair by pair."""
    rms_ratio: Estimate
    """RMS of the final residual stream in f_C over that in f, at the last token of every prompt (for LayerNorm: of what is left
    after its mean is taken off). Below 1, the final norm makes the circuit louder than it is."""


@torch.no_grad()
def norm_reliance(subject: Subject) -> NormReliance:
    """F13 for the circuit as it is."""
    own, losses, rises = subject.circuit_losses(), {}, {}
    for frozen in FROZEN:
        sites = scale_sites(subject.model, frozen)
        found = subject.per_pair(lambda pairs, sites=sites: _frozen_losses(subject, pairs, sites), width=len(sites))
        losses[frozen] = subject.resampling.mean(found)
        rises[frozen] = subject.resampling.mean(found - own)
    return NormReliance(
        own_loss=subject.resampling.mean(own),
        losses=losses,
        rises=rises,
        rms_ratio=subject.resampling.mean(subject.per_pair(lambda pairs: _rms_ratio(subject, pairs))),
    )


def _scales(subject: Subject, pairs: Pairs, sites: tuple[str, ...], *, circuit: bool) -> dict[str, Tensor]:
    """Site -> Float[rows, T, 1]: one over the RMS of what each norm is given, in f_C or in f."""
    seen = Record(sites)
    tap, weights = subject.way(circuit, seen)
    subject.model(pairs.flat_tokens, tap=tap, logits_at=pairs.last, weights=weights)
    return seen.acts


def _frozen_losses(subject: Subject, pairs: Pairs, sites: tuple[str, ...]) -> Float[Tensor, " n"]:
    scales = Replace(_scales(subject, pairs, sites, circuit=False))
    tap, weights = subject.way(True, scales)
    return pair_losses(subject.model, pairs, tap, subject.circuit.loss_kind, weights)


def _rms_ratio(subject: Subject, pairs: Pairs) -> Float[Tensor, " n"]:
    f, c = (_scales(subject, pairs, (FINAL_SCALE,), circuit=circuit)[FINAL_SCALE] for circuit in (False, True))
    rows = torch.arange(len(pairs.last), device=f.device)
    return (f / c)[rows, pairs.last, 0].view(-1, 2).mean(-1)


def norms(rerun: Rerun, progress: Progress = SILENT) -> tuple[Row, ...]:
    """F13, two rows. Costs two runs of learning for each of `all` and `final`, a third longer than usual, and two for norms as they
    are where no control made them."""
    reliance = _reliance_row(norm_reliance(rerun.subject))
    own, runs = rerun.own(rerun.few, progress), {}
    for frozen in FROZEN:
        progress.say(f"pruning with norms frozen: {frozen}")
        runs[frozen] = solve(replace(rerun.problem, model=FrozenNorms.of(rerun.model, frozen)), rerun.few, progress)
    bits = {frozen: bits_more(found, own) for frozen, found in runs.items()}
    if bits["all"] is None:
        return reliance, missing("norm_control", NO_SIZE, SIZE)
    kept = {frozen: {**figures(found), "bits": brief(bits[frozen])} for frozen, found in runs.items()}
    said = f"frozen: {sizes(runs['all'])} nodes by seed; unchanged: {sizes(own)}"
    details = {"own": figures(own), "runs": kept}
    return reliance, row("norm_control", bits["all"], standard=SIZE, said=said, details=details)


def _reliance_row(found: NormReliance) -> Row:
    said = f"loss {number(found.own_loss)} with its own norms, {number(found.losses['all'])} with the model's; "
    said += f"RMS of the final residual stream, circuit over model: {number(found.rms_ratio)}"
    details = {
        "own_loss": brief(found.own_loss),
        "frozen_loss": {frozen: brief(loss) for frozen, loss in found.losses.items()},
        "rise": {frozen: brief(more) for frozen, more in found.rises.items()},
        "rms_ratio": brief(found.rms_ratio),
    }
    return row("norm_reliance", found.rises["all"], standard=RISE, said=said, details=details)
