"""The measurements of a report card as rows: does the circuit compute what the model computes (F1-F5), alone and in its parts.

Each function measures one thing of a subject and returns its rows, every row beside its control. Random circuits have as many nodes
at every site as the circuit has. What cannot be measured is a row too, `not applicable` with the reason. The measurements of
parts, patches and partial ablations (F6-F9, F14) are in measure_inside.py; run.py puts all together.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from sparse_circuits.sites import Node
from sparse_circuits.validate.card import Row
from sparse_circuits.validate.faithfulness import (
    AgainstRandom,
    agreement,
    completeness,
    faithfulness,
    minimality,
    necessity,
    sufficiency,
)
from sparse_circuits.validate.statistics import Estimate
from sparse_circuits.validate.subject import Subject
from sparse_circuits.validate.thresholds import HALF, STANDARDS, Standard

RANDOM = "random circuits of the same size"
ONE_RANDOM = "a random circuit of the same size"
FEW_NODES = 16
"""Nodes of a random circuit that are ablated one by one."""
NO_NODES = "the circuit has no nodes"
ALONE = "there is no other choice of as many nodes at every site, so there is nothing to compare with"


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is drawn: more makes intervals narrower, and takes longer."""

    sets: int = 32
    """Random circuits that the circuit is compared with."""
    parts: int = 32
    """Parts of the circuit that are ablated in both."""
    orders: int = 16
    """Orders in which outside nodes are let back in."""
    alone: int = 32
    """Pairs on which nodes are binarised one by one."""
    control_share: int = 4
    """A control draws this many times less: it is far off, and its scale is all that is asked of it."""


FULL = Effort()
QUICK = Effort(sets=16, parts=12, orders=5, alone=8)


def row(
    name: str,
    value: Estimate,
    *,
    control: Estimate | None = None,
    control_name: str | None = None,
    standard: Standard | None = None,
    said: str = "",
    details: Mapping[str, Any] | None = None,
) -> Row:
    """A row that was measured. standard: where the circuit sets its own; said: what else belongs into the reason."""
    asked = standard or STANDARDS[name]
    passes = asked.holds(value.value)
    close = asked.holds(value.low) != passes or asked.holds(value.high) != passes
    reason = f"{asked.unit}: {number(value)}, needed {asked.text}"
    reason += f"; {control_name}: {number(control)}" if control is not None else ""
    reason += "; the interval reaches across the threshold" if close else ""
    return Row(
        name=name,
        number=asked.number,
        unit=asked.unit,
        value=value,
        control=control,
        control_name=None if control is None else control_name,
        threshold=asked.text,
        outcome="pass" if passes else "fail",
        reason=f"{reason}; {said}" if said else reason,
        details={**(details or {}), "close": close},
    )


def missing(name: str, why: str, standard: Standard | None = None) -> Row:
    """A row that cannot be measured."""
    asked = standard or STANDARDS[name]
    return Row(
        name=name,
        number=asked.number,
        unit=asked.unit,
        value=None,
        threshold=asked.text,
        outcome="not applicable",
        reason=why,
    )


def number(found: Estimate) -> str:
    """A value with its interval, for a sentence."""
    if found.low == found.high:
        return f"{found.value:.3g}"
    return f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}]"


def brief(found: Estimate | None) -> list[float] | None:
    """Value, low, high, for the details of a row."""
    return None if found is None else [found.value, found.low, found.high]


def names(nodes: tuple[Node, ...], most: int = 4) -> str:
    """The first of several nodes, for a sentence."""
    more = f" and {len(nodes) - most} more" if len(nodes) > most else ""
    return ", ".join(map(str, nodes[:most])) + more


def one_random(subject: Subject) -> Subject:
    """A random circuit in the circuit's place: the same for the same subject."""
    return subject.with_nodes(subject.layout.nodes(subject.random_masks(1, subject.seed + 1)[0]))


def agreement_rows(subject: Subject, effort: Effort) -> tuple[Row, ...]:  # noqa: ARG001 (the same for every measurement)
    """F1, beside the empty circuit."""
    found, empty = agreement(subject), agreement(subject.with_nodes(()))
    details = {name: brief(found_) for name, found_ in vars(found).items()}
    control = {"control_name": "the empty circuit", "details": details}
    return (
        row("agreement", found.kl_binary, control=empty.kl_binary, **control),
        row("same_choice", found.same_choice, control=empty.same_choice, **control),
    )


@torch.no_grad()
def faithfulness_rows(subject: Subject, effort: Effort) -> tuple[Row, ...]:
    """F2, beside the mean of random circuits."""
    found = faithfulness(subject)
    losses = {name: brief(getattr(found, name)) for name in ("model_loss", "circuit_loss", "empty_loss")}
    if found.faithfulness is None:
        told = f"{found.model_loss.value:.3g} nats, and the empty circuit {found.empty_loss.value:.3g}"
        return (missing("faithfulness", f"the model loses {told}: from there to the model leads no way to go"),)
    others = subject.losses(subject.random_masks(effort.sets, subject.seed), cut=0.0).double().mean(0)
    empty, model = subject.empty_losses(), subject.model_losses()
    return (
        row(
            "faithfulness",
            found.faithfulness,
            control=subject.resampling.ratio(empty - others, empty - model),
            control_name=f"{RANDOM}, mean of {effort.sets}",
            said="the circuit does better than the model" if found.better_than_model else "",
            details=losses,
        ),
    )


def sufficiency_rows(subject: Subject, effort: Effort) -> tuple[Row, ...]:
    """F3: the circuit's loss against its target, and against random circuits (F11's third control)."""
    found = sufficiency(subject, sets=effort.sets, seed=subject.seed)
    name, details = f"{RANDOM}, mean of {found.sets}", _against(found)
    target = subject.circuit.target_loss
    asked = STANDARDS["sufficiency"] if target is None else replace(STANDARDS["sufficiency"], high=target)
    if subject.circuit.target_on == "calibrated":
        enough = missing(
            "sufficiency", "the circuit's target is on its calibrated loss, and this is not calibrated", asked
        )
    else:
        enough = row(
            "sufficiency", found.value, control=found.random, control_name=name, standard=asked, details=details
        )
    if _no_choice(subject):
        return enough, missing("random_circuit", ALONE)
    said = f"{found.as_good} of them do as well"
    asked = replace(STANDARDS["random_circuit"], high=found.random.value - HALF)
    ahead = row("random_circuit", found.value, control=found.random, control_name=name, standard=asked, said=said)
    return enough, replace(ahead, details={**details, **ahead.details})


def necessity_rows(subject: Subject, effort: Effort) -> tuple[Row, ...]:
    """F3: the model without the circuit, beside the model without random nodes."""
    if _no_choice(subject):
        return (missing("necessity", ALONE),)
    found = necessity(subject, sets=effort.sets, seed=subject.seed)
    said = f"{found.as_good} of {found.sets} random sets are missed as much"
    control = {"control": found.random, "control_name": f"without {RANDOM}, mean of {found.sets}"}
    return (row("necessity", found.value, **control, said=said, details=_against(found)),)


def _no_choice(subject: Subject) -> bool:
    """Whether the circuit has all nodes, or none, of every site."""
    return all(float(part.mean()) in (0.0, 1.0) for part in subject.layout.split(subject.kept).values())


def _against(found: AgainstRandom) -> dict[str, Any]:
    return {"z": found.z, "sets": found.sets, "as_good": found.as_good, "random": brief(found.random)}


def completeness_rows(subject: Subject, effort: Effort) -> tuple[Row, ...]:
    """F4, beside a random circuit."""
    found = completeness(subject, parts=effort.parts, seed=subject.seed)
    if found.mean_gap is None or found.largest_gap is None:
        return (missing("completeness", NO_NODES),)
    few = max(2, effort.parts // effort.control_share)
    control = completeness(one_random(subject), parts=few, seed=subject.seed)
    largest = [str(node) for node in found.largest_part]
    return (
        row(
            "completeness",
            found.mean_gap,
            control=control.mean_gap,
            control_name=ONE_RANDOM,
            said=f"largest {found.largest_gap.value:.3g}, without {names(found.largest_part)}",
            details={"largest_gap": brief(found.largest_gap), "largest_part": largest, "parts": found.parts},
        ),
    )


def minimality_rows(subject: Subject, effort: Effort) -> tuple[Row, ...]:  # noqa: ARG001
    """F5, beside a random circuit."""
    found = minimality(subject)
    if found.idle_share is None:
        return (missing("minimality", NO_NODES),)
    effects = [[str(effect.node), *asdict(effect.effect).values()] for effect in found.effects]
    return (
        row(
            "minimality",
            found.idle_share,
            control=minimality(one_random(subject), most=FEW_NODES).idle_share,
            control_name=ONE_RANDOM,
            said=f"idle: {names(found.idle)}" if found.idle else "",
            details={"idle": [str(node) for node in found.idle], "effects": [effect[:4] for effect in effects]},
        ),
    )
