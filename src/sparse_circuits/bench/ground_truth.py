"""Does pruning find circuits that are known? Precision and recall on the hand-compiled models, beside other methods.

1. Each model of `GROUND_TRUTHS` is compiled and checked; its circuit is known to the node and the edge.
2. Ours: `prune` at the target for a few seeds, with one recipe for all models (`RECIPE`).
3. The others choose as many nodes as the circuit has, which is more than they could know: attribution patching takes those
   with the largest |gradient * (mean - activation)|, summed over positions, averaged over training prompts; integrated gradients
   the same with the gradient averaged on the way from the whole model to the empty circuit; random draws the right number per
   site. Edges of a choice are the weights between its nodes (METHOD D5), for all methods alike.
4. Precision is the share of what was found that is true, recall the share of what is true that was found. Where a model has
   several circuits, the one that was met best counts, and the line says that the truth is not unique.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from statistics import mean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_circuits.bench.result import seconds
from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.circuit.edges import find_edges
from sparse_circuits.circuit.evaluate import pair_losses
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.taps import Mask
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.mask import NodeLayout
from sparse_circuits.prune.pipeline import prune
from sparse_circuits.sites import Edge, Node
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.validate.compiler import CompiledCircuit
from sparse_circuits.validate.ground_truth import TARGET, GroundTruth
from sparse_circuits.validate.known_models import GROUND_TRUTHS

RECIPE = PruneConfig(
    steps=150, lr=0.02, k_coef=3e-4, batch_pairs=16, train_pairs=256, val_pairs=24, choice_train_pairs=24
)
"""How the known models are pruned: briefly, since they are small, and cheaply per node, since their target is low."""
SEEDS = (0, 1, 2)
PAIRS = 64
"""Training pairs that the other methods see."""
INTEGRATED_STEPS = 16
OURS = "prune"


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How well a choice meets the truth, shares from 0 to 1; the mean where there are several choices."""

    node_precision: float
    node_recall: float
    edge_precision: float
    edge_recall: float

    @property
    def exact(self) -> bool:
        """Whether all of it was found and nothing else."""
        return min(asdict(self).values()) == 1.0


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """One line of the table: a known model, and what each method found of its circuit."""

    name: str
    """Of the model."""
    nodes: int
    edges: int
    """Of its circuit, the first where there are several."""
    circuits: int
    """How many there are; the truth is unique where it is one."""
    seconds: float
    """Wall-clock of one pruning."""
    methods: Mapping[str, Overlap]
    """Method -> what it found; ours is `prune`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        ours = self.methods[OURS]
        return {
            "nodes": self.nodes,
            "edges": self.edges,
            "circuits": self.circuits,
            "unique": self.circuits == 1,
            "seconds": self.seconds,
            "precision": {"nodes": ours.node_precision, "edges": ours.edge_precision},
            "recall": {"nodes": ours.node_recall, "edges": ours.edge_recall},
            "methods": {name: asdict(found) for name, found in self.methods.items()},
        }


def bench_ground_truth(
    progress: Progress = SILENT, names: Sequence[str] = tuple(GROUND_TRUTHS), seeds: Sequence[int] = SEEDS
) -> Iterator[Recovered]:
    """One line per known model. seeds: of our pruning and of the random choice. Seconds each, on the CPU."""
    for name in names:
        progress.say(f"known model {name}")
        yield recover(name, GROUND_TRUTHS[name](0), seeds)


def recover(name: str, truth: GroundTruth, seeds: Sequence[int] = SEEDS) -> Recovered:
    """Lets every method look for the circuit of one known model."""
    pairs = truth.task.pairs("train", PAIRS, truth.tokenizer)
    found: list[Circuit] = []
    times = [seconds(lambda seed=seed: found.append(_pruned(truth, seed))) for seed in seeds]
    ours = [best_overlap(truth, circuit.nodes, circuit.edges) for circuit in found]
    levels = {"attribution patching": (1.0,), "integrated gradients": midpoints(INTEGRATED_STEPS)}
    ranked = {method: attributions(truth, pairs, level).abs() for method, level in levels.items()}
    others = {
        method: _overlap_of(truth, pairs, lambda c, s=s: top_nodes(truth, s, len(c.nodes)))
        for method, s in ranked.items()
    }
    drawn = [_overlap_of(truth, pairs, lambda c, s=seed: random_nodes(truth, c, s)) for seed in seeds]
    return Recovered(
        name=name,
        nodes=len(truth.nodes),
        edges=len(truth.edges),
        circuits=len(truth.circuits),
        seconds=mean(times),
        methods={OURS: average(ours), **others, "random": average(drawn)},
    )


def _pruned(truth: GroundTruth, seed: int) -> Circuit:
    return prune(
        truth.model,
        truth.task,
        tokenizer=truth.tokenizer,
        target_loss=TARGET,
        seed=seed,
        reference=truth.reference,
        config=RECIPE,
    )


def midpoints(steps: int) -> tuple[float, ...]:
    """The middles of `steps` equal parts of the way from 1 to 0."""
    return tuple(1 - (step + 0.5) / steps for step in range(steps))


def attributions(truth: GroundTruth, pairs: Pairs, levels: Sequence[float]) -> Float[Tensor, " N"]:
    """First-order rise of the mean task loss, nats, when each node of the model is ablated, in the order of NodeLayout.

    It is minus the gradient of the loss by the node's mask, averaged over points where all masks stand at one level: with
    x * m + mean * (1 - m), that gradient is the sum over positions of gradient * (x - mean). Level 1 is the model itself.
    """
    layout = NodeLayout.of(truth.model.widths)
    total = torch.zeros(layout.size)
    for level in levels:
        mask = torch.full((layout.size,), level, requires_grad=True)
        tap = Mask(layout.split(mask), {site: truth.reference.values[site] for site in layout.widths})
        total -= torch.autograd.grad(pair_losses(truth.model, pairs, tap).mean(), mask)[0] / len(levels)
    return total


def top_nodes(truth: GroundTruth, scores: Float[Tensor, " N"], count: int) -> tuple[Node, ...]:
    """The nodes of highest score, in forward order."""
    layout = NodeLayout.of(truth.model.widths)
    return layout.nodes(torch.zeros(layout.size).index_fill(0, scores.topk(count).indices, 1.0))


def random_nodes(truth: GroundTruth, circuit: CompiledCircuit, seed: int) -> tuple[Node, ...]:
    """As many nodes per site as the circuit has there, drawn at random."""
    rng, widths = Random(seed), truth.model.widths
    counts = {site: sum(node.site == site for node in circuit.nodes) for site in widths}
    return tuple(
        Node(site, c) for site, count in counts.items() for c in sorted(rng.sample(range(widths[site]), count))
    )


def _overlap_of(truth: GroundTruth, pairs: Pairs, choose: Callable[[CompiledCircuit], Sequence[Node]]) -> Overlap:
    """The best overlap of a method that is told the size of each circuit in turn."""
    found = []
    for circuit in truth.circuits:
        nodes = choose(circuit)
        edges = find_edges(
            truth.model, nodes, pairs.tokens.unique().tolist(), pairs.completions.unique().tolist()
        ).edges
        found.append(overlap(circuit, nodes, edges))
    return max(found, key=_goodness)


def best_overlap(truth: GroundTruth, nodes: Sequence[Node], edges: Sequence[Edge]) -> Overlap:
    """With the circuit that is met best."""
    return max((overlap(circuit, nodes, edges) for circuit in truth.circuits), key=_goodness)


def _goodness(found: Overlap) -> float:
    return sum(asdict(found).values())


def overlap(circuit: CompiledCircuit, nodes: Sequence[Node], edges: Sequence[Edge]) -> Overlap:
    """Precision and recall of nodes and of edges; of nothing found, the precision is 0. Weights of edges do not count."""
    places = [{edge[:2] for edge in some} for some in (circuit.edges, edges)]
    (p, r), (edge_p, edge_r) = _shares(set(circuit.nodes), set(nodes)), _shares(*places)
    return Overlap(node_precision=p, node_recall=r, edge_precision=edge_p, edge_recall=edge_r)


def _shares(true: set[Any], found: set[Any]) -> tuple[float, float]:
    hits = len(true & found)
    return hits / len(found) if found else 0.0, hits / len(true)


def average(found: Sequence[Overlap]) -> Overlap:
    """The mean of each share."""
    every = [asdict(one) for one in found]
    return Overlap(**{share: mean(one[share] for one in every) for share in every[0]})


def recovered_table(lines: Sequence[Recovered]) -> str:
    """One line per model and method: precision and recall of nodes and of edges."""
    width = max(len(line.name) for line in lines)
    wide = max(len(method) for line in lines for method in line.methods)
    rows = [
        f"{'':{width}}  {'':{wide}}  {'nodes: precision':>16}  {'recall':>6}  {'edges: precision':>16}  {'recall':>6}"
    ]
    for line in lines:
        several = "" if line.circuits == 1 else f"  not unique: {line.circuits} circuits"
        name, about = line.name, f"  {line.nodes} nodes, {line.edges} edges, {line.seconds:.1f} s{several}"
        for method, found in line.methods.items():
            nodes = f"{found.node_precision:>16.2f}  {found.node_recall:>6.2f}"
            edges = f"{found.edge_precision:>16.2f}  {found.edge_recall:>6.2f}"
            rows.append(f"{name:{width}}  {method:{wide}}  {nodes}  {edges}{about}")
            name = about = ""
    return "\n".join(rows)
