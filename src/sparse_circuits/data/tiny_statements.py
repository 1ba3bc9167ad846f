"""One-line statements of the tiny Python grammar.

A production is a function (scope, pad) that appends lines indented by `pad`. Each one always succeeds: what it cannot
write with the names in scope it replaces by something close. Adding a statement is one function here and one row in a
table of `tiny_python`.
"""

from collections.abc import Callable

from .tiny_expressions import (
    BOOL,
    DICT,
    GRID,
    HINTS,
    INT,
    INTS,
    NUMS,
    OBJ,
    SET,
    STR,
    STRS,
    Function,
    Scope,
    argument,
    arguments,
    bind,
    condition,
    fresh,
    function,
    known,
    literal,
    need,
    template,
    value,
)
from .tiny_vocabulary import ACCUMULATORS, CONTENTS, METHODS, NAMES, NUMBERS, STRINGS

Production = Callable[[Scope, str], None]


def say(s: Scope, pad: str) -> None:
    """A call whose last argument is a string."""
    draw, text, names = s.bits(4), STRINGS[s.bits(13)], s.names
    if draw < 3 and s.externals:
        line = f"{s.externals[s.bits(8) % len(s.externals)]}({text})"
    elif draw < 7 and names[OBJ]:
        line = f"{known(s, OBJ)}.{METHODS[s.bits(6)]}({text})"
    elif draw < 9 and names[STRS]:
        line = f"{known(s, STRS)}.append({text})"
    elif draw < 11 and names[SET]:
        line = f"{known(s, SET)}.add({text})"
    elif draw == 11 and names[INT]:
        line = f"print({known(s, INT)}, {text})"
    elif draw == 12:
        name = fresh(s)
        line = f"{name} = input({text})"
        bind(s, STR, name)
    elif draw == 13 and s.externals:
        name = fresh(s)
        line = f"{name} = {s.externals[s.bits(8) % len(s.externals)]}({text})"
        bind(s, OBJ, name)
    elif draw == 14 and names[OBJ]:
        name = fresh(s)
        line = f"{name} = {known(s, OBJ)}.{METHODS[s.bits(6)]}({text})"
        bind(s, OBJ, name)
    else:
        line = f"print({text})"
    s.lines.append(pad + line)


def show(s: Scope, pad: str) -> None:
    """Print what is bound."""
    draw, names = s.bits(3), s.names
    if draw < 4:
        s.lines.append(f"{pad}print({template(s)})")
        return
    kind = s.bits(3)
    name = known(s, kind) if names[kind] else need(s, pad, INT)
    if draw == 4 and names[STR]:
        s.lines.append(f"{pad}print({name}, {known(s, STR)})")
    elif draw == 5 and kind > STR and names[kind]:
        s.lines.append(f"{pad}print(len({name}))")
    else:
        s.lines.append(f"{pad}print({name})")


_ASSIGNED = (
    *((INT,) * 5 + (STR,) * 6 + (INTS,) * 4 + (GRID,) * 8),
    *((STRS,) * 2 + (SET,) * 2 + (NUMS,) * 2 + (DICT,) * 2 + (BOOL,)),
)  # nested lists as often as all flat ones, which also come from elsewhere


def assign(s: Scope, pad: str) -> None:
    """Bind a new name, sometimes with a type hint."""
    kind = _ASSIGNED[s.bits(5)]
    text, name, draw = value(s, kind), fresh(s), s.bits(4)
    s.lines.append(f"{pad}{name}: {HINTS[kind]} = {text}" if not draw else f"{pad}{name} = {text}")
    bind(s, kind, name)


def update(s: Scope, pad: str, kind: int, name: str, item: str | None = None) -> None:
    """Change a variable in the way of its kind; `item` is the name to put in (None: anything)."""
    draw = s.bits(2)
    if kind == STR:
        line = f"{name} += {item or STRINGS[s.bits(13)]}"
    elif kind in (SET, NUMS):
        line = f"{name}.add({item or argument(s, STR if kind == SET else INT)})"
    elif kind in (INTS, STRS):
        if draw == 0 and item is None:
            line = f"{name} += {literal(s, kind)}"
        else:
            line = f"{name}.append({item or argument(s, INT if kind == INTS else STR)})"
    elif kind == INT:
        line = f"{name} {'-=' if draw == 0 else '+='} {item or argument(s, INT)}"
    elif kind == GRID:
        if draw == 0 and item is None:
            line = f"{name} += {literal(s, GRID)}"
        else:
            line = f"{name}.append({item or literal(s, INTS)})"
    elif kind == DICT:
        line = f"{name}[{item or argument(s, STR)}] = {argument(s, INT)}"
    elif kind == BOOL:
        line = f"{name} = not {name}" if draw == 0 else f"{name} = {literal(s, BOOL)}"
    else:
        line = f"{name}.{METHODS[s.bits(6)]}({STRINGS[s.bits(13)]})"
    s.lines.append(pad + line)


def augment(s: Scope, pad: str) -> None:
    """Change one of the bound variables."""
    kind = (INT, STR, INTS, STRS, GRID, SET, NUMS, DICT, STR, SET, STR, SET, NUMS, OBJ, OBJ, INT)[s.bits(4)]
    if s.names[kind]:
        update(s, pad, kind, known(s, kind))
    else:
        say(s, pad)


_EMPTY = ("0", '""', "[]", "[]", "[]", "set()", "set()", "{}")
_GATHERED = (SET, SET, SET, SET, NUMS, NUMS, STR, STR, STR, STR, STR, INTS, STRS, INT, DICT, SET)


def gather(s: Scope, pad: str) -> tuple[int, str]:
    """Bind a fresh empty accumulator; returns (kind, name)."""
    kind, draw = _GATHERED[s.bits(4)], s.bits(2)
    name = ACCUMULATORS[s.bits(6)] if draw else fresh(s)
    if draw and name in s.used:
        name = fresh(s)
    s.used.add(name)
    s.lines.append(f"{pad}{name} = {chr(39) * 2 if kind == STR and s.bits(1) else _EMPTY[kind]}")
    bind(s, kind, name)
    return kind, name


def swap(s: Scope, pad: str) -> None:
    """`a, b = b, a` of two variables of one kind; binds them first where there are no two."""
    kind = INT if s.bits(1) else STR
    names = s.names[kind]
    if len(names) < 2:
        first, second = fresh(s), fresh(s)
        s.lines.append(f"{pad}{first}, {second} = {literal(s, kind)}, {literal(s, kind)}")
        bind(s, kind, first)
        bind(s, kind, second)
    else:
        first, second = names[-1], names[int(s.random() * (len(names) - 1))]
    s.lines.append(f"{pad}{first}, {second} = {second}, {first}")


def ternary(s: Scope, pad: str) -> None:
    """`y = 1 if test else 2`; the test is sometimes a call, as the head of a with-statement is."""
    kind = INT if s.bits(1) else STR
    if s.externals and s.bits(1):
        test = f"{s.externals[s.bits(8) % len(s.externals)]}({argument(s, STR)})"
    else:
        test = condition(s, pad)
    name = fresh(s)
    s.lines.append(f"{pad}{name} = {literal(s, kind)} if {test} else {literal(s, kind)}")
    bind(s, kind, name)


def formatted(s: Scope, pad: str) -> None:
    """A plain string with braces: a template for .format, or a lone brace."""
    draw, quote = s.bits(2), "'\""[s.bits(1)]
    if draw:
        field = fresh(s)
        given = argument(s, INT if draw == 1 else STR)
        text = f"{quote}{CONTENTS[s.bits(12)]} {{{field}}}{quote}.format({field}={given})"
        s.used.discard(field)
    else:
        text = f"{quote}{{{NAMES[s.bits(14)]}{quote}"
    s.lines.append(f"{pad}print({text})")


def remark(s: Scope, pad: str) -> None:
    """A comment above a statement (a block must not consist of comments)."""
    s.lines.append(f"{pad}# {CONTENTS[s.bits(12)]}")
    (say, show, assign, augment)[s.bits(2)](s, pad)


def invoke(s: Scope, pad: str) -> None:
    """Call a function defined above, and bind what it returns."""
    chosen = function(s)
    if chosen is None:
        say(s, pad)
        return
    text = f"{chosen.name}({arguments(s, chosen.params)})"
    if chosen.result is None:
        s.lines.append(pad + text)
    elif s.bits(2):
        name = fresh(s)
        s.lines.append(f"{pad}{name} = {text}")
        bind(s, chosen.result, name)
    else:
        s.lines.append(f"{pad}print({text})")


def anonymous(s: Scope, pad: str) -> None:
    """Bind a lambda of one or two parameters, or sort a list by one."""
    name, draw = fresh(s), s.bits(2)
    first = ("x", "n", "a", "y")[s.bits(2)]
    if s.names[INTS] and s.bits(1):
        s.lines.append(f"{pad}{name} = sorted({known(s, INTS)}, key=lambda {first}: {first} % {s.bits(3) + 2})")
        bind(s, INTS, name)
        return
    if draw == 0:
        params, body = ((first, INT), ("b", INT)), f"{first} + b"
    elif draw == 1:
        params, body = ((first, STR),), f"{first} + {STRINGS[s.bits(13)]}"
    else:
        params, body = ((first, INT),), f"{first} {'+*'[draw & 1]} {NUMBERS[s.bits(8)]}"
    s.lines.append(f"{pad}{name} = lambda {', '.join(param for param, _ in params)}: {body}")
    if not pad:  # deeper ones would have to be forgotten with their block
        s.functions.append(Function(name, params, STR if draw == 1 else INT))
