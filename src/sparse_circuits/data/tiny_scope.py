"""The scope of the tiny Python grammar: which names are bound, and of which kind.

1. A `Scope` knows every bound name by kind (its type). Names bound in a block are forgotten when the block ends, and a
   name never changes its kind within a scope, so every load is of a name that is bound and of the right type.
2. It carries what all productions write to (lines, imports) and draw from: functions, imported names, and the tables
   of productions for the bodies of blocks.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from .tiny_vocabulary import LOCK, POOLS

HINTS = (
    *("int", "str", "list[int]", "list[str]", "list[list[int]]", "set[str]", "set[int]", "dict[str, int]", "bool"),
    *("object", "float", "list[tuple[str, int]]", "str", "object", "object"),
)
"""the type hint of each kind"""
NOT_A_VARIABLE = -1
"""what `Scope.kinds` holds for functions, classes and modules"""


class Function(NamedTuple):
    """Something that can be called by name."""

    name: str
    """as it is called: `load`, `box.add`"""
    params: tuple[tuple[str, int], ...]
    """(name, kind) of each parameter"""
    result: int | None
    """kind of what it returns; None: nothing"""


class Scope:
    """The state of one module or function body while it is written; `lines` and `imports` are the whole program's."""

    __slots__ = (
        *("rng", "bits", "random", "lines", "imports", "functions", "externals"),
        *("kinds", "names", "bound", "fixed", "result", "looping", "simple", "inner"),
    )

    def __init__(self, rng: Random, simple: "Table", inner: "Table", outer: "Scope | None" = None):
        self.rng, self.bits, self.random = rng, rng.getrandbits, rng.random
        self.simple, self.inner = simple, inner  # what the bodies of blocks draw from: statements; blocks too
        self.lines: list[str] = outer.lines if outer else []
        self.imports: dict[str, None] = outer.imports if outer else {}
        self.functions: list[Function] = outer.functions if outer else []
        self.externals: list[str] = outer.externals if outer else []
        self.kinds: dict[str, int] = {}  # kind of every name ever bound here, so that none changes it
        self.names: tuple[list[str], ...] = ([], [], [], [], [], [], [], [], [], [], [], [], [], [], [])
        self.bound: list[tuple[int, str]] = []  # in order: leaving a block pops
        self.fixed: set[str] = set()  # what loops go over or count, which a body does not assign to
        self.result: int | None = None  # kind that the enclosing function returns
        self.looping = False  # whether a loop encloses the line, so that break and continue may stand
        if outer:
            for chosen in self.functions:
                self.kinds[chosen.name] = NOT_A_VARIABLE
            for name in self.externals:
                self.kinds[name] = NOT_A_VARIABLE
            for name in outer.names[LOCK]:  # a lock of the module is used in its functions
                bind(self, LOCK, name)


# names


def fresh(s: Scope, kind: int) -> str:
    """A name of that kind which is not bound now (an earlier block may have bound it)."""
    names, kinds, bits = POOLS[kind], s.kinds, s.bits
    name = names[bits(12)]
    while name in kinds and (kinds[name] != kind or name in s.names[kind] or name in s.fixed):
        name = names[bits(12)]
    kinds[name] = kind
    return name


def bind(s: Scope, kind: int, name: str) -> None:
    """From here to the end of the block, `name` is loaded as that kind."""
    s.kinds[name] = kind
    s.names[kind].append(name)
    s.bound.append((kind, name))


def unwind(s: Scope, mark: int) -> None:
    """Forget what was bound since `mark = len(s.bound)`."""
    bound, names = s.bound, s.names
    while len(bound) > mark:
        names[bound.pop()[0]].pop()


def changeable(s: Scope, kind: int) -> str | None:
    """A bound name of that kind which may be changed here, rather a recent one; None if there is none."""
    names, draw = s.names[kind], s.random()
    if names and (name := names[~int(draw * draw * len(names))]) not in s.fixed:
        return name
    return None


def known(s: Scope, kind: int) -> str:
    """A bound name of that kind (there must be one), rather a recent one."""
    names, draw = s.names[kind], s.random()
    return names[~int(draw * draw * len(names))]


Production = Callable[[Scope, str], None]
"""Appends lines, indented by the text it is given."""
Table = Sequence[Production]
"""256 productions"""
