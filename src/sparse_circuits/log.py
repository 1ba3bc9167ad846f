"""Progress and messages for people, passed as an argument; silent unless somebody listens.

Library functions take `progress: Progress = SILENT` and call it without asking whether anyone watches. The command line
passes a `TerminalProgress`, which draws on stderr, so stdout stays free for results and `--json`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Bar:
    """One running piece of work; the base class ignores everything it is told."""

    def update(self, done: int, **fields: object) -> None:
        """Says how many steps are done, with a few named figures to show beside the bar."""


class Progress:
    """Where messages and bars go; the base class is the null sink."""

    def say(self, message: str) -> None:
        """One line for a person."""

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Bar]:  # noqa: ARG002 (the null sink)
        """A bar of `total` steps for the length of the block."""
        yield Bar()


SILENT = Progress()


class TerminalProgress(Progress):
    """Draws on stderr with rich; plain lines where stderr is not a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, emoji=False)
        self.display: Any = None
        """The running display; a bar inside another bar joins it, since rich draws one at a time."""

    def say(self, message: str) -> None:
        self.console.print(message, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Bar]:
        if not self.console.is_terminal:
            yield _LineBar(self, name, total)
            return
        if self.display is not None:
            yield _RichBar(self.display, self.display.add_task(name, total=total, figures=""))
            return
        with self._new_display() as self.display:
            try:
                yield _RichBar(self.display, self.display.add_task(name, total=total, figures=""))
            finally:
                self.display = None

    def _new_display(self) -> Any:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        return RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )


class _RichBar(Bar):
    def __init__(self, display: Any, task: Any) -> None:
        self.display, self.task = display, task

    def update(self, done: int, **fields: object) -> None:
        self.display.update(self.task, completed=done, figures=_figures(fields))


class _LineBar(Bar):
    """Ten lines in all, for logs."""

    def __init__(self, progress: Progress, name: str, total: int) -> None:
        self.progress, self.name, self.total, self.shown = progress, name, total, 0

    def update(self, done: int, **fields: object) -> None:
        tenth = 10 * done // max(self.total, 1)
        if tenth > self.shown:
            self.shown = tenth
            self.progress.say(f"{self.name} {done}/{self.total} {_figures(fields)}".rstrip())


def _figures(fields: dict[str, object]) -> str:
    shown = ((name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in fields.items())
    return "  ".join(f"{name} {value}" for name, value in shown)
