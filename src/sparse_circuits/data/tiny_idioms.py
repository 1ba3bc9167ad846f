"""Functions and classes that everybody writes: add, is_even, read_file, Point, BankAccount ...

The frames of `tiny_frames` are lines of source with alternatives for every name. At import each frame is written out
some thirty times with different names, quote styles and comments, so that drawing one costs what drawing a word costs.
"""

from collections.abc import Callable
from random import Random

from .tiny_frames import CLASSES, FUNCTIONS
from .tiny_phrases import COMMENTS, DOCS
from .tiny_scope import Function
from .tiny_vocabulary import ANY, BOOL, DICT, FLOAT, GRID, INT, INTS, LOCK, NUMS, OBJ, PATH, SET, STR, STRS, words

_SEED = 22
KINDS = {
    "i": INT,
    "s": STR,
    "I": INTS,
    "S": STRS,
    "b": BOOL,
    "f": FLOAT,
    "u": SET,
    "n": NUMS,
    "d": DICT,
    "p": PATH,
    "g": GRID,
    "L": LOCK,
    "O": OBJ,
    "A": ANY,
    "-": None,
}
Written = tuple[tuple[str, ...], Function, tuple[Function, ...]]
"""Lines, the function or class as it is called, and the methods of a class."""


def _parameters(rng: Random, texts: list[str]) -> tuple[tuple[str, int], ...]:
    """(name, kind) of each `alternatives:kind`."""
    params = []
    for text in texts:
        names, kind = text.split(":")
        found = KINDS[kind]
        assert found is not None
        params.append((rng.choice(names.split("|")), found))
    return tuple(params)


def restyled(rng: Random, lines: list[str], documented: bool = True) -> tuple[str, ...]:
    """With the other quotes half of the time, and now and then a docstring or a comment."""
    if rng.random() < 0.5:
        lines = [line.replace('"', "'") for line in lines]
    draw = rng.random()
    if draw < 0.1 and documented:
        lines.insert(1, f'    """{rng.choice(DOCS)}."""')
    elif draw < 0.2:
        place = rng.choice([k for k, line in enumerate(lines) if line])
        lines[place] += f"  # {rng.choice(COMMENTS)}"
    elif draw < 0.25 and documented:
        lines.insert(1, f"    # {rng.choice(COMMENTS)}")
    return tuple(lines)


def _function(rng: Random, frame: list[str]) -> Written:
    kind, names, *texts = frame[0].split(" ")
    params, name = _parameters(rng, texts), rng.choice(names.split("|"))
    taken = {param for param, _ in params}
    free = {
        "r": [word for word in words("result total count best answer output r res value") if word not in taken],
        "e": [word for word in words("x item value word num element entry n") if word not in taken],
        "i": [word for word in words("i i i j index k") if word not in taken],
    }
    slots = {"r": rng.choice(free["r"])}
    slots["e"] = rng.choice([word for word in free["e"] if word != slots["r"]])
    slots["i"] = rng.choice(free["i"])
    lines = [f"def {name}({', '.join(param for param, _ in params)}):"]
    lines += [line.format(*(param for param, _ in params), name=name, **slots) for line in frame[1:]]
    return restyled(rng, lines), Function(name, params, KINDS[kind]), ()


def _class(rng: Random, frame: list[str]) -> Written:
    names, *texts = frame[0].split(" ")
    params, name, blank = _parameters(rng, texts), rng.choice(names.split("|")), rng.random() < 0.7
    attributes = [param for param, _ in params]
    lines = [f"class {name}:", f"    def __init__({', '.join(['self', *attributes])}):"]
    lines += [f"        self.{attribute} = {attribute}" for attribute in attributes]
    methods = []
    for row in rng.sample(frame[1:], rng.randint(1, len(frame) - 1)):
        head, body = row.strip().split(" | ", 1)
        alternatives, kind, *texts = head.split(" ")
        inner = _parameters(rng, texts)
        slots = {f"m{place}": param for place, (param, _) in enumerate(inner)}
        method = Function(rng.choice(alternatives.split("|")), inner, KINDS[kind])
        lines += [""] * blank + [f"    def {method.name}({', '.join(['self', *(param for param, _ in inner)])}):"]
        lines += [f"        {part}" for part in body.format(*attributes, **slots).replace(";    ", "; \t").split("; ")]
        methods.append(method)
    lines = [line.replace("\t", "    ") for line in lines]
    return restyled(rng, lines), Function(name, params, None), tuple(methods)


def split_frames(text: str, starts: Callable[[str], bool]) -> list[list[str]]:
    """The frames of a text: each goes from a line that `starts` one to the next."""
    frames: list[list[str]] = []
    for line in text.strip("\n").split("\n"):
        if line and starts(line):
            frames.append([])
        frames[-1].append(line)
    return frames


def _at_margin(line: str) -> bool:
    return line[0] != " "


def _written(rng: Random, size: int) -> tuple[list[Written], list[Written]]:
    functions, classes = split_frames(FUNCTIONS, _at_margin), split_frames(CLASSES, _at_margin)
    return (
        [_function(rng, functions[place % len(functions)]) for place in range(size)],
        [_class(rng, classes[place % len(classes)]) for place in range(size // 2)],
    )


KNOWN_FUNCTIONS, KNOWN_CLASSES = map(tuple, _written(Random(_SEED), 2048))
