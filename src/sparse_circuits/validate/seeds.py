"""Does the recipe find the same circuit again (METHOD F15)?

At least ten seeds, learned as one batch with the circuit's own recipe, and the circuit itself beside them. Never the best alone:
- `seed_failures`: share of seeds whose circuit misses the target on the test split.
- `seed_sizes`: log2 of the largest over the smallest number of nodes, and the median size.
- `seed_overlap`: the median Jaccard index of two seeds' nodes (shared over all), and of their edges. Beside it, the same of random
  circuits that have as many nodes at every site as these: what the sizes alone would give.
- `seed_gaps`: how far apart seeds are in their largest accuracy gap to the model on shifted splits.

Sizes, overlaps and gaps compare circuits that meet the target on validation; the others are counted, and left out. A seed that
learns the same mask as another counts twice: that is agreement.

Shapes: S seeds, R replicates, P pairs of seeds.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.circuit.evaluate import score
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.sites import Edge
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.tasks.task import UnusableTokens
from sparse_circuits.validate.again import FACTOR, Rerun, figures, met, over_seeds
from sparse_circuits.validate.card import Row
from sparse_circuits.validate.measure import brief, missing, number, row
from sparse_circuits.validate.statistics import Estimate, defined, means
from sparse_circuits.validate.thresholds import Standard

FAILURES = Standard(
    number="F15",
    unit="share of seeds whose circuit misses the target on the test split",
    high=0.2,
    need="beside",
    why="Two of ten: one may be bad luck; where more fail, whoever prunes once cannot count on what comes out.",
)
SIZES = Standard(
    number="F15",
    unit="bits, log2 of the largest over the smallest number of nodes among seeds",
    high=FACTOR,
    need="beside",
    why="A factor of two: with more, the number of nodes is a matter of luck, and no two recipes can be told apart by it.",
)
OVERLAP = Standard(
    number="F15",
    unit="Jaccard index of two seeds' nodes, median over pairs of seeds",
    low=0.5,
    need="beside",
    why="Circuits of equal size then share two thirds of their nodes, so most of what is said of one holds of the other.",
)
GAPS = Standard(
    number="F15",
    unit="range over seeds of the largest accuracy gap to the model on a shifted split",
    high=0.1,
    need="beside",
    why="One prompt in ten, as for the gap itself: seeds further apart do not compute the same, however alike their loss.",
)
TOO_FEW = "too few seeds meet the target on validation"


def seeds(rerun: Rerun, progress: Progress = SILENT) -> tuple[Row, ...]:
    """F15, four rows. Costs one run of learning per seed, in one batch; other controls take their own side from it."""
    circuits = rerun.own(rerun.seeds, progress)
    reached = [circuit for circuit, there in zip(circuits, met(circuits).tolist(), strict=True) if there]
    return (
        failures(rerun, circuits),
        sizes(rerun, reached),
        overlap(rerun, reached),
        gaps(rerun, reached, progress),
    )


def failures(rerun: Rerun, circuits: Sequence[Circuit]) -> Row:
    """How many miss the target; every seed's figures are among the details."""
    missed = torch.tensor([0.0 if circuit.met_target else 1.0 for circuit in circuits])
    value = defined(over_seeds(len(circuits), lambda weights: means(missed, weights)))
    own = rerun.subject.circuit
    details = {**figures(circuits), "circuit": {**_size(own), "test_loss": own.loss and own.loss.test}}
    said = f"{int(missed.sum())} of {len(circuits)} seeds"
    return row("seed_failures", value, standard=FAILURES, said=said, details=details)


def sizes(rerun: Rerun, circuits: Sequence[Circuit]) -> Row:
    """How different the sizes are."""
    if not circuits:
        return missing("seed_sizes", TOO_FEW, SIZES)
    counts = torch.tensor([len(circuit.nodes) for circuit in circuits], dtype=torch.float64)
    logs = counts.clamp(min=1).log2()
    value = defined(over_seeds(len(circuits), lambda weights: _range(logs, weights)))
    median = defined(over_seeds(len(circuits), lambda weights: weighted_median(counts, weights)))
    least, most, own = int(counts.min()), int(counts.max()), rerun.subject.circuit
    details = {"median_nodes": brief(median), "least_nodes": least, "most_nodes": most, "circuit": _size(own)}
    said = (
        f"{least} to {most} nodes in {len(circuits)} seeds, median {median.value:.0f}; the circuit has {len(own.nodes)}"
    )
    return row("seed_sizes", value, standard=SIZES, said=said, details=details)


def overlap(rerun: Rerun, circuits: Sequence[Circuit]) -> Row:
    """How much two seeds share."""
    if len(circuits) < 2:
        return missing("seed_overlap", TOO_FEW, OVERLAP)
    of_nodes = [set(circuit.nodes) for circuit in circuits]
    of_edges = [{edge[:2] for edge in circuit.edges} for circuit in circuits]
    of_random = _random_nodes(rerun, circuits)
    nodes, edges, chance = (defined(median_jaccard(parts)) for parts in (of_nodes, of_edges, of_random))
    own = rerun.subject.circuit
    with_circuit = {
        "nodes": _lower_median([jaccard(part, set(own.nodes)) for part in of_nodes]),
        "edges": _lower_median([jaccard(part, {e[:2] for e in _every_edge(own)}) for part in of_edges]),
    }
    return row(
        "seed_overlap",
        nodes,
        standard=OVERLAP,
        control=chance,
        control_name="random circuits with as many nodes at every site",
        said=f"of their edges {number(edges)}",
        details={"edges": brief(edges), "with_circuit": with_circuit, "seeds": [c.seed for c in circuits]},
    )


def gaps(rerun: Rerun, circuits: Sequence[Circuit], progress: Progress = SILENT) -> Row:
    """How different the seeds' largest accuracy gaps on shifted splits are."""
    if not circuits:
        return missing("seed_gaps", TOO_FEW, GAPS)
    splits = _shifted(rerun, [*circuits, rerun.subject.circuit], progress)
    if not splits:
        return missing("seed_gaps", "the task has no shifted split that can be asked", GAPS)
    largest = torch.tensor(list(splits.values())).amax(0)
    own, of_seeds = float(largest[-1]), largest[:-1]
    value = defined(over_seeds(len(circuits), lambda weights: _range(of_seeds, weights)))
    said = f"largest gaps from {float(of_seeds.min()):.3g} to {float(of_seeds.max()):.3g}; the circuit's is {own:.3g}"
    details = {"gaps": {split: found[:-1] for split, found in splits.items()}, "circuit": own}
    return row("seed_gaps", value, standard=GAPS, said=said, details=details)


def _shifted(rerun: Rerun, circuits: Sequence[Circuit], progress: Progress) -> dict[str, list[float]]:
    """Shifted split -> accuracy gap of every circuit; splits that cannot be asked are left out."""
    found = {}
    for split in rerun.subject.task.shifted:
        progress.say(f"scoring seeds on the shifted split {split}")
        try:
            asked = rerun.subject.on(split)
        except UnusableTokens:
            continue
        model = score(asked.model, asked.pairs, None, asked.circuit.loss_kind, None).accuracy
        found[split] = [abs(model - _accuracy(rerun, asked.pairs, circuit)) for circuit in circuits]
    return found


def _accuracy(rerun: Rerun, pairs: Pairs, circuit: Circuit) -> float:
    tap, weights = rerun.seen_as(circuit).way(True)
    return score(rerun.model, pairs, tap, circuit.loss_kind, None, weights).accuracy


def jaccard(one: set[Any], other: set[Any]) -> float:
    """Shared over all; 1 for two empty sets."""
    return len(one & other) / len(one | other) if one or other else 1.0


def median_jaccard(parts: Sequence[set[Any]]) -> Estimate | None:
    """Median over pairs of seeds, with seeds drawn anew; a seed drawn twice is not compared with itself. None for one seed."""
    first, second = torch.triu_indices(len(parts), len(parts), 1)
    found = torch.tensor([jaccard(parts[i], parts[j]) for i, j in zip(first.tolist(), second.tolist(), strict=True)])
    if not len(found):
        return None
    return over_seeds(len(parts), lambda weights: weighted_median(found, weights[:, first] * weights[:, second]))


def weighted_median(values: Float[Tensor, " m"], weights: Float[Tensor, "R m"]) -> Float[Tensor, " R"]:
    """The smallest value with at least half of the weight at or below it; NaN where there is no weight."""
    order = values.argsort()
    sums = weights[:, order].double().cumsum(-1)
    at = (2 * sums >= sums[:, -1:]).to(torch.uint8).argmax(-1)
    return values[order][at].double().masked_fill(sums[:, -1] == 0, torch.nan)


def _lower_median(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def _range(values: Float[Tensor, " S"], weights: Float[Tensor, "R S"]) -> Float[Tensor, " R"]:
    """Largest minus smallest among the seeds drawn."""
    drawn = weights > 0
    return values.masked_fill(~drawn, -torch.inf).amax(-1) - values.masked_fill(~drawn, torch.inf).amin(-1)


def _random_nodes(rerun: Rerun, circuits: Sequence[Circuit]) -> list[set[int]]:
    """For every circuit a random one with as many nodes at every site."""
    drawn = [rerun.seen_as(circuit).random_masks(1, seed)[0] for seed, circuit in enumerate(circuits)]
    return [set(mask.nonzero().flatten().tolist()) for mask in drawn]


def _every_edge(circuit: Circuit) -> tuple[Edge, ...]:
    """Kept and cut: seeds are not refined, so their circuits hold both."""
    return (*circuit.edges, *circuit.cut_edges)


def _size(circuit: Circuit) -> dict[str, Any]:
    return {"nodes": len(circuit.nodes), "edges": len(circuit.edges), "cut_edges": len(circuit.cut_edges)}
