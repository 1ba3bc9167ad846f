"""Recipes: functions of the vocabulary size that return a `TrainConfig` (METHOD D2, D12).

`paper` and `authors` are the published method at its published size; `tiny` trains on two CPU cores in minutes. Each has a
dense twin `NAME-dense` of the same shape: f = 1, AbsTopK off, lr * sqrt(f).
"""

import math

from sparse_circuits.model.config import ModelConfig
from sparse_circuits.train.config import TrainConfig
from sparse_circuits.train.optimizer import OptimizerConfig
from sparse_circuits.train.sparsity import SparsityConfig

BASE_WIDTH = 256
"""Width of the authors' base model, against which their budgets are defined (METHOD 1b)."""
PAPER_STEPS = 244_140
"""32e9 tokens in batches of 512 x 256 (METHOD 1c)."""


def paper(vocab_size: int) -> TrainConfig:
    """The paper's method: the same fraction 1/64 in every matrix and bias, biases and embeddings included."""
    return TrainConfig(
        name="paper",
        model=ModelConfig(
            vocab_size=vocab_size, n_layer=8, d_model=1024, n_head=64, d_head=16, block_size=256, afrac=0.25
        ),
        sparsity=SparsityConfig(fraction=1 / 64),
        optimizer=OptimizerConfig(lr=1.28e-2),
        steps=PAPER_STEPS,
        batch_size=512,
        eval_every=1000,
        checkpoint_every=1000,
    )


def authors(vocab_size: int) -> TrainConfig:
    """The authors' script: f = p / e^2 in blocks, p / e in E and W_U, p = 1/4, e = width / 256; biases dense, no sink."""
    base = paper(vocab_size)
    expansion, p = base.model.d_model / BASE_WIDTH, 1 / 4
    sparsity = SparsityConfig(fraction=p / expansion**2, embed_fraction=p / expansion, biases=False)
    return base.replace(name="authors", sparsity=sparsity, model=base.model.replace(sink=False))


def tiny(vocab_size: int) -> TrainConfig:
    """Two CPU cores, two minutes; where it leaves METHOD D2 it was measured to train better in so few steps.

    Found in exploratory single runs, not in controlled sweeps:
    - windows of 64 tokens, a statement or two: in longer ones earlier strings drown the one that is open (quote loss after
      200 steps 0.07, against 0.56 in windows of 128 at Adam's eps 1e-2);
    - f = 0.02: its circuits had about half the nodes of those at 0.04;
    - eps 1e-3: 0.1 damps most weights for hundreds of steps;
    - a decay of 0.005, since lr is large: quote loss 0.03 and 0.04 on two seeds, 0.07 and 0.07 with 0.02;
    - an exponential anneal, over after 40%: the linear one drops the last fifth of the weights within a few steps.
    The top 2 entries per row of E and W_U are protected (D2), so that no token loses its embedding.
    """
    return TrainConfig(
        name="tiny",
        model=ModelConfig(
            vocab_size=vocab_size, n_layer=2, d_model=128, n_head=8, d_head=16, d_mlp=256, block_size=64, afrac=0.25
        ),
        sparsity=SparsityConfig(fraction=0.02, min_alive=2, min_alive_embed=2, anneal="exp", anneal_end=0.4),
        optimizer=OptimizerConfig(lr=3e-2, eps=1e-3, weight_decay=0.005),
        steps=1400,
        batch_size=32,
    )


def bundled(vocab_size: int) -> TrainConfig:
    """The model in the box, which is to solve the twenty tasks; docs/tasks.md says how far it does.

    Where it leaves `tiny`, single exploratory runs of 1 to 14 million tokens led there (docs/method.md):
    - sinusoidal positions beside what every sublayer reads, and half the batch: lower loss at equal tokens;
    - half of the activations instead of a quarter: AbsTopK at a quarter costs 0.19 nats after 500 dense steps, at a half 0.08;
    - dense for the first quarter: of 17 tasks below 0.15 learned dense, 17 were so at f = 0.14 after a cool-down;
    - three layers of 256: of the same width, two knew after 4.1M tokens what three did after 1.6M (what a name was bound to
      above takes steps of attention after one another), and three of 160 lost what they knew at f = 1/32 (37,000 nonzeros).
    """
    base = tiny(vocab_size)
    return base.replace(
        name="bundled",
        model=base.model.replace(
            n_layer=3,
            d_model=256,
            n_head=16,
            d_mlp=512,
            block_size=128,
            afrac=0.5,
            positions="concat",
            d_pos_emb=16,
            sinusoidal_positions=True,
        ),
        sparsity=base.sparsity.replace(fraction=1 / 32, anneal_start=0.25, anneal_end=0.75),
        optimizer=base.optimizer.replace(lr=5e-2),
        steps=15_000,
        batch_size=16,
        eval_every=1000,
        checkpoint_every=250,
    )


def dense_twin(config: TrainConfig) -> TrainConfig:
    """`dense-same` of METHOD D12: same shape, data and schedule, nothing sparse, learning rate * sqrt(f)."""
    return config.replace(
        name=f"{config.name}-dense",
        model=config.model.replace(afrac=None),
        sparsity=SparsityConfig(fraction=1.0, min_alive=0),
        optimizer=config.optimizer.replace(lr=config.optimizer.lr * math.sqrt(config.sparsity.fraction)),
    )


RECIPES = {"paper": paper, "authors": authors, "tiny": tiny, "bundled": bundled}
PRESETS = (*RECIPES, *(f"{name}-dense" for name in RECIPES))


def preset(name: str, vocab_size: int) -> TrainConfig:
    """The recipe of that name. Raises ValueError naming the allowed ones."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; allowed: {', '.join(PRESETS)}; or give a config file with --config")
    config = RECIPES[name.removesuffix("-dense")](vocab_size)
    return dense_twin(config) if name.endswith("-dense") else config
