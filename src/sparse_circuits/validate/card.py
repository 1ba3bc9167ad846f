"""The report card of a circuit: what was measured, beside which control, against which threshold, and the verdict in words.

1. A `Row` is one question of METHOD section 3 (F1-F15) answered: value with interval, control with interval, threshold,
outcome, and the reason in a sentence. 2. A `ReportCard` is all rows, the verdict that follows from them (verdict.py) and what it
rests on: which circuit, which settings.

Rows are written as soon as they are measured (card_folder.py), so a card that was interrupted goes on where it stopped.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.files import check_format, json_hash, tensors_hash
from sparse_circuits.json_values import plain
from sparse_circuits.validate.statistics import Estimate

Outcome = Literal["pass", "fail", "not applicable"]
Word = Literal["trustworthy", "faithful", "unproven", "unfaithful"]
"""Verdicts; verdict.py says when each is given."""
KIND, FORMAT_VERSION = "report_card", 1


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
            "details": plain(self.details),
        }

    @classmethod
    def from_dict(cls, name: str, stored: Mapping[str, Any]) -> "Row":
        """What `to_dict` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        if stored["outcome"] not in get_args(Outcome):
            raise ValueError(f"{name} has the outcome {stored['outcome']!r}; allowed: {', '.join(get_args(Outcome))}")
        same = ("number", "unit", "control_name", "threshold", "outcome", "reason", "details")
        return cls(
            name=name,
            value=_read("value", "interval", stored),
            control=_read("control", "control_interval", stored),
            **{key: stored[key] for key in same},
        )


def _estimate(name: str, interval: str, found: Estimate | None) -> dict[str, Any]:
    if found is None:
        return {name: None, interval: None, f"{name}_n": None}
    return {name: found.value, interval: [found.low, found.high], f"{name}_n": found.n}


def _read(name: str, interval: str, stored: Mapping[str, Any]) -> Estimate | None:
    if stored[name] is None:
        return None
    low, high = stored[interval]
    return Estimate(value=float(stored[name]), low=float(low), high=float(high), n=int(stored[f"{name}_n"]))


@dataclass(frozen=True, kw_only=True)
class ReportCard:
    """All of it."""

    verdict: Word
    reasons: tuple[str, ...]
    """What decided the verdict, the gravest first; empty where everything passed."""
    circuit: Mapping[str, Any]
    """Which circuit: `circuit_facts`."""
    settings: Mapping[str, Any]
    """How it was measured: `quick`, `pairs` per split, `split`, `seed`, `controls` (those that were run)."""
    rows: Mapping[str, Row]
    """Name -> row, in the order of the card."""
    parts: Mapping[str, tuple[str, ...]]
    """Measurement or control -> its rows: some answer more than one question."""
    seconds: Mapping[str, float]
    """Measurement or control -> how long it took."""

    @property
    def passed(self) -> bool:
        """Whether the verdict is one that lets the circuit be used: `trustworthy` or `faithful`."""
        return self.verdict in ("trustworthy", "faithful")

    def to_dict(self) -> dict[str, Any]:
        """What `validate --json` prints and card.json holds."""
        return {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "verdict": self.verdict,
            "passed": self.passed,
            "reasons": list(self.reasons),
            "circuit": plain(self.circuit),
            "settings": plain(self.settings),
            "metrics": {name: row.to_dict() for name, row in self.rows.items()},
            "parts": plain(self.parts),
            "seconds": plain(self.seconds),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], where: str = "the card") -> "ReportCard":
        """What `to_dict` wrote. Raises ValueError, one line, if it is damaged or of another kind or version."""
        check_format(stored, KIND, FORMAT_VERSION, where)
        try:
            if stored["verdict"] not in get_args(Word):
                raise ValueError(f"unknown verdict {stored['verdict']!r}, allowed: {', '.join(get_args(Word))}")
            return cls(
                verdict=stored["verdict"],
                reasons=tuple(stored["reasons"]),
                circuit=dict(stored["circuit"]),
                settings=dict(stored["settings"]),
                rows={name: Row.from_dict(name, row) for name, row in stored["metrics"].items()},
                parts={part: tuple(names) for part, names in stored["parts"].items()},
                seconds={part: float(seconds) for part, seconds in stored["seconds"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{where} is damaged ({type(error).__name__}: {error}); validate again") from None


def circuit_hash(circuit: Circuit) -> str:
    """sha256 over what is examined: nodes, cut edges, ablation values, loss, and the hashes of model, task and tokenizer."""
    origins = (circuit.model, circuit.task_origin, circuit.tokenizer)
    return json_hash(
        {
            "nodes": [str(node) for node in circuit.nodes],
            "cut_edges": [[str(edge.source), str(edge.target)] for edge in circuit.cut_edges],
            "values": None if circuit.values is None else tensors_hash(circuit.values),
            "loss_kind": circuit.loss_kind,
            "origins": [origin.hash for origin in origins],
        }
    )


def circuit_facts(circuit: Circuit) -> dict[str, Any]:
    """What a card says of its circuit: its hash, those of model, task and tokenizer, and the key figures it came with."""
    summary = circuit.summary()
    origins = {"model": circuit.model, "task_origin": circuit.task_origin, "tokenizer": circuit.tokenizer}
    names = ("nodes", "nodes_total", "edges", "cut_edges", "edges_embed", "edges_unembed", "edges_bias")
    told = (
        "target_loss",
        "target_on",
        "met_target",
        "loss",
        "model_loss",
        "empty_loss",
        "loss_kind",
        "ablation",
        "seed",
    )
    return {
        "task": circuit.task,
        "hash": circuit_hash(circuit),
        **{name: {"where": origin.where, "hash": origin.hash} for name, origin in origins.items()},
        **{name: summary[name] for name in (*names, *told)},
    }
