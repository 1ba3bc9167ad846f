"""The batch on which circuits are chosen: which pairs, and which of them stand or fall together."""

import math

import pytest
import torch

from sparse_circuits.prune.choice import choice_batch, mean_and_error
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.tasks.pairs import Pair, Pairs, joined


def pairs(templates: list[int], length: int, first: int = 0) -> Pairs:
    """One pair per template index, all prompts of this length, tokens counted up from `first`."""
    n = len(templates)
    tokens = torch.arange(first, first + n * 2 * length).view(n, 2, length)
    texts = tuple(Pair(f"a{first}{i}", "b", "c", "d", template) for i, template in enumerate(templates))
    return Pairs(tokens, torch.full((n, 2), length), torch.tensor([[7, 8]] * n), texts, True)


def test_validation_pairs_come_first_and_templates_of_both_splits_are_told_apart() -> None:
    splits = {"train": pairs([0, 1, 0, 2], 3, first=100), "val": pairs([0, 1, 1], 2), "test": pairs([5], 2)}
    batch = choice_batch(splits, 2, 3)
    assert [text.prompt_a for text in batch.pairs.texts] == ["a00", "a01", "a1000", "a1001", "a1002"]
    assert batch.templates.tolist() == [0, 1, 2, 3, 2], "template 0 of validation is not template 0 of training"
    assert choice_batch(splits, 99, 99).pairs.n == 7, "as many as there are"
    assert choice_batch(splits, 2, 0).templates.tolist() == [0, 1]


def test_joined_pads_to_the_longest_prompt() -> None:
    both = joined([pairs([0], 2), pairs([1], 3, first=50)])
    assert both.tokens.tolist() == [[[0, 1, 0], [2, 3, 0]], [[50, 51, 52], [53, 54, 55]]]
    assert both.lengths.tolist() == [[2, 2], [3, 3]] and both.completions.tolist() == [[7, 8]] * 2
    assert [text.template for text in both.texts] == [0, 1]


def test_the_standard_error_is_that_of_the_template_means() -> None:
    losses = torch.tensor([[1.0, 3.0, 5.0, 7.0]])
    mean, error = mean_and_error(losses, torch.tensor([0, 0, 1, 1]))
    assert float(mean) == 4 and float(error) == pytest.approx(math.sqrt(8) / math.sqrt(2))  # means 2 and 6
    mean, error = mean_and_error(losses, torch.tensor([4, 4, 4, 4]))
    assert float(error) == pytest.approx(math.sqrt(20 / 3) / 2)  # one template: over the pairs
    assert float(mean_and_error(losses[:, :1], torch.tensor([0]))[1]) == 0


def test_the_target_is_held_on_the_worse_split() -> None:
    """By hand: on validation the template means are 1 and 3 (mean 2, error 1), on training 2 and 2 (mean 2, no error)."""
    batch = choice_batch({"train": pairs([0, 1], 2), "val": pairs([0, 1], 2)}, 2, 2)
    found = batch.scores(torch.tensor([[1.0, 3.0, 2.0, 2.0], [0.0, 0.0, 5.0, 5.0]]))
    assert found.mean.tolist() == [2.0, 2.5] and found.bound.tolist() == [3.0, 5.0]
    assert found.error.tolist() == pytest.approx([(2 / 3) ** 0.5 / 2, (25 / 3) ** 0.5 / 2])


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="choice_train_pairs must be at least 0, given -1"):
        PruneConfig(choice_train_pairs=-1)
