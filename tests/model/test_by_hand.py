"""The forward pass against two independent routes: a model small enough for paper, and a plain numpy implementation
written from the equations of the method (METHOD 1a, RELEASE_FORMAT 1.5), compared at every site."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.generate import record
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import all_sites, request_sites

EPS = 2.0**-23


def micro_model() -> SparseTransformer:
    """3 tokens, 2 channels, one layer, one head of width 4 of which only coordinate 0 is used, one hidden neuron."""
    config = ModelConfig(vocab_size=3, n_layer=1, d_model=2, n_head=1, d_head=4, d_mlp=1)
    model = SparseTransformer(config).eval()
    c_attn, c_attn_bias = torch.zeros(12, 2), torch.zeros(12)
    c_attn[0, 0] = 1.0  # q = u0
    c_attn[4, 1] = 1 / 7  # k = u1 / 7
    c_attn[8, 0], c_attn_bias[8] = 1.0, 1.0  # v = u0 + 1
    c_proj = torch.zeros(2, 4)
    c_proj[:, 0] = torch.tensor([1.0, -1.0])
    weights = {
        "embed.weight": torch.tensor([[1.0, 7.0], [2.0**-12, 0.0], [9.0, 9.0]]),
        "blocks.0.attn.norm.gain": torch.tensor([5.0, 5.0]),
        "blocks.0.attn.c_attn.weight": c_attn,
        "blocks.0.attn.c_attn.bias": c_attn_bias,
        "blocks.0.attn.sink": torch.tensor([math.log(3)]),
        "blocks.0.attn.c_proj.weight": c_proj,
        "blocks.0.attn.c_proj.bias": torch.tensor([0.0, 0.5]),
        "blocks.0.mlp.norm.gain": torch.tensor([1.0, 1.0]),
        "blocks.0.mlp.c_fc.weight": torch.tensor([[1.0, 0.0]]),
        "blocks.0.mlp.c_fc.bias": torch.tensor([-0.25]),
        "blocks.0.mlp.c_proj.weight": torch.tensor([[2.0], [0.0]]),
        "blocks.0.mlp.c_proj.bias": torch.tensor([0.0, 0.0]),
        "final_norm.gain": torch.tensor([1.0, 2.0]),
        "unembed.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
        "bigram.weight": torch.tensor([[0.0, 10.0, 20.0], [1.0, 2.0, 3.0], [9.0, 9.0, 9.0]]),
    }
    model.load_state_dict(weights)
    return model


def test_logits_on_paper() -> None:
    """Tokens 0, 1. Token 1 is so small (mean square 2^-25) that the epsilon of the norm (2^-23) decides its size."""

    def norm(a: float, b: float) -> tuple[float, float]:
        root = math.sqrt((a * a + b * b) / 2 + EPS)
        return a / root, b / root

    def gelu(z: float) -> float:
        return z * (1 + math.erf(z / math.sqrt(2))) / 2

    # token 0: (1, 7) has mean square (1 + 49) / 2 = 25, so u = 5 * (1, 7) / 5 = (1, 7)
    # token 1: 2^-12 / sqrt(2^-25 + 2^-23) = 2^-12 / (2^-12.5 sqrt 5) = sqrt(2/5), so u = (sqrt 10, 0)
    root10 = math.sqrt(10)
    # q = (1, sqrt 10), k = (1, 0), v = (2, 1 + sqrt 10); scores q k / sqrt 4; the sink adds 3 below the line
    #   position 0: e^(1/2) / (e^(1/2) + 3)
    #   position 1: e^(sqrt(10)/2) and e^0 over their sum + 3
    p00 = math.exp(0.5) / (math.exp(0.5) + 3)
    below = math.exp(root10 / 2) + 1 + 3
    p10, p11 = math.exp(root10 / 2) / below, 1 / below
    y = (2 * p00, 2 * p10 + (1 + root10) * p11)
    # resid_delta = (y, 1/2 - y)
    mid = [(1 + y[0], 7 + 0.5 - y[0]), (2.0**-12 + y[1], 0.5 - y[1])]
    # the neuron reads channel 0 minus 1/4 and writes twice its activation to channel 0
    h = [gelu(norm(*x)[0] - 0.25) for x in mid]
    final = [(x[0] + 2 * h[i], x[1]) for i, x in enumerate(mid)]
    # z = norm(final) * (1, 2); logits = (z0, z1, z0 + z1) + bigram row of the token
    bigram = [(0.0, 10.0, 20.0), (1.0, 2.0, 3.0)]
    logits = []
    for (a, b), row in zip([norm(*x) for x in final], bigram, strict=True):
        logits.append([a + row[0], 2 * b + row[1], a + 2 * b + row[2]])

    model, tokens = micro_model(), torch.tensor([[0, 1]])
    acts = record(model, tokens, ["*", "0.attn.pattern", "0.mlp.norm_scale"])

    def check(found: Tensor, expected: object) -> None:
        torch.testing.assert_close(found, torch.tensor(expected), atol=2e-6, rtol=2e-6)

    check(acts["0.attn.act_in"][0], [[1.0, 7.0], [root10, 0.0]])
    check(acts["0.attn.pattern"][0, 0], [[p00, 0.0, 1 - p00], [p10, p11, 1 - p10 - p11]])
    check(acts["0.attn.y"][0, :, 0], list(y))
    check(acts["0.resid_mid"][0], [list(x) for x in mid])
    check(acts["0.mlp.post_act"][0, :, 0], h)
    check(acts["final_resid"][0], [list(x) for x in final])
    check(model(tokens)[0], logits)


def test_top_k_on_paper() -> None:
    """The same model keeping half of every site: act_in keeps one of two channels, the lower where they tie."""
    model = micro_model()
    sparse = SparseTransformer(model.config.replace(afrac=0.5, d_mlp=2)).eval()
    wider = {
        name: value for name, value in model.state_dict().items() if "c_fc" not in name and "mlp.c_proj" not in name
    }
    wider |= {
        "blocks.0.mlp.c_fc.weight": torch.tensor([[0.0, 0.0], [0.0, 0.0]]),
        "blocks.0.mlp.c_fc.bias": torch.tensor([1.0, -3.0]),  # gelu(-3) is smaller in size than gelu(1)
        "blocks.0.mlp.c_proj.weight": torch.tensor([[1.0, 100.0], [2.0, 100.0]]),
        "blocks.0.mlp.c_proj.bias": torch.tensor([0.0, 0.0]),
    }
    sparse.load_state_dict(wider)
    acts = record(sparse, torch.tensor([[0, 2]]), ["*", "0.mlp.pre_act"])
    # token 0 normed is (1, 7): 7 stays. Token 2 normed is (5, 5): the tie goes to channel 0.
    torch.testing.assert_close(acts["0.attn.act_in"][0], torch.tensor([[0.0, 7.0], [5.0, 0.0]]))
    # v keeps 2 of its 4 coordinates: 1 + u0 and, of the three zeros, the first
    torch.testing.assert_close(acts["0.attn.v"][0, :, 0], torch.tensor([1.0, 6.0]))
    gelu_1 = (1 + math.erf(1 / math.sqrt(2))) / 2
    torch.testing.assert_close(acts["0.mlp.pre_act"][0, 0], torch.tensor([1.0, -3.0]))
    torch.testing.assert_close(acts["0.mlp.post_act"][0, 0], torch.tensor([gelu_1, 0.0]))
    torch.testing.assert_close(acts["0.mlp.resid_delta"][0, 0], torch.tensor([0.0, 2 * gelu_1]))


# --- a second implementation


def top_k(x: np.ndarray, k: int) -> np.ndarray:
    """Row by row with a stable sort."""
    out = np.zeros_like(x)
    for index in np.ndindex(x.shape[:-1]):
        kept = sorted(range(x.shape[-1]), key=lambda channel: (-abs(x[index][channel]), channel))[:k]
        out[index][kept] = x[index][kept]
    return out


def numpy_forward(model: SparseTransformer, tokens: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Every site and the logits in float64, from the equations, head by head and query by query."""
    config = model.config
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    acts: dict[str, np.ndarray] = {}
    batch, length = tokens.shape
    heads, d_head = config.n_head, config.d_head
    erf = np.vectorize(math.erf)

    def keep(place: str, x: np.ndarray) -> np.ndarray:
        active = config.afrac is not None and place in config.afrac_sites
        return top_k(x, int(config.afrac * x.shape[-1])) if active else x

    def norm(x: np.ndarray, gain: str, name: str) -> np.ndarray:
        scale = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + EPS)
        acts[name] = scale
        return x * scale * w[gain]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return np.einsum("bti,oi->bto", x, w[f"{name}.weight"]) + w[f"{name}.bias"]

    x = acts["embed"] = w["embed.weight"][tokens]
    for layer in range(config.n_layer):
        here, at = f"blocks.{layer}.", f"{layer}."
        acts[at + "resid_in"] = x
        u = acts[at + "attn.act_in"] = keep("attn_in", norm(x, here + "attn.norm.gain", at + "attn.norm_scale"))
        parts = np.split(linear(u, here + "attn.c_attn"), 3, -1)
        q, k, v = (keep(f"attn_{name}", part) for name, part in zip("qkv", parts, strict=True))
        acts |= {at + "attn.q": q, at + "attn.k": k, at + "attn.v": v}
        sink = w.get(here + "attn.sink")
        pattern = np.zeros((batch, heads, length, length + (sink is not None)))
        y = np.zeros_like(q)
        for b, head, query in np.ndindex(batch, heads, length):
            part = slice(head * d_head, (head + 1) * d_head)
            mass = np.exp([q[b, query, part] @ k[b, key, part] / math.sqrt(d_head) for key in range(query + 1)])
            below = mass.sum() + (0.0 if sink is None else math.exp(sink[head]))
            pattern[b, head, query, : query + 1] = mass / below
            if sink is not None:
                pattern[b, head, query, -1] = math.exp(sink[head]) / below
            y[b, query, part] = (mass / below) @ v[b, : query + 1, part]
        acts[at + "attn.pattern"], acts[at + "attn.y"] = pattern, y
        delta = acts[at + "attn.resid_delta"] = keep("attn_out", linear(y, here + "attn.c_proj"))
        x = acts[at + "resid_mid"] = x + delta
        inner = acts[at + "mlp.act_in"] = keep("mlp_in", norm(x, here + "mlp.norm.gain", at + "mlp.norm_scale"))
        pre = acts[at + "mlp.pre_act"] = linear(inner, here + "mlp.c_fc")
        h = acts[at + "mlp.post_act"] = keep("mlp_neuron", pre * (1 + erf(pre / math.sqrt(2))) / 2)
        delta = acts[at + "mlp.resid_delta"] = keep("mlp_out", linear(h, here + "mlp.c_proj"))
        x = x + delta
    acts["final_resid"] = x
    logits = norm(x, "final_norm.gain", "final_norm_scale") @ w["unembed.weight"].T
    acts["bigram"] = w["bigram.weight"][tokens] if config.bigram else np.zeros_like(logits)
    return acts, logits + acts["bigram"]


def test_every_site_equals_the_second_implementation(plain_model: SparseTransformer, tokens: Tensor) -> None:
    """In float64, where no top-k decision can differ by rounding; the explicit attention path."""
    model = plain_model
    n_layer = model.config.n_layer
    acts, logits = numpy_forward(model, tokens.numpy())
    precise = model.double()
    found = record(precise, tokens, [*all_sites(n_layer), *request_sites(n_layer)])
    assert found.keys() == acts.keys()
    for site, act in found.items():
        np.testing.assert_allclose(act.numpy(), acts[site], atol=1e-11, rtol=1e-10, err_msg=site)
    np.testing.assert_allclose(precise(tokens).detach().numpy(), logits, atol=1e-11, rtol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_the_fast_paths_equal_the_second_implementation(
    make_model: Callable[..., SparseTransformer], tokens: Tensor, seed: int
) -> None:
    """In float32: the AbsTopK kernel and fused attention, at every site."""
    model = make_model(seed, afrac=0.25, n_head=3, d_head=6)
    acts, logits = numpy_forward(model, tokens.numpy())
    for site, act in record(model, tokens).items():
        np.testing.assert_allclose(act.numpy(), acts[site], atol=2e-5, rtol=2e-5, err_msg=site)
        assert (act != 0).sum(-1).max() <= np.count_nonzero(acts[site], -1).max(), site
    np.testing.assert_allclose(model(tokens).detach().numpy(), logits, atol=2e-5, rtol=2e-5)
