"""Where real code decides on names (METHOD 1e): finders of the tasks whose answer depends on what a name was bound to.

What mined_points.py says of its finders holds for these; together they are the twenty tasks.
"""

import ast
import keyword
import re
from bisect import bisect_left
from collections.abc import Iterator

from .mined_file import FUNCTIONS, A, B, CodeFile, Decision

_NEAR = 3  # statements between which a variable is bound and tested
_CANDIDATES = 12  # other names kept for a point of var_if


def set_or_string(file: CodeFile) -> Iterator[Decision]:
    bindings: dict[tuple[ast.AST, str], list[tuple[int, str]]] = {}
    for name in file.nodes(ast.Name):
        parent = file.parents[name]
        if isinstance(name.ctx, ast.Store) and not isinstance(parent, ast.AugAssign):
            kind = _bound_kind(parent) if isinstance(parent, ast.Assign) else "other"
            bindings.setdefault((file.scope(name), name.id), []).append((file.start(name), kind))
    for name, kind in _grown(file):
        at = file.end(name)
        earlier = [b for b in bindings.get((file.scope(name), name.id), []) if b[0] < at]
        right, wrong = (".add", " +=") if kind == "set" else (" +=", ".add")
        if earlier and max(earlier)[1] == kind and file.indent(file.start(name)) is not None:
            yield Decision(A if kind == "set" else B, at, right, (wrong,), max(earlier)[0])


def set_or_string_fixedvarname(file: CodeFile) -> Iterator[Decision]:
    return (found for found in set_or_string(file) if re.search(r"\bcurrent$", file.text[: found.at][-8:]))


def _bound_kind(assign: ast.Assign) -> str:
    value = assign.value
    called = value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else ""
    if len(assign.targets) > 1 or not isinstance(assign.targets[0], ast.Name):
        return "other"
    if isinstance(value, ast.Set | ast.SetComp) or called == "set":
        return "set"
    text = isinstance(value, ast.JoinedStr) or (isinstance(value, ast.Constant) and isinstance(value.value, str))
    return "str" if text or called == "str" else "other"


def _grown(file: CodeFile) -> Iterator[tuple[ast.Name, str]]:
    """Names at `name.add(...)` and `name += ...`, and the kind that makes it right."""
    for statement in file.nodes(ast.Expr):
        call = statement.value
        function = call.func if isinstance(call, ast.Call) else None
        if isinstance(function, ast.Attribute) and function.attr == "add" and isinstance(function.value, ast.Name):
            yield function.value, "set"
    for statement in file.nodes(ast.AugAssign):
        if isinstance(statement.target, ast.Name) and isinstance(statement.op, ast.Add):
            yield statement.target, "str"


def with_open(file: CodeFile) -> Iterator[Decision]:
    for statement in file.nodes(ast.With):
        start = file.start(statement)
        word = re.match(r"with( [^\W\d]\w*)", file.text[start : start + 80])
        if word is None:
            continue
        at, name = start + 4, word[1]
        if file.text.startswith(" open(", at):
            yield Decision(A, at, " open", (), start, True)
        elif name != " open" and (named := file.name_before(name[1:], start)) is not None:
            yield Decision(B, at, name, (" open",), named, True)


def var_swap(file: CodeFile) -> Iterator[Decision]:
    for assign in file.nodes(ast.Assign):
        target, value = assign.targets[0], assign.value
        if not isinstance(target, ast.Tuple) or not isinstance(value, ast.Tuple) or len(assign.targets) > 1:
            continue
        names = [part.id for part in target.elts if isinstance(part, ast.Name)]
        if len(names) != 2 or len(target.elts) != 2 or len(value.elts) != 2 or names[0] == names[1]:
            continue
        used = {n.id for n in ast.walk(value.elts[0]) if isinstance(n, ast.Name)} & set(names)
        at = file.start(value.elts[1]) - 1
        word = re.match(r" ([^\W\d]\w*)", file.text[at : at + 80])
        if len(used) == 1 and word and word[1] in set(names) - used:
            (other,) = used
            yield Decision(A if word[1] < other else B, at, f" {word[1]}", (f" {other}",), file.start(assign))


def var_if(file: CodeFile) -> Iterator[Decision]:
    for branch in file.nodes(ast.If):
        at = file.start(branch) + 2
        word = re.match(r"if( [^\W\d]\w*)(?!\w|\()", file.text[at - 2 : at + 80])
        if word is None or keyword.iskeyword(word[1][1:]):
            continue
        since = _bound_nearby(file, branch, word[1][1:])
        others = _candidates(file, branch, at, word[1][1:])
        if since is not None and others:
            side = A if word[1] < others[0] else B
            yield Decision(side, at, word[1], others, since)


def _bound_nearby(file: CodeFile, branch: ast.If, name: str) -> int | None:
    """Where one of the few statements just above, in the same block, binds the name."""
    parent = file.parents[branch]
    blocks = [getattr(parent, field, None) for field in ("body", "orelse", "finalbody")]
    block = next((block for block in blocks if isinstance(block, list) and branch in block), [])
    place = block.index(branch) if block else 0
    for statement in reversed(block[max(0, place - _NEAR) : place]):
        if isinstance(statement, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in statement.targets
        ):
            return file.start(statement)
    return None


def _candidates(file: CodeFile, node: ast.AST, at: int, name: str) -> tuple[str, ...]:
    """Completions that are other variables of the same function, bound before; the last bound first."""
    scope = file.scope(node)
    begin = file.start(scope) if isinstance(scope, ast.stmt) else 0
    first, last = (bisect_left(file.bound, (place,)) for place in (begin, at))
    names = dict.fromkeys(f" {other}" for _, other in reversed(file.bound[first:last]) if other != name)
    return tuple(names)[:_CANDIDATES]


def final_kwarg(file: CodeFile) -> Iterator[Decision]:
    due = _parameters(file)
    for call in file.nodes(ast.Call):
        owner = call.func.value if isinstance(call.func, ast.Attribute) else None
        name = call.func.id if isinstance(call.func, ast.Name) else None
        if isinstance(call.func, ast.Attribute) and isinstance(owner, ast.Name) and owner.id == "self":
            name = f"self.{call.func.attr}"
        names, defined = due.get(name or "", ([], len(file.text)))
        listed = [*names[: len(call.args)], *(argument.arg for argument in call.keywords)]
        if defined > file.start(call) or listed != names or any(isinstance(a, ast.Starred) for a in call.args):
            continue
        for i, argument in enumerate(call.keywords, 1):
            side, right, wrong = (A, ")\n", ",") if i == len(call.keywords) else (B, ",", ")\n")
            yield Decision(side, file.end(argument.value), right, (wrong,), defined)


def _parameters(file: CodeFile) -> dict[str, tuple[list[str], int]]:
    """What is called, as `name`, `self.name` or `Class` -> its parameters without self, and where its def begins."""
    found = {}
    for function in file.nodes(*FUNCTIONS):
        known, owner = function.args, file.parents[function]
        method = isinstance(owner, ast.ClassDef)
        names = [argument.arg for argument in (*known.posonlyargs, *known.args, *known.kwonlyargs)]
        if known.vararg or known.kwarg or (method and names[:1] != ["self"]):
            continue
        called = f"self.{function.name}" if method else function.name
        called = owner.name if isinstance(owner, ast.ClassDef) and function.name == "__init__" else called
        found[called] = (names[method:], file.start(function))
    return found


def class_init(file: CodeFile) -> Iterator[Decision]:
    for function in file.nodes(ast.FunctionDef):
        owner, start = file.parents[function], file.start(function)
        if isinstance(owner, ast.ClassDef) and function.name.startswith("__"):
            if function is next(part for part in owner.body if isinstance(part, FUNCTIONS)):
                yield Decision(A, start + 3, " __", (), file.start(owner), True)
        elif isinstance(owner, FUNCTIONS) and function.name[0].isalpha():
            yield Decision(B, start + 3, f" {function.name}", (" __",), file.start(owner), True)
