"""Functions and classes of the tiny Python grammar, and the calls that follow them.

1. A function has a scope of its own: it sees functions, classes, imports and locks of the module, and its parameters.
   A function within a function is always named helper.
2. The first method of a class is `__init__`; it binds the attributes that the other methods use.
3. After most definitions come one to four calls, mostly with all arguments as keywords in the order of the parameters.
"""

from collections.abc import Sequence

from .tiny_blocks import locked
from .tiny_branches import INDENT, body, header, returning
from .tiny_calls import invoke_one
from .tiny_expressions import arguments, literal, lock, template
from .tiny_idioms import KNOWN_CLASSES, KNOWN_FUNCTIONS
from .tiny_phrases import DOCS, STRINGS
from .tiny_scope import HINTS, NOT_A_VARIABLE, Function, Scope, bind, fresh
from .tiny_statements import assign, say
from .tiny_vocabulary import (
    BOOL,
    CLASSES,
    DICT,
    FLOAT,
    FUNCTIONS,
    GRID,
    INT,
    INTS,
    LOCK,
    OBJ,
    OWN_METHODS,
    PATH,
    SET,
    STR,
    STRS,
)

_PARAMETERS = (INT, INT, INT, INT, STR, STR, STR, STR, INT, INT, INT, FLOAT, BOOL, INTS, STRS, INTS)
_RARE = (OBJ, GRID, SET, DICT, PATH, PATH, STRS, LOCK)
_RESULTS = (INT, INT, INT, STR, STR, INTS, BOOL, BOOL, BOOL, BOOL, BOOL, BOOL, BOOL, BOOL, OBJ, None)
_COUNTS = (2, 2, 3, 3, 2, 3, 1, 3, 2, 2, 4, 3, 0, 2, 1, 2)


def parameters(s: Scope, number: int) -> tuple[tuple[str, int], ...]:
    """New parameters, mostly of one scalar kind or another."""
    params: list[tuple[str, int]] = []
    for _ in range(number):
        kind = _PARAMETERS[s.bits(4)] if s.bits(3) else _RARE[s.bits(3)]
        params.append((fresh(s, kind), kind))
        s.names[kind].append(params[-1][0])  # keeps the next one different
    for _, kind in params:
        s.names[kind].pop()
    return tuple(params)


def signature(s: Scope, params: tuple[tuple[str, int], ...], first: str) -> tuple[str, bool]:
    """(what stands between the parentheses of a def, whether it has type hints)."""
    draw = s.bits(4)
    if draw < 2:
        shown = [f"{name}: {HINTS[kind]}" if kind != OBJ else name for name, kind in params]
    elif draw < 5 and params and params[-1][1] in (INT, STR, BOOL):
        shown = [*(name for name, _ in params[:-1]), f"{params[-1][0]}={literal(s, params[-1][1])}"]
    else:
        shown = [name for name, _ in params]
    if first:
        shown.insert(0, first)
    return ", ".join(shown), draw < 2


def write_function(
    s: Scope, pad: str, name: str, first: str = "", attributes: tuple[tuple[int, str], ...] = ()
) -> Function:
    """Write a def with its body. `first` is "self" in a class, whose attributes are bound in the body."""
    inner = Scope(s.rng, s.simple, s.inner, s)
    inner.kinds[name] = NOT_A_VARIABLE
    inner.kinds["self"] = NOT_A_VARIABLE
    params = parameters(inner, (0, 1, 0, 1, 0, 1, 2, 1)[s.bits(3)] if first else _COUNTS[s.bits(4)])
    result = _RESULTS[s.bits(4)]
    if result == OBJ and not s.externals and all(kind != OBJ for _, kind in params):
        result = STR
    inner.result = result
    shown, hinted = signature(s, params, first)
    arrow = f" -> {'None' if result is None else HINTS[result]}" if hinted and s.bits(1) else ""
    header(s, pad, f"def {name}({shown}){arrow}:")
    if s.bits(3) == 0 and "#" not in s.lines[-1]:
        s.lines.append(f'{pad}{INDENT}"""{DOCS[s.bits(10)]}."""')
    for kind, attribute in attributes:
        bind(inner, kind, attribute)
    for param, kind in params:
        bind(inner, kind, param)
    level, mark, draw = pad + INDENT, len(s.functions), s.bits(3)
    if not pad and s.bits(1):  # a helper within the function
        if draw < 3:
            s.simple[s.bits(8)](inner, level)
        helper = write_function(inner, level, "helper")
        inner.kinds["helper"] = NOT_A_VARIABLE
        s.functions.append(helper)
        if draw & 1:
            invoke_one(inner, level, helper) if all(kind != OBJ for _, kind in helper.params) else None
        else:
            body(inner, pad)
    elif inner.names[LOCK] and draw < 5:
        locked(inner, level)
    elif draw < 3 and result is not None:
        pass  # a return alone
    elif draw < 5:
        s.simple[s.bits(8)](inner, level)
    else:
        body(inner, pad)
    del s.functions[mark:]
    if result is not None:
        s.lines.append(level + returning(inner))
    elif s.lines[-1][len(level) - 1 : len(level)] != " " or "#" in s.lines[-1] or '"""' in s.lines[-1]:
        s.lines.append(f"{level}print({template(inner)})")
    return Function(name, params, result)


def callable_here(s: Scope, params: tuple[tuple[str, int], ...]) -> bool:
    """Whether every argument can be written: objects have no literals."""
    return bool(s.names[OBJ]) or all(kind != OBJ for _, kind in params)


def define(s: Scope, pad: str) -> None:
    """A function at top level, and mostly a call of it."""
    draw = s.bits(3)
    written = KNOWN_FUNCTIONS[s.bits(11)] if draw < 3 else None
    name = written[1].name if written else FUNCTIONS[s.bits(12)]
    if name in s.kinds:
        say(s, pad)
        return
    s.kinds[name] = NOT_A_VARIABLE
    draw = s.bits(2)
    if s.lines and draw:
        s.lines.extend(("", "")[: 1 + (draw > 1)])
    if written:
        s.lines.extend(written[0])
        made = written[1]
    else:
        made = write_function(s, pad, name)
    s.functions.append(made)
    if draw:
        s.lines.extend(("", "")[: 1 + (draw > 1)])
    if s.bits(3) and callable_here(s, made.params):
        for _ in range((2, 2, 3, 3, 4, 1, 3, 4)[s.bits(3)]):
            invoke_one(s, pad, made)
    else:
        assign(s, pad)


_ATTRIBUTES = (INT, INT, STR, STR, STR, INT, INT, STR, INT, FLOAT, STR, INTS, STRS, SET, OBJ, INT)
_EMPTIES = (
    *((INTS, "[]"), (STRS, "[]"), (SET, "set()"), (SET, "set()"), (INT, "0"), (BOOL, "False")),
    *((STR, '""'), (STR, "''"), (DICT, "{}"), (INT, "0"), (INT, "1"), (SET, "set()"), (STR, '""'), (LOCK, "")),
    *((STRS, "[]"), (BOOL, "True")),
)


def class_(s: Scope, pad: str) -> None:
    """A class: its first method is __init__, which binds the attributes the other methods use. Then an instance."""
    written = KNOWN_CLASSES[s.bits(10)] if s.bits(2) == 0 else None
    name = written[1].name if written else CLASSES[s.bits(12)]
    if name in s.kinds or pad:
        assign(s, pad)
        return
    s.kinds[name] = NOT_A_VARIABLE
    draw = s.bits(3)
    if s.lines and draw & 1:
        s.lines.extend(("", "")[: 1 + (draw >> 1 & 1)])
    if written:
        s.lines.extend(written[0])
        if draw > 1:
            s.lines.extend(("", "")[: 1 + (draw > 3)])
        _instance(s, name, written[1].params, written[2])
        return
    inner = Scope(s.rng, s.simple, s.inner, s)
    inner.kinds["self"] = NOT_A_VARIABLE
    number = (1, 2, 2, 2, 3, 1, 0, 2)[s.bits(3)]
    params: list[tuple[str, int]] = []
    for _ in range(number):
        kind = _ATTRIBUTES[s.bits(4)]
        param = fresh(inner, kind)
        bind(inner, kind, param)
        params.append((param, kind))
    base = ("(Exception)", "(object)", "()", "(Exception)")[s.bits(2)] if s.bits(3) == 0 else ""
    header(s, "", f"class {name}{base}:")
    if draw == 6:
        s.lines.append(f"{INDENT}{fresh(inner, INT)} = {literal(s, INT)}")
        if s.bits(1):
            s.lines.append("")
    if draw == 7 and "#" not in s.lines[-1]:
        s.lines.append(f'{INDENT}"""{DOCS[s.bits(10)]}."""')
        if s.bits(1):
            s.lines.append("")
    header(s, INDENT, f"def __init__({', '.join(['self', *[param for param, _ in params]])}):")
    s.lines.extend([f"        self.{param} = {param}" for param, _ in params])
    attributes = [(kind, f"self.{param}") for param, kind in params]
    if not params or s.bits(1):
        kind, empty = _EMPTIES[s.bits(4)]
        attribute = "self.lock" if kind == LOCK else f"self.{fresh(inner, kind)}"
        s.lines.append(f"        {attribute} = {empty or lock(s)}")
        attributes.append((kind, attribute))
    methods: list[Function] = []
    for _ in range((0, 1, 1, 2)[s.bits(2)]):
        method = OWN_METHODS[s.bits(10)]
        if all(method != made.name for made in methods):
            if draw > 1:
                s.lines.append("")
            methods.append(write_function(s, INDENT, method, "self", tuple(attributes)))
    if draw > 1:
        s.lines.extend(("", "")[: 1 + (draw > 3)])
    _instance(s, name, tuple(params), methods)


def _instance(s: Scope, name: str, params: tuple[tuple[str, int], ...], methods: Sequence[Function]) -> None:
    """`box = Box(width=3, height=4)`, and a call of one of its methods."""
    if not callable_here(s, params):
        assign(s, "")
        return
    box = name.lower() if s.bits(1) else fresh(s, OBJ)
    if box in s.kinds and s.kinds[box] != OBJ:
        box = fresh(s, OBJ)
    s.kinds[box] = NOT_A_VARIABLE
    s.lines.append(f"{box} = {name}({arguments(s, params)})")
    found = [Function(f"{box}.{made.name}", made.params, made.result) for made in methods]
    if found and s.bits(1) and callable_here(s, found[-1].params):
        invoke_one(s, "", found[-1])
    elif params and s.bits(1):
        s.lines.append(f"print({box}.{params[0][0]})")


def entry(s: Scope) -> None:
    """`if __name__ == "__main__":` and what it runs."""
    s.lines.extend(("", "")[: s.bits(1) + 1])
    s.lines.append("if __name__ == '__main__':" if s.bits(2) == 0 else 'if __name__ == "__main__":')
    for chosen in s.functions[-1:]:
        if callable_here(s, chosen.params):
            invoke_one(s, INDENT, chosen)
            return
    s.lines.append(f"{INDENT}print({STRINGS[s.bits(13)]})")
