"""A grammar that writes small Python programs: an endless corpus for tiny language models.

A model of a few hundred thousand weights cannot learn all of Python, but it can learn the twenty questions the circuits
of this library answer: which quote closes the string, which bracket, is this name a set or a string, is the next line
an `elif`. So the programs are short (most have 150..900 characters, and fit a context of 128..256 tokens whole), read
like ordinary scripts, and are consistent: a name keeps its type, and everything is bound before it is used.

1. `tiny_vocabulary` and `tiny_phrases` hold the words, as pools from which drawing costs one getrandbits.
2. `tiny_expressions` holds the scope (which names are bound, of which kind) and writes expressions from it.
3. `tiny_statements` holds the one-line statements, each a production (scope, pad) that appends lines; `tiny_blocks`
   holds the blocks, whose bodies draw productions from weighted tables; `tiny_definitions` functions and classes;
   `tiny_idioms` and `tiny_scripts` what everybody has written before.
4. This file holds the loop that draws top-level productions until a program has its length.
5. Program i of a seed is written from a generator seeded with (seed, i) alone, so a corpus can be entered anywhere
   and split over workers without overlap.
"""

from collections.abc import Iterator
from itertools import count
from random import Random

from .tiny_blocks import BLOCKS, INNER, SIMPLE, STATEMENTS, table
from .tiny_definitions import class_, define, entry
from .tiny_phrases import COMMENTS, DOCS
from .tiny_scope import NOT_A_VARIABLE, Scope
from .tiny_scripts import script
from .tiny_statements import show
from .tiny_vocabulary import FUNCTIONS, MODULES


def programs(seed: int, start: int = 0) -> Iterator[str]:
    """The programs start, start + 1, ... of a seed, without end.

    Each is the text of one program of a few hundred characters, ending in one newline. `programs(seed, start=n)` goes
    on exactly where the first n programs of `programs(seed)` end. Raises ValueError, at the call, for a negative or
    too large seed or start.
    """
    _check(seed, start)
    return _write_all(seed, start)


def program(seed: int, index: int) -> str:
    """Program `index` of `programs(seed)`; the same limits hold."""
    _check(seed, index)
    return _write(Random(), seed, index)


def _check(seed: int, index: int) -> None:
    for name, given in (("seed", seed), ("index", index)):
        if not 0 <= given < 1 << 64:
            raise ValueError(f"{name} of the tiny Python corpus is {given}; allowed: 0 .. 2**64 - 1")


def _write_all(seed: int, start: int) -> Iterator[str]:
    rng = Random()
    for index in count(start):
        yield _write(rng, seed, index)


def _write(rng: Random, seed: int, index: int) -> str:
    """One program. The generator is seeded once; a program with a line above `LONGEST_LINE` is written anew."""
    rng.seed(seed << 64 | index)
    while max(map(len, lines := _attempt(rng))) > LONGEST_LINE:
        pass
    lines.append("")
    return "\n".join(lines)


def _attempt(rng: Random) -> list[str]:
    """Top-level productions until the program is long enough; the imports they asked for come first."""
    s = Scope(rng, SIMPLE, INNER)
    lines = s.lines
    opening = _opening(s)
    length = _LENGTHS[s.bits(4)]
    while len(lines) < length:
        _TOP[s.bits(8)](s, "")
        draw = s.bits(5)
        if draw < 4 and "#" not in lines[-1] and 0 < len(lines[-1]) < 60:
            lines[-1] += f"  # {COMMENTS[s.bits(12)]}"
            if draw and lines[-1][0] != " ":
                show(s, "")
        elif draw == 4:
            lines.append("")
    if s.bits(4) == 0:
        entry(s)
    while not lines[-1]:
        lines.pop()
    imports = [*s.imports]
    if imports and s.bits(1):
        imports.append("")
    return [*opening, *imports, *lines]


LONGEST_LINE = 120
_LENGTHS = (6, 8, 9, 10, 11, 12, 13, 14, 15, 15, 16, 17, 18, 20, 23, 28)


def _opening(s: Scope) -> list[str]:
    """What a file starts with. A third of the programs import one or two functions, which take and return anything."""
    draw = s.bits(4)
    if draw == 0:
        return [f"# {COMMENTS[s.bits(12)]}"]
    if draw == 1:
        return [f'"""{DOCS[s.bits(10)]}."""']
    if draw < 8:
        names = [FUNCTIONS[s.bits(12)]]
        if draw < 4 and (second := FUNCTIONS[s.bits(12)]) != names[0]:
            names.append(second)
        s.imports[f"from {MODULES[s.bits(5)]} import {', '.join(names)}"] = None
        s.externals.extend(names)
        s.kinds.update(dict.fromkeys(names, NOT_A_VARIABLE))
    return []


_TOP = table(*STATEMENTS, *BLOCKS, (120, define), (44, class_), (14, script))
