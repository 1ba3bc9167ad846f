"""Progress: the null sink is silent, the terminal one draws on stderr only and never reads text as markup."""

import io

import pytest
from rich.console import Console

from sparse_circuits.log import SILENT, TerminalProgress


def work(progress: object, name: str = "training", total: int = 40) -> None:
    progress.say("starting [bold]2.mlp.post_act[37] :smile:")
    with progress.bar(name, total) as bar:
        for done in range(1, total + 1):
            bar.update(done, loss=0.123456, note="[red]x", steps=done)


def test_silent_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    work(SILENT)
    assert capfd.readouterr() == ("", "")


def test_plain_lines_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    work(TerminalProgress())
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "starting [bold]2.mlp.post_act[37] :smile:"
    assert lines[1] == "training 4/40 loss 0.1235  note [red]x  steps 4"
    assert len(lines) == 11
    assert lines[-1].startswith("training 40/40")


@pytest.mark.parametrize(("total", "lines"), [(1, 1), (3, 3), (25, 10), (0, 0)])
def test_at_most_ten_lines_a_bar(capfd: pytest.CaptureFixture[str], total: int, lines: int) -> None:
    with TerminalProgress().bar("work", total) as bar:
        for done in range(1, total + 1):
            bar.update(done)
    assert len(capfd.readouterr().err.splitlines()) == lines


def terminal() -> tuple[TerminalProgress, io.StringIO]:
    progress, drawn = TerminalProgress(), io.StringIO()
    progress.console = Console(file=drawn, force_terminal=True, width=120, highlight=False, emoji=False)
    return progress, drawn


def test_bars_on_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    progress, drawn = terminal()
    work(progress, name="pruning [dim]x")
    assert "pruning [dim]x" in drawn.getvalue()
    assert "40/40" in drawn.getvalue()
    assert "loss 0.1235  note [red]x  steps 40" in drawn.getvalue()
    assert ":smile:" in drawn.getvalue()
    assert capfd.readouterr().out == ""


def test_a_bar_inside_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """One display draws both: older versions of rich refuse a second."""
    progress, drawn = terminal()
    make, displays = progress._new_display, []
    monkeypatch.setattr(progress, "_new_display", lambda: displays.append(make()) or displays[-1])
    with progress.bar("outer", 2) as outer:
        for done in (1, 2):
            work(progress, name="inner", total=3)
            outer.update(done)
    assert "outer" in drawn.getvalue()
    assert "inner" in drawn.getvalue()
    assert len(displays) == 1
    with pytest.raises(RuntimeError, match="stop"), progress.bar("again", 1):
        raise RuntimeError("stop")
    work(progress, name="after a failure")
    assert "after a failure" in drawn.getvalue()
