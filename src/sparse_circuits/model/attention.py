"""Causal attention over heads as plain functions: the pattern with its sink column, and the cache of earlier keys.

Shapes: B batch, H heads, T queries, S keys, D d_head.
"""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class Cache(Protocol):
    """What the forward pass asks of a cache."""

    @property
    def length(self) -> int:
        """Tokens seen so far."""
        ...

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Appends this pass's keys and values Float[B, H, T, D] of a layer and returns all of them."""
        ...


class KVCache:
    """Keys and values of the tokens seen so far, one pair per layer: Float[B, H, S, D] after taps and AbsTopK."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def length(self) -> int:
        """Tokens seen so far."""
        return next(iter(self.layers.values()))[0].shape[2] if self.layers else 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Appends this pass's keys and values and returns all of them."""
        if layer in self.layers:
            old_k, old_v = self.layers[layer]
            k, v = torch.cat([old_k, k], 2), torch.cat([old_v, v], 2)
        self.layers[layer] = (k, v)
        return k, v


def attention_pattern(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H S D"],
    sink: Float[Tensor, " H"] | None,
    visible: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "B H T K"]:
    """Attention weights, K = S plus one last column for the sink.

    visible: Bool[T, S] or [B, 1, T, S], None = `causal`. The sink logit is added as it is, without the scale, and belongs
    to a value of zero, which is why the other columns sum to less than 1.
    """
    scores = q @ k.transpose(-1, -2)
    scores = (scores.float() if scores.dtype.itemsize < 4 else scores) / math.sqrt(q.shape[-1])
    seen = causal(q.shape[2], k.shape[2], None, q.device) if visible is None else visible
    scores = scores.masked_fill(~seen, -math.inf)
    if sink is not None:
        scores = torch.cat([scores, sink.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], -1)
    return scores.softmax(-1)


def causal(queries: int, keys: int, real: Bool[Tensor, "B S"] | None, device: torch.device) -> Bool[Tensor, "... T S"]:
    """Which keys a query sees when the last query stands at the last key: itself and all before.

    real: which keys are tokens; padding is seen by nobody but itself.
    """
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    if real is None:
        return seen
    itself = torch.eye(keys, dtype=torch.bool, device=device)[keys - queries :]
    return seen & (real[:, None, None, :] | itself)


def up_to(last: Int[Tensor, " B"], keys: int, real: Bool[Tensor, "B S"] | None) -> Bool[Tensor, "B 1 1 S"]:
    """Which keys one query per row sees, which stands at key `last`."""
    seen = torch.arange(keys, device=last.device) <= last[:, None]
    return (seen if real is None else seen & real)[:, None, None, :]


def token_positions(tokens: Int[Tensor, "B T"], seen: int, real: Bool[Tensor, "B S"] | None) -> Int[Tensor, "..."]:
    """Position of every token, [T], or with padding [B, T]: padding is not counted. seen: tokens already in the cache."""
    if real is None:
        return torch.arange(seen, seen + tokens.shape[1], device=tokens.device)
    return (real.long().cumsum(-1) - 1).clamp(min=0)[:, seen:]
