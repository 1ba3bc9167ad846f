"""The transformers classes: a thin case around the one model, for `generate`, pipelines and everything that expects them.

`SparseCircuitsForCausalLM` (our folders) and `CircuitGPTForCausalLM` (the released ones) hold a `SparseTransformer` as
`circuit_model` and add nothing to its function. Loading and saving go through hub.load and hub.layouts, so the checks are the
same and nothing ever loads as random weights. `import sparse_circuits` registers both with the Auto classes
(hub.registration).

Shapes: B batch, T tokens, S keys (cached ones included), V vocabulary.
"""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from sparse_circuits.files import read_json
from sparse_circuits.hub.card import write_card
from sparse_circuits.hub.hf_config import CircuitGPTConfig, SparseCircuitsConfig, shapes
from sparse_circuits.hub.hf_inputs import (
    Watched,
    check_inputs,
    check_positions,
    dtype_of,
    kept_logits,
    next_token_loss,
    one_device,
    one_line,
    refuse_saving,
    refuse_unknown,
)
from sparse_circuits.hub.io import push_folder
from sparse_circuits.hub.layouts import HF_INDEX, write_transformers
from sparse_circuits.hub.load import load_model, locate_repo, model_folder
from sparse_circuits.hub.released import TRANSFORMERS_KEYS, read_config, write_config
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.folder import CONFIG_FILE, save_model
from sparse_circuits.model.taps import Tap
from sparse_circuits.model.transformer import SparseTransformer

PLAIN_ATTENTION = (None, "eager", "sdpa")
IGNORED = (
    "_commit_hash",
    "_from_auto",
    "_from_pipeline",
    "adapter_kwargs",
    "attn_implementation",
    "low_cpu_mem_usage",
    "trust_remote_code",
    "use_safetensors",
    "weights_only",
)
"""Arguments of `from_pretrained` that have one possible meaning here."""
HUB_OPTIONS = ("commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags")


@dataclass
class SparseCircuitsOutput(CausalLMOutputWithPast):
    """Adds the activations asked for by `output_activations`."""

    activations: dict[str, Tensor] | None = None
    """Site name -> Float[B, T, w]."""


class SparseCircuitsForCausalLM(PreTrainedModel, GenerationMixin):
    """A SparseTransformer (`circuit_model`) as transformers expects a language model."""

    config_class: type[SparseCircuitsConfig] = SparseCircuitsConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    base_model_prefix = "circuit_model"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules = ["Block"]

    def __init__(self, config: SparseCircuitsConfig, network: SparseTransformer | None = None) -> None:
        super().__init__(config)
        self.circuit_model = SparseTransformer(config.model_config()).initialize(0) if network is None else network
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the network draws its own (METHOD 1a, Init), or holds loaded ones."""

    def get_input_embeddings(self) -> nn.Module:
        return self.circuit_model.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.circuit_model.unembed

    def set_input_embeddings(self, value: nn.Module) -> None:
        raise ValueError(
            f"the embeddings cannot be replaced (given {type(value).__name__}); change the weights in place"
        )

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *_: Any, **__: Any) -> nn.Embedding:
        """Raises ValueError for another size: circuits, tables and tokenizers belong to one vocabulary."""
        if new_num_tokens not in (None, self.circuit_model.config.vocab_size):
            held = self.circuit_model.config.vocab_size
            raise ValueError(
                f"the vocabulary cannot be resized to {new_num_tokens}, it has {held} tokens; pad with the end token instead"
            )
        return self.circuit_model.embed

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Shaped[Tensor, "B S"] | None = None,
        position_ids: Int[Tensor, "#B T"] | None = None,
        past_key_values: Cache | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        output_activations: Sequence[str] | str | None = None,
        interventions: Mapping[str, Any] | None = None,
        tap: Tap | None = None,
        logits_to_keep: int | Int[Tensor, " K"] = 0,
        num_items_in_batch: int | Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SparseCircuitsOutput | tuple[Any, ...]:
        """Logits, and what was asked for beside them.

        attention_mask: 1 (or True) for tokens, 0 for padding on either side; no token sees padding or counts its place.
        labels: the input itself; shifted here, -100 ignored. hidden_states: what enters each block, then final_resid
        (before the final norm). attentions: without the sink's share, so rows may sum to less than 1.
        output_activations: site names or globs, delivered as `activations`. interventions: as in `sc.intervene`.
        logits_to_keep: logits of that many last tokens only, or of these positions; 0 = all. num_items_in_batch: what the loss
        is divided by instead of the number of its labels, for trainers that spread a batch over several passes.
        Raises ValueError for inputs the model cannot honour.
        """
        refuse_unknown(kwargs)
        check_inputs(input_ids, labels)
        assert input_ids is not None
        network, layers = self.circuit_model, self.circuit_model.config.n_layer
        states = output_hidden_states if output_hidden_states is not None else self.config.output_hidden_states
        patterns = output_attentions if output_attentions is not None else self.config.output_attentions
        watched = Watched(layers, states, patterns, output_activations or (), interventions or {}, tap)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        cache = None if past_key_values is None else _Cached(past_key_values)
        seen = 0 if cache is None else cache.length
        check_positions(position_ids, attention_mask, input_ids, seen, network.config.positions != "none")
        last = None
        if isinstance(logits_to_keep, int) and logits_to_keep == 1 and labels is None:
            last = torch.full((len(input_ids),), input_ids.shape[1] - 1, device=input_ids.device)
        mask = None if attention_mask is None else attention_mask.bool().long()
        logits = network(input_ids, tap=watched.tap, logits_at=last, cache=cache, attention_mask=mask)
        output = SparseCircuitsOutput(
            loss=None if labels is None else next_token_loss(logits, labels, num_items_in_batch),
            logits=logits if last is not None else kept_logits(logits, logits_to_keep),
            past_key_values=past_key_values if use_cache or cache is not None else None,
            hidden_states=watched.found("hidden_states") if states else None,
            attentions=tuple(map(self._without_sink, watched.found("attentions"))) if patterns else None,
            activations=watched.activations if output_activations else None,
        )
        return output if (return_dict if return_dict is not None else self.config.return_dict) else output.to_tuple()

    def _without_sink(self, pattern: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T S"]:
        return pattern[..., :-1] if self.circuit_model.config.sink else pattern

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | None = None,
        dtype: str | torch.dtype | None = "auto",
        torch_dtype: str | torch.dtype | None = None,
        device_map: Any = None,
        verify: bool = True,
        output_loading_info: bool = False,
        cache_dir: str | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """A model folder, transformers folder, released name or Hub repo as a transformers model, in evaluation mode.

        dtype: a torch dtype or its name; "auto" or None as stored. device_map: one device. verify: as in `sc.load_model`.
        Other keywords change fields of the config. Raises ValueError, one line.
        """
        hub = {
            "cache_dir": cache_dir,
            "force_download": force_download,
            "local_files_only": local_files_only,
            "token": token,
        }
        folder = model_folder(locate_repo(pretrained_model_name_or_path, revision=revision, **hub))
        device, chosen = one_device(device_map), dtype_of(torch_dtype if torch_dtype is not None else dtype)
        network = load_model(folder, device, verify=verify, dtype=chosen)
        settings = {key: value for key, value in kwargs.items() if key not in IGNORED}
        if kwargs.get("attn_implementation") not in PLAIN_ATTENTION:
            raise ValueError(
                f"attn_implementation {kwargs['attn_implementation']!r}; allowed: {PLAIN_ATTENTION}, all the same here"
            )
        model = cls(cls._config_for(folder, network, config, settings), network)
        model.config._name_or_path = str(pretrained_model_name_or_path)
        model.config.dtype = next(network.parameters()).dtype
        if (folder / "generation_config.json").is_file():
            from transformers import GenerationConfig

            model.generation_config = GenerationConfig.from_pretrained(folder)
        model.eval()
        nothing = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return (model, nothing) if output_loading_info else model

    @classmethod
    def _config_for(
        cls,
        folder: Path,
        network: SparseTransformer,
        given: PreTrainedConfig | None,
        settings: Mapping[str, Any],
    ) -> SparseCircuitsConfig:
        """The config that was given, or that of the folder, or else of the network; with the settings, and checked."""
        config = copy.deepcopy(given)
        if given is None:
            stored = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
            own = stored.get("model_type") == cls.config_class.model_type
            config = cls.config_class.from_dict(stored) if own else cls.config_class.of(network)
        if not isinstance(config, SparseCircuitsConfig):
            raise ValueError(f"config is {one_line(given)[:80]}; allowed: a {cls.config_class.__name__}")
        fields = config.to_dict()
        for name, value in settings.items():
            if name in fields:
                setattr(config, name, value)
            elif value is not None:
                raise ValueError(
                    f"from_pretrained got {name}={one_line(value)}, which nothing here reads; leave it out"
                )
        meant = _comparable(network.config, config)
        named = {**shapes(meant), "tie_word_embeddings": meant.tied_unembed}
        if config.model_config() != meant or any(getattr(config, name) != value for name, value in named.items()):
            raise ValueError("config (or a keyword) describes another network than the folder holds; leave it out")
        return config

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride] (further options are refused or keywords)
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "50GB",
        **kwargs: Any,
    ) -> None:
        """Writes config, weights and generation settings, each file whole or not at all. Raises ValueError, OSError."""
        if state_dict is not None:
            raise ValueError(
                "save_pretrained with a state_dict is not supported; load the weights into the model and save that"
            )
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        repo_id = kwargs.pop("repo_id", None) or Path(save_directory).name
        refuse_saving(kwargs)
        if is_main_process:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            try:
                self.generation_config.save_pretrained(save_directory)  # checked as it is written, so this comes first
            except ValueError as error:
                raise ValueError(" ".join(str(error).split())) from None
            self._write(Path(save_directory), max_shard_size)
        if push_to_hub:
            self.push_to_hub(repo_id, max_shard_size=max_shard_size, **hub)

    def push_to_hub(  # pyright: ignore[reportIncompatibleVariableOverride] (wrapped by a decorator there)
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = "50GB",
        tags: list[str] | None = None,
    ) -> str:
        """Saves the model with a card and uploads it; returns the address of the commit. Raises ValueError, one line."""
        if tags:
            raise ValueError(
                f"push_to_hub with tags {tags}: write them into the card (README.md) of a saved folder and push that"
            )
        with tempfile.TemporaryDirectory() as made:
            self.save_pretrained(made, max_shard_size=max_shard_size or "50GB")
            write_card(self.circuit_model, Path(made), "transformers", name=repo_id, has_tokenizer=False)
            commit = {"commit_message": commit_message, "commit_description": commit_description, "revision": revision}
            return push_folder(made, repo_id, private=private, token=token, create_pr=create_pr, **commit)

    def _write(self, folder: Path, max_shard_size: int | str) -> None:  # noqa: ARG002 (our layout is one file)
        generic = {key: value for key, value in self.config.to_diff_dict().items() if key != "model"}
        generic["architectures"] = [type(self).__name__]
        generic["dtype"] = str(self.dtype).removeprefix("torch.")
        save_model(self.circuit_model, folder, generic.get("tokenizer_hash"), generic)


class CircuitGPTForCausalLM(SparseCircuitsForCausalLM):
    """The same for the released layout (RELEASE_FORMAT 2)."""

    config_class = CircuitGPTConfig

    def _write(self, folder: Path, max_shard_size: int | str) -> None:
        network = copy.copy(self.circuit_model)
        if network.released is not None:  # of those keys the config of today holds
            network.released = {key: value for key, value in network.released.items() if key not in TRANSFORMERS_KEYS}
        write_transformers(network, folder, max_shard_size=max_shard_size, extra=self.config.to_diff_dict())
        index = folder / HF_INDEX
        held = set(read_json(index)["weight_map"].values()) if index.is_file() else set()
        for shard in folder.glob("model-*-of-*.safetensors"):  # of what lay there before, in other pieces
            if shard.name not in held:
                shard.unlink()


class _Cached:
    """A cache of transformers as the network's own."""

    def __init__(self, cache: Cache) -> None:
        if not isinstance(cache, Cache) or cache.is_compileable:
            raise ValueError(
                f"{type(cache).__name__} cannot be used here; allowed: DynamicCache (cache_implementation='dynamic')"
            )
        self.cache, self.length = cache, cache.get_seq_length()

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.cache.update(k, v, layer)


def _comparable(network: ModelConfig, config: SparseCircuitsConfig) -> ModelConfig:
    """A network's config as far as its transformers config can say it."""
    if not isinstance(config, CircuitGPTConfig):
        return network
    return read_config(write_config(network), "config", logits_bias=False)
