"""Do the parts of the circuit do what they do in the model: activations of its nodes, attention of its heads.

A circuit can reach its loss with nodes that mean something else once the rest is ablated, or with heads that no longer look
anywhere in particular. Both are seen by running f and f_C on the same prompts, with AbsTopK active in both:
- `node_roles` (METHOD F6): per node, the fraction of variance unexplained (FVU) and the correlation of its activation in f_C
  with that in f, over all tokens that are no padding.
- `attention_divergence` (F7): per head with a kept q, k or v, how far its pattern in f_C is from that in f, what it gives the
  sink, and how evenly it spreads the rest.

Shapes: n pairs, T tokens, rows = 2 n prompts, c nodes of the circuit, R replicates, H heads.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_circuits.explain.examples import HEAD_SITES, head_of, kept_heads
from sparse_circuits.model.taps import Record
from sparse_circuits.sites import Node, split_site
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.validate.statistics import Estimate, defined, varying
from sparse_circuits.validate.subject import Subject, real_tokens

REPURPOSED = 0.5
"""Correlation below which a node counts as repurposed (METHOD F6)."""
SELECTIVE, UNIFORM = 0.8, 0.95
"""Uniformity below which a head selects tokens (METHOD F7), and from which on it does not any more. A real circuit without the q
of a head of 0.71 had 0.84: less sharp, yet it looks where the model looks, and total variation says how far it is off."""
NODES_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class NodeRole:
    """One node's activation in the circuit against that in the model (F6)."""

    node: Node
    fvu: Estimate | None
    """sum (a_C - a_f)^2 / sum (a_f - mean a_f)^2 over tokens; 0: the same. None where it does not vary in the model."""
    correlation: Estimate | None
    """Pearson correlation of a_C and a_f over tokens. None where it does not vary in either."""


@dataclass(frozen=True, kw_only=True)
class NodeRoles:
    """All nodes of a circuit (F6)."""

    nodes: tuple[NodeRole, ...]
    """In forward order."""
    repurposed: tuple[Node, ...]
    """Correlation below 0.5: they mean something else in the circuit."""
    flipped: tuple[Node, ...]
    """Correlation below 0: those among them that mean the opposite."""
    silenced: tuple[Node, ...]
    """They vary in the model and are constant in the circuit."""
    repurposed_share: Estimate | None
    """Share of the nodes with a correlation whose correlation is below 0.5; None where no node has one."""


@torch.no_grad()
def node_roles(subject: Subject) -> NodeRoles:
    """F6 for every node of the circuit."""
    if not subject.nodes:
        return NodeRoles(nodes=(), repurposed=(), flipped=(), silenced=(), repurposed_share=None)
    moments = subject.per_pair(lambda pairs: _moments(subject, pairs), width=12 * len(subject.nodes))
    fvu, correlation = (_per_node(subject, moments, index) for index in (0, 1))
    roles = tuple(
        NodeRole(node=node, fvu=f, correlation=c) for node, f, c in zip(subject.nodes, fvu, correlation, strict=True)
    )
    values = {role.node: role.correlation.value for role in roles if role.correlation is not None}
    known = torch.tensor([role.correlation is not None for role in roles], dtype=torch.bool)
    return NodeRoles(
        nodes=roles,
        repurposed=tuple(node for node, value in values.items() if value < REPURPOSED),
        flipped=tuple(node for node, value in values.items() if value < 0),
        silenced=tuple(role.node for role in roles if role.fvu is not None and role.correlation is None),
        repurposed_share=subject.resampling.estimate(lambda weights: _share(weights, moments[known]))
        if values
        else None,
    )


def _moments(subject: Subject, pairs: Pairs) -> Float[Tensor, "c 6 n"]:
    """Per node and pair, sums over tokens of 1, f, C, f f, C C, f C, with f and C the activations."""
    f, c = (subject.activations(pairs, circuit=circuit).double() for circuit in (False, True))
    real = real_tokens(pairs)[..., None].double().expand_as(f)
    terms = torch.stack([real, real * f, real * c, real * f * f, real * c * c, real * f * c])
    return terms.unflatten(1, (pairs.n, -1)).sum((2, 3)).permute(2, 0, 1)


def _per_node(subject: Subject, moments: Float[Tensor, "c 6 n"], index: int) -> list[Estimate | None]:
    """FVU (index 0) or correlation (1) of every node, a few nodes at a time."""
    found: list[Estimate | None] = []
    for part in moments.split(NODES_AT_ONCE):
        found += subject.resampling.estimates(lambda weights, part=part: _fvu_and_correlation(weights, part)[index])
    return found


def _fvu_and_correlation(
    weights: Float[Tensor, "R n"], moments: Float[Tensor, "c 6 n"]
) -> tuple[Float[Tensor, "R c"], Float[Tensor, "R c"]]:
    """NaN where they are not defined."""
    tokens, f, c, ff, cc, fc = (moments @ weights.T).permute(1, 2, 0)
    f, c, ff, cc, fc = f / tokens, c / tokens, ff / tokens, cc / tokens, fc / tokens
    in_f, in_c = varying(ff, f), varying(cc, c)
    return (ff + cc - 2 * fc).clamp(min=0) / in_f, (fc - f * c) / (in_f * in_c).sqrt()


def _share(weights: Float[Tensor, "R n"], moments: Float[Tensor, "c 6 n"]) -> Float[Tensor, " R"]:
    below = torch.zeros(len(weights), dtype=torch.float64)
    for part in moments.split(NODES_AT_ONCE):
        below += (_fvu_and_correlation(weights, part)[1] < REPURPOSED).double().sum(-1)
    return below / max(1, len(moments))


@dataclass(frozen=True, kw_only=True)
class HeadDivergence:
    """One head's attention in the circuit against that in the model (F7); means over all queries that are no padding."""

    layer: int
    head: int
    kept: tuple[int, int, int]
    """Its q, k and v channels in the circuit."""
    total_variation: Estimate
    """Half the sum of absolute differences of the two patterns, 0..1; the sink is one of the columns."""
    kl: Estimate
    """KL(pattern in f || pattern in f_C), nats, the sink included."""
    sink_model: Estimate
    """What the head gives the sink in the model, 0..1; 0 for a model without sinks."""
    sink_circuit: Estimate
    """The same in the circuit."""
    uniformity_model: Estimate | None
    """Entropy of the pattern over tokens (without the sink, scaled to sum 1) / log(tokens the query sees), in the model; queries
    weigh by what they do not give the sink, those that see one token do not count. None where no query counts."""
    uniformity_circuit: Estimate | None
    """The same in the circuit; 1 where it has no k, or a constant one."""
    dead: bool
    """The circuit kept v but no q or no k, and the head, which selects tokens in the model (uniformity < 0.8), does not in the
    circuit (>= 0.95)."""


@torch.no_grad()
def attention_divergence(subject: Subject) -> tuple[HeadDivergence, ...]:
    """F7 for every head with a kept q, k or v channel, by layer and head.

    A head whose query is constant needs no q node, so a missing one alone is no fault: a head counts as dead only where the
    circuit's pattern has in fact become uniform. (METHOD F7 flags it by its nodes alone.)
    """
    heads = kept_heads(subject.circuit, subject.model.config.d_head)
    if not heads:
        return ()
    layers = sorted({layer for layer, _ in heads})
    width = 16 * subject.model.config.n_head * len(layers) * (subject.pairs.tokens.shape[-1] + 1)
    found = subject.per_pair(lambda pairs: _head_sums(subject, pairs, layers), width=width)
    return tuple(_divergence(subject, layer, head, found[layers.index(layer), :, head]) for layer, head in heads)


def _head_sums(subject: Subject, pairs: Pairs, layers: list[int]) -> Float[Tensor, "layers 9 H n"]:
    """Sums over the queries of a pair; rows as `_divergence` reads them."""
    patterns = []
    for circuit in (False, True):
        seen = Record([f"{layer}.attn.pattern" for layer in layers])
        tap, weights = subject.way(circuit, seen)
        subject.model(pairs.flat_tokens, tap=tap, logits_at=pairs.last, weights=weights)
        patterns.append(seen.acts)
    real = real_tokens(pairs)
    sums = [
        _pattern_sums(patterns[0][site].double(), patterns[1][site].double(), real)
        for site in (f"{layer}.attn.pattern" for layer in layers)
    ]
    return torch.stack(sums).unflatten(-1, (pairs.n, 2)).sum(-1)


def _pattern_sums(
    f: Float[Tensor, "rows H T S"], c: Float[Tensor, "rows H T S"], real: Bool[Tensor, "rows T"]
) -> Float[Tensor, "9 H rows"]:
    tokens = f.shape[2]
    tiny = torch.finfo(torch.float64).tiny
    kl = (f * (f.clamp(min=tiny).log() - c.clamp(min=tiny).log())).sum(-1).clamp(min=0)
    rows = [torch.ones_like(kl), (f - c).abs().sum(-1) / 2, kl, f[..., tokens:].sum(-1), c[..., tokens:].sum(-1)]
    for pattern in (f, c):
        rows += _evenness(pattern[..., :tokens])
    return (torch.stack(rows) * real[:, None]).sum(-1).transpose(1, 2)


def _evenness(pattern: Float[Tensor, "rows H T T"]) -> list[Float[Tensor, "rows H T"]]:
    """Uniformity of every query times its weight, and the weight."""
    given = pattern.sum(-1)
    shares = pattern / given[..., None].clamp(min=1e-30)
    entropy = -torch.special.xlogy(shares, shares).sum(-1)
    seen = torch.arange(1, pattern.shape[-1] + 1, device=pattern.device)
    weight = given * (seen > 1)
    return [weight * entropy / seen.double().log().clamp(min=0.5), weight]


def _divergence(subject: Subject, layer: int, head: int, sums: Float[Tensor, "9 n"]) -> HeadDivergence:
    queries, variation, kl, sink_f, sink_c, even_f, weight_f, even_c, weight_c = sums
    resampling = subject.resampling
    in_f, in_c = resampling.ratio(even_f, weight_f), resampling.ratio(even_c, weight_c)
    q, k, v = (_kept_channels(subject, layer, head, site) for site in HEAD_SITES)
    spread = in_f is not None and in_c is not None and in_f.value < SELECTIVE and in_c.value >= UNIFORM
    return HeadDivergence(
        layer=layer,
        head=head,
        kept=(q, k, v),
        total_variation=defined(resampling.ratio(variation, queries)),
        kl=defined(resampling.ratio(kl, queries)),
        sink_model=defined(resampling.ratio(sink_f, queries)),
        sink_circuit=defined(resampling.ratio(sink_c, queries)),
        uniformity_model=in_f,
        uniformity_circuit=in_c,
        dead=v > 0 and not (q and k) and spread,
    )


def _kept_channels(subject: Subject, layer: int, head: int, site: str) -> int:
    own = (node for node in subject.nodes if split_site(node.site) == (layer, site))
    return sum(head_of(node, subject.model.config.d_head) == head for node in own)
