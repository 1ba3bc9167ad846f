"""Small files in which every point is counted by hand, and a tokenizer that knows them and the standard library.

`CASES`: task -> (files, points); a point is (file, line, class, completion, wrong completion). Each file also holds
code that looks like the task and is not: what it must not be taken for stands in the comment beside it. Exactly one
pair can be made of each case.
"""

from functools import cache
from typing import Any, NamedTuple

from sparse_circuits.data.corpus import open_source
from sparse_circuits.data.source import split_place
from sparse_circuits.data.tokenizer import train_tokenizer
from sparse_circuits.tasks.mined import HELD_OUT

Expected = tuple[str, int, str, str, str]


class Case(NamedTuple):
    files: dict[str, str]
    points: tuple[Expected, ...]


def case(a: str, b: str, *points: Expected) -> Case:
    return Case({"a.py": a, "b.py": b}, points)


CASES = {
    "single_double_quote": case(
        "log('ready')\nx = 'no call'\nlog('no end', 1)\n",
        'log("ready")\nlog("""three""")\nlog(f"formatted")\nx = ("no call")\n',
        ("a.py", 1, "A", "')\n", '")\n'),
        ("b.py", 1, "B", '")\n', "')\n"),
    ),
    "bracket_counting": case(
        "x = [1, 2]\ny = f([1, 2])\n",
        "x = [[1, 2]]\ny = [[1], [2]\n].x\nz = ([1, 2]\n)\n",  # two open, one closed; a bracket of another kind is open
        ("a.py", 1, "A", "]\n", "]]\n"),
        ("b.py", 1, "B", "]]\n", "]\n"),
    ),
    "set_or_string": case(
        "seen = set()\nn = 1\nseen.add(n)\nn += 1\n",
        'seen = ""\nn = 1\nseen += "x"\n\n\ndef f(seen):\n    seen = set()\n    seen = []\n    seen.add(1)\n',
        ("a.py", 3, "A", ".add", " +="),
        ("b.py", 3, "B", " +=", ".add"),
    ),
    "set_or_string_fixedvarname": case(
        "current = set()\nseen = set()\ncurrent.add(1)\nseen.add(1)\n",
        'current = ""\nseen = ""\ncurrent += "x"\n',
        ("a.py", 3, "A", ".add", " +="),
        ("b.py", 3, "B", " +=", ".add"),
    ),
    "with_as": case(
        "with load(path) as file:\n    pass\nwith load(path):\n    pass\nwith lock as file:\n    pass\n",
        "y = 1 if load(path) else 2\ny = 1 if path else 2\n",
        ("a.py", 1, "A", " as", " else"),
        ("b.py", 1, "B", " else", " as"),
    ),
    "with_open": case(
        "def f(path):\n    with open(path) as file:\n        pass\n",
        "def f(lock):\n    with lock:\n        pass\n    with closing(lock):\n        pass\n",  # closing: not named before
        ("a.py", 2, "A", " open", " lock"),
        ("b.py", 2, "B", " lock", " open"),
    ),
    "for_while": case(
        "for n in items:\n    pass\nfor a, b in items:\n    pass\n",
        "while n < 3:\n    pass\nwhile n <= 3:\n    pass\nwhile f(n) < 3:\n    pass\n",
        ("a.py", 1, "A", " in", " <"),
        ("b.py", 1, "B", " <", " in"),
    ),
    "else_elif": case(
        "if flag:\n    x = 1\nelse:\n    x = 2\nif n == -1:\n    x = 1\nelse:\n    x = 2\n",  # the second breaks the rule
        "if n == 1:\n    x = 1\nelif n == 2:\n    x = 2\nelse:\n    x = 3\nfor x in y:\n    pass\nelse:\n    x = 1\n",
        ("a.py", 3, "A", "else", "elif"),
        ("b.py", 3, "B", "elif", "else"),
        ("b.py", 5, "A", "else", "elif"),
    ),
    "if_ternary": case(
        "if ready:\n    x = 1\nwhile ready:\n    x = 1\nif ready: x = 2\n",
        "y = 1 if ready else 2\nz = [y for y in x if ready]\n",
        ("a.py", 1, "A", ":\n", " else"),
        ("b.py", 1, "B", " else", ":\n"),
    ),
    "if_equals": case(
        "if a:\n    if count == 3:\n        x += 1\n    if count > 3:\n        x += 1\n",
        "if a:\n    count = 3\nx[0] = 1\n",
        ("a.py", 2, "A", " ==", " ="),
        ("b.py", 2, "B", " =", " =="),
    ),
    "fstring_brace": case(
        'print(f"{name}")\nprint(f"{{name}}")\nprint(f"{name} ")\n',
        'print("{name")\nx = "{name"\n',
        ("a.py", 1, "A", '}")\n', '")\n'),
        ("b.py", 1, "B", '")\n', '}")\n'),
    ),
    "bracket_brace": case(
        "x = [1, 2]\ny = [{1: 2}]\n",
        "x = {1, 2}\ny = f({1: 2})\n",
        ("a.py", 1, "A", "]\n", "}\n"),
        ("b.py", 1, "B", "}\n", "]\n"),
    ),
    "var_swap": case(
        "a, b = b, a\na, b = 1, a\na, b = b, b\n",
        "a, b = a, b + 1\na, b, c = b, c, a\n",
        ("a.py", 1, "A", " a", " b"),
        ("b.py", 1, "B", " b", " a"),
    ),
    "var_if": case(
        "def f(y):\n    x = 1\n    if x:\n        pass\n    if y:\n        pass\n",  # y is no variable bound just above
        "def f(x):\n    y = 1\n    if y > 2:\n        pass\n",
        ("a.py", 3, "A", " x", " y"),
        ("b.py", 3, "B", " y", " x"),
    ),
    "indent_for": case(
        "for x in items:  # each one\n    print(x)\nif x:\n    # no comment of the header\n    x = 1\n",
        "x = items  # each one\nprint(x)\nif x:\n    x = 1  # and then\nelse:\n    x = 2\n",  # `else` decides on its own
        ("a.py", 2, "A", "   ", "print"),
        ("b.py", 2, "B", "print", "   "),
    ),
    "while_return_true": case(
        "while True:\n    pass\nwhile True or x:\n    pass\n",
        "def f():\n    return True\ndef g():\n    return True, x\n",
        ("a.py", 1, "A", ":\n", "\n"),
        ("b.py", 2, "B", "\n", ":\n"),
    ),
    "lambda_func": case(
        "f = lambda a, b: a\ng = lambda: 1\n",
        "def f(a, b):\n    return a\ndef g(a, b) -> int:\n    return a\n",
        ("a.py", 1, "A", ":", "):\n"),
        ("b.py", 1, "B", "):\n", ":"),
    ),
    "enumerate_range": case(
        "for i, x in enumerate(items):\n    pass\nfor i, x in items:\n    pass\n",
        "for i in range(3):\n    pass\nfor i in ranges:\n    pass\n",
        ("a.py", 1, "A", " enumerate", " range"),
        ("b.py", 1, "B", " range", " enumerate"),
    ),
    "final_kwarg": case(
        "def f(a, b):\n    return a\nf(a=1, b=2)\ng(a=1, b=2)\n",
        "def f(a, b, c):\n    return a\nf(a=3, b=2, c=4)\nf(a=1)\nf(a=1, c=2)\n",  # the last two are not all it takes
        ("a.py", 3, "B", ",", ")\n"),
        ("a.py", 3, "A", ")\n", ","),
        ("b.py", 3, "B", ",", ")\n"),
        ("b.py", 3, "B", ",", ")\n"),
        ("b.py", 3, "A", ")\n", ","),
    ),
    "class_init": case(
        "class A:\n    x = 1\n    def __init__(self):\n        pass\n    def __str__(self):\n        pass\n",
        "def run(x):\n    def helper():\n        pass\nclass B:\n    def go(self):\n        pass\n",
        ("a.py", 3, "A", " __", " helper"),
        ("b.py", 2, "B", " helper", " __"),
    ),
}


@cache
def mining_tokenizer() -> Any:
    """Of the files that are mined, with every word of the cases a token of its own."""
    library = [d.text for d in open_source("python-env:4MB").documents() if split_place(d.split_key) < HELD_OUT]
    cases = [text for known in CASES.values() for text in known.files.values()]
    return train_tokenizer([*library, *(cases * 300), "x = [[1, 2]]\nprint(f'{name}')\n" * 1000], 3000)
