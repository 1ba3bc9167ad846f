"""The report card in the view document: what the page shows of it, as typed plain values."""

from sparse_circuits.config import Config
from sparse_circuits.validate.card import Outcome, ReportCard, Row, Word
from sparse_circuits.validate.statistics import Estimate

Interval = tuple[float, float, float]
"""Value, lower end, upper end."""


class CardRow(Config):
    """One line: a question, its answer, and what decided it."""

    name: str
    number: str
    """In the method."""
    unit: str
    value: Interval | None
    control: Interval | None
    control_name: str | None
    threshold: str
    outcome: Outcome
    reason: str


class CardView(Config):
    """Verdict and lines."""

    verdict: Word
    passed: bool
    reasons: tuple[str, ...]
    quick: bool
    pairs: int
    split: str
    controls: tuple[str, ...]
    """Those that were run."""
    seconds: float
    rows: tuple[CardRow, ...]


def card_view(card: ReportCard) -> CardView:
    """The card without details."""
    return CardView(
        verdict=card.verdict,
        passed=card.passed,
        reasons=card.reasons,
        quick=bool(card.settings["quick"]),
        pairs=int(card.settings["pairs"]),
        split=str(card.settings["split"]),
        controls=tuple(card.settings["controls"]),
        seconds=sum(card.seconds.values()),
        rows=tuple(_row(row) for row in card.rows.values()),
    )


def _row(row: Row) -> CardRow:
    same = ("name", "number", "unit", "control_name", "threshold", "outcome", "reason")
    return CardRow(
        value=_interval(row.value), control=_interval(row.control), **{name: getattr(row, name) for name in same}
    )


def _interval(found: Estimate | None) -> Interval | None:
    return None if found is None else (found.value, found.low, found.high)
