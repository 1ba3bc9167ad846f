"""Grids: which models they name, that a budget is what the projection leaves, and what is refused before any training."""

import json
import math
from pathlib import Path

import pytest

from refusals import refused
from sparse_circuits.frontier.grid import GRIDS, Cells, Grid, load_grid
from sparse_circuits.frontier.sweep import run_frontier
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.train.config import TrainConfig
from sparse_circuits.train.presets import tiny
from sparse_circuits.train.sparsity import nonzeros, project, rules


def small(**fields: object) -> Grid:
    given = {"sparse": (Cells(widths=(32, 48), fractions=(0.1,)),), "dense_widths": (16,), "vocab_size": 300, **fields}
    return Grid(**given)


def config_of(grid: Grid, name: str) -> TrainConfig:
    return grid.point(name).config


def projected(config: TrainConfig) -> SparseTransformer:
    """The model at the end of its anneal."""
    model = SparseTransformer(config.model).initialize(0)
    for parameter in model.parameters():
        parameter.data += 0.001  # biases start at zero, which no projection counts
    project(model, config.sparsity, rules(model, config.sparsity), 1.0)
    return model


def test_points_are_the_union_of_products_by_name() -> None:
    grid = small(
        sparse=(
            Cells(widths=(32, 48), fractions=(0.1, 0.05), afracs=(0.25, 0.5)),
            Cells(widths=(32,), fractions=(0.1,), nonzeros=(4000,)),
        ),
        seeds=(0, 3),
    )
    once = {f"w{w}_f{f}_a{a}" for w in (32, 48) for f in (0.1, 0.05) for a in (0.25, 0.5)} | {
        "w32_n4000_a0.25",
        "dense_w16",
    }
    points = grid.points()
    assert sorted(point.name for point in points) == sorted(once | {f"{name}_s3" for name in once})
    sizes = [point.config.model.d_model for point in points]
    assert sizes == sorted(sizes, reverse=True)
    assert all(grid.point(point.name) == point for point in points)
    assert {point.config.seed for point in points if point.name.endswith("_s3")} == {3}


def test_a_sparse_point_at_tinys_own_place_is_tiny() -> None:
    grid = Grid(sparse=(Cells(widths=(128,), fractions=(0.02,)),), dense_widths=())
    (point,) = grid.points()
    assert point.config.replace(name="tiny") == tiny(512)


def test_learning_rates() -> None:
    """Sparse: sqrt(0.02 / f) times tiny's. Dense: sqrt(0.02) times tiny's, whatever the width."""
    grid = small(sparse=(Cells(widths=(32,), fractions=(0.08,)),), dense_widths=(16, 64))
    assert config_of(grid, "w32_f0.08_a0.25").optimizer.lr == pytest.approx(0.03 / 2)
    for width in (16, 64):
        dense = config_of(grid, f"dense_w{width}")
        assert dense.optimizer.lr == pytest.approx(0.03 * math.sqrt(0.02))
        assert dense.sparsity.dense and dense.model.afrac is None and dense.model.d_model == width


@pytest.mark.parametrize("width", (24, 32, 64))
@pytest.mark.parametrize("count", (2500, 6000))
def test_a_count_is_what_the_projection_leaves(width: int, count: int) -> None:
    """At 2,500 embedding and unembedding take their floor of two entries per row, at 6,000 it depends on the width."""
    config = config_of(small(sparse=(Cells(widths=(width,), nonzeros=(count,)),)), f"w{width}_n{count}_a0.25")
    model = projected(config)
    tensors = 2 + 8 * config.model.n_layer
    assert abs(nonzeros(model)[0] - count) <= tensors
    for table in (model.embed.weight, model.unembed.weight):
        assert int((table != 0).sum(1).min()) >= 2


def test_the_default_grid_has_a_point_of_one_in_a_thousand() -> None:
    """Counted from shapes by hand: 512 wide, MLP 1,024, 2 layers, 512 tokens, two entries per row of both embeddings."""
    d, mlp, vocab, f = 512, 1024, 512, 0.0005
    matrices = [3 * d * d, d * d, d * mlp, mlp * d]
    biases = [3 * d, d, mlp, d]
    kept = 2 * (sum(int(f * n) for n in matrices) + len(biases)) + 2 * 2 * vocab
    total = 2 * sum(matrices + biases) + 2 * vocab * d
    assert 0.0008 < kept / total < 0.0012
    config = config_of(Grid(), "w512_f0.0005_a0.25")
    assert (config.model.d_model, config.model.mlp_width, config.model.n_layer) == (d, mlp, 2)
    assert config.sparsity.fraction == f and config.sparsity.min_alive == 0
    assert config.sparsity.embed_fraction == pytest.approx(2 / d)


def test_min_alive_is_what_fits() -> None:
    """A neuron of width 32 has 32 f entries on average."""
    grid = small(sparse=(Cells(widths=(32,), fractions=(0.2, 0.04, 0.02)),))
    found = [config_of(grid, f"w32_f{f}_a0.25").sparsity.min_alive for f in (0.2, 0.04, 0.02)]
    assert found == [2, 1, 0]


@pytest.mark.parametrize("name", GRIDS)
def test_grids_by_name_can_be_trained_and_come_back_from_json(name: str, tmp_path: Path) -> None:
    grid = load_grid(name)
    assert {point.family for point in grid.points()} == {"sparse", "dense"} and grid.loaded_tasks()
    (tmp_path / "grid.json").write_text(json.dumps(grid.to_dict()))
    assert load_grid(tmp_path / "grid.json") == grid


def test_refusals() -> None:
    with refused("nonzeros 1000 cannot be had at width 32", "1200 are two per row"):
        small(sparse=(Cells(widths=(32,), nonzeros=(1000,)),)).points()
    with refused("nonzeros 999999 cannot be had", "would be dense"):
        small(sparse=(Cells(widths=(32,), nonzeros=(999_999,)),)).points()
    with refused("fractions lie between 0 and 1, given 1.0", "dense_widths"):
        Cells(widths=(32,), fractions=(1.0,))
    with refused("at least one of widths"):
        Cells(widths=(32,))
    with refused("afracs lie in (0, 1], given 0.0"):
        Cells(widths=(32,), fractions=(0.1,), afracs=(0.0,))
    with refused("the grid has no point"):
        small(sparse=(), dense_widths=())
    with refused("tasks must name at least one thing and none twice"):
        small(tasks=("class_init", "class_init"))
    with refused("widths must be at least 2, given 1"):
        small(dense_widths=(1,))
    with refused("two different points are named w32_f0.1_a0.25"):
        small(sparse=(Cells(widths=(32,), fractions=(0.1, 0.1000000001)),)).points()
    with refused("unknown grid 'large'", "default, quick"):
        load_grid("large")


def test_nothing_is_written_for_a_grid_that_cannot_be_run(tmp_path: Path) -> None:
    for grid, words in (
        (small(sparse=(Cells(widths=(32,), nonzeros=(1000,)),)), "cannot be had"),
        (small(tasks=("no_such_task",)), "unknown task 'no_such_task'"),
    ):
        with refused(words):
            run_frontier(grid, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with refused("workers must be at least 1, given 0"):
        run_frontier(small(), tmp_path / "out", workers=0)
    assert not (tmp_path / "out").exists()
