"""Scope and expressions of the tiny Python grammar.

1. A `Scope` knows every bound name by kind (its type). Names bound in a block are forgotten when the block ends, and a
   name never changes its kind within a scope, so every load is of a name that is bound and of the right type.
2. `literal`, `argument` and `value` write an expression of a wanted kind from the names in scope.
3. Where a variable is needed that does not exist, `need` writes its assignment first, so no production ever fails.

Draws are `POOL[s.bits(k)]`, with the pools of `tiny_vocabulary`; s.random() chooses among the names in scope.
"""

from random import Random
from typing import NamedTuple

from .tiny_vocabulary import CONTENTS, NAMES, NUMBERS, RUNS, STRINGS, WORDS

INT, STR, INTS, STRS, GRID, SET, NUMS, DICT, BOOL, OBJ = range(10)
HINTS = (
    *("int", "str", "list[int]", "list[str]", "list[list[int]]"),
    *("set[str]", "set[int]", "dict[str, int]", "bool", "object"),
)
"""the type hint of each kind"""


class Function(NamedTuple):
    """Something that can be called by name."""

    name: str
    """as it is called: `load`, `box.add`"""
    params: tuple[tuple[str, int], ...]
    """(name, kind) of each parameter"""
    result: int | None
    """kind of what it returns; None: nothing"""


class Scope:
    """The state of one module or function body while it is written; `lines` is shared by the whole program."""

    __slots__ = (
        "rng",
        "bits",
        "random",
        "lines",
        "functions",
        "externals",
        "used",
        "names",
        "bound",
        "loops",
        "result",
    )

    def __init__(self, rng: Random, lines: list[str], functions: list[Function], externals: list[str]):
        self.rng, self.bits, self.random = rng, rng.getrandbits, rng.random
        self.lines, self.functions, self.externals = lines, functions, externals
        self.used: set[str] = set(externals)  # every name ever bound here, so that none changes its kind
        self.names: tuple[list[str], ...] = ([], [], [], [], [], [], [], [], [], [])
        self.bound: list[list[str]] = []  # the list each bound name was added to, in order: leaving a block pops it
        self.loops: dict[str, int] = {}  # kind of each loop variable: a later loop may use it again
        self.result: int | None = None  # kind that the enclosing function returns


# names


def fresh(s: Scope) -> str:
    """A name not used in this scope before."""
    name = NAMES[s.bits(14)]
    while name in s.used:
        name = NAMES[s.bits(14)]
    s.used.add(name)
    return name


def bind(s: Scope, kind: int, name: str) -> None:
    """From here to the end of the block, `name` is loaded as that kind."""
    s.names[kind].append(name)
    s.bound.append(s.names[kind])


def unwind(s: Scope, mark: int) -> None:
    """Forget what was bound since `mark = len(s.bound)`."""
    bound = s.bound
    while len(bound) > mark:
        bound.pop().pop()


def known(s: Scope, kind: int) -> str:
    """A bound name of that kind (there must be one), rather a recent one."""
    names, draw = s.names[kind], s.random()
    return names[~int(draw * draw * len(names))]


def need(s: Scope, pad: str, kind: int) -> str:
    """A bound name of that kind, assigned on a line of its own first if there is none."""
    if s.names[kind]:
        return known(s, kind)
    name = fresh(s)
    s.lines.append(f"{pad}{name} = {literal(s, kind)}")
    bind(s, kind, name)
    return name


# expressions


def literal(s: Scope, kind: int) -> str:
    """A display or constant of that kind."""
    bits = s.bits
    if kind == INT:
        return NUMBERS[bits(8)]
    if kind == STR:
        return STRINGS[bits(13)]
    if kind == INTS:
        return f"[{RUNS[bits(12)]}]"
    if kind == GRID:
        if bits(1):
            return f"[[{RUNS[bits(12)]}]]"
        return f"[[{RUNS[bits(12)]}], [{RUNS[bits(12)]}]]"
    if kind == STRS:
        if bits(1):
            return f"[{WORDS[bits(11)]}, {WORDS[bits(11)]}]"
        return f"[{WORDS[bits(11)]}, {WORDS[bits(11)]}, {WORDS[bits(11)]}]"
    if kind == SET:
        return f"{{{WORDS[bits(11)]}, {WORDS[bits(11)]}}}"
    if kind == NUMS:
        return f"{{{RUNS[bits(12)]}}}"
    if kind == DICT:
        if bits(1):
            return f"{{{WORDS[bits(11)]}: {NUMBERS[bits(8)]}}}"
        return f"{{{WORDS[bits(11)]}: {NUMBERS[bits(8)]}, {WORDS[bits(11)]}: {NUMBERS[bits(8)]}}}"
    return "True" if bits(1) else "False"


def argument(s: Scope, kind: int) -> str:
    """A bound name of that kind or a literal. OBJ has no literals: a name must exist."""
    if s.names[kind] and (kind == OBJ or s.bits(2)):
        return known(s, kind)
    return literal(s, kind)


def arguments(s: Scope, params: tuple[tuple[str, int], ...]) -> str:
    """What stands between the parentheses of a call: one argument per parameter, from some point on as keywords."""
    parts = [argument(s, kind) for _, kind in params]
    if parts and s.bits(1):
        parts[-1] = f"{params[-1][0]}={parts[-1]}"
        if len(parts) > 2 and s.bits(1):
            parts[-2] = f"{params[-2][0]}={parts[-2]}"
    return ", ".join(parts)


def function(s: Scope) -> Function | None:
    """A function above whose arguments can all be written here, or None."""
    functions = s.functions
    if functions:
        chosen = functions[~int(s.random() * len(functions))]
        if s.names[OBJ] or all(kind != OBJ for _, kind in chosen.params):
            return chosen
    return None


def value(s: Scope, kind: int) -> str:
    """The right-hand side of an assignment: mostly a literal, sometimes computed from names."""
    names, draw = s.names, s.bits(3)
    if draw < 5 or kind > STR:
        return literal(s, kind)
    if kind == INT:
        if draw == 5 and names[INT]:
            return f"{known(s, INT)} + {NUMBERS[s.bits(8)]}"
        if draw == 6 and names[INT]:
            return f"{known(s, INT)} * {argument(s, INT)}"
        for container in (INTS, STRS, SET, DICT):
            if names[container]:
                return f"len({known(s, container)})"
    elif names[STR] and draw == 5:
        return f"{known(s, STR)} + {STRINGS[s.bits(13)]}"
    elif names[STR] and draw == 6:
        return f"{known(s, STR)}.{('upper', 'lower', 'strip', 'title')[s.bits(2)]}()"
    elif names[INT]:
        return f"str({known(s, INT)})" if draw == 6 else template(s)
    return literal(s, kind)


def template(s: Scope) -> str:
    """An f-string with one bound name, in either quote style."""
    kind = STR if s.names[STR] and s.bits(1) else INT
    name = known(s, kind) if s.names[kind] else None
    draw = s.bits(3)
    quote = "'\""[draw & 1]
    if name is None:
        return STRINGS[s.bits(13)]
    if draw < 4:
        return f"f{quote}{{{name}}}{quote}"
    if draw < 6:
        return f"f{quote}{{{name}}} {CONTENTS[s.bits(12)]}{quote}"
    return f"f{quote}{CONTENTS[s.bits(12)]} {{{name}}}{quote}"


def condition(s: Scope, pad: str) -> str:
    """A test of something bound, mostly of the name bound last."""
    names, draw = s.names, s.bits(3)
    if draw < 2 and names[STR]:
        return f"{known(s, STR)} == {WORDS[s.bits(11)]}"
    if draw == 2:
        for container in (SET, STRS, DICT):
            if names[container]:
                return f"{argument(s, STR)} in {known(s, container)}"
    if draw == 3 and names[BOOL]:
        return known(s, BOOL)
    if draw == 4:
        for container in (INTS, STRS, SET):
            if names[container]:
                return f"not {known(s, container)}" if s.bits(1) else known(s, container)
    name = need(s, pad, INT)
    return f"{name} {('==', '>', '<', '==', '!=', '==', '>=', '==')[draw]} {NUMBERS[s.bits(8)]}"
