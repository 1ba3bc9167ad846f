"""The whole option space of the released models, against a forward pass written a second time.

Some hundred made-up nets (made_up_models.py), written in both layouts on disk, must give the logits and the hooks of
the float64 reference (reference_forward.py, anchored by the golden vectors), also under interventions and when entered
at a residual; and what a config may hold beside the declared fields follows RELEASE_FORMAT 1.2.

AbsTopK is discontinuous: where the last kept and the first dropped entry nearly tie, float32 may rightly choose the
other one. Cases with such a near tie are left out; `test_the_cases_cover_the_option_space` counts what remains.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import sparse_circuits as sc
from hub.made_up_models import (
    LOCTYPES,
    NEUTRAL,
    TRAINING_ONLY,
    Case,
    Config,
    draw_case,
    draw_interventions,
    draw_state,
    write_released,
    write_transformers,
)
from hub.reference_forward import DEFAULTS, Array, reference_forward
from refusals import refused
from sparse_circuits.model.attention import KVCache
from sparse_circuits.model.transformer import SparseTransformer

BLOCKS, PER_BLOCK = 12, 16
CLEAR = {torch.float32: 1e-4, torch.float64: 1e-9}  # least relative gap of an AbsTopK decision that is compared
NEAR = {torch.float32: 2e-5, torch.float64: 1e-12}  # allowed difference, relative to the largest entry of the tensor

blocks = pytest.mark.parametrize("block", range(BLOCKS))


class Expected(NamedTuple):
    """A case and what the reference makes of it."""

    case: Case
    logits: Array
    hooks: dict[str, Array]
    margin: float


@cache
def expected(seed: int) -> Expected:
    case, margins = draw_case(seed), []
    logits, hooks = reference_forward(case.config, case.state, case.tokens, margins=margins)
    return Expected(case, logits, hooks, min(margins, default=math.inf))


def cases(block: int, dtype: torch.dtype = torch.float32) -> list[Expected]:
    """The cases of a block without a near tie."""
    seeds = range(block * PER_BLOCK, (block + 1) * PER_BLOCK)
    return [found for seed in seeds if (found := expected(seed)).margin > CLEAR[dtype]]


def released(folder: Path, case: Case) -> SparseTransformer:
    return sc.load_model(write_released(folder / str(case.seed), case.config, case.state, masks=case.seed % 3 == 0))


def transformers(folder: Path, case: Case) -> SparseTransformer:
    options = {"shards": 1 + case.seed % 3, "tied_key": case.seed % 2 == 0, "masks": case.seed % 5 == 0}
    return sc.load_model(write_transformers(folder / f"{case.seed}_hf", case.config, case.state, **options))


def differences(actual: Mapping[str, Tensor], wanted: Mapping[str, Array], dtype: torch.dtype) -> dict[str, float]:
    """Name -> difference relative to the largest entry, where it is too large."""
    assert set(actual) == set(wanted)
    far = {}
    for name, value in wanted.items():
        assert actual[name].shape == value.shape and actual[name].dtype == dtype, name
        difference = np.abs(actual[name].numpy().astype(np.float64) - value).max()
        if not difference <= NEAR[dtype] * np.abs(value).max() + 1e-15:
            far[name] = difference / np.abs(value).max()
    return far


def run(model: SparseTransformer, tokens: Array) -> Tensor:
    with torch.no_grad():
        return model(torch.from_numpy(tokens))


# --- the forward pass


def test_the_cases_cover_the_option_space() -> None:
    drawn = [expected(seed) for seed in range(BLOCKS * PER_BLOCK)]
    clear = [{**DEFAULTS, **e.case.config} for e in drawn if e.margin > CLEAR[torch.float32]]
    assert len(clear) >= max(150, len(drawn) / 2)
    assert sum(e.margin > CLEAR[torch.float64] for e in drawn) >= 0.95 * len(drawn)
    for name in (name for name, value in DEFAULTS.items() if isinstance(value, bool)):
        assert 30 <= sum(c[name] for c in clear) <= len(clear) - 30, name
    for place in LOCTYPES:
        assert sum(0 < (c["afrac"] or 0) < 1 and place in c["afrac_loctypes"].split(",") for c in clear) >= 30, place
    for name in ("d_pos_emb", "d_head", "afrac"):
        assert 10 <= sum(c[name] is None for c in clear) <= len(clear) - 10, name
    like_the_largest = [
        c for c in clear if c["rms_norm"] and c["sink"] and c["d_pos_emb"] and 0 < (c["afrac"] or 0) < 1
    ]
    assert len(like_the_largest) >= 5
    for name in ("d_mlp", "n_mlp", *TRAINING_ONLY, *NEUTRAL, "n_embd"):
        assert 20 <= sum(name in e.case.config for e in drawn) <= len(drawn) - 20, name


@blocks
@pytest.mark.parametrize("load", [released, transformers])
def test_logits_and_every_hook(load: Callable[..., SparseTransformer], block: int, tmp_path: Path) -> None:
    far = {}
    for case, logits, hooks, margin in cases(block, torch.float64):
        model = load(tmp_path, case)
        for dtype in (torch.float32, torch.float64):
            model = model.to(dtype)
            if margin <= CLEAR[dtype]:
                continue
            acts = sc.record(model, torch.from_numpy(case.tokens), "*")
            wrong = differences({"logits": run(model, case.tokens), **acts}, {"logits": logits, **hooks}, dtype)
            if wrong:
                far[case.seed, dtype] = wrong, case.config
    assert far == {}


@pytest.mark.parametrize("after", ["identity", "relu"])
def test_exact_ties_go_to_the_lower_index(after: str, tmp_path: Path) -> None:
    """Small whole numbers in the residual stream and nothing written to it: float32 and float64 see the same ties."""
    config: Config = {"block_size": 8, "vocab_size": 11, "n_layer": 2, "n_head": 2, "d_model": 16, "afrac": 0.29}
    config |= {"residual_activation_type": after, "afrac_loctypes": "resid_post_mlp,resid_post_attn"}
    rng = np.random.default_rng(0)
    state = draw_state(config, Random(0), rng)
    state = {name: np.zeros_like(value) if "c_proj" in name else value for name, value in state.items()}
    state["transformer.wte.weight"] = state["lm_head.weight"] = rng.integers(-2, 3, (11, 16)).astype(np.float32)
    state["transformer.wpe.weight"] = rng.integers(-1, 2, (8, 16)).astype(np.float32)
    case = Case(0, config, state, rng.integers(0, 11, (3, 8)))
    margins: list[float] = []
    logits, hooks = reference_forward(config, state, case.tokens, margins=margins)
    assert min(margins) == 0.0
    for load in (released, transformers):
        model = load(tmp_path, case)
        acts = sc.record(model, torch.from_numpy(case.tokens), "*")
        actual = {"logits": run(model, case.tokens), **acts}
        assert differences(actual, {"logits": logits, **hooks}, torch.float32) == {}
        assert all(np.array_equal(acts[name], hooks[name]) for name in hooks if "resid_mid" in name)


@blocks
def test_interventions(block: int, tmp_path: Path) -> None:
    far, compared = {}, 0
    for case, _, hooks, _ in cases(block):
        margins: list[float] = []
        edits = draw_interventions(case.seed, hooks)
        logits, _ = reference_forward(case.config, case.state, case.tokens, edits, margins)
        if min(margins, default=math.inf) <= CLEAR[torch.float32]:
            continue
        compared += 1
        with torch.no_grad():
            changed = sc.intervene(released(tmp_path, case), torch.from_numpy(case.tokens), edits)
        wrong = differences({"logits": changed}, {"logits": logits}, torch.float32)
        if wrong:
            far[case.seed] = wrong, sorted(edits), case.config
    assert far == {}
    assert compared >= PER_BLOCK / 2


@blocks
def test_entering_at_a_recorded_residual(block: int, tmp_path: Path) -> None:
    for case, _, hooks, _ in cases(block)[::2]:
        model, tokens = released(tmp_path, case), torch.from_numpy(case.tokens)
        base, acts = run(model, case.tokens), sc.record(model, tokens, "*")
        for name in (name for name in hooks if name.rpartition(".")[2] in ("resid_in", "resid_mid", "final_resid")):
            with torch.no_grad():
                assert torch.equal(model(tokens, start=(name, acts[name])), base), (case, name)


@blocks
def test_cached_pieces_equal_the_whole(block: int, tmp_path: Path) -> None:
    """Positions count on from what the cache holds, and end where block_size does."""
    for case, logits, _, _ in cases(block)[::3]:
        model, tokens = released(tmp_path, case), torch.from_numpy(case.tokens)
        cache, half = KVCache(), (tokens.shape[1] + 1) // 2
        with torch.no_grad():
            pieces = [
                model(piece, cache=cache)
                for piece in (tokens[:, :half], *tokens[:, half:].split(1, 1))
                if piece.numel()
            ]
        assert differences({"logits": torch.cat(pieces, 1)}, {"logits": logits}, torch.float32) == {}, case
        more = case.config["block_size"] + 1 - tokens.shape[1]
        with refused(str(case.config["block_size"])):
            model(torch.zeros(len(tokens), more, dtype=torch.long), cache=cache)


@blocks
def test_no_token_beyond_block_size(block: int, tmp_path: Path) -> None:
    for case, *_ in cases(block)[:4]:
        size = case.config["block_size"]
        model = released(tmp_path, case)
        assert run(model, np.zeros((1, size), np.int64)).shape == (1, size, case.config["vocab_size"])
        with refused(str(size), str(size + 1)):
            model(torch.zeros(1, size + 1, dtype=torch.long))


@blocks
def test_both_layouts_hold_the_same_weights_and_absent_logit_biases_are_zeros(block: int, tmp_path: Path) -> None:
    """Weights bit for bit; logits to the last bits, since sums of floats follow where a file puts its tensors in memory."""
    for case, *_ in cases(block)[:6]:
        zeros = {**case.state, "final_logits_bias": np.zeros(case.config["vocab_size"], np.float32)}
        absent = {name: value for name, value in case.state.items() if name != "final_logits_bias"}
        logits = []
        for kind, state in {"zeros": zeros, "absent": absent}.items():
            one, other = (load(tmp_path / kind, case._replace(state=state)) for load in (released, transformers))
            weights, others = one.state_dict(), other.state_dict()
            assert weights.keys() == others.keys()
            assert all(torch.equal(weights[name], others[name]) for name in weights), case
            logits += [run(one, case.tokens), run(other, case.tokens)]
        assert max((near - logits[0]).abs().max() for near in logits) <= 1e-6 * logits[0].abs().max(), case


# --- what a folder may hold


@pytest.fixture
def plain() -> Case:
    """One net with every kind of weight."""
    config: Config = {"block_size": 6, "vocab_size": 9, "n_layer": 2, "n_head": 2, "d_model": 8, "d_head": 3}
    config |= {"tied_unembed": False, "enable_bigram_table": True, "sink": True, "d_pos_emb": 3, "afrac": 0.5}
    return Case(0, config, draw_state(config, Random(0), np.random.default_rng(0)), np.arange(6)[None])


both = pytest.mark.parametrize("write", [write_released, write_transformers])
Write = Callable[[Path, Mapping[str, Any], Mapping[str, Array]], Path]


@both
def test_training_only_keys_change_nothing(write: Write, plain: Case, tmp_path: Path) -> None:
    base = run(sc.load_model(write(tmp_path / "base", plain.config, plain.state)), plain.tokens)
    for name, values in TRAINING_ONLY.items():
        for i, value in enumerate((*values, "anything", [1])):
            folder = write(tmp_path / f"{name}{i}", {**plain.config, name: value}, plain.state)
            assert torch.equal(run(sc.load_model(folder), plain.tokens), base), (name, value)


@both
def test_keys_that_would_change_the_function_are_refused(write: Write, plain: Case, tmp_path: Path) -> None:
    for name, neutral in NEUTRAL.items():
        sc.load_model(write(tmp_path / f"{name}_neutral", {**plain.config, name: neutral}, plain.state))
        other = 16 if neutral is None else True
        folder = write(tmp_path / name, {**plain.config, name: other}, plain.state)
        with refused(name, str(other)):
            sc.load_model(folder)


@both
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_embd", 9),
        ("no_such_option", 3),
        ("d_pos_emb", 0),
        ("afrac_loctypes", "attn_in,attn_im"),
        ("afrac_loctypes", "attn_in, mlp_in"),
        ("residual_activation_type", "gelu"),
        ("activation_type", "gelu_new"),
        ("afrac", 1.5),
        ("n_layer", 0),
    ],
)
def test_values_that_cannot_be_meant_are_refused(
    write: Write, name: str, value: Any, plain: Case, tmp_path: Path
) -> None:
    folder = write(tmp_path, {**plain.config, name: value}, plain.state)
    with refused(name, str(value).rpartition(",")[2]):
        sc.load_model(folder)


@both
def test_n_embd_may_repeat_d_model(write: Write, plain: Case, tmp_path: Path) -> None:
    for value in (None, 8):
        sc.load_model(write(tmp_path / str(value), {**plain.config, "n_embd": value}, plain.state))


@both
def test_weights_must_be_those_of_the_config(write: Write, plain: Case, tmp_path: Path) -> None:
    """The reference loads a file without one matching key as random weights (1.10)."""
    for name in plain.state:
        if name != "final_logits_bias":
            kept = {key: value for key, value in plain.state.items() if key != name}
            folder = write(tmp_path / f"without_{name}", plain.config, kept)
            with refused(name):
                sc.load_model(folder)
        wide = np.zeros(tuple(size + 1 for size in plain.state[name].shape), np.float32)
        folder = write(tmp_path / f"wide_{name}", plain.config, {**plain.state, name: wide})
        with refused(name):
            sc.load_model(folder)
    folder = write(tmp_path / "more", plain.config, {**plain.state, "transformer.h.2.ln_1.weight": np.ones(8, "f")})
    with refused("transformer.h.2.ln_1.weight"):
        sc.load_model(folder)
