"""prune(): what it refuses before it learns, and what a circuit of a model with a known answer says."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparse_circuits.circuit.ablation import Reference, reference_sites, save_reference
from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.circuit.evaluate import circuit_tap, evaluate, pair_losses
from sparse_circuits.data.corpus import open_sources
from sparse_circuits.data.shards import build_shards
from sparse_circuits.data.tokenizer import as_fast_tokenizer, tokenizer_hash, train_tokenizer
from sparse_circuits.files import new_folder
from sparse_circuits.hub.load import load_model
from sparse_circuits.model.folder import model_hash, save_model
from sparse_circuits.prune import pipeline
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.pipeline import best, prune, prune_seeds
from sparse_circuits.validate.ground_truth import GroundTruth, quote_model
from viz.made_up import made_up, tokenizer_of

QUICK = PruneConfig(steps=80, lr=0.05, k_coef=3e-3, batch_pairs=2, train_pairs=64, val_pairs=9, choice_train_pairs=9)


@pytest.fixture
def no_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "learn_masks", lambda *given, **named: pytest.fail("learned before refusing"))


def zeros() -> Reference:
    model = made_up().model
    values = {site: torch.zeros(model.widths[site]) for site in reference_sites(2)}
    return Reference(values=values, tokens=1, corpus_hash="", model_hash=model_hash(model))


def refuse(message: str, **changes: Any) -> None:
    given = {"tokenizer": made_up().tokenizer, "reference": zeros(), "train_pairs": 6, "val_pairs": 2, **changes}
    with pytest.raises(ValueError, match=message) as caught:
        prune(made_up().model, made_up().task, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_learning")
class TestRefusals:
    def test_a_model_that_misses_the_target(self) -> None:
        refuse(
            r"the model itself scores \d.*two_quotes .*above the target 0.01.*train the model longer", target_loss=0.01
        )

    def test_an_impossible_target(self) -> None:
        refuse("target_loss must be above 0 nats, given 0", target_loss=0.0)

    def test_another_tokenizer(self) -> None:
        refuse("the tokenizer has 312 tokens, the model 320", tokenizer=tokenizer_of(312), target_loss=99.0)

    def test_an_unknown_ablation(self) -> None:
        refuse("ablation: .*'zero', 'mean_pretrain' or 'mean_task'", ablation="mean")

    def test_an_unknown_setting(self) -> None:
        refuse("unknown key 'k_cost'; allowed: steps", k_cost=1.0)

    def test_reference_values_that_are_nowhere(self, tmp_path: Path) -> None:
        refuse("give reference=", reference=None, target_loss=99.0)
        refuse("sparse-circuits model reference", reference=tmp_path, target_loss=99.0)

    def test_a_model_folder_without_reference_values(self, tmp_path: Path) -> None:
        with new_folder(tmp_path / "model") as draft:
            save_model(made_up().model, draft, tokenizer_hash(made_up().tokenizer))
        with pytest.raises(ValueError, match=r"no ablation reference values at .*sparse-circuits model reference"):
            prune(load_model(tmp_path / "model"), made_up().task, tokenizer=made_up().tokenizer, target_loss=99.0)

    def test_reference_values_of_another_model(self, tmp_path: Path) -> None:
        other = Reference(values=zeros().values, tokens=1, corpus_hash="", model_hash="0" * 64)
        refuse("measured on another model", reference=other, target_loss=99.0)
        save_reference(other, tmp_path)
        refuse("measured on another model", reference=tmp_path, target_loss=99.0)

    def test_shards_of_another_tokenizer(self, tmp_path: Path) -> None:
        (tmp_path / "a.py").write_text("x = 1\n" * 30)
        (tmp_path / "b.py").write_text("y = 2\n" * 30)
        other = as_fast_tokenizer(train_tokenizer(["one two three four five six\n" * 9], 260))
        shards = build_shards(open_sources((str(tmp_path),)), other, tmp_path / "shards")
        refuse("made with another tokenizer", reference=shards, target_loss=99.0)


# --- a model whose circuit is known (tests/validate proves that pruning finds exactly it)


@pytest.fixture(scope="module")
def truth() -> GroundTruth:
    return quote_model()


@pytest.fixture(scope="module")
def circuits(truth: GroundTruth) -> tuple[Circuit, ...]:
    return prune_seeds(
        truth.model, truth.task, tokenizer=truth.tokenizer, seeds=(4, 5), reference=truth.reference, config=QUICK
    )


def test_the_circuit_says_what_evaluate_finds(truth: GroundTruth, circuits: tuple[Circuit, ...]) -> None:
    for circuit, seed in zip(circuits, (4, 5), strict=True):
        assert circuit.seed == seed and circuit.met_target and circuit.target_loss == 0.15
        found = evaluate(circuit, truth.model, truth.task, tokenizer=truth.tokenizer)
        assert found.loss == pytest.approx(circuit.loss.test, abs=1e-5)
        assert found.accuracy == pytest.approx(circuit.accuracy)
        assert found.calibrated_loss == pytest.approx(circuit.calibrated_loss.test, abs=1e-5)
        assert len(circuit.node_effects) == len(circuit.nodes) and len(circuit.nodes) < 100
        assert circuit.recipe == QUICK.to_dict() and circuit.reference["tokens"] == truth.reference.tokens
        assert circuit.empty_loss > 0.6 and circuit.model_loss.test < 0.01
        assert {edge.source for edge in circuit.edges} | {edge.target for edge in circuit.edges} <= set(circuit.nodes)


def mean_and_bound(truth: GroundTruth, circuit: Circuit) -> tuple[float, float]:
    """Mean loss over validation and training pairs of the choice, and the larger split's mean plus one standard error."""
    losses, bounds = [], []
    for split, count in (("val", QUICK.val_pairs), ("train", QUICK.choice_train_pairs)):
        pairs = truth.task.pairs(split, count, truth.tokenizer)
        with torch.no_grad():
            found = pair_losses(truth.model, pairs, circuit_tap(circuit, truth.model)).double().numpy()
        templates = np.array([pair.template for pair in pairs.texts])
        means = [found[templates == template].mean() for template in np.unique(templates)]
        assert len(means) >= 3
        bounds.append(found.mean() + np.std(means, ddof=1) / math.sqrt(len(means)))
        losses.append(found)
    return np.concatenate(losses).mean(), max(bounds)


def test_no_kept_node_can_go_and_its_effect_is_what_that_would_cost(
    truth: GroundTruth, circuits: tuple[Circuit, ...]
) -> None:
    for circuit in circuits:
        base, bound = mean_and_bound(truth, circuit)
        assert bound <= circuit.target_loss
        for node, effect in zip(circuit.nodes, circuit.node_effects, strict=True):
            fewer = circuit.replace(nodes=tuple(other for other in circuit.nodes if other != node))
            loss, bound = mean_and_bound(truth, fewer)
            assert bound > circuit.target_loss and loss - base == pytest.approx(effect, abs=1e-4)


def test_the_target_may_be_on_the_calibrated_loss(truth: GroundTruth) -> None:
    circuit = prune(
        truth.model,
        truth.task,
        tokenizer=truth.tokenizer,
        reference=truth.reference,
        config=QUICK.replace(target_on="calibrated", train_pairs=8, val_pairs=3),
    )
    assert circuit.target_on == "calibrated" and circuit.met_target == (circuit.calibrated_loss.test <= 0.15)


def test_the_best_meets_the_target_and_is_smallest(circuits: tuple[Circuit, ...]) -> None:
    base = circuits[0]
    small = base.replace(nodes=base.nodes[:2], seed=1)
    missed = base.replace(nodes=(), loss=type(base.loss)(train=1.0, val=1.0, test=0.0), seed=2)
    assert [best(order).seed for order in ((base, small, missed), (missed, small, base))] == [1, 1]
    assert best((missed,)) is missed
    near = base.replace(loss=type(base.loss)(train=0.2, val=0.2, test=0.2), seed=3)
    assert best((missed, near)) is near, "of misses the one that loses least, not one without nodes"
