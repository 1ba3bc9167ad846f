"""Shifted splits made from a task's test templates: the same question, asked out of distribution (METHOD F14).

- `longer`: an unrelated beginning of about forty tokens stands before the prompt; it binds no variable, opens nothing, and
  has neither branch nor loop, so it cannot change the answer of any task.
- `deeper`: the prompt stands in a loop in a function, eight spaces further in. A prompt that ends at a line start goes on to
  its new indentation, and its completions lose their line start.
- `names`, `fillers`: the test templates with other words (words.SHIFTED).
"""

from collections.abc import Iterable
from dataclasses import replace

from .task import Shift, Template
from .words import SHIFTED

_BEGINNING = (
    "import tools\n\n\ndef <call8>(<name8>):\n    print(<name8>)\n    return <name8>\n\n\nprint('<word8>', <number8>)\n"
)
_NEST = "def <call9>(<name9>):\n    for <counter9> in range(<name9>):\n"
_PAD = " " * 8


def shifts(
    templates: tuple[Template, ...], completions: tuple[str, str], names: Iterable[str], used: Iterable[str]
) -> dict[str, Shift]:
    """The shifted splits of these names, for templates whose completions are `completions` where they have none of their own.

    `used`: the lists the task draws from; other lists get no words.
    """
    made, lists = {}, set(used)
    for name in names:
        shown = tuple(_REWRITES[name](template, template.completions or completions) for template in templates)
        made[name] = Shift(shown, {of: words for of, words in SHIFTED[name].items() if of in lists})
    return made


def _longer(template: Template, _: tuple[str, str]) -> Template:
    return replace(template, a=_BEGINNING + template.a, b=_BEGINNING + template.b)


def _deeper(template: Template, completions: tuple[str, str]) -> Template:
    """What follows is indented too; at a line start all of the indentation but the space of the next token is in the prompt."""
    a, b = (_NEST + _indented(text) for text in (template.a, template.b))
    after_a, after_b = (
        _indented(text) if completion.endswith("\n") else _indented(text).removeprefix(_PAD)
        for completion, text in zip(completions, (template.continuation_a, template.continuation_b), strict=True)
    )
    if a.endswith("\n"):
        a, b = a + _PAD[:-1], b + _PAD[:-1]
        return Template(a, b, after_a, after_b, (" " + completions[0], " " + completions[1]))
    return Template(a, b, after_a, after_b, template.completions)


def _indented(text: str) -> str:
    return "\n".join(_PAD + line if line else line for line in text.split("\n"))


def _same(template: Template, _: tuple[str, str]) -> Template:
    return template


_REWRITES = {"longer": _longer, "deeper": _deeper, "names": _same, "fillers": _same}
