"""The numbers of METHOD D2, D12 and 1b in the presets, and their way through JSON and YAML."""

import math
from pathlib import Path

import pytest
import yaml

from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.train.config import TrainConfig
from sparse_circuits.train.presets import PRESETS, RECIPES, preset
from sparse_circuits.train.sparsity import rules


def test_paper() -> None:
    config = preset("paper", 2048)
    model, sparsity, optimizer = config.model, config.sparsity, config.optimizer
    assert (model.vocab_size, model.n_layer, model.d_model, model.d_head, model.d_attn) == (2048, 8, 1024, 16, 1024)
    assert (model.block_size, model.afrac, model.sink, model.bigram, model.positions) == (256, 0.25, True, True, "none")
    assert (sparsity.fraction, sparsity.embed_fraction, sparsity.biases, sparsity.min_alive) == (1 / 64, None, True, 4)
    assert (sparsity.anneal, sparsity.anneal_start, sparsity.anneal_end) == ("linear", 0.01, 0.5)
    assert (optimizer.lr, optimizer.betas, optimizer.eps, optimizer.weight_decay) == (1.28e-2, (0.9, 0.95), 0.1, 0.1)
    assert (optimizer.warmup, optimizer.gradients, optimizer.sharkfin) == (0.01, "normalize", True)
    assert config.tokens_per_step == 512 * 256
    assert config.steps * config.tokens_per_step == pytest.approx(32e9, rel=1e-4)


def test_authors_budgets_are_p_over_e_squared_and_p_over_e() -> None:
    config = preset("authors", 2048)
    assert (config.sparsity.fraction, config.sparsity.embed_fraction) == (1 / 64, 1 / 16)
    assert not config.sparsity.biases and not config.model.sink
    assert config.sparsity.min_alive == 4 and config.sparsity.min_alive_embed == 0


def test_tiny_protects_the_top_two_entries_of_every_token() -> None:
    sparsity = preset("tiny", 1024).sparsity
    assert sparsity.min_alive_embed == 2 and sparsity.min_alive < 4 and sparsity.fraction < 0.1


@pytest.mark.parametrize("name", RECIPES)
def test_min_alive_of_every_preset_fits_its_budget(name: str) -> None:
    config = preset(name, 1024)
    one_layer = config.model.replace(n_layer=1)  # layers are alike
    found = rules(SparseTransformer(one_layer).to("meta"), config.sparsity)
    assert {rule.name for rule in found} >= {"embed.weight", "blocks.0.mlp.c_proj.weight"}


@pytest.mark.parametrize("name", RECIPES)
def test_dense_twin_differs_in_sparsity_and_rate_only(name: str) -> None:
    sparse, dense = preset(name, 1024), preset(f"{name}-dense", 1024)
    assert dense.sparsity.dense and dense.sparsity.fraction == 1 and dense.model.afrac is None
    assert dense.sparsity.min_alive == dense.sparsity.min_alive_embed == 0
    assert dense.optimizer.lr == pytest.approx(sparse.optimizer.lr * math.sqrt(sparse.sparsity.fraction))
    assert dense.name == f"{name}-dense"
    back = dense.replace(
        name=sparse.name,
        sparsity=sparse.sparsity,
        model=dense.model.replace(afrac=sparse.model.afrac),
        optimizer=dense.optimizer.replace(lr=sparse.optimizer.lr),
    )
    assert back == sparse


@pytest.mark.parametrize("name", ["papr", "", "tiny-", "-dense", "tiny-dense-dense"])
def test_unknown_preset_names_the_allowed_ones(name: str) -> None:
    with pytest.raises(
        ValueError, match="unknown preset .* allowed: paper, authors, tiny, bundled, paper-dense"
    ) as caught:
        preset(name, 1024)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_go_through_json_and_yaml_unchanged(name: str, tmp_path: Path) -> None:
    config = preset(name, 1024)
    assert TrainConfig.from_dict(config.to_dict()) == config
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.to_dict()), "utf-8")
    assert TrainConfig.from_file(tmp_path / "c.yaml") == config


@pytest.mark.parametrize(
    "field", ["steps", "batch_size", "eval_every", "checkpoint_every", "eval_tokens", "reference_tokens"]
)
def test_counts_must_be_positive(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least 1, given 0"):
        preset("tiny", 1024).replace(**{field: 0})
