"""The tiny Python grammar: its programs are read back by ast and tokenize, and by a checker of types written apart."""

import ast
import builtins
import io
import keyword
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from types import FrameType
from typing import Any, TypeVar

import pytest

from sparse_circuits.data.tiny_python import program, programs
from sparse_circuits.data.tiny_vocabulary import ACCUMULATORS, CLASSES, FUNCTIONS, NAMES

COUNT = 2000
Node = TypeVar("Node", bound=ast.AST)
METHODS = {
    "set": {"add"},
    "str": {"upper", "lower", "strip", "title", "format"},
    "list": {"append"},
    "dict": {"items"},
    "int": set(),
    "bool": set(),
}


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
    assert sum(150 <= length <= 700 for length in lengths) > 0.85 * COUNT
    assert lengths[0] >= 40 and lengths[-1] < 2500
    assert all(source.isascii() and "\t" not in source for source in sources)


def test_indentation_has_three_levels(sources: list[str]) -> None:
    depths = {(len(line) - len(line.lstrip())) / 4 for source in sources for line in source.splitlines()}
    assert depths == {0, 1, 2, 3}


def test_identifiers_are_many(trees: list[ast.Module]) -> None:
    names = Counter(node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name))
    assert len(names) > 3000
    assert names["current"] > COUNT / 50  # the fixed name of set_or_string_fixedvarname


def test_words_are_free_names() -> None:
    kept = {"i", "j", "k", "n", "index", "f", "g", "h", "file"}
    variables, functions = set(NAMES) | set(ACCUMULATORS), set(FUNCTIONS)
    assert not variables & functions and not variables & kept
    for word in variables | functions | set(CLASSES):
        assert word.isidentifier() and not keyword.iskeyword(word) and not hasattr(builtins, word)


# constructs


def nodes(tree: ast.AST, kind: type[Node]) -> list[Node]:
    return [node for node in ast.walk(tree) if isinstance(node, kind)]


def is_call(node: ast.AST | None, *names: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and (not names or node.func.id in names)


def is_text(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_assigned(tree: ast.Module, test: Callable[[ast.expr], bool]) -> bool:
    return any(test(node.value) for node in nodes(tree, ast.Assign))


def is_nested_list(node: ast.AST | None) -> bool:
    return isinstance(node, ast.List) and any(isinstance(entry, ast.List) for entry in node.elts)


def has_string_argument(
    tree: ast.Module, statement: type[ast.Expr | ast.Assign | ast.Return], function: type[ast.AST]
) -> bool:
    """Some `statement` whose value is a call of a `function` expression, last argument a string."""
    for node in nodes(tree, statement):
        call = node.value
        if isinstance(call, ast.Call) and isinstance(call.func, function) and call.args and is_text(call.args[-1]):
            return True
    return False


def has_elif(tree: ast.Module) -> bool:
    return any(len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If) for node in nodes(tree, ast.If))


def has_swap(tree: ast.Module) -> bool:
    for node in nodes(tree, ast.Assign):
        if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
            left, right = ([ast.unparse(entry) for entry in side.elts] for side in (node.targets[0], node.value))
            if left == right[::-1]:
                return True
    return False


def has_keyword_call(tree: ast.Module) -> bool:
    defined = {node.name for node in nodes(tree, ast.FunctionDef)}
    return any(is_call(node, *defined) and node.keywords for node in nodes(tree, ast.Call)) if defined else False


def has_while(tree: ast.Module, test: type[ast.AST]) -> bool:
    return any(isinstance(node.test, test) for node in nodes(tree, ast.While))


def has_for_over(tree: ast.Module, function: str) -> bool:
    return any(is_call(node.iter, function) for node in nodes(tree, ast.For))


def has_with(tree: ast.Module, opens: bool) -> bool:
    return any(is_call(node.items[0].context_expr, "open") is opens for node in nodes(tree, ast.With))


def has_nested_def(tree: ast.Module) -> bool:
    return any(isinstance(inner, ast.FunctionDef) for node in nodes(tree, ast.FunctionDef) for inner in node.body)


def has_updated(tree: ast.Module, empty: str) -> bool:
    """A name assigned the empty value and later changed in the way of its type."""
    names = {ast.unparse(n.targets[0]) for n in nodes(tree, ast.Assign) if ast.unparse(n.value) == empty}
    changed = {ast.unparse(node.target) for node in nodes(tree, ast.AugAssign)}
    changed |= {ast.unparse(node.func.value) for node in nodes(tree, ast.Call) if isinstance(node.func, ast.Attribute)}
    changed |= {ast.unparse(node.value) for node in nodes(tree, ast.Subscript) if isinstance(node.ctx, ast.Store)}
    return bool(names & changed)


CONSTRUCTS: dict[str, tuple[float, Callable[[ast.Module], object]]] = {
    "print('text')": (0.5, lambda t: has_string_argument(t, ast.Expr, ast.Name)),
    "obj.method('text')": (0.2, lambda t: has_string_argument(t, ast.Expr, ast.Attribute)),
    "name = fn('text')": (0.04, lambda t: has_string_argument(t, ast.Assign, ast.Name)),
    "return fn('text')": (0.01, lambda t: has_string_argument(t, ast.Return, ast.Name)),
    "x = 'text'": (0.2, lambda t: is_assigned(t, is_text)),
    "x = [1, 2]": (0.2, lambda t: is_assigned(t, lambda v: isinstance(v, ast.List) and not is_nested_list(v))),
    "x = [[1, 2]]": (0.2, lambda t: is_assigned(t, is_nested_list)),
    "f([1, 2])": (0.02, lambda t: any(isinstance(a, ast.List) for c in nodes(t, ast.Call) for a in c.args)),
    "{1, 2}": (0.08, lambda t: any(nodes(t, ast.Set))),
    "{'a': 1}": (0.08, lambda t: any(n.keys for n in nodes(t, ast.Dict))),
    "v = set() .. v.add": (0.08, lambda t: has_updated(t, "set()")),
    'v = "" .. v +=': (0.08, lambda t: has_updated(t, "''")),
    "v = [] .. v.append": (0.03, lambda t: has_updated(t, "[]")),
    "v = {} .. v[k] =": (0.01, lambda t: has_updated(t, "{}")),
    "v = 0 .. v +=": (0.02, lambda t: has_updated(t, "0")),
    "with open(p) as f": (0.12, lambda t: has_with(t, True)),
    "with other(p) as f": (0.02, lambda t: has_with(t, False)),
    "1 if test else 2": (0.15, lambda t: any(nodes(t, ast.IfExp))),
    "1 if test(p) else 2": (0.02, lambda t: any(is_call(n.test) for n in nodes(t, ast.IfExp))),
    "for x in xs": (0.06, lambda t: any(isinstance(n.iter, ast.Name) for n in nodes(t, ast.For))),
    "for i in range": (0.1, lambda t: has_for_over(t, "range")),
    "for i, x in enumerate": (0.05, lambda t: has_for_over(t, "enumerate")),
    "while x < n": (0.06, lambda t: has_while(t, ast.Compare)),
    "while True": (0.06, lambda t: has_while(t, ast.Constant)),
    "return True": (0.03, lambda t: any(ast.unparse(n) == "return True" for n in nodes(t, ast.Return))),
    "if without else": (0.08, lambda t: any(not n.orelse for n in nodes(t, ast.If))),
    "elif": (0.1, has_elif),
    "else": (0.1, lambda t: any(n.orelse and not isinstance(n.orelse[0], ast.If) for n in nodes(t, ast.If))),
    "x == 1": (0.12, lambda t: any(isinstance(n.ops[0], ast.Eq) for n in nodes(t, ast.Compare))),
    "f'{x}'": (0.1, lambda t: any(nodes(t, ast.JoinedStr))),
    "'{x}'.format": (0.04, lambda t: any(getattr(n.func, "attr", "") == "format" for n in nodes(t, ast.Call))),
    "a, b = b, a": (0.1, has_swap),
    "lambda": (0.03, lambda t: any(nodes(t, ast.Lambda))),
    "def": (0.3, lambda t: any(nodes(t, ast.FunctionDef))),
    "def in def": (0.02, has_nested_def),
    "f(1, b=2)": (0.05, has_keyword_call),
    "class": (0.1, lambda t: any(nodes(t, ast.ClassDef))),
    "__init__ first": (0.1, lambda t: any("def __init__(" in ast.unparse(n.body[0]) for n in nodes(t, ast.ClassDef))),
    "docstring": (0.03, lambda t: any(ast.get_docstring(n) for n in nodes(t, ast.FunctionDef))),
    "type hint": (0.05, lambda t: any(nodes(t, ast.AnnAssign)) or any(n.annotation for n in nodes(t, ast.arg))),
    "import": (0.05, lambda t: any(nodes(t, ast.Import))),
    "from import": (0.2, lambda t: any(nodes(t, ast.ImportFrom))),
    "try": (0.05, lambda t: any(nodes(t, ast.Try))),
}


@pytest.mark.parametrize("construct", CONSTRUCTS)
def test_construct_occurs(construct: str, trees: list[ast.Module]) -> None:
    least, occurs = CONSTRUCTS[construct]
    share = sum(bool(occurs(tree)) for tree in trees) / COUNT
    assert share >= least, f"{construct} in {share:.1%} of the programs, expected at least {least:.0%}"


def tokens(sources: list[str]) -> Iterator[tokenize.TokenInfo]:
    for source in sources:
        yield from tokenize.generate_tokens(io.StringIO(source).readline)


def test_comments_and_braces_occur(sources: list[str]) -> None:
    found = Counter[str]()
    for token in tokens(sources):
        if token.type == tokenize.COMMENT:
            found["comment"] += 1
        elif token.type == tokenize.STRING and token.string[1] == "{" and "}" not in token.string:
            found["brace left open"] += 1
    assert found["comment"] > 0.1 * COUNT and found["brace left open"] > 0.01 * COUNT


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


def test_flat_and_nested_lists_end_lines_equally_often(sources: list[str]) -> None:
    lines = [line for source in sources for line in source.splitlines() if line.endswith("]")]
    nested = sum(line.endswith("]]") for line in lines) / len(lines)
    assert len(lines) > COUNT / 2 and abs(nested - 0.5) < 0.06


# types


class Checker:
    """Follows a program in order; `problems` lists names loaded unbound and operations that do not fit the type."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.shared: set[str] = set()  # functions, classes and imports: all that a function body sees from outside

    def kind(self, node: ast.AST, bound: dict[str, str | None]) -> str | None:
        """The type an expression evidently has, or None."""
        displays = {ast.List: "list", ast.Set: "set", ast.Dict: "dict", ast.JoinedStr: "str", ast.Compare: "bool"}
        if isinstance(node, ast.Constant):
            return type(node.value).__name__
        if isinstance(node, ast.Name | ast.Attribute):
            return bound.get(ast.unparse(node))
        if isinstance(node, ast.BinOp):
            return self.kind(node.left, bound)
        if isinstance(node, ast.IfExp):
            return self.kind(node.body, bound)
        if isinstance(node, ast.Call):
            return {"set": "set", "len": "int", "str": "str", "input": "str"}.get(ast.unparse(node.func))
        return displays.get(type(node))

    def expression(self, node: ast.AST | None, bound: dict[str, str | None]) -> None:
        """Every load is of a bound name, every method fits, both sides of an operator have one type."""
        if isinstance(node, ast.Lambda):
            self.expression(node.body, bound | dict.fromkeys(arg.arg for arg in node.args.args))
            return
        if isinstance(node, ast.Name) and node.id not in bound and not hasattr(builtins, node.id):
            self.problems.append(f"{node.id} is loaded unbound")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = self.kind(node.func.value, bound)
            if owner and node.func.attr not in METHODS[owner]:
                self.problems.append(f"{owner} {ast.unparse(node.func)}")
        if isinstance(node, ast.BinOp):
            self.same(node, self.kind(node.left, bound), self.kind(node.right, bound))
        for child in ast.iter_child_nodes(node) if node else ():
            self.expression(child, bound)

    def same(self, node: ast.AST, left: str | None, right: str | None) -> None:
        if left and right and left != right:
            self.problems.append(f"{left} and {right}: {ast.unparse(node)}")

    def assign(self, target: ast.AST, kind: str | None, bound: dict[str, str | None]) -> None:
        if isinstance(target, ast.Tuple):
            for entry in target.elts:
                self.assign(entry, None, bound)
        elif isinstance(target, ast.Subscript):
            if self.kind(target.value, bound) not in ("dict", None):
                self.problems.append(ast.unparse(target))
        else:
            name = ast.unparse(target)
            self.same(target, bound.get(name), kind)
            bound[name] = kind or bound.get(name)

    def block(self, body: list[ast.stmt], bound: dict[str, str | None]) -> None:
        """A block that may not run: what it binds is not bound afterwards."""
        inner = dict(bound)
        for statement in body:
            self.statement(statement, inner)

    def statement(self, node: ast.stmt, bound: dict[str, str | None]) -> None:
        for field in ("value", "test", "iter"):
            self.expression(getattr(node, field, None), bound)
        if isinstance(node, ast.Assign):
            pairs = [(node.targets[0], node.value)]
            if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(node.targets[0].elts, node.value.elts, strict=True))
            if isinstance(node.value, ast.Lambda):
                self.shared.add(ast.unparse(node.targets[0]))
            if is_call(node.value) and ast.unparse(node.value)[0].isupper():  # an instance, whose methods are called
                self.shared.add(ast.unparse(node.targets[0]))
            for target, kind in [(target, self.kind(value, bound)) for target, value in pairs]:
                self.assign(target, kind, bound)
        elif isinstance(node, ast.AnnAssign):
            assert node.value is not None
            kind = self.kind(node.value, bound)
            self.same(node, ast.unparse(node.annotation).split("[")[0], kind)
            self.assign(node.target, kind, bound)
        elif isinstance(node, ast.AugAssign):
            self.expression(node.target, bound)
            self.same(node, self.kind(node.target, bound), self.kind(node.value, bound))
            if self.kind(node.target, bound) in ("set", "dict", "bool"):
                self.problems.append(ast.unparse(node))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self.shared.update(alias.name for alias in node.names)
            bound.update(dict.fromkeys(alias.name for alias in node.names))
        elif isinstance(node, ast.FunctionDef):
            bound[node.name] = None
            self.shared.add(node.name)
            inner = {name: kind for name, kind in bound.items() if name in self.shared or name.startswith("self.")}
            for arg in node.args.args:
                hint = ast.unparse(arg.annotation).split("[")[0] if arg.annotation else None
                inner[arg.arg] = None if hint == "object" else hint
            self.block(node.body, inner)
        elif isinstance(node, ast.ClassDef):
            self.klass(node, bound)
        else:
            self.compound(node, bound)

    def klass(self, node: ast.ClassDef, bound: dict[str, str | None]) -> None:
        """Attributes that __init__ sets are bound in the other methods."""
        initial, *others = [entry for entry in node.body if isinstance(entry, ast.FunctionDef)]
        self.shared.add(node.name)
        inner = {name: None for name in bound if name in self.shared} | dict.fromkeys(a.arg for a in initial.args.args)
        for statement in initial.body:
            self.statement(statement, inner)
        attributes = {name: kind for name, kind in inner.items() if name.startswith("self.")}
        for method in others:
            self.statement(method, {**bound, **attributes})
        bound[node.name] = None

    def compound(self, node: ast.stmt, bound: dict[str, str | None]) -> None:
        inner = dict(bound)
        if isinstance(node, ast.For):
            self.assign(node.target, "int" if is_call(node.iter, "range") else None, inner)
        if isinstance(node, ast.With):
            for item in node.items:
                self.expression(item.context_expr, bound)
                if item.optional_vars:
                    self.assign(item.optional_vars, None, inner)
        for field in ("body", "orelse"):
            self.block(getattr(node, field, []), inner)
        for handler in getattr(node, "handlers", []):
            self.block(handler.body, inner)


def problems_of(source: str) -> list[str]:
    checker, bound = Checker(), dict[str, str | None]()
    for statement in ast.parse(source).body:
        checker.statement(statement, bound)
    return checker.problems


def test_types_are_consistent_and_names_are_bound(sources: list[str]) -> None:
    found = [(problems, source) for source in sources if (problems := problems_of(source))]
    assert not found, f"{len(found)} programs, the first: {found[0][0]}\n{found[0][1]}"


@pytest.mark.parametrize(
    "source",
    [
        "v = set()\nv += 'a'\n",
        "v = set()\nv.append('a')\n",
        "v = ''\nv.add('a')\n",
        "v = ''\nv += 1\n",
        "v = []\nif v:\n    v += 'a'\n",
        "v = 0\nv = 'a'\n",
        "v: int = 'a'\n",
        "v += 1\n",
        "print(v)\n",
        "if 1 > 0:\n    v = 1\nprint(v)\n",
        "for x in [1]:\n    pass\nprint(x)\n",
        "def f(a):\n    return b\n",
        "class A:\n    def __init__(self):\n        self.a = ''\n    def f(self):\n        self.a.add(1)\n",
        "f = lambda x: y\n",
        "a = 1\ndef f():\n    return a\n",
        "a, b = 1, 'x'\nb, a = a, b\n",
    ],
)
def test_checker_finds_each_fault(source: str) -> None:
    assert problems_of(source)


# execution


class Anything:
    """Stands for whatever an import, a file or an object parameter would be."""

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


class Enough(Exception):
    """The program ran as many lines as it may."""


def execute(source: str, steps: int = 2000) -> None:
    """Run a program without files, input or output, for so many lines."""
    anything, left = Anything(), steps

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        left -= event == "line"
        if left < 0:
            raise Enough
        return trace

    safe = {name: getattr(builtins, name) for name in ("len", "str", "set", "range", "enumerate", "sorted", "object")}
    safe |= {name: getattr(builtins, name) for name in ("int", "bool", "list", "dict", "__build_class__")}
    safe |= {name: getattr(builtins, name) for name in ("ValueError", "KeyError", "OSError", "TypeError")}
    safe |= {"print": anything, "open": anything, "input": lambda _: "text", "__import__": lambda *_: anything}
    before = sys.gettrace()
    try:
        code = compile(source, "<tiny>", "exec")
        sys.settrace(trace)
        exec(code, {"__builtins__": safe, "__name__": "tiny"})
    except Enough:
        pass
    finally:
        sys.settrace(before)


def test_programs_run(sources: list[str]) -> None:
    for source in sources[:600]:
        # a try-statement of the program would swallow the TypeError we look for
        try:
            execute(source.replace("except TypeError", "except OSError"))
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}\n{source}")


@pytest.mark.parametrize("source", ["print(x)\n", "x = 1\nx += 'a'\n", "def f(a):\n    return a\nf(1, b=2)\n"])
def test_a_wrong_program_does_not_run(source: str) -> None:
    with pytest.raises((NameError, TypeError)):
        execute(source)
