"""The built-in tasks against Python itself and against an own count of what is open."""

import ast
import time

import pytest
import torch

from sparse_circuits.tasks.load import load_task, task_names
from sparse_circuits.tasks.task import SPLITS

ASKED = {"train": 5000, "test": 2000}


@pytest.mark.parametrize("name", task_names())
@pytest.mark.parametrize("split", ASKED)
def test_there_are_enough_distinct_pairs_in_every_template(name, split):
    task, n = load_task(name), ASKED[split]
    drawn = task.sample(split, n)
    assert len({pair[:2] for pair in drawn}) == n
    counts = [sum(pair.template == i for pair in drawn) for i in range(len(task.templates[split]))]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("name", task_names())
@pytest.mark.parametrize("split", SPLITS)
def test_natural_text_is_python(name, split):
    for pair in load_task(name).sample(split, 60):
        ast.parse(pair.prompt_a + pair.completion_a + pair.continuation_a)
        ast.parse(pair.prompt_b + pair.completion_b + pair.continuation_b)


@pytest.mark.parametrize("split", SPLITS)
def test_an_own_rule_solves_each_task(split):
    """The rule that `determined_by` states, written down independently, gives every answer."""
    rules = {
        "single_double_quote": lambda text: ("'" if "'" in text else '"') + ")\n",
        "bracket_counting": lambda text: "]" * (text.count("[") - text.count("]")) + "\n",
        "set_or_string": lambda text: (
            ".add" if f"{text.split()[-1]} = set()" in [line.strip() for line in text.split("\n")] else " +="
        ),
    }
    for name, rule in rules.items():
        for pair in load_task(name).sample(split, 200):
            assert (rule(pair.prompt_a), rule(pair.prompt_b)) == (pair.completion_a, pair.completion_b)


def test_a_thousand_pairs_take_less_than_a_second(tokenizer):
    for name in task_names():
        start = time.perf_counter()
        pairs = load_task(name).pairs("train", 1024, tokenizer)
        assert time.perf_counter() - start < 1
        assert pairs.n == 1024 and pairs.tokens.dtype == torch.int64 and pairs.fixed_completions


def test_transformers_tokenizers_give_the_same_pairs(tokenizer):
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>")
    wrapped(["x", "x = 1"], padding=True)  # leaves padding switched on in the backend
    task = load_task("bracket_counting")
    assert torch.equal(task.pairs("val", 40, wrapped).tokens, task.pairs("val", 40, tokenizer).tokens)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="unknown task 'quotes'; allowed: single_double_quote, .*path of a .jsonl"):
        load_task("quotes")
    with pytest.raises(ValueError, match="no task file at missing.jsonl"):
        load_task("missing.jsonl")
