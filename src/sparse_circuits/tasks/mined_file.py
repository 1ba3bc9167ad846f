"""One Python file as the miner sees it: its text, tokens and syntax tree, all placed by offsets into the text.

`ast` counts columns in bytes and `tokenize` in characters; here every place is a character offset, so that
`text[:at]` is what stands before a decision and `text[at:]` is what was decided. Python 3.12 and later cut an f-string
into pieces; they are joined again, so that a file reads the same on every version.
"""

import ast
import io
import tokenize
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, TypeVar

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
A, B = 0, 1
"""The classes of a task."""
Node = TypeVar("Node", bound=ast.AST)

_LAYOUT = (tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT)
_CLOSING = {")": "(", "]": "[", "}": "{"}


class Token(NamedTuple):
    """A token of `tokenize` with offsets into the text."""

    kind: int
    text: str
    start: int
    end: int


class Decision(NamedTuple):
    """One place in a file where a task's question is answered."""

    side: int
    """A or B"""
    at: int
    """a point if the file continues here with `right`"""
    right: str
    wrong: tuple[str, ...]
    """completions of the other class, likeliest first; () where that is any name"""
    since: int
    """what decides begins here (the string, the bracket, the binding): a prompt that begins later does not ask"""
    any_name: bool = False
    """class B is any name"""


class CodeFile:
    """A file that parses; made by `read_code`."""

    def __init__(self, name: str, text: str, tree: ast.Module, tokens: Sequence[Token]) -> None:
        self.name, self.text, self.tree, self.tokens = name, text, tree, tokens
        self.lines = _line_starts(text)
        self.parents: dict[ast.AST, ast.AST] = {}
        self._nodes: dict[type, list[ast.AST]] = {}
        for node in ast.walk(tree):
            self._nodes.setdefault(type(node), []).append(node)
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node

    def nodes(self, *kinds: type[Node]) -> Iterator[Node]:
        """Every node of these kinds."""
        for kind in kinds:
            yield from self._nodes.get(kind, ())  # pyright: ignore[reportReturnType]

    def offset(self, line: int, column: int) -> int:
        """Place of an ast position: line from 1, column in bytes."""
        start = self.lines[line - 1]
        if self.text[start : start + column].isascii():
            return start + column
        return start + len(self.text[start : self.lines[line]].encode("utf-8")[:column].decode("utf-8"))

    def start(self, node: ast.expr | ast.stmt | ast.arg) -> int:
        return self.offset(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt | ast.arg) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.offset(node.end_lineno, node.end_col_offset)

    def line(self, at: int) -> int:
        """Number of the line, from 1, in which a place lies."""
        return bisect_right(self.lines, at)

    def indent(self, at: int) -> int | None:
        """Spaces before a place where only spaces stand before it in its line, else None."""
        before = self.text[self.lines[self.line(at) - 1] : at]
        return len(before) if not before.strip(" ") else None

    def opened(self, at: int) -> tuple[Token, ...]:
        """The brackets still open before the closing one at this place, outermost first; none if there is none."""
        return self._brackets.get(at, ())

    def scope(self, node: ast.AST) -> ast.AST:
        """The function around a node, or the module."""
        while (node := self.parents.get(node, self.tree)) is not self.tree:
            if isinstance(node, (*FUNCTIONS, ast.Lambda)):
                return node
        return self.tree

    def name_before(self, name: str, at: int) -> int | None:
        """Where a name last stands as a token before a place."""
        places = self._names.get(name, [])
        found = bisect_right(places, at - 1)
        return places[found - 1] if found else None

    @cached_property
    def bound(self) -> list[tuple[int, str]]:
        """(place, name) of every variable that is bound and every parameter, by place."""
        names = [(self.start(n), n.id) for n in self.nodes(ast.Name) if isinstance(n.ctx, ast.Store)]
        return sorted(names + [(self.start(n), n.arg) for n in self.nodes(ast.arg)])

    @cached_property
    def definitions(self) -> list[tuple[int, int]]:
        """(start, end) of every def and class at the top level, decorators included."""
        found = [node for node in self.tree.body if isinstance(node, (*FUNCTIONS, ast.ClassDef))]
        first = [min([node.lineno, *(d.lineno for d in node.decorator_list)]) for node in found]
        return [(self.lines[line - 1], self.end(node)) for line, node in zip(first, found, strict=True)]

    @cached_property
    def statements(self) -> list[int]:
        """Starts of the lines in which a statement or a clause begins: never inside a bracket or a string."""
        found, fresh = [], True
        for token in self.tokens:
            if token.kind == tokenize.NEWLINE:
                fresh = True
            elif fresh and token.kind not in _LAYOUT and token.kind != tokenize.ENDMARKER:
                found.append(self.lines[self.line(token.start) - 1])
                fresh = False
        return found

    @cached_property
    def _brackets(self) -> dict[int, tuple[Token, ...]]:
        stack: list[Token] = []
        found = {}
        for token in self.tokens:
            if token.kind != tokenize.OP:
                continue
            if token.text in _CLOSING.values():
                stack.append(token)
            elif token.text in _CLOSING and stack:
                found[token.start] = tuple(stack)
                stack.pop()
        return found

    @cached_property
    def _names(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for token in self.tokens:
            if token.kind == tokenize.NAME:
                found.setdefault(token.text, []).append(token.start)
        return found


def read_code(name: str, text: str) -> CodeFile | None:
    """The file, or None where the running Python does not read it (prose, Python 2, a part of a file)."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the file's own author is warned of
            tree = ast.parse(text)
        return CodeFile(name, text, tree, list(_tokens(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        return None


def _tokens(text: str) -> Iterator[Token]:
    """Tokens by offset; an f-string is one STRING token on every version of Python."""
    lines, depth, began = _line_starts(text), 0, 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        start, end = (lines[line - 1] + column for line, column in (token.start, token.end))
        if kind in ("FSTRING_START", "TSTRING_START"):
            began, depth = (began if depth else start), depth + 1
        elif kind in ("FSTRING_END", "TSTRING_END"):
            depth -= 1
            if not depth:
                yield Token(tokenize.STRING, text[began:end], began, end)
        elif not depth:
            yield Token(token.type, token.string, start, end)


def _line_starts(text: str) -> list[int]:
    """Offset of every line, and twice that of the end: tokenize places its last tokens on a line after the last."""
    starts, at = [0], text.find("\n")
    while at >= 0:
        starts.append(at + 1)
        at = text.find("\n", at + 1)
    return [*starts, len(text), len(text)]
