"""Loops of the tiny Python grammar.

What would make a loop endless (its counter, the list it goes over) is fixed while its body is written, and so are the
loop variables: the body reads them and changes others.
"""

from .tiny_branches import INDENT, block, body, header, returning
from .tiny_conditions import test_of
from .tiny_expressions import argument, literal, need
from .tiny_phrases import NUMBERS, SMALL
from .tiny_scope import Scope, bind, changeable, fresh, known, unwind
from .tiny_statements import update
from .tiny_vocabulary import BOOL, DICT, GRID, INT, INTS, NUMS, PAIRS, SET, SINGULAR, STR, STRS

_TAKERS = {STR: (STR, STRS, SET, DICT), INT: (NUMS, INTS, INT), INTS: (GRID,)}


def consume(s: Scope, pad: str, kind: int, name: str) -> None:
    """Use the loop variable: put it into a fitting accumulator if there is one, else print it."""
    draw = s.bits(1)
    for target in _TAKERS[kind]:
        if s.names[target] and (chosen := s.names[target][-1]) not in s.fixed:
            if draw:
                update(s, pad, target, chosen, name)
                return
            draw = 1
    s.lines.append(f"{pad}print({name})")


def loop(
    s: Scope, pad: str, binds: tuple[tuple[int, str], ...], source: str, into: tuple[int, str] | None = None
) -> None:
    """The body of a for-loop over `source` that binds names. The last of the names is put `into` an accumulator, if one
    is given."""
    mark, looping, header_at = len(s.bound), s.looping, len(s.lines)
    fixed = [name for name in (source, *[name for _, name in binds]) if name not in s.fixed]
    s.fixed.update(fixed)
    s.looping = True
    for kind, name in binds:
        bind(s, kind, name)
    inner = pad + INDENT
    if into:
        if s.bits(2) == 0:
            s.lines.append(f"{inner}if {test_of(s, *binds[-1]).text}:")
            inner += INDENT
        update(s, inner, *into, binds[-1][1])
    else:
        if s.bits(1):
            consume(s, inner, *binds[-1])
        if len(s.lines) == header_at or s.bits(1):
            body(s, pad)
    unwind(s, mark)
    s.looping = looping
    s.fixed.difference_update(fixed)


def _counter(s: Scope) -> str:
    """An index variable that no enclosing loop uses."""
    kinds = s.kinds
    for name in ("i", "i", "j", "k") if s.bits(2) else (("n", "index", "idx", "x")[s.bits(2)], "num"):
        if kinds.get(name, INT) == INT and name not in s.names[INT] and name not in s.fixed:
            return name
    return fresh(s, INT)


def element_of(s: Scope, kind: int, source: str) -> str:
    """The loop variable of a for-each loop: the singular of the list's name, or x, item, ..."""
    draw, kinds = s.bits(4), s.kinds
    name = SINGULAR.get(source) if draw & 1 else None
    if name is None:
        name = ("x", "item", "x", "word", "value", "n", "name", "i")[draw >> 1]
    if name not in kinds or kinds[name] == kind and name not in s.names[kind] and name not in s.fixed:
        return name
    return fresh(s, kind)


def for_range(s: Scope, pad: str) -> None:
    """`for i in range(n)`."""
    draw, name = s.bits(3), _counter(s)
    if draw < 4:
        stop = SMALL[s.bits(6)]
    elif draw == 4:
        stop = argument(s, INT)
    elif draw < 7:
        stop = f"{s.bits(2)}, {NUMBERS[s.bits(10)].lstrip('-')}"
    else:
        stop = f"len({need(s, pad, INTS)})"
    header(s, pad, f"for {name} in range({stop}):")
    loop(s, pad, ((INT, name),), stop)


_LISTED = (INTS, STRS, INTS, STRS, INTS, STRS, SET, NUMS)


def for_each(s: Scope, pad: str) -> None:
    """`for x in xs`, over lists, sets, strings."""
    draw = s.bits(4)
    kind = _LISTED[draw & 7]
    element = STR if kind in (STRS, SET) else INT
    if draw == 15 and s.names[STR]:
        kind, element = STR, STR
    if draw < 11 or s.names[kind]:
        source = need(s, pad, kind)
    else:
        source = literal(s, kind)
    name = element_of(s, element, source)
    header(s, pad, f"for {name} in {'sorted(' + source + ')' if draw == 7 else source}:")
    loop(s, pad, ((element, name),), source)


def for_enumerate(s: Scope, pad: str) -> None:
    """`for i, x in enumerate(xs)`."""
    kind = _LISTED[s.bits(2)]
    element = STR if kind == STRS else INT
    source = need(s, pad, kind)
    index = _counter(s)
    s.kinds[index] = INT
    name = element_of(s, element, source)
    while name == index:
        name = fresh(s, element)
    start = ", start=1" if s.bits(3) == 0 else ""
    header(s, pad, f"for {index}, {name} in enumerate({source}{start}):")
    loop(s, pad, ((INT, index), (element, name)), source)


def for_pairs(s: Scope, pad: str) -> None:
    """`for key, value in d.items()`, the rows of a nested list, a list of tuples, or two lists zipped."""
    draw = s.bits(2)
    if draw == 0:
        source = need(s, pad, GRID)
        name = "row" if s.bits(1) and "row" not in s.kinds else element_of(s, INTS, source)
        header(s, pad, f"for {name} in {source}:")
        loop(s, pad, ((INTS, name),), source)
        return
    if draw == 3 and s.names[STRS] and s.names[INTS]:
        source, second = known(s, STRS), known(s, INTS)
        key, name = fresh(s, STR), fresh(s, INT)
        header(s, pad, f"for {key}, {name} in zip({source}, {second}):")
        loop(s, pad, ((STR, key), (INT, name)), source)
        return
    kind = DICT if draw < 3 else PAIRS
    source = need(s, pad, kind)
    key, name = (
        ("key", "value") if s.bits(1) and not {"key", "value"} & s.kinds.keys() else (fresh(s, STR), fresh(s, INT))
    )
    header(s, pad, f"for {key}, {name} in {source}{'.items()' if kind == DICT else ''}:")
    loop(s, pad, ((STR, key), (INT, name)), source)


def while_(s: Scope, pad: str) -> None:
    """`while x < n:` or `while True:`, which always end: only the last lines of the body change the counter."""
    draw = s.bits(4)
    if draw == 7 and s.bits(2) == 0:
        _while_flag(s, pad)
        return
    forever = draw < 6 and len(pad) < 8  # its break would stand too deep
    name = changeable(s, INT) if draw & 1 else None
    if name is None:
        name = ("i", "count", "n", "x")[s.bits(2)] if draw & 2 else fresh(s, INT)
        if s.kinds.get(name, INT) != INT or name in s.names[INT] or name in s.fixed:
            name = fresh(s, INT)
        s.lines.append(f"{pad}{name} = {'0010'[s.bits(2)]}")
        bind(s, INT, name)
    limit, down = SMALL[s.bits(6)], draw == 15
    if len(s.names[INT]) > 1 and draw in (8, 10):
        limit = s.names[INT][-2] if s.names[INT][-2] != name else limit
    elif draw in (9, 12) and s.names[INTS]:
        limit = f"len({known(s, INTS)})"
    header(s, pad, "while True:" if forever else f"while {name} {'>' if down else '<'} {0 if down else limit}:")
    mark, looping, s.looping = len(s.bound), s.looping, False  # a continue would skip the count
    s.fixed.add(name)
    if s.bits(2) == 0:
        s.lines.append(f"{pad}{INDENT}print({name})")
    else:
        body(s, pad)
    unwind(s, mark)
    s.fixed.discard(name)
    s.looping = looping
    inner = pad + INDENT
    s.lines.append(f"{inner}{name} {'-=' if down else '+='} {(1, 1, 1, 2)[s.bits(2)]}")
    if forever:
        s.lines.append(f"{inner}if {name} {('>', '==', '>=', '>')[s.bits(2)]} {limit}:")
        leave = "break" if s.result is None or s.bits(1) else returning(s)
        s.lines.append(f"{inner}{INDENT}{leave}")


def _while_flag(s: Scope, pad: str) -> None:
    """`while not done:`."""
    name = fresh(s, BOOL)
    positive = s.bits(2) == 0
    s.lines.append(f"{pad}{name} = {'True' if positive else 'False'}")
    bind(s, BOOL, name)
    header(s, pad, f"while {name if positive else f'not {name}'}:")
    block(s, pad)
    s.lines.append(f"{pad}{INDENT}{name} = {'False' if positive else 'True'}")
