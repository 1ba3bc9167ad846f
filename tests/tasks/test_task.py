"""Drawing and tokenising pairs, against counts and token ids worked out by hand."""

import re
import time
from itertools import permutations
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparse_circuits.data.tokenizer import encode, make_tokenizer
from sparse_circuits.tasks.draw import permutation
from sparse_circuits.tasks.load import load_task
from sparse_circuits.tasks.pairs import MAX_PROMPT
from sparse_circuits.tasks.task import Task, Template

BYTES = {chr(code): code - 33 for code in range(33, 127)}  # printable ASCII stands for itself in the byte alphabet


def one_template(a: str, b: str, words: dict[str, tuple[str, ...]], completions=("]", "]]"), **more) -> Task:
    templates = {split: (Template(a, b, **more),) for split in ("train", "val", "test")}
    return Task("one", "", "", completions, templates, fixed=words)


def test_hand_tokenised_pair():
    extra = ["Ġ", "Ċ", "]]"]
    vocab = {**BYTES, **{token: 94 + i for i, token in enumerate(extra)}}
    tokenizer = make_tokenizer(vocab, [("]", "]")])
    pairs = one_template("<w>[1", "<w>[[1", {"w": ("q",)}).pairs("val", 5, tokenizer)
    q, bracket, one, close = BYTES["q"], BYTES["["], BYTES["1"], BYTES["]"]
    assert pairs.n == 1
    assert pairs.tokens.tolist() == [[[q, bracket, one, 0], [q, bracket, bracket, one]]]
    assert pairs.lengths.tolist() == [[3, 4]]
    assert pairs.completions.tolist() == [[close, 96]]
    assert pairs.flat_tokens.tolist() == pairs.tokens[0].tolist()
    assert pairs.last.tolist() == [2, 3]


def test_fills_every_combination_once_with_different_words_per_list():
    task = one_template("<w> <w2> <n> a < b <other>", "<n><w2>", {"w": ("p", "q", "r"), "n": ("1", "2")})
    expected = {f"{x} {y} {n} a < b <other>" for x, y in permutations("pqr", 2) for n in "12"}
    assert task.count("train") == 12
    drawn = task.sample("train", 100)
    assert len(drawn) == 12 and {pair.prompt_a for pair in drawn} == expected
    assert all(pair.prompt_b == pair.prompt_a[4] + pair.prompt_a[2] for pair in drawn)


def test_colliding_combinations_are_one_pair():
    task = one_template("<w><v>", "<w><v>b", {"w": ("a", "ab"), "v": ("b", "bb")})
    assert task.count("test") == 4  # but a+bb and ab+b are the same text
    assert sorted(pair.prompt_a for pair in task.sample("test", 9)) == ["ab", "abb", "abbb"]


@given(st.integers(1, 60), st.integers(0, 9))
def test_permutation_is_one(total, seed):
    assert sorted(permutation(total, Random(seed))) == list(range(total))


@pytest.mark.parametrize("name", ["single_double_quote", "bracket_counting", "set_or_string"])
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["train", "val", "test"]), st.integers(1, 60), st.integers(0, 1000))
def test_pairs_are_distinct_deterministic_and_prefix_stable(name, tokenizer, split, n, seed):
    task = load_task(name)
    pairs, more = task.pairs(split, n, tokenizer, seed), task.pairs(split, n + 17, tokenizer, seed)
    assert pairs.n == n and len(set(pairs.texts)) == n
    assert more.texts[:n] == pairs.texts
    ends = pairs.flat_tokens[torch.arange(2 * n), pairs.last].view(n, 2)
    assert torch.equal(ends[:, 0], ends[:, 1])
    for pair, row, lengths, answers in zip(pairs.texts, pairs.tokens, pairs.lengths, pairs.completions, strict=True):
        for side in (0, 1):
            prompt = encode(tokenizer, pair.prompt(side))
            assert row[side].tolist() == prompt + [0] * (row.shape[1] - len(prompt)) and lengths[side] == len(prompt)
            text = pair.prompt(side) + pair.completion(side) + (pair.continuation_a, pair.continuation_b)[side]
            assert encode(tokenizer, text)[: len(prompt) + 1] == [*prompt, int(answers[side])]
    counts = [sum(p.template == i for p in pairs.texts) for i in range(len(task.templates[split]))]
    assert max(counts) - min(counts) <= 1


def test_another_seed_draws_other_pairs(make):
    task = make(
        fixed={"n": tuple(map(str, range(50)))},
        templates={s: (Template("<n>", "(<n>"),) for s in ("train", "val", "test")},
        fillers={},
    )
    assert task.sample("train", 10, 0) != task.sample("train", 10, 1)
    assert task.sample("train", 10, 0) != task.sample("val", 10, 0)


def test_huge_spaces_cost_nothing():
    words = {name: tuple(f"{name}{i}" for i in range(200)) for name in "abcdefghijkl"}
    text = " ".join(f"<{name}>" for name in words)
    start = time.perf_counter()
    assert len(one_template(text, text + " ", words).sample("train", 300)) == 300
    assert time.perf_counter() - start < 1


def test_long_prompts_lose_their_beginning(tokenizer):
    task = one_template(
        "y = [1, 2]\n" * 60 + "<w> = [1, 2", "y = [1, 2]\n" * 60 + "<w> = [[1, 2", {"w": ("item",)}, ("]\n", "]]\n")
    )
    pairs = task.pairs("train", 1, tokenizer)
    assert pairs.tokens.shape == (1, 2, MAX_PROMPT)
    assert pairs.tokens[0, 1].tolist() == encode(tokenizer, pairs.texts[0].prompt_b)[-MAX_PROMPT:]


def test_unusable_tokens_are_passed_over_or_named(make, tokenizer):
    task, usable = make(), torch.ones(1200, dtype=torch.bool)
    everything = task.pairs("train", 100, tokenizer)
    token = encode(tokenizer, "key")[0]
    usable[token] = False
    some = task.pairs("train", 100, tokenizer, usable=usable)
    readable = [token not in row for row in everything.tokens.flatten(1).tolist()]
    assert set(some.texts) == {text for text, good in zip(everything.texts, readable, strict=True) if good}
    assert some.texts[:4] == task.pairs("train", 4, tokenizer, usable=usable).texts
    assert 0 < some.n < everything.n
    usable[everything.completions[0, 1]] = False
    with pytest.raises(ValueError, match=re.escape("holds a token without embedding in this model (']]\\n'")):
        task.pairs("train", 100, tokenizer, usable=usable)


def test_take_keeps_the_class_axis(make, tokenizer):
    pairs = make().pairs("train", 9, tokenizer)
    taken = pairs.take([4, 1])
    assert taken.texts == (pairs.texts[4], pairs.texts[1])
    assert torch.equal(taken.tokens, pairs.tokens[[4, 1]])
    assert torch.equal(taken.last, pairs.last.view(-1, 2)[[4, 1]].flatten())
    assert torch.equal(taken.completions, pairs.completions[[4, 1]]) and taken.fixed_completions
    assert torch.equal(pairs.to("cpu").lengths, pairs.lengths)


def test_completions_may_follow_the_slots(tokenizer):
    task = one_template("a, b = <n>, <n2>\n", "a, b = <n2>, <n>\n", {"n": ("1", "2")}, ("<n>", "<n2>"))
    pairs = task.pairs("train", 9, tokenizer)
    assert pairs.n == 2 and not pairs.fixed_completions
    assert {(p.completion_a, p.completion_b) for p in pairs.texts} == {("1", "2"), ("2", "1")}


def test_hash_follows_the_pairs_not_the_prose(make):
    task = make()
    assert task.hash == make(statement="Other words.").hash and len(task.hash) == 64
    assert task.hash != make(name="closing2").hash
    assert task.hash != make(completions=("]\n", "]]]\n")).hash


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"completions": ("]\n", "]]]]]]\n")}, "completion ']]]]]]\\\\n' splits into .* train a tokenizer"),
        ({"completions": ("]\n", "2")}, "completion '2' is not the token after the prompt.*end the prompt where"),
    ],
)
def test_ill_posed_pairs_are_refused_in_one_line(make, tokenizer, changes, message):
    with pytest.raises(ValueError, match=f"task 'closing', train template 0: .*{message}") as caught:
        make(**changes).pairs("train", 4, tokenizer)
    assert "\n" not in str(caught.value)


def test_contradictions_are_refused(make):
    words = {"name": {"train": ("a",), "val": ("b",), "test": ("c",)}}
    with pytest.raises(ValueError, match="train template 1 needs 2 words of list 'name', which has 1; add words"):
        make(fillers=words)
    with pytest.raises(ValueError, match="'<name3>' uses <name3>, which its prompts do not"):
        make(completions=("<name3>", "]]\n"))
    with pytest.raises(ValueError, match="list 'name' is both per split and fixed"):
        make(fixed={"name": ("a",)})
    with pytest.raises(ValueError, match="list 'name' has an empty or repeated word in val"):
        make(fillers={"name": {"train": ("a", "b"), "val": ("b", "b"), "test": ("c",)}})
    with pytest.raises(ValueError, match="list 'name' given for train; give all of train, val, test"):
        make(fillers={"name": {"train": ("a", "b")}})
    with pytest.raises(ValueError, match="unknown split 'dev' of task 'closing'; allowed: train, val, test"):
        make().sample("dev", 3)
    with pytest.raises(ValueError, match="0 pairs asked for"):
        make().sample("train", 0)
