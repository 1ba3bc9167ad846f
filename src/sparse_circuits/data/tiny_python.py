"""A grammar that writes small Python programs: an endless corpus for tiny language models.

A model of a few hundred thousand weights cannot learn all of Python, but it can learn the twenty questions the circuits
of this library answer: which quote closes the string, which bracket, is this name a set or a string, is the next line
an `elif`. So the programs are short (most have 150..700 characters, and fit a context of 128..256 tokens whole), use a
small language, and are consistent: a name keeps its type, and everything is bound before it is used.

1. `tiny_vocabulary` holds the words, as pools from which drawing costs one getrandbits.
2. `tiny_expressions` holds the scope (which names are bound, of which kind) and writes expressions from it.
3. `tiny_statements` holds the one-line statements, each a production (scope, pad) that appends lines; `tiny_blocks`
   holds the blocks, whose bodies draw productions from weighted tables.
4. This file holds functions and classes, and the loop that draws top-level productions until a program has its length.
5. Program i of a seed is written from a generator seeded with (seed, i) alone, so a corpus can be entered anywhere
   and split over workers without overlap.
"""

from collections.abc import Iterator
from itertools import count
from random import Random

from .tiny_blocks import BLOCKS, INDENT, STATEMENTS, body, returning, table
from .tiny_expressions import (
    BOOL,
    DICT,
    GRID,
    HINTS,
    INT,
    INTS,
    OBJ,
    SET,
    STR,
    STRS,
    Function,
    Scope,
    arguments,
    bind,
    fresh,
)
from .tiny_statements import (
    assign,
    invoke,
    say,
)
from .tiny_vocabulary import CLASSES, CONTENTS, FUNCTIONS, MODULES, VERBS


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
    """One program: imports, then top-level productions until it is long enough."""
    rng.seed(seed << 64 | index)
    lines: list[str] = []
    s = Scope(rng, lines, [], [])
    _imports(s)
    length = _LENGTHS[s.bits(4)]
    while len(lines) < length:
        _TOP[s.bits(8)](s, "")
    if lines[-1]:
        lines.append("")
    return "\n".join(lines)


_LENGTHS = (5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 11, 12, 13, 14, 16, 18)


def _imports(s: Scope) -> None:
    """A third of the programs import one or two functions, which take and return anything."""
    draw = s.bits(4)
    if draw == 0:
        s.lines.append(f"# {CONTENTS[s.bits(12)]}")
    elif draw == 1:
        s.lines.append(f'"""{CONTENTS[s.bits(12)].capitalize()}."""')
    elif draw < 7:
        names = [FUNCTIONS[s.bits(12)]]
        if draw < 4 and (second := FUNCTIONS[s.bits(12)]) != names[0]:
            names.append(second)
        s.lines.append(f"from {MODULES[s.bits(5)]} import {', '.join(names)}")
        s.externals.extend(names)
        s.used.update(names)
    elif draw == 7:
        name = MODULES[s.bits(5)]
        s.lines.append(f"import {name}")
        s.used.add(name)
        bind(s, OBJ, name)


# definitions

_PARAMETERS = (INT, INT, INT, STR, STR, STR, INTS, STRS, INT, STR, OBJ, OBJ, GRID, SET, DICT, STR)
_RESULTS = (INT, INT, STR, STR, OBJ, INTS, GRID, GRID, BOOL, BOOL, BOOL, BOOL, OBJ, None, None, None)


def _function(s: Scope, pad: str, name: str, first: str = "", attributes: tuple[tuple[int, str], ...] = ()) -> Function:
    """Write a def with its body. `first` is "self" in a class, whose attributes are bound in the body."""
    inner = Scope(s.rng, s.lines, s.functions, s.externals)
    inner.used.update(chosen.name.split(".")[0] for chosen in s.functions)
    inner.used.add(name)
    draw = s.bits(4)
    params = tuple((fresh(inner), _PARAMETERS[s.bits(4)]) for _ in range((1, 1, 2, 2, 2, 3, 1, 0)[s.bits(3)]))
    if draw < 3:  # hinted
        shown = [f"{param}: {HINTS[kind]}" if kind != OBJ else param for param, kind in params]
    else:
        shown = [param for param, _ in params]
    if first:
        shown.insert(0, first)
    result = _RESULTS[s.bits(4)]
    if result == OBJ and not s.externals and all(kind != OBJ for _, kind in params):
        result = STR
    inner.result = result
    arrow = f" -> {'None' if result is None else HINTS[result]}" if draw < 2 else ""
    s.lines.append(f"{pad}def {name}({', '.join(shown)}){arrow}:")
    if draw == 3 or draw == 0:
        s.lines.append(f'{pad}{INDENT}"""{CONTENTS[s.bits(12)].capitalize()}."""')
    for kind, attribute in attributes:
        bind(inner, kind, attribute)
    for param, kind in params:
        bind(inner, kind, param)
    level, mark = pad + INDENT, len(s.functions)
    if not pad and draw > 10:  # a helper within the function
        helper = VERBS[s.bits(5)]
        if helper not in inner.used:
            inner.used.add(helper)
            s.functions.append(_function(inner, level, helper))
    body(inner, pad, 1 + s.bits(1))
    del s.functions[mark:]
    if result is not None:
        s.lines.append(level + returning(inner))
    return Function(name, params, result)


def _define(s: Scope, pad: str) -> None:
    """A function at top level, and often a call of it."""
    name = FUNCTIONS[s.bits(12)]
    if name in s.used or pad:
        say(s, pad)
        return
    s.used.add(name)
    made = _function(s, pad, name)
    s.functions.append(made)
    if s.bits(2) == 0:
        s.lines.append("")
    if s.bits(1):
        invoke(s, pad)


_ATTRIBUTES = (INT, STR, STR, INTS, STRS, SET, OBJ, INT)
_EMPTIES = (
    *((INTS, "[]"), (STRS, "[]"), (SET, "set()"), (SET, "set()")),
    *((STR, '""'), (STR, "''"), (DICT, "{}"), (INT, "0")),
)


def _class(s: Scope, pad: str) -> None:
    """A class: its first method is __init__, which binds the attributes the other methods use. Then an instance."""
    name = CLASSES[s.bits(10)]
    if name in s.used or pad:
        assign(s, pad)
        return
    s.used.add(name)
    inner = Scope(s.rng, s.lines, s.functions, s.externals)
    params = tuple((fresh(inner), _ATTRIBUTES[s.bits(3)]) for _ in range((1, 1, 2, 0)[s.bits(2)]))
    attributes = [(kind, f"self.{param}") for param, kind in params]
    s.lines.append(f"class {name}:")
    s.lines.append(f"    def __init__({', '.join(['self', *[param for param, _ in params]])}):")
    s.lines.extend(f"        self.{param} = {param}" for param, _ in params)
    if not params or s.bits(1):
        kind, empty = _EMPTIES[s.bits(3)]
        attribute = f"self.{fresh(inner)}"
        s.lines.append(f"        {attribute} = {empty}")
        attributes.append((kind, attribute))
    methods: list[Function] = []
    for _ in range(1 + (s.bits(2) == 0)):
        method = VERBS[s.bits(5)]
        if all(method != made.name for made in methods):
            methods.append(_function(s, INDENT, method, "self", tuple(attributes)))
    if s.names[OBJ] or all(kind != OBJ for _, kind in params):
        box = fresh(s)
        s.lines.append(f"{box} = {name}({arguments(s, params)})")
        s.functions.extend(Function(f"{box}.{made.name}", made.params, made.result) for made in methods)
        if s.bits(1):
            invoke(s, pad)


_TOP = table(*STATEMENTS, *BLOCKS, (22, _define), (9, _class))
