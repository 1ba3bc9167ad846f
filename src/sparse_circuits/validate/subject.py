"""What a validation looks at: a circuit with its model, its task and held-out pairs, and the ways to run them.

1. `Subject.of` draws the pairs (split test by default) and checks that model, task and tokenizer are the circuit's own.
2. f is the model as it is. f_C is the model with every node outside the circuit at its ablation value and the circuit's cut
   edges cut (METHOD D13). Any other set of nodes is scored by `losses`, with the edges cut or not: what is taken out of the
   circuit is scored with them cut, what is taken out of the model without.
3. `activations` records the circuit's nodes in f or in f_C; a `Patch` sets them to what was recorded elsewhere.
4. A control is a subject too: `with_nodes` puts any other nodes in the circuit's place, `on` asks another split.

Source: METHOD section 3. Shapes: n pairs, K masks, N nodes of the model, c nodes of the circuit, T tokens, rows = 2 n prompts.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.circuit.evaluate import (
    Weights,
    check_origin,
    circuit_tap,
    circuit_weights,
    own_values,
    usable_tokens,
)
from sparse_circuits.circuit.mask_scorer import CHUNK_TOKENS, MaskScorer
from sparse_circuits.data.tokenizer import tokenizer_hash
from sparse_circuits.model.folder import model_hash
from sparse_circuits.model.taps import Chain, Mask, Tap
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.mask import NodeLayout
from sparse_circuits.sites import Node
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.tasks.task import Task
from sparse_circuits.validate.statistics import Resampling

PAIRS = 128
"""Pairs that metrics are measured on: some score hundreds of node sets on all of them."""
CHUNK_NUMBERS = 64_000_000
"""Activations held at once where a metric needs those of all nodes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A circuit under examination."""

    circuit: Circuit
    model: SparseTransformer
    task: Task
    tokenizer: Any
    split: str
    """Where the pairs come from."""
    seed: int
    """That drew the pairs, and draws the replicates behind intervals."""
    pairs: Pairs

    @classmethod
    def of(
        cls,
        circuit: Circuit,
        model: SparseTransformer,
        task: Task,
        tokenizer: Any,
        *,
        n: int = PAIRS,
        split: str = "test",
        seed: int = 0,
    ) -> "Subject":
        """Draws n pairs of a split.

        Raises ValueError if the circuit has no ablation values or does not fit the model, if model, task or tokenizer are not
        those it was made with, or if the task cannot be asked.
        """
        own_values(circuit)  # before anything is read or drawn
        check_origin("model", circuit.model.hash, model_hash(model))
        check_origin("task", circuit.task_origin.hash, task.hash)
        check_origin("tokenizer", circuit.tokenizer.hash, tokenizer_hash(tokenizer))
        circuit_tap(circuit, model)
        pairs = _drawn(model, task, tokenizer, split, n, seed)
        return cls(circuit=circuit, model=model, task=task, tokenizer=tokenizer, split=split, seed=seed, pairs=pairs)

    def on(self, split: str, n: int | None = None) -> "Subject":
        """The same circuit on another split; n pairs, None: as many. Raises ValueError if it cannot be asked."""
        pairs = _drawn(self.model, self.task, self.tokenizer, split, n or self.pairs.n, self.seed)
        return replace(self, split=split, pairs=pairs)

    def with_nodes(self, nodes: Iterable[Node]) -> "Subject":
        """Other nodes in the circuit's place, no edge cut. Raises ValueError for a node that the model does not have."""
        circuit = self.circuit.replace(nodes=tuple(nodes), cut_edges=())
        circuit_tap(circuit, self.model)
        return replace(self, circuit=circuit)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @cached_property
    def layout(self) -> NodeLayout:
        """Places of the nodes in a mask."""
        return NodeLayout.of(self.model.widths)

    @cached_property
    def kept(self) -> Float[Tensor, " N"]:
        """The circuit's mask: 1 at its nodes."""
        return self.layout.flat(self.circuit.nodes)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The circuit's nodes in the order of the mask, which is that of `activations`."""
        return self.layout.nodes(self.kept)

    @cached_property
    def channels(self) -> dict[str, Int[Tensor, " w"]]:
        """Site -> the circuit's channels there; sites without any are left out."""
        kept = self.layout.kept(self.kept[None])
        return {site: channels.to(self.device) for site, channels in kept.items() if len(channels)}

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """Ablation values, node site -> Float[width]."""
        values = own_values(self.circuit)
        return {site: values[site].to(self.device) for site in self.layout.widths}

    @cached_property
    def resampling(self) -> Resampling:
        """Replicates of the pairs, for intervals."""
        return Resampling.of(torch.tensor([pair.template for pair in self.pairs.texts]), seed=self.seed)

    @cached_property
    def tap(self) -> Mask:
        """Makes the model compute f_C, together with `edges`."""
        return circuit_tap(self.circuit, self.model)

    @cached_property
    def _cut(self) -> dict[str, Tensor]:
        return circuit_weights(self.circuit, self.model)

    def edges(self, cut: float | Tensor) -> dict[str, Tensor]:
        """Parameters with the circuit's cut edges cut to a degree from 0 (as in the model) to 1; empty where it has none."""
        own = dict(self.model.named_parameters())
        degree = torch.as_tensor(cut, dtype=torch.float32, device=self.device)
        return {name: torch.lerp(own[name].detach(), gone, degree) for name, gone in self._cut.items()}

    def way(self, circuit: bool, beside: Tap | None = None) -> tuple[Tap | None, Weights | None]:
        """Tap and parameters that run f_C (circuit) or f, with another tap beside, which acts after the mask."""
        if not circuit:
            return beside, None
        return (self.tap if beside is None else Chain(self.tap, beside)), self.edges(1.0) or None

    def losses(self, masks: Float[Tensor, "K N"], *, cut: float) -> Float[Tensor, "K n"]:
        """Task loss of every mask on every pair, nats; `cut` as in `edges`: 1 for parts of the circuit, 0 for the model's."""
        scorer = MaskScorer(
            model=self.model,
            layout=self.layout,
            values=self.values,
            pairs=self.pairs,
            kind=self.circuit.loss_kind,
            weights=(self.edges(cut) or None) if cut else None,
        )
        return scorer.losses(masks).cpu()

    def model_losses(self) -> Float[Tensor, " n"]:
        """Task loss of f on every pair, nats; scored as a mask that keeps all, so that the full circuit scores the same."""
        return self.losses(torch.ones(1, self.layout.size), cut=0.0)[0]

    def circuit_losses(self) -> Float[Tensor, " n"]:
        """Task loss of f_C on every pair, nats."""
        return self.losses(self.kept[None], cut=1.0)[0]

    def empty_losses(self) -> Float[Tensor, " n"]:
        """Task loss with every node ablated on every pair, nats."""
        return self.losses(torch.zeros(1, self.layout.size), cut=0.0)[0]

    def random_masks(self, count: int, seed: int) -> Float[Tensor, "K N"]:
        """Random sets with as many nodes at every site as the circuit has."""
        generator = torch.Generator().manual_seed(seed)
        masks = torch.zeros(count, self.layout.size)
        for site, part in self.layout.split(masks).items():
            chosen = torch.rand(part.shape, generator=generator).argsort(-1)[:, : len(self.channels.get(site, ()))]
            part.scatter_(1, chosen, 1.0)
        return masks

    def per_part(self, measure: Callable[[Tensor], Tensor], *, width: int = 1) -> Tensor:
        """Measures [..., m] of parts of the pairs, given by their m indices, put together as [..., n] on the CPU.

        Pairs of a part have similar lengths. width: numbers that a measure holds per token; where that is much, parts are small.
        """
        order = self.pairs.lengths.amax(-1).argsort(stable=True).cpu()
        most = min(CHUNK_TOKENS, CHUNK_NUMBERS // max(1, width)) // (2 * self.pairs.tokens.shape[-1])
        parts = order.split(max(1, most))
        return torch.cat([measure(part).cpu() for part in parts], -1)[..., order.argsort()]

    def per_pair(self, measure: Callable[[Pairs], Tensor], *, width: int = 1) -> Tensor:
        """The same for measures of the pairs themselves."""
        return self.per_part(lambda part: measure(self.pairs.take(part)), width=width)

    def activations(self, pairs: Pairs, *, circuit: bool) -> Float[Tensor, "rows T c"]:
        """The circuit's nodes at every token (padding included) of these pairs, in f_C or in f."""
        seen = _Pick(self.channels)
        tap, weights = self.way(circuit, seen)
        self.model(pairs.flat_tokens, tap=tap, logits_at=pairs.last, weights=weights)
        found = [seen.acts[site] for site in self.channels]
        return torch.cat(found, -1).float() if found else torch.zeros(*pairs.flat_tokens.shape, 0)


def _drawn(model: SparseTransformer, task: Task, tokenizer: Any, split: str, n: int, seed: int) -> Pairs:
    device = next(model.parameters()).device
    return task.pairs(split, n, tokenizer, seed=seed, usable=usable_tokens(model)).to(device)


def real_tokens(pairs: Pairs) -> Bool[Tensor, "rows T"]:
    """Which tokens of `flat_tokens` are no padding."""
    return torch.arange(pairs.tokens.shape[-1], device=pairs.tokens.device) <= pairs.last[:, None]


class _Pick:
    """A tap that keeps some channels of some sites: acts, site -> Float[B, T, w]."""

    def __init__(self, channels: Mapping[str, Tensor]) -> None:
        self.channels = channels
        self.acts: dict[str, Tensor] = {}

    def wants(self, site: str) -> bool:
        return site in self.channels

    def __call__(self, site: str, x: Tensor) -> Tensor:
        self.acts[site] = x.index_select(-1, self.channels[site])
        return x


class Patch:
    """A tap that sets chosen nodes of the circuit, row by row, to given values.

    channels: site -> the circuit's channels there (Subject.channels). values: what the circuit's nodes are set to. chosen:
    which of them, in every row.
    """

    def __init__(
        self, channels: Mapping[str, Tensor], values: Float[Tensor, "rows T c"], chosen: Bool[Tensor, "rows c"]
    ) -> None:
        widths = [len(part) for part in channels.values()]
        self.channels = channels
        self.values = dict(zip(channels, values.split(widths, -1), strict=True))
        self.chosen = dict(zip(channels, chosen[:, None].split(widths, -1), strict=True))

    def wants(self, site: str) -> bool:
        return site in self.channels

    def __call__(self, site: str, x: Tensor) -> Tensor:
        own = x.index_select(-1, self.channels[site])
        new = torch.where(self.chosen[site], self.values[site].to(x.dtype), own)
        return x.index_copy(-1, self.channels[site], new)
