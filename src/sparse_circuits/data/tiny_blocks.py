"""Blocks of the tiny Python grammar that bind for a while: with, try, and accumulators; and the tables of productions.

`SIMPLE` holds the statements, `INNER` statements and blocks; both have 256 slots, so that one getrandbits(8) draws.
"""

from .tiny_branches import INDENT, block, body, bound_and_tested, branch, guard, header
from .tiny_calls import anonymous, claim, comprehension, invoke, lookup, remark, standard, ternary
from .tiny_conditions import test
from .tiny_expressions import argument, external, literal, lock
from .tiny_loops import element_of, for_each, for_enumerate, for_pairs, for_range, loop, while_
from .tiny_phrases import SMALL, STRINGS
from .tiny_scope import Production, Scope, bind, changeable, fresh, known, unwind
from .tiny_statements import assign, augment, braces, gather, reassign, say, show, swap, unpack, update
from .tiny_vocabulary import DICT, INT, INTS, LOCK, METHODS, OBJ, PATH, SET, STR, STRS


def with_(s: Scope, pad: str) -> None:
    """`with lock:` where there is a lock, else `with open(path) as f:` or another call; paths are often names."""
    draw, mark = s.bits(4), len(s.bound)
    if s.names[LOCK]:
        locked(s, pad)
        return
    if draw < 6:
        make_lock(s, pad)
        for _ in range((0, 0, 1, 2)[s.bits(2)]):
            s.simple[s.bits(8)](s, pad)
        locked(s, pad)
        return
    if draw < 9 and s.externals:
        call = f"{external(s)}({argument(s, (PATH, STR, PATH, STR)[draw & 3])})"
        name = fresh(s, OBJ)
    else:
        if draw < 12:
            path = fresh(s, PATH)
            s.lines.append(f"{pad}{path} = {literal(s, PATH)}")
            bind(s, PATH, path)
            if draw == 9:
                s.simple[s.bits(8)](s, pad)
        else:
            path = argument(s, PATH)
        mode = ("", "", "", '"w"', '"r"', "'w'", "", "'r'")[s.bits(3)]
        call = f"open({path}{', ' + mode if mode else ''})"
        mark = len(s.bound)
        name = ("f", "f", "file", "f")[s.bits(2)]
        if s.kinds.get(name, OBJ) != OBJ or name in s.names[OBJ]:
            name = fresh(s, OBJ)
    header(s, pad, f"with {call} as {name}:")
    bind(s, OBJ, name)
    _file_body(s, pad, name, call)
    unwind(s, mark)


def _file_body(s: Scope, pad: str, name: str, call: str) -> None:
    """What is done with an open file."""
    draw, inner = s.bits(3), pad + INDENT
    opened = call[:5] == "open("
    if draw == 0 or not opened:
        if not opened and s.bits(1):
            s.lines.append(f"{inner}{name}.{METHODS[s.bits(6)]}({STRINGS[s.bits(13)]})")
        body(s, pad)
    elif "w" in call[-3:]:
        s.lines.append(f"{inner}{name}.write({argument(s, STR)})")
    elif draw < 4:
        text = fresh(s, STR)
        s.lines.append(f"{inner}{text} = {name}.read()")
        bind(s, STR, text)
        if draw == 1:
            s.lines.append(f"{inner}print({text})")
    elif draw < 6:
        found = fresh(s, STRS)
        s.lines.append(f"{inner}{found} = {name}.readlines()")
        bind(s, STRS, found)
    else:
        line = "line" if s.kinds.get("line", STR) == STR and "line" not in s.names[STR] else fresh(s, STR)
        s.lines.append(f"{inner}for {line} in {name}:")
        loop(s, inner, ((STR, line),), name)


def make_lock(s: Scope, pad: str) -> None:
    """`lock = Lock()`."""
    name = fresh(s, LOCK)
    s.lines.append(f"{pad}{name} = {lock(s)}")
    bind(s, LOCK, name)


def locked(s: Scope, pad: str) -> None:
    """`with lock:`; there must be a lock."""
    header(s, pad, f"with {known(s, LOCK)}:")
    if s.bits(1) and (name := changeable(s, INT)):
        update(s, pad + INDENT, INT, name)
        return
    mark = len(s.bound)
    for _ in range(1 + (s.bits(2) == 0)):  # no block: a lock is not taken twice
        s.simple[s.bits(8)](s, pad + INDENT)
    unwind(s, mark)


_CAUGHT = (
    *("ValueError", "KeyError", "OSError", "TypeError", "Exception", "FileNotFoundError"),
    *("ValueError", "ZeroDivisionError"),
)


def try_(s: Scope, pad: str) -> None:
    """try / except, now and then with finally."""
    header(s, pad, "try:")
    block(s, pad)
    draw = s.bits(3)
    error = _CAUGHT[draw]
    if s.bits(1):
        name = ("e", "error", "e", "err")[s.bits(2)]
        if name in s.kinds:
            name = "e"
        header(s, pad, f"except {error} as {name}:")
        s.lines.append(
            f"{pad}{INDENT}print({name})" if s.bits(1) else f"{pad}{INDENT}print({STRINGS[s.bits(13)]}, {name})"
        )
    else:
        header(s, pad, f"except {error}:")
        s.lines.append(f"{pad}{INDENT}print({STRINGS[s.bits(13)]})" if s.bits(2) else f"{pad}{INDENT}pass")
    if draw == 0:
        s.lines.append(f"{pad}finally:")
        s.lines.append(f"{pad}{INDENT}print({STRINGS[s.bits(13)]})")


def gathering(s: Scope, pad: str) -> None:
    """An empty accumulator, up to three other lines, then its updates: the type must be carried over the lines."""
    kind, name = gather(s, pad)
    for _ in range((0, 0, 0, 1, 1, 1, 2, 3)[s.bits(3)]):
        s.simple[s.bits(8)](s, pad)
    draw = s.bits(2)
    if draw > 1 and kind != DICT:
        element = STR if kind in (STR, STRS, SET) else INT
        listing = STRS if element == STR else INTS
        if s.names[listing] and s.names[listing][-1] != name:
            source = s.names[listing][-1]
        elif element == STR and s.names[STR] and s.names[STR][-1] != name and s.bits(1):
            source = s.names[STR][-1] + (".split()" if s.bits(1) else "")
        elif element == INT and s.bits(2) == 0:
            source = f"range({SMALL[s.bits(6)]})"
        else:
            source = literal(s, listing)
        each = element_of(s, element, source)
        if each == name:
            each = fresh(s, element)
        header(s, pad, f"for {each} in {source}:")
        loop(s, pad, ((element, each),), source, into=(kind, name))
    elif draw == 1:
        tested = test(s, pad)
        header(s, pad, f"if {tested.text}:")
        update(s, pad + INDENT, kind, name)
    else:
        update(s, pad, kind, name)
        if s.bits(1):
            if s.bits(1):
                s.simple[s.bits(8)](s, pad)
            update(s, pad, kind, name)
    if s.bits(1):
        s.lines.append(f"{pad}print({name})")


def table(*rows: tuple[int, Production]) -> tuple[Production, ...]:
    """The productions spread over 256 slots in proportion to their weights (rounding goes to the first)."""
    total = sum(weight for weight, _ in rows)
    slots = [made for weight, made in rows for _ in range(256 * weight // total)]
    return tuple([rows[0][1]] * (256 - len(slots)) + slots)


STATEMENTS = (
    *((28, say), (66, assign), (16, augment), (32, show), (130, swap), (28, ternary), (18, braces), (6, remark)),
    *((36, invoke), (24, anonymous), (12, reassign), (4, unpack), (8, comprehension), (12, lookup)),
    *((4, standard), (3, claim)),
)
BLOCKS = (
    *((34, branch), (64, bound_and_tested), (28, for_range), (6, for_each), (32, for_enumerate), (5, for_pairs)),
    *((72, while_), (66, with_), (6, try_), (190, gathering)),
)
SIMPLE = table(*STATEMENTS)
INNER = table(*((2 * weight, made) for weight, made in STATEMENTS), *BLOCKS, (60, guard))
