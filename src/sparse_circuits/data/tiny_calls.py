"""Statements of the tiny Python grammar that call, define in a line, and look things up.

Productions (scope, pad), as in `tiny_statements`.
"""

from .tiny_conditions import test
from .tiny_expressions import argument, arguments, external, function, literal
from .tiny_phrases import COMMENTS, NUMBERS, SMALL, STRINGS, WORDS
from .tiny_scope import NOT_A_VARIABLE, Function, Scope, bind, fresh, known
from .tiny_statements import assign, reassign, say, show
from .tiny_vocabulary import (
    DICT,
    FLOAT,
    FUNCTIONS,
    GRID,
    INT,
    INTS,
    PATH,
    POOLS,
    SET,
    STR,
    STRS,
)


def ternary(s: Scope, pad: str) -> None:
    """`y = 1 if test else 2`; the test is often a call, as the head of a with-statement is."""
    draw = s.bits(4)
    kind = (INT, STR)[draw & 1]
    text = _called(s) if draw < 7 else test(s, pad).text
    if draw > 13:
        s.lines.append(f"{pad}print({literal(s, kind)} if {text} else {argument(s, kind)})")
        return
    name = fresh(s, kind)
    s.lines.append(f"{pad}{name} = {literal(s, kind)} if {text} else {argument(s, kind)}")
    bind(s, kind, name)


def _called(s: Scope) -> str:
    """A call that is true or false."""
    draw, names = s.bits(2), s.names
    if names[STR] and draw == 0:
        return f"{known(s, STR)}.{('startswith', 'endswith')[s.bits(1)]}({WORDS[s.bits(11)]})"
    if names[PATH] and draw == 1:
        s.imports["import os"] = None
        return f"os.path.exists({known(s, PATH)})"
    if s.externals:
        return f"{external(s)}({argument(s, PATH if draw == 2 else STR)})"
    chosen = function(s)
    if chosen and chosen.params and chosen.result is not None:
        return f"{chosen.name}({', '.join([argument(s, kind) for _, kind in chosen.params])})"
    for kind in (INTS, STRS, SET):
        if names[kind]:
            return f"{('any', 'all', 'len', 'len')[draw]}({known(s, kind)})"
    return f"isinstance({known(s, INT)}, int)" if names[INT] else f"bool({literal(s, INT)})"


def remark(s: Scope, pad: str) -> None:
    """A comment above a statement (a block must not consist of comments)."""
    s.lines.append(f"{pad}# {COMMENTS[s.bits(12)]}")
    (say, show, assign, reassign)[s.bits(2)](s, pad)


def invoke(s: Scope, pad: str) -> None:
    """Call a function defined above, and bind what it returns."""
    chosen = function(s)
    if chosen is None:
        say(s, pad)
    else:
        invoke_one(s, pad, chosen)


def invoke_one(s: Scope, pad: str, chosen: Function) -> None:
    """Call that function in a statement of its own; its arguments can all be written here."""
    draw, text = s.bits(3), f"{chosen.name}({arguments(s, chosen.params)})"
    if chosen.result is None or draw < 2:
        s.lines.append(pad + text)
    elif draw < 6:
        name = fresh(s, chosen.result)
        s.lines.append(f"{pad}{name} = {text}")
        bind(s, chosen.result, name)
    else:
        s.lines.append(f"{pad}print({text})")


_LETTERS = (
    ("x", "y"),
    ("a", "b"),
    ("a", "b"),
    ("x", "y"),
    ("first", "second"),
    ("n", "m"),
    ("left", "right"),
    ("p", "q"),
)


def anonymous(s: Scope, pad: str) -> None:
    """Bind a lambda, mostly of two parameters, or sort by one."""
    draw, (first, second) = s.bits(4), _LETTERS[s.bits(3)]
    if draw < 3 and s.names[INTS]:
        kind, source = INTS, known(s, INTS)
        text = f"sorted({source}, key=lambda {first}: {first} % {s.bits(3) + 2})"
        if draw == 1 and s.bits(1):
            s.imports["from functools import reduce"] = None
            kind, text = INT, f"reduce(lambda {first}, {second}: {first} {'+*'[s.bits(1)]} {second}, {source}, 0)"
        if draw == 0:
            text = f"list(map(lambda {first}: {first} * {SMALL[s.bits(6)]}, {source}))"
        name = fresh(s, kind)
        s.lines.append(f"{pad}{name} = {text}")
        bind(s, kind, name)
        return
    name = FUNCTIONS[s.bits(12)]
    if name in s.kinds:
        say(s, pad)
        return
    if draw < 13:
        if s.bits(2) == 0:
            first, second = POOLS[INT][s.bits(12)], POOLS[INT][s.bits(12)]
            if first == second:
                second = "b" if first != "b" else "a"
        params = ((first, INT), (second, INT))
        text = f"{first} {'+*-+'[s.bits(2)]} {second}" if draw < 10 else f"{first} if {first} > {second} else {second}"
    else:
        params, text = ((first, INT),), f"{first} {'+*'[draw & 1]} {SMALL[s.bits(6)]}"
    s.lines.append(f"{pad}{name} = lambda {', '.join([param for param, _ in params])}: {text}")
    if not pad:  # deeper ones would have to be forgotten with their block
        s.kinds[name] = NOT_A_VARIABLE
        made = Function(name, params, INT)
        s.functions.append(made)
        if draw & 1:
            invoke_one(s, pad, made)


def comprehension(s: Scope, pad: str) -> None:
    """`[x * 2 for x in xs]` and the like."""
    draw = s.bits(2)
    kind = STRS if draw == 0 else INTS
    source = known(s, kind) if s.names[kind] else f"range({SMALL[s.bits(6)]})"
    letter = (
        ("x", "n", "i", "num")[s.bits(2)]
        if kind == INTS or source[-1] == ")"
        else ("w", "word", "name", "s")[s.bits(2)]
    )
    if source[-1] == ")" or kind == INTS:
        kind = INTS
        text = (f"{letter} * {SMALL[s.bits(6)]}", f"{letter} ** 2", letter, f"{letter} + 1")[s.bits(2)]
        tail = f" if {letter} {('> 0', '% 2 == 0', '> 3', '< 10')[s.bits(2)]}" if draw > 1 or text == letter else ""
    else:
        text, tail = f"{letter}.{('upper', 'lower', 'strip', 'title')[s.bits(2)]}()", ""
    name = fresh(s, kind)
    s.lines.append(f"{pad}{name} = [{text} for {letter} in {source}{tail}]")
    bind(s, kind, name)


def lookup(s: Scope, pad: str) -> None:
    """Read an element: `first = items[0]`, `age = ages["Bob"]`, `ages.get("Bob", 0)`, `row = grid[0]`."""
    draw, names = s.bits(3), s.names
    if draw == 7 and names[STR]:
        part, name = ("[0]", "[-1]", "[1:]", "[:3]")[s.bits(2)], fresh(s, STR)
        s.lines.append(f"{pad}{name} = {known(s, STR)}{part}")
        bind(s, STR, name)
        return
    for kind, found in ((DICT, INT), (STRS, STR), (INTS, INT), (GRID, INTS))[draw & 1 :: 1 + (draw & 1)]:
        if names[kind]:
            source = known(s, kind)
            if kind == DICT:
                key = argument(s, STR)
                text = f"{source}[{key}]" if draw & 2 else f"{source}.get({key}, 0)"
            else:
                text = f"{source}[{(0, 0, -1, 1)[s.bits(2)]}]"
            name = fresh(s, found)
            s.lines.append(f"{pad}{name} = {text}")
            bind(s, found, name)
            return
    assign(s, pad)


def standard(s: Scope, pad: str) -> None:
    """A call of a common module, which the program then imports."""
    draw, names = s.bits(3), s.names
    if draw < 3:
        module, kind, text = "random", INT, f"random.randint({s.bits(1)}, {NUMBERS[s.bits(10)].lstrip('-')})"
    elif draw == 3:
        module, kind, text = "math", FLOAT, f"math.sqrt({argument(s, INT)})"
    elif draw == 4:
        module, kind, text = "time", FLOAT, "time.time()"
    elif draw == 5:
        module, kind, text = "os", STR, f"os.path.join({argument(s, STR)}, {argument(s, PATH)})"
    elif draw == 6:
        module, kind, text = "json", STR, f"json.dumps({argument(s, DICT)})"
    elif names[STRS]:
        module, kind, text = "random", STR, f"random.choice({known(s, STRS)})"
    else:
        module, kind, text = "re", STR, f"re.sub({WORDS[s.bits(11)]}, {WORDS[s.bits(11)]}, {argument(s, STR)})"
    s.imports[f"import {module}"] = None
    name = fresh(s, kind)
    s.lines.append(f"{pad}{name} = {text}")
    bind(s, kind, name)


def claim(s: Scope, pad: str) -> None:
    """An assert of something bound."""
    if not s.bound:
        assign(s, pad)
        return
    text = test(s, pad).text
    s.lines.append(f"{pad}assert {text}" if s.bits(1) else f"{pad}assert {text}, {STRINGS[s.bits(13)]}")
