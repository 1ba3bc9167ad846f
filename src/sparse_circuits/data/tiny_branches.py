"""Bodies and branches of the tiny Python grammar.

A block writes its header, then draws productions for its body from the tables of the scope: statements and blocks at
the first two levels, statements below. `unwind` forgets what a body bound, since it may not have run.

The rule of chains: after `NAME OP literal` comes one elif on the same name and then an else, or nothing at all; after
any other test an else, or nothing.
"""

from .tiny_conditions import compare, test, test_of
from .tiny_expressions import arguments, external, function, literal, need
from .tiny_phrases import COMMENTS, NUMBERS, SMALL, STRINGS
from .tiny_scope import Scope, bind, fresh, known, unwind
from .tiny_statements import braces, reassign, say, show
from .tiny_vocabulary import BOOL, FLOAT, INT, INTS, OBJ, STR

INDENT = "    "


def header(s: Scope, pad: str, text: str) -> None:
    """The line that opens a block; one in six has a comment behind it or below it."""
    draw = s.bits(5)
    if draw < 4:
        s.lines.append(f"{pad}{text}  # {COMMENTS[s.bits(12)]}")
    else:
        s.lines.append(pad + text)
        if draw < 6:
            s.lines.append(f"{pad}{INDENT}# {COMMENTS[s.bits(12)]}")


def body(s: Scope, pad: str, least: int = 1) -> None:
    """`least` or a few more productions one level deeper; what they bind is forgotten by the caller's `unwind`."""
    pad += INDENT
    productions = s.inner if len(pad) < 9 else s.simple
    for _ in range(least if s.bits(2) else least + 1):
        productions[s.bits(8)](s, pad)


def block(s: Scope, pad: str, least: int = 1) -> None:
    """A body whose names are forgotten after it."""
    mark = len(s.bound)
    body(s, pad, least)
    unwind(s, mark)


def branch(s: Scope, pad: str) -> None:
    """if / elif / else. After a test `NAME OP literal` there is nothing more, or one elif on the same name and an else;
    after any other test there is nothing more, or an else."""
    draw, tested = s.bits(4), test(s, pad)
    if draw < 7 and tested.subject is None:
        name = need(s, pad, INT)
        tested = tested._replace(text=compare(s, INT, name), subject=name, kind=INT)
    header(s, pad, f"if {tested.text}:")
    _arm(s, pad)
    if draw > 10:
        return
    if tested.subject:
        header(s, pad, f"elif {compare(s, tested.kind, tested.subject)}:")
        _arm(s, pad)
    header(s, pad, "else:")
    _arm(s, pad)


def _arm(s: Scope, pad: str) -> None:
    """The body of a branch: half of the time one plain statement."""
    draw = s.bits(3)
    if draw < 3:
        s.lines.append(f"{pad}{INDENT}print({STRINGS[s.bits(13)]})")
    elif draw < 5:
        mark = len(s.bound)
        s.simple[s.bits(8)](s, pad + INDENT)
        unwind(s, mark)
    elif draw == 5 and s.result is not None:
        s.lines.append(f"{pad}{INDENT}{returning(s)}")
    elif draw == 6:
        mark = len(s.bound)
        reassign(s, pad + INDENT)
        unwind(s, mark)
    else:
        block(s, pad)


def bound_and_tested(s: Scope, pad: str) -> None:
    """A name is bound, perhaps something else is done, then the name is tested."""
    draw = s.bits(4)
    kind = (INT, INT, STR, BOOL, INT, STR, INT, INTS)[draw & 7] if s.bits(4) else FLOAT
    name = fresh(s, kind)
    s.lines.append(f"{pad}{name} = {literal(s, kind)}")
    bind(s, kind, name)
    for _ in range((0, 0, 0, 1, 1, 2, 0, 0)[s.bits(3)]):
        (say, show, comment, braces)[s.bits(2)](s, pad)
    tested = test_of(s, kind, name)
    header(s, pad, f"if {tested.text}:")
    _arm(s, pad)
    if draw > 9:
        return
    if tested.subject:
        header(s, pad, f"elif {compare(s, tested.kind, tested.subject)}:")
        _arm(s, pad)
    header(s, pad, "else:")
    _arm(s, pad)


def comment(s: Scope, pad: str) -> None:
    """A comment line; a statement must follow."""
    s.lines.append(f"{pad}# {COMMENTS[s.bits(12)]}")


def guard(s: Scope, pad: str) -> None:
    """An early return, raise, break or continue; elsewhere an if without else."""
    draw = s.bits(2)
    tested = test(s, pad)
    header(s, pad, f"if {tested.text}:")
    inner = pad + INDENT
    if s.looping and draw < 2:
        s.lines.append(inner + ("break" if draw else "continue"))
    elif pad and (draw == 3 or draw == 2 and s.bits(1)):
        s.lines.append(f"{inner}raise {ERRORS[s.bits(2)]}({STRINGS[s.bits(13)]})")
    elif s.result is not None:
        s.lines.append(inner + returning(s))
    else:
        block(s, pad)


ERRORS = ("ValueError", "KeyError", "ValueError", "TypeError")


def returning(s: Scope) -> str:
    """A return statement of the kind the enclosing function returns."""
    kind = s.result
    if kind is None:
        return "return"
    names = s.names
    if kind == OBJ:  # only functions with an object at hand return one
        if s.externals and (s.bits(1) or not names[OBJ]):
            return f"return {external(s)}({STRINGS[s.bits(13)]})"
        return f"return {known(s, OBJ)}"
    if s.bound and kind in (INT, STR, BOOL) and s.bits(3) == 0:
        return f"return {literal(s, kind)} if {test_of(s, *s.bound[-1]).text} else {literal(s, kind)}"
    if names[kind] and (kind != BOOL or s.bits(1)) and s.bits(2):
        name = known(s, kind)
        if kind == INT and s.bits(1):
            if len(names[INT]) > 1:
                return f"return {names[INT][-2]} {'+-*+'[s.bits(2)]} {names[INT][-1]}"
            return f"return {name} {'+*-+'[s.bits(2)]} {SMALL[s.bits(6)]}"
        return f"return {name}"
    chosen = function(s)
    if chosen and chosen.result == kind:
        return f"return {chosen.name}({arguments(s, chosen.params)})"
    if kind == BOOL:
        if names[INT] and s.bits(3) == 0:
            return f"return {known(s, INT)} {'><'[s.bits(1)]} {NUMBERS[s.bits(10)]}"
        return "return True" if s.bits(2) else "return False"
    return f"return {literal(s, kind)}"
