"""The options that came with the released models, one at a time: on paper, against torch's own layers, and in what is trained.

All of them together are compared with a second implementation in tests/hub/test_option_space.py.
"""

import math
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refusals import refused
from sparse_circuits.files import json_hash
from sparse_circuits.model.abs_topk import abs_topk
from sparse_circuits.model.config import ABS_TOPK_SITES, NORM_EPS, AbsTopKSite, ModelConfig
from sparse_circuits.model.folder import model_hash
from sparse_circuits.model.generate import record
from sparse_circuits.model.transformer import SparseTransformer, sinusoids

MakeModel = Callable[..., SparseTransformer]
SHAPE = {"vocab_size": 13, "n_layer": 2, "d_model": 12, "n_head": 2, "d_head": 5, "block_size": 16}


# --- configs


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"positions": "concat"}, ("'concat'", "d_pos_emb None")),
        ({"positions": "concat", "d_pos_emb": 0}, ("d_pos_emb 0", "at least 1")),
        ({"positions": "learned", "d_pos_emb": 4}, ("'learned'", "d_pos_emb 4")),
        ({"d_pos_emb": 4}, ("'none'", "d_pos_emb 4")),
        ({"positions": "learned", "sinusoidal_positions": True}, ("sinusoidal_positions", "'learned'")),
        ({"norm_eps": 0.0}, ("norm_eps", "0.0")),
        ({"norm_eps": math.nan}, ("norm_eps", "nan")),
        ({"norm_eps": math.inf}, ("norm_eps", "inf")),
        ({"norm": "batch"}, ("norm", "'batch'", "'layer'")),
        ({"activation": "gelu_new"}, ("activation", "'gelu_new'", "'relu'")),
        ({"residual_activation": "none"}, ("residual_activation", "'none'", "'identity'")),
        ({"positions": "rope"}, ("positions", "'rope'", "'concat'")),
        ({"afrac_sites": ("attn_y",)}, ("afrac_sites", "'attn_y'", "'mlp_neuron'")),
        ({"d_mlp": 0}, ("d_mlp", "0")),
    ],
)
def test_options_that_cannot_be(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    with refused(*words):
        ModelConfig(**{**SHAPE, **changes})


def test_the_paper_s_model_is_the_default() -> None:
    config = ModelConfig(**SHAPE)
    assert (config.norm, config.activation, config.residual_activation) == ("rms", "gelu", "identity")
    assert (config.positions, config.tied_unembed, config.logits_bias) == ("none", False, False)
    assert config.eps == 2.0**-23 and config.replace(norm="layer").eps == 1e-5
    assert set(get_args(AbsTopKSite)) - set(ABS_TOPK_SITES) == {"resid_post_attn", "resid_post_mlp"}


def test_widths_of_what_is_read_include_concatenated_positions() -> None:
    config = ModelConfig(**SHAPE, positions="concat", d_pos_emb=3)
    assert config.d_read == 15
    wide = {site: width for site, width in config.widths.items() if width != ModelConfig(**SHAPE).widths[site]}
    assert wide == {f"{layer}.{kind}.act_in": 15 for layer in range(2) for kind in ("attn", "mlp")}


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({}, "bd2d6ca66b6a45ce44909ab52dcae42f0693ef4d0c6f2d37cbc0c3913f4fedbd"),
        (
            {"afrac": 0.25, "sink": False, "bigram": False, "d_mlp": 7},
            "0091b524a776d65acc4b6be070f6a36aa55ab75bddc66d093b15ec1c22ffa326",
        ),
    ],
)
def test_models_of_the_first_release_keep_their_hash(changes: dict[str, Any], known: str) -> None:
    """Circuits and reference values name their model by it; these were computed before there were further options."""
    model = SparseTransformer(ModelConfig(vocab_size=5, n_layer=1, d_model=4, n_head=2, d_head=3, **changes))
    with torch.no_grad():
        for i, (_, weight) in enumerate(sorted(model.named_parameters())):
            weight.copy_(torch.arange(weight.numel()).view(weight.shape) / 8 - i)
    assert model_hash(model) == known


def test_every_option_changes_the_hash(make_model: MakeModel) -> None:
    base = make_model()
    for field, value in (
        ("activation", "relu"),
        ("residual_activation", "relu"),
        ("norm_eps", 1e-5),
        ("afrac_sites", ("attn_in",)),
        ("learnable_bigram", False),
    ):
        other = make_model(**{field: value})
        assert json_hash(list(base.state_dict())) == json_hash(list(other.state_dict()))
        assert model_hash(other) != model_hash(base), field


# --- which tensors there are, and which are trained


def names(**changes: Any) -> set[str]:
    return set(SparseTransformer(ModelConfig(**{**SHAPE, "n_layer": 1, **changes})).state_dict())


def test_which_tensors_an_option_brings_or_takes() -> None:
    base = names()
    norms = {"blocks.0.attn.norm.bias", "blocks.0.mlp.norm.bias", "final_norm.bias"}
    beside = {"blocks.0.attn.pos_norm", "blocks.0.mlp.pos_norm"}
    assert names(norm="layer") - base == norms and names(norm="layer", ln_bias=False) == base == names(ln_bias=False)
    assert names(positions="learned") - base == {"positions.weight"}
    concat = {"positions.weight", *(f"{norm}.gain" for norm in beside)}
    assert names(positions="concat", d_pos_emb=2) - base == concat
    both = names(positions="concat", d_pos_emb=2, norm="layer") - base
    assert both == concat | norms | {f"{norm}.bias" for norm in beside}
    assert names(logits_bias=True) - base == {"logits_bias"}
    assert names(tied_unembed=True) == base
    assert base - names(bias=False) == {
        f"blocks.0.{name}.bias" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert base - names(sink=False) == {"blocks.0.attn.sink"} and base - names(bigram=False) == {"bigram.weight"}


@pytest.mark.parametrize(
    ("changes", "fixed"),
    [
        ({}, set()),
        ({"learnable_bigram": False, "logits_bias": True}, {"bigram.weight"}),
        ({"positions": "learned"}, set()),
        ({"positions": "concat", "d_pos_emb": 4}, set()),
        ({"positions": "concat", "d_pos_emb": 4, "sinusoidal_positions": True}, {"positions.weight"}),
    ],
)
def test_what_training_leaves_alone(changes: dict[str, Any], fixed: set[str]) -> None:
    model = SparseTransformer(ModelConfig(**{**SHAPE, **changes})).initialize(0)
    assert {name for name, weight in model.named_parameters() if not weight.requires_grad} == fixed
    assert "logits_bias" not in dict(model.named_parameters())
    model(torch.tensor([[1, 2, 3]])).square().sum().backward()
    assert {name for name, weight in model.named_parameters() if weight.grad is None} == fixed


def test_a_tied_matrix_has_the_gradients_of_both_its_uses(make_model: MakeModel, tokens: Tensor) -> None:
    tied, apart = make_model(tied_unembed=True), make_model()
    assert (
        tied.unembed.weight is tied.embed.weight and len(list(tied.parameters())) == len(list(apart.parameters())) - 1
    )
    weights = tied.state_dict()
    apart.load_state_dict(weights)
    for model in (tied, apart):
        model(tokens).square().mean().backward()
    assert tied.embed.weight.grad is not None and apart.embed.weight.grad is not None
    assert apart.unembed.weight.grad is not None
    torch.testing.assert_close(tied.embed.weight.grad, apart.embed.weight.grad + apart.unembed.weight.grad)


# --- starting values


@pytest.mark.parametrize(("length", "width"), [(16, 6), (256, 32), (9, 5), (3, 4), (2, 1), (1, 2), (1, 1)])
def test_sinusoids(length: int, width: int) -> None:
    """RELEASE_FORMAT 1.8: h = max(1, p // 2) periods log-spaced from 4 to max(4, T) tokens, columns [sin | cos]."""
    half, longest = max(1, width // 2), max(4, length)
    expected = np.zeros((length, max(width, 2 * half)))
    for i in range(half):
        period = 4 * (longest / 4) ** (i / (half - 1)) if half > 1 else 4
        for t in range(length):
            expected[t, i] = math.sin(2 * math.pi * t / period)
            expected[t, half + i] = math.cos(2 * math.pi * t / period)
    found = sinusoids(length, width)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected[:, :width], atol=1e-6)


def test_starting_values() -> None:
    options = {"positions": "concat", "d_pos_emb": 6, "norm": "layer", "logits_bias": True, "learnable_bigram": False}
    model = SparseTransformer(ModelConfig(**SHAPE, **options, sinusoidal_positions=True)).initialize(3)
    for name, weight in model.state_dict().items():
        if name.endswith("gain"):
            assert torch.all(weight == 1), name
        elif name.endswith(("bias", "sink")) or name == "bigram.weight":
            assert torch.all(weight == 0), name
    assert model.positions is not None and torch.equal(model.positions.weight, sinusoids(16, 6))
    drawn = SparseTransformer(ModelConfig(**{**SHAPE, **options, "block_size": 2000})).initialize(3)
    assert drawn.positions is not None
    assert float(drawn.positions.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


# --- norms


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("size", [1e-4, 1.0, 100.0])
def test_norms_are_torch_s(norm: str, size: float, make_model: MakeModel) -> None:
    model = make_model(norm=norm, logits_bias=False)
    x = size * torch.randn(3, 7, 12)
    gain, bias = model.final_norm.gain, model.final_norm.bias
    if norm == "rms":
        assert bias is None
        expected = F.rms_norm(x, (12,), gain, None)
    else:
        assert bias is not None
        expected = F.layer_norm(x, (12,), gain, bias, 1e-5)
    torch.testing.assert_close(model.final_norm(x), expected)


def test_a_norm_of_bfloat16_is_taken_in_float32(make_model: MakeModel) -> None:
    norm = make_model(norm="layer").final_norm.to(torch.bfloat16)
    x = (torch.randn(4, 12) + 8).bfloat16()  # a mean this far off would cost half the digits
    assert norm.bias is not None
    exact = F.layer_norm(x.float(), (12,), norm.gain.float(), norm.bias.float(), 1e-5)
    torch.testing.assert_close(norm(x).float(), exact, atol=0.03, rtol=0.02)


# --- a whole pass on paper


def test_logits_on_paper() -> None:
    """LayerNorm with biases, added positions, ReLU everywhere, no linear biases, one tied matrix, fixed table, logits bias."""
    config = ModelConfig(
        vocab_size=2,
        n_layer=1,
        d_model=2,
        n_head=1,
        d_head=1,
        d_mlp=1,
        block_size=2,
        sink=False,
        bias=False,
        norm="layer",
        activation="relu",
        residual_activation="relu",
        positions="learned",
        tied_unembed=True,
        learnable_bigram=False,
        logits_bias=True,
    )
    model = SparseTransformer(config).eval()
    embed = [[1.0, 0.0], [0.0, 3.0]]
    weights = {
        "embed.weight": embed,
        "unembed.weight": embed,
        "positions.weight": [[0.0, 2.0], [1.0, 0.0]],
        "blocks.0.attn.norm.gain": [1.0, 2.0],
        "blocks.0.attn.norm.bias": [0.5, 0.0],
        "blocks.0.attn.c_attn.weight": [[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]],  # q = u0, k = u1, v = 2 u0
        "blocks.0.attn.c_proj.weight": [[3.0], [1.0]],
        "blocks.0.mlp.norm.gain": [1.0, 1.0],
        "blocks.0.mlp.norm.bias": [0.0, 0.25],
        "blocks.0.mlp.c_fc.weight": [[0.0, 1.0]],
        "blocks.0.mlp.c_proj.weight": [[-1.0], [2.0]],
        "final_norm.gain": [1.0, 1.0],
        "final_norm.bias": [0.0, 1.0],
        "bigram.weight": [[10.0, 20.0], [30.0, 40.0]],
        "logits_bias": [0.125, -0.125],
    }
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})

    def norm(x: tuple[float, float], gain: tuple[float, float], bias: tuple[float, float]) -> tuple[float, float]:
        half = (x[0] - x[1]) / 2  # two numbers lie half their difference from their mean
        unit = half / math.sqrt(half * half + 1e-5)
        return unit * gain[0] + bias[0], -unit * gain[1] + bias[1]

    x = [(1.0, 2.0), (1.0, 3.0)]  # tokens 0 and 1 with their positions
    u = [norm(each, (1, 2), (0.5, 0)) for each in x]
    assert u[0][0] < 0 < u[0][1]
    near, far = math.exp(u[1][0] * u[1][1]), math.exp(u[1][0] * u[0][1])
    y = [2 * u[0][0], (near * 2 * u[1][0] + far * 2 * u[0][0]) / (near + far)]
    mid = [(max(a + 3 * v, 0.0), max(b + v, 0.0)) for (a, b), v in zip(x, y, strict=True)]
    assert mid[0][0] == 0.0 < mid[0][1]  # the residual stream's own ReLU acts
    h = [max(norm(each, (1, 1), (0, 0.25))[1], 0.0) for each in mid]
    final = [(max(a - v, 0.0), max(b + 2 * v, 0.0)) for (a, b), v in zip(mid, h, strict=True)]
    z = [norm(each, (1, 1), (0, 1)) for each in final]
    table = [(10.0, 20.0), (30.0, 40.0)]
    logits = [(a + row[0] + 0.125, 3 * b + row[1] - 0.125) for (a, b), row in zip(z, table, strict=True)]

    tokens = torch.tensor([[0, 1]])
    acts = record(model, tokens, ["*"])
    for name, expected in (
        *(("0.resid_in", x), ("0.attn.act_in", u), ("0.attn.y", [(v,) for v in y]), ("0.resid_mid", mid)),
        *(("0.mlp.post_act", [(v,) for v in h]), ("final_resid", final)),
    ):
        torch.testing.assert_close(acts[name][0], torch.tensor(expected), atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(model(tokens)[0], torch.tensor(logits), atol=4e-6, rtol=2e-6)


# --- concatenated positions


def test_concatenated_positions_stand_beside_the_stream_and_compete_in_abs_topk(make_model: MakeModel) -> None:
    model = make_model(positions="concat", d_pos_emb=3, afrac=0.4, afrac_sites=("attn_in",), norm="layer")
    tokens = torch.tensor([[1, 2, 3, 4], [9, 8, 7, 6]])
    acts = record(model, tokens, ["*", "embed"])
    assert model.positions is not None
    assert torch.equal(acts["0.resid_in"], acts["embed"])  # they never enter the stream
    for layer, block in enumerate(model.blocks):
        for kind, resid in (("attn", "resid_in"), ("mlp", "resid_mid")):
            part = block.get_submodule(kind)
            beside = part.get_submodule("pos_norm")(model.positions.weight[:4]).expand(2, -1, -1)
            whole = torch.cat([part.get_submodule("norm")(acts[f"{layer}.{resid}"]), beside], -1)
            expected = abs_topk(whole, int(0.4 * 15)) if kind == "attn" else whole
            torch.testing.assert_close(acts[f"{layer}.{kind}.act_in"], expected)
    kept = acts["0.attn.act_in"] != 0
    assert torch.all(kept.sum(-1) == 6) and kept[..., 12:].any() and not kept[..., 12:].all()


@pytest.mark.parametrize("site", ["resid_post_attn", "resid_post_mlp"])
def test_abs_topk_on_the_stream_itself(site: str, make_model: MakeModel) -> None:
    model = make_model(afrac=0.25, afrac_sites=(site,), residual_activation="relu")
    acts = record(model, torch.tensor([[1, 2, 3]]), "*")
    thinned = ("0.resid_mid", "1.resid_mid") if site == "resid_post_attn" else ("1.resid_in", "final_resid")
    for name in ("0.resid_in", "0.resid_mid", "1.resid_in", "1.resid_mid", "final_resid"):
        nonzero = (acts[name] != 0).sum(-1)
        assert bool((nonzero <= 3).all()) == (name in thinned), name
        assert name == "0.resid_in" or torch.all(acts[name] >= 0), name


def test_norm_eps_defaults_follow_the_norm() -> None:
    assert {norm: ModelConfig(**SHAPE, norm=norm).eps for norm in ("rms", "layer")} == NORM_EPS
    assert ModelConfig(**SHAPE, norm="layer", norm_eps=1e-3).eps == 1e-3
