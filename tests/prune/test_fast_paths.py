"""The same circuit with every shortcut and without any: what a pass leaves out changes nothing but its time (METHOD D8)."""

from typing import Any

import pytest
import torch

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.circuit.mask_scorer import MaskScorer
from sparse_circuits.kernels import rms_norm_cpu, sink_attention, sparse_product
from sparse_circuits.model import abs_topk
from sparse_circuits.model.taps import Mask
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.pipeline import prune_seeds
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.validate.ground_truth import GroundTruth, quote_model

RECIPE = PruneConfig(steps=60, lr=0.05, batch_pairs=4, train_pairs=128, val_pairs=24, choice_train_pairs=24)


@pytest.fixture(scope="module")
def truth() -> GroundTruth:
    return quote_model()


def found(truth: GroundTruth) -> tuple[Circuit, ...]:
    given: dict[str, Any] = {
        "tokenizer": truth.tokenizer,
        "config": RECIPE,
        "ablation": "mean_task",
        "target_loss": 0.1,
    }
    return prune_seeds(truth.model, truth.task, seeds=(0, 1, 2), **given)


@pytest.mark.slow
def test_the_same_circuits_without_any_fast_path(truth: GroundTruth, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = found(truth)
    monkeypatch.setattr(Mask, "fixed", lambda self, site: None)
    monkeypatch.setattr(Mask, "narrow", lambda self, site, x, most=0.5: None)
    monkeypatch.setattr(Mask, "positionwise", False)
    monkeypatch.setattr(Pairs, "by_length", lambda self, copies=1: [torch.arange(self.n)])
    monkeypatch.setattr(abs_topk, "_has_kernel", lambda x: False)
    monkeypatch.setattr(sink_attention, "available", lambda q: False)
    monkeypatch.setattr(rms_norm_cpu, "available", lambda x: False)
    monkeypatch.setattr(sparse_product, "form_of", lambda weight, x: None)
    monkeypatch.setattr(MaskScorer, "_entry", lambda self, mask, union: None)
    plain = found(truth)
    for one, other in zip(fast, plain, strict=True):
        assert one.nodes == other.nodes and one.edges == other.edges
        assert one.loss is not None and other.loss is not None
        assert one.loss.test == pytest.approx(other.loss.test, abs=1e-5)
        assert [point.nodes for point in one.curve] == [point.nodes for point in other.curve]
        assert one.node_effects == pytest.approx(other.node_effects, abs=1e-4)
