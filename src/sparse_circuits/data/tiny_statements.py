"""Statements of the tiny Python grammar that print, bind and change variables.

A production is a function (scope, pad) that appends lines indented by `pad`. Each one always succeeds: what it cannot
write with the names in scope it replaces by something close. Adding a statement is one function here and one row in a
table of `tiny_blocks`.
"""

from .tiny_expressions import argument, external, literal, need, template, value
from .tiny_phrases import CONTENTS, SMALL, STRINGS, WORDS
from .tiny_scope import HINTS, Scope, bind, changeable, fresh, known
from .tiny_vocabulary import (
    ACCUMULATORS,
    ANY,
    BOOL,
    DICT,
    FLOAT,
    GRID,
    INT,
    INTS,
    METHODS,
    NUMS,
    OBJ,
    PAIRS,
    PATH,
    POOLS,
    SET,
    STR,
    STRS,
)

# output


def say(s: Scope, pad: str) -> None:
    """A call whose last argument is a string."""
    draw, text, names = s.bits(4), STRINGS[s.bits(13)], s.names
    if draw < 2 and s.externals:
        line = f"{external(s)}({text})"
    elif draw == 2 and names[OBJ]:
        line = f"{known(s, OBJ)}.{METHODS[s.bits(6)]}({text})"
    elif draw < 5 and (changed := changeable(s, STRS)):
        line = f"{changed}.append({text})"
    elif draw < 7 and (changed := changeable(s, SET)):
        line = f"{changed}.add({text})"
    elif draw == 7 and names[INT]:
        line = f"print({known(s, INT)}, {text})"
    elif draw == 8:
        name = fresh(s, STR)
        line = f"{name} = input({text})"
        bind(s, STR, name)
    elif draw == 9 and s.externals:
        name = fresh(s, OBJ)
        line = f"{name} = {external(s)}({text})"
        bind(s, OBJ, name)
    elif draw == 10:
        line = _logged(s, text)
    else:
        line = f"print({text})"
    s.lines.append(pad + line)


def _logged(s: Scope, text: str) -> str:
    """A logging call; the logger is a name of the module."""
    s.imports["import logging"] = None
    return f"logging.{('info', 'warning', 'error', 'debug')[s.bits(2)]}({text})"


def show(s: Scope, pad: str) -> None:
    """Print what is bound."""
    draw, names = s.bits(4), s.names
    if draw < 10:
        text = template(s)
        if draw == 0 and s.externals:
            s.lines.append(f"{pad}{external(s)}({text})")
        elif draw == 1 and (changed := changeable(s, STRS)):
            s.lines.append(f"{pad}{changed}.append({text})")
        elif draw == 2:
            s.lines.append(pad + _logged(s, text))
        else:
            s.lines.append(f"{pad}print({text})")
        return
    kind, name = s.bound[-1] if s.bound and draw < 13 else (INT, need(s, pad, INT))
    if draw == 11 and names[STR]:
        s.lines.append(f"{pad}print({known(s, STR)}, {name})")
    elif draw == 15:
        s.lines.append(f"{pad}print({STRINGS[s.bits(13)]}, {name})")
    elif draw == 10 and kind in (STR, INTS, STRS, GRID, SET, NUMS, DICT, PAIRS):
        s.lines.append(f"{pad}print(len({name}))")
    else:
        s.lines.append(f"{pad}print({name})")


def braces(s: Scope, pad: str) -> None:
    """A plain string with a lone brace before a name, which is text; rarely one with {} for .format."""
    draw, quote = s.bits(4), "'\""[s.bits(1)]
    if s.bound and draw & 1:
        name = s.bound[-1][1]
    else:
        name = POOLS[STR][s.bits(12)]
    if draw == 0:
        text = f"{quote}{CONTENTS[s.bits(12)]} {{}}{quote}.format({argument(s, STR)})"
    elif draw < 6:
        text = f"{quote}{CONTENTS[s.bits(12)]}{(' ', ': ', ', ', ' ')[s.bits(2)]}{{{name}{quote}"
    elif draw < 13:
        text = f"{quote}{{{name}{quote}"
    else:
        text = f"{quote}{name}{quote}"
    if draw == 4:
        s.lines.append(pad + _logged(s, text))
    elif draw == 5 and s.externals:
        s.lines.append(f"{pad}{external(s)}({text})")
    else:
        s.lines.append(f"{pad}print({text})")


# variables

_ASSIGNED = (
    *((INT,) * 8 + (STR,) * 6 + (INTS,) * 4 + (GRID,) * 30 + (STRS,) * 2),
    *((SET,) * 4 + (NUMS,) * 8 + (DICT,) * 6 + (BOOL,) * 4 + (FLOAT,) + (PATH,) + (ANY,)),
)  # nested lists as often as all flat ones, which also come from elsewhere


def assign(s: Scope, pad: str) -> None:
    """Bind a new name, sometimes with a type hint."""
    kind = _ASSIGNED[s.bits(6)]
    text, name = value(s, kind), fresh(s, kind)
    if s.bits(5) == 0 and kind != ANY:
        s.lines.append(f"{pad}{name}: {HINTS[kind]} = {text}")
    else:
        s.lines.append(f"{pad}{name} = {text}")
    bind(s, kind, name)


def reassign(s: Scope, pad: str) -> None:
    """Give a bound scalar a new value: `count = 3`, `done = True`, `x = x + 1`."""
    draw = s.bits(3)
    kind = (INT, INT, INT, STR, BOOL, INT, STR, FLOAT)[draw]
    name = changeable(s, kind)
    if name is None:
        kind = INT
        name = changeable(s, INT)
    if name is None:
        assign(s, pad)
    elif kind == INT and draw == 0:
        s.lines.append(f"{pad}{name} = {name} {'+-*+'[s.bits(2)]} {SMALL[s.bits(6)]}")
    else:
        s.lines.append(f"{pad}{name} = {value(s, kind)}")


def unpack(s: Scope, pad: str) -> None:
    """`a, b = 1, 2`."""
    kind = (INT, INT, INT, STR)[s.bits(2)]
    first, second = fresh(s, kind), fresh(s, kind)
    while first == second:
        second = fresh(s, kind)
    s.lines.append(f"{pad}{first}, {second} = {literal(s, kind)}, {literal(s, kind)}")
    bind(s, kind, first)
    bind(s, kind, second)


def update(s: Scope, pad: str, kind: int, name: str, item: str | None = None) -> None:
    """Change a variable in the way of its kind; `item` is the name to put in (None: anything)."""
    draw = s.bits(2)
    if kind == STR:
        if item is None:
            item = known(s, STR) if draw == 0 else template(s) if draw == 1 else STRINGS[s.bits(13)]
            if name in item:  # it would double with every turn of a loop
                item = STRINGS[s.bits(13)]
        line = f"{name} += {item}"
    elif kind in (SET, NUMS):
        line = f"{name}.add({item or argument(s, STR if kind == SET else INT)})"
    elif kind in (INTS, STRS):
        if draw == 0 and item is None:
            line = f"{name} += {literal(s, kind)}"
        else:
            line = f"{name}.append({item or argument(s, INT if kind == INTS else STR)})"
    elif kind in (INT, FLOAT):
        if draw == 3 and item is None:
            line = f"{name} *= {SMALL[s.bits(6)]}"
        else:
            line = f"{name} {('-=', '+=', '+=', '+=')[draw]} {item or argument(s, INT)}"
    elif kind == GRID:
        if draw == 0 and item is None:
            line = f"{name} += {literal(s, GRID)}"
        else:
            line = f"{name}.append({item or literal(s, INTS)})"
    elif kind == PAIRS:
        line = f"{name}.append(({item or argument(s, STR)}, {argument(s, INT)}))"
    elif kind == DICT:
        line = f"{name}[{item or argument(s, STR)}] = {argument(s, INT)}"
    else:
        line = f"{name} = {literal(s, BOOL)}" if kind == BOOL else f"{name}.{METHODS[s.bits(6)]}({STRINGS[s.bits(13)]})"
    s.lines.append(pad + line)


_CHANGED = (INT, INT, INTS, STRS, GRID, SET, NUMS, DICT, STR, SET, STR, SET, NUMS, OBJ, INT, DICT)


def augment(s: Scope, pad: str) -> None:
    """Change one of the bound variables."""
    kind = _CHANGED[s.bits(4)]
    if name := changeable(s, kind):
        update(s, pad, kind, name)
    else:
        reassign(s, pad)


_EMPTY = {INT: "0", STR: '""', INTS: "[]", STRS: "[]", SET: "set()", NUMS: "set()", DICT: "{}"}
_GATHERED = (SET, SET, SET, NUMS, NUMS, NUMS, STR, STR, STR, STR, STR, STR, INTS, STRS, INT, DICT)


def gather(s: Scope, pad: str) -> tuple[int, str]:
    """Bind an empty accumulator; returns (kind, name). Sets and strings draw their names from one pool."""
    kind = _GATHERED[s.bits(4)]
    name = ACCUMULATORS[s.bits(12)]
    while name in s.kinds and (s.kinds[name] != kind or name in s.names[kind] or name in s.fixed):
        name = ACCUMULATORS[s.bits(12)]
    s.lines.append(f"{pad}{name} = {chr(39) * 2 if kind == STR and s.bits(1) else _EMPTY[kind]}")
    bind(s, kind, name)
    return kind, name


def swap(s: Scope, pad: str) -> None:
    """`a, b = b, a` of two variables of one kind, or a pair whose second is changed: `a, b = a, b + 1`."""
    draw = s.bits(4)
    kind = INT if draw < 12 else STR
    names = s.names[kind]
    if len(names) < 2 or names[-1] in s.fixed or names[-2] in s.fixed:
        unpack_as(s, pad, kind)
    first, second = names[-2], names[-1]
    if draw & 1:
        first, second = second, first
    if draw < 4:
        s.lines.append(f"{pad}{first}, {second} = {second}, {first}")
    elif draw < 6:
        s.lines.append(f"{pad}{first}, {second} = {second}, {first} {'+-+%'[s.bits(2)]} {second}")
    elif draw < 12:
        other = first if s.bits(2) == 0 else SMALL[s.bits(6)]
        sign = "+-*+"[s.bits(2)] if other != first else "+-"[s.bits(1)]
        s.lines.append(f"{pad}{first}, {second} = {first}, {second} {sign} {other}")
    elif draw < 14:
        s.lines.append(f"{pad}{first}, {second} = {second}, {first}")
    else:
        ending = ".upper()" if s.bits(1) else f" + {WORDS[s.bits(11)]}"
        s.lines.append(f"{pad}{first}, {second} = {first}, {second}{ending}")


def unpack_as(s: Scope, pad: str, kind: int) -> None:
    """Bind two scalars of one kind, on one line or two."""
    first, second = fresh(s, kind), fresh(s, kind)
    while first == second:
        second = fresh(s, kind)
    if s.bits(1):
        s.lines.append(f"{pad}{first}, {second} = {literal(s, kind)}, {literal(s, kind)}")
    else:
        s.lines.append(f"{pad}{first} = {literal(s, kind)}")
        s.lines.append(f"{pad}{second} = {literal(s, kind)}")
    bind(s, kind, first)
    bind(s, kind, second)
