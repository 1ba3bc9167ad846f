"""Models whose circuit is known: each is what it claims, computes what it is described to, and is found by pruning.

Independent routes: the forward pass once more in plain numpy, the algorithms in plain Python, planted lies for the checker.
"""

import math
import re
from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
import pytest
import torch

from refusals import refused
from sparse_circuits.bench.ground_truth import RECIPE
from sparse_circuits.circuit.mask_scorer import check_task_on_model
from sparse_circuits.data.tokenizer import encode
from sparse_circuits.model.config import ABS_TOPK_SITES, ModelConfig
from sparse_circuits.model.edge_weights import site_pairs
from sparse_circuits.model.taps import Record
from sparse_circuits.prune.pipeline import prune
from sparse_circuits.sites import Edge, Node, node_sites
from sparse_circuits.validate.compiler import MAIN, NO_SINK, Compiler, Copy, Match, shifted
from sparse_circuits.validate.ground_truth import TARGET, GroundTruth, check_truth, stream_reference, task_stream
from sparse_circuits.validate.known_lookups import LETTERS, token
from sparse_circuits.validate.known_models import GROUND_TRUTHS

SIZES = {
    "quote": [(12, 9)],
    "bracket_depth": [(7, 4)],
    "binding": [(16, 9)],
    "copy": [(10, 5)],
    "induction": [(26, 18)],
    "counting": [(9, 7)],
    "redundant": [(6, 3), (4, 2)],
    "distractor_path": [(6, 3)],
    "cancelling": [(6, 3)],
}
"""Nodes and edges of each circuit."""


@cache
def known(name: str) -> GroundTruth:
    return GROUND_TRUTHS[name](0)


def test_the_sizes_are_of_all_models() -> None:
    assert set(SIZES) == set(GROUND_TRUTHS)


@pytest.mark.parametrize("name", SIZES)
def test_each_model_is_checked_and_of_the_size_described(name: str) -> None:
    truth = known(name)  # check_truth has run
    assert [(len(circuit.nodes), len(circuit.edges)) for circuit in truth.circuits] == SIZES[name]
    assert truth.unique == (len(SIZES[name]) == 1)
    config = truth.model.config
    assert config.sink and config.bigram and config.afrac == 0.25 and config.afrac_sites == ABS_TOPK_SITES
    assert sum(int((pair.weight != 0).sum()) for pair in site_pairs(truth.model)) > 3000


@pytest.mark.parametrize("name", [name for name in SIZES if name != "quote"])
def test_distractors_are_alive_at_every_site(name: str) -> None:
    truth, tap = known(name), Record(node_sites(known(name).model.config.n_layer))
    truth.model(truth.task.pairs("test", 32, truth.tokenizer).flat_tokens, tap=tap)
    for site, acts in tap.acts.items():
        assert int((acts.flatten(0, 1).std(0) > 0.02).sum()) >= 12, site  # as many as AbsTopK keeps, or more


@pytest.mark.parametrize("name", SIZES)
def test_a_task_is_well_posed_and_not_solved_without_its_circuit(name: str) -> None:
    truth = known(name)
    report = check_task_on_model(truth.task, truth.tokenizer, truth.model, truth.reference.values, n=32)
    assert report.ok, report.failed
    assert [c.name.split(" scores")[0] for c in report.conditions[-2:]] == ["empty circuit", "bigram table alone"]


def plain_logits(truth: GroundTruth, ids: list[int]) -> np.ndarray:
    """The forward pass in numpy, float64, from the weights: [T] -> [T, V]."""
    config, w = truth.model.config, {k: v.double().numpy() for k, v in truth.model.state_dict().items()}
    erf = np.vectorize(math.erf)

    def norm(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 2.0**-23)

    def top(x: np.ndarray) -> np.ndarray:
        out = np.zeros_like(x)
        for row, into in zip(x, out, strict=True):
            keep = np.argsort(-np.abs(row), kind="stable")[: int(0.25 * len(row))]
            into[keep] = row[keep]
        return out

    def read(x: np.ndarray) -> np.ndarray:
        return top(np.concatenate([norm(x), norm(places)], -1) if config.positions == "concat" else norm(x))

    places = w["positions.weight"][: len(ids)] if config.positions == "concat" else np.zeros((len(ids), 0))
    x = w["embed.weight"][ids]
    for layer in range(config.n_layer):
        at = f"blocks.{layer}."
        qkv = read(x) @ w[at + "attn.c_attn.weight"].T + w[at + "attn.c_attn.bias"]
        q, k, v = (top(part) for part in np.split(qkv, 3, -1))
        y = np.zeros_like(v)
        for head in range(config.n_head):
            own = slice(head * config.d_head, (head + 1) * config.d_head)
            for t in range(len(ids)):
                scores = k[: t + 1, own] @ q[t, own] / math.sqrt(config.d_head)
                weights = np.exp(scores)
                y[t, own] = weights @ v[: t + 1, own] / (weights.sum() + math.exp(w[at + "attn.sink"][head]))
        x = x + top(y @ w[at + "attn.c_proj.weight"].T + w[at + "attn.c_proj.bias"])
        h = read(x) @ w[at + "mlp.c_fc.weight"].T + w[at + "mlp.c_fc.bias"]
        h = top(h * 0.5 * (1 + erf(h / math.sqrt(2))))
        x = x + top(h @ w[at + "mlp.c_proj.weight"].T + w[at + "mlp.c_proj.bias"])
    return norm(x) @ w["unembed.weight"].T + w["bigram.weight"][ids]


@pytest.mark.parametrize("name", ["copy", "binding", "induction", "bracket_depth"])
def test_logits_recomputed_in_numpy(name: str) -> None:
    truth = known(name)
    ids = encode(truth.tokenizer, truth.task.sample("test", 3)[2].prompt_a)
    ours = truth.model(torch.tensor([ids]))[0].detach().numpy()
    np.testing.assert_allclose(ours, plain_logits(truth, ids), atol=2e-3)


def answers(truth: GroundTruth, prompts: list[str], choices: list[str]) -> list[str]:
    """Which of the choices the model says after each prompt."""
    ids = [token(truth.tokenizer, choice) for choice in choices]
    found = []
    for prompt in prompts:
        logits = truth.model(torch.tensor([encode(truth.tokenizer, prompt)]))[0, -1, ids]
        found.append(choices[int(logits.argmax())])
    return found


def test_induction_by_plain_python() -> None:
    """All rows of a split's four letters, all four repeated but the last one in the row, which nothing follows."""
    rng, letters = Random(0), LETTERS["test"]
    prompts, right = [], []
    for _ in range(24):
        row = rng.sample(letters, 4)
        asked = rng.randrange(3)
        prompts.append(f"row: {' '.join(row)} {row[asked]}")
        right.append(f" {row[asked + 1]}")
    assert answers(known("induction"), prompts, [f" {letter}" for letter in letters]) == right


def test_copying_by_plain_python() -> None:
    for letters in LETTERS.values():
        prompts = [f"take {letter} and bring" for letter in letters]
        assert answers(known("copy"), prompts, [f" {x}" for x in letters]) == [f" {x}" for x in letters]


def test_counting_by_plain_python() -> None:
    prompts = [pair.prompt(side) for pair in known("counting").task.sample("test", 40) for side in (0, 1)]
    right = [" even" if len(re.findall(" beep", prompt)) % 2 == 0 else " odd" for prompt in prompts]
    assert set(right) == {" even", " odd"} and answers(known("counting"), prompts, [" even", " odd"]) == right


def test_bracket_depth_by_plain_python() -> None:
    prompts = [pair.prompt(side) for pair in known("bracket_depth").task.sample("test", 40) for side in (0, 1)]
    right = [")" * (prompt.count("(") - prompt.count(")")) + "\n" for prompt in prompts]
    assert answers(known("bracket_depth"), prompts, [")\n", "))\n"]) == right


def test_positions_point_to_the_token_before() -> None:
    truth = known("induction")
    pairs = truth.task.pairs("test", 4, truth.tokenizer)
    tap = Record(["0.attn.pattern"])
    with torch.no_grad():
        truth.model(pairs.flat_tokens, tap=tap)
    pattern = tap.acts["0.attn.pattern"][:, 1]  # B T S, the head that looks back
    before = pattern.diagonal(-1, 1, 2)
    assert float(before.min()) > 0.7 and float(before.max()) < 1


def test_shifted_matches_by_hand() -> None:
    """A quarter of the circle back: the score is strength^2 * cos(angle difference), twice that as readers see positions."""
    one, other = shifted(4, 5, back=2, period=8, strength=3.0)
    assert one.query == pytest.approx({4: 0.0, 5: 3.0}) and other.query == pytest.approx({4: -3.0, 5: 0.0})
    assert one.key == {4: 3.0} and other.key == {5: 3.0}


def test_compiled_head_by_hand() -> None:
    """Two tokens; the last attends to itself with weight e^s / (e^s + 1 + e^sink) and copies that much."""
    config = ModelConfig(vocab_size=3, n_layer=1, d_model=4, n_head=1, d_head=4, bigram=False)
    compiler = Compiler(config)
    compiler.embed([0, 1], 3, 1.0)
    compiler.embed([1], 0, 1.0)
    compiler.begin("head")
    compiler.head(0, 0, matches=[Match(2.0, {0: 1.0})], copies=[Copy({0: 1.0}, {1: 5.0})], sink=0.5)
    compiler.begin("answer")
    compiler.answer(1, {2: 1.0})
    tap = Record(["0.attn.resid_delta"])
    with torch.no_grad():
        compiler.model(torch.tensor([[0, 1]]), tap=tap)
    read = math.sqrt(2)  # token 1 is (1, 0, 0, 1), of root mean square sqrt(1/2)
    score = math.exp(2 * read / 2)
    assert float(tap.acts["0.attn.resid_delta"][0, 1, 1]) == pytest.approx(
        5 * read * score / (score + 1 + math.exp(0.5)), rel=1e-5
    )
    head = compiler.circuit("head")
    assert head.nodes == (
        Node("0.attn.act_in", 0),
        Node("0.attn.k", 0),
        Node("0.attn.v", 1),
        Node("0.attn.resid_delta", 1),
    )
    assert [edge.weight for edge in head.edges] == [1.0, 1.0, 5.0]
    assert compiler.circuit("answer").nodes == (Node("final_resid", 1),) and compiler.circuit(MAIN).nodes == ()
    assert compiler.edges == head.edges and NO_SINK < -20


def test_positions_need_two_concatenated_channels() -> None:
    compiler = Compiler(ModelConfig(vocab_size=3, n_layer=1, d_model=4, n_head=1, d_head=4))
    with refused("positions 'concat' with d_pos_emb 2", "given positions 'none'"):
        compiler.circle(8)
    with refused("must be one: choose a larger vocabulary"):
        token(known("copy").tokenizer, "several words")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["binding", "induction", "counting", "distractor_path", "cancelling"])
def test_pruning_finds_exactly_the_circuit(name: str) -> None:
    """The others: quote in test_ground_truth.py, redundant in tests/bench, all of them by `bench ground-truth`."""
    truth = known(name)
    found = prune(
        truth.model,
        truth.task,
        tokenizer=truth.tokenizer,
        target_loss=TARGET,
        reference=truth.reference,
        config=RECIPE,
    )
    assert found.nodes == truth.nodes and set(found.edges) == set(truth.edges) and found.met_target


def test_checker_knows_a_second_circuit_that_was_not_named() -> None:
    truth = known("redundant")
    for lone in truth.circuits:
        with pytest.raises(ValueError, match="true nodes the model does not need"):
            check_truth(replace(truth, nodes=lone.nodes, edges=lone.edges, alternatives=()))


def test_checker_knows_a_third_path() -> None:
    """Another head averages the kind too, into the same answer channel as the second circuit's."""
    truth = known("redundant")
    lookup, average = truth.circuits
    (v,) = (node.channel for node in average.nodes if node.site == "0.attn.v")
    weights, free = truth.model.state_dict(), 20  # a v channel of head 1, which is all distractors
    model = type(truth.model)(truth.model.config).eval()
    model.load_state_dict(weights)
    weights, width = model.state_dict(), model.config.d_attn
    attn = "blocks.0.attn."
    weights[attn + "sink"][1] = NO_SINK
    for part in (0, 1):  # head 1 attends to all alike
        weights[attn + "c_attn.weight"][part * width + 16 : part * width + 32] = 0
        weights[attn + "c_attn.bias"][part * width + 16 : part * width + 32] = 0
    weights[attn + "c_attn.weight"][2 * width + free] = weights[attn + "c_attn.weight"][2 * width + v]
    weights[attn + "c_attn.bias"][2 * width + free] = 0
    weights[attn + "c_proj.weight"][:, free] = weights[attn + "c_proj.weight"][:, v]
    stream = task_stream(truth.task, truth.tokenizer, context=64)
    with pytest.raises(ValueError, match="the model does without .* together: there is a circuit not named"):
        check_truth(replace(truth, model=model, reference=stream_reference(model, stream)), ablate_pairs=8)
    assert lookup.nodes != average.nodes


def test_checker_knows_nodes_that_do_not_cancel() -> None:
    truth = known("cancelling")
    one, other = truth.cancelling
    with pytest.raises(ValueError, match=rf"others it needs: {re.escape(str(one))}, {re.escape(str(other))}"):
        check_truth(replace(truth, cancelling=()), ablate_pairs=8)
    with pytest.raises(ValueError, match=rf"others it needs: {re.escape(str(other))}"):
        check_truth(replace(truth, cancelling=(one,)), ablate_pairs=8)
    with pytest.raises(ValueError, match="the model needs them together too, so they do not cancel"):
        check_truth(replace(truth, cancelling=(*truth.cancelling, truth.nodes[-1])), ablate_pairs=8)


def test_checker_knows_a_wrong_edge_of_an_alternative() -> None:
    truth = known("redundant")
    (average,) = truth.alternatives
    moved = (Edge(average.edges[0].source, Node("0.attn.v", 3), 1.0), *average.edges[1:])
    with pytest.raises(ValueError, match="compiled edges and edges between the true nodes differ"):
        check_truth(replace(truth, alternatives=(replace(average, edges=moved),)), ablate_pairs=8)
