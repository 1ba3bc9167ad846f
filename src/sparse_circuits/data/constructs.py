"""Counts the decisions of the twenty Python tasks in a program, by ast and tokenize.

A task asks for one of two completions, so a corpus teaches it only if both ways of going on occur, about equally often.
`construct_counts` finds the places where a program decides, whoever wrote it; it shares nothing with the grammar of
the tiny Python corpus and so can measure it.

1. `_Finder` walks the syntax tree and notes (task, "A") or (task, "B") at each deciding node.
2. Quotes and trailing comments are no nodes: `_note_tokens` finds them in the token stream.
3. var_if has no classes of its own (whichever name was bound above is tested), so it only has "A".
"""

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterable, Mapping

CONSTRUCTS: dict[str, tuple[str, ...]] = {
    "single_double_quote": ("f('text')", 'f("text")'),
    "bracket_counting": ("x = [1, 2]", "x = [[1, 2]]"),
    "set_or_string": ("v = set() .. v.add", 'v = "" .. v +='),
    "set_or_string_fixedvarname": ("current = set() .. current.add", 'current = "" .. current +='),
    "with_as": ("with f(x) as y:", "1 if f(x) else 2"),
    "with_open": ("with open(path)", "with lock:"),
    "for_while": ("for x in", "while x <"),
    "else_elif": ("if x == 1: .. elif", "elif x == 2: .. else"),
    "if_ternary": ("if x:", "1 if x else 2"),
    "if_equals": ("    if x ==", "    x ="),
    "fstring_brace": ('f(f"{x}")', 'f("{x")'),
    "bracket_brace": ("x = [1, 2]", "x = {1, 2}"),
    "var_swap": ("a, b = b,", "a, b = a,"),
    "var_if": ("x = 1 .. if x",),
    "indent_for": ("for x in y:  # text", "x = y  # text"),
    "while_return_true": ("while True:", "return True"),
    "lambda_func": ("lambda a, b:", "def f(a, b):"),
    "enumerate_range": ("for i, x in enumerate", "for i in range"),
    "final_kwarg": ("f(a=1, b=2), all given", "f(a=1, one to come"),
    "class_init": ("class A: def __init__", "def f(): def helper"),
}
"""What each class of a construct looks like."""

Counts = Counter[tuple[str, str]]


def construct_counts(text: str) -> Counts:
    """How often a program decides each task each way: (task, "A" or "B") -> number of places.

    Raises ValueError if the text is no Python program.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"cannot count constructs: the text is no Python program ({error}); give valid Python"
        ) from None
    finder = _Finder(text)
    finder.visit(tree)
    _note_tokens(text, finder.counts)
    return +finder.counts


def shares(texts: Iterable[str]) -> Mapping[tuple[str, str], float]:
    """The share of the texts in which each (task, class) occurs at least once; every class has an entry.

    Raises ValueError if there is no text, or one is no Python program.
    """
    found, number = Counter[tuple[str, str]](), 0
    for text in texts:
        found.update(dict.fromkeys(construct_counts(text), 1))
        number += 1
    if not number:
        raise ValueError("cannot measure constructs: there is no text; give at least one program")
    return {
        (task, "AB"[place]): found[task, "AB"[place]] / number
        for task in CONSTRUCTS
        for place in range(len(CONSTRUCTS[task]))
    }


def frequency_table(texts: Iterable[str]) -> str:
    """`shares` as a Markdown table, one row per construct, in percent of the texts. Raises ValueError as `shares`."""
    measured, rows = shares(texts), ["| construct | A | in | B | in |", "|---|---|---|---|---|"]
    for task, (first, *rest) in CONSTRUCTS.items():
        second = f"`{rest[0]}` | {measured[task, 'B']:.1%}" if rest else "|"
        rows.append(f"| {task} | `{first}` | {measured[task, 'A']:.1%} | {second} |")
    return "\n".join(rows)


def _note_tokens(text: str, counts: Counts) -> None:
    """Closing quotes before the end of a line, and comments behind headers and statements."""
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    for before, here, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if before.type == tokenize.STRING and here.string == ")" and after.type == tokenize.NEWLINE:
            plain = before.string[0] in "'\"" and not before.string.startswith(('"""', "'''"))
            counts["single_double_quote", "B" if before.string[0] == '"' else "A"] += plain
        elif here.type == tokenize.COMMENT and after.type == tokenize.NEWLINE:
            counts["indent_for", "A" if before.string == ":" else "B"] += 1


def _is_name(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Name | ast.Attribute)


def _is_literal(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) or isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant)


def _nested(node: ast.List) -> bool:
    return any(isinstance(entry, ast.List) for entry in node.elts)


class _Finder(ast.NodeVisitor):
    """Notes every deciding node; `counts` holds the result."""

    def __init__(self, text: str) -> None:
        self.counts: Counts = Counter()
        self.lines = text.split("\n")
        self.empties: dict[str, str] = {}  # name -> "A" bound to a set, "B" to a string
        self.parameters: dict[str, list[str]] = {}  # of each function and class above
        self.last: str | None = None  # the name bound last

    def note(self, task: str, is_a: bool, number: int = 1) -> None:
        self.counts[task, "A" if is_a else "B"] += number

    # bindings

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        target, value = node.targets[0], node.value
        if isinstance(value, ast.List) and value.elts:
            self.note("bracket_counting", not _nested(value))
            self.note("bracket_brace", True)
        elif isinstance(value, ast.Set) or isinstance(value, ast.Dict) and value.keys:
            self.note("bracket_brace", False)
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            self._pair([ast.unparse(entry) for entry in target.elts], [ast.unparse(entry) for entry in value.elts])
        if _is_name(target):
            name = self.last = ast.unparse(target)
            if isinstance(value, ast.Set) or ast.unparse(value).startswith("set("):
                self.empties[name] = "A"
            elif isinstance(value, ast.Constant) and isinstance(value.value, str):
                self.empties[name] = "B"
            else:
                self.empties.pop(name, None)
            if node.col_offset or "_" in name:
                self.note("if_equals", False)

    def _pair(self, targets: list[str], values: list[str]) -> None:
        self.last = targets[-1]
        if len(targets) == len(values) == 2 and values[0] in targets and targets[0] != targets[1]:
            self.note("var_swap", values[0] == targets[1])

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.generic_visit(node)
        self._updated(node.target, isinstance(node.op, ast.Add), "B")

    def visit_Expr(self, node: ast.Expr) -> None:
        self.generic_visit(node)
        call = node.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            self._updated(call.func.value, call.func.attr == "add", "A")

    def _updated(self, target: ast.expr, fits: bool, group: str) -> None:
        name = ast.unparse(target)
        if fits and self.empties.get(name) == group:
            self.note("set_or_string_fixedvarname" if name == "current" else "set_or_string", group == "A")

    # blocks

    def visit_If(self, node: ast.If) -> None:
        test, chain = node.test, len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If)
        chain = chain and self.lines[node.orelse[0].lineno - 1].strip().startswith("elif")
        is_elif = self.lines[node.lineno - 1].strip().startswith("elif")
        compared = test if isinstance(test, ast.Compare) and _is_name(test.left) else None
        if compared and _is_literal(compared.comparators[0]) and chain:
            self.note("else_elif", True)
        if is_elif and node.orelse and not chain:
            self.note("else_elif", False)
        if not is_elif:
            self.note("if_ternary", True)
            self.counts["var_if", "A"] += self.last is not None and ast.unparse(test).split()[0] == self.last
        if compared and isinstance(compared.ops[0], ast.Eq) and (node.col_offset or "_" in ast.unparse(compared.left)):
            self.note("if_equals", True)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.note("if_ternary", False)
        if isinstance(node.test, ast.Call):
            self.note("with_as", False)
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        context = node.items[0].context_expr
        if isinstance(context, ast.Call):
            self.counts["with_as", "A"] += node.items[0].optional_vars is not None
            self.counts["with_open", "A"] += isinstance(context.func, ast.Name) and context.func.id == "open"
        elif _is_name(context):
            self.note("with_open", False)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        source = ast.unparse(node.iter.func) if isinstance(node.iter, ast.Call) else ""
        if isinstance(node.target, ast.Name):
            self.note("for_while", True)
            self.counts["enumerate_range", "B"] += source == "range"
        else:
            self.counts["enumerate_range", "A"] += source == "enumerate"
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        test = node.test
        if isinstance(test, ast.Compare):
            self.counts["for_while", "B"] += isinstance(test.left, ast.Name) and isinstance(test.ops[0], ast.Lt)
        self.counts["while_return_true", "A"] += ast.unparse(test) == "True"
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        self.counts["while_return_true", "B"] += node.value is not None and ast.unparse(node.value) == "True"
        self.generic_visit(node)

    # definitions and calls

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.counts["lambda_func", "A"] += len(node.args.args) > 1
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = node.args.args
        self.parameters[node.name] = [argument.arg for argument in arguments if argument.arg != "self"]
        plain = not node.args.defaults and not node.returns and not any(entry.annotation for entry in arguments)
        self.counts["lambda_func", "B"] += plain and len(arguments) > 1
        self.counts["class_init", "B"] += any(
            isinstance(entry, ast.FunctionDef) and entry.name == "helper" for entry in node.body
        )
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        methods = [entry for entry in node.body if isinstance(entry, ast.FunctionDef)]
        self.counts["class_init", "A"] += bool(methods) and methods[0].name == "__init__"
        self.generic_visit(node)
        if "__init__" in self.parameters:
            self.parameters[node.name] = self.parameters.pop("__init__")

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        given, function = [keyword.arg for keyword in node.keywords], ast.unparse(node.func).split(".")[-1]
        if given and not node.args and self.parameters.get(function) == given:
            self.note("final_kwarg", True)
            self.note("final_kwarg", False, len(given) - 1)
        if node.args and not node.keywords and self.lines[(node.end_lineno or 1) - 1][node.end_col_offset :] == "":
            last = node.args[-1]
            if isinstance(last, ast.JoinedStr):
                self.counts["fstring_brace", "A"] += isinstance(last.values[-1], ast.FormattedValue)
            elif isinstance(last, ast.Constant) and isinstance(last.value, str):
                self.counts["fstring_brace", "B"] += "{" in last.value and "}" not in last.value
