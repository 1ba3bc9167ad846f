"""Expressions of the tiny Python grammar.

`literal`, `argument` and `value` write an expression of a wanted kind from the names in scope. Where a variable is
needed that does not exist, `need` writes its assignment first, so no production ever fails.

Draws are `POOL[s.bits(k)]`, with the pools of `tiny_vocabulary` and `tiny_phrases`; s.random() chooses among names.
"""

from .tiny_phrases import CONTENTS, FILES, FLOATS, GRIDS, NUMBERS, ODDITIES, RUNS, SMALL, STRINGS, WORDS
from .tiny_scope import Function, Scope, bind, fresh, known
from .tiny_vocabulary import BOOL, DICT, FLOAT, GRID, INT, INTS, LOCK, NUMS, OBJ, PAIRS, PATH, SET, STR, STRS


def need(s: Scope, pad: str, kind: int) -> str:
    """A bound name of that kind, assigned on a line of its own first if there is none."""
    if s.names[kind]:
        return known(s, kind)
    name = fresh(s, kind)
    s.lines.append(f"{pad}{name} = {literal(s, kind)}")
    bind(s, kind, name)
    return name


def literal(s: Scope, kind: int) -> str:
    """A display or constant of that kind."""
    bits = s.bits
    if kind == INT:
        return NUMBERS[bits(10)]
    if kind == STR:
        return STRINGS[bits(13)]
    if kind == INTS:
        draw = bits(5)
        if draw == 0 and len(s.names[INT]) > 1:
            return f"[{', '.join(s.names[INT][-3:])}]"
        return f"[{RUNS[bits(12)]}]" if draw > 1 else "[]"
    if kind == GRID:
        return GRIDS[bits(11)]
    if kind == STRS:
        draw = bits(3)
        if draw > 4:
            return f"[{WORDS[bits(11)]}, {WORDS[bits(11)]}]"
        if draw > 1:
            return f"[{WORDS[bits(11)]}, {WORDS[bits(11)]}, {WORDS[bits(11)]}]"
        return "[]" if draw and bits(1) else f"[{WORDS[bits(11)]}]"
    if kind == SET:
        draw = bits(2)
        if draw > 1:
            return f"{{{WORDS[bits(11)]}, {WORDS[bits(11)]}}}"
        if draw:
            return f"{{{WORDS[bits(11)]}, {WORDS[bits(11)]}, {WORDS[bits(11)]}}}"
        return f"{{{WORDS[bits(11)]}}}"
    if kind == NUMS:
        return f"{{{RUNS[bits(12)]}}}"
    if kind == DICT:
        if bits(1):
            return f"{{{WORDS[bits(11)]}: {NUMBERS[bits(10)]}}}"
        return f"{{{WORDS[bits(11)]}: {NUMBERS[bits(10)]}, {WORDS[bits(11)]}: {NUMBERS[bits(10)]}}}"
    if kind == BOOL:
        return "True" if bits(1) else "False"
    if kind == FLOAT:
        return FLOATS[bits(5)]
    if kind == PATH:
        return FILES[bits(12)]
    if kind == PAIRS:
        return f"[({WORDS[bits(11)]}, {NUMBERS[bits(10)]}), ({WORDS[bits(11)]}, {NUMBERS[bits(10)]})]"
    if kind == LOCK:
        return lock(s)
    return ODDITIES[bits(6)]


def lock(s: Scope) -> str:
    """A new lock; the program imports threading or Lock, always the same way."""
    if "import threading" in s.imports or "from threading import Lock" not in s.imports and s.bits(1):
        s.imports["import threading"] = None
        return "threading.Lock()"
    s.imports["from threading import Lock"] = None
    return "Lock()"


def argument(s: Scope, kind: int) -> str:
    """A bound name of that kind or a literal. OBJ has no literals: a name must exist."""
    if s.names[kind] and (kind == OBJ or s.bits(2) > 1):
        return known(s, kind)
    return literal(s, kind)


def arguments(s: Scope, params: tuple[tuple[str, int], ...]) -> str:
    """What stands between the parentheses of a call: every argument, three times in four all as keywords in order.

    A keyword takes the variable of its own name where there is one, as in `area(width=width)`.
    """
    draw = s.bits(3)
    if draw < 6:
        return ", ".join([f"{name}={name if name in s.names[kind] else argument(s, kind)}" for name, kind in params])
    parts = [argument(s, kind) for _, kind in params]
    if draw == 6 and len(parts) > 1:
        parts[-1] = f"{params[-1][0]}={parts[-1]}"
    return ", ".join(parts)


def function(s: Scope) -> Function | None:
    """A function above whose arguments can all be written here, or None."""
    functions = s.functions
    if functions:
        draw = s.random()
        chosen = functions[~int(draw * draw * len(functions))]
        if s.names[OBJ] or all(kind != OBJ for _, kind in chosen.params):
            return chosen
    return None


def external(s: Scope) -> str:
    """An imported function (there must be one)."""
    return s.externals[s.bits(8) % len(s.externals)]


def value(s: Scope, kind: int) -> str:
    """The right-hand side of an assignment: mostly a literal, sometimes computed from names."""
    names, draw = s.names, s.bits(4)
    if draw < 10:
        return literal(s, kind)
    if kind == INT:
        if draw < 13 and names[INT]:
            if draw == 12 and len(names[INT]) > 1:
                return f"{known(s, INT)} {'+-'[s.bits(1)]} {known(s, INT)}"
            return f"{known(s, INT)} {'+-*+'[s.bits(2)]} {SMALL[s.bits(6)]}"
        for container in (INTS, STRS, DICT, SET, STR) if draw & 1 else (STRS, SET, INTS):
            if names[container]:
                if container == INTS and draw == 15:
                    return f"{('sum', 'max', 'min', 'sum')[s.bits(2)]}({known(s, INTS)})"
                return f"len({known(s, container)})"
    elif kind == STR:
        if names[STR] and draw < 13:
            if draw == 12:
                return f"{known(s, STR)} + {STRINGS[s.bits(13)]}"
            return f"{known(s, STR)}.{('upper', 'lower', 'strip', 'title')[s.bits(2)]}()"
        if names[INT]:
            return f"str({known(s, INT)})" if draw == 14 else template(s)
        if draw == 15:
            return f"input({STRINGS[s.bits(13)]})"
    elif kind == FLOAT and names[INT]:
        return f"{known(s, INT)} / {SMALL[s.bits(6)]}" if draw < 13 else f"{known(s, INT)} * {FLOATS[s.bits(5)]}"
    elif kind == BOOL and names[INT]:
        return f"{known(s, INT)} {('>', '==', '<', '>=')[s.bits(2)]} {NUMBERS[s.bits(10)]}"
    elif kind == STRS and names[STR] and draw < 13:
        return f"{known(s, STR)}.split()"
    elif kind == INTS and names[INTS]:
        return (f"sorted({known(s, INTS)})", f"{known(s, INTS)}[1:]", f"{known(s, INTS)}[:3]")[draw % 3]
    return literal(s, kind)


def template(s: Scope) -> str:
    """An f-string with one bound name, in either quote style; mostly the name is its last piece."""
    names, draw, quote = s.names, s.bits(4), "'\""[s.bits(1)]
    kind = INT if draw & 1 else STR
    if not names[kind]:
        kind = STR if kind == INT else INT
        if not names[kind]:
            return STRINGS[s.bits(13)]
    name = known(s, kind)
    if draw < 7:
        return f"f{quote}{{{name}}}{quote}"
    if draw < 12:
        return f"f{quote}{CONTENTS[s.bits(12)]}{(' ', ': ', ', ', ': ')[s.bits(2)]}{{{name}}}{quote}"
    if draw < 14:
        return f"f{quote}{{{name}}} {CONTENTS[s.bits(12)]}{quote}"
    return f"f{quote}{CONTENTS[s.bits(12)]} {{{name}}} {CONTENTS[s.bits(12)]}{quote}"
