"""The transformers configs: `sparse_circuits` (our folders) and `circuitgpt` (the released ones).

Each says in transformers' terms what a ModelConfig says in ours; `model_config` gives that back. Shapes are also set under the
names transformers looks for (hidden_size, num_hidden_layers, ...).
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from sparse_circuits.hub.released import ReleasedConfig, read_config, write_config
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.transformer import SparseTransformer


class SparseCircuitsConfig(PreTrainedConfig):
    """Config of our own model folders; `model` holds the fields of ModelConfig."""

    model_type = "sparse_circuits"
    keys_to_ignore_at_inference = ["past_key_values"]
    has_no_defaults_at_init = True

    def __init__(self, model: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.model = dict(model or {})
        self.set_shapes(self.model_config())
        kwargs.setdefault("tie_word_embeddings", self.model_config().tied_unembed)
        super().__init__(**kwargs)

    def set_shapes(self, fields: ModelConfig) -> None:
        """Sets the names under which transformers looks for shapes."""
        for name, value in shapes(fields).items():
            setattr(self, name, value)

    @classmethod
    def of(cls, network: SparseTransformer) -> "SparseCircuitsConfig":
        """The config of a network."""
        return cls(model=network.config.to_dict(), **_ends(network))

    def model_config(self) -> ModelConfig:
        """The config of the network. Raises ValueError, one line."""
        return ModelConfig.from_dict(self.model)


def _ends(network: SparseTransformer) -> dict[str, Any]:
    """Special tokens: no start, no padding, `<|endoftext|>` last."""
    return {"bos_token_id": None, "eos_token_id": network.config.vocab_size - 1, "pad_token_id": None}


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
        known = PreTrainedConfig().to_dict().keys() | {"torch_dtype", "name_or_path", "attn_implementation"}
        self.released_keys = [key for key in kwargs if key not in known or key in ReleasedConfig.model_fields]
        for key in self.released_keys:
            setattr(self, key, kwargs.pop(key))
        self.set_shapes(self.model_config())
        kwargs.setdefault("tie_word_embeddings", self.model_config().tied_unembed)
        PreTrainedConfig.__init__(self, **kwargs)

    @classmethod
    def of(cls, network: SparseTransformer) -> "CircuitGPTConfig":
        return cls(**{**_ends(network), **write_config(network.config, network.released)})

    def model_config(self) -> ModelConfig:
        stored = {key: getattr(self, key) for key in self.released_keys}
        return read_config(stored, "config", logits_bias=False, transformers=True)

    def to_dict(self) -> dict[str, Any]:
        hidden = ("released_keys", *(name for name in shapes(self.model_config()) if name != "vocab_size"))
        return {key: value for key, value in super().to_dict().items() if key not in hidden}
