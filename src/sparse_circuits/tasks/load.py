"""One door to tasks: the built-in ones by name, own ones by the path of a JSONL file."""

from pathlib import Path

from .custom import read_task
from .python_tasks import BUILDERS
from .task import Task


def task_names() -> tuple[str, ...]:
    """The built-in tasks, in the order of METHOD 1e."""
    return tuple(BUILDERS)


def is_built_in(task: Task) -> bool:
    """Whether this is the built-in task of its name, not an own one that is only named like it."""
    return task.name in BUILDERS and BUILDERS[task.name]().hash == task.hash


def load_task(name_or_path: str | Path) -> Task:
    """A built-in task by name, or a task read from a `.jsonl` file. Raises ValueError, one line, on anything else."""
    name = str(name_or_path)
    if name in BUILDERS:
        return BUILDERS[name]()
    if name.endswith(".jsonl") or Path(name).is_file():
        return read_task(name)
    raise ValueError(f"unknown task {name!r}; allowed: {', '.join(task_names())}, or the path of a .jsonl task file")
