"""The benchmark of known circuits: shares by hand, attributions by another route, and what the methods find, measured."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from sparse_circuits.bench.ground_truth import (
    OURS,
    Overlap,
    attributions,
    average,
    best_overlap,
    midpoints,
    overlap,
    random_nodes,
    recover,
    recovered_table,
    top_nodes,
)
from sparse_circuits.bench.result import Measured
from sparse_circuits.bench.suite import BENCHMARKS, table
from sparse_circuits.circuit.evaluate import pair_losses
from sparse_circuits.circuit.mask_scorer import MaskScorer
from sparse_circuits.model.taps import Record
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.mask import NodeLayout
from sparse_circuits.sites import Edge, Node, node_sites
from sparse_circuits.validate.compiler import CompiledCircuit
from sparse_circuits.validate.ground_truth import GroundTruth
from sparse_circuits.validate.known_models import GROUND_TRUTHS

A, B, C = (Node("final_resid", channel) for channel in range(3))


@cache
def known(name: str) -> GroundTruth:
    return GROUND_TRUTHS[name](0)


def test_shares_by_hand() -> None:
    circuit = CompiledCircuit(nodes=(A, B), edges=(Edge(A, B, 1.0),))
    found = overlap(circuit, (B, C), (Edge(A, B, None), Edge(B, C, 2.0), Edge(A, C, 2.0)))
    assert found == Overlap(node_precision=0.5, node_recall=0.5, edge_precision=1 / 3, edge_recall=1.0)
    nothing = overlap(circuit, (), ())
    assert nothing == Overlap(node_precision=0.0, node_recall=0.0, edge_precision=0.0, edge_recall=0.0)
    whole = overlap(circuit, (A, B), circuit.edges)
    assert whole.exact and not found.exact
    assert average([whole, found]).node_recall == 0.75 and not average([whole, found]).exact


def test_of_several_circuits_the_nearest_counts() -> None:
    truth = known("redundant")
    for circuit in truth.circuits:
        assert best_overlap(truth, circuit.nodes, circuit.edges).exact
    both = {node for circuit in truth.circuits for node in circuit.nodes}
    assert best_overlap(truth, tuple(both), ()).node_precision == pytest.approx(6 / 9)


def test_attributions_are_gradient_times_difference_summed_over_positions() -> None:
    """By hooks on the activations, one site at a time, instead of by a mask."""
    truth = known("copy")
    pairs, layout = truth.task.pairs("train", 6, truth.tokenizer), NodeLayout.of(truth.model.widths)
    tap = Record(node_sites(1), gradients=True)
    pair_losses(truth.model, pairs, tap).mean().backward()
    truth.model.zero_grad()
    by_site = {
        site: (tap.grads[site] * (truth.reference.values[site] - tap.acts[site].detach())).sum((0, 1))
        for site in layout.widths
        if site in tap.grads
    }
    expected = torch.cat([by_site.get(site, torch.zeros(width)) for site, width in layout.widths.items()])
    torch.testing.assert_close(attributions(truth, pairs, (1.0,)), expected, atol=1e-6, rtol=1e-3)
    assert float(expected.abs().max()) > 1e-4


def test_integrated_gradients_add_up_to_the_loss_of_the_empty_circuit() -> None:
    """Without AbsTopK, whose jumps no gradient sees."""
    truth = known("copy")
    model = SparseTransformer(truth.model.config.replace(afrac=None)).eval()
    model.load_state_dict(truth.model.state_dict())
    smooth = replace(truth, model=model)
    pairs, layout = truth.task.pairs("train", 6, truth.tokenizer), NodeLayout.of(model.widths)
    score = MaskScorer(model=model, layout=layout, values=truth.reference.values, pairs=pairs)
    whole, empty = score.losses(torch.stack([torch.ones(layout.size), torch.zeros(layout.size)])).mean(-1).tolist()
    assert midpoints(2) == (0.75, 0.25)
    total = float(attributions(smooth, pairs, midpoints(48)).sum())
    assert empty - whole > 0.5 and total == pytest.approx(empty - whole, rel=0.01)


def test_choices_have_the_sizes_asked_for() -> None:
    truth = known("copy")
    layout = NodeLayout.of(truth.model.widths)
    scores = torch.arange(layout.size, dtype=torch.float32)
    assert top_nodes(truth, scores, 2) == (Node("final_resid", 46), Node("final_resid", 47))
    one, other = (random_nodes(truth, truth.circuits[0], seed) for seed in (0, 1))
    assert one != other and [n.site for n in one] == [n.site for n in truth.nodes] and len(set(one)) == len(one)


def test_what_the_methods_find_of_a_model_with_two_circuits() -> None:
    line = recover("redundant", known("redundant"), seeds=(0,))
    assert line.methods[OURS].exact and line.seconds > 0
    assert line.methods["random"].node_recall < 0.5 and line.methods["attribution patching"].node_recall < 1
    told = line.to_dict()
    assert not told["unique"] and told["circuits"] == 2 and (told["nodes"], told["edges"]) == (6, 3)
    assert told["precision"] == {"nodes": 1.0, "edges": 1.0} == told["recall"]
    assert set(told["methods"]) == {OURS, "attribution patching", "integrated gradients", "random"}
    lines = [line, replace(line, name="other", circuits=1)]
    rows = recovered_table(lines).splitlines()
    assert len(rows) == 9 and ["not unique: 2 circuits" in row for row in rows].count(True) == 1
    assert recovered_table(lines) in table([*lines, Measured(name="a", ours=1.0, theirs=2.0, unit="s", theirs_is="b")])


def test_gradients_miss_nodes_that_pruning_finds() -> None:
    """They know little of what happens once a node is gone: each method misses a true node of some model, told how many."""
    models = [known(name) for name in ("bracket_depth", "counting", "distractor_path")]
    for levels in ((1.0,), midpoints(8)):
        missed = []
        for truth in models:
            scores = attributions(truth, truth.task.pairs("train", 24, truth.tokenizer), levels).abs()
            missed.append(set(truth.nodes) - set(top_nodes(truth, scores, len(truth.nodes))))
        assert any(missed) and all(len(some) < len(t.nodes) / 2 for some, t in zip(missed, models, strict=True))


def test_the_benchmark_has_a_name() -> None:
    assert "ground-truth" in BENCHMARKS
