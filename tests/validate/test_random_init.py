"""Models of random weights: what stays is exactly what is said to stay, and the small model's circuit is not found in them."""

from collections.abc import Callable

import pytest
import torch

from sparse_circuits.circuit.ablation import task_means
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.validate.random_init import matrices, on_model, random_init, redrawn, shuffled
from validate.repeated import QUICK, rerun_of
from viz.made_up import sparse_model

Change = Callable[[SparseTransformer, int], SparseTransformer]


def sparse() -> SparseTransformer:
    return sparse_model(2, 32, 0.06)


@pytest.mark.parametrize("change", [redrawn, shuffled])
def test_zeros_and_vectors_stay_and_the_rest_moves(change: Change) -> None:
    model = sparse()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    changed = change(model, 3)
    for name, weight in changed.state_dict().items():
        assert torch.equal(model.state_dict()[name], before[name]), "the model itself is left alone"
        if weight.dim() == 1:  # gains, biases, sinks
            assert torch.equal(weight, before[name]), name
        else:
            assert torch.equal(weight != 0, before[name] != 0) and not torch.equal(weight, before[name]), name
    assert changed.source is None and not changed.training
    assert all(torch.equal(a, b) for a, b in zip(changed.parameters(), change(model, 3).parameters(), strict=True))
    assert not torch.equal(changed.embed.weight, change(model, 4).embed.weight)


def test_each_matrix_keeps_its_mean_and_standard_deviation_or_its_values() -> None:
    """q, k and v are matrices of their own; here they differ in scale."""
    model = sparse_model(1, 32, 0.06)
    with torch.no_grad():
        for scale, part in zip((0.1, 1.0, 5.0), model.blocks[0].attn.c_attn.weight.chunk(3), strict=True):
            part.mul_(scale)
    own = [matrix[matrix != 0].double() for matrix in matrices(model)]
    assert len(own) == 2 + 1 + 3 + 1 + 2  # embed, unembed; bigram; q, k, v, out; two of the MLP
    for found, values in zip(matrices(redrawn(model, 0)), own, strict=True):
        new = found[found != 0].double()
        assert float(new.mean()) == pytest.approx(float(values.mean()), abs=1e-6)
        assert float(new.std()) == pytest.approx(float(values.std()), rel=1e-5)
    for found, values in zip(matrices(shuffled(model, 0)), own, strict=True):
        assert torch.equal(found[found != 0].double().sort().values, values.sort().values)


def test_a_single_weight_and_a_tied_matrix() -> None:
    config = ModelConfig(vocab_size=5, n_layer=1, d_model=4, n_head=1, d_head=4, tied_unembed=True)
    model = SparseTransformer(config).initialize(0).eval()
    with torch.no_grad():
        model.blocks[0].mlp.c_fc.weight.zero_()[2, 1] = 0.7
    changed = redrawn(model, 0)
    assert torch.equal(changed.blocks[0].mlp.c_fc.weight, model.blocks[0].mlp.c_fc.weight)
    assert changed.unembed.weight is changed.embed.weight
    assert not torch.equal(changed.embed.weight, model.embed.weight)


def test_ablation_values_are_measured_on_the_changed_model() -> None:
    rerun = rerun_of(recipe=QUICK.replace(ablation="mean_pretrain"))
    other = shuffled(rerun.model, 0)
    problem = on_model(rerun.problem, other)
    assert problem.config.ablation == "mean_task" and problem.reference is None and problem.model is other
    for site, value in task_means(other, problem.pairs["train"]).items():
        assert torch.equal(problem.values[site], value)
    zero = on_model(rerun_of(recipe=QUICK.replace(ablation="zero")).problem, other)
    assert zero.config.ablation == "zero" and not any(bool(value.any()) for value in zero.values.values())


def test_the_target_is_never_reached_and_that_is_no_error() -> None:
    (row,) = random_init(rerun_of(n=2))
    assert row.outcome == "pass" and row.details["bound"] and row.number == "F11"
    assert row.value.value == pytest.approx(float(torch.tensor(60 / row.details["own"]["nodes"][0]).log2()), rel=1e-5)
    assert set(row.details["runs"]) == {"weights redrawn", "weights shuffled"}
    assert all(loss > 0.15 for losses in row.details["model_loss"].values() for loss in losses)
    assert row.details["ablation"] == "mean_task"
