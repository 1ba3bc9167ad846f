"""The released layout: `beeg_config.json` + a flat state dict, and our config and tensor names for it (RELEASE_FORMAT 1).

1. `read_config` turns a released config file into a ModelConfig by the rules of 1.2: declared fields by their meaning, keys
   that only steer training or kernels are let through, keys that would change the function only at their neutral value.
   Anything else is an error that names key and value.
2. `write_config` is the way back. A config that came from a file is written as it was, undeclared keys included.
3. `rename` maps our tensor names to the released ones (1.4). Shapes and layouts are the same, so nothing is converted.
4. A model without positions is written with position embeddings that are all zero: the same function, and what every reader
   of the layout expects.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from sparse_circuits.config import Config
from sparse_circuits.model.config import ABS_TOPK_SITES, AbsTopKSite, ModelConfig

CONFIG_FILE, WEIGHTS_FILE = "beeg_config.json", "final_model.pt"
PREFIX = "circuit_model."
"""Of every tensor name in the transformers layout."""

TRAINING_ONLY = (
    "pfrac",
    "expansion_factor",
    "expansion_factor_mlp",
    "ignore_dw_grad",
    "debug_exact_topk",
    "sparse_matmul_impl",
)
"""Undeclared keys that steered training or kernels; any value is let through and kept."""
NEUTRAL: Mapping[str, Any] = {
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
"""Undeclared keys that would change the function; only these values are read."""
TRANSFORMERS_KEYS = (
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "problem_type",
    "return_dict",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)
"""What transformers itself writes into a config.json."""


class ReleasedConfig(Config):
    """The declared fields of the released config, with the defaults that hold where a file lacks one."""

    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    d_model: int = 768
    d_head: int | None = None
    """None = d_model // n_head."""
    d_mlp: int | None = None
    """None = 4 * d_model."""
    dropout: float = 0.0
    """No effect in evaluation, which is all this library does with released models."""
    bias: bool = True
    ln_bias: bool = True
    rms_norm: bool = False
    residual_activation_type: Literal["identity", "relu"] = "identity"
    activation_type: Literal["gelu", "relu"] = "gelu"
    afrac: float | None = None
    afrac_loctypes: str = "attn_in,attn_out,mlp_in,mlp_out"
    tied_unembed: bool = True
    enable_bigram_table: bool = False
    learnable_bigram_table: bool = False
    d_pos_emb: int | None = None
    dropout_cat_pos_emb: bool = False
    sinusoidal_cat_pos_emb: bool = False
    """Ignored unless d_pos_emb is set."""
    sink: bool = False
    flash: bool = True
    grad_checkpointing: bool = True
    debug_nans: bool = False
    enable_sparse_kernels: bool = False
    tokenizer_name: str | None = "tinypython_2k"


def read_config(
    stored: Mapping[str, Any], where: object, *, logits_bias: bool, transformers: bool = False
) -> ModelConfig:
    """The config of a released file. logits_bias: whether its weights hold `final_logits_bias`.

    transformers: the file is a config.json, whose keys that belong to transformers are let through.
    Raises ValueError, one line, naming key and value of what cannot be honoured.
    """
    found = _declared(stored, where, transformers)
    sites = _loctypes(found.afrac_loctypes, where)
    if found.d_head is None and found.d_model % found.n_head:
        raise ValueError(
            f"{where}: d_model {found.d_model} is no multiple of n_head {found.n_head}, and d_head is not given"
        )
    try:
        return ModelConfig(
            vocab_size=found.vocab_size,
            n_layer=found.n_layer,
            d_model=found.d_model,
            n_head=found.n_head,
            d_head=found.d_model // max(found.n_head, 1) if found.d_head is None else found.d_head,
            d_mlp=found.d_mlp,
            block_size=found.block_size,
            afrac=found.afrac,
            afrac_sites=sites,
            sink=found.sink,
            bigram=found.enable_bigram_table,
            learnable_bigram=found.learnable_bigram_table or not found.enable_bigram_table,
            logits_bias=logits_bias,
            tied_unembed=found.tied_unembed,
            bias=found.bias,
            norm="rms" if found.rms_norm else "layer",
            ln_bias=found.ln_bias,
            activation=found.activation_type,
            residual_activation=found.residual_activation_type,
            positions="learned" if found.d_pos_emb is None else "concat",
            d_pos_emb=found.d_pos_emb,
            sinusoidal_positions=found.sinusoidal_cat_pos_emb and found.d_pos_emb is not None,
        )
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix('ModelConfig: ')}") from None


def _declared(stored: Mapping[str, Any], where: object, transformers: bool) -> ReleasedConfig:
    """The declared fields, once every other key has been answered for."""
    values = dict(stored)
    let_through = (*TRAINING_ONLY, *(TRANSFORMERS_KEYS if transformers else ()))
    for key in [key for key in values if key not in ReleasedConfig.model_fields]:
        value = values.pop(key)
        if key == "n_mlp":
            if values.setdefault("d_mlp", value) != value:
                raise ValueError(
                    f"{where}: n_mlp {value!r} and d_mlp {values['d_mlp']!r} are the same width; make them agree"
                )
        elif key == "n_embd":
            if value is not None and value != values.get("d_model", ReleasedConfig().d_model):
                raise ValueError(f"{where}: n_embd is {value!r}; allowed: null or d_model")
        elif key in NEUTRAL:
            neutral = NEUTRAL[key]
            if value is not neutral and not (key == "use_tied_aux_matrix" and not value):
                raise ValueError(
                    f"{where}: {key} is {value!r}, which changes what the model computes; allowed: {neutral!r}"
                )
        elif key == "tie_word_embeddings" and transformers:
            tied = values.get("tied_unembed", ReleasedConfig().tied_unembed)
            if value is not None and value != tied:
                raise ValueError(
                    f"{where}: tie_word_embeddings is {value!r} and tied_unembed {tied!r}; make them agree"
                )
        elif key not in let_through:
            known = ", ".join((*ReleasedConfig.model_fields, *TRAINING_ONLY, *NEUTRAL, "n_mlp", "n_embd"))
            raise ValueError(
                f"{where}: unknown key {key!r} with value {value!r}, which might change the model; known: {known}"
            )
    try:
        return ReleasedConfig.from_dict(values)
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix('ReleasedConfig: ')}") from None


def _loctypes(listed: str, where: object) -> tuple[AbsTopKSite, ...]:
    """Names of AbsTopK places, in forward order, since order and repetition say nothing."""
    names, allowed = listed.split(",") if listed else [], get_args(AbsTopKSite)
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise ValueError(f"{where}: afrac_loctypes names {unknown[0]!r}; allowed, exactly so: {', '.join(allowed)}")
    chosen = tuple(name for name in allowed if name in names)
    return ABS_TOPK_SITES if set(chosen) == set(ABS_TOPK_SITES) else chosen


def write_config(config: ModelConfig, original: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The released config of a model; `original` is what it was read from, if it was.

    Raises ValueError for an option the layout cannot express.
    """
    if original is not None and _same(config, original):
        return {key: value for key, value in original.items() if key not in TRANSFORMERS_KEYS}
    if config.norm_eps is not None and config.norm_eps != config.replace(norm_eps=None).eps:
        raise ValueError(
            f"the released layout has no norm_eps; given {config.norm_eps}, it means {config.replace(norm_eps=None).eps}"
        )
    if config.d_model % config.n_head:
        raise ValueError(
            f"the released code asks that n_head divide d_model; given {config.n_head} and {config.d_model}"
        )
    undeclared = {key: value for key, value in (original or {}).items() if key in (*TRAINING_ONLY, *NEUTRAL)}
    return {
        "block_size": config.block_size,
        "vocab_size": config.vocab_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "d_head": config.d_head,
        "d_model": config.d_model,
        "d_mlp": config.mlp_width,
        "dropout": 0.0,
        "bias": config.bias,
        "ln_bias": config.ln_bias,
        "rms_norm": config.norm == "rms",
        "residual_activation_type": config.residual_activation,
        "activation_type": config.activation,
        "afrac": config.afrac,
        "afrac_loctypes": ",".join(config.afrac_sites),
        "tied_unembed": config.tied_unembed,
        "enable_bigram_table": config.bigram,
        "learnable_bigram_table": config.bigram and config.learnable_bigram,
        "d_pos_emb": config.d_pos_emb,
        "dropout_cat_pos_emb": False,
        "sinusoidal_cat_pos_emb": config.sinusoidal_positions,
        "sink": config.sink,
        **undeclared,
    }


def _same(config: ModelConfig, original: Mapping[str, Any]) -> bool:
    """Whether the original file still says what the config says."""
    try:
        return read_config(original, "", logits_bias=config.logits_bias, transformers=True) == config
    except ValueError:
        return False


_BLOCK_NAMES = {
    "attn.norm": "ln_1",
    "attn.pos_norm": "ln_p1",
    "mlp.norm": "ln_2",
    "mlp.pos_norm": "ln_p2",
    "attn.c_attn": "attn.c_attn",
    "attn.c_proj": "attn.c_proj",
    "mlp.c_fc": "mlp.c_fc",
    "mlp.c_proj": "mlp.c_proj",
}
_TOP_NAMES = {
    "embed.weight": "transformer.wte.weight",
    "positions.weight": "transformer.wpe.weight",
    "final_norm.gain": "transformer.ln_f.weight",
    "final_norm.bias": "transformer.ln_f.bias",
    "unembed.weight": "lm_head.weight",
    "bigram.weight": "bigram_table",
    "logits_bias": "final_logits_bias",
}
MASK_NAME = re.compile(r"transformer\.h\.(\d+)\.attn\.bias", re.ASCII)
"""A stored causal mask, (1, 1, T, T), of nets saved without the fused kernel: no bias, and not needed."""


def rename(name: str) -> str:
    """Our tensor name -> the released one (1.4)."""
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    assert match is not None, name
    start = f"transformer.h.{match[1]}."
    if match[2] == "attn.sink":
        return start + "attn.attn_imp.sink_logit"
    module, _, kind = match[2].rpartition(".")
    return start + _BLOCK_NAMES[module] + ("." + kind if kind == "bias" else ".weight")
