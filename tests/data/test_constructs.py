"""Counting the twenty tasks' decisions: programs counted by hand, and the table of docs/corpus.md."""

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from sparse_circuits.data.constructs import CONSTRUCTS, construct_counts, frequency_table, shares
from sparse_circuits.data.tiny_python import programs

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "corpus.md"
SEED, COUNT = 0, 2000


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("print('a')\nprint(\"b\", 'c')\nprint('a', 1)\n", {"single_double_quote": (2, 0)}),
        ('f("a")\n', {"single_double_quote": (0, 1)}),
        ("x = [1]\ny = [[1], [2]]\nz = {1}\n", {"bracket_counting": (1, 1), "bracket_brace": (2, 1)}),
        ("x = []\ny = {}\n", {}),
        ("v = set()\nx = 1\nv.add(x)\nw = ''\nw += 'a'\nw += 'b'\n", {"set_or_string": (1, 2)}),
        ("v = ''\nv = 0\nv += 1\n", {}),
        (
            "def f():\n    current = set()\n    current.add(1)\n",
            {"set_or_string_fixedvarname": (1, 0), "if_equals": (0, 1)},
        ),
        ("with f(x) as y:\n    pass\nz = 1 if f(x) else 2\n", {"with_as": (1, 1), "if_ternary": (0, 1)}),
        ("with open(p) as y:\n    pass\nwith lock:\n    pass\n", {"with_as": (1, 0), "with_open": (1, 1)}),
        ("for x in y:\n    pass\nwhile x < 3:\n    pass\nwhile x > 3:\n    pass\n", {"for_while": (1, 1)}),
        (
            "if x > 1:\n    f()\nelif x > 0:\n    f()\nelse:\n    f()\n",
            {"else_elif": (1, 1), "if_ternary": (1, 0)},
        ),
        ("if x:\n    f()\nelse:\n    if y:\n        f()\n", {"if_ternary": (2, 0)}),
        ("if a_b == 1:\n    a_b = 2\n", {"if_equals": (1, 1), "if_ternary": (1, 0)}),
        ('f(f"{x}")\nf(f"{x} a")\n', {"fstring_brace": (1, 0)}),
        ("f('{x')\nf('{}')\n", {"fstring_brace": (0, 1), "single_double_quote": (2, 0)}),
        ("a, b = b, a\na, b = a, b + 1\na, b = 1, 2\n", {"var_swap": (1, 1)}),
        ("x = 1\nprint(x)\nif x > 1:\n    f()\nif y:\n    f()\n", {"var_if": (1, 0), "if_ternary": (2, 0)}),
        ("for x in y:  # a\n    x = 1  # b\n# c\n", {"indent_for": (1, 1), "for_while": (1, 0), "if_equals": (0, 1)}),
        ("def f():\n    while True:\n        return True\n    return False\n", {"while_return_true": (1, 1)}),
        ("f = lambda a, b: a\ng = lambda a: a\n", {"lambda_func": (1, 0)}),
        (
            "def f(a, b):\n    pass\ndef g(a: int, b: int):\n    pass\ndef h(a, b=1):\n    pass\n",
            {"lambda_func": (0, 1)},
        ),
        (
            "for i, x in enumerate(y):\n    pass\nfor i in range(3):\n    pass\nfor a, b in y:\n    pass\n",
            {"enumerate_range": (1, 1), "for_while": (1, 0)},
        ),
        (
            "def f(a, b, c):\n    pass\nf(a=1, b=2, c=3)\nf(1, b=2, c=3)\nf(b=1, a=2, c=3)\n",
            {"final_kwarg": (1, 2), "lambda_func": (0, 1)},
        ),
        (
            "class A:\n    def __init__(self, a):\n        pass\nx = A(a=1)\n",
            {"final_kwarg": (1, 0), "class_init": (1, 0), "lambda_func": (0, 1)},
        ),
        ("def f():\n    def helper():\n        pass\n    def other():\n        pass\n", {"class_init": (0, 1)}),
        ("class A:\n    x = 1\n", {"if_equals": (0, 1)}),
    ],
)
def test_counts_by_hand(source: str, expected: dict[str, tuple[int, int]]) -> None:
    wanted = {(task, "AB"[k]): number for task, pair in expected.items() for k, number in enumerate(pair) if number}
    assert construct_counts(source) == Counter(wanted)


def test_shares_and_table() -> None:
    measured = shares(["x = [1]\n", "x = [[1]]\nx = [1]\n"])
    assert measured["bracket_counting", "A"] == 1 and measured["bracket_counting", "B"] == 0.5
    assert measured["class_init", "B"] == 0 and ("var_if", "B") not in measured
    table = frequency_table(["x = [1]\n"]).splitlines()
    assert len(table) == 2 + len(CONSTRUCTS) == 22
    assert "| bracket_counting | `x = [1, 2]` | 100.0% | `x = [[1, 2]]` | 0.0% |" in table


def test_what_cannot_be_counted() -> None:
    with pytest.raises(ValueError, match="no Python program"):
        construct_counts("x = [\n")
    with pytest.raises(ValueError, match="at least one program"):
        shares([])


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(islice(programs(SEED), COUNT))


def test_every_class_is_frequent_and_balanced(texts: list[str]) -> None:
    counts, measured = sum(map(construct_counts, texts), Counter[tuple[str, str]]()), shares(texts)
    assert min(measured.values()) >= 0.1
    # statements of the two classes of these are rare and common by nature
    for task in CONSTRUCTS.keys() - {"var_if", "if_equals", "for_while", "if_ternary", "bracket_brace", "lambda_func"}:
        assert 0.45 < counts[task, "A"] / counts[task, "B"] < 2.2, (task, counts[task, "A"], counts[task, "B"])


def test_the_document_shows_what_is_measured(texts: list[str]) -> None:
    table = frequency_table(texts)
    assert table in DOCUMENT.read_text("utf-8"), f"docs/corpus.md does not hold the measured table:\n{table}"
