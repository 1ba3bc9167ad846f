"""Conditions of the tiny Python grammar: the tests of if, elif, while, assert and ternaries.

Three tests out of four are of the name bound last, as in most code. A test `NAME OP literal` is told from the others,
since a chain that it opens goes on with an elif, and a chain that any other test opens with an else.
"""

from typing import NamedTuple

from .tiny_expressions import argument, external, need
from .tiny_phrases import FLOATS, NUMBERS, SMALL, WORDS
from .tiny_scope import Scope, known
from .tiny_vocabulary import ANY, BOOL, DICT, FLOAT, INT, INTS, NUMS, OBJ, SET, STR, STRS


class Test(NamedTuple):
    """A condition."""

    text: str
    subject: str | None
    """the name before the operator, if the test is `NAME OP literal`: such a test opens a chain with an elif"""
    kind: int
    """kind of the subject"""


def test(s: Scope, pad: str) -> Test:
    """A condition, three times out of four of the name bound last."""
    draw = s.bits(4)
    if s.bound and draw < 12:
        kind, name = s.bound[-1]
    elif draw == 15 and s.externals:
        return Test(f"{external(s)}({argument(s, STR)})", None, STR)
    elif draw == 14:
        return compound(s, pad)
    else:
        kind = (INT, STR, INT, BOOL)[draw & 3]
        if not s.names[kind]:
            kind = INT
        name = need(s, pad, kind)
    return test_of(s, kind, name)


def compare(s: Scope, kind: int, name: str) -> str:
    """`NAME OP literal` of an int, float or string; equality is the most common operator."""
    if kind == STR:
        return f"{name} {'!=' if s.bits(3) == 0 else '=='} {WORDS[s.bits(11)]}"
    bound = NUMBERS[s.bits(10)] if kind == INT else FLOATS[s.bits(5)]
    return f"{name} {('==', '>', '<', '==', '!=', '==', '>=', '==', '>', '<', '<=', '==', '>', '==', '<', '==')[s.bits(4)]} {bound}"


def test_of(s: Scope, kind: int, name: str) -> Test:
    """A condition about one name."""
    draw = s.bits(4)
    if kind in (INT, FLOAT, STR):
        if draw < 10:
            return Test(compare(s, kind, name), name, kind)
        if draw == 10 and kind == INT:
            return Test(f"{name} % {(2, 2, 3, 5)[s.bits(2)]} == 0", None, kind)
        if draw < 13 and kind == STR and s.names[STRS]:
            return Test(f"{name} in {known(s, STRS)}", None, kind)
        if draw < 13 and kind == INT and s.names[INTS]:
            return Test(f"{name} in {known(s, INTS)}", None, kind)
        if draw == 13 and kind == STR:
            return Test(f"{name}.startswith({WORDS[s.bits(11)]})", None, kind)
        if draw == 14 and kind == INT and len(s.names[INT]) > 1:
            return Test(f"{name} {'<>'[s.bits(1)]} {s.names[INT][-2]}", None, kind)
        return Test(f"not {name}" if draw & 1 else name, None, kind)
    if kind in (INTS, STRS, SET, NUMS, DICT):
        element = INT if kind in (INTS, NUMS) else STR
        if draw < 5:
            return Test(f"{argument(s, element)} in {name}", None, kind)
        if draw < 8:
            return Test(f"len({name}) {('==', '>', '<', '>')[s.bits(2)]} {SMALL[s.bits(6)]}", None, kind)
    if kind in (OBJ, ANY) and draw < 10:
        return Test(f"{name} is not None" if draw < 5 else f"{name} is None", None, kind)
    return Test(f"not {name}" if draw > 11 else name, None, kind)


def compound(s: Scope, pad: str) -> Test:
    """Two conditions joined."""
    first, second = need(s, pad, INT), known(s, INT)
    left, right = compare(s, INT, first), compare(s, INT, second)
    if s.names[BOOL]:
        left = known(s, BOOL)
    return Test(f"{left} {'and' if s.bits(1) else 'or'} {right}", None, INT)
