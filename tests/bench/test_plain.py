"""The other side of the benchmarks computes the same: else the ratios would compare different things."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from refusals import refused
from sparse_circuits.bench.machine import Ceilings, measure_ceilings, step_bytes, step_operations
from sparse_circuits.bench.plain import PlainAdam, PlainTransformer, plain_abs_topk
from sparse_circuits.bench.result import Measured, interleaved, spread
from sparse_circuits.bench.suite import run_benchmarks, table
from sparse_circuits.bench.training import bench_abs_topk
from sparse_circuits.model.abs_topk import abs_topk
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.train.optimizer import OptimizerConfig, SparseAdam
from sparse_circuits.train.sparsity import SparsityConfig

CONFIG = ModelConfig(vocab_size=40, n_layer=2, d_model=32, n_head=4, d_head=8, block_size=16, afrac=0.25)


def losses(model: torch.nn.Module, optimizer: SparseAdam | PlainAdam, steps: int) -> list[float]:
    generator, found = torch.Generator().manual_seed(7), []
    for step in range(1, steps + 1):
        start = torch.randint(40, (8, 1), generator=generator)
        batch = (start + torch.arange(17)) % 40  # counting: something to learn
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step(step, steps)
        found.append(loss.item())
    return found


def test_same_logits_same_curve_same_zeros() -> None:
    sparsity, adam = SparsityConfig(fraction=0.2, min_alive=2, anneal_end=0.3), OptimizerConfig(lr=0.003, eps=1e-3)
    ours = SparseTransformer(CONFIG).initialize(0)
    plain = PlainTransformer(CONFIG)
    plain.load_state_dict(ours.state_dict())
    tokens = torch.randint(40, (3, 16))
    torch.testing.assert_close(plain(tokens), ours(tokens), atol=1e-5, rtol=1e-5)
    curves = [
        losses(m, o, 60)
        for m, o in ((ours, SparseAdam(ours, adam, sparsity)), (plain, PlainAdam(plain, adam, sparsity)))
    ]
    assert curves[0][-1] < curves[0][0] - 1
    np.testing.assert_allclose(curves[0][:25], curves[1][:25], atol=1e-4)
    np.testing.assert_allclose(*curves, atol=5e-3)  # a rounding that decides a top-k is felt later
    for name, weight in ours.named_parameters():
        assert int(weight.count_nonzero()) == int(plain.get_parameter(name).count_nonzero()), name


def test_plain_abs_topk_keeps_the_same() -> None:
    x = torch.randn(50, 33)
    assert torch.equal(plain_abs_topk(x, 9), abs_topk(x, 9))
    assert plain_abs_topk(x, 33) is x


def test_results_by_hand() -> None:
    line = Measured(name="a", ours=2.0, theirs=8.0, unit="s", theirs_is="b")
    assert line.ratio == 0.25 and line.to_dict()["ratio"] == 0.25
    assert spread([1.0, 2.0, 4.0]) == 1.0
    calls: list[str] = []
    one, other = interleaved(lambda: calls.append("x"), lambda: calls.append("y"), 3)
    assert "".join(calls) == "xyxyxy" and len(one) == len(other) == 3
    assert "0.25" in table([line]) and "torch" in table([line])


def test_operations_and_bytes_by_hand() -> None:
    """One layer, d 2, A 3, M 5, V 7; 4 tokens in 2 rows of 2."""
    config = ModelConfig(vocab_size=7, n_layer=1, d_model=2, n_head=1, d_head=3, d_mlp=5)
    products = 4 * (2 * 9 + 3 * 2 + 2 * 5 + 5 * 2 + 2 * 7)  # c_attn, c_proj, c_fc, c_proj, unembed
    attention = 2 * (1 + 2) * 3 * 2  # per row: queries see 1 and 2 keys; scores and values, width 3
    assert step_operations(config, 2, 2) == 3 * 2 * (products + attention)
    per_token = 2 * 3 + 3 * 3 + 3 + 2 * 5 + 2 * 7
    assert step_bytes(config, 100, 2, 2) == 4 * (8 * 100 + 2 * 4 * per_token)


def test_ceilings_are_positive() -> None:
    found = measure_ceilings(torch.device("cpu"))
    assert isinstance(found, Ceilings) and found.operations > 1e8 and found.bytes > 1e7


def test_refusals(tmp_path: Path) -> None:
    with refused("unknown benchmark 'speed'", "abs-topk", "pruning"):
        run_benchmarks(["speed"], model="")
    with refused("no model at"):
        run_benchmarks(["pruning"], model=str(tmp_path))


@pytest.mark.slow
def test_the_abs_topk_benchmark_runs() -> None:
    lines = list(bench_abs_topk(repeats=1))
    assert len(lines) == 6 and all(line.ours > 0 and line.theirs > 0 for line in lines)
