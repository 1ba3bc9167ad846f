"""Random models over the whole option space of the released format, and folders of both layouts that hold them.

A case is a seed: `draw_case(7)` is the same everywhere. Options, shapes and keys are those of RELEASE_FORMAT 1.2 and
1.4; every weight is drawn, so that no gain, bias, sink or table is left where it would not be seen. Embeddings are
drawn at several scales, small enough that the eps of the norms matters (1.8); a third of all matrix entries are zero,
and some gains negative, so that -0.0 meets AbsTopK.
"""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import save_file

from hub.reference_forward import DEFAULTS, Array

Config = dict[str, Any]

LOCTYPES = (
    "attn_in",
    "attn_out",
    "mlp_in",
    "mlp_out",
    "mlp_neuron",
    "attn_q",
    "attn_k",
    "attn_v",
    "resid_post_attn",
    "resid_post_mlp",
)
FRACTIONS = (None, 0, 0.0, 1.0, 1, *(0.062, 0.125, 0.25, 0.29, 0.5, 0.58, 0.75) * 2)

# What the loader may meet beside the declared fields (1.2): these at any value, ...
TRAINING_ONLY: dict[str, tuple[Any, ...]] = {
    "pfrac": (0.5, 0.015625, None),
    "expansion_factor": (8, 1.5, None),
    "expansion_factor_mlp": (8, None),
    "ignore_dw_grad": (False, True),
    "debug_exact_topk": (False, True),
    "sparse_matmul_impl": ("cuda", "triton", None),
}
# ... and these only at the value that changes nothing.
NEUTRAL: dict[str, Any] = {
    "bigram_table_rank": None,
    "unembed_rank": None,
    "afrac_approx": False,
    "rtopk": False,
    "afrac_ste": False,
    "afrac_ste_only_non_neurons": False,
    "mup": False,
    "mup_width_multiplier": None,
    "enable_fp8_linear": False,
    "scale_invariance": False,
    "use_tied_aux_matrix": False,
}
HF_KEYS: Config = {
    "architectures": ["CircuitGPTForCausalLM"],
    "auto_map": {
        "AutoConfig": "config.CircuitGPTConfig",
        "AutoModelForCausalLM": "modeling_circuitgpt.CircuitGPTForCausalLM",
    },
    "model_type": "circuitgpt",
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": None,
    "is_decoder": True,
    "use_cache": False,
    "torch_dtype": "float32",
    "transformers_version": "4.49.0",
}


class Case(NamedTuple):
    """One made-up model with a batch of tokens."""

    seed: int
    config: Config
    """As on disk: keys at their default may be missing, undeclared ones may be there."""
    state: dict[str, Array]
    """float32, by the names of 1.4; both keys of a tied unembedding."""
    tokens: Array
    """Int[B, T], T up to block_size."""


def draw_case(seed: int) -> Case:
    """The case of this seed."""
    pick, rng = random.Random(seed), np.random.default_rng(seed)
    config = draw_config(pick)
    c = {**DEFAULTS, **config}
    state = draw_state(config, pick, rng)
    length = pick.choice((1, 2, c["block_size"], rng.integers(1, c["block_size"], endpoint=True)))
    tokens = rng.integers(0, c["vocab_size"], (pick.choice((1, 2, 3)), min(length, c["block_size"])))
    return Case(seed, config, state, tokens)


def draw_config(pick: random.Random) -> Config:
    """Every field of 1.2, then some left out, renamed or added as published files do."""
    n_head = pick.choice((1, 1, 2, 3, 4))
    config: Config = {
        "block_size": pick.randint(1, 12),
        "vocab_size": pick.randint(2, 17),
        "n_layer": pick.randint(1, 3),
        "n_head": n_head,
        "d_model": n_head * pick.randint(1, 6) * pick.choice((1, 2)),
        "d_head": pick.choice((None, 1, 3, 8)),
        "d_mlp": pick.choice((None, 1, 10, 25)),
        "residual_activation_type": pick.choice(("identity", "relu")),
        "activation_type": pick.choice(("gelu", "relu")),
        "afrac": pick.choice(FRACTIONS),
        "afrac_loctypes": ",".join(pick.sample(LOCTYPES, pick.choice((0, 1, 2, 4, 6, 8, 9, 10)))),
        "d_pos_emb": pick.choice((None, pick.randint(1, 9))),
        "dropout": pick.choice((0.0, 0.1)),
        "tokenizer_name": "tinypython_2k",
    }
    short = {0.29: 100, 0.58: 50}.get(
        config["afrac"]
    )  # widths at which the float product falls short of a whole number
    if short and pick.random() < 0.6:
        config["d_mlp"] = short
    if pick.random() < 0.2:
        config["afrac_loctypes"] = DEFAULTS["afrac_loctypes"]
    switches = [name for name, value in DEFAULTS.items() if isinstance(value, bool)]
    config |= {name: pick.random() < 0.5 for name in switches}
    for name in [name for name, value in config.items() if value == DEFAULTS[name]]:
        if pick.random() < 0.4:
            del config[name]
    if pick.random() < 0.3 and "d_mlp" in config:
        config["n_mlp"] = config.pop("d_mlp")
    config |= {name: pick.choice(values) for name, values in TRAINING_ONLY.items() if pick.random() < 0.3}
    config |= {name: value for name, value in NEUTRAL.items() if pick.random() < 0.3}
    if pick.random() < 0.3:
        config["n_embd"] = pick.choice((None, config["d_model"]))
    return dict(pick.sample(list(config.items()), len(config)))


def state_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The table of 1.4; final_logits_bias always."""
    c = {**DEFAULTS, **config}
    d, p, vocab = c["d_model"], c["d_pos_emb"], c["vocab_size"]
    inner = c["n_head"] * (c["d_head"] or d // c["n_head"])
    hidden = c.get("n_mlp") or c["d_mlp"] or 4 * d
    read = d + (p or 0)
    shapes: dict[str, tuple[int, ...]] = {"final_logits_bias": (vocab,)}
    if c["enable_bigram_table"]:
        shapes["bigram_table"] = (vocab, vocab)
    shapes |= {"transformer.wte.weight": (vocab, d), "transformer.wpe.weight": (c["block_size"], p or d)}
    norms = {"transformer.ln_f": d}
    for block in (f"transformer.h.{layer}" for layer in range(c["n_layer"])):
        norms |= {f"{block}.ln_1": d, f"{block}.ln_2": d}
        if p is not None:
            norms |= {f"{block}.ln_p1": p, f"{block}.ln_p2": p}
        linears = {"attn.c_attn": (3 * inner, read), "attn.c_proj": (d, inner)}
        linears |= {"mlp.c_fc": (hidden, read), "mlp.c_proj": (d, hidden)}
        for name, shape in linears.items():
            shapes[f"{block}.{name}.weight"] = shape
            if c["bias"]:
                shapes[f"{block}.{name}.bias"] = shape[:1]
        if c["sink"]:
            shapes[f"{block}.attn.attn_imp.sink_logit"] = (c["n_head"],)
    for name, width in norms.items():
        shapes[f"{name}.weight"] = (width,)
        if c["ln_bias"] and not c["rms_norm"]:
            shapes[f"{name}.bias"] = (width,)
    return shapes | {"lm_head.weight": (vocab, d)}


def draw_state(config: Mapping[str, Any], pick: random.Random, rng: np.random.Generator) -> dict[str, Array]:
    """Weights of sensible scale for every key; now and then without final_logits_bias."""
    embed, write = pick.choice((3e-4, 3e-3, 0.3, 1.0, 10.0)), pick.choice((3e-3, 0.3, 1.0))
    weight, bias = pick.choice((0.5, 1.0, 2.0)), pick.choice((0.0, 1e-3, 0.3))

    def draw(name: str, shape: tuple[int, ...]) -> Array:
        normal = rng.standard_normal(shape)
        if ".ln_" in name and name.endswith("weight"):
            return (1 + 0.4 * normal) * rng.choice((1, 1, 1, -1), shape)
        if ".ln_" in name or name == "final_logits_bias":
            return 0.3 * normal
        if name.endswith("sink_logit"):
            return 2 * normal
        if name.endswith(".bias"):
            return bias * normal
        normal = normal * (rng.random(shape) > 1 / 3)
        if "wte" in name or "wpe" in name:
            return embed * normal
        return normal * weight / np.sqrt(shape[1]) * (write if "c_proj" in name else 1)

    state = {name: draw(name, shape).astype(np.float32) for name, shape in state_shapes(config).items()}
    if {**DEFAULTS, **config}["tied_unembed"]:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    if pick.random() < 0.3:
        del state["final_logits_bias"]
    return state


# --- folders


def with_masks(config: Mapping[str, Any], state: Mapping[str, Array]) -> dict[str, Array]:
    """The state with the causal masks that nets saved with flash=False carry as `attn.bias` (1.4)."""
    c = {**DEFAULTS, **config}
    mask = np.tril(np.ones((1, 1, c["block_size"], c["block_size"]), np.float32))
    return {**state, **{f"transformer.h.{layer}.attn.bias": mask.copy() for layer in range(c["n_layer"])}}


def write_released(folder: Path, config: Mapping[str, Any], state: Mapping[str, Array], *, masks: bool = False) -> Path:
    """beeg_config.json + final_model.pt (1.1); equal arrays under two keys share their storage, as a tied net's do."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "beeg_config.json").write_text(json.dumps(config), "utf-8")
    held = with_masks(config, state) if masks else state
    tensors = {id(value): torch.from_numpy(value) for value in held.values()}
    torch.save({name: tensors[id(value)] for name, value in held.items()}, folder / "final_model.pt")
    return folder


def write_transformers(
    folder: Path,
    config: Mapping[str, Any],
    state: Mapping[str, Array],
    *,
    shards: int = 1,
    tied_key: bool = False,
    masks: bool = False,
) -> Path:
    """config.json + model.safetensors, or shards of it with their index (2).

    tied_key: whether a tied net's lm_head.weight is written too; transformers leaves it out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tied = {**DEFAULTS, **config}["tied_unembed"]
    (folder / "config.json").write_text(json.dumps({**HF_KEYS, **config, "tie_word_embeddings": tied}), "utf-8")
    held = with_masks(config, state) if masks else dict(state)
    if tied and not tied_key:
        del held["lm_head.weight"]
    tensors = {f"circuit_model.{name}": value for name, value in held.items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    names = [f"model-{shard + 1:05}-of-{shards:05}.safetensors" for shard in range(shards)]
    where = {name: names[i % shards] for i, name in enumerate(tensors)}
    for file in names:
        save_file({name: tensors[name] for name in tensors if where[name] == file}, folder / file, {"format": "pt"})
    size = sum(value.nbytes for value in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return folder


# --- interventions


class Affine(NamedTuple):
    """x -> gain * x + shift at a hook, for numpy arrays and tensors alike; gain 0 replaces the value."""

    gain: Array
    shift: Array

    def __call__(self, x: Any) -> Any:
        if isinstance(x, np.ndarray):
            return self.gain * x + self.shift
        return torch.from_numpy(self.gain).to(x.dtype) * x + torch.from_numpy(self.shift).to(x.dtype)


def draw_interventions(seed: int, hooks: Mapping[str, Array]) -> dict[str, Callable[[Any], Any]]:
    """Replacements at one to three of the hooks, at the scale of what was recorded there."""
    pick, rng = random.Random(seed), np.random.default_rng(seed)
    edits: dict[str, Callable[[Any], Any]] = {}
    for name in pick.sample(sorted(hooks), pick.randint(1, 3)):
        shape = pick.choice((hooks[name].shape, hooks[name].shape[-1:]))
        scale = np.abs(hooks[name]).max() + 0.01
        edits[name] = Affine(pick.choice((0.0, 1.0, -0.5)) * np.ones(shape), scale * rng.standard_normal(shape))
    return edits
