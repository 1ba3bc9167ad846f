"""Edge-level refinement: from the nodes a circuit needs to the single weights it needs (METHOD D13).

Node pruning keeps every nonzero weight between two kept nodes, needed or not; the paper names that as a limitation. Starting
from a pruned circuit that meets its target where its nodes were chosen:
1. Rank its edges by a first estimate of what cutting each does: with w the weight and b the bias of its target, cutting
   changes them by -w and w * mu, so the loss changes by about -w dL/dw + w mu dL/db (one backward pass for all edges).
2. Cut as many of the least important as the target allows, found by bisection over that ranking.
3. Exactly: for each edge left, the loss with it cut too; then one at a time, cheapest first, each goes if the target still
   holds without it.
4. Nodes: those without a path to the logits together, then each alone in the same way. What goes takes its edges along.
5. With `minimal`, 3 and 4 again until neither finds anything: then no node and no edge can go without breaking the target.

The target holds where mean + standard error of the loss on the choice batch stay within it, as for nodes (choice.py); test is
only reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparse_circuits.circuit.circuit import Calibration, Circuit, SplitLosses
from sparse_circuits.circuit.cuts import cut_weights, sent_when_cut
from sparse_circuits.circuit.edges import EdgeSet, find_edges
from sparse_circuits.circuit.evaluate import (
    EVAL_PAIRS,
    check_origin,
    check_tokenizer,
    contrast,
    own_values,
    pair_losses,
    score,
    usable_tokens,
)
from sparse_circuits.circuit.mask_scorer import MaskScorer
from sparse_circuits.kernels.sparse_product import frozen
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.edge_weights import site_pairs
from sparse_circuits.model.folder import model_hash
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.calibrate import calibrate
from sparse_circuits.prune.choice import Scores, choice_batch
from sparse_circuits.prune.mask import NodeLayout
from sparse_circuits.sites import Edge, Node
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.tasks.task import Task

VAL_PAIRS = 256
"""Validation pairs that every decision about a circuit is made on whose recipe does not say how many chose its nodes."""


@dataclass(frozen=True, kw_only=True)
class _State:
    """A circuit while it shrinks: what is kept and what is cut."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    cut: tuple[Edge, ...]

    def without_edge(self, edge: Edge) -> "_State":
        """The same with one more edge cut."""
        return replace(self, edges=tuple(e for e in self.edges if e != edge), cut=(*self.cut, edge))

    def without_nodes(self, gone: Sequence[Node]) -> "_State":
        """The same without these nodes; their edges are no longer edges of the circuit, cut or not."""
        lost = set(gone)

        def left(edges: Sequence[Edge]) -> tuple[Edge, ...]:
            return tuple(edge for edge in edges if not {edge.source, edge.target} & lost)

        return _State(nodes=tuple(n for n in self.nodes if n not in lost), edges=left(self.edges), cut=left(self.cut))


class _Judge:
    """Scores states of one circuit on its choice batch."""

    def __init__(
        self, circuit: Circuit, model: SparseTransformer, pairs: dict[str, Pairs], prompts: Pairs, target: float
    ) -> None:
        device = next(model.parameters()).device
        self.circuit, self.model, self.pairs, self.target = circuit, model, pairs, target
        self.prompts = prompts  # the training pairs whose tokens and completions count (D5)
        self.values = {site: value.to(device) for site, value in own_values(circuit).items()}
        self.layout = NodeLayout.of(model.widths)
        given = circuit.recipe  # what chose its nodes: the target is held on one batch (D11)
        self.batch = choice_batch(pairs, given.get("val_pairs", VAL_PAIRS), given.get("choice_train_pairs", 0))

    def scorer(self, state: _State, pairs: Pairs) -> MaskScorer:
        return MaskScorer(
            model=self.model,
            layout=self.layout,
            values=self.values,
            pairs=pairs,
            kind=self.circuit.loss_kind,
            weights=cut_weights(self.model, state.cut, self.values),
        )

    def mask(self, state: _State) -> Tensor:
        return self.layout.flat(state.nodes)[None]

    def scores(self, state: _State) -> Scores:
        """Of one state, on the choice batch."""
        return self.batch.scores(self.scorer(state, self.batch.pairs).losses(self.mask(state)))

    def bound(self, state: _State) -> float:
        """What the target is held against."""
        return float(self.scores(state).bound)

    def calibration(self, state: _State) -> Calibration:
        """Scale and shift fitted on the training pairs (METHOD D6)."""
        pairs = self.pairs["train"]
        scorer = self.scorer(state, pairs)
        values = contrast(self.model, pairs, scorer.tap(self.mask(state), 2 * pairs.n), scorer.weights)
        with torch.enable_grad():
            return calibrate(values, shift=pairs.fixed_completions)

    def bounds_without_each_edge(self, state: _State) -> list[float]:
        """The bound with each edge cut too, in the order of state.edges. A cut reaches nothing before its target."""
        changes = [(e.target.site, partial(cut_weights, self.model, (*state.cut, e), self.values)) for e in state.edges]
        return (
            self._bounds(self.scorer(state, self.batch.pairs).losses_where(self.mask(state), changes))
            if changes
            else []
        )

    def bounds_without_each_node(self, state: _State) -> list[float]:
        """The bound with each node ablated too, in the order of state.nodes.

        Where the state without the node has the same cuts, all in one go. (The cuts of an ablated node make no difference, but
        for value nodes: what an ablated one sends also depends on the sink.)
        """
        values = {edge.source for edge in state.cut if edge.source.site.endswith("attn.v")}
        together = [node for node in state.nodes if node not in values]
        masks = self.mask(state).repeat(len(together), 1)
        masks[range(len(together)), [self.layout.index(node) for node in together]] = 0.0
        bounds = self._bounds(self.scorer(state, self.batch.pairs).losses(masks)) if together else []
        found = dict(zip(together, bounds, strict=True))
        return [found[n] if n in found else self.bound(state.without_nodes([n])) for n in state.nodes]

    def _bounds(self, losses: Tensor) -> list[float]:
        return self.batch.scores(losses).bound.tolist()

    def holds(self, state: _State) -> bool:
        return self.bound(state) <= self.target

    def found(self, state: _State) -> EdgeSet:
        """Edges and paths of a state, cut edges left out."""
        train = self.prompts
        real = torch.arange(train.tokens.shape[-1], device=train.tokens.device) < train.lengths[..., None]
        prompt_tokens = train.tokens[real].unique().tolist()
        return find_edges(self.model, state.nodes, prompt_tokens, train.completions.unique().tolist(), cut=state.cut)

    def estimates(self, state: _State) -> list[float]:
        """First-order change of the loss on the choice batch when each edge is cut, in the order of state.edges."""
        parameters = dict(self.model.named_parameters())
        names = sorted({f"{pair.linear}.{part}" for pair in site_pairs(self.model) for part in ("weight", "bias")})
        cut = cut_weights(self.model, state.cut, self.values)
        leaves = {name: cut.get(name, parameters[name]).detach().clone().requires_grad_() for name in names}
        scorer = self.scorer(state, self.batch.pairs)
        with torch.enable_grad():
            tap = scorer.tap(self.mask(state), 2 * self.batch.pairs.n)
            loss = pair_losses(self.model, self.batch.pairs, tap, self.circuit.loss_kind, leaves).mean()
            grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        slopes = {n: torch.zeros_like(leaves[n]) if g is None else g for n, g in zip(names, grads, strict=True)}
        pairs = {(pair.source, pair.target): pair for pair in site_pairs(self.model)}
        found = []
        for edge in state.edges:
            pair = pairs[edge.source.site, edge.target.site]
            row, column = pair.first_row + edge.target.channel, edge.source.channel
            weight = float(pair.weight[edge.target.channel, column])
            sent = float(sent_when_cut(edge, self.values))
            slope, bias = slopes[f"{pair.linear}.weight"][row, column], slopes[f"{pair.linear}.bias"][row]
            found.append(float(-weight * slope + weight * sent * bias))
        return found


def refine(
    circuit: Circuit,
    model: SparseTransformer,
    task: Task,
    *,
    tokenizer: Any,
    minimal: bool = False,
    progress: Progress = SILENT,
) -> Circuit:
    """The circuit without the edges and nodes that its target does not need.

    minimal: go on until no node and no edge can go alone. What can still go is in `removable` either way.
    Raises ValueError if model, task or tokenizer are not the circuit's own, if it has no target, or if it misses its target on
    the choice batch already.
    """
    judge = _judge(circuit, model, task, tokenizer)
    state = _State(nodes=circuit.nodes, edges=circuit.edges, cut=circuit.cut_edges)
    with torch.no_grad(), frozen(model):
        before = judge.bound(state)
        if before > judge.target:
            raise ValueError(
                f"this circuit's loss where its nodes were chosen, with its standard error, is {before:.3f}, above its target "
                f"{judge.target}; refine a circuit that meets it (other seeds, or a higher target_loss)"
            )
        state = _cut_by_estimate(judge, state)
        progress.say(f"{len(circuit.edges)} edges, {len(state.edges)} after cutting by estimate")
        while True:
            smaller = _cut_nodes(judge, _cut_exactly(judge, state))
            progress.say(f"{len(smaller.nodes)} nodes, {len(smaller.edges)} edges")
            if smaller == state or not minimal:
                break
            state = smaller
        return _finished(judge, smaller)


def minimality(circuit: Circuit, model: SparseTransformer, task: Task, *, tokenizer: Any) -> tuple[str, ...]:
    """Nodes and edges of a circuit that could each go alone without missing its target on the choice batch, by name.

    Raises ValueError as `refine` does for what does not fit.
    """
    judge = _judge(circuit, model, task, tokenizer)
    with torch.no_grad(), frozen(model):
        return _removable(judge, _State(nodes=circuit.nodes, edges=circuit.edges, cut=circuit.cut_edges))


def with_minimality(circuit: Circuit, model: SparseTransformer, task: Task, *, tokenizer: Any) -> Circuit:
    """The circuit with `removable` measured: one forward pass over the choice batch per node and edge.

    Not measured, None, for a circuit that misses its target (there is nothing to keep) or has it on the calibrated loss.
    """
    if circuit.target_loss is None or circuit.target_on != "loss":
        return circuit.replace(removable=None)
    judge = _judge(circuit, model, task, tokenizer)
    state = _State(nodes=circuit.nodes, edges=circuit.edges, cut=circuit.cut_edges)
    with torch.no_grad(), frozen(model):
        return circuit.replace(removable=_removable(judge, state) if judge.holds(state) else None)


def _judge(circuit: Circuit, model: SparseTransformer, task: Task, tokenizer: Any) -> _Judge:
    check_tokenizer(model, tokenizer)
    check_origin("model", circuit.model.hash, model_hash(model))
    check_origin("task", circuit.task_origin.hash, task.hash)
    if circuit.target_loss is None or circuit.target_on != "loss":
        raise ValueError(
            "only a circuit with a target on its uncalibrated loss can be refined; prune one with target_on=loss"
        )
    usable, device = usable_tokens(model), next(model.parameters()).device
    counted = circuit.recipe.get("train_pairs", EVAL_PAIRS)  # tokens are counted where pruning counted them
    drawn = {"train": max(counted, EVAL_PAIRS), "val": EVAL_PAIRS, "test": EVAL_PAIRS}
    pairs = {split: task.pairs(split, n, tokenizer, usable=usable).to(device) for split, n in drawn.items()}
    prompts = _first(pairs["train"], counted)
    pairs["train"] = _first(pairs["train"], EVAL_PAIRS)
    return _Judge(circuit, model, pairs, prompts, circuit.target_loss)


def _first(pairs: Pairs, n: int) -> Pairs:
    """The first n pairs, or as many as there are."""
    return pairs.take(range(min(n, pairs.n)))


def _cut_by_estimate(judge: _Judge, state: _State) -> _State:
    """Step 2: the longest prefix of the ranking that bisection finds to hold."""
    estimates = judge.estimates(state)
    order = [state.edges[i] for i in sorted(range(len(estimates)), key=lambda i: (estimates[i], i))]

    def cut(count: int) -> _State:
        gone = set(order[:count])
        return replace(state, edges=tuple(e for e in state.edges if e not in gone), cut=(*state.cut, *order[:count]))

    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if judge.holds(cut(middle)) else (low, middle - 1)
    return cut(low)


def _cut_exactly(judge: _Judge, state: _State) -> _State:
    """Step 3."""
    alone = dict(zip(state.edges, judge.bounds_without_each_edge(state), strict=True))
    for edge in sorted(alone, key=lambda edge: alone[edge]):
        if alone[edge] <= judge.target and judge.holds(smaller := state.without_edge(edge)):
            state = smaller
    return state


def _cut_nodes(judge: _Judge, state: _State) -> _State:
    """Step 4."""
    while stranded := judge.found(state).candidates:
        smaller = state.without_nodes(stranded)
        if not judge.holds(smaller):
            break
        state = smaller
    alone = dict(zip(state.nodes, judge.bounds_without_each_node(state), strict=True))
    for node in sorted(alone, key=lambda node: alone[node]):
        if alone[node] <= judge.target and judge.holds(smaller := state.without_nodes([node])):
            state = smaller
    return state


def _removable(judge: _Judge, state: _State) -> tuple[str, ...]:
    nodes = zip(state.nodes, judge.bounds_without_each_node(state), strict=True)
    edges = zip(state.edges, judge.bounds_without_each_edge(state), strict=True)
    return (
        *(str(node) for node, bound in nodes if bound <= judge.target),
        *(f"{edge.source} -> {edge.target}" for edge, bound in edges if bound <= judge.target),
    )


def _finished(judge: _Judge, state: _State) -> Circuit:
    """The refined circuit with everything measured anew, its calibration fitted anew on training pairs."""
    found, mask = judge.found(state), judge.mask(state)
    calibration = judge.calibration(state)
    scores = {}
    for split, pairs in judge.pairs.items():
        scorer = judge.scorer(state, pairs)
        tap = scorer.tap(mask, 2 * pairs.n)
        scores[split] = score(judge.model, pairs, tap, scorer.kind, calibration, scorer.weights)
    base = float(judge.scores(state).mean)
    return judge.circuit.replace(
        nodes=state.nodes,
        edges=found.edges,
        cut_edges=tuple(edge for edge in state.cut),
        edges_embed=found.edges_embed,
        edges_unembed=found.edges_unembed,
        edges_bias=found.edges_bias,
        constant_nodes=found.constant,
        stranded_nodes=found.candidates,
        removable=_removable(judge, state),
        node_effects=tuple(float(judge.scores(state.without_nodes([node])).mean) - base for node in state.nodes),
        loss=SplitLosses(**{split: found.loss for split, found in scores.items()}),
        calibrated_loss=SplitLosses(**{split: found.calibrated_loss for split, found in scores.items()}),
        accuracy=scores["test"].accuracy,
        calibration=calibration,
        folder=None,
    )
