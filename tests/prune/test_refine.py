"""Cutting edges: what a cut does is checked by interventions, what refinement leaves by a model whose circuit is known."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sparse_circuits as sc
from sparse_circuits.circuit.ablation import Reference, save_reference
from sparse_circuits.circuit.circuit import Circuit, Origin
from sparse_circuits.circuit.cuts import cut_weights
from sparse_circuits.circuit.evaluate import circuit_tap, circuit_weights, evaluate, pair_losses
from sparse_circuits.cli import main
from sparse_circuits.data.tokenizer import encode_batch, save_tokenizer, tokenizer_hash
from sparse_circuits.files import new_folder
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.edge_weights import site_pairs
from sparse_circuits.model.folder import model_hash, save_model
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune import refine as refining
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.pipeline import prune
from sparse_circuits.prune.refine import minimality, refine
from sparse_circuits.sites import Edge, Node
from sparse_circuits.tasks.custom import save_task
from sparse_circuits.validate.ground_truth import GroundTruth, quote_model

QUICK = PruneConfig(steps=80, lr=0.05, k_coef=3e-3, batch_pairs=2, train_pairs=64, val_pairs=9, choice_train_pairs=9)


# --- cutting, by interventions


@pytest.fixture(scope="module")
def dense() -> SparseTransformer:
    """Every weight nonzero and no AbsTopK, so that a site holds exactly what its matrix formed."""
    config = ModelConfig(vocab_size=40, n_layer=2, d_model=16, n_head=2, d_head=8, block_size=32)
    model = SparseTransformer(config).initialize(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return model.eval()


def before_the_activation(target: str) -> str:
    return target.replace("post_act", "pre_act")


@pytest.mark.parametrize("pair", range(12), ids=lambda place: f"pair{place}")
def test_a_cut_sends_the_ablation_value(dense: SparseTransformer, pair: int) -> None:
    """The same by adding w * (mu - x_j) to the target, on every position: an edit of activations, not of weights."""
    found = site_pairs(dense)[pair]
    row, column, tokens = 3, 5, torch.arange(24).view(2, 12)
    weight, mu = float(found.weight[row, column]), 0.7
    assert weight != 0
    source = found.source.replace("attn.v", "attn.y")
    x = sc.record(dense, tokens, [source])[source][..., column]

    def edit(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        value[..., row] += weight * (mu - x)
        return value

    expected = sc.intervene(dense, tokens, {before_the_activation(found.target): edit})
    values = {site: torch.full((width,), mu) for site, width in dense.widths.items()}
    values |= {f"{layer}.attn.y": torch.full((16,), mu) for layer in range(2)}
    edge = Edge(Node(found.source, column), Node(found.target, row), weight)
    with torch.no_grad():
        untouched = dense(tokens)
        got = dense(tokens, weights=cut_weights(dense, [edge], values))
    assert torch.allclose(got, expected, atol=1e-5) and not torch.allclose(got, untouched, atol=1e-5)
    assert torch.equal(dense(tokens), untouched)  # the model itself was not edited


def test_what_cannot_be_cut_is_refused(dense: SparseTransformer) -> None:
    values = {site: torch.zeros(width) for site, width in dense.widths.items()}
    act, q = Node("0.attn.act_in", 1), Node("0.attn.q", 2)
    with pytest.raises(ValueError, match=r"no weight 0.attn.q\[2\] -> 0.attn.act_in\[1\]"):
        cut_weights(dense, [Edge(q, act, 1.0)], values)
    with pytest.raises(ValueError, match=r"no weight 0.attn.act_in\[1\] -> 0.attn.q\[99\]"):
        cut_weights(dense, [Edge(act, Node("0.attn.q", 99), 1.0)], values)
    with pytest.raises(ValueError, match="no ablation value of 0.attn.y"):
        missing = {site: value for site, value in values.items() if not site.endswith("attn.y")}
        cut_weights(dense, [Edge(Node("0.attn.v", 0), Node("0.attn.resid_delta", 0), 1.0)], missing)
    bare = SparseTransformer(dense.config.replace(bias=False)).initialize(0)
    with pytest.raises(ValueError, match="this model has no blocks.0.attn.c_attn.bias; give a model with biases"):
        cut_weights(bare, [Edge(act, q, 1.0)], values)
    assert cut_weights(dense, [], values) == {}


# --- refinement, on a model whose circuit is known


@pytest.fixture(scope="module")
def truth() -> GroundTruth:
    return quote_model()


def pruned(truth: GroundTruth) -> Circuit:
    return prune(truth.model, truth.task, tokenizer=truth.tokenizer, reference=truth.reference, config=QUICK)


@pytest.fixture(scope="module")
def with_a_useless_edge(truth: GroundTruth) -> tuple[GroundTruth, Edge]:
    """The same model with one more small weight between two nodes of its circuit."""
    model = copy.deepcopy(truth.model)
    kept = set(truth.nodes)
    for pair in site_pairs(model):
        for node in sorted(kept, key=str):
            for other in sorted(kept, key=str):
                if (
                    node.site == pair.source
                    and other.site == pair.target
                    and pair.weight[other.channel, node.channel] == 0
                ):
                    with torch.no_grad():
                        pair.weight[other.channel, node.channel] = 1e-3
                    reference = Reference(
                        values=truth.reference.values,
                        tokens=truth.reference.tokens,
                        corpus_hash=truth.reference.corpus_hash,
                        model_hash=model_hash(model),
                    )
                    weight = float(pair.weight[other.channel, node.channel])
                    return replace(truth, model=model, reference=reference), Edge(node, other, weight)
    raise AssertionError("every two nodes of the circuit are joined")


def refined(truth: GroundTruth, circuit: Circuit, **settings: bool) -> Circuit:
    return refine(circuit, truth.model, truth.task, tokenizer=truth.tokenizer, **settings)


def test_a_circuit_of_true_edges_stays(truth: GroundTruth) -> None:
    circuit = pruned(truth)
    smaller = refined(truth, circuit, minimal=True)
    assert smaller.removable == () and smaller.met_target
    assert set(smaller.nodes) <= set(circuit.nodes) and {e[:2] for e in smaller.edges} <= {e[:2] for e in circuit.edges}
    assert {edge[:2] for edge in smaller.edges} | {edge[:2] for edge in smaller.cut_edges} <= {
        e[:2] for e in circuit.edges
    }


def test_a_useless_edge_is_cut(with_a_useless_edge: tuple[GroundTruth, Edge]) -> None:
    truth, useless = with_a_useless_edge
    circuit = pruned(truth)
    assert useless[:2] in {edge[:2] for edge in circuit.edges}
    named = f"{useless.source} -> {useless.target}"
    assert named in minimality(circuit, truth.model, truth.task, tokenizer=truth.tokenizer)
    smaller = refined(truth, circuit, minimal=True)
    assert useless[:2] in {edge[:2] for edge in smaller.cut_edges} and useless[:2] not in {e[:2] for e in smaller.edges}
    assert smaller.removable == () == minimality(smaller, truth.model, truth.task, tokenizer=truth.tokenizer)
    batches = [truth.task.pairs(split, 9, truth.tokenizer) for split in ("val", "train")]

    def loss(circuit: Circuit) -> float:
        tap, weights = circuit_tap(circuit, truth.model), circuit_weights(circuit, truth.model)
        with torch.no_grad():
            found = [pair_losses(truth.model, pairs, tap, weights=weights) for pairs in batches]
        return float(torch.cat(found).mean())

    for node, effect in zip(smaller.nodes, smaller.node_effects, strict=True):
        left = tuple(edge for edge in smaller.cut_edges if node not in edge[:2])
        fewer = smaller.replace(nodes=tuple(n for n in smaller.nodes if n != node), cut_edges=left)
        assert loss(fewer) - loss(smaller) == pytest.approx(effect, abs=1e-4)


@pytest.mark.parametrize(("counted", "scored"), [(64, 2), (2, 64)])
def test_embedding_entries_are_counted_where_pruning_counted_them(
    truth: GroundTruth, monkeypatch: pytest.MonkeyPatch, counted: int, scored: int
) -> None:
    """Over the training prompts of the recipe, more or fewer than a loss is reported on; here by hand, from their texts."""
    monkeypatch.setattr(refining, "EVAL_PAIRS", scored)
    circuit = pruned(truth)
    smaller = refined(truth, circuit.replace(recipe={**circuit.recipe, "train_pairs": counted}))
    texts = [text for pair in truth.task.sample("train", counted) for text in (pair.prompt_a, pair.prompt_b)]
    tokens = tokens_of(truth, texts)
    read = {node.channel for node in smaller.nodes if node.site.endswith("act_in") or node.site == "final_resid"}
    there = truth.model.embed.weight.detach().nonzero().tolist()
    expected = {(token, channel) for token, channel in there if token in tokens and channel in read}
    assert {(edge.token, edge.node.channel) for edge in smaller.edges_embed} == expected


def tokens_of(truth: GroundTruth, texts: list[str]) -> set[int]:
    return {token for encoded in encode_batch(truth.tokenizer, texts) for token in encoded}


def test_what_is_stored_is_what_a_fresh_evaluation_finds(
    with_a_useless_edge: tuple[GroundTruth, Edge], tmp_path: Path
) -> None:
    truth, _ = with_a_useless_edge
    smaller = refined(truth, pruned(truth))
    smaller.save(tmp_path / "circuit")
    again = sc.load_circuit(tmp_path / "circuit")
    assert (again.edges, again.cut_edges, again.removable) == (smaller.edges, smaller.cut_edges, smaller.removable)
    assert again.summary()["cut_edges"] == len(smaller.cut_edges) >= 1
    found = evaluate(again, truth.model, truth.task, tokenizer=truth.tokenizer)
    assert found.loss == pytest.approx(smaller.loss.test, abs=1e-6)
    assert found.calibrated_loss == pytest.approx(smaller.calibrated_loss.test, abs=1e-6)
    assert again.calibration == smaller.calibration and smaller.calibrated_loss.train <= smaller.loss.train
    pairs = truth.task.pairs("test", 64, truth.tokenizer)
    tap = circuit_tap(again, truth.model)
    with torch.no_grad():
        cut = pair_losses(truth.model, pairs, tap, weights=circuit_weights(again, truth.model))
        whole = pair_losses(truth.model, pairs, tap)
    assert not torch.equal(cut, whole)


def test_the_verb_finds_the_model_from_another_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pruned circuit refers to its model by a path relative to itself; the refined one lies elsewhere."""
    truth = quote_model()
    with new_folder(tmp_path / "model", "model") as draft:
        save_model(truth.model, draft, tokenizer_hash(truth.tokenizer))
        save_tokenizer(truth.tokenizer, draft)
        save_reference(truth.reference, draft)
    save_task(truth.task, tmp_path / "task.jsonl")
    model, task = sc.load_model(tmp_path / "model"), sc.load_task(tmp_path / "task.jsonl")
    circuit = prune(model, task, tokenizer=truth.tokenizer, config=QUICK)
    where = Origin(where=str(tmp_path / "task.jsonl"), hash=circuit.task_origin.hash)
    circuit.replace(task_origin=where).save(tmp_path / "one" / "circuit")
    away = str(tmp_path / "deep" / "er" / "c")
    assert main(["circuit", "refine", str(tmp_path / "one" / "circuit"), "--out", away, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["edges"] <= len(circuit.edges) and shown["cut_edges"] >= 0 and isinstance(shown["removable"], list)
    assert main(["circuit", "eval", away, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(shown["loss"]["test"], abs=1e-6)


def test_what_cannot_be_refined_is_refused(truth: GroundTruth) -> None:
    circuit = pruned(truth)
    with pytest.raises(ValueError, match="above its target 1e-09; refine a circuit that meets it"):
        refined(truth, circuit.replace(target_loss=1e-9))
    with pytest.raises(ValueError, match="only a circuit with a target on its uncalibrated loss"):
        refined(truth, circuit.replace(target_on="calibrated"))
    with pytest.raises(ValueError, match="made with another model"):
        refined(replace(truth, model=copy.deepcopy(truth.model).apply(nudge)), circuit)


def nudge(module: torch.nn.Module) -> None:
    if isinstance(module, torch.nn.Embedding):
        with torch.no_grad():
            module.weight[0, 0] += 1.0
