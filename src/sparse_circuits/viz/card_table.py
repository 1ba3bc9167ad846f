"""The report card for a terminal: one line per question, then the verdict and its reasons.

`render_card` returns a rich renderable; `card_text` the same as plain text.
"""

import io

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparse_circuits.validate.card import ReportCard, Row
from sparse_circuits.validate.statistics import Estimate

WIDTH = 110
_OUTCOMES = {"pass": ("pass", "green"), "fail": ("FAIL", "bold red"), "not applicable": ("n/a", "dim")}


def card_text(card: ReportCard, *, width: int = WIDTH) -> str:
    """The card as plain text without colours or escapes."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(render_card(card))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def render_card(card: ReportCard) -> RenderableType:
    """The card."""
    return Group(_title(card), _table(card), _verdict(card))


def _title(card: ReportCard) -> Text:
    facts, settings = card.circuit, card.settings
    kind = "quick report card" if settings["quick"] else "report card"
    size = f"{facts['nodes']} of {facts['nodes_total']} nodes, {facts['edges']} edges"
    return Text(f"{facts['task']}: {size}; {kind} on {settings['pairs']} pairs of {settings['split']}\n")


def _table(card: ReportCard) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("")
    for name in ("value [95% interval]", "control", "needed"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in card.rows.values():
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> tuple[Text, ...]:
    word, style = _OUTCOMES[row.outcome]
    control = "" if row.control is None else _number(row.control.value)
    cells = (row.number, row.name, _interval(row.value), control, row.threshold)
    return (*map(Text, cells), Text(word, style))


def _interval(found: Estimate | None) -> str:
    return "" if found is None else f"{_number(found.value)} [{_number(found.low)}, {_number(found.high)}]"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 0.001 or value == 0 else f"{value:.0e}"


def _verdict(card: ReportCard) -> Text:
    text = Text.assemble("\nverdict: ", (card.verdict, "bold green" if card.passed else "bold red"))
    for reason in card.reasons:
        text.append(f"\n- {reason}")
    return text
