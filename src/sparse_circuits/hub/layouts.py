"""Reading and writing the two released layouts as folders (RELEASE_FORMAT 1, 2): the same net under other names.

released:      beeg_config.json + final_model.pt, a zip-format torch file with one flat {name: tensor}, fp32.
transformers:  config.json (model_type `circuitgpt`) + model.safetensors, or shards with an index; keys `circuit_model.*`.

What we write carries `sparse_circuits.json` beside it: the exact ModelConfig (the layouts cannot say `no positions` or name a
tokenizer), the released config the model once came with, and the hash of every weight file, so that a round trip is exact and
damage is found. Other readers pass it over.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_circuits.files import check_format, file_hash, json_hash, new_file, read_json, write_json, write_tensors
from sparse_circuits.hub.released import (
    CONFIG_FILE,
    MASK_NAME,
    PREFIX,
    TRANSFORMERS_KEYS,
    WEIGHTS_FILE,
    read_config,
    rename,
    write_config,
)
from sparse_circuits.hub.tensor_file import TensorFile, open_sharded, open_tensors
from sparse_circuits.hub.torch_zip import read_state_dict
from sparse_circuits.model.assemble import Weights, assemble, own_tensors, without_storage
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.folder import EXPORT_FILE, stored_val_threshold
from sparse_circuits.model.transformer import SparseTransformer

HF_CONFIG, HF_WEIGHTS, HF_INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
MANIFEST = EXPORT_FILE
MANIFEST_VERSION = 1
LM_HEAD, WTE, WPE = rename("unembed.weight"), rename("embed.weight"), rename("positions.weight")


def read_released(
    folder: str | Path, *, verify: bool = True, dtype: torch.dtype | None = torch.float32
) -> SparseTransformer:
    """The model of a released folder, weights memory-mapped.

    verify: whether checksums (of the zip; of our manifest where there is one) and NaN are looked at; structure always is.
    Raises ValueError, one line, for anything absent, damaged, or not honoured (hub.released).
    """
    where = Path(folder)
    stored = read_json(where / CONFIG_FILE)
    tensors = read_state_dict(where / WEIGHTS_FILE, verify=verify)
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise ValueError(f"{where / WEIGHTS_FILE}: {name} is {tensor.dtype}; allowed in this layout: torch.float32")
    config = read_config(stored, where / CONFIG_FILE, logits_bias=rename("logits_bias") in tensors)
    opened = TensorSource(where / WEIGHTS_FILE, tensors, "", {WEIGHTS_FILE})
    return _finish(where, stored, config, opened, verify, dtype)


def read_transformers(
    folder: str | Path, *, verify: bool = True, dtype: torch.dtype | None = torch.float32
) -> SparseTransformer:
    """The model of a transformers folder of model_type `circuitgpt`, weights memory-mapped.

    verify: whether NaN, and the hashes of our manifest where there is one, are looked at; foreign safetensors carry no
    checksum. dtype: what the weights become; None as stored. Raises ValueError like `read_released`.
    """
    where = Path(folder)
    stored = read_json(where / HF_CONFIG)
    sharded = (where / HF_INDEX).is_file() and not (where / HF_WEIGHTS).is_file()
    file = open_sharded(where / HF_INDEX, foreign=True) if sharded else open_tensors(where / HF_WEIGHTS, foreign=True)
    files = set(read_json(where / HF_INDEX)["weight_map"].values()) if sharded else {HF_WEIGHTS}
    bias = PREFIX + rename("logits_bias") in file.names
    config = read_config(stored, where / HF_CONFIG, logits_bias=bias, transformers=True)
    return _finish(where, stored, config, TensorSource(file.path, file, PREFIX, files), verify, dtype)


class TensorSource:
    """Tensors of either layout by the released names, without their prefix."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor] | TensorFile, prefix: str, files: set[str]) -> None:
        self.path, self.tensors, self.prefix, self.files = path, tensors, prefix, files
        if isinstance(tensors, TensorFile):
            self.shapes, self.dtypes = dict(tensors.shapes), dict(tensors.dtypes)
        else:
            self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            self.dtypes = {name: tensor.dtype for name, tensor in tensors.items()}

    def get(self, name: str) -> Tensor:
        """The tensor under its name in the file."""
        return self.tensors.get(name) if isinstance(self.tensors, TensorFile) else self.tensors[name]


def _finish(
    where: Path,
    stored: Mapping[str, Any],
    config: ModelConfig,
    source: TensorSource,
    verify: bool,
    dtype: torch.dtype | None,
) -> SparseTransformer:
    """Checks the manifest, matches names and assembles."""
    config, released = _with_manifest(where, config, stored, source, verify)
    network = without_storage(config, source.path, len(source.shapes))
    ours = {source.prefix + rename(name): name for name in own_tensors(network)}
    present = {name for name in source.shapes if not _is_mask(source, name, config)}
    lm_head, wte = source.prefix + LM_HEAD, source.prefix + WTE
    present -= _tied_twice(source, lm_head, wte, config.tied_unembed)
    if config.tied_unembed and wte not in present and lm_head in present:  # saved by a program that dropped the other
        ours[lm_head] = ours.pop(wte)
    if config.positions == "none":
        present -= {source.prefix + WPE}
    # A name that is none of the layout's must not pass for one of ours, which it may happen to equal.
    names = {ours.get(name, f"unknown {name}"): name for name in present}
    weights = Weights(
        where=source.path,
        shapes={ours_is: source.shapes[name] for ours_is, name in names.items()},
        dtypes={ours_is: source.dtypes[name] for ours_is, name in names.items()},
        get=lambda name: source.get(names[name]),
        label=lambda name: names[name] if name in names else source.prefix + rename(name),
    )
    model = assemble(config, weights, check_values=verify, dtype=dtype)
    model.source, model.released = where, released
    return model


def _is_mask(source: TensorSource, name: str, config: ModelConfig) -> bool:
    """Whether this is the causal mask of one of the layers (hub.released)."""
    match = MASK_NAME.fullmatch(name.removeprefix(source.prefix))
    square = (1, 1, config.block_size, config.block_size)
    return match is not None and int(match[1]) < config.n_layer and source.shapes[name] == square


def _tied_twice(source: TensorSource, lm_head: str, wte: str, tied: bool) -> set[str]:
    """{lm_head} if a tied net stores its one matrix under both names. Raises ValueError if file and config disagree."""
    if lm_head not in source.shapes or wte not in source.shapes:
        return set()
    one, two = source.get(wte), source.get(lm_head)
    same = one.shape == two.shape and one.data_ptr() == two.data_ptr()
    if tied and not same and not torch.equal(one, two):
        raise ValueError(
            f"{source.path}: the config says tied_unembed, but {wte} and {lm_head} differ; one of the two is wrong"
        )
    if same and not tied:
        raise ValueError(
            f"{source.path}: {wte} and {lm_head} are one tensor, but the config does not say tied_unembed; one is wrong"
        )
    return {lm_head} if tied else set()


def _with_manifest(
    where: Path, config: ModelConfig, stored: Mapping[str, Any], source: TensorSource, verify: bool
) -> tuple[ModelConfig, dict[str, Any] | None]:
    """Config and released config as our export recorded them, once the files prove to be those it was written with."""
    if not (where / MANIFEST).is_file():
        return config, dict(stored)
    manifest = read_json(where / MANIFEST)
    check_format(manifest, "export", MANIFEST_VERSION, where / MANIFEST)
    try:
        exact = ModelConfig.from_dict(manifest["model"])
        hashes = {str(name): str(value) for name, value in manifest["weights"].items()}
        released = manifest.get("released", stored)
        released = None if released is None else dict(released)
        written = write_config(exact, released)
        meant = read_config(written, where, logits_bias=exact.logits_bias)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{where / MANIFEST} is damaged ({error}); remove it to load the folder without it") from None
    remedy = f"restore the folder, or remove {MANIFEST} to load it as it is"
    if meant != config or json_hash(written) != json_hash({name: stored[name] for name in written if name in stored}):
        raise ValueError(f"{where}: the config was edited since {MANIFEST} was written; {remedy}")
    if hashes.keys() != source.files:
        raise ValueError(
            f"{where}: {MANIFEST} is about {', '.join(sorted(hashes)) or 'no file'}, "
            f"and the weights are {', '.join(sorted(source.files))}; {remedy}"
        )
    for name, recorded in hashes.items():
        if verify and file_hash(where / name) != recorded:
            raise ValueError(f"{where / name} is not the file this model was exported with (hash differs); {remedy}")
    wpe = source.prefix + WPE
    if exact.positions == "none" and wpe in source.shapes and torch.any(source.get(wpe)):
        raise ValueError(f"{where}: {MANIFEST} says there are no positions, but the weights hold some; {remedy}")
    return exact, released


def released_tensors(model: SparseTransformer) -> dict[str, Tensor]:
    """The model's tensors under the released names, both names of a tied matrix, zero positions where there are none."""
    tensors = {rename(name): tensor.detach() for name, tensor in model.state_dict().items()}
    if model.positions is None:
        tensors[WPE] = torch.zeros(model.config.block_size, model.config.d_model, dtype=tensors[WTE].dtype)
    return tensors


def write_released(model: SparseTransformer, folder: str | Path, tokenizer_hash: str | None = None) -> None:
    """Writes config, weights and manifest of the released layout into a folder that the caller makes whole.

    Raises ValueError for an option that the layout cannot express.
    """
    if model.embed.weight.dtype == torch.float64:
        raise ValueError("the released layout holds float32, and this model is float64; round it first: model.float()")
    where = Path(folder)
    write_json(where / CONFIG_FILE, write_config(model.config, model.released))
    tensors = {name: tensor.float().cpu() for name, tensor in released_tensors(model).items()}
    with new_file(where / WEIGHTS_FILE) as draft:
        torch.save(tensors, draft)
    _write_manifest(model, where, "released", [WEIGHTS_FILE], tokenizer_hash)


def write_transformers(
    model: SparseTransformer,
    folder: str | Path,
    tokenizer_hash: str | None = None,
    *,
    max_shard_size: int | str = "50GB",
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes config, weights (sharded beyond max_shard_size) and manifest of the transformers layout.

    extra: further keys of config.json. Raises ValueError for an option that the layout cannot express.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    where = Path(folder)
    tensors = {PREFIX + name: tensor for name, tensor in released_tensors(model).items()}
    if model.config.tied_unembed:
        tensors.pop(PREFIX + LM_HEAD)
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)
    write_json(where / HF_CONFIG, _hf_config(model, tensors[PREFIX + WTE].dtype, extra or {}))
    for file, names in split.filename_to_tensors.items():
        write_tensors(where / file, {name: tensors[name] for name in names}, {"format": "pt"})
    stale = (where / HF_INDEX, where / HF_WEIGHTS)[split.is_sharded]
    stale.unlink(missing_ok=True)
    if split.is_sharded:
        write_json(where / HF_INDEX, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})
    _write_manifest(model, where, "transformers", list(split.filename_to_tensors), tokenizer_hash)


def _hf_config(model: SparseTransformer, dtype: torch.dtype, extra: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json; the keys of the file it came from stay, except those that point to code we do not ship."""
    moved = ("auto_map", "torch_dtype", "dtype")
    kept = {
        key: value for key, value in (model.released or {}).items() if key in TRANSFORMERS_KEYS and key not in moved
    }
    given = {key: value for key, value in extra.items() if key not in moved}
    return {
        "architectures": ["CircuitGPTForCausalLM"],
        "unembed_rank": None,
        "bigram_table_rank": None,
        "bos_token_id": None,
        "eos_token_id": model.config.vocab_size - 1,
        "pad_token_id": None,
        **given,
        **kept,
        **write_config(model.config, model.released),
        "tie_word_embeddings": model.config.tied_unembed,
        "dtype": str(dtype).removeprefix("torch."),
        "model_type": "circuitgpt",
    }


def _write_manifest(
    model: SparseTransformer, where: Path, layout: str, files: list[str], tokenizer_hash: str | None
) -> None:
    manifest = {
        "kind": "export",
        "format_version": MANIFEST_VERSION,
        "layout": layout,
        "model": model.config.to_dict(),
        "released": model.released,
        "tokenizer_hash": tokenizer_hash,
        "val_threshold": stored_val_threshold(model.source),
        "weights": {name: file_hash(where / name) for name in files},
    }
    write_json(where / MANIFEST, manifest)
