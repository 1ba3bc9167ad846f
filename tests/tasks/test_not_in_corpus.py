"""No task template is copied into the corpus that models learn the tasks from.

Names, numbers and strings are masked in templates and in programs, then n-grams are compared: the whole of every template of
three or more lines, or of 20 lexemes (two short lines are idioms that all code shares). Natural code meets some of them now and
then; a template that stood in the grammar as a production would be in every twentieth program, since a program draws about a
dozen of some 250 slots.
"""

import io
import keyword
import tokenize
from itertools import islice

import pytest

from sparse_circuits.data.tiny_python import programs
from sparse_circuits.tasks.load import load_task, task_names

PROGRAMS = 4000
FREE = {"print", "range", "len", "append", "set", "open", "input", "enumerate", "add", "self", "Lock", "threading"}


def masked(text: str) -> list[str]:
    """Lexemes; names, numbers, strings and the depth of indentation do not count. Reads as far as the text goes."""
    found = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME:
                found.append(token.string if keyword.iskeyword(token.string) or token.string in FREE else "NAME")
            elif token.type == tokenize.NUMBER:
                found.append("1")
            elif token.type == tokenize.STRING:
                found.append("''")
            elif token.type in (tokenize.NEWLINE, tokenize.OP, tokenize.INDENT, tokenize.DEDENT):
                found.append(
                    {tokenize.INDENT: ">", tokenize.DEDENT: "<"}.get(token.type, token.string.strip(" ") or "\n")
                )
    except (tokenize.TokenError, IndentationError):
        pass
    return found


def line(lexemes: list[str]) -> str:
    return " " + " ".join(lexemes).replace("\n", "\\n") + " "


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return [line(masked(text)) for text in islice(programs(0), PROGRAMS)]


@pytest.mark.parametrize("name", task_names())
def test_templates_are_not_productions_of_the_grammar(name, corpus):
    task = load_task(name)
    for split in ("train", "val", "test"):
        drawn = {pair.template: pair for pair in task.sample(split, 40)}
        for index, pair in drawn.items():
            lexemes = masked(pair.prompt_a + pair.completion_a + pair.continuation_a)
            while lexemes and lexemes[-1] in ("<", "\n", ""):
                lexemes.pop()
            if lexemes.count("\n") < 2 and len(lexemes) < 20:
                continue
            found = sum(line(lexemes) in text for text in corpus)
            assert found < PROGRAMS / 100, (split, index, found, pair.prompt_a)


def test_the_measure_sees_a_copy(corpus):
    """A program of the corpus, cut in the middle, is found again; and so is one with other names."""
    text = next(islice(programs(0), 17, None))
    assert line(masked(text)[:12])[:-1] in corpus[17]
    assert masked("value = 3\nprint(value)\n") == masked("x = 40\nprint(x)\n") != masked("x = 40\nprint(x, x)\n")
