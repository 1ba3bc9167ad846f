"""Blocks of the tiny Python grammar: branches, loops, with, try, and accumulators over several lines.

A block writes its header, then draws productions for its body from a table: `INNER` (statements and blocks) at the
first two levels, `SIMPLE` (statements) below. `unwind` forgets what a body bound, since it may not have run. What would
make a loop endless (its counter, the list it goes over) is hidden from its body.
"""

from .tiny_expressions import (
    DICT,
    GRID,
    INT,
    INTS,
    NUMS,
    OBJ,
    SET,
    STR,
    STRS,
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
    unwind,
)
from .tiny_statements import (
    Production,
    anonymous,
    assign,
    augment,
    formatted,
    gather,
    invoke,
    remark,
    say,
    show,
    swap,
    ternary,
    update,
)
from .tiny_vocabulary import FILES, METHODS, NUMBERS, STRINGS

INDENT = "    "


def body(s: Scope, pad: str, least: int = 1) -> None:
    """`least` or a few more productions one level deeper; what they bind is forgotten by the caller's `unwind`."""
    pad += INDENT
    productions = INNER if len(pad) < 12 else SIMPLE
    for _ in range(least if s.bits(2) else least + 1):
        productions[s.bits(8)](s, pad)


def _block(s: Scope, pad: str, least: int = 1) -> None:
    mark = len(s.bound)
    body(s, pad, least)
    unwind(s, mark)


def _branch(s: Scope, pad: str) -> None:
    """if / elif / else. A test for equality opens a chain with an elif; any other test has at most an else."""
    draw = s.bits(3)
    if draw < 4:
        kind = INT if draw else STR
        name = need(s, pad, kind)
        s.lines.append(f"{pad}if {name} == {literal(s, kind)}:")
        _block(s, pad)
        s.lines.append(f"{pad}elif {name} == {literal(s, kind)}:")
        _block(s, pad)
        if draw == 3:
            return
    else:
        s.lines.append(f"{pad}if {condition(s, pad)}:")
        _block(s, pad)
        if draw > 5:
            return
    s.lines.append(f"{pad}else:")
    _block(s, pad)


_TAKERS = {STR: (STR, STRS, SET, DICT), INT: (NUMS, INTS, INT), INTS: (GRID,)}


def _consume(s: Scope, pad: str, kind: int, name: str) -> None:
    """Use the loop variable: put it into a fitting accumulator if there is one, else print it."""
    draw = s.bits(1)
    for target in _TAKERS[kind]:
        if s.names[target] and (chosen := s.names[target][0]) != name:
            if draw:
                update(s, pad, target, chosen, name)
                return
            draw = 1
    s.lines.append(f"{pad}print({name})")


def _loop(
    s: Scope,
    pad: str,
    binds: tuple[tuple[int, str], ...],
    hides: tuple[int, str] | None = None,
    into: tuple[int, str] | None = None,
) -> None:
    """The body of a for-loop that binds names. `hides` must not change within (what is iterated over); the last of the
    names is put `into` an accumulator, if one is given."""
    names = s.names[hides[0]] if hides else []
    place = names.index(hides[1]) if hides else 0
    if hides:
        del names[place]
    mark = len(s.bound)
    for kind, name in binds:
        bind(s, kind, name)
    if into:
        update(s, pad + INDENT, *into, binds[-1][1])
    elif s.bits(1):
        _consume(s, pad + INDENT, *binds[-1])
    if s.bits(1) or s.lines[-1][-1] == ":":
        body(s, pad)
    unwind(s, mark)
    if hides:
        names.insert(place, hides[1])


def _counter(s: Scope) -> str:
    """An index variable that no enclosing loop uses."""
    for name in ("i", "j", "k") if s.bits(2) else ("n", "index", "k"):
        if name not in s.names[INT]:  # the pool of variables has none of these, so that they are always numbers
            return name
    return fresh(s)


def _element(s: Scope, kind: int) -> str:
    """The loop variable of a for-each loop: often x or item, and then in several loops if the kind is the same."""
    if s.bits(1):
        name = ("x", "x", "item", "word", "value", "name", "x", "y")[s.bits(3)]
        if name not in s.used:
            s.used.add(name)
            s.loops[name] = kind
            return name
        if s.loops.get(name) == kind and name not in s.names[kind]:
            return name
    return fresh(s)


def _for_range(s: Scope, pad: str) -> None:
    draw, name = s.bits(3), _counter(s)
    if draw < 5:
        stop = argument(s, INT)
    elif draw < 7:
        stop = f"{s.bits(2)}, {NUMBERS[s.bits(8)]}"
    else:
        stop = f"len({need(s, pad, INTS)})"
    s.lines.append(f"{pad}for {name} in range({stop}):")
    _loop(s, pad, ((INT, name),))


def _for_each(s: Scope, pad: str) -> None:
    """`for x in xs`, `for i, x in enumerate(xs)`, over lists and sets."""
    draw = s.bits(4)
    kind = (INTS, STRS, INTS, STRS, INTS, STRS, SET, NUMS)[draw & 7]
    element = STR if kind in (STRS, SET) else INT
    if draw < 6 or s.names[kind]:
        source = need(s, pad, kind)
        hides = (kind, source)
    else:
        source, hides = literal(s, kind), None
    if s.bits(1) and kind in (INTS, STRS):
        index, name = _counter(s), _element(s, element)
        s.lines.append(f"{pad}for {index}, {name} in enumerate({source}):")
        _loop(s, pad, ((INT, index), (element, name)), hides)
        return
    name = _element(s, element)
    s.lines.append(f"{pad}for {name} in {'sorted(' + source + ')' if draw == 7 else source}:")
    _loop(s, pad, ((element, name),), hides)


def _for_pairs(s: Scope, pad: str) -> None:
    """`for key, value in d.items()`, or the rows of a nested list."""
    if s.bits(1):
        source, key, name = need(s, pad, DICT), fresh(s), _element(s, INT)
        s.lines.append(f"{pad}for {key}, {name} in {source}.items():")
        _loop(s, pad, ((STR, key), (INT, name)), (DICT, source))
    else:
        source, name = need(s, pad, GRID), _element(s, INTS)
        s.lines.append(f"{pad}for {name} in {source}:")
        _loop(s, pad, ((INTS, name),), (GRID, source))


def _while(s: Scope, pad: str) -> None:
    """`while x < n:` or `while True:`, which always end: the counter is hidden from the body and counted up last."""
    forever = s.bits(1) and len(pad) < 8  # its break would stand too deep
    if s.names[INT] and s.bits(1):
        name = known(s, INT)
    else:
        name = fresh(s)
        s.lines.append(f"{pad}{name} = {'01'[s.bits(1)]}")
        bind(s, INT, name)
    limit = NUMBERS[s.bits(8)]
    s.lines.append(f"{pad}while True:" if forever else f"{pad}while {name} < {limit}:")
    names = s.names[INT]
    place = names.index(name)
    del names[place]
    _block(s, pad)
    names.insert(place, name)
    inner = pad + INDENT
    s.lines.append(f"{inner}{name} += 1")
    if forever:
        s.lines.append(f"{inner}if {name} > {limit}:")
        leave = "break" if s.result is None or s.bits(1) else returning(s)
        s.lines.append(f"{inner}{INDENT}{leave}")


def _with(s: Scope, pad: str) -> None:
    """`with open(path) as file:`; other contexts come from imported functions and from objects."""
    draw, mark = s.bits(3), len(s.bound)
    name = ("f", "f", "file", "f")[s.bits(2)] if draw else fresh(s)
    if name in s.used and draw or name in s.names[OBJ]:
        name = fresh(s)
    if draw < 2 or not s.externals:
        path = FILES[s.bits(12)] if draw & 3 else argument(s, STR)
        s.lines.append(f"{pad}with open({path}) as {name}:")
    elif draw < 7 or not s.names[OBJ]:
        call = s.externals[s.bits(8) % len(s.externals)]
        s.lines.append(f"{pad}with {call}({argument(s, STR)}) as {name}:")
    else:
        s.lines.append(f"{pad}with {known(s, OBJ)}:")
        name = ""
    if name:
        bind(s, OBJ, name)
        if s.bits(1):
            s.lines.append(f"{pad}{INDENT}{name}.write({STRINGS[s.bits(13)]})")
    body(s, pad)
    unwind(s, mark)


_ERRORS = ("ValueError", "KeyError", "OSError", "TypeError")


def _try(s: Scope, pad: str) -> None:
    s.lines.append(f"{pad}try:")
    _block(s, pad)
    s.lines.append(f"{pad}except {_ERRORS[s.bits(2)]}:")
    if s.bits(2):
        s.lines.append(f"{pad}{INDENT}print({STRINGS[s.bits(13)]})")
    else:
        s.lines.append(f"{pad}{INDENT}pass")


def _gathering(s: Scope, pad: str) -> None:
    """An empty accumulator, perhaps something else, then its updates: the type must be carried over the lines."""
    mark = len(s.lines)
    kind, name = gather(s, pad)
    for _ in range(s.bits(1) + (s.bits(2) == 0)):
        SIMPLE[s.bits(8)](s, pad)
    if s.bits(1) and kind != DICT:
        element = STR if kind in (STR, STRS, SET) else INT
        listing = STRS if element == STR else INTS
        hides = None
        if s.names[listing] and s.names[listing][-1] != name:
            source = s.names[listing][-1]
            hides = (listing, source)
        else:
            source = literal(s, listing)
        loop = _element(s, element)
        s.lines.append(f"{pad}for {loop} in {source}:")
        _loop(s, pad, ((element, loop),), hides, into=(kind, name))
    else:
        update(s, pad, kind, name)
        if s.bits(1):
            SIMPLE[s.bits(8)](s, pad)
            update(s, pad, kind, name)
    if len(s.lines) - mark < 4:
        s.lines.append(f"{pad}print({name})")


def returning(s: Scope) -> str:
    """A return statement of the kind the enclosing function returns."""
    kind = s.result
    if kind is None:
        return "return"
    if kind == OBJ:  # only functions with an object at hand return one
        if s.externals and (s.bits(1) or not s.names[OBJ]):
            return f"return {s.externals[s.bits(8) % len(s.externals)]}({STRINGS[s.bits(13)]})"
        return f"return {known(s, OBJ)}.{METHODS[s.bits(6)]}({STRINGS[s.bits(13)]})"
    if s.names[kind] and s.bits(1):
        return f"return {known(s, kind)}"
    chosen = function(s)
    if chosen and chosen.result == kind:
        return f"return {chosen.name}({arguments(s, chosen.params)})"
    return f"return {literal(s, kind)}"


def _guard(s: Scope, pad: str) -> None:
    """An early return; outside of a function that returns something, an if without else."""
    s.lines.append(f"{pad}if {condition(s, pad)}:")
    if s.result is None:
        _block(s, pad)
    else:
        s.lines.append(f"{pad}{INDENT}{returning(s)}")


def table(*rows: tuple[int, Production]) -> tuple[Production, ...]:
    """The productions spread over 256 slots in proportion to their weights (rounding goes to the first)."""
    total = sum(weight for weight, _ in rows)
    slots = [made for weight, made in rows for _ in range(256 * weight // total)]
    return tuple([rows[0][1]] * (256 - len(slots)) + slots)


STATEMENTS = (
    *((24, say), (22, assign), (16, augment), (10, show), (5, swap)),
    *((5, ternary), (3, formatted), (3, remark), (7, invoke), (3, anonymous)),
)
BLOCKS = (
    *((9, _branch), (6, _for_range), (10, _for_each), (2, _for_pairs), (6, _while)),
    *((6, _with), (3, _try), (12, _gathering)),
)
SIMPLE = table(*STATEMENTS)
INNER = table(*((2 * weight, made) for weight, made in STATEMENTS), *BLOCKS, (10, _guard))
