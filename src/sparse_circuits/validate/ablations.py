"""Does the circuit depend on what ablated nodes are set to (METHOD F12)?

1. The same recipe is run with every kind of ablation: `zero`, `mean_pretrain`, `mean_task`. Of what each gives, the size, the loss,
   how it agrees with the model (F1) and how many of its nodes are repurposed (F6), all on the card's held-out pairs.
2. The circuit as it is, its nodes and cut edges, with the values of each kind: its loss.
3. The circuit with what is outside it resampled from other prompts (F8). That is no constant, and learning under it would need
   the model's activations on another prompt in every step, so masks are not learned under resampling; the circuit is measured.

The row's value is the range of the sizes, in bits. A kind under which the target is missed counts with all nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparse_circuits.circuit.ablation import ablation_values
from sparse_circuits.circuit.circuit import ABLATIONS, Ablation, Circuit
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.prune.pipeline import solve
from sparse_circuits.prune.problem import Problem
from sparse_circuits.validate.again import FACTOR, NO_SIZE, Rerun, figures, log_sizes, met, over_seeds, sizes
from sparse_circuits.validate.card import Row
from sparse_circuits.validate.faithfulness import agreement
from sparse_circuits.validate.interchange import resample_ablation
from sparse_circuits.validate.measure import brief, missing, row
from sparse_circuits.validate.roles import node_roles
from sparse_circuits.validate.statistics import Estimate, means
from sparse_circuits.validate.subject import Subject
from sparse_circuits.validate.thresholds import Standard

STANDARD = Standard(
    number="F12",
    unit="bits, log2 of the largest over the smallest size among the kinds of ablation",
    high=FACTOR,
    need="beside",
    why="A factor of two, as between seeds: beyond it the size says more of what stands in for ablated nodes than of the model.",
)


def ablation_sensitivity(rerun: Rerun, progress: Progress = SILENT) -> tuple[Row, ...]:
    """F12, one row. Costs two runs of learning for each of the two other kinds, and two for the circuit's own where no control
    made them."""
    own = rerun.own(rerun.few, progress)
    circuits: dict[Ablation, Sequence[Circuit]] = {}
    same, left_out = {}, {}
    for kind in ABLATIONS:
        try:
            problem = with_ablation(rerun, kind)
        except ValueError as error:
            left_out[kind] = str(error)
            continue
        same[kind] = _same_nodes(rerun.subject, problem)
        if kind == rerun.config.ablation:
            circuits[kind] = own
        else:
            progress.say(f"pruning with ablation {kind}")
            circuits[kind] = solve(problem, rerun.few, progress)
    details: dict[str, Any] = {
        "own": rerun.config.ablation,
        "kinds": {kind: {**figures(found), **_quality(rerun, found)} for kind, found in circuits.items()},
        "circuit_loss": same,
        "resample": _resampled(rerun.subject),
        "left_out": left_out,
    }
    value = size_range(circuits) if bool(met(own).any()) else None
    if value is None:
        return (missing("ablation_sensitivity", NO_SIZE, STANDARD),)
    said = "; ".join(f"{kind}: {sizes(found)} nodes by seed" for kind, found in circuits.items())
    return (row("ablation_sensitivity", value, standard=STANDARD, said=said, details=details),)


def with_ablation(rerun: Rerun, kind: Ablation) -> Problem:
    """The problem with another kind of ablation. Raises ValueError for `mean_pretrain` where the reference values are unknown."""
    problem = rerun.problem
    if kind == problem.config.ablation:
        return problem
    values = ablation_values(problem.model, kind, rerun.reference, problem.pairs["train"])
    return replace(
        problem,
        config=problem.config.replace(ablation=kind),
        values={site: value.to(rerun.subject.device) for site, value in values.items()},
        reference=rerun.reference if kind == "mean_pretrain" else None,
    )


def size_range(circuits: Mapping[Ablation, Sequence[Circuit]]) -> Estimate | None:
    """log2 of the largest over the smallest size among the kinds, geometric means over seeds."""
    logs = torch.stack([log_sizes(found) for found in circuits.values()])

    def statistic(weights: Tensor) -> Tensor:
        found = means(logs, weights)
        return found.amax(-1) - found.amin(-1)

    return over_seeds(logs.shape[1], statistic)


def _quality(rerun: Rerun, circuits: Sequence[Circuit]) -> dict[str, Any]:
    """F1 and F6 of every seed's circuit, on held-out pairs. Equal circuits are measured once."""
    measured: dict[tuple[Any, ...], tuple[float, float | None]] = {}
    for circuit in circuits:
        if circuit.nodes not in measured:
            subject = rerun.seen_as(circuit)
            share = node_roles(subject).repurposed_share
            measured[circuit.nodes] = agreement(subject).kl_binary.value, share and share.value
    found = [measured[circuit.nodes] for circuit in circuits]
    return {"kl_binary": [kl for kl, _ in found], "repurposed_share": [share for _, share in found]}


def _same_nodes(subject: Subject, problem: Problem) -> list[float] | None:
    """Loss of the circuit's nodes with the values of another kind, nats."""
    circuit = subject.circuit.replace(
        values={**(subject.circuit.values or {}), **{site: value.cpu() for site, value in problem.values.items()}},
        ablation=problem.config.ablation,
    )
    return brief(subject.resampling.mean(replace(subject, circuit=circuit).circuit_losses()))


def _resampled(subject: Subject) -> dict[str, Any] | None:
    """Loss of the circuit with its surroundings from prompts of the same and of the other class, nats; None for a single pair."""
    if subject.pairs.n < 2:
        return None
    found = resample_ablation(subject, seed=subject.seed)
    return {"same_class": brief(found.same_class), "other_class": brief(found.other_class)}
