"""The released forward pass a second time, in plain float64 numpy: what our loaded models are compared with.

Written from RELEASE_FORMAT 1.2 to 1.8 alone and straight from the fields and keys on disk, without modules, taps or
kernels and without a look at src/sparse_circuits/model: so that an error there is not repeated here. It is anchored by
the golden vectors (test_golden_released.py), which it meets without our library.

Shapes: B batch, T tokens, d d_model, p d_pos_emb, A n_head*d_head, M d_mlp, V vocabulary.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

Array = np.ndarray
Interventions = Mapping[str, Callable[[Array], Array]]

DEFAULTS: dict[str, Any] = {
    "block_size": 1024,
    "vocab_size": 50304,
    "n_layer": 12,
    "n_head": 12,
    "d_model": 768,
    "d_head": None,
    "d_mlp": None,
    "dropout": 0.0,
    "bias": True,
    "ln_bias": True,
    "rms_norm": False,
    "residual_activation_type": "identity",
    "activation_type": "gelu",
    "afrac": None,
    "afrac_loctypes": "attn_in,attn_out,mlp_in,mlp_out",
    "tied_unembed": True,
    "enable_bigram_table": False,
    "learnable_bigram_table": False,
    "d_pos_emb": None,
    "dropout_cat_pos_emb": False,
    "sinusoidal_cat_pos_emb": False,
    "sink": False,
    "flash": True,
    "grad_checkpointing": True,
    "debug_nans": False,
    "enable_sparse_kernels": False,
    "tokenizer_name": "tinypython_2k",
}
"""What a key that is not on disk means (1.2)."""

_erf = np.vectorize(math.erf, otypes=[np.float64])


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Config and weights of a released folder, or of one in the transformers layout (one file, nothing left out)."""
    if (folder / "beeg_config.json").exists():
        state = torch.load(folder / "final_model.pt", weights_only=True)
        config = json.loads((folder / "beeg_config.json").read_text("utf-8"))
        return config, {name: value.numpy() for name, value in state.items()}
    state = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return config, {name.removeprefix("circuit_model."): value for name, value in state.items()}


def reference_forward(
    config: Mapping[str, Any],
    state: Mapping[str, Array],
    tokens: Array,
    interventions: Interventions | None = None,
    margins: list[float] | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Logits [B, T, V] and the activation [B, T, width] at every hook of 1.7, all float64.

    interventions: hook name -> function of the activation; what it returns is recorded and used.
    margins: receives, per AbsTopK, the least gap between last kept and first dropped, relative to the token's largest.
    """
    c = {**DEFAULTS, **config}
    w = {name: np.asarray(value, np.float64) for name, value in state.items()}
    cat = c["d_pos_emb"] is not None
    hooks: dict[str, Array] = {}

    def hook(name: str, x: Array) -> Array:
        hooks[name] = (interventions or {}).get(name, lambda value: value)(x)
        return hooks[name]

    def keep(place: str, x: Array) -> Array:
        listed = c["afrac"] is not None and place in c["afrac_loctypes"].split(",")
        return abs_top_k(x, int(c["afrac"] * x.shape[-1]), margins) if listed else x

    def linear(name: str, x: Array) -> Array:
        y = x @ w[f"{name}.weight"].T
        return y + w[f"{name}.bias"] if c["bias"] else y

    def norm(name: str, x: Array) -> Array:
        if c["rms_norm"]:
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + 2**-23) * w[f"{name}.weight"]
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"]
        return x + w[f"{name}.bias"] if c["ln_bias"] else x

    def normed(block: str, which: int, x: Array) -> Array:
        h = norm(f"{block}.ln_{which}", x)
        return np.concatenate([h, norm(f"{block}.ln_p{which}", pos)], -1) if cat else h

    def add(x: Array, delta: Array) -> Array:
        x = x + delta
        return np.maximum(x, 0) if c["residual_activation_type"] == "relu" else x

    wpe = w["transformer.wpe.weight"]
    pos = np.broadcast_to(wpe[: tokens.shape[1]], (*tokens.shape, wpe.shape[1]))
    x = w["transformer.wte.weight"][tokens] + (0 if cat else pos)
    for layer in range(c["n_layer"]):
        block, attn, mlp = f"transformer.h.{layer}", f"{layer}.attn", f"{layer}.mlp"
        x = hook(f"{layer}.resid_in", x)
        h = hook(f"{attn}.act_in", keep("attn_in", normed(block, 1, x)))
        q, k, v = np.split(linear(f"{block}.attn.c_attn", h), 3, -1)
        k = hook(f"{attn}.k", keep("attn_k", k))
        q = hook(f"{attn}.q", keep("attn_q", q))
        v = hook(f"{attn}.v", keep("attn_v", v))
        sinks = w[f"{block}.attn.attn_imp.sink_logit"] if c["sink"] else None
        y = hook(f"{attn}.y", attention(q, k, v, c["n_head"], sinks))
        delta = hook(f"{attn}.resid_delta", keep("attn_out", linear(f"{block}.attn.c_proj", y)))
        x = hook(f"{layer}.resid_mid", keep("resid_post_attn", add(x, delta)))
        h = hook(f"{mlp}.act_in", keep("mlp_in", normed(block, 2, x)))
        a = linear(f"{block}.mlp.c_fc", h)
        a = np.maximum(a, 0) if c["activation_type"] == "relu" else a * (1 + _erf(a / math.sqrt(2))) / 2
        a = hook(f"{mlp}.post_act", keep("mlp_neuron", a))
        delta = hook(f"{mlp}.resid_delta", keep("mlp_out", linear(f"{block}.mlp.c_proj", a)))
        x = keep("resid_post_mlp", add(x, delta))
    x = hook("final_resid", x)
    unembed = w["transformer.wte.weight" if c["tied_unembed"] else "lm_head.weight"]
    logits = norm("transformer.ln_f", x) @ unembed.T + w.get("final_logits_bias", 0.0)
    return (logits + w["bigram_table"][tokens] if c["enable_bigram_table"] else logits), hooks


def attention(q: Array, k: Array, v: Array, n_head: int, sinks: Array | None) -> Array:
    """Causal attention [B, T, A]; the sink is one more logit of every query, with a value of zero (1.5)."""
    d_head = q.shape[-1] // n_head
    y = np.zeros_like(v)
    for head in range(n_head):
        own = slice(head * d_head, (head + 1) * d_head)
        for t in range(q.shape[1]):
            scores = np.einsum("bc,bsc->bs", q[:, t, own], k[:, : t + 1, own]) / math.sqrt(d_head)
            if sinks is not None:
                scores = np.concatenate([np.full((len(q), 1), sinks[head]), scores], 1)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            weights = weights / weights.sum(1, keepdims=True)
            y[:, t, own] = np.einsum("bs,bsc->bc", weights[:, -t - 1 :], v[:, : t + 1, own])
    return y


def abs_top_k(x: Array, k: int, margins: list[float] | None) -> Array:
    """x with all but its k entries of largest |x| zero; the stable sort gives ties to the lower index (1.6)."""
    order = np.argsort(-np.abs(x), -1, kind="stable")
    out = np.zeros_like(x)
    np.put_along_axis(out, order[..., :k], np.take_along_axis(x, order[..., :k], -1), -1)
    if margins is not None and 0 < k < x.shape[-1]:
        sizes = np.take_along_axis(np.abs(x), order, -1)
        last, largest = sizes[..., k - 1], sizes[..., 0]
        chosen = last > 0  # between zeros it does not matter which are kept
        gaps = (last - sizes[..., k])[chosen] / largest[chosen]
        margins.append(float(gaps.min(initial=math.inf)))
    return out


def reference_loss(logits: Array, targets: Array) -> float:
    """Mean cross-entropy in nats over the targets that are not -1; the caller has shifted them (1.5)."""
    losses = [
        math.log(np.exp(row - row.max()).sum()) + row.max() - row[target]
        for row, target in zip(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), strict=True)
        if target != -1
    ]
    return float(np.mean(losses))
