"""Known models with more than one path: two that do the same, one that only disturbs, two that cancel each other.

The task is always the same: a token of kind + or - stands somewhere in the prompt and decides between two completions. What
differs is what else the model does with it, and so what the truth is (`ground_truth`): several circuits, or one that leaves
out what is loud and unhelpful, or one that leaves out what the model cannot lose alone.
"""

from typing import Any

from sparse_circuits.data.tokenizer import vocab_size
from sparse_circuits.tasks.task import SPLITS, Task
from sparse_circuits.validate.compiler import Compiler, Copy, Match
from sparse_circuits.validate.ground_truth import GroundTruth, begin_model, finish_model
from sparse_circuits.validate.known_lookups import ANCHOR, KIND, MARK, SHAPE, swapped, token

OUT, OUT2, SIDE, SIDE2 = 29, 41, 20, 7
"""Channels: the answer, a second one, and what a side path carries."""
NOISE = 25
"""Channel: a word that has nothing to do with the answer."""
HOT, COLD, WARM, COOL, VERY = " hot", " cold", " warm", " cool", " very"

WEATHER_PROMPTS = {
    "train": (
        "the <word> is very hot now, make it",
        "a hot <word> is here, so keep it",
        "we found the <word> hot again and make it",
        "this very <word> was hot and we keep it",
    ),
    "val": (
        "our <word> is very hot today, turn it",
        "one hot <word> is there, so turn it",
        "they left the <word> hot once more, turn it",
        "that very <word> got hot and they turn it",
    ),
    "test": (
        "my <word> is very hot too, change it",
        "some hot <word> is near, so change it",
        "he took the <word> hot as before, change it",
        "her very <word> felt hot and he changed it",
    ),
}
WEATHER_WORDS = {
    "train": ("soup", "tea", "room", "bath", "house", "plate"),
    "val": ("pan", "car", "hall", "milk", "floor"),
    "test": ("egg", "pool", "bed", "rice", "shop"),
}


def weather_task() -> Task:
    """Hot things are made cool, cold ones warm."""
    return Task(
        "hot_or_cold",
        "Say cool after something hot and warm after something cold.",
        "the prompts differ in that one word",
        (COOL, WARM),
        {s: swapped(WEATHER_PROMPTS[s], HOT, COLD, ".\n") for s in SPLITS},
        {"word": WEATHER_WORDS},
    )


def _begin() -> tuple[Task, Any, Compiler, list[tuple[int, int]]]:
    """Task, tokenizer, a compiler in which the kinds are marked, and the tokens that distractors must not tell apart."""
    task = weather_task()
    tokenizer, compiler = begin_model(task, 340, n_layer=1, block_size=64, **SHAPE)
    hot, cold, cool, warm = (token(tokenizer, text) for text in (HOT, COLD, COOL, WARM))
    compiler.embed(range(vocab_size(tokenizer)), ANCHOR, 5.0)
    compiler.embed([hot, cold], MARK, 3.0)
    compiler.embed([hot], KIND, 3.0)
    compiler.embed([cold], KIND, -3.0)
    return task, tokenizer, compiler, [(hot, cold), (cool, warm)]


def _write_lookup(compiler: Compiler, completions: tuple[int, int], weight: float = 1.0) -> None:
    """A head of constant query finds the marked token and copies its kind to the answer."""
    compiler.head(0, 0, matches=[Match(4.0, {MARK: 1.5})], copies=[Copy({KIND: 1.0}, {OUT: 3.0})], sink=1.0)
    compiler.answer(OUT, {completions[0]: weight, completions[1]: -weight})


def redundant_model(seed: int = 0) -> GroundTruth:
    """Two paths, either of which suffices. 1. A head looks the marked token up and copies its kind to one answer channel.
    2. Another averages the kind over all tokens into a second answer channel. They share the one node that reads the kind;
    of the others none is necessary alone. Two circuits: 6 nodes and 3 edges, 4 nodes and 2 edges."""
    task, tokenizer, compiler, alike = _begin()
    compiler.begin("lookup")
    _write_lookup(compiler, alike[1])
    compiler.begin("average")
    compiler.head(0, 2, copies=[Copy({KIND: 1.0}, {OUT2: 30.0})])
    compiler.answer(OUT2, {alike[1][0]: 1.0, alike[1][1]: -1.0})
    return finish_model(
        compiler, task, tokenizer, seed=seed, alike=alike, ablate_pairs=8, circuits=(("lookup",), ("average",)),
        description="one head looks the kind up, another averages it over the prompt; either is enough",
    )  # fmt: skip


def distractor_path_model(seed: int = 0) -> GroundTruth:
    """A path that knows the answer and speaks against it. 1. A head looks the marked token up and copies its kind to the
    answer. 2. Another averages the kind into a side channel, as loud as the answer, which raises both completions, the wrong
    one a little more; so does 3. a neuron that reads the side channel. Without that path the model is only surer. One
    circuit, the head: 6 nodes, 3 edges."""
    task, tokenizer, compiler, alike = _begin()
    _write_lookup(compiler, alike[1], weight=1.25)
    compiler.begin("side path")
    compiler.head(0, 2, copies=[Copy({KIND: 1.0}, {SIDE: 30.0})])
    compiler.neuron(0, 64, reads={SIDE: 2.0}, writes={SIDE2: 1.0})
    compiler.answer(SIDE, {alike[1][0]: 0.6, alike[1][1]: 1.1})
    compiler.answer(SIDE2, {alike[1][0]: 0.75, alike[1][1]: 0.85})
    return finish_model(
        compiler, task, tokenizer, seed=seed, alike=alike, ablate_pairs=8, circuits=(("main",),),
        description="a head looks the kind up; a second path carries it to the logits too, and speaks against it",
    )  # fmt: skip


def cancelling_model(seed: int = 0) -> GroundTruth:
    """Two neurons that cancel. 1. A head looks the marked token up and copies its kind to the answer. 2. Another head averages
    an unrelated word into a side channel; one neuron adds it to the answer, more than the answer itself, and its twin takes
    it off again. Without one of them the model is wrong; without both it is right, and so is the head alone. The circuit is
    the head: 6 nodes, 3 edges; the two neurons are `cancelling`."""
    task, tokenizer, compiler, alike = _begin()
    very = token(tokenizer, VERY)
    compiler.embed([very], NOISE, 3.0)
    _write_lookup(compiler, alike[1])
    compiler.begin("cancelling")
    compiler.head(0, 2, copies=[Copy({NOISE: 1.0}, {SIDE: 30.0})])
    twins = [
        compiler.neuron(0, index, reads={SIDE: 2.0}, writes={OUT: sign}) for index, sign in ((64, 2.0), (119, -2.0))
    ]
    return finish_model(
        compiler, task, tokenizer, seed=seed, alike=alike, ablate_pairs=8, circuits=(("main",),), cancelling=twins,
        description="a head looks the kind up; two neurons add an unrelated word to the answer and take it off again",
    )  # fmt: skip
