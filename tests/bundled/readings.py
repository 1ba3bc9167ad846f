"""What the tests of the read circuits share: the circuit and the whole model on the same pairs, and changes to activations."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import sparse_circuits as sc
from sparse_circuits.circuit.evaluate import circuit_tap, contrast, usable_tokens
from sparse_circuits.model.taps import Chain, Record, Tap
from sparse_circuits.tasks.pairs import Pair, Pairs, encode_pairs, pack


class Change:
    """Functions of the activation at some sites; each gets a copy."""

    def __init__(self, at: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
        self.at = at

    def wants(self, site: str) -> bool:
        return site in self.at

    def __call__(self, site: str, x: Tensor) -> Tensor:
        return self.at[site](x.clone())


@dataclass(frozen=True)
class Way:
    """A circuit, or the whole model (no mask), on pairs of its task."""

    model: Any
    tokenizer: Any
    pairs: Pairs
    mask: Tap | None
    acts: Mapping[str, Tensor]
    contrasts: Tensor
    """z_A - z_B after both prompts, [n, 2]."""
    opening: Tensor
    """Where the two prompts of its pair part, per row."""

    @property
    def is_circuit(self) -> bool:
        return self.mask is not None

    @property
    def rows(self) -> Tensor:
        return torch.arange(2 * self.pairs.n)

    def at_opening(self, site: str, channel: int) -> Tensor:
        """Where the prompts part, [n, 2]: A and B."""
        return self.acts[site][self.rows, self.opening, channel].view(-1, 2)

    def looks(self, layer: int, head: int) -> Tensor:
        """Attention of the last token, [2n, T + sink]."""
        return self.acts[f"{layer}.attn.pattern"][self.rows, head, self.pairs.last]

    @torch.no_grad()
    def changed(self, at: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
        """z_A - z_B [n, 2] with functions applied to the activation at some sites."""
        change = Change(at)
        return contrast(self.model, self.pairs, change if self.mask is None else Chain(self.mask, change))

    @torch.no_grad()
    def seen(self, at: Mapping[str, Callable[[Tensor], Tensor]], site: str) -> tuple[Tensor, Tensor]:
        """What `changed` gives, and the activation at a site in the same pass."""
        found = Record([site])
        taps = (tap for tap in (self.mask, Change(at), found) if tap is not None)
        return contrast(self.model, self.pairs, Chain(*taps)), found.acts[site]

    def exchanged(self, site: str, channels: Iterable[int]) -> Callable[[Tensor], Tensor]:
        """Gives each prompt the other one's channels where the prompts part."""
        other, found = self.rows ^ 1, self.acts[site]

        def function(x: Tensor) -> Tensor:
            for channel in channels:
                x[self.rows, self.opening, channel] = found[other, self.opening[other], channel]
            return x

        return function

    @torch.no_grad()
    def asked(self, change: Callable[[Pair], Pair]) -> Tensor:
        """z_A - z_B on the same pairs with other text."""
        encoded = encode_pairs(self.tokenizer, [change(pair) for pair in self.pairs.texts])
        return contrast(self.model, pack(encoded, self.pairs.fixed_completions), self.mask)


def open_way(
    task: str, circuit: bool, sites: Iterable[str], n: int = 128, take: Callable[[Pair], bool] = lambda _: True
) -> Way:
    """The circuit of a task in the box, or the whole model, on test pairs."""
    found, model, tokenizer = sc.load_circuit(f"bundled/{task}"), sc.load_model("bundled"), sc.load_tokenizer("bundled")
    assert found.cut_edges == ()
    pairs = sc.load_task(task).pairs("test", n, tokenizer, usable=usable_tokens(model))
    pairs = pairs.take([i for i, pair in enumerate(pairs.texts) if take(pair)])
    mask, seen = circuit_tap(found, model) if circuit else None, Record([*sites])
    with torch.no_grad():
        z = contrast(model, pairs, seen if mask is None else Chain(mask, seen))
    opening = (pairs.tokens[:, 0] != pairs.tokens[:, 1]).int().argmax(-1).repeat_interleave(2)
    return Way(model, tokenizer, pairs, mask, seen.acts, z, opening)


def right(z: Tensor) -> tuple[float, float]:
    """Share of prompts of class A and of class B answered rightly."""
    return float((z[:, 0] > 0).float().mean()), float((z[:, 1] < 0).float().mean())
