"""How many entries are kept at every step, and which: by hand and against a projection written with sorted()."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.train.sparsity import (
    Rule,
    SparsityConfig,
    entries,
    keep_mask,
    nonzeros,
    project,
    reference_top_k,
    rules,
)

SHAPE = {"vocab_size": 40, "n_layer": 2, "d_model": 16, "n_head": 2, "d_head": 8, "block_size": 8}


def model_of(**changes: Any) -> SparseTransformer:
    """Drawn weights without a single zero, biases and gains included."""
    model = SparseTransformer(ModelConfig(**{**SHAPE, **changes}))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model


# --- the schedule


@pytest.mark.parametrize(
    ("share", "f", "f_embed"),
    [
        (0.0, 1.0, 1.0),
        (0.01, 1.0, 1.0),
        (0.255, 65 / 128, 17 / 32),  # half way: (1 + 1/64) / 2 and (1 + 1/16) / 2
        (0.5, 1 / 64, 1 / 16),
        (1.0, 1 / 64, 1 / 16),
    ],
)
def test_linear_anneal_with_the_numbers_of_the_authors(share: float, f: float, f_embed: float) -> None:
    config = SparsityConfig(fraction=1 / 64, embed_fraction=1 / 16)
    assert config.fraction_at(share) == pytest.approx(f, abs=1e-12)
    assert config.embed_fraction_at(share) == pytest.approx(f_embed, abs=1e-12)


def test_exponential_anneal_is_geometric_in_s() -> None:
    config = SparsityConfig(fraction=1 / 64, anneal="exp")
    assert config.fraction_at(0.01) == 1.0
    assert config.fraction_at(0.255) == pytest.approx(1 / 8)
    assert config.fraction_at(0.5) == pytest.approx(1 / 64)
    assert config.fraction_at(0.9) == pytest.approx(1 / 64)


def test_power_law_anneal_is_a_straight_line_in_log_f_against_log_t() -> None:
    config = SparsityConfig(fraction=1 / 64, anneal="power_law")
    assert config.fraction_at(0.005) == config.fraction_at(0.01) == 1.0
    assert config.fraction_at(math.sqrt(0.01 * 0.5)) == pytest.approx(1 / 8)
    shares = [0.02, 0.05, 0.1, 0.3]
    slopes = np.diff(np.log([config.fraction_at(t) for t in shares])) / np.diff(np.log(shares))
    assert slopes == pytest.approx(-math.log(64) / math.log(50))
    assert config.fraction_at(0.5) == config.fraction_at(1.0) == pytest.approx(1 / 64)


def test_late_embedding_schedule_is_the_authors_unadjusted_one() -> None:
    """min(1, p(t) / e) with p from e^2 = 16 to 1/4 (METHOD 1b), which leaves 1 at s = 16/21."""
    config = SparsityConfig(fraction=1 / 64, embed_fraction=1 / 16, embed_schedule="late")
    for s in (0.0, 0.5, 0.76, 16 / 21, 0.8, 0.9, 1.0):
        expected = min(1.0, (16 - (16 - 1 / 4) * s) / 4)
        assert config.embed_fraction_at(0.01 + 0.49 * s) == pytest.approx(expected, abs=1e-9)
    assert config.fraction_at(0.255) == pytest.approx(65 / 128)  # the blocks are not late


def test_embedding_follows_the_common_fraction_unless_told_otherwise() -> None:
    config = SparsityConfig(fraction=0.1)
    assert [config.embed_fraction_at(t) for t in (0.0, 0.2, 1.0)] == [config.fraction_at(t) for t in (0.0, 0.2, 1.0)]


@pytest.mark.parametrize(("f", "n", "k"), [(1 / 64, 64, 1), (1 / 64, 63, 1), (0.5, 7, 3), (1.0, 9, 9), (0.001, 10, 1)])
def test_entries_are_truncated_and_never_none(f: float, n: int, k: int) -> None:
    assert entries(f, n) == k


@pytest.mark.parametrize("field", ["anneal", "embed_schedule"])
def test_unknown_words_raise_instead_of_running_linear(field: str) -> None:
    """METHOD C4: `exponential` silently trained with the linear schedule."""
    with pytest.raises(ValueError, match=f"{field}: .*exponential"):
        SparsityConfig.from_dict({"fraction": 0.5, field: "exponential"})


@pytest.mark.parametrize(
    "values",
    [{"fraction": 0.0}, {"fraction": 1.5}, {"fraction": 0.5, "anneal_start": 0.5}, {"fraction": 0.5, "min_alive": -1}],
)
def test_impossible_targets_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        SparsityConfig.from_dict(values)


# --- which entries


def naive_kept(w: np.ndarray, k: int, lines: Sequence[Sequence[int]], protect: int) -> set[int]:
    """Flat indices kept: the top `protect` of each line, then the largest of the rest; ties to the lower index."""
    flat = w.reshape(-1)
    kept: set[int] = set()
    for line in lines:
        kept |= set(sorted(line, key=lambda i: (-abs(flat[i]), i))[:protect])
    rest = sorted((i for i in range(flat.size) if i not in kept), key=lambda i: (-abs(flat[i]), i))
    return kept | set(rest[: k - len(kept)])


@st.composite
def projections(draw: st.DrawFn) -> tuple[Tensor, int, Rule]:
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    axis = draw(st.sampled_from(["row", "column"]))
    values = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -2.0]) | st.floats(-4, 4, width=32)  # many ties
    w = torch.tensor(draw(st.lists(values, min_size=rows * columns, max_size=rows * columns))).view(rows, columns)
    protect = draw(st.integers(0, columns if axis == "row" else rows))
    least = max(1, protect * (rows if axis == "row" else columns))
    k = draw(st.integers(least, rows * columns))
    return w, k, Rule(name="w", is_embed=False, protect=protect, axis=axis)


@given(projections())
def test_projection_keeps_what_sorting_keeps(case: tuple[Tensor, int, Rule]) -> None:
    w, k, rule = case
    rows, columns = w.shape
    by_row = [[r * columns + c for c in range(columns)] for r in range(rows)]
    by_column = [[r * columns + c for r in range(rows)] for c in range(columns)]
    expected = naive_kept(w.numpy(), k, by_row if rule.axis == "row" else by_column, rule.protect)
    kept = keep_mask(w, k, rule)
    assert set(kept.flatten().nonzero().flatten().tolist()) == expected
    assert int(kept.sum()) == k
    assert torch.equal(keep_mask(w.double(), k, rule), kept)  # double: the plain reference instead of the kernel


def test_a_true_infinity_does_not_displace_a_protected_entry() -> None:
    w = torch.tensor([math.inf, 1.0, math.inf, 0.1])
    protected = torch.tensor([False, False, False, True])
    assert reference_top_k(w, protected, 2).tolist() == [True, False, False, True]


def test_projection_protects_each_neuron_on_its_own_axis() -> None:
    """METHOD C8: rows of c_attn and c_fc, columns of both c_proj, rows of E and W_U; and the total stays exactly k."""
    model = model_of()
    with torch.no_grad():  # one weak neuron per matrix that would die without protection
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and name != "bigram.weight":
                (weight.T if "c_proj" in name else weight)[3].mul_(1e-6)
    config = SparsityConfig(fraction=0.2, min_alive=2, min_alive_embed=1)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    project(model, config, rules(model, config), 1.0)
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and name != "bigram.weight":
            lines = weight.T if "c_proj" in name else weight
            alive = 1 if "embed" in name else 2
            expected = before[name].T[3] if "c_proj" in name else before[name][3]
            assert int((lines != 0).sum(-1).min()) == alive, name
            strongest = expected.abs().topk(alive).indices
            assert torch.equal(lines[3][strongest], expected[strongest])
            assert int(weight.count_nonzero()) == int(0.2 * weight.numel()), name


def test_without_protection_the_weak_neurons_die() -> None:
    model = model_of()
    with torch.no_grad():
        model.get_parameter("blocks.0.mlp.c_proj.weight")[:, 5].mul_(1e-6)
    config = SparsityConfig(fraction=0.2, min_alive=0)
    project(model, config, rules(model, config), 1.0)
    assert model.get_parameter("blocks.0.mlp.c_proj.weight")[:, 5].count_nonzero() == 0


@pytest.mark.parametrize("biases", [True, False])
def test_what_is_sparsified_and_what_is_exempt(biases: bool) -> None:
    model = model_of()
    config = SparsityConfig(fraction=0.2, biases=biases, min_alive=0)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    project(model, config, rules(model, config), 1.0)
    for name, weight in model.named_parameters():
        exempt = name == "bigram.weight" or name.endswith(("gain", "sink")) or (name.endswith("bias") and not biases)
        expected = weight.numel() if exempt else max(1, int(0.2 * weight.numel()))
        assert int(weight.count_nonzero()) == expected, name
        kept = weight != 0
        assert torch.equal(weight[kept], before[name][kept])


def test_embedding_and_blocks_have_their_own_budgets() -> None:
    model = model_of()
    config = SparsityConfig(fraction=0.1, embed_fraction=0.5, min_alive=0)
    project(model, config, rules(model, config), 1.0)
    assert int(model.embed.weight.count_nonzero()) == int(model.unembed.weight.count_nonzero()) == 40 * 16 // 2
    assert int(model.get_parameter("blocks.1.mlp.c_fc.weight").count_nonzero()) == int(0.1 * 64 * 16)


def test_a_dense_share_of_training_changes_nothing() -> None:
    model = model_of()
    before = [weight.detach().clone() for weight in model.parameters()]
    config = SparsityConfig(fraction=0.05, min_alive=0)
    project(model, config, rules(model, config), 0.01)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_budget_too_small_for_min_alive_names_the_largest_that_fits() -> None:
    """c_attn is 48 x 16 = 768 entries with 48 neurons; f = 0.2 keeps 153, so 3 fit and 4 do not."""
    with pytest.raises(
        ValueError, match=r"min_alive=4 protects 192 .*c_attn.* keeps 153; the largest min_alive that fits is 3"
    ):
        rules(model_of(), SparsityConfig(fraction=0.2, min_alive=4))
    assert rules(model_of(), SparsityConfig(fraction=0.2, min_alive=3))
    with pytest.raises(ValueError, match=r"min_alive_embed=4 .*embed.* largest min_alive_embed that fits is 3"):
        rules(model_of(), SparsityConfig(fraction=0.2, min_alive=0, min_alive_embed=4))


def test_nonzeros_count_matrices_and_biases_without_the_bigram_table() -> None:
    model = model_of()
    per_layer = 48 * 16 + 48 + 16 * 16 + 16 + 64 * 16 + 64 + 16 * 64 + 16
    total = 2 * per_layer + 2 * 40 * 16
    assert nonzeros(model) == (total, total)
    with torch.no_grad():
        model.embed.weight[0] = 0
        model.get_parameter("bigram.weight")[0] = 0
    assert nonzeros(model) == (total - 16, total)


# --- the options of the released models


RELEASED = {"norm": "layer", "positions": "concat", "d_pos_emb": 4, "logits_bias": True}


def kept_of(model: SparseTransformer, config: SparsityConfig) -> dict[str, int]:
    """Nonzero entries of every tensor after the projection, which changes no other entry."""
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    project(model, config, rules(model, config), 1.0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, torch.where(tensor != 0, before[name], 0.0)), name
    return {name: int(tensor.count_nonzero()) for name, tensor in model.state_dict().items()}


def test_norms_sinks_fixed_tables_and_fixed_positions_stay_dense() -> None:
    model = model_of(**RELEASED, sinusoidal_positions=True, learnable_bigram=False)
    with torch.no_grad():
        model.get_buffer("logits_bias").fill_(1.0)
    config = SparsityConfig(fraction=0.2, min_alive=0)
    sizes = {name: tensor.numel() for name, tensor in model.state_dict().items()}
    dense = {name for name in sizes if "norm" in name or name.endswith("sink")}
    dense |= {"bigram.weight", "logits_bias", "positions.weight"}
    assert len(dense) == 2 * (8 + 1) + 2 + 3  # per layer four norms with gain and bias, and the sinks
    assert not dense & {rule.name for rule in rules(model, config)}
    expected = {name: size if name in dense else int(0.2 * size) for name, size in sizes.items()}
    assert kept_of(model, config) == expected


@pytest.mark.parametrize("positions", ["learned", "concat"])
def test_learned_positions_are_sparsified_with_the_blocks_and_no_row_protected(positions: str) -> None:
    """8 positions with 4 channels each: at f = 0.1 three entries of 32 are left, wherever they are largest."""
    model = model_of(positions=positions, d_pos_emb=4 if positions == "concat" else None)
    width = 4 if positions == "concat" else 16
    with torch.no_grad():
        model.get_parameter("positions.weight")[1:].mul_(1e-6)
    config = SparsityConfig(fraction=0.1, embed_fraction=0.9, min_alive=1, min_alive_embed=1)
    assert kept_of(model, config)["positions.weight"] == int(0.1 * 8 * width)
    assert model.get_parameter("positions.weight")[1:].count_nonzero() == 0


def test_a_tied_unembedding_is_sparsified_and_counted_once() -> None:
    tied, apart = model_of(tied_unembed=True), model_of()
    config = SparsityConfig(fraction=0.1, embed_fraction=0.25, min_alive=0, min_alive_embed=2)
    assert [rule.name for rule in rules(tied, config) if rule.is_embed] == ["embed.weight"]
    assert nonzeros(tied)[1] == nonzeros(apart)[1] - 40 * 16
    kept = kept_of(tied, config)
    assert kept["embed.weight"] == kept["unembed.weight"] == 40 * 16 // 4
    assert int((tied.embed.weight != 0).sum(-1).min()) >= 2
    kept_once = sum(kept[rule.name] for rule in rules(tied, config))
    assert nonzeros(tied) == (kept_once, 2 * 3216 + 40 * 16)


def test_counts_leave_out_norms_fixed_tables_and_buffers() -> None:
    plain, concat = model_of(norm="layer", learnable_bigram=False, logits_bias=True), model_of(**RELEASED)
    assert nonzeros(plain) == nonzeros(model_of())
    wider = 2 * (4 * 48 + 4 * 64)  # c_attn and c_fc read four channels more
    assert nonzeros(concat)[1] == nonzeros(plain)[1] + wider + 8 * 4


def test_a_model_without_biases_has_none_to_sparsify() -> None:
    model = model_of(bias=False, norm="layer")
    assert not any(rule.name.endswith("bias") for rule in rules(model, SparsityConfig(fraction=0.5, min_alive=0)))
