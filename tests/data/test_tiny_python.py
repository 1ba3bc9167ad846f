"""The tiny Python grammar: its programs are read by ast and tokenize, by a reader of bindings, and run."""

import ast
import builtins
import functools
import io
import keyword
import math
import os.path
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from types import FrameType, SimpleNamespace
from typing import Any, TypeVar

import pytest

from data.bindings import problems_of
from sparse_circuits.data.tiny_python import program, programs
from sparse_circuits.data.tiny_vocabulary import ACCUMULATORS, CLASSES, FUNCTIONS, OWN_METHODS, POOLS

COUNT = 2000
Node = TypeVar("Node", bound=ast.AST)


@pytest.fixture(scope="module")
def sources() -> list[str]:
    return list(islice(programs(3), COUNT))


@pytest.fixture(scope="module")
def trees(sources: list[str]) -> list[ast.Module]:
    return [ast.parse(source) for source in sources]


# determinism


def test_program_is_a_function_of_seed_and_index() -> None:
    first = list(islice(programs(5), 40))
    assert first == list(islice(programs(5), 40))
    assert first[25:] == list(islice(programs(5, start=25), 15))
    assert first == [program(5, index) for index in range(40)]
    assert len({*first, *islice(programs(6), 40)}) == 80


def test_programs_do_not_disturb_each_other() -> None:
    one, two = programs(1), programs(2)
    mixed = [next(stream) for _ in range(10) for stream in (one, two)]
    assert mixed[::2] == list(islice(programs(1), 10))
    assert mixed[1::2] == list(islice(programs(2), 10))


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1), (1 << 64, 0), (0, 1 << 64)])
def test_seed_and_index_have_limits(seed: int, index: int) -> None:
    with pytest.raises(ValueError, match="allowed: 0"):
        program(seed, index)
    with pytest.raises(ValueError, match="allowed: 0"):
        programs(seed, index)


# shape


def test_lengths_and_ends(sources: list[str]) -> None:
    lengths = sorted(map(len, sources))
    assert all(source.endswith("\n") and not source.endswith("\n\n") for source in sources)
    assert 350 < lengths[COUNT // 2] < 450
    assert sum(150 <= length <= 900 for length in lengths) > 0.95 * COUNT
    assert lengths[0] >= 40 and lengths[-1] < 2500
    assert all(source.isascii() and "\t" not in source for source in sources)


def test_lines_are_short_and_indented_by_four(sources: list[str]) -> None:
    lines = [line for source in sources for line in source.splitlines()]
    depths = {(len(line) - len(line.lstrip())) / 4 for line in lines}
    assert max(map(len, lines)) <= 120 and not any(line.endswith(" ") for line in lines)
    assert depths >= {0, 1, 2, 3} and all(depth % 1 == 0 and depth <= 5 for depth in depths)


def test_programs_differ(sources: list[str]) -> None:
    assert len(set(sources)) == COUNT
    openings = Counter("\n".join(source.splitlines()[:4]) for source in sources)
    assert openings.most_common(1)[0][1] < COUNT / 200


# names


def test_identifiers_are_many_and_a_few_are_frequent(trees: list[ast.Module]) -> None:
    names = Counter(node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name))
    assert len(names) > 2500
    assert all(names[word] > COUNT / 20 for word in ("x", "i", "count", "name", "result", "items", "f"))
    assert names["current"] > COUNT / 5  # the fixed name of set_or_string_fixedvarname


def test_words_are_free_names() -> None:
    variables, functions = {*ACCUMULATORS, *(name for names in POOLS for name in names)}, set(FUNCTIONS)
    assert not variables & functions and not variables & set(OWN_METHODS)
    for word in variables | functions | set(CLASSES) | set(OWN_METHODS):
        assert word.isidentifier() and not keyword.iskeyword(word) and not hasattr(builtins, word)


def test_sets_and_strings_share_their_names(trees: list[ast.Module]) -> None:
    """Only the assignment may tell `v = set()` from `v = ""`."""
    found: dict[str, Counter[str]] = {"set()": Counter(), "''": Counter()}
    for tree in trees:
        for node in nodes(tree, ast.Assign):
            if (text := ast.unparse(node.value)) in found and isinstance(node.targets[0], ast.Name):
                found[text][node.targets[0].id] += 1
    for name in ("current", "result", "seen", "output", "text", "found"):
        assert all(counts[name] for counts in found.values()), name
    sets, strings = (counts["current"] / counts.total() for counts in found.values())
    assert 0.7 < sets / strings < 1.4


# rules of the corpus


def nodes(tree: ast.AST, kind: type[Node]) -> list[Node]:
    return [node for node in ast.walk(tree) if isinstance(node, kind)]


def compared(test: ast.expr) -> str | None:
    """The name before the operator of `NAME OP literal`."""
    if isinstance(test, ast.Compare) and isinstance(test.left, ast.Name | ast.Attribute) and len(test.ops) == 1:
        right = test.comparators[0]
        right = right.operand if isinstance(right, ast.UnaryOp) else right
        if isinstance(right, ast.Constant) and right.value is not None:
            return ast.unparse(test.left)
    return None


def faults_of_chains(tree: ast.AST, lines: list[str]) -> Iterator[str]:
    """Breaks of the rule: `if NAME OP literal` goes on with elif on the name and else, other tests with else."""
    for node in nodes(tree, ast.If):
        word = lines[node.lineno - 1].split()[0]
        chained = [entry for entry in node.orelse[:1] if lines[entry.lineno - 1].split()[0] == "elif"]
        if word == "elif":
            if chained or not node.orelse:
                yield f"line {node.lineno}: an elif without else"
        elif compared(node.test) and node.orelse:
            nexts = [entry.test for entry in chained if isinstance(entry, ast.If)]
            if not nexts or compared(nexts[0]) != compared(node.test):
                yield f"line {node.lineno}: a comparison without elif on the same name"
        elif chained:
            yield f"line {node.lineno}: elif after a test that is no comparison"


def test_chains_follow_the_rule(sources: list[str], trees: list[ast.Module]) -> None:
    for source, tree in zip(sources, trees, strict=True):
        assert not list(faults_of_chains(tree, source.splitlines())), source


@pytest.mark.parametrize(
    "source",
    [
        "if x == 1:\n    y = 1\nelse:\n    y = 2\n",
        "if x == 1:\n    y = 1\nelif x == 2:\n    y = 2\n",
        "if x == 1:\n    y = 1\nelif z == 2:\n    y = 2\nelse:\n    y = 3\n",
        "if x:\n    y = 1\nelif x == 2:\n    y = 2\nelse:\n    y = 3\n",
        "if x == 1:\n    y = 1\nelif x == 2:\n    y = 2\nelif x == 3:\n    y = 3\nelse:\n    y = 3\n",
    ],
)
def test_a_broken_chain_is_found(source: str) -> None:
    assert list(faults_of_chains(ast.parse(source), source.splitlines()))


def test_keyword_calls_give_every_argument_in_order(trees: list[ast.Module]) -> None:
    checked = 0
    for tree in trees:
        made = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for call in nodes(tree, ast.Call):
            target = made.get(ast.unparse(call.func))
            if isinstance(target, ast.ClassDef):
                target = next(entry for entry in target.body if isinstance(entry, ast.FunctionDef))
            if target and call.keywords and not call.args:
                params = [argument.arg for argument in target.args.args if argument.arg != "self"]
                assert [keyword.arg for keyword in call.keywords] == params, ast.unparse(call)
                checked += 1
    assert checked > COUNT / 4


def test_first_methods_and_nested_functions(trees: list[ast.Module]) -> None:
    for tree in trees:
        for node in nodes(tree, ast.ClassDef):
            methods = [entry.name for entry in node.body if isinstance(entry, ast.FunctionDef)]
            assert methods[0] == "__init__" and len(set(methods)) == len(methods)
        for node in nodes(tree, ast.FunctionDef):
            assert {inner.name for inner in nodes(node, ast.FunctionDef)} <= {node.name, "helper"}


def test_with_takes_the_lock_where_there_is_one(trees: list[ast.Module]) -> None:
    opened = locked = 0
    for tree in trees:
        made = [node.lineno for node in tree.body if isinstance(node, ast.Assign) and "Lock()" in ast.unparse(node)]
        for node in nodes(tree, ast.With):
            name = isinstance(node.items[0].context_expr, ast.Name | ast.Attribute)
            after = any(line < node.lineno for line in made)
            opened, locked = opened + (after and not name), locked + (after and name)
    assert locked > COUNT / 20 and opened < locked / 10


def tokens(sources: list[str]) -> Iterator[tokenize.TokenInfo]:
    for source in sources:
        yield from tokenize.generate_tokens(io.StringIO(source).readline)


def test_strings_end_plainly(sources: list[str]) -> None:
    """No quotes within strings, next to none that ends in a sign, and no .format with named fields."""
    total = signs = 0
    for token in tokens(sources):
        if token.type == tokenize.STRING and not token.string.startswith(('"""', "f")):
            text = token.string[1:-1]
            total, signs = total + 1, signs + bool(text and not text[-1].isalnum())
            assert "'" not in text and '"' not in text and "\\" not in text
    assert total > 3 * COUNT and signs < 0.02 * total
    assert not any(re.search(r"\{\w+\}[^'\"]*['\"]\.format\(", source) for source in sources)


def test_quote_styles_are_even_wherever_a_string_stands(sources: list[str]) -> None:
    styles, closing = Counter[str](), Counter[str]()
    for token in tokens(sources):
        if token.type == tokenize.STRING and not token.string.startswith(('"""', "f")):
            styles[token.string[0]] += 1
            if token.line.rstrip("\n").endswith(token.string + ")"):
                closing[token.string[0]] += 1
    for counts in (styles, closing):
        assert counts.total() > COUNT
        assert abs(counts["'"] / counts.total() - 0.5) < 0.03


def test_flat_and_nested_lists_end_lines_about_as_often(sources: list[str]) -> None:
    lines = [line for source in sources for line in source.splitlines() if line.endswith("]")]
    nested = sum(line.endswith("]]") for line in lines) / len(lines)
    assert len(lines) > COUNT / 2 and abs(nested - 0.4) < 0.1


def test_statements_with_a_comment_are_often_followed_by_print(sources: list[str]) -> None:
    after: Counter[str] = Counter()
    for source in sources:
        lines = source.splitlines()
        for line, following in zip(lines, lines[1:], strict=False):
            if "  # " in line and line[0] != " " and not line.split("  # ")[0].endswith(":"):
                after["print" if following.startswith("print") else following[:4]] += 1
    assert after["print"] > 0.15 * after.total() and not after["    "]


ORDINARY: dict[str, tuple[float, Callable[[ast.Module], bool]]] = {
    "import": (0.15, lambda t: any(nodes(t, ast.Import))),
    "from import": (0.25, lambda t: any(nodes(t, ast.ImportFrom))),
    "docstring": (0.03, lambda t: any(ast.get_docstring(n) for n in nodes(t, ast.FunctionDef))),
    "type hint": (0.03, lambda t: any(n.annotation for n in nodes(t, ast.arg))),
    "default": (0.03, lambda t: any(n.args.defaults for n in nodes(t, ast.FunctionDef))),
    "try": (0.02, lambda t: any(nodes(t, ast.Try))),
    "raise": (0.015, lambda t: any(nodes(t, ast.Raise))),
    "comprehension": (0.03, lambda t: any(nodes(t, ast.ListComp))),
    "if __name__": (0.04, lambda t: any(isinstance(n, ast.If) and "__name__" in ast.unparse(n.test) for n in t.body)),
    "self.x": (0.1, lambda t: any(ast.unparse(n.value) == "self" for n in nodes(t, ast.Attribute))),
    "x is None": (
        0.003,
        lambda t: any(isinstance(op, ast.Is | ast.IsNot) for n in nodes(t, ast.Compare) for op in n.ops),
    ),
    "and, or": (0.02, lambda t: any(nodes(t, ast.BoolOp))),
    "yield": (0.001, lambda t: any(nodes(t, ast.Yield))),
    "global": (0.001, lambda t: any(nodes(t, ast.Global))),
    "decorator": (0.001, lambda t: any(n.decorator_list for n in nodes(t, ast.FunctionDef))),
    "assert": (0.005, lambda t: any(nodes(t, ast.Assert))),
    "d[key]": (0.02, lambda t: any(isinstance(n.slice, ast.Constant) for n in nodes(t, ast.Subscript))),
    "slice": (0.005, lambda t: any(nodes(t, ast.Slice))),
}


@pytest.mark.parametrize("construct", ORDINARY)
def test_ordinary_constructs_occur(construct: str, trees: list[ast.Module]) -> None:
    least, occurs = ORDINARY[construct]
    share = sum(bool(occurs(tree)) for tree in trees) / COUNT
    assert share >= least, f"{construct} in {share:.1%} of the programs, expected at least {least:.1%}"


# bindings


def test_names_are_bound_and_keep_their_types(sources: list[str]) -> None:
    found = [(problems, source) for source in sources if (problems := problems_of(source))]
    assert not found, f"{len(found)} programs, the first: {found[0][0]}\n{found[0][1]}"


@pytest.mark.parametrize(
    "source",
    [
        "v = set()\nv += 'a'\n",
        "v = set()\nv.append('a')\n",
        "v = ''\nv.add('a')\n",
        "v = ''\nv += 1\n",
        "v = 0\nv = 'a'\n",
        "v += 1\n",
        "print(v)\n",
        "if 1 > 0:\n    v = 1\nprint(v)\n",
        "for x in [1]:\n    v = 1\nprint(v)\n",
        "def f(a):\n    return b\n",
        "class A:\n    def __init__(self):\n        self.a = ''\n    def f(self):\n        self.a.add(1)\n",
        "class A:\n    def __init__(self):\n        self.a = ''\n    def f(self):\n        return self.b\n",
        "f = lambda x: y\n",
        "a = 1\ndef f():\n    a += 1\n",
        "a, b = 1, 'x'\nb, a = a, b\n",
        "x = [y for z in [1]]\n",
        "@timer\ndef f():\n    return 1\n",
    ],
)
def test_the_reader_finds_each_fault(source: str) -> None:
    assert problems_of(source)


# execution


class Anything:
    """Stands for whatever an import or an object parameter would be."""

    def __call__(self, *_: object, **__: object) -> "Anything":
        return self

    def __getattr__(self, name: str) -> "Anything":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __enter__(self) -> "Anything":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(("a", "b"))


class OpenFile(Anything):
    """A file of two lines."""

    read = staticmethod(lambda: "a\nb\n")
    readlines = staticmethod(lambda: ["a\n", "b\n"])


class Enough(BaseException):
    """The program ran as many lines as it may."""


MODULES = {
    "random": SimpleNamespace(randint=lambda low, high: low, choice=lambda items: items[0]),
    "time": SimpleNamespace(time=lambda: 1.5),
    "os": SimpleNamespace(path=SimpleNamespace(join=os.path.join, exists=lambda path: path.isascii())),
    "json": SimpleNamespace(dumps=lambda thing: "text", load=lambda file: {}),
    "sys": SimpleNamespace(argv=["program"]),
    "math": math,
    "re": re,
    "functools": functools,
}
HARMLESS = (ValueError, KeyError, IndexError, ZeroDivisionError, AssertionError)
"""What a program may raise on purpose, or for the numbers it happened to draw."""


def execute(source: str, steps: int = 2000) -> None:
    """Run a program without files, input or output, for so many lines."""
    anything, left = Anything(), steps

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        left -= event == "line"
        if left < 0:
            raise Enough
        return trace

    safe = dict(vars(builtins)) | {"print": anything, "input": lambda _: "text"}
    safe["open"] = lambda path, mode="r": OpenFile() if path.isascii() and mode in ("r", "w", "a") else 1 / 0
    safe["__import__"] = lambda name, *_: MODULES.get(name, anything)
    before = sys.gettrace()
    try:
        code = compile(source, "<tiny>", "exec")
        sys.settrace(trace)
        exec(code, {"__builtins__": safe, "__name__": "__main__"})
    except (Enough, *HARMLESS):
        pass
    finally:
        sys.settrace(before)


def test_programs_run(sources: list[str]) -> None:
    for source in sources[:800]:
        # a try-statement of the program would swallow the TypeError we look for, a raise would feign one
        told = re.sub(r"except (TypeError|Exception)|raise TypeError", lambda m: m[0].split()[0] + " KeyError", source)
        try:
            execute(told)
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}\n{source}")


@pytest.mark.parametrize("source", ["print(x)\n", "x = 1\nx += 'a'\n", "def f(a):\n    return a\nf(1, b=2)\n"])
def test_a_wrong_program_does_not_run(source: str) -> None:
    with pytest.raises((NameError, TypeError)):
        execute(source)
