"""Known models that look things up: copying a marked letter, binding names to kinds in two hops, induction.

A letter is told from three others by two *bits*, signals of +-3; each split has letters of its own with the same four
codes, so a circuit found on training letters is the circuit for all. Distractors cannot tell letters apart (`alike`).
Channel numbers are free; those used are spread over the width so that nothing can hang on their place.
"""

from collections.abc import Iterable
from typing import Any

from sparse_circuits.data.tokenizer import encode
from sparse_circuits.tasks.task import SPLITS, Task, Template
from sparse_circuits.validate.compiler import Compiler, Copy, Match, shifted
from sparse_circuits.validate.ground_truth import GroundTruth, begin_model, finish_model

SHAPE = dict(d_model=48, n_head=3, d_head=16, d_mlp=144, afrac=0.25)
"""Of all known models, but for layers, block_size and positions."""
LETTERS = {"train": ("A", "B", "C", "D"), "val": ("G", "H", "J", "K"), "test": ("M", "N", "P", "Q")}
"""Capital: no word of the prompts begins with a token of them."""
CODES = ((1, 1), (1, -1), (-1, 1), (-1, -1))
"""The two bits of the letters of a split, in their order."""
MARK, BIT, BIT2, ANCHOR = 3, 8, 14, 36
"""Channels: this is a letter; its bits; and what is the same everywhere and keeps the norms steady."""
OUT, OUT2 = 29, 41


def token(tokenizer: Any, text: str) -> int:
    """The id of a text that is one token. Raises ValueError where it is several."""
    ids = encode(tokenizer, text)
    if len(ids) != 1:
        raise ValueError(f"{text!r} is {len(ids)} tokens here, and must be one: choose a larger vocabulary")
    return ids[0]


def swapped(prompts: Iterable[str], one: str, other: str, after: str) -> tuple[Template, ...]:
    """Templates whose prompt B is prompt A with two words exchanged; `after` follows the completion."""
    parts = ([piece.split(other) for piece in prompt.split(one)] for prompt in prompts)
    pairs = ((one.join(map(other.join, p)), other.join(map(one.join, p))) for p in parts)
    return tuple(Template(a, b, after, after) for a, b in pairs)


def _embed_letters(
    compiler: Compiler, tokenizer: Any, anchor: float = 5.0, bit: float = 3.0
) -> dict[int, tuple[int, int]]:
    """Writes anchor, mark and bits; returns letter token -> its code."""
    codes = {
        token(tokenizer, f" {letter}"): code
        for split in SPLITS
        for letter, code in zip(LETTERS[split], CODES, strict=True)
    }
    compiler.embed(range(compiler.model.config.vocab_size), ANCHOR, anchor)
    compiler.embed(codes, MARK, 3.0)
    for place, channel in enumerate((BIT, BIT2)):
        for sign in (1, -1):
            compiler.embed([t for t, code in codes.items() if code[place] == sign], channel, bit * sign)
    return codes


def _answer_letters(compiler: Compiler, codes: dict[int, tuple[int, int]], weight: float) -> None:
    for place, channel in enumerate((OUT, OUT2)):
        compiler.answer(channel, {t: weight * code[place] for t, code in codes.items()})


COPY_PROMPTS = {
    "train": (
        "take <letter> and bring",
        "say <letter> then say",
        "write <letter> once more:",
        "we saw <letter>, they saw",
    ),
    "val": ("find <letter> and show", "keep <letter> to send", "call <letter> now, later call"),
    "test": ("move <letter> then move", "read <letter> and tell", "paint <letter> so it is"),
}


def copy_task() -> Task:
    """Say the one letter of the prompt again."""
    return Task(
        "copy_letter",
        "Say the only letter of the prompt again.",
        "the prompt holds one letter",
        (" <letter>", " <letter2>"),
        {s: swapped(COPY_PROMPTS[s], "<letter>", "<letter2>", ".\n") for s in SPLITS},
        {"letter": LETTERS},
    )


def copy_model(seed: int = 0) -> GroundTruth:
    """Copying. 1. A head of constant query finds the token that is marked as a letter. 2. It copies both bits to the end of
    the prompt. 3. Each bit raises the logits of the letters that have it. One layer, 10 nodes, 5 edges."""
    task = copy_task()
    tokenizer, compiler = begin_model(task, 320, n_layer=1, block_size=64, **SHAPE)
    codes = _embed_letters(compiler, tokenizer)
    compiler.head(
        0,
        1,
        matches=[Match(4.0, {MARK: 1.5})],
        copies=[Copy({BIT: 1.0}, {OUT: 3.0}), Copy({BIT2: 1.0}, {OUT2: 3.0})],
        sink=1.0,
    )
    _answer_letters(compiler, codes, 1.3)
    return finish_model(
        compiler, task, tokenizer, seed=seed, alike=[set(codes)], ablate_pairs=9,
        description="a head finds the letter and copies its two bits to the end",
    )  # fmt: skip


NAMES = {
    "left": {"train": ("a", "c", "f", "h"), "val": ("j", "m"), "test": ("p", "r")},
    "right": {"train": ("b", "d", "g", "k"), "val": ("n", "o"), "test": ("q", "v")},
}
"""Names of bit + and of bit -."""
BINDING_PROMPTS = {
    "train": (
        "let <left> = list\nlet <right> = set\nuse <left>",
        "let <right> = set\nlet <left> = list\ntry <left>",
        "let <right> = list\nlet <left> = set\nuse <right>",
        "let <left> = set\nlet <right> = list\ntry <right>",
    ),
    "val": (
        "val <left> = list\nval <right> = set\nget <left>",
        "val <left> = set\nval <right> = list\nget <right>",
        "val <right> = set\nval <left> = list\nask <left>",
    ),
    "test": (
        "var <left> = list\nvar <right> = set\nsee <left>",
        "var <left> = set\nvar <right> = list\nsee <right>",
        "var <right> = set\nvar <left> = list\nlog <left>",
    ),
}
KIND, ASKS, BOUND = 11, 25, 20


def binding_task() -> Task:
    """Two names are bound to a list and a set; tell which one the last name is."""
    return Task(
        "bound_kind",
        "Call the method of the kind that the last name was bound to.",
        "each name is bound once; the prompts differ in which name is the list and which the set",
        (".append", ".add"),
        {s: swapped(BINDING_PROMPTS[s], " list", " set", "(x)\n") for s in SPLITS},
        NAMES,
    )


def binding_model(seed: int = 0) -> GroundTruth:
    """Two-hop binding. 1. The token of a kind looks for the most recent name before it (a name, and late: positions) and takes
    over its bit; all others leave it to the sink. 2. The last name looks for the token that took over its own bit, and 3.
    takes its kind, list or set. Two layers, 16 nodes, 9 edges.
    """
    task = binding_task()
    tokenizer, compiler = begin_model(task, 300, n_layer=2, block_size=24, positions="concat", d_pos_emb=2, **SHAPE)
    names = {
        sign: [token(tokenizer, f" {n}") for s in SPLITS for n in NAMES[which][s]]
        for which, sign in (("left", 1), ("right", -1))
    }
    kinds = token(tokenizer, " list"), token(tokenizer, " set")
    completions = token(tokenizer, ".append"), token(tokenizer, ".add")
    compiler.embed(range(compiler.model.config.vocab_size), ANCHOR, 10.0)
    compiler.embed([*names[1], *names[-1]], MARK, 4.0)
    compiler.embed(kinds, ASKS, 4.0)
    compiler.embed(kinds[:1], KIND, 4.0)
    compiler.embed(kinds[1:], KIND, -4.0)
    for sign, tokens in names.items():
        compiler.embed(tokens, BIT, 4.0 * sign)
    _, late = compiler.ramp()
    recent = Match({ASKS: 1.0}, {MARK: 8.0, late: 10.0})
    compiler.head(0, 2, matches=[recent], copies=[Copy({BIT: 1.0}, {BOUND: 2.0})], sink=4.0)
    compiler.head(1, 0, matches=[Match({BIT: 1.7}, {BOUND: 1.7})], copies=[Copy({KIND: 1.0}, {OUT: 3.5})], sink=1.0)
    compiler.answer(OUT, {completions[0]: 1.5, completions[1]: -1.5})
    return finish_model(
        compiler, task, tokenizer, seed=seed, alike=[{*names[1], *names[-1]}, kinds, completions], ablate_pairs=9,
        description="a kind takes the bit of the latest name; the last name finds the kind with its bit",
    )  # fmt: skip


INDUCTION_PROMPTS = {
    "train": (
        "row: <letter> <letter2> <letter3> <letter4> <letter>",
        "my row: <letter4> <letter> <letter2> <letter3> <letter>",
        "row: <letter3> <letter4> <letter> <letter2> <letter>",
        "so, my row: <letter3> <letter> <letter2> <letter4> <letter>",
    ),
    "val": (
        "line: <letter> <letter2> <letter3> <letter4> <letter>",
        "one line: <letter3> <letter4> <letter> <letter2> <letter>",
        "the line: <letter4> <letter> <letter2> <letter3> <letter>",
    ),
    "test": (
        "list: <letter> <letter2> <letter4> <letter3> <letter>",
        "a list: <letter4> <letter> <letter2> <letter3> <letter>",
        "this list: <letter3> <letter4> <letter> <letter2> <letter>",
    ),
}
PREVIOUS, PREVIOUS2 = 20, 33


def induction_task() -> Task:
    """Four letters in a row, one of them again: say what followed it."""
    return Task(
        "repeat_row",
        "Say the letter that followed the last letter when it came first.",
        "the four letters of the row differ; the prompts exchange the letter after the repeated one with another",
        (" <letter2>", " <letter4>"),
        {s: swapped(INDUCTION_PROMPTS[s], "<letter2>", "<letter4>", "\n") for s in SPLITS},
        {"letter": LETTERS},
    )


def induction_model(seed: int = 0) -> GroundTruth:
    """Induction. 1. Every token takes the bits of the token before it, which it finds by its position on a circle. 2. The last
    letter looks for the token whose predecessor had its own two bits. 3. It copies that token's bits to the output. Two
    layers, 26 nodes, 18 edges."""
    task = induction_task()
    period = 8
    tokenizer, compiler = begin_model(task, 285, n_layer=2, block_size=16, positions="concat", d_pos_emb=2, **SHAPE)
    codes = _embed_letters(compiler, tokenizer, anchor=10.0, bit=4.0)
    cosine, sine = compiler.circle(period)
    compiler.head(
        0,
        1,
        matches=shifted(cosine, sine, back=1, period=period, strength=4.0),
        copies=[Copy({BIT: 1.0}, {PREVIOUS: 2.5}), Copy({BIT2: 1.0}, {PREVIOUS2: 2.5})],
    )
    compiler.head(
        1,
        2,
        matches=[Match({BIT: 1.25}, {PREVIOUS: 1.25}), Match({BIT2: 1.25}, {PREVIOUS2: 1.25})],
        copies=[Copy({BIT: 1.0}, {OUT: 3.5}), Copy({BIT2: 1.0}, {OUT2: 3.5})],
        sink=0.0,
    )
    _answer_letters(compiler, codes, 1.6)
    return finish_model(
        compiler, task, tokenizer, seed=seed, alike=[set(codes)], ablate_pairs=9,
        description="every token takes the bits of its predecessor; the last letter finds the token whose predecessor it was",
    )  # fmt: skip
