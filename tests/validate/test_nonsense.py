"""Nonsense labels: what they ask is computed by hand, and a recipe that solves them as cheaply as the task fails."""

from collections import Counter
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sparse_circuits.data.tokenizer import token_text
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.validate import nonsense as module
from sparse_circuits.validate.again import Rerun
from sparse_circuits.validate.nonsense import LABELS, nonsense, relabelled, token_pair
from validate.planted import by_hand, prompts, small_model, truth
from validate.repeated import QUICK, first, rerun_of


def writes_everything(*tokens: int) -> SparseTransformer:
    """The small model, which also writes these tokens (all, if none is named), from the channel of the answer."""
    model = deepcopy(small_model())
    with torch.no_grad():
        rows = list(tokens) or range(len(model.unembed.weight))
        for sign, token in enumerate(rows):
            if not bool(model.unembed.weight[token].any()):
                model.unembed.weight[token, 1] = 6.0 if sign % 2 else -6.0
    return model


def common_tokens(rerun: Rerun) -> list[int]:
    """Tokens that stand as often in prompts A as in B and are no answer, most frequent first, by plain counting."""
    counts = Counter(), Counter()
    answers: set[int] = set()
    for index, (ids, right, wrong) in enumerate(prompts(rerun.problem.pairs["train"])):
        counts[index % 2].update(ids)
        answers |= {right, wrong}
    alike = [t for t in counts[0] if counts[0][t] == counts[1][t] and t not in answers]
    return sorted(alike, key=lambda t: (-counts[0][t], t))


def test_swapped_and_constant_labels_by_hand() -> None:
    """A model that is sure loses on swapped labels about what it is sure of."""
    rerun = rerun_of()
    problem = replace(rerun.problem, pairs=first(rerun.problem, 3))
    swapped, constant = relabelled(problem, "swapped"), relabelled(problem, "constant")
    asked = int(problem.pairs["train"].completions[0, 0])
    by_swap, by_constant = [], []
    for ids, right, wrong in prompts(problem.pairs["val"]):
        logits = by_hand(rerun.subject, ids)[0]
        by_swap.append(float(F.cross_entropy(logits[[wrong, right]][None], torch.tensor([0]))))
        by_constant.append(float(F.cross_entropy(logits[None], torch.tensor([asked]))))
    assert swapped.model_loss.val == pytest.approx(sum(by_swap) / 6, rel=1e-5) and swapped.model_loss.val > 10
    assert constant.model_loss.val == pytest.approx(sum(by_constant) / 6, rel=1e-5)
    assert constant.config.loss_kind == "full_vocab" and swapped.config == problem.config
    assert swapped.pairs["val"].fixed_completions
    text, new = problem.pairs["val"].texts[0], swapped.pairs["val"].texts[0]
    assert (new.completion_a, new.completion_b) == (text.completion_b, text.completion_a) and new[:2] == text[:2]


def test_shuffled_labels_swap_half_of_the_pairs() -> None:
    problem = rerun_of().problem
    one, other = relabelled(problem, "shuffled"), relabelled(problem, "shuffled")
    for split, pairs in problem.pairs.items():
        swapped = (one.pairs[split].completions != pairs.completions).all(-1)
        assert int(swapped.sum()) == pairs.n // 2
        assert torch.equal(one.pairs[split].completions[~swapped], pairs.completions[~swapped])
        assert torch.equal(one.pairs[split].completions, other.pairs[split].completions)
        assert torch.equal(one.pairs[split].tokens, pairs.tokens) and not one.pairs[split].fixed_completions
    assert problem.pairs["val"].fixed_completions


def test_the_token_pair_is_common_and_answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rerun, tokenizer = rerun_of(writes_everything()), truth().tokenizer
    train, expected = rerun.problem.pairs["train"], common_tokens(rerun)
    assert token_pair(rerun.model, tokenizer, train) == tuple(expected[:2])
    usual = expected[3], expected[5]
    monkeypatch.setattr(module, "USUAL", tuple(token_text(tokenizer, token) for token in usual))
    assert token_pair(rerun.model, tokenizer, train) == usual
    assert token_pair(writes_everything(*usual[:1], *expected[:2]), tokenizer, train) == tuple(expected[:2])
    with pytest.raises(ValueError, match="no two tokens to ask for: .* 0 that answer nothing") as caught:
        token_pair(small_model(), tokenizer, train)
    assert "\n" not in str(caught.value)


def test_nonsense_as_cheap_as_the_task_fails() -> None:
    """Two tokens are written by the channel that writes the answer: the same nodes tell them apart."""
    tokens = common_tokens(rerun_of())[:2]
    rerun = rerun_of(writes_everything(*tokens), n=2)
    (row,) = nonsense(rerun)
    assert row.outcome == "fail" and row.value is not None and row.value.value == 0 and row.value.n == 2
    pair = row.details["runs"]["token pair"]
    assert pair["nodes"] == row.details["own"]["nodes"] and pair["met_on_val"] == [True, True]
    assert "token pair: " in row.reason and not row.details["bound"]
    assert set(row.details["runs"]) == set(LABELS) and row.details["left_out"] == {}
    assert row.details["runs"]["swapped"]["met_on_val"] == [False, False]


def test_nonsense_that_is_never_reached_is_a_bound() -> None:
    (row,) = nonsense(rerun_of(n=2))
    own = row.details["own"]["nodes"][0]
    assert row.outcome == "pass" and row.details["bound"]
    assert row.value.value == pytest.approx(float(torch.tensor(60 / own).log2()), rel=1e-5)
    assert set(row.details["left_out"]) == {"token pair"} and "all 60 (target missed)" in row.reason


def test_an_objective_without_labels_gives_way_to_the_task_loss() -> None:
    problem = rerun_of(recipe=QUICK.replace(objective="kl_to_model")).problem
    assert relabelled(problem, "swapped").config == QUICK and problem.config.objective == "kl_to_model"
    with pytest.raises(ValueError, match="unknown labels 'silly'; allowed: token pair, swapped"):
        relabelled(problem, "silly")
