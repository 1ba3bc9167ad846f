"""The grid of a frontier: which models are trained and what they are asked, as data.

Every model starts from `presets.tiny`; a sparse point varies three things:
1. Width d: heads of the same 16 channels, an MLP in the same proportion.
2. Budget: either the share f of entries that every matrix keeps, or a total count of nonzero weights from which f follows, so
   that one count over several widths is the paper's axis "width at constant L0".
3. Activation sparsity: the afrac of AbsTopK.

Two rules make small budgets possible at all. Embedding and unembedding keep at least two entries per row whatever f is, since
a token without embedding is lost to every task (METHOD D2). Min-alive protects tiny's two entries per neuron, or as many as
the budget has. And the learning rate is tiny's * sqrt(tiny's f / f), the paper's law 1 / sqrt(L0) at a fixed shape (METHOD 1c):
300 short steps at width 128 and f = 0.002 end at 3.62 nats with tiny's own rate, at 3.21 with this one.

A dense point is the dense twin (METHOD D12) of tiny at its width: AbsTopK off, lr * sqrt(f), with tiny's f = 0.02.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparse_circuits.config import Config
from sparse_circuits.frontier.record import Family
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.tasks.load import load_task
from sparse_circuits.tasks.task import Task
from sparse_circuits.train.config import TrainConfig
from sparse_circuits.train.presets import dense_twin, tiny
from sparse_circuits.train.sparsity import entries, rules, sparsifiable

ROW_ENTRIES = 2
"""Entries that a row of embedding or unembedding keeps at least, on average and by protection (METHOD D2)."""
EMBEDDINGS = ("embed.weight", "unembed.weight")


class Cells(Config):
    """Sparse points: every width with every budget and every afrac."""

    widths: tuple[int, ...]
    """d_model."""
    fractions: tuple[float, ...] = ()
    """Budgets as the share f of entries that every matrix keeps, between 0 and 1."""
    nonzeros: tuple[int, ...] = ()
    """Budgets as the total count of nonzero weights and biases, the bigram table excluded."""
    afracs: tuple[float, ...] = (0.25,)
    """Shares of entries that AbsTopK keeps, above 0; 1 = all."""

    def model_post_init(self, context: object) -> None:  # noqa: ARG002 (pydantic's signature)
        if not self.widths or not self.afracs or not self.fractions + self.nonzeros:
            raise ValueError(
                "give at least one of widths, of afracs, and of budgets (fractions or nonzeros); leave none of them empty"
            )
        for f in self.fractions:
            if not 0 < f < 1:
                raise ValueError(f"fractions lie between 0 and 1, given {f}; dense models are dense_widths")
        for afrac in self.afracs:
            if not 0 < afrac <= 1:
                raise ValueError(f"afracs lie in (0, 1], given {afrac}")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model of the grid."""

    name: str
    """Readable and unique: `w128_f0.02_a0.25`, `w128_n8000_a0.25`, `dense_w64`; `_s1` at the end for training seed 1."""
    family: Family
    config: TrainConfig


class Grid(Config):
    """Models and tasks of a frontier. The defaults take about an hour on two cores."""

    sparse: tuple[Cells, ...] = (
        Cells(widths=(64, 128, 256), nonzeros=(8000,)),
        Cells(widths=(128,), nonzeros=(4000, 16_000, 32_000, 64_000)),
        Cells(widths=(128,), nonzeros=(8000,), afracs=(0.125, 0.5)),
        Cells(widths=(512,), fractions=(0.0005,)),
    )
    """Sparse points, the union of these products; the last is 1 weight in 1,000."""
    dense_widths: tuple[int, ...] = (12, 16, 20, 22, 24, 32, 48, 64)
    """Dense points."""
    seeds: tuple[int, ...] = (0,)
    """Training seeds; every point once per seed."""
    n_layer: int = 2
    """Layers of every model."""
    steps: int = 1400
    """Optimizer steps of every model."""
    batch_size: int = 32
    """Sequences per step."""
    sources: tuple[str, ...] = ("tiny-python:9MB", "python-env:2MB")
    """The corpus, the same for every point."""
    vocab_size: int = 512
    """Tokens of its tokenizer."""
    tasks: tuple[str, ...] = (
        "single_double_quote",
        "bracket_counting",
        "with_as",
        "for_while",
        "while_return_true",
        "lambda_func",
    )
    """Names of tasks, or their .jsonl files. The defaults are those that so small a vocabulary can be asked and small models do."""
    target_loss: float = 0.15
    """Task loss a circuit must reach, nats."""
    prune_seeds: int = 2
    """Prunings per task and point; the best on validation counts."""
    prune: PruneConfig = PruneConfig()
    """Recipe of every pruning."""

    def model_post_init(self, context: object) -> None:  # noqa: ARG002 (pydantic's signature)
        for name in ("tasks", "seeds", "sources"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name} must name at least one thing and none twice, given {list(given)}")
        if not self.sparse and not self.dense_widths:
            raise ValueError("the grid has no point; give sparse or dense_widths")
        if self.prune_seeds < 1 or not self.target_loss > 0:
            raise ValueError(
                f"prune_seeds must be at least 1 and target_loss above 0, given {self.prune_seeds} and {self.target_loss}"
            )
        if width := next((w for w in self._widths() if w < ROW_ENTRIES), None):
            raise ValueError(f"widths must be at least {ROW_ENTRIES}, given {width}")

    def _widths(self) -> Iterator[int]:
        yield from (width for cells in self.sparse for width in cells.widths)
        yield from self.dense_widths

    def points(self) -> tuple[Point, ...]:
        """Every point once, the most expensive first, so that no worker is left alone with one at the end.

        Raises ValueError that names the point for a budget that cannot be trained.
        """
        found: dict[str, Point] = {}
        for point in self._points():
            if found.setdefault(point.name, point) != point:
                raise ValueError(
                    f"two different points are named {point.name}; budgets may differ in the first 6 digits"
                )
            _check_trainable(point)
        cost = {name: _entries(point.config)[2] for name, point in found.items()}
        return tuple(sorted(found.values(), key=lambda point: -cost[point.name]))

    def loaded_tasks(self) -> tuple[Task, ...]:
        """The tasks. Raises ValueError for an unknown one, and where two have the same name."""
        tasks = tuple(load_task(task) for task in self.tasks)
        names = [task.name for task in tasks]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two tasks are named {twice!r}; circuits are stored by name, so rename one")
        return tasks

    def point(self, name: str) -> Point:
        """The point of that name, which must be one of the grid's."""
        return next(point for point in self._points() if point.name == name)

    def _points(self) -> Iterator[Point]:
        for seed in self.seeds:
            end = f"_s{seed}" if seed else ""
            for cells in self.sparse:
                for width in cells.widths:
                    shape = self._shape(width, seed)
                    budgets = [(f"f{f:g}", f) for f in cells.fractions]
                    budgets += [(f"n{n}", _fraction_for(n, shape)) for n in cells.nonzeros]
                    for text, f in budgets:
                        for afrac in cells.afracs:
                            name = f"w{width}_{text}_a{afrac:g}{end}"
                            yield Point(name=name, family="sparse", config=_sparse(shape, f, afrac, name))
            for width in self.dense_widths:
                name = f"dense_w{width}{end}"
                twin = dense_twin(self._shape(width, seed))
                yield Point(name=name, family="dense", config=twin.replace(name=f"frontier {name}"))

    def _shape(self, width: int, seed: int) -> TrainConfig:
        """tiny at this width, length and seed; its sparsity and learning rate are still its own."""
        base = tiny(self.vocab_size)
        model = base.model.replace(
            n_layer=self.n_layer,
            d_model=width,
            n_head=max(1, round(width / base.model.d_head)),
            d_mlp=max(1, round(width * base.model.mlp_width / base.model.d_model)),
        )
        return base.replace(model=model, steps=self.steps, batch_size=self.batch_size, seed=seed)


def _sparse(shape: TrainConfig, f: float, afrac: float, name: str) -> TrainConfig:
    """The shape at budget f."""
    d, base = shape.model.d_model, shape.sparsity
    lines = (shape.model.d_attn, 3 * shape.model.d_attn, shape.model.mlp_width)
    alive = min(entries(f, count * d) // count for count in lines)
    least = _least_embed_fraction(shape)
    sparsity = base.replace(
        fraction=f,
        embed_fraction=least if f < least else None,
        min_alive=min(base.min_alive, alive),
        min_alive_embed=min(base.min_alive_embed, ROW_ENTRIES),
    )
    lr = shape.optimizer.lr * math.sqrt(base.fraction / f)
    return shape.replace(
        name=f"frontier {name}",
        model=shape.model.replace(afrac=afrac),
        sparsity=sparsity,
        optimizer=shape.optimizer.replace(lr=lr),
    )


def _least_embed_fraction(shape: TrainConfig) -> float:
    """The smallest share that keeps ROW_ENTRIES per row; the next float up where rounding would lose one."""
    rows, d = shape.model.vocab_size, shape.model.d_model
    share = min(1.0, ROW_ENTRIES / d)
    return share if entries(share, rows * d) >= ROW_ENTRIES * rows else math.nextafter(share, 1.0)


def _fraction_for(count: int, shape: TrainConfig) -> float:
    """f of the model of this shape with that many nonzero weights, to within one per tensor."""
    embed, others, total = _entries(shape)
    least = _least_embed_fraction(shape)
    f = count / total
    if f < least:
        f = (count - least * embed) / others
    if not 0 < f < 1:
        floor, width = math.ceil(least * embed), shape.model.d_model
        raise ValueError(
            f"nonzeros {count} cannot be had at width {width}: {floor} are two per row of embedding and unembedding, {total} "
            "would be dense; give a count between"
        )
    return f


def _entries(config: TrainConfig) -> tuple[int, int, int]:
    """Entries of embedding and unembedding, of all other weights and biases that sparsity concerns, and their sum."""
    sizes = {name: w.numel() for name, w in _skeleton(config).named_parameters() if sparsifiable(name, w)}
    embed, total = sum(sizes[name] for name in EMBEDDINGS), sum(sizes.values())
    return embed, total - embed, total


def _skeleton(config: TrainConfig) -> SparseTransformer:
    """The model without memory."""
    with torch.device("meta"):
        return SparseTransformer(config.model)


def _check_trainable(point: Point) -> None:
    try:
        rules(_skeleton(point.config), point.config.sparsity)
    except ValueError as error:
        raise ValueError(f"point {point.name} cannot be trained: {error}") from None


def load_grid(name_or_path: str | Path) -> Grid:
    """A grid by name, or from a JSON or YAML file with fields of Grid. Raises ValueError naming the allowed ones."""
    name = str(name_or_path)
    if name in GRIDS:
        return Grid.from_dict(GRIDS[name])
    if not Path(name).is_file():
        raise ValueError(
            f"unknown grid {name!r}; allowed: {', '.join(GRIDS)}, or a .json or .yaml file with fields of Grid"
        )
    return Grid.from_file(name)


GRIDS: dict[str, dict[str, Any]] = {
    "default": {},
    "quick": {
        "sparse": [{"widths": [64], "fractions": [0.04]}],
        "dense_widths": [32],
        "steps": 800,
        "sources": ["tiny-python:2MB", "python-env:500KB"],
        "tasks": ["single_double_quote"],
        "prune_seeds": 1,
    },
}
"""Names of grids -> their fields; what is left out is as in `Grid`."""
