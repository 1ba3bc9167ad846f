"""The standard library of the running Python, mined: every point checked again in its file, by routes of its own.

The strongest of them needs no parsing of ours: in most tasks a file that goes on with the wrong completion is no
Python any more, as `compile` says.
"""

import ast
import os
import re
import warnings
from pathlib import Path
from random import Random

import pytest

from sparse_circuits.data.source import split_place
from sparse_circuits.data.tokenizer import encode
from sparse_circuits.tasks.mined import CLOSE, CONTEXT, HELD_OUT, MinedTask, Point, mine_all
from tasks.mined_code import mining_tokenizer

LIBRARY = Path(os.__file__).resolve().parent
BREAKING = {  # task -> classes in which the wrong completion is no Python
    "single_double_quote": (0, 1),
    "bracket_counting": (0, 1),
    "with_as": (0, 1),
    "for_while": (0,),
    "if_ternary": (0, 1),
    "if_equals": (0,),
    "fstring_brace": (0,),
    "bracket_brace": (0, 1),
    "indent_for": (0, 1),
    "while_return_true": (0, 1),
    "lambda_func": (0, 1),
}


@pytest.fixture(scope="module")
def mined() -> dict[str, MinedTask]:
    return mine_all(mining_tokenizer())


def text_of(point: Point) -> str:
    return (LIBRARY / point.file).read_text(encoding="utf-8-sig")


def place(point: Point) -> int:
    """Where the completion stands in the file, found by its line alone."""
    text, whole = text_of(point), point.prompt + point.completion + point.continuation
    places = [m.start() + len(point.prompt) for m in re.finditer(f"(?={re.escape(whole)})", text)]
    (found,) = {at for at in places if text.count("\n", 0, at) == point.line - 1}
    return found


def some(mined: dict[str, MinedTask], most: int) -> list[tuple[str, Point]]:
    """Points of every task and class."""
    classes = [(name, [p for p in task.points if p.side == side]) for name, task in mined.items() for side in (0, 1)]
    return [(name, p) for name, points in classes for p in Random(0).sample(points, min(most, len(points)))]


def test_most_tasks_occur(mined: dict[str, MinedTask]) -> None:
    both = [name for name, task in mined.items() if min(task.counts.values()) > 0]
    paired = [name for name, task in mined.items() if task.pairs is not None]
    assert len(both) >= 15 and len(paired) >= 10, (both, paired)


def test_only_paths_that_are_held_out(mined: dict[str, MinedTask]) -> None:
    files = {file for task in mined.values() for file in task.files}
    assert len(files) > 30
    assert all(split_place(file) < HELD_OUT for file in files)


def test_points_are_what_the_files_say(mined: dict[str, MinedTask]) -> None:
    tokenizer = mining_tokenizer()
    for name, point in some(mined, 60):
        at, text = place(point), text_of(point)
        start = at - len(point.prompt)
        assert start == 0 or text[start - 1] == "\n", (name, point)
        whole = encode(tokenizer, text[start : at + 200])
        assert tuple(whole[: len(point.tokens) + 1]) == (*point.tokens, point.answers[0]), (name, point)
        assert len(point.tokens) <= CONTEXT and point.completion != point.wrong


def test_the_wrong_completion_breaks_the_file(mined: dict[str, MinedTask]) -> None:
    tried = 0
    for name, point in some(mined, 8):
        if point.side not in BREAKING.get(name, ()):
            continue
        at, text = place(point), text_of(point)
        end = at + len(point.completion)
        if name == "if_ternary" and point.side == 0 or name == "lambda_func":
            text = text[: text.find("\n\n", end) + 2]  # nothing below makes it right again
        with warnings.catch_warnings(), pytest.raises(SyntaxError):
            warnings.simplefilter("ignore")
            compile(text[:at] + point.wrong + text[end:], point.file, "exec")
        tried += 1
    assert tried > 100


def test_what_a_variable_was_bound_to(mined: dict[str, MinedTask]) -> None:
    for point in mined["set_or_string"].points:
        name = re.search(r"\w+$", point.prompt)[0]  # pyright: ignore[reportOptionalSubscript]
        values = re.findall(rf"\b{name} = (.*)", point.prompt)
        kind = r"set\(|\{" if point.side == 0 else r"""[rf]*['"]|str\("""
        assert re.match(kind, values[-1]), (point, values)


def test_the_block_around_a_def(mined: dict[str, MinedTask]) -> None:
    for point in mined["class_init"].points:
        tree = ast.parse(text_of(point))
        around = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
        inner = max((n for n in around if n.lineno < point.line <= (n.end_lineno or 0)), key=lambda n: n.lineno)
        while not any(getattr(child, "lineno", 0) == point.line for child in ast.walk(inner)):
            around.remove(inner)
            inner = max((n for n in around if n.lineno < point.line <= (n.end_lineno or 0)), key=lambda n: n.lineno)
        assert isinstance(inner, ast.ClassDef) == (point.side == 0), point


def test_headers_and_branches(mined: dict[str, MinedTask]) -> None:
    for point in mined["enumerate_range"].points:
        line = point.prompt.rpartition("\n")[2]
        assert re.search(
            r"\bfor \(?\w+, ?(\w+|\([\w, ]+\)|\w+\[.*\])\)? in$" if point.side == 0 else r"\bfor \w+ in$", line
        ), point
    for point in mined["else_elif"].points:
        spaces = point.prompt.rpartition("\n")[2] + " " * point.completion.startswith(" ")
        last = re.findall(rf"^{spaces}((?:el)?if) (.*)", point.prompt, re.MULTILINE)[-1]
        operator, literal = r"([<>=!]=?|is( not)?)", r"(-?[\d.]+|'\w*'|\"\w*\"|None|True|False)"
        if point.side:
            assert last[0] == "if" and re.match(rf"\w+ {operator} [-\w'\"]", last[1]), point
        else:
            assert last[0] == "elif" or not re.match(rf"\w+ {operator} {literal}:", last[1]), point


def test_a_tested_name_was_bound_and_the_other_one_is_there(mined: dict[str, MinedTask]) -> None:
    assert mined["var_if"].points
    for point in mined["var_if"].points:
        assert re.search(rf"\b{point.completion[1:]}\b(,.*)?(?<![<>!=]) = ", point.prompt), point
        assert re.search(rf"\b{point.wrong[1:]}\b", point.prompt), point
        assert (point.completion > point.wrong) == point.side


def test_pairs(mined: dict[str, MinedTask]) -> None:
    for task in mined.values():
        known = {(point.prompt, point.completion): point for point in task.points}
        assert len(known) == len(task.points)
        used = []
        for i in range(task.pairs.n if task.pairs else 0):
            assert task.pairs is not None
            pair, lengths = task.pairs.texts[i], task.pairs.lengths[i].tolist()
            a, b = (known[pair.prompt(side), pair.completion(side)] for side in (0, 1))
            used += [(a.file, a.prompt), (b.file, b.prompt)]
            assert a.file != b.file and a.tokens[-1] == b.tokens[-1]
            assert abs(lengths[0] - lengths[1]) <= CLOSE and lengths == [len(a.tokens), len(b.tokens)]
            assert task.pairs.completions[i].tolist() == [a.answers[0], b.answers[0]] and a.completion != b.completion
        assert len(set(used)) == len(used)
