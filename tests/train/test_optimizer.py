"""The optimizer step: the learning rate by hand, and whole steps against a re-implementation in numpy (METHOD 1c)."""

import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

import sparse_circuits as sc
from sparse_circuits.data.shards import Shards
from sparse_circuits.hub.io import LAYOUTS, export_model
from sparse_circuits.model.config import AbsTopKSite
from sparse_circuits.model.folder import model_hash
from sparse_circuits.model.transformer import SparseTransformer, sinusoids
from sparse_circuits.train.config import TrainConfig
from sparse_circuits.train.loop import train
from sparse_circuits.train.optimizer import OptimizerConfig, SparseAdam, learning_rate, scale_gradients
from sparse_circuits.train.sparsity import SparsityConfig
from train.runs import StopAfter, curve, model_hashes, tiny_config

SPARSE = SparsityConfig(fraction=1 / 64)
DENSE = SparsityConfig(fraction=1.0, min_alive=0)


# --- learning rate


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (1, 1 / 10 / 8),  # warm-up over 1% of 1000 steps, and sqrt(1/64) while dense
        (10, 1 / 8),
        (255, (1 - 245 / 990) * math.sqrt((1 / 64) / (65 / 128))),
        (500, 1 - 490 / 990),
        (750, 1 - 740 / 990),
        (1000, 0.0),
    ],
)
def test_learning_rate_by_hand(step: int, factor: float) -> None:
    config = OptimizerConfig(lr=1.28e-2)
    assert learning_rate(config, SPARSE, step, 1000) == pytest.approx(1.28e-2 * factor, rel=1e-9, abs=1e-15)


def test_lr_is_the_rate_at_target_sparsity() -> None:
    """D1: the factor is at most 1; the replication's 1/sqrt(f_t) gives the same at lr_repl = lr * sqrt(f_final)."""
    ours, plain = OptimizerConfig(lr=0.02), OptimizerConfig(lr=0.02, sharkfin=False)
    replication = OptimizerConfig(lr=0.02 * math.sqrt(1 / 64), sharkfin=False)
    for step in range(1, 1000, 37):
        rate = learning_rate(ours, SPARSE, step, 1000)
        assert rate <= learning_rate(plain, SPARSE, step, 1000) * (1 + 1e-12)
        theirs = learning_rate(replication, SPARSE, step, 1000) / math.sqrt(SPARSE.fraction_at(step / 1000))
        assert rate == pytest.approx(theirs)


def test_a_dense_model_has_no_fin_and_warmup_may_be_off() -> None:
    assert learning_rate(OptimizerConfig(lr=1.0, warmup=0.0), DENSE, 25, 100) == pytest.approx(0.75)


# --- gradient scale


def gradients(*values: float) -> list[Tensor]:
    tensors = [torch.zeros(1, requires_grad=True) for _ in values]
    for tensor, value in zip(tensors, values, strict=True):
        tensor.grad = torch.tensor([value])
    return tensors


@pytest.mark.parametrize("size", [1e-4, 1.0, 100.0])
def test_gradients_are_always_normalised(size: float) -> None:
    tensors = gradients(3 * size, -4 * size, 0.0, 0.0)
    rms = scale_gradients(tensors, "normalize")
    assert float(rms) == pytest.approx(2.5 * size)
    expected = [value * size / (2.5 * size + 1e-5) for value in (3, -4, 0, 0)]
    assert [float(t.grad) for t in tensors if t.grad is not None] == pytest.approx(expected)


@pytest.mark.parametrize(("size", "divisor"), [(0.1, 1.0), (10.0, 25.00001)])
def test_clipping_leaves_small_gradients_alone(size: float, divisor: float) -> None:
    tensors = gradients(3 * size, -4 * size, 0.0, 0.0)
    scale_gradients(tensors, "clip")
    assert [float(t.grad) for t in tensors if t.grad is not None] == pytest.approx(
        [3 * size / divisor, -4 * size / divisor, 0, 0]
    )


def test_unknown_gradient_scale_raises() -> None:
    with pytest.raises(ValueError, match="gradients: .*'normalize' or 'clip'.*normalise"):
        OptimizerConfig.from_dict({"lr": 0.1, "gradients": "normalise"})


# --- whole steps


class NumpyRun:
    """METHOD 1c in double precision: normalise, Adam, projection, decay with the rate of this very step."""

    def __init__(self, weights: dict[str, np.ndarray], optimizer: OptimizerConfig, sparsity: SparsityConfig) -> None:
        self.weights, self.optimizer, self.sparsity = weights, optimizer, sparsity
        self.m = {name: np.zeros_like(w) for name, w in weights.items()}
        self.v = {name: np.zeros_like(w) for name, w in weights.items()}

    def step(self, grads: dict[str, np.ndarray], t: int, steps: int) -> None:
        warm = 0.01 * steps
        s = min(max((t / steps - 0.01) / 0.49, 0), 1)
        f = self.sparsity.fraction if s == 1 else 1 - (1 - self.sparsity.fraction) * s
        lr = self.optimizer.lr * min(t / warm, 1) * (1 - max(t - warm, 0) / (steps - warm))
        lr *= math.sqrt(self.sparsity.fraction / f)
        count = sum(g.size for g in grads.values())
        rms = math.sqrt(sum((g**2).sum() for g in grads.values()) / count)
        for name, w in self.weights.items():
            g = grads[name] / (rms + 1e-5)
            self.m[name] = 0.9 * self.m[name] + 0.1 * g
            self.v[name] = 0.95 * self.v[name] + 0.05 * g**2
            root = np.sqrt(self.v[name] / (1 - 0.95**t)) + 0.1
            w -= lr * (self.m[name] / (1 - 0.9**t)) / root
            if (w.ndim == 2 and name != "bigram.weight") or name.endswith("bias"):
                w[~self.kept(name, w, max(1, int(f * w.size)))] = 0
            if w.ndim > 1 and name != "bigram.weight":
                w -= 0.1 * lr * w

    def kept(self, name: str, w: np.ndarray, k: int) -> np.ndarray:
        """The two strongest of every neuron, then the largest of all others."""
        size = np.abs(w)
        if w.ndim == 2 and "embed" not in name:
            axis = 0 if "c_proj" in name else 1
            second = np.sort(size, axis=axis).take([-2], axis=axis)
            size = np.where(size >= second, np.inf, size)
        order = np.argsort(-size.reshape(-1), kind="stable")
        kept = np.zeros(w.size, bool)
        kept[order[:k]] = True
        return kept.reshape(w.shape)


def test_twenty_steps_equal_a_plain_numpy_re_implementation() -> None:
    model = SparseTransformer(tiny_config(40).model).initialize(0)
    sparsity, optimizer = SparsityConfig(fraction=0.2, min_alive=2), OptimizerConfig(lr=0.05)
    ours = SparseAdam(model, optimizer, sparsity)
    theirs = NumpyRun({n: w.detach().double().numpy() for n, w in model.named_parameters()}, optimizer, sparsity)
    generator = torch.Generator().manual_seed(1)
    zeroed, returned = torch.zeros(0), False
    for t in range(1, 21):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 7
        grads = {n: w.grad.double().numpy() for n, w in model.named_parameters() if w.grad is not None}
        theirs.step(grads, t, 20)
        ours.step(t, 20)
        now = model.get_parameter("blocks.0.mlp.c_fc.weight") == 0
        returned = returned or (zeroed.numel() > 0 and bool((zeroed & ~now).any()))
        zeroed = now
        for name, parameter in model.named_parameters():
            np.testing.assert_allclose(
                parameter.detach().numpy(), theirs.weights[name], atol=2e-6, err_msg=f"{name} {t}"
            )
    assert returned, "no zeroed weight came back, though moments are kept (METHOD 1b)"


def test_decay_uses_the_rate_of_this_step_and_spares_vectors_and_the_bigram_table() -> None:
    """METHOD C16. With zero gradients Adam moves nothing, so what is left is the decay alone."""
    model = SparseTransformer(tiny_config(40).model).initialize(0)
    config = OptimizerConfig(lr=0.5)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    lr, rms = SparseAdam(model, config, DENSE).step(30, 100)
    assert float(rms) == 0 and lr == learning_rate(config, DENSE, 30, 100)
    for name, weight in model.named_parameters():
        decays = weight.dim() == 2 and name != "bigram.weight"
        assert torch.allclose(weight, before[name] * (1 - 0.1 * lr if decays else 1), rtol=1e-6, atol=0), name


def test_gradients_of_exempt_tensors_count_in_the_common_scale() -> None:
    model = SparseTransformer(tiny_config(40).model).initialize(0)
    for name, parameter in model.named_parameters():
        parameter.grad = torch.full_like(parameter, 2.0 if name == "bigram.weight" else 0.0)
    total = sum(p.numel() for p in model.parameters())
    _, rms = SparseAdam(model, OptimizerConfig(lr=0.1), DENSE).step(1, 10)
    assert float(rms) == pytest.approx(2 * math.sqrt(40 * 40 / total))


def test_saved_moments_continue_exactly() -> None:
    def stepped(model: SparseTransformer, adam: SparseAdam, steps: range) -> None:
        for t in steps:
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(t))
            adam.step(t, 10)

    sparsity, config = SparsityConfig(fraction=0.3, min_alive=0), OptimizerConfig(lr=0.05)
    one, two = (SparseTransformer(tiny_config(40).model).initialize(0) for _ in range(2))
    whole, first = SparseAdam(one, config, sparsity), SparseAdam(two, config, sparsity)
    stepped(one, whole, range(1, 8))
    stepped(two, first, range(1, 5))
    second = SparseAdam(two, config, sparsity)
    second.load_state({name: value.clone() for name, value in first.state().items()})
    stepped(two, second, range(5, 8))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


# --- the options of the released models


FIXED = {"positions": "concat", "d_pos_emb": 4, "sinusoidal_positions": True, "learnable_bigram": False}
LEARNED = {"positions": "learned", "tied_unembed": True}
EVERY_OPTION: dict[str, dict[str, Any]] = {
    "fixed": {
        **FIXED,
        "norm": "layer",
        "activation": "relu",
        "residual_activation": "relu",
        "logits_bias": True,
        "tied_unembed": True,
        "afrac_sites": get_args(AbsTopKSite),
    },
    "learned": {**LEARNED, "bias": False, "norm": "layer", "ln_bias": False, "sink": False},
    "concat": {"positions": "concat", "d_pos_emb": 4, "tied_unembed": False, "activation": "relu"},
}


def model_with(**options: Any) -> SparseTransformer:
    return SparseTransformer(tiny_config(40).model.replace(**options)).initialize(0)


def test_what_is_fixed_has_no_moments_and_never_moves() -> None:
    model = model_with(**FIXED)
    with torch.no_grad():
        model.get_parameter("bigram.weight").fill_(2.0)
    adam = SparseAdam(model, OptimizerConfig(lr=0.5), SPARSE.replace(min_alive=0))
    assert set(adam.names) == {name for name, _ in model.named_parameters()} - {"bigram.weight", "positions.weight"}
    for step in range(1, 5):
        model(torch.arange(8)[None]).square().mean().backward()
        adam.step(step, 10)
    assert torch.all(model.get_parameter("bigram.weight") == 2.0)
    assert torch.equal(model.get_parameter("positions.weight"), sinusoids(16, 4))
    assert set(adam.state()) == adam.state_names()


def test_learned_positions_decay_like_other_matrices_and_tied_ones_once() -> None:
    model = model_with(**LEARNED)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adam = SparseAdam(model, OptimizerConfig(lr=0.5), DENSE)
    assert adam.names.count("embed.weight") == 1 and "unembed.weight" not in adam.names
    lr, _ = adam.step(30, 100)
    for name in ("positions.weight", "embed.weight"):
        assert torch.allclose(model.get_parameter(name), before[name] * (1 - 0.1 * lr), rtol=1e-6, atol=0), name
    assert model.unembed.weight is model.embed.weight


def test_norm_biases_do_not_decay() -> None:
    model = model_with(norm="layer")
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.fill_(0.75)
        parameter.grad = torch.zeros_like(parameter)
    SparseAdam(model, OptimizerConfig(lr=0.5), DENSE).step(30, 100)
    assert all(torch.all(weight == 0.75) for name, weight in model.named_parameters() if "norm" in name)


def run_config(options: dict[str, Any]) -> TrainConfig:
    config = tiny_config(steps=20)
    return config.replace(model=config.model.replace(**options))


@pytest.mark.parametrize("options", EVERY_OPTION)
def test_training_with_every_option_resumes_and_exports(
    options: str, shards: Shards, tokenizer: Any, tmp_path: Path
) -> None:
    config = run_config(EVERY_OPTION[options])
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    result = train(config, shards, tokenizer, whole)
    assert result.steps == 20 and math.isfinite(result.val_loss)
    with pytest.raises(KeyboardInterrupt):
        train(config, shards, tokenizer, stopped, progress=StopAfter(10))
    train(config, shards, tokenizer, stopped, resume=True)
    assert model_hashes(whole) == model_hashes(stopped) and curve(whole) == curve(stopped)
    model, start = sc.load_model(whole), SparseTransformer(config.model).initialize(config.seed)
    assert model.config == config.model
    for name, weight in start.named_parameters():
        moved = not torch.equal(weight, model.get_parameter(name))
        assert moved == weight.requires_grad, name
        if weight.requires_grad and weight.dim() == 2 and name != "bigram.weight":
            assert int(model.get_parameter(name).count_nonzero()) == max(1, int(0.2 * weight.numel())), name
    if config.model.logits_bias:
        assert torch.all(model.get_buffer("logits_bias") == 0)
    for to in LAYOUTS:
        export_model(whole, to, tmp_path / to)
        assert model_hash(sc.load_model(tmp_path / to)) == model_hash(model)
