"""What the built-in tasks are made with: one call that gives a task the words its templates use and its shifted splits."""

from .shifts import shifts
from .task import SPLITS, Task, Template
from .words import FILLERS, FIXED, SHIFTED


def build_task(
    name: str,
    statement: str,
    determined_by: str,
    *,
    completions: tuple[str, str],
    train: tuple[Template, ...],
    val: tuple[Template, ...],
    test: tuple[Template, ...],
    shifted: tuple[str, ...] = tuple(SHIFTED),
) -> Task:
    """A built-in task. `shifted` names the shifts that leave its question as it is."""
    templates = {"train": train, "val": val, "test": test}
    used = {s for split in SPLITS for t in templates[split] for s in t.slots([*FILLERS, *FIXED]).values()}
    shown = shifts(test, completions, shifted, used)
    for shift in shown.values():
        used |= {source for t in shift.templates for source in t.slots([*FILLERS, *FIXED]).values()}
    return Task(
        name,
        statement,
        determined_by,
        completions,
        templates,
        {slot: words for slot, words in FILLERS.items() if slot in used},
        {slot: words for slot, words in FIXED.items() if slot in used},
        shown,
    )


def choices(text: str, a: str, b: str, after_a: str = "", after_b: str = "") -> Template:
    """A template whose prompts differ in one place: `@` in `text` stands for `a` or `b`."""
    return Template(text.replace("@", a), text.replace("@", b), after_a, after_b)
