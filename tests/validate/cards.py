"""Report cards for tests: of a subject, and made-up ones with any outcome and no measurement behind them."""

import math
from typing import Any

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.validate.card import Outcome, ReportCard, Row, circuit_facts
from sparse_circuits.validate.run import MORE_MEASURES, QUICK_MEASURES, ROWS, validate
from sparse_circuits.validate.statistics import Estimate
from sparse_circuits.validate.subject import Subject
from sparse_circuits.validate.thresholds import STANDARDS
from sparse_circuits.validate.verdict import judge


def card(subject: Subject, **settings: Any) -> ReportCard:
    settings = {"quick": True, "n": subject.pairs.n, **settings}
    return validate(subject.circuit, subject.model, subject.task, tokenizer=subject.tokenizer, **settings)


def failed(found: ReportCard) -> set[str]:
    return {name for name, row in found.rows.items() if row.outcome == "fail"}


GATES = {"nonsense": ("selectivity",), "random_init": ("redrawn", "shuffled")}


def row_of(name: str, outcome: Outcome = "pass", **changes) -> Row:
    measured = outcome != "not applicable"
    found = Estimate(value=0.125, low=0.1, high=1 / 3, n=6) if measured else None
    fields = {
        "number": STANDARDS[name].number if name in STANDARDS else "F10",
        "unit": "nats",
        "value": found,
        "control": found,
        "control_name": "chance" if measured else None,
        "threshold": "at most 0.2",
        "reason": f"made up for {name}",
    }
    return Row(name=name, outcome=outcome, **{**fields, **changes})


def rows_of(quick: bool = False, gates: bool = True, **outcomes: Outcome | None) -> tuple[dict, dict]:
    """Rows and parts of a card where all passes, but for the outcomes given (None: not measured)."""
    parts = {part: ROWS[part] for part in (QUICK_MEASURES if quick else {**QUICK_MEASURES, **MORE_MEASURES})}
    parts |= GATES if gates else {}
    parts = {part: tuple(n for n in names if outcomes.get(n, "pass") is not None) for part, names in parts.items()}
    return {n: row_of(n, outcomes.get(n, "pass")) for names in parts.values() for n in names}, parts


def card_of(circuit: Circuit, **given) -> ReportCard:
    """A card of this circuit; arguments as of `rows_of`."""
    rows, parts = rows_of(**given)
    rows["agreement"] = row_of("agreement", rows["agreement"].outcome, details={"a": math.inf, "b": [1, {"c": (2.5,)}]})
    verdict = judge(rows, parts)
    return ReportCard(
        verdict=verdict.word,
        reasons=verdict.reasons,
        circuit=circuit_facts(circuit),
        settings={"quick": given.get("quick", False), "pairs": 6, "split": "test", "seed": 0, "controls": ["nonsense"]},
        rows=rows,
        parts=parts,
        seconds=dict.fromkeys(parts, 0.5),
    )
