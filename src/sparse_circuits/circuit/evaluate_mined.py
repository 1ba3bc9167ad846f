"""Scores of a model, or of a circuit in it, on mined pairs (tasks/mined.py), and on every mined point alone.

A pair is scored like any pair of a task (evaluate.py). A point alone asks whether the right completion has the higher
logit of the two; classes of real code are seldom of one size, so the mean of both classes' shares stands beside.

Shapes: rows of a chunk, T tokens of its longest prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.circuit.evaluate import (
    Weights,
    binary_losses,
    circuit_tap,
    circuit_weights,
    contrast,
    last_logits,
)
from sparse_circuits.kernels.sparse_product import frozen
from sparse_circuits.model.folder import stored_tokenizer_hash
from sparse_circuits.model.taps import Tap
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.tasks.mined import MinedTask, Point
from sparse_circuits.tasks.pairs import Pairs

CHUNK_TOKENS = 4096
"""Tokens of one forward: few, because a process that mines holds the mined texts as well."""
MOST_POINTS = 500
"""Points per class behind an unpaired accuracy; assignments alone have thousands."""


@dataclass(frozen=True, kw_only=True)
class MinedEvaluation:
    """What a model scores on one mined task."""

    loss: float | None
    """Mean binary loss of the pairs, nats; None without pairs."""
    accuracy: float | None
    """Share of the pairs' prompts whose right completion has the higher logit of the two; None without pairs."""
    n_pairs: int
    unpaired_accuracy: float | None
    """The same share over single points, each with its own wrong completion; None without points."""
    balanced_accuracy: float | None
    """Mean of that share over class A and over class B; None where a class has no points."""
    n_points: Mapping[str, int]
    """Points of class "A" and "B" that were asked."""


class _Asked(NamedTuple):
    """Who answers: the model, or a circuit as tap and changed parameters."""

    model: SparseTransformer
    tap: Tap | None
    weights: Weights


@torch.no_grad()
def evaluate_mined(
    model: SparseTransformer, mined: MinedTask, *, circuit: Circuit | None = None, most: int | None = MOST_POINTS
) -> MinedEvaluation:
    """Scores what was mined of a task, on the model's device, in chunks of prompts of similar length.

    circuit: None scores the whole model. most: points per class that are asked alone, drawn at random but always the same
    ones; None: all. Raises ValueError, one line, if the task was mined with another tokenizer than the model's, as far as it
    knows, or if the circuit does not fit the model.
    """
    _check(model, mined)
    asked = _Asked(model, None, {})
    if circuit is not None:
        asked = _Asked(model, circuit_tap(circuit, model), circuit_weights(circuit, model))
    with frozen(model):
        contrasts = _pair_contrasts(asked, mined.pairs) if mined.pairs is not None else torch.zeros(0, 2)
        classes = [_answered(asked, _some([p for p in mined.points if p.side == side], most)) for side in (0, 1)]
    right = torch.stack([contrasts[:, 0] > 0, contrasts[:, 1] < 0], -1).float()
    answered = torch.cat(classes)
    return MinedEvaluation(
        loss=float(binary_losses(contrasts).mean()) if len(contrasts) else None,
        accuracy=float(right.mean()) if len(contrasts) else None,
        n_pairs=len(contrasts),
        unpaired_accuracy=float(answered.mean()) if len(answered) else None,
        balanced_accuracy=float(sum(c.mean() for c in classes)) / 2 if all(map(len, classes)) else None,
        n_points={"A": len(classes[0]), "B": len(classes[1])},
    )


def _some(points: Sequence[Point], most: int | None) -> Sequence[Point]:
    return points if most is None or len(points) <= most else Random(0).sample(points, most)


def _check(model: SparseTransformer, mined: MinedTask) -> None:
    own = None if model.source is None else stored_tokenizer_hash(model.source)
    most = max((max(*point.tokens, *point.answers) for point in mined.points), default=0)
    if (own is not None and own != mined.tokenizer_hash) or most >= model.config.vocab_size:
        raise ValueError(
            f"{mined.name} was mined with another tokenizer (hash {mined.tokenizer_hash[:12]}) than the model's; "
            "mine it again with the model's own tokenizer"
        )


def _pair_contrasts(asked: _Asked, pairs: Pairs) -> Tensor:
    """[n, 2] z_A - z_B after both prompts of every pair, on the CPU."""
    device = next(asked.model.parameters()).device
    found = torch.zeros(pairs.n, 2)
    for chunk in _chunks((2 * pairs.lengths.max(-1).values).tolist()):
        found[chunk] = contrast(asked.model, pairs.take(chunk).to(device), asked.tap, asked.weights).cpu()
    return found


def _answered(asked: _Asked, points: Sequence[Point]) -> Tensor:
    """[n] 1 where the right completion of a point has the higher logit, on the CPU."""
    device = next(asked.model.parameters()).device
    found = torch.zeros(len(points))
    for chunk in _chunks([len(point.tokens) for point in points]):
        chosen = [points[i] for i in chunk]
        width = max(len(point.tokens) for point in chosen)
        rows = torch.tensor([[*point.tokens, *[0] * (width - len(point.tokens))] for point in chosen], device=device)
        last = torch.tensor([len(point.tokens) - 1 for point in chosen], device=device)
        answers = torch.tensor([point.answers for point in chosen], device=device)
        logits = last_logits(asked.model, rows, last, asked.tap, asked.weights).gather(-1, answers)
        found[chunk] = (logits[:, 0] > logits[:, 1]).float().cpu()
    return found


def _chunks(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices by rising length, in chunks that hold at most CHUNK_TOKENS tokens once padded."""
    chunk: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if chunk and lengths[i] * (len(chunk) + 1) > CHUNK_TOKENS:
            yield chunk
            chunk = []
        chunk.append(i)
    if chunk:
        yield chunk
