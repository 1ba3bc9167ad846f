"""The measurements of a report card as rows, second half: what happens inside the circuit and around it (F6-F9, F14, 1h).

Nodes and heads against the model's (F6, F7), nodes with two levels only (1h), values exchanged between circuit and model or taken
from other prompts (F8), partial and adversarial ablation of what is outside (F9), shifted splits and real code (F14). As in
measure.py every row has its control.
"""

from dataclasses import replace

from sparse_circuits.circuit.evaluate import usable_tokens
from sparse_circuits.model.folder import stored_val_threshold
from sparse_circuits.tasks.load import is_built_in
from sparse_circuits.tasks.mined import mine_task, mined_share
from sparse_circuits.validate.binarise import binarisation
from sparse_circuits.validate.card import Row
from sparse_circuits.validate.faithfulness import faithfulness
from sparse_circuits.validate.interchange import interchange, interchange_accuracy, resample_ablation
from sparse_circuits.validate.measure import (
    NO_NODES,
    ONE_RANDOM,
    Effort,
    brief,
    missing,
    names,
    number,
    one_random,
    row,
)
from sparse_circuits.validate.robustness import (
    STEPS,
    ShiftedScore,
    adversarial_ablation,
    scored,
    shifted_splits,
    stochastic_ablation,
)
from sparse_circuits.validate.roles import HeadDivergence, attention_divergence, node_roles
from sparse_circuits.validate.statistics import Estimate
from sparse_circuits.validate.subject import Subject

ADVERSARY_SHARE = 4
"""Steps of the ascent against the control are this many times fewer."""


def role_rows(subject: Subject, effort: Effort) -> tuple[Row, ...]:  # noqa: ARG001 (the same for every measurement)
    """F6, beside a random circuit."""
    found = node_roles(subject)
    if found.repurposed_share is None:
        return (missing("roles", "no node varies both in the model and in the circuit" if found.nodes else NO_NODES),)
    said = [f"repurposed: {names(found.repurposed)}" if found.repurposed else ""]
    said += [f"constant in the circuit only: {names(found.silenced)}" if found.silenced else ""]
    kinds = {kind: [str(node) for node in getattr(found, kind)] for kind in ("repurposed", "flipped", "silenced")}
    each = [[str(role.node), brief(role.fvu), brief(role.correlation)] for role in found.nodes]
    return (
        row(
            "roles",
            found.repurposed_share,
            control=node_roles(one_random(subject)).repurposed_share,
            control_name=ONE_RANDOM,
            said="; ".join(filter(None, said)),
            details={**kinds, "nodes": each},
        ),
    )


def attention_rows(subject: Subject, effort: Effort) -> tuple[Row, ...]:  # noqa: ARG001
    """F7, beside the heads of a random circuit."""
    heads, others = attention_divergence(subject), attention_divergence(one_random(subject))
    if not heads:
        why = "the circuit has no q, k or v node"
        return missing("attention", why), missing("dead_heads", why)
    worst, random = _worst(heads), _worst(others) if others else None
    dead = [f"{head.layer}.attn head {head.head}" for head in heads if head.dead]
    details = {"heads": [_head(head) for head in heads]}
    return (
        row(
            "attention",
            worst.total_variation,
            control=None if random is None else random.total_variation,
            control_name=ONE_RANDOM,
            said=f"{worst.layer}.attn head {worst.head}",
            details=details,
        ),
        row(
            "dead_heads",
            _count(len(dead), subject),
            control=_count(sum(head.dead for head in others), subject),
            control_name=ONE_RANDOM,
            said=", ".join(dead),
            details={"dead": dead},
        ),
    )


def _worst(heads: tuple[HeadDivergence, ...]) -> HeadDivergence:
    return max(heads, key=lambda head: head.total_variation.value)


def _head(head: HeadDivergence) -> dict[str, object]:
    return {name: brief(value) if isinstance(value, Estimate) else value for name, value in vars(head).items()}


def _count(value: int | float, subject: Subject) -> Estimate:
    """A number that is as it is, whatever pairs are drawn."""
    return Estimate(value=float(value), low=float(value), high=float(value), n=subject.pairs.n)


def binarisation_rows(subject: Subject, effort: Effort) -> tuple[Row, ...]:
    """1h: every node at one of two levels, beside what is lost where it has but one."""
    found = binarisation(subject, alone=effort.alone)
    if found is None or found.rise is None:
        return (missing("binarisation", NO_NODES if found is None else "no node varies in the circuit"),)
    worst = sorted(found.nodes, key=lambda node: node.rise.value, reverse=True)[:3]
    each = [[str(node.node), node.low, node.high, brief(node.rise), brief(node.explained)] for node in found.nodes]
    return (
        row(
            "binarisation",
            found.rise,
            control=found.one_level,
            control_name="one level, each node's mean",
            said="alone lose most: " + ", ".join(f"{node.node} {node.rise.value:.3g}" for node in worst),
            details={"loss": brief(found.loss), "nodes": each, "constant": [str(node) for node in found.constant]},
        ),
    )


def interchange_rows(subject: Subject, effort: Effort) -> tuple[Row, ...]:  # noqa: ARG001
    """F8: values of the other of circuit and model, beside what the loss would rise by if they said nothing."""
    found = interchange(subject, seed=subject.seed)
    if found is None:
        return (missing("interchange", NO_NODES),)
    into = {"circuit": found.into_circuit, "model": found.into_model}
    worse = max(into, key=lambda side: into[side].rise.value)
    silent = subject.resampling.mean(subject.empty_losses() - subject.circuit_losses())
    layers = {
        f"layers_into_{side}": {layer: brief(curve.rise) for layer, curve in curves.items()}
        for side, curves in (("circuit", found.layers_into_circuit), ("model", found.layers_into_model))
    }
    curves = {f"into_{side}": [curve.at, [brief(loss) for loss in curve.losses]] for side, curve in into.items()}
    return (
        row(
            "interchange",
            into[worse].rise,
            control=silent,
            control_name="the circuit's nodes ablated instead",
            said=f"into the {worse}",
            details={**curves, **layers},
        ),
    )


def resample_rows(subject: Subject, effort: Effort) -> tuple[Row, ...]:  # noqa: ARG001
    """F8: surroundings of another prompt, beside a random circuit in them."""
    found, control = (
        resample_ablation(subject, seed=subject.seed),
        resample_ablation(one_random(subject), seed=subject.seed),
    )
    details = {name: brief(value) for name, value in vars(found).items()}
    said = f"with the same answer {number(found.same_class)}"
    return (
        row(
            "resample_ablation",
            found.other_class,
            control=control.other_class,
            control_name=ONE_RANDOM,
            said=said,
            details=details,
        ),
    )


def swap_rows(subject: Subject, effort: Effort) -> tuple[Row, ...]:
    """F8: values of the pair's other prompt, in both; beside what chance gives."""
    found = interchange_accuracy(subject, sets=effort.orders, seed=subject.seed)
    if found is None:
        return (missing("interchange_accuracy", NO_NODES),)
    flips = {name: brief(getattr(found, name)) for name in ("flips_model", "flips_circuit", "whole_circuit")}
    flipped = f"{found.flips_model.value:.0%} of the model's answers flip and {found.flips_circuit.value:.0%} of the circuit's"
    return (
        row(
            "interchange_accuracy",
            found.accuracy,
            control=_count(found.by_chance, subject),
            control_name="flips as frequent, but independent",
            said=flipped,
            details=flips,
        ),
    )


def stochastic_rows(subject: Subject, effort: Effort) -> tuple[Row, ...]:
    """F9a, beside a random circuit."""
    found = stochastic_ablation(subject, draws=effort.orders, seed=subject.seed)
    few = max(2, effort.orders // effort.control_share)
    control = stochastic_ablation(one_random(subject), draws=few, seed=subject.seed)
    way = [[at, *(brief(loss) or ())] for at, loss in zip(found.relaxation.at, found.relaxation.losses, strict=True)]
    return (
        row(
            "robust_loss",
            found.high_loss,
            control=control.high_loss,
            control_name=ONE_RANDOM,
            said=f"mean {found.loss.value:.3g}",
            details={"mean": brief(found.loss), "relaxation": way},
        ),
        row("relaxation", found.bump, control=control.bump, control_name=ONE_RANDOM),
    )


def adversarial_rows(subject: Subject, effort: Effort) -> tuple[Row, ...]:  # noqa: ARG001
    """F9b, beside a random circuit under a shorter ascent."""
    found = adversarial_ablation(subject)
    control = adversarial_ablation(one_random(subject), steps=STEPS // ADVERSARY_SHARE)
    counts = {"ablated": found.ablated, "outside": found.outside}
    said = f"{found.ablated} of {found.outside} outside nodes ablated"
    return (row("adversarial", found.loss, control=control.loss, control_name=ONE_RANDOM, said=said, details=counts),)


def shifted_rows(subject: Subject, effort: Effort) -> tuple[Row, ...]:  # noqa: ARG001
    """F14, beside the gap on the circuit's own split."""
    found = shifted_splits(subject)
    if found.largest_gap is None:
        why = "; ".join(f"{split}: {reason}" for split, reason in found.unusable.items())
        return (missing("shifted_splits", why or "the task declares no shifted split"),)
    worst = max(found.splits, key=lambda split: found.splits[split].accuracy_gap.value)
    return (
        row(
            "shifted_splits",
            found.largest_gap,
            control=found.own.accuracy_gap,
            control_name=f"the same on {subject.split}",
            said=_told(worst, found.splits[worst]),
            details={
                "splits": {split: _score(score) for split, score in found.splits.items()},
                subject.split: _score(found.own),
                "unusable": dict(found.unusable),
            },
        ),
    )


def mined_rows(subject: Subject, effort: Effort) -> tuple[Row, ...]:  # noqa: ARG001
    """F14 on pairs from the standard library's held-out files, beside the gap on the circuit's own split."""
    task = subject.task
    if not is_built_in(task):
        return (missing("mined", "only the built-in tasks are mined from real code"),)
    model, threshold = subject.model, stored_val_threshold(subject.model.source)
    pairs = mine_task(task.name, subject.tokenizer, usable=usable_tokens(model), val_threshold=threshold).pairs
    share = mined_share(threshold)
    if pairs is None:
        return (missing("mined", f"the held-out {share:.2g} of the standard library here holds no pair of this task"),)
    few = pairs.take(range(min(pairs.n, subject.pairs.n))).to(subject.device)
    real = replace(subject, split="mined", pairs=few)
    found, own = scored(real), scored(subject)
    return (
        row(
            "mined",
            found.accuracy_gap,
            control=own.accuracy_gap,
            control_name=f"the same on {subject.split}",
            said=f"{few.n} pairs, {_told('mined', found)}",
            details={
                "mined": _score(found),
                "pairs": few.n,
                "held_out": share,
                "faithfulness": brief(faithfulness(real).faithfulness),
            },
        ),
    )


def _told(split: str, score: ShiftedScore) -> str:
    return f"{split}: model {score.model_accuracy.value:.0%}, circuit {score.circuit_accuracy.value:.0%}"


def _score(score: ShiftedScore) -> dict[str, object]:
    return {name: brief(value) for name, value in vars(score).items()}
