"""Where real code decides what the twenty tasks ask (METHOD 1e): one finder per task, on the tokens and tree of a file.

A decision is a place in a text: what stands before it asks, what follows answers (mined_file.py). The finders of tasks
on names are in mined_names.py. Real code is wider than the templates, so some tasks are read a little wider here:
  bracket_counting, bracket_brace   subscripts and dicts count as brackets too; nothing else may be open
  set_or_string(_fixedvarname)      also set literals, set(x), any str literal or str(x); the last binding counts
  with_open, class_init             B is any whole name, in `with` one that was named before, in place of ` lock`, ` helper`
  indent_for                        any header; at the top level B is any whole name in place of `print`, and in a
                                    block A and B are the spaces of a deeper and of the same line
  else_elif                         with its space where the line is indented; only branches by the task's rule: a
                                    comparison `NAME OP literal` goes on with elif, an elif or another test with else
  fstring_brace                     in both quotes; lone braces hardly occur in real strings, so B is any plain string
  var_swap                          the values may be expressions; the first uses one of the two names
  final_kwarg                       a function, method or class of the same file, with its def in the prompt
Every task occurs in real code, but three seldom: a variable named `current` that is a set or a str, two names that
are swapped, and a call by keywords close below its def; the standard library has few or none of them.
"""

import ast
import keyword
import re
import tokenize
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from string import ascii_letters

from .mined_file import FUNCTIONS, A, B, CodeFile, Decision, Token
from .mined_names import class_init, final_kwarg, set_or_string, set_or_string_fixedvarname, var_if, var_swap, with_open

NAMES = ("var_swap", "var_if")
"""Tasks whose completions are two names of the prompt; class A is the one that comes first in the alphabet."""
USUAL_NAME: Mapping[str, str] = {"with_open": " lock", "indent_for": "print", "class_init": " helper"}
"""Tasks with a class B that is any name -> the name that the task itself has there."""


def _quotes(file: CodeFile) -> Iterator[tuple[Token, str]]:
    """String literals with one quote that end a call and a line, and their quote."""
    for i, token in enumerate(file.tokens):
        text = token.text
        if token.kind != tokenize.STRING or not file.text.startswith(")\n", token.end):
            continue
        body = text.lstrip(ascii_letters)
        open_bracket = file.opened(token.end)[-1:]
        if body[:3] not in ("'''", '"""') and file.tokens[i + 1].text == ")" and _calls(file, open_bracket):
            yield token, body[0]


def _calls(file: CodeFile, bracket: tuple[Token, ...]) -> bool:
    """Whether this bracket opens the arguments of a call."""
    if not bracket:
        return False
    word = re.search(r"(\w+|[\])])$", file.text[max(0, bracket[0].start - 80) : bracket[0].start])
    return word is not None and not keyword.iskeyword(word[0])


def _formatted(token: Token) -> bool:
    prefix = token.text[: len(token.text) - len(token.text.lstrip(ascii_letters))]
    return not set("fFtT").isdisjoint(prefix)


def single_double_quote(file: CodeFile) -> Iterator[Decision]:
    for token, quote in _quotes(file):
        if not _formatted(token):
            side, other = (A, '"') if quote == "'" else (B, "'")
            yield Decision(side, token.end - 1, f"{quote})\n", (f"{other})\n",), token.start)


def fstring_brace(file: CodeFile) -> Iterator[Decision]:
    for token, quote in _quotes(file):
        field, plain = f"}}{quote})\n", f"{quote})\n"
        if not _formatted(token):
            yield Decision(B, token.end - 1, plain, (field,), token.start)
        elif token.text.endswith("}" + quote) and not token.text.endswith("}}" + quote):
            yield Decision(A, token.end - 2, field, (plain,), token.start)


def _lists(file: CodeFile) -> Iterator[tuple[Token, str, int]]:
    """Every closing `]` and `}`, all the brackets that are open before it, and where the first of them is."""
    for token in file.tokens:
        if token.kind == tokenize.OP and token.text in "]}":
            stack = file.opened(token.start)
            yield token, "".join(bracket.text for bracket in stack), stack[0].start


def bracket_counting(file: CodeFile) -> Iterator[Decision]:
    for token, stack, since in _lists(file):
        if stack == "[" and file.text.startswith("]\n", token.start):
            yield Decision(A, token.start, "]\n", ("]]\n",), since)
        elif stack == "[[" and file.text.startswith("]]\n", token.start):
            yield Decision(B, token.start, "]]\n", ("]\n",), since)


def bracket_brace(file: CodeFile) -> Iterator[Decision]:
    for token, stack, since in _lists(file):
        if stack in ("[", "{") and file.text.startswith("\n", token.end):
            side, other = (A, "}\n") if stack == "[" else (B, "]\n")
            yield Decision(side, token.start, f"{token.text}\n", (other,), since)


def with_as(file: CodeFile) -> Iterator[Decision]:
    for statement in file.nodes(ast.With, ast.AsyncWith):
        for item in statement.items:
            if isinstance(item.context_expr, ast.Call):
                yield Decision(A, file.end(item.context_expr), " as", (" else",), file.start(statement))
    for choice in file.nodes(ast.IfExp):
        if isinstance(choice.test, ast.Call):
            yield Decision(B, file.end(choice.test), " else", (" as",), file.start(choice))


def for_while(file: CodeFile) -> Iterator[Decision]:
    for loop in file.nodes(ast.For):
        if isinstance(loop.target, ast.Name):
            yield Decision(A, file.end(loop.target), " in", (" <",), file.start(loop))
    for loop in file.nodes(ast.While):
        test = loop.test
        if isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and isinstance(test.ops[0], ast.Lt):
            yield Decision(B, file.end(test.left), " <", (" in",), file.start(loop))


def else_elif(file: CodeFile) -> Iterator[Decision]:
    for branch in file.nodes(ast.If):
        if not branch.orelse:
            continue
        at = _branch_end(file, branch)
        column = file.indent(at) if at is not None else None
        if at is None or column is None:
            continue
        goes_on = file.text.startswith("elif", at)
        first = file.text.startswith("if", file.start(branch))
        if goes_on != (first and _compares(branch.test)):
            continue
        space = " " if column else ""
        words = (f"{space}else", f"{space}elif")
        since = file.start(_chain_start(file, branch))
        yield Decision(B if goes_on else A, at - len(space), words[goes_on], (words[not goes_on],), since)


def _branch_end(file: CodeFile, branch: ast.If) -> int | None:
    """Where the `elif` or `else` of an if stands, in its own column."""
    last, following = file.end(branch.body[-1]), file.start(branch.orelse[0])
    column = branch.col_offset
    found = re.compile(rf"^ {{{column}}}(?=else\b|elif\b)", re.MULTILINE).search(file.text, last, following + 4)
    return found.end() if found else None


def _compares(test: ast.expr) -> bool:
    """`NAME OP literal`"""
    if not isinstance(test, ast.Compare) or len(test.ops) > 1 or isinstance(test.ops[0], ast.In | ast.NotIn):
        return False
    value = test.comparators[0]
    value = value.operand if isinstance(value, ast.UnaryOp) else value  # -1
    return isinstance(test.left, ast.Name) and isinstance(value, ast.Constant)


def _chain_start(file: CodeFile, branch: ast.If) -> ast.If:
    while file.text.startswith("elif", file.start(branch)):
        parent = file.parents[branch]
        assert isinstance(parent, ast.If)
        branch = parent
    return branch


def if_ternary(file: CodeFile) -> Iterator[Decision]:
    for branch in file.nodes(ast.If):
        yield Decision(A, file.end(branch.test), ":\n", (" else",), file.start(branch))
    for choice in file.nodes(ast.IfExp):
        yield Decision(B, file.end(choice.test), " else", (":\n",), file.start(choice))


def if_equals(file: CodeFile) -> Iterator[Decision]:
    for branch in file.nodes(ast.If):
        test = branch.test.values[0] if isinstance(branch.test, ast.BoolOp) else branch.test
        if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq) and _dotted(test.left):
            yield Decision(A, file.end(test.left), " ==", (" =",), file.start(branch))
    for assign in file.nodes(ast.Assign):
        if _dotted(assign.targets[0]) and file.indent(file.start(assign)) is not None:
            yield Decision(B, file.end(assign.targets[0]), " =", (" ==",), file.start(assign))


def _dotted(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def indent_for(file: CodeFile) -> Iterator[Decision]:
    """After a comment that ends a line: the next line is deeper after a header, and as deep after a statement."""
    begun = {file.start(node) for node in file.nodes(*_STATEMENTS)}
    for previous, comment, end in zip(file.tokens, file.tokens[1:], file.tokens[2:], strict=False):
        if comment.kind != tokenize.COMMENT or end.kind != tokenize.NEWLINE:
            continue
        at = end.end
        following = re.compile(r"( *)([^\W\d]\w*)?[^\s#]?").match(file.text, at)
        line = file.statements[bisect_left(file.statements, previous.start + 1) - 1]
        column = len(file.text[line:at]) - len(file.text[line:at].lstrip(" "))
        if following is None or not following[0].strip(" "):
            continue
        header = previous.text == ":"
        deeper = len(following[1])
        if deeper != column + 4 * header or (not header and at + deeper not in begun):
            continue
        right, wrong = " " * (deeper - 1), " " * (column + 4 * (not header) - 1)
        if column:
            yield Decision(B - header, at, right, (wrong,), line)
        elif header:
            yield Decision(A, at, right, (), line, True)
        elif following[2]:
            yield Decision(B, at, following[2], (wrong,), line, True)


_STATEMENTS = tuple(kind for kind in vars(ast).values() if isinstance(kind, type) and issubclass(kind, ast.stmt))


def while_return_true(file: CodeFile) -> Iterator[Decision]:
    for statement in file.nodes(ast.While, ast.Return):
        value = statement.test if isinstance(statement, ast.While) else statement.value
        if isinstance(value, ast.Constant) and value.value is True:
            side, right, wrong = (A, ":\n", "\n") if isinstance(statement, ast.While) else (B, "\n", ":\n")
            yield Decision(side, file.end(value), right, (wrong,), file.start(statement))


def lambda_func(file: CodeFile) -> Iterator[Decision]:
    for function in file.nodes(ast.Lambda, *FUNCTIONS):
        parts = [*ast.walk(function.args)]
        ends = [file.end(part) for part in parts if isinstance(part, ast.arg | ast.expr)]
        if ends:
            side, right, wrong = (A, ":", "):\n") if isinstance(function, ast.Lambda) else (B, "):\n", ":")
            yield Decision(side, max(ends), right, (wrong,), file.start(function))


def enumerate_range(file: CodeFile) -> Iterator[Decision]:
    for loop in file.nodes(ast.For, ast.comprehension):
        at = file.start(loop.iter) - 1
        if isinstance(loop.target, ast.Tuple) and len(loop.target.elts) == 2:
            yield Decision(A, at, " enumerate", (" range",), file.start(loop.target))
        elif isinstance(loop.target, ast.Name):
            yield Decision(B, at, " range", (" enumerate",), file.start(loop.target))


Finder = Callable[[CodeFile], Iterator[Decision]]
_ALL: tuple[Finder, ...] = (
    single_double_quote, bracket_counting, set_or_string, set_or_string_fixedvarname, with_as, with_open, for_while,
    else_elif, if_ternary, if_equals, fstring_brace, bracket_brace, var_swap, var_if, indent_for, while_return_true,
    lambda_func, enumerate_range, final_kwarg, class_init,
)  # fmt: skip
FINDERS: Mapping[str, Finder] = {finder.__name__: finder for finder in _ALL}
"""task -> finds its decisions in a file; only those where the text at `at` is `right` are points (mined.py)"""
