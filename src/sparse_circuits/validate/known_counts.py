"""Known models that count: the depth of brackets by averaging and a threshold, and whether a number is even.

A head cannot count, it averages: over all tokens (brackets: the average falls with the length of the prompt, so the prompts
are of about one length), or over the counted tokens and the sink, which stands for a fixed number of them.
"""

from typing import Any

from sparse_circuits.data.tokenizer import token_text, vocab_size
from sparse_circuits.sites import Node
from sparse_circuits.tasks.task import SPLITS, Task, Template
from sparse_circuits.validate.compiler import Compiler, Copy, Match
from sparse_circuits.validate.ground_truth import GroundTruth, begin_model, finish_model
from sparse_circuits.validate.known_lookups import SHAPE, token

ITEM, COUNT, OUT, ANCHOR = 5, 17, 29, 36
"""Channels: what is counted, how much of it, the answer, and what is the same everywhere and keeps the norms steady."""
STEADY = 10.0
"""The anchor here: a count must not move the norm by which it is divided much."""

NAMES = {
    "train": ("a", "b", "c", "d", "e", "f", "g", "h"),
    "val": ("j", "k", "m", "n", "o"),
    "test": ("p", "q", "r", "s", "u"),
}
SHALLOW_PROMPTS = {
    "train": (
        "x = <name> ( <name2>) + <name3> ( <name4>",
        "say <name> ( <name2>), <name3> ( <name4>",
        "<name> ( <name2>) * <name3> ( <name4>",
    ),
    "val": (
        "y = <name> ( <name2>) - <name3> ( <name4>",
        "do <name> ( <name2>); <name3> ( <name4>",
        "<name> ( <name2>) / <name3> ( <name4>",
    ),
    "test": (
        "z = <name> ( <name2>) & <name3> ( <name4>",
        "let <name> ( <name2>) | <name3> ( <name4>",
        "<name> ( <name2>) % <name3> ( <name4>",
    ),
}


def bracket_depth_task() -> Task:
    """Close one bracket or two."""
    return Task(
        "bracket_depth",
        "Close all open brackets: one or two.",
        "prompt A closes its first bracket before it opens the second, prompt B does not",
        (")\n", "))\n"),
        {s: tuple(Template(a, a.replace(")", ""), "x = 1\n", "x = 1\n") for a in SHALLOW_PROMPTS[s]) for s in SPLITS},
        {"name": NAMES},
    )


def bracket_depth_model(seed: int = 0) -> GroundTruth:
    """Bracket depth. 1. Every token writes the brackets it opens minus those it closes. 2. A head averages that over all
    tokens so far: depth over length. 3. A neuron fires where the average is above what depth one can reach. One layer, 7
    nodes, 4 edges."""
    task = bracket_depth_task()
    tokenizer, compiler = begin_model(task, 290, n_layer=1, block_size=64, **SHAPE)
    _embed_brackets(compiler, tokenizer)
    compiler.head(0, 1, copies=[Copy({ITEM: 2.0}, {COUNT: 15.0})])
    compiler.threshold(0, 77, channel=COUNT, above=4.2, slope=8.0, writes={OUT: 1.3})
    compiler.bias(Node("0.mlp.resid_delta", OUT), -4.5)
    completions = token(tokenizer, ")\n"), token(tokenizer, "))\n")
    compiler.answer(OUT, {completions[0]: -1.7, completions[1]: 1.7})
    return finish_model(
        compiler, task, tokenizer, seed=seed, alike=[completions], ablate_pairs=6,
        description="a head averages opened minus closed brackets; a neuron fires above the average of depth one",
    )  # fmt: skip


def _embed_brackets(compiler: Compiler, tokenizer: Any) -> None:
    compiler.embed(range(vocab_size(tokenizer)), ANCHOR, STEADY)
    for t in range(vocab_size(tokenizer)):
        text = token_text(tokenizer, t)
        if depth := text.count("(") - text.count(")"):
            compiler.embed([t], ITEM, 3.0 * depth)


BEEP = " beep"
COUNT_PROMPTS = {
    "train": (
        ("<word> beep <word2> beep <word3>, it was", "<word> beep <word2> off <word3>, it was"),
        ("beep <word> beep <word2> off, it was", "beep <word> beep <word2> beep, it was"),
        ("<word> and <word2> beep beep, so", "<word> and <word2> beep off, so"),
        ("<word> beep beep <word2> off, so", "<word> beep beep <word2> beep, so"),
    ),
    "val": (
        ("hear <word> beep <word2> beep: it is", "hear <word> beep <word2> off: it is"),
        ("hear <word> beep beep <word2> off: it is", "hear <word> beep beep <word2> beep: it is"),
        ("hear off beep <word> off beep: it is", "hear off beep <word> off off: it is"),
        ("hear off beep <word> beep <word2>, off", "hear beep beep <word> beep <word2>, off"),
    ),
    "test": (
        ("now <word> beep <word2> beep; that is", "now <word> beep <word2> off; that is"),
        ("now <word> beep beep <word2> off; that is", "now <word> beep beep <word2> beep; that is"),
        ("now off beep <word> off beep; that is", "now off beep <word> off off; that is"),
        ("now off beep <word> beep <word2>; off", "now beep beep <word> beep <word2>; off"),
    ),
}
COUNT_WORDS = {
    "train": ("door", "lamp", "phone", "clock", "oven", "gate"),
    "val": ("car", "bus", "train", "bike", "van"),
    "test": ("bird", "cat", "dog", "frog", "cow"),
}


def counting_task() -> Task:
    """One to three beeps: is their number even?"""
    return Task(
        "even_beeps",
        "Tell whether the number of beeps, one to three, is even.",
        "prompt A has two beeps, prompt B one or three",
        (" even", " odd"),
        {s: tuple(Template(f"we: {a}", f"we: {b}", ".\n", ".\n") for a, b in COUNT_PROMPTS[s]) for s in SPLITS},
        {"word": COUNT_WORDS},
    )


def counting_model(seed: int = 0) -> GroundTruth:
    """Counting to three. 1. A head attends to the counted tokens and to its sink, which weighs as much as eight of them: of n
    it reads n / (n + 8), whatever the length. 2. A neuron fires from two on; another fires at three, and takes the first off
    again. One layer, 9 nodes, 7 edges."""
    task = counting_task()
    tokenizer, compiler = begin_model(task, 330, n_layer=1, block_size=16, **SHAPE)
    item = token(tokenizer, BEEP)
    compiler.embed(range(vocab_size(tokenizer)), ANCHOR, 1.5 * STEADY)
    compiler.embed([item], ITEM, 5.0)
    compiler.head(0, 2, matches=[Match(4.0, {ITEM: 2.3})], copies=[Copy({ITEM: 1.0}, {COUNT: 15.0})], sink=7.1)
    compiler.threshold(0, 31, channel=COUNT, above=1.95, slope=8.0, writes={OUT: 3.0})
    compiler.threshold(0, 102, channel=COUNT, above=2.7, slope=8.0, writes={OUT: -9.0})
    compiler.bias(Node("0.mlp.resid_delta", OUT), -6.0)
    completions = token(tokenizer, " even"), token(tokenizer, " odd")
    compiler.answer(OUT, {completions[0]: 1.6, completions[1]: -1.6})
    off = token(tokenizer, " off")
    return finish_model(
        compiler, task, tokenizer, seed=seed, alike=[completions, (item, off)], ablate_pairs=8,
        description="a head weighs counted tokens against the sink; one neuron fires from two on, another takes it off at three",
    )  # fmt: skip
