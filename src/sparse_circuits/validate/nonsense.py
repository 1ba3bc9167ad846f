"""Does the recipe find small circuits for labels that mean nothing (METHOD F10)?

A recipe that solves nonsense with as few nodes as the task says nothing about the model. The same pairs, the same recipe and the
same target, but other labels in training, validation and test:
- `token pair`: two arbitrary tokens in place of the two completions, " is" after A and " when" after B. Where the tokenizer splits
  one of them, or the model never writes or reads it: the two most frequent prompt tokens that stand as often in prompts A as in B.
- `swapped`: each prompt's answer is the other one's.
- `shuffled`: swapped in half of the pairs, at random. No circuit can tell which; should one be found, the pipeline leaks.
- `constant`: one completion is right after every prompt. The binary loss sets one completion against the other and cannot ask
  for it, so this is the cross-entropy of that token over the vocabulary, uncalibrated: a fitted shift alone would answer it. The
  same target is harder to reach in that loss, and nothing has to be told apart; so it is reported, and does not decide.

An objective that copies the model (`kl_to_model`) has no labels: with other labels, the task loss takes its place.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from sparse_circuits.circuit.evaluate import usable_tokens
from sparse_circuits.data.tokenizer import encode, token_text
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.problem import Problem
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.validate.again import FACTOR, Rerun, selectivity_row, solve_control
from sparse_circuits.validate.card import Row
from sparse_circuits.validate.thresholds import Standard

LABELS = ("token pair", "swapped", "shuffled", "constant")
COUNTED = LABELS[:3]
"""Labels that take telling prompts apart, as the true ones do; the row's value is the smallest selectivity among them."""
USUAL = (" is", " when")
STANDARD = Standard(
    number="F10",
    unit="bits, log2 of the nodes under nonsense labels over those under the true ones, smallest over kinds of labels",
    low=FACTOR,
    why="Twice the nodes: seeds of one recipe may differ by that factor, so nonsense that costs less is as easy as the task.",
)


def nonsense(rerun: Rerun, progress: Progress = SILENT) -> tuple[Row, ...]:
    """F10, one row. Costs two runs of learning for each kind of labels, and two for the true ones where no control made them."""
    own, runs, told, left_out = rerun.own(rerun.few, progress), {}, {}, {}
    for labels in LABELS:
        try:
            problem = relabelled(rerun.problem, labels)
        except ValueError as error:
            left_out[labels] = str(error)
            continue
        progress.say(f"pruning with nonsense labels: {labels}")
        runs[labels] = solve_control(problem, rerun.few, progress)
        first = problem.pairs["val"].texts[0]
        told[labels] = {
            "example": [first.completion_a, first.completion_b],
            "loss_kind": problem.config.loss_kind,
            "model_loss": problem.model_loss.val,
        }
    details: dict[str, Any] = {"labels": told, "left_out": left_out, "decided_by": list(COUNTED)}
    return (selectivity_row("nonsense_control", STANDARD, own, runs, counted=COUNTED, details=details),)


def relabelled(problem: Problem, labels: str) -> Problem:
    """The same problem with other labels on every split. Raises ValueError for an unknown kind, or where there is no token pair."""
    if labels not in LABELS:
        raise ValueError(f"unknown labels {labels!r}; allowed: {', '.join(LABELS)}")
    train, config = problem.pairs["train"], problem.config.replace(objective="task_loss")
    tokens: Sequence[int] = ()
    if labels == "token pair":
        tokens = token_pair(problem.model, problem.tokenizer, train)
    elif labels == "constant":
        tokens = (int(train.completions[:, 0].mode().values),) * 2
        config = config.replace(loss_kind="full_vocab", target_on="loss")

    def completions(pairs: Pairs, seed: int) -> Int64[Tensor, "n 2"]:
        if tokens:
            return torch.tensor(tokens, device=pairs.tokens.device).expand(pairs.n, 2).clone()
        swap = torch.ones(pairs.n, dtype=torch.bool)
        if labels == "shuffled":
            swap = torch.randperm(pairs.n, generator=torch.Generator().manual_seed(seed)) < pairs.n // 2
        return torch.where(swap[:, None].to(pairs.tokens.device), pairs.completions.flip(-1), pairs.completions)

    fixed = bool(tokens) or (labels == "swapped" and train.fixed_completions)
    pairs = {
        split: _answered(drawn, completions(drawn, seed), fixed, problem.tokenizer)
        for seed, (split, drawn) in enumerate(problem.pairs.items())
    }
    return replace(problem, pairs=pairs, config=config)


def _answered(pairs: Pairs, completions: Int64[Tensor, "n 2"], fixed: bool, tokenizer: Any) -> Pairs:
    """The same prompts with other answers, in the texts as well."""
    names = {token: token_text(tokenizer, token) for token in completions.unique().tolist()}
    texts = tuple(
        text._replace(completion_a=names[a], completion_b=names[b])
        for text, (a, b) in zip(pairs.texts, completions.tolist(), strict=True)
    )
    return Pairs(pairs.tokens, pairs.lengths, completions, texts, fixed)


def token_pair(model: SparseTransformer, tokenizer: Any, train: Pairs) -> tuple[int, int]:
    """Two tokens that have nothing to do with the task: " is" and " when", or by the rule above (ties: the lower id).

    Raises ValueError where there are no two.
    """
    written = (model.unembed.weight != 0).any(-1) & usable_tokens(model)
    answers = set(train.completions.flatten().tolist())

    def fits(token: int) -> bool:
        return bool(written[token]) and token not in answers

    usual = [encode(tokenizer, text) for text in USUAL]
    if all(len(ids) == 1 and fits(ids[0]) for ids in usual):
        return usual[0][0], usual[1][0]
    counts: list[Counter[int]] = [Counter(), Counter()]
    for prompts, lengths in zip(train.tokens.tolist(), train.lengths.tolist(), strict=True):
        for side in (0, 1):
            counts[side].update(prompts[side][: lengths[side]])
    alike = sorted((t for t in counts[0] if counts[0][t] == counts[1][t] and fits(t)), key=lambda t: (-counts[0][t], t))
    if len(alike) < 2:
        raise ValueError(
            f"no two tokens to ask for: of those as often in prompts A as in B, the model reads and writes {len(alike)} that "
            "answer nothing"
        )
    return alike[0], alike[1]
