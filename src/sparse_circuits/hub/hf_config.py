"""The transformers configs: `sparse_circuits` (our folders) and `circuitgpt` (the released ones).

Each says in transformers' terms what a ModelConfig says in ours; `model_config` gives that back. Shapes are also set under the
names transformers looks for (hidden_size, num_hidden_layers, ...).
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from sparse_circuits.hub.hf_inputs import dtype_of
from sparse_circuits.hub.released import ReleasedConfig, read_config, write_config
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.transformer import SparseTransformer

OF_THE_FILE = ("kind", "format_version", "config_sha256", "weights_sha256", "released")
"""Keys of our config.json that speak of the files beside it."""
GENERIC = {
    "attn_implementation",
    "bos_token_id",
    "eos_token_id",
    "name_or_path",
    "pad_token_id",
    "tie_word_embeddings",
    "torch_dtype",
    "use_cache",
}
"""Keys of any transformers config that PreTrainedConfig itself does not list."""


class SparseCircuitsConfig(PreTrainedConfig):
    """Config of our own model folders; `model` holds the fields of ModelConfig."""

    model_type = "sparse_circuits"
    keys_to_ignore_at_inference = ["past_key_values"]
    has_no_defaults_at_init = True

    def __init__(self, model: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.model = dict(model or {})
        self.set_generic({key: value for key, value in kwargs.items() if key not in OF_THE_FILE})

    def set_generic(self, given: dict[str, Any]) -> None:
        """Sets what transformers looks for in every config: shapes by its names, special tokens, use_cache, dtype."""
        fields = self.model_config()
        end = fields.vocab_size - 1
        generation = {"bos_token_id": None, "eos_token_id": end, "pad_token_id": None, "use_cache": True}
        for name, value in (shapes(fields) | generation).items():
            setattr(self, name, given.pop(name, value))
        for name in (name for name in ("dtype", "torch_dtype") if name in given):
            given[name] = dtype_of(given[name])
        PreTrainedConfig.__init__(self, **{"tie_word_embeddings": fields.tied_unembed, **given})

    @classmethod
    def of(cls, network: SparseTransformer) -> "SparseCircuitsConfig":
        """The config of a network."""
        return cls(model=network.config.to_dict())

    def model_config(self) -> ModelConfig:
        """The config of the network. Raises ValueError, one line."""
        return ModelConfig.from_dict(self.model)


def shapes(fields: ModelConfig) -> dict[str, int]:
    """Shapes by the names transformers has for them."""
    limit = {} if fields.positions == "none" else {"max_position_embeddings": fields.block_size}
    return {
        "vocab_size": fields.vocab_size,
        "hidden_size": fields.d_model,
        "num_hidden_layers": fields.n_layer,
        "num_attention_heads": fields.n_head,
        "head_dim": fields.d_head,
        "intermediate_size": fields.mlp_width,
        **limit,
    }


class CircuitGPTConfig(SparseCircuitsConfig):
    """Config of the released models: the fields of RELEASE_FORMAT 1.2, flat, and the rules for undeclared ones."""

    model_type = "circuitgpt"

    def __init__(self, **kwargs: Any) -> None:
        if kwargs.pop("auto_map", None):  # code that need not be there, and whose lack of a cache is not ours
            kwargs.pop("use_cache", None)
        known = PreTrainedConfig().to_dict().keys() | GENERIC
        self.released_keys = [key for key in kwargs if key not in known or key in ReleasedConfig.model_fields]
        for key in self.released_keys:
            setattr(self, key, kwargs.pop(key))
        self.set_generic(kwargs)

    @classmethod
    def of(cls, network: SparseTransformer) -> "CircuitGPTConfig":
        return cls(**write_config(network.config, network.released))

    def model_config(self) -> ModelConfig:
        stored = {key: getattr(self, key) for key in self.released_keys}
        return read_config(stored, "config", logits_bias=False, transformers=True)

    def to_dict(self) -> dict[str, Any]:
        hidden = ("released_keys", *(name for name in shapes(self.model_config()) if name != "vocab_size"))
        return {key: value for key, value in super().to_dict().items() if key not in hidden}
