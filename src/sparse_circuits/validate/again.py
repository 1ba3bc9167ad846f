"""Pruning again exactly as a circuit was pruned, but for the one thing that a control changes (METHOD F10-F13, F15).

1. `Rerun.of` takes from the circuit how it was pruned: recipe, target and ablation values. It is the recipe that is examined, so
   the circuit's own side of a comparison is pruned again too (`own`), not refined; what one control found, the next one takes.
2. `Rerun.problem` is what pruning starts from. A control changes labels, weights, ablation values or norms in it, and solves it;
   a model that misses the target is no error there.
3. The seeds of one problem are learned as one batch. Problems are not joined: labels and models differ in how far contrasts are
   scaled down (PruneConfig.least_loss_share), and a batch of several costs on a processor what they cost one by one.
4. Sizes are compared in bits, log2 of how many times the nodes. A run that misses the target on validation counts with every
   node of the model, so that a difference to it is a bound.

What an interval is over here is seeds: they are drawn anew, as templates are elsewhere (statistics.py).

Shapes: S seeds, R replicates.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_circuits.circuit.ablation import Reference, load_reference
from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.folder import model_hash
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.config import PruneConfig, recipe_of
from sparse_circuits.prune.pipeline import meets_on_val, solve
from sparse_circuits.prune.problem import Problem, prepare
from sparse_circuits.validate.card import Row
from sparse_circuits.validate.measure import brief, missing, row
from sparse_circuits.validate.statistics import Estimate, Resampling, means
from sparse_circuits.validate.subject import Subject
from sparse_circuits.validate.thresholds import Standard

SEEDS = 10
"""Seeds that F15 looks at (METHOD: at least 10)."""
FEW = 2
"""Seeds of every other control, the first of those: a minute each for 200 steps of a 3 x 384 model on two cores."""
FACTOR = 1.0
"""Bits: a factor of two in nodes. Seeds of one recipe may differ by as much (`seed_sizes`), so that sizes closer than this count
as alike, and a control must cost more to say something."""
HALFWAY = math.log(2) / 2
"""Binary loss halfway to guessing, nats. A control whose learned mask scores above it has found nothing to choose from: nonsense
labels leave thousands of nodes, which take minutes to look at one by one."""
NO_SIZE = "the unchanged recipe itself misses its target with every seed, so there is no size to compare with"


@dataclass(frozen=True, kw_only=True, eq=False)
class Rerun:
    """How to prune again exactly like a circuit."""

    subject: Subject
    config: PruneConfig
    """The circuit's recipe."""
    target: float
    """Nats."""
    reference: Reference | None
    """The model's reference values, where they are known: those in a `mean_pretrain` circuit, or beside the model."""
    seeds: tuple[int, ...]
    found: dict[int, Circuit] = field(default_factory=dict, repr=False)
    """Seed -> what the unchanged recipe gave."""

    @classmethod
    def of(cls, subject: Subject, *, seeds: int = SEEDS) -> "Rerun":
        """Seeds 0 .. seeds - 1. Raises ValueError for none, or for a circuit that does not say how it was pruned."""
        circuit = subject.circuit
        if seeds < 1:
            raise ValueError(f"{seeds} seeds asked for; ask for at least 1")
        try:
            config = recipe_of(circuit.recipe) if circuit.recipe else None
        except ValueError:  # a recipe of others
            config = None
        if config is None or circuit.target_loss is None:
            raise ValueError(
                "this circuit does not say how it was pruned (a recipe of this library and a target), so nothing can be pruned "
                "again like it; leave out the controls that prune, or prune the circuit here"
            )
        return cls(
            subject=subject,
            config=config,
            target=circuit.target_loss,
            reference=_reference(circuit, subject.model),
            seeds=tuple(range(seeds)),
        )

    @property
    def model(self) -> SparseTransformer:
        return self.subject.model

    @property
    def few(self) -> tuple[int, ...]:
        """The seeds of controls other than F15."""
        return self.seeds[:FEW]

    @cached_property
    def problem(self) -> Problem:
        """What the unchanged recipe starts from. Raises ValueError where that cannot be had."""
        given = self.subject
        return prepare(given.model, given.task, given.tokenizer, self.target, self.config, self.reference)

    def own(self, seeds: Sequence[int], progress: Progress = SILENT) -> tuple[Circuit, ...]:
        """The circuits of the unchanged recipe, one per seed; only seeds not asked before are pruned.

        The same for the same seeds; in a batch of others a seed's mask is the same up to rounding (learn.py).
        """
        missing = [seed for seed in dict.fromkeys(seeds) if seed not in self.found]
        if missing:
            progress.say(f"pruning again with the circuit's own recipe, seeds {', '.join(map(str, missing))}")
            self.found.update(zip(missing, solve(self.problem, missing, progress), strict=True))
        return tuple(self.found[seed] for seed in seeds)

    def seen_as(self, circuit: Circuit) -> Subject:
        """Another circuit of the same model on the same held-out pairs."""
        return replace(self.subject, circuit=circuit)


def _reference(circuit: Circuit, model: SparseTransformer) -> Reference | None:
    if circuit.ablation == "mean_pretrain" and circuit.values is not None:
        facts = circuit.reference
        return Reference(
            values=circuit.values,
            tokens=int(facts.get("tokens", 0)),
            corpus_hash=str(facts.get("corpus_hash", "")),
            model_hash=model_hash(model),
        )
    try:
        return None if model.source is None else load_reference(model.source, model)
    except ValueError:  # a folder without; only the kind mean_pretrain goes unmeasured
        return None


def solve_control(problem: Problem, seeds: Sequence[int], progress: Progress = SILENT) -> tuple[Circuit, ...]:
    """`solve` for a problem that is expected to have no small circuit: masks halfway to guessing count as misses at once.

    The recipe's own circuits are solved in full (`Rerun.own`), as everybody's are.
    """
    hopeless = HALFWAY if problem.config.loss_kind == "binary" else math.inf
    return solve(problem, seeds, progress, give_up_above=hopeless)


def over_seeds(count: int, statistic: Callable[[Tensor], Tensor]) -> Estimate | None:
    """A function of how often every seed counts [R, S] -> [R], with its interval; `n` is the number of seeds."""
    return Resampling.of(torch.arange(count)).estimate(statistic)


def met(circuits: Sequence[Circuit]) -> Bool[Tensor, " S"]:
    """Which meet the target on validation: sizes may be compared only among these."""
    return torch.tensor([meets_on_val(circuit) for circuit in circuits])


def log_sizes(circuits: Sequence[Circuit]) -> Float[Tensor, " S"]:
    """log2 of the nodes, of at least one; of all nodes of the model for a circuit that misses the target."""
    sizes = [len(c.nodes) if meets_on_val(c) else c.nodes_total for c in circuits]
    return torch.tensor(sizes, dtype=torch.float64).clamp(min=1).log2()


def bits_more(control: Sequence[Circuit], own: Sequence[Circuit]) -> Estimate | None:
    """log2 of how many times the nodes of `own` (those that meet the target) `control` has, geometric means over the same seeds.

    None where no `own` meets the target.
    """
    above, below, good = log_sizes(control), log_sizes(own), met(own).double()

    def statistic(weights: Tensor) -> Tensor:
        counted = weights * good
        return means(above, weights) - (counted @ below) / counted.sum(-1)

    return over_seeds(len(own), statistic)


def figures(circuits: Sequence[Circuit]) -> dict[str, Any]:
    """What several runs gave, one number per seed, as JSON."""
    losses = [circuit.loss for circuit in circuits]
    return {
        "seeds": [circuit.seed for circuit in circuits],
        "nodes": [len(circuit.nodes) for circuit in circuits],
        "edges": [len(circuit.edges) for circuit in circuits],
        "val_loss": [loss and loss.val for loss in losses],
        "test_loss": [loss and loss.test for loss in losses],
        "met_on_val": met(circuits).tolist(),
    }


def selectivity_row(
    name: str,
    standard: Standard,
    own: Sequence[Circuit],
    runs: Mapping[str, Sequence[Circuit]],
    *,
    counted: Sequence[str],
    details: Mapping[str, Any],
) -> Row:
    """How much larger the circuits of a control are; the value is the smallest selectivity among its runs.

    runs: what was changed -> circuits. counted: the runs that the value is taken from. details: more of them; `bound` says whether
    the value is one, since a run of those that gave it misses the target.
    """
    found = {label: bits_more(circuits, own) for label, circuits in runs.items()}
    decisive = {label: bits for label in counted if (bits := found.get(label)) is not None}
    if not decisive:
        return missing(name, NO_SIZE, standard)
    label = min(decisive, key=lambda label: decisive[label].value)
    kept = {label: {**figures(circuits), "bits": brief(found[label])} for label, circuits in runs.items()}
    return row(
        name,
        decisive[label],
        standard=standard,
        said=f"{label}: {sizes(runs[label])} nodes by seed; unchanged: {sizes(own)}",
        details={"own": figures(own), "runs": kept, "bound": not bool(met(runs[label]).all()), **details},
    )


def sizes(circuits: Sequence[Circuit]) -> str:
    """Nodes per seed, for a sentence."""
    reached = met(circuits).tolist()
    return ", ".join(
        str(len(c.nodes)) if there else f"all {c.nodes_total} (target missed)"
        for c, there in zip(circuits, reached, strict=True)
    )
