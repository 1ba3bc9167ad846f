"""The report card of a circuit: what was measured, beside which control, against which threshold, and the verdict in words.

1. A `Row` is one question of METHOD section 3 (F1-F15) answered: value with interval, control with interval, threshold,
outcome, and the reason in a sentence. 2. A `ReportCard` is all rows, the verdict that follows from them and what it rests on.

Rows are written as soon as they are measured (validate.run), so a card that was interrupted goes on where it stopped.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sparse_circuits.validate.statistics import Estimate

Outcome = Literal["pass", "fail", "not applicable"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question answered."""

    name: str
    """As in docs/validation.md, e.g. `agreement`."""
    number: str
    """Its number in the method, e.g. `F1`."""
    unit: str
    """What the value is and in which unit."""
    value: Estimate | None
    """None where it cannot be measured; the reason says why."""
    control: Estimate | None = None
    """The same quantity of what the circuit is compared with."""
    control_name: str | None = None
    """What that is, e.g. `random circuits of the same size`."""
    threshold: str
    """What passes, e.g. `at most 0.1`."""
    outcome: Outcome
    reason: str
    """The outcome in a sentence, with the figures that decided it."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else was measured; JSON values."""

    def to_dict(self) -> dict[str, Any]:
        """As the `metrics` of a card's JSON."""
        return {
            "number": self.number,
            "unit": self.unit,
            **_estimate("value", "interval", self.value),
            **_estimate("control", "control_interval", self.control),
            "control_name": self.control_name,
            "threshold": self.threshold,
            "outcome": self.outcome,
            "pass": {"pass": True, "fail": False, "not applicable": None}[self.outcome],
            "reason": self.reason,
            "details": dict(self.details),
        }


def _estimate(name: str, interval: str, found: Estimate | None) -> dict[str, Any]:
    if found is None:
        return {name: None, interval: None, f"{name}_n": None}
    return {name: found.value, interval: [found.low, found.high], f"{name}_n": found.n}
