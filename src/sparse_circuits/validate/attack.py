"""Context dilution: an attack that a circuit predicts, measured on the whole model (METHOD F18).

An algorithm that averages over the context, as bracket counting does in the paper, fails where the average is diluted. So:
1. Make the prompts of every pair longer, both prompts alike, by more and more of some filling (`FILLINGS`): elements of the list
   that is open at the end, or lines above. The right completions stay what they were.
2. Run the model, and the circuit, on the prompts of every length. The circuit's curve is the prediction: it was found on short
   prompts, by pruning that never saw a long one.
3. Compare: loss and accuracy of both, and the correlation of their contrasts z_A - z_B over prompts of all lengths.

A prompt that would not fit the model's positions is an error, not a silent cut: the beginning is what the attack is about.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_circuits.circuit.evaluate import contrast, usable_tokens
from sparse_circuits.tasks.pairs import EncodedPair, Pair, Pairs, encode_pairs, pack
from sparse_circuits.validate.robustness import ShiftedScore, scored
from sparse_circuits.validate.statistics import Estimate
from sparse_circuits.validate.subject import Subject

ADDED = (0, 2, 4, 8, 16, 24)
"""Fillings per prompt, where nothing else is asked for."""
FAILING = 0.75
"""An accuracy below this, half-way to guessing, counts as failing."""
_NUMBERS = tuple(str(number) for number in range(2, 31))
_NAMES = ("x", "y", "z", "a", "b", "c", "n", "i")


@dataclass(frozen=True, kw_only=True)
class AttackPoint:
    """One length."""

    added: int
    """Fillings put into every prompt."""
    tokens: float
    """Mean tokens of a prompt."""
    score: ShiftedScore
    """Loss and accuracy of the model and of the circuit, and their gaps."""
    contrasts_model: tuple[Estimate, Estimate]
    """Mean z_A - z_B of the model after prompts of class A and of class B, logits."""
    contrasts_circuit: tuple[Estimate, Estimate]
    """The same of the circuit."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An attack: predicted by the circuit, measured on the model."""

    task: str
    filling: str
    points: tuple[AttackPoint, ...]
    correlation: float | None
    """Pearson correlation of both contrasts over all prompts of all lengths; None where one does not vary."""
    fails_at_model: int | None
    """The fewest fillings at which the model's accuracy is below `FAILING`; None: at none of those tried."""
    fails_at_circuit: int | None
    """The same of the circuit: what it predicts."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@torch.no_grad()
def context_dilution(
    subject: Subject, *, added: Sequence[int] = ADDED, filling: "str | Filling" = "elements", seed: int = 0
) -> Attack:
    """Measures model and circuit on the subject's pairs with fillings in their prompts.

    added: fillings per prompt, one point of the curve each. filling: a name in `FILLINGS`, or a function of your own.
    Raises ValueError for an unknown filling, a number below 0, and prompts that have no place for it or get too long for the model.
    """
    name, fill = _named(filling)
    if not added or min(added) < 0:
        raise ValueError(f"added must be one or more numbers of fillings, each at least 0, given {list(added)}")
    points, moments = [], []
    for count in sorted(set(added)):
        longer = replace(subject, pairs=diluted(subject, count, fill, seed))
        f, f_c = (_contrasts(longer, circuit) for circuit in (False, True))
        moments.append(torch.stack([f.flatten(), f_c.flatten()]))
        mean = longer.resampling.mean
        points.append(
            AttackPoint(
                added=count,
                tokens=float(longer.pairs.lengths.double().mean()),
                score=scored(longer),
                contrasts_model=(mean(f[:, 0]), mean(f[:, 1])),
                contrasts_circuit=(mean(f_c[:, 0]), mean(f_c[:, 1])),
            )
        )
    correlation = float(torch.corrcoef(torch.cat(moments, -1))[0, 1])
    return Attack(
        task=subject.task.name,
        filling=name,
        points=tuple(points),
        correlation=correlation if correlation == correlation else None,
        fails_at_model=_fails_at(points, lambda score: score.model_accuracy.value),
        fails_at_circuit=_fails_at(points, lambda score: score.circuit_accuracy.value),
    )


def diluted(subject: Subject, count: int, fill: "Filling", seed: int = 0) -> Pairs:
    """The subject's pairs with `count` fillings in both prompts of each; the same ones for the same seed.

    Fillings that the tokenizer or the model's vocabulary cannot take in one pair are drawn again, a few times.
    """
    usable = frozenset(usable_tokens(subject.model).nonzero().flatten().tolist())
    longest = subject.model.config.block_size if subject.model.positions is not None else None
    found = []
    for index, pair in enumerate(subject.pairs.texts):
        found.append(_one(subject, pair, fill, count, Random(f"{seed}|{index}"), usable, longest))
    return pack(found, subject.pairs.fixed_completions).to(subject.device)


def _named(filling: "str | Filling") -> "tuple[str, Filling]":
    if callable(filling):
        return getattr(filling, "__name__", "fillings"), filling
    if filling not in FILLINGS:
        raise ValueError(f"unknown filling {filling!r}; allowed: {', '.join(FILLINGS)}")
    return filling, FILLINGS[filling]


_TRIES = 20


def _one(
    subject: Subject, pair: Pair, fill: "Filling", count: int, rng: Random, usable: frozenset[int], longest: int | None
) -> EncodedPair:
    problem = ""
    for _ in range(_TRIES):
        encoded = encode_pairs(subject.tokenizer, [fill(pair, count, rng)])[0]
        missing = {*encoded.prompts[0], *encoded.prompts[1]} - usable
        length = max(map(len, encoded.prompts))
        if longest is not None and length > longest:
            raise ValueError(
                f"with {count} fillings a prompt of {subject.task.name} has {length} tokens, the model has positions for "
                f"{longest}; add fewer"
            )
        if not encoded.faults and not missing:
            return encoded
        problem = encoded.faults[0].detail if encoded.faults else "a filling has tokens without embedding in this model"
    raise ValueError(f"{subject.task.name} cannot take {count} fillings: {problem}; choose another filling")


def _contrasts(subject: Subject, circuit: bool) -> Float[Tensor, "n 2"]:
    found = subject.per_pair(lambda pairs: contrast(subject.model, pairs, *subject.way(circuit)).T)
    return found.T.double()


def _fails_at(points: Sequence[AttackPoint], accuracy: Callable[[ShiftedScore], float]) -> int | None:
    return next((point.added for point in points if accuracy(point.score) < FAILING), None)


# fillings: (pair, how many, source of chance) -> the pair with both prompts made longer in the same way

Filling = Callable[[Pair, int, Random], Pair]


def elements(pair: Pair, count: int, rng: Random) -> Pair:
    """Numbers before the last element of the list, set or call that is open at the end of both prompts."""
    more = "".join(f", {rng.choice(_NUMBERS)}" for _ in range(count))

    def longer(prompt: str) -> str:
        before, comma, last = prompt.rpartition(", ")
        if not comma or not last.isdigit():
            raise ValueError(
                f"{prompt[-40:]!r} does not end in an element after a comma, so no elements can be added; use the filling `lines`"
            )
        return f"{before}{more}, {last}"

    return pair._replace(prompt_a=longer(pair.prompt_a), prompt_b=longer(pair.prompt_b))


def lines(pair: Pair, count: int, rng: Random) -> Pair:
    """Assignments of numbers, one a line, above both prompts."""
    more = "".join(f"{rng.choice(_NAMES)} = {rng.choice(_NUMBERS)}\n" for _ in range(count))
    return pair._replace(prompt_a=more + pair.prompt_a, prompt_b=more + pair.prompt_b)


FILLINGS: Mapping[str, Filling] = {"elements": elements, "lines": lines}
"""What prompts can be diluted with, by name."""
