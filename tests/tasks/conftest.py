"""A small tokenizer that knows the built-in tasks, and a small task that every test may break in its own way."""

from collections.abc import Callable
from typing import Any

import pytest

from sparse_circuits.data.tokenizer import train_tokenizer
from sparse_circuits.tasks.load import load_task, task_names
from sparse_circuits.tasks.task import Task, Template


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    tasks = [load_task(name) for name in task_names()]
    texts = [
        text
        for task in tasks
        for split in task.splits
        for p in task.sample(split, 150)
        for text in (
            p.prompt_a + p.completion_a + p.continuation_a,
            p.prompt_b + p.completion_b + p.continuation_b,
        )
    ]
    return train_tokenizer([*texts, "x = {1, 2}\ny = [1, 2]\n" * 400], 1200)


def closing(before: str) -> Template:
    return Template(f"{before}[1, 2", f"{before}[[1, 2", "x = 1\n", "x = 1\n")


@pytest.fixture
def make() -> Callable[..., Task]:
    """Builds a well-posed task with some fields replaced."""

    def build(**changes: Any) -> Task:
        values: dict[str, Any] = {
            "name": "closing",
            "statement": "Close the list.",
            "determined_by": "the open brackets",
            "completions": ("]\n", "]]\n"),
            "templates": {
                "train": (closing("<name> = "), closing("<name> = 1\n<name2> = "), closing("<name> += ")),
                "val": (closing("if <name>:\n    x = "), closing("x = <name>\ny = "), closing("<name> = x = ")),
                "test": (closing("y = <name>\nx = "), closing("<name>.x = "), closing("for <name> in ")),
            },
            "fillers": {"name": {"train": ("item", "value", "key"), "val": ("city", "town"), "test": ("gate", "trip")}},
        }
        return Task(**{**values, **changes})

    return build
