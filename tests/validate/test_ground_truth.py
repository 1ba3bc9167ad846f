"""The known answer: pruning must find exactly the circuit that was written by hand, and the checker must know a lie."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sparse_circuits.circuit.edges import find_edges
from sparse_circuits.circuit.evaluate import EVAL_PAIRS, evaluate, evaluate_model
from sparse_circuits.data.tokenizer import encode
from sparse_circuits.model.config import ABS_TOPK_SITES, ModelConfig
from sparse_circuits.model.edge_weights import site_pairs
from sparse_circuits.model.taps import Record
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.pipeline import prune
from sparse_circuits.sites import Edge, Node, node_sites
from sparse_circuits.validate.ground_truth import (
    TARGET,
    Compiler,
    GroundTruth,
    check_truth,
    opening_tokens,
    quote_model,
    stream_reference,
    task_stream,
)

QUICK = PruneConfig(
    steps=150, lr=0.02, k_coef=3e-4, batch_pairs=4, train_pairs=256, val_pairs=24, choice_train_pairs=24
)


@pytest.fixture(scope="module")
def truth() -> GroundTruth:
    return quote_model()


def changed(truth: GroundTruth, model: SparseTransformer) -> GroundTruth:
    """The same claim about an edited model, whose reference is measured anew."""
    stream = task_stream(truth.task, truth.tokenizer, context=model.config.block_size)
    return replace(truth, model=model, reference=stream_reference(model, stream))


def test_the_circuit_is_the_one_described(truth: GroundTruth) -> None:
    counts = {site: sum(node.site == site for node in truth.nodes) for site in node_sites(2)}
    assert {site: count for site, count in counts.items() if count} == {
        "0.mlp.act_in": 2,
        "0.mlp.post_act": 2,
        "0.mlp.resid_delta": 2,
        "1.attn.act_in": 2,
        "1.attn.k": 1,
        "1.attn.v": 1,
        "1.attn.resid_delta": 1,
        "final_resid": 1,
    }
    kinds = [(edge.source.site, edge.target.site) for edge in truth.edges]
    assert sorted(kinds) == sorted(
        [("0.mlp.act_in", "0.mlp.post_act")] * 4
        + [("0.mlp.post_act", "0.mlp.resid_delta")] * 2
        + [("1.attn.act_in", "1.attn.k"), ("1.attn.act_in", "1.attn.v"), ("1.attn.v", "1.attn.resid_delta")]
    )


def test_everything_the_method_has_is_on(truth: GroundTruth) -> None:
    config = truth.model.config
    assert config.sink and config.bigram and config.afrac == 0.25 and config.afrac_sites == ABS_TOPK_SITES
    assert evaluate_model(truth.model, truth.task, truth.tokenizer).loss < TARGET


def test_distractors_are_thousands_and_alive(truth: GroundTruth) -> None:
    assert sum(int((pair.weight != 0).sum()) for pair in site_pairs(truth.model)) > 5000
    pairs = truth.task.pairs("test", 64, truth.tokenizer)
    sites = node_sites(2)
    tap = Record(sites)
    truth.model(pairs.flat_tokens, tap=tap)
    for site in sites:
        varying = tap.acts[site].flatten(0, 1).std(0) > 0.05
        assert int(varying.sum()) > 0.5 * len(varying), site


def test_edges_and_paths_of_the_true_nodes(truth: GroundTruth) -> None:
    pairs = truth.task.pairs("train", 64, truth.tokenizer)
    found = find_edges(truth.model, truth.nodes, pairs.tokens.unique().tolist(), pairs.completions.unique().tolist())
    assert set(found.edges) == set(truth.edges) and len(found.edges) == 9
    assert found.candidates == () and found.constant == ()
    assert {edge.token for edge in found.edges_embed} == {token for pair in opening_tokens(pairs) for token in pair}
    assert {edge.node for edge in found.edges_unembed} == {truth.nodes[-1]} and len(found.edges_unembed) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "target"), [(0, TARGET), (1, TARGET), (2, 0.15)])
def test_pruning_finds_exactly_the_circuit(truth: GroundTruth, seed: int, target: float) -> None:
    circuit = prune(
        truth.model,
        truth.task,
        tokenizer=truth.tokenizer,
        target_loss=target,
        seed=seed,
        reference=truth.reference,
        config=QUICK,
    )
    assert circuit.nodes == truth.nodes
    assert set(circuit.edges) == set(truth.edges)
    assert circuit.constant_nodes == () and circuit.stranded_nodes == ()
    assert circuit.met_target and min(circuit.node_effects) > 0.1
    for node in truth.nodes:
        broken = circuit.replace(nodes=tuple(other for other in circuit.nodes if other != node))
        assert evaluate(broken, truth.model, truth.task, tokenizer=truth.tokenizer, n=32).loss > 0.15 >= target


def test_checker_knows_a_distractor_that_took_a_true_neurons_place(truth: GroundTruth) -> None:
    """The model computes the same, but with neuron 3 in the place of the classifier."""
    classifier = truth.nodes[3]
    order = list(range(truth.model.widths["0.mlp.post_act"]))
    order[3], order[classifier.channel] = classifier.channel, 3
    model = deepcopy(truth.model)
    weights = model.state_dict()
    for name in ("c_fc.weight", "c_fc.bias"):
        weights[f"blocks.0.mlp.{name}"].copy_(weights[f"blocks.0.mlp.{name}"][order])
    projection = weights["blocks.0.mlp.c_proj.weight"]
    projection.copy_(projection[:, order])
    with pytest.raises(ValueError, match="the circuit loses"):
        check_truth(changed(truth, model))
    moved = tuple(Node("0.mlp.post_act", 3) if node == classifier else node for node in truth.nodes)
    with pytest.raises(ValueError, match="compiled edges and edges between the true nodes differ"):
        check_truth(replace(changed(truth, model), nodes=moved))


@pytest.mark.parametrize("extra", [Node("0.attn.q", 3), Node("1.mlp.post_act", 7)])
def test_checker_knows_a_node_too_many(truth: GroundTruth, extra: Node) -> None:
    with pytest.raises(ValueError, match=r"true nodes the model does not need: .*" + extra.site):
        check_truth(replace(truth, nodes=(*truth.nodes, extra)))


def test_checker_knows_distractors_that_cancel_each_other(truth: GroundTruth) -> None:
    """Both together do nothing, in the model and ablated, but the model needs one because of the other."""
    model, closer = deepcopy(truth.model), truth.nodes[-1].channel
    weights = model.state_dict()
    for neuron, write in ((7, 1.0), (8, -1.0)):
        weights["blocks.1.mlp.c_fc.weight"][neuron] = 0
        weights["blocks.1.mlp.c_fc.bias"][neuron] = 0
        weights["blocks.1.mlp.c_fc.weight"][neuron, closer] = 4.0
        weights["blocks.1.mlp.c_proj.weight"][:, neuron] = 0
        weights["blocks.1.mlp.c_proj.weight"][closer, neuron] = write
    with pytest.raises(ValueError, match=r"does not need: \(none\); others it needs: 1.mlp.post_act\[7\]"):
        check_truth(changed(truth, model))


def test_checker_knows_a_missing_and_an_added_edge(truth: GroundTruth) -> None:
    model = deepcopy(truth.model)
    model.state_dict()["blocks.0.mlp.c_proj.weight"][truth.nodes[4].channel, truth.nodes[3].channel] = 1e-4
    with pytest.raises(ValueError, match=r"differ at 0.mlp.post_act\[90\] -> 0.mlp.resid_delta\[23\]"):
        check_truth(changed(truth, model))
    with pytest.raises(ValueError, match="differ at 0.mlp.act_in"):
        check_truth(replace(truth, edges=truth.edges[1:]))


def test_compiled_neuron_by_hand() -> None:
    compiler = Compiler(ModelConfig(vocab_size=4, n_layer=1, d_model=4, n_head=1, d_head=4))
    compiler.embed([1], 0, 2.0)
    neuron = compiler.neuron(0, 5, reads={0: 1.5}, writes={2: 3.0})
    compiler.bias(neuron, -0.5)
    compiler.answer(2, {3: 1.0})
    assert compiler.nodes == (Node("0.mlp.act_in", 0), neuron, Node("0.mlp.resid_delta", 2), Node("final_resid", 2))
    assert compiler.edges == (
        Edge(compiler.nodes[0], neuron, 1.5),
        Edge(neuron, compiler.nodes[2], 3.0),
    )
    compiler.distract_layer(0, seed=0, blind=True)
    tap = Record(["0.mlp.act_in", "0.mlp.post_act"])
    compiler.model(torch.tensor([[1]]), tap=tap)
    read = tap.acts["0.mlp.act_in"][0, 0, 0]
    torch.testing.assert_close(tap.acts["0.mlp.post_act"][0, 0, 5], F.gelu(1.5 * read - 0.5))
    weights = {(pair.source, pair.target): pair.weight for pair in site_pairs(compiler.model)}
    read_signals = weights["0.mlp.act_in", "0.mlp.post_act"][:, [0, 2]]
    assert read_signals.count_nonzero() == 1 and weights["0.mlp.act_in", "0.mlp.post_act"].count_nonzero() > 1


def test_distractors_that_see_everything_write_no_signal() -> None:
    compiler = Compiler(ModelConfig(vocab_size=4, n_layer=1, d_model=8, n_head=1, d_head=4))
    neuron = compiler.neuron(0, 5, reads={0: 1.5}, writes={2: 3.0})
    compiler.distract_layer(0, seed=0, blind=False)
    weights = {(pair.source, pair.target): pair.weight for pair in site_pairs(compiler.model)}
    into = weights["0.mlp.post_act", "0.mlp.resid_delta"]
    assert into[[0, 2]].count_nonzero() == 1 and into[:, neuron.channel].tolist() == [0, 0, 3.0, 0, 0, 0, 0, 0]
    assert weights["0.mlp.act_in", "0.mlp.post_act"][:, [0, 2]].count_nonzero() > 1
    assert weights["0.attn.v", "0.attn.resid_delta"].count_nonzero() > 0


def test_both_classes_are_equally_frequent_in_the_stream(truth: GroundTruth) -> None:
    stream = task_stream(truth.task, truth.tokenizer, context=64, pairs=256)
    prompts = truth.task.pairs("train", EVAL_PAIRS, truth.tokenizer)
    for a, b in opening_tokens(prompts):
        ours, theirs = int((stream == a).sum()), int((stream == b).sum())
        assert ours > 10 and abs(ours - theirs) <= 0.1 * ours
    assert encode(truth.tokenizer, "')\n") == [int(prompts.completions[0, 0])]
