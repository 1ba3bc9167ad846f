"""Are the circuit's activations interchangeable with the model's: patches, resampled surroundings, counterfactual prompts.

- `interchange` (METHOD F8): a growing random part of the circuit's nodes takes the values it has in f while f_C runs, and the
  other way round. Where the circuit's nodes mean the same in both, the loss does not move.
- `resample_ablation` (F8): what is outside the circuit takes its values from another prompt of the task instead of a constant.
- `interchange_accuracy` (F8): nodes take their values from the other prompt of the pair, once in f and once in f_C; alike are the
  two where the answer flips in both or in neither.

Prompts of different length are aligned at their ends, where the answer is formed: position t of a prompt of n tokens takes what
position t - n + m has in one of m tokens, its first position where that would lie before the beginning.

Shapes: n pairs, rows = 2 n prompts, T tokens, c nodes of the circuit, K sets of nodes, P points of a curve.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparse_circuits.circuit.evaluate import Weights, contrast, pair_losses
from sparse_circuits.circuit.mask_scorer import CHUNK_TOKENS, repeat_pairs
from sparse_circuits.model.taps import Mask, Record, Tap
from sparse_circuits.sites import split_site
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.validate.statistics import Curve, Estimate, curve
from sparse_circuits.validate.subject import Patch, Subject

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
DRAWS = 4
"""Random orders in which nodes are patched."""


@dataclass(frozen=True, kw_only=True)
class Interchange:
    """Task loss while a growing random part of the circuit's nodes takes values from the other of f and f_C (F8)."""

    into_circuit: Curve
    """f_C runs, nodes take their values in f. From L(f_C); a faithful circuit's curve is flat."""
    into_model: Curve
    """f runs, nodes take their values in f_C. From L(f)."""
    layers_into_circuit: Mapping[str, Curve]
    """Only nodes of one layer are patched; keys are layer numbers and `final` (final_resid), those with a node."""
    layers_into_model: Mapping[str, Curve]


@torch.no_grad()
def interchange(subject: Subject, *, draws: int = DRAWS, seed: int = 0) -> Interchange | None:
    """F8 along `draws` random orders of the nodes; None for an empty circuit."""
    if not subject.nodes:
        return None
    layers = [_layer(node.site) for node in subject.nodes]
    scopes = {"all": torch.ones(len(layers), dtype=torch.bool)}
    scopes |= {layer: torch.tensor([own == layer for own in layers]) for layer in dict.fromkeys(layers)}
    chosen = torch.cat([_growing(scope, draws, seed) for scope in scopes.values()])
    into_circuit, into_model = (
        dict(zip(scopes, _curves(subject, chosen, draws, circuit=circuit), strict=True)) for circuit in (True, False)
    )
    return Interchange(
        into_circuit=into_circuit.pop("all"),
        into_model=into_model.pop("all"),
        layers_into_circuit=into_circuit,
        layers_into_model=into_model,
    )


def _layer(site: str) -> str:
    layer = split_site(site)[0]
    return "final" if layer is None else str(layer)


def _growing(scope: Bool[Tensor, " c"], draws: int, seed: int) -> Bool[Tensor, "K c"]:
    """The nodes patched: none, all of the scope, then for every fraction between and every draw its first nodes in random order."""
    generator = torch.Generator().manual_seed(seed)
    rank = torch.rand(draws, len(scope), generator=generator).masked_fill(~scope, 2.0).argsort(-1).argsort(-1)
    between = [rank < round(fraction * int(scope.sum())) for fraction in FRACTIONS[1:-1]]
    return torch.cat([torch.zeros_like(scope)[None], scope[None], *between])


def _curves(subject: Subject, chosen: Bool[Tensor, "K c"], draws: int, *, circuit: bool) -> list[Curve]:
    """One curve per scope, from the sets of all scopes."""

    def measured(pairs: Pairs) -> Float[Tensor, "K n"]:
        values = subject.activations(pairs, circuit=not circuit)
        return _patched(subject, pairs, values, chosen, pair_loss, circuit=circuit)

    def pair_loss(pairs: Pairs, tap: Tap | None, weights: Weights | None) -> Float[Tensor, " n"]:
        return pair_losses(subject.model, pairs, tap, subject.circuit.loss_kind, weights)

    losses = subject.per_pair(measured, width=len(subject.nodes))
    scopes = losses.unflatten(0, (-1, 2 + draws * (len(FRACTIONS) - 2)))
    return [curve(subject.resampling, FRACTIONS, _points(scope, draws)) for scope in scopes]


def _points(losses: Float[Tensor, "sets n"], draws: int) -> Float[Tensor, "P K n"]:
    """The losses of `_growing` by fraction and draw; the two ends are the same in every draw."""
    ends = losses[:2, None].expand(-1, draws, -1)
    return torch.cat([ends[:1], losses[2:].unflatten(0, (-1, draws)), ends[1:]])


Measure = Callable[[Pairs, Tap | None, Weights | None], Tensor]


def _patched(
    subject: Subject,
    pairs: Pairs,
    values: Float[Tensor, "rows T c"],
    chosen: Bool[Tensor, "K c"],
    measure: Measure,
    *,
    circuit: bool,
) -> Float[Tensor, "K *out"]:
    """What f_C (circuit) or f gives with each set of nodes at the values, several sets per forward."""
    rows, tokens = pairs.flat_tokens.shape
    found = []
    for part in chosen.to(values.device).split(max(1, CHUNK_TOKENS // (rows * tokens))):
        patch = Patch(subject.channels, values.repeat(len(part), 1, 1), part.repeat_interleave(rows, 0))
        measured = measure(repeat_pairs(pairs, len(part)), *subject.way(circuit, patch))
        found.append(measured.unflatten(0, (len(part), -1)))
    return torch.cat(found)


@dataclass(frozen=True, kw_only=True)
class ResampleAblation:
    """Task loss of the circuit in surroundings that belong to another prompt (F8), nats."""

    own_ablation: Estimate
    """With the circuit's own ablation values outside it: L(f_C)."""
    same_class: Estimate
    """What is outside takes its values in f on another prompt with the same answer."""
    other_class: Estimate
    """On another prompt with the other answer: what is left of the answer outside the circuit now speaks against it."""


@torch.no_grad()
def resample_ablation(subject: Subject, *, seed: int = 0) -> ResampleAblation:
    """F8. The other prompt is of another pair, of the same template where it has one.

    Raises ValueError for a single pair.
    """
    donors = donor_pairs(torch.tensor([pair.template for pair in subject.pairs.texts]), seed)
    losses = subject.per_part(lambda part: _resampled(subject, part, donors[part]), width=4 * subject.layout.size)
    return ResampleAblation(
        own_ablation=subject.resampling.mean(subject.circuit_losses()),
        same_class=subject.resampling.mean(losses[0]),
        other_class=subject.resampling.mean(losses[1]),
    )


def donor_pairs(templates: Int[Tensor, " n"], seed: int) -> Int[Tensor, " n"]:
    """Another pair for every pair, each given once, of the same template except for the only pair of a template."""
    n = len(templates)
    if n < 2:
        raise ValueError("resample ablation needs values from another pair, and there is 1; draw at least 2")
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(n, generator=generator)
    order = shuffled[templates[shuffled].argsort(stable=True)]  # by template, in random order within
    donors = torch.empty(n, dtype=torch.long)
    alone = []
    for group in order.split(templates.unique(return_counts=True)[1].tolist()):
        donors[group] = group.roll(-1)
        alone += group.tolist() if len(group) == 1 else []
    if len(alone) == 1:  # it goes between a pair and that one's donor
        other = int(order[order != alone[0]][0])
        donors[alone[0]], donors[other] = donors[other].clone(), alone[0]
    elif alone:
        donors[alone] = torch.tensor(alone).roll(-1)
    return donors


def _resampled(subject: Subject, part: Int[Tensor, " m"], donors: Int[Tensor, " m"]) -> Float[Tensor, "2 m"]:
    """Loss with the surroundings of a prompt of the same class, and of the other."""
    pairs, others = subject.pairs.take(part), subject.pairs.take(donors)
    seen = Record(subject.layout.widths)
    subject.model(others.flat_tokens, tap=seen, logits_at=others.last)
    masks = {site: mask.to(subject.device) for site, mask in subject.layout.split(subject.kept).items()}
    losses = []
    for swap in (False, True):
        source = _other_prompt(others.last) if swap else others.last
        acts = {site: _other_prompt(x) if swap else x for site, x in seen.acts.items()}
        values = {site: aligned(x, source, pairs.last, pairs.tokens.shape[-1]) for site, x in acts.items()}
        weights = subject.way(circuit=True)[1]
        losses.append(pair_losses(subject.model, pairs, Mask(masks, values), subject.circuit.loss_kind, weights))
    return torch.stack(losses)


def _other_prompt(rows: Tensor) -> Tensor:
    """Rows [2 n, ...] with prompts A and B of every pair exchanged."""
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def aligned(
    values: Float[Tensor, "rows S w"], source: Int[Tensor, " rows"], base: Int[Tensor, " rows"], tokens: int
) -> Float[Tensor, "rows T w"]:
    """Values of source prompts at the positions of base prompts of `tokens` padded tokens; their last tokens (at positions `source`
    and `base`) fall together."""
    places = torch.arange(tokens, device=values.device) - base[:, None] + source[:, None]
    return values.take_along_dim(places.clamp(min=0).minimum(source[:, None])[..., None], 1)


@dataclass(frozen=True, kw_only=True)
class InterchangeAccuracy:
    """Whether circuit and model answer alike when nodes take their values from the pair's other prompt (F8)."""

    accuracy: Estimate
    """Share of prompts and node sets where the answer flips in both or in neither."""
    by_chance: float
    """What that share would be if both flipped as often, but independently."""
    flips_model: Estimate
    """Share where the model's answer flips. Where it is near 0 or 1, and so is the circuit's, accuracy says little."""
    flips_circuit: Estimate
    """Share where the circuit's answer flips."""
    whole_circuit: Estimate
    """`accuracy` with all nodes of the circuit exchanged at once."""
    sets: int
    """Node sets: random parts of the circuit of sizes spread evenly up to all of it."""


@torch.no_grad()
def interchange_accuracy(subject: Subject, *, sets: int = 16, seed: int = 0) -> InterchangeAccuracy | None:
    """F8 on `sets` node sets; None for an empty circuit."""
    if not subject.nodes:
        return None
    chosen = _parts(len(subject.nodes), sets, seed)
    in_model, in_circuit = (
        subject.per_pair(lambda pairs, c=circuit: _flips(subject, pairs, chosen, c), width=len(subject.nodes))
        for circuit in (False, True)
    )
    model, circuit = in_model.double(), in_circuit.double()
    alike = (model == circuit).double().mean(-2)
    often = float(model.mean()), float(circuit.mean())
    over_draws = subject.resampling.over_draws
    return InterchangeAccuracy(
        accuracy=over_draws(alike),
        by_chance=often[0] * often[1] + (1 - often[0]) * (1 - often[1]),
        flips_model=over_draws(model.mean(-2)),
        flips_circuit=over_draws(circuit.mean(-2)),
        whole_circuit=subject.resampling.mean(alike[-1]),
        sets=sets,
    )


def _parts(size: int, sets: int, seed: int) -> Bool[Tensor, "K c"]:
    """Random sets of sizes up to, and the last of them, all."""
    rank = torch.rand(sets, size, generator=torch.Generator().manual_seed(seed)).argsort(-1)
    return rank < torch.tensor([max(1, round((i + 1) / sets * size)) for i in range(sets)])[:, None]


def _flips(subject: Subject, pairs: Pairs, chosen: Bool[Tensor, "K c"], circuit: bool) -> Bool[Tensor, "K 2 n"]:
    """Whether the answer to prompt A and B of every pair changes sides when the nodes take the other prompt's values."""
    values = _other_prompt(subject.activations(pairs, circuit=circuit))
    values = aligned(values, _other_prompt(pairs.last), pairs.last, pairs.tokens.shape[-1])
    sets = torch.cat([torch.zeros_like(chosen[:1]), chosen])

    def contrasts(pairs: Pairs, tap: Tap | None, weights: Weights | None) -> Float[Tensor, "n 2"]:
        return contrast(subject.model, pairs, tap, weights)

    first = _patched(subject, pairs, values, sets, contrasts, circuit=circuit) > 0
    return (first[1:] != first[:1]).transpose(1, 2)
