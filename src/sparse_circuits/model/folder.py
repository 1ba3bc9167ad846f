"""The model folder: `config.json` + `model.safetensors` (+ tokenizer files, `reference.safetensors`), docs/format.md.

Loading checks the hashes of config and weights, every name, shape and dtype: nothing ever loads as random weights.
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_circuits.files import check_format, file_hash, json_hash, read_json, tensors_hash, write_json, write_tensors
from sparse_circuits.hub.sparse_format import GAPS, VALUES, pack, packed_shapes, unpack
from sparse_circuits.hub.tensor_file import TensorFile, open_tensors
from sparse_circuits.model.assemble import Weights, assemble, own_tensors
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.transformer import SparseTransformer

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
EXPORT_FILE = "sparse_circuits.json"
"""What we say of a model beside one in another layout (hub/layouts.py)."""
HALVED = "halved"
"""Metadata key of the weights file: names of tensors stored in fp16 beside others in fp32 (JSON list)."""
FIRST_FIELDS = (
    *("vocab_size", "n_layer", "d_model", "n_head", "d_head", "d_mlp", "block_size"),
    *("afrac", "afrac_sites", "sink", "bigram", "norm", "positions"),
)
"""Fields of ModelConfig in the first release; norm_eps, always a number then, besides."""


def save_model(
    model: SparseTransformer,
    folder: str | Path,
    tokenizer_hash: str | None = None,
    extra: dict[str, Any] | None = None,
    *,
    dense: bool = False,
    halved: Collection[str] = (),
    val_threshold: float | None = None,
) -> None:
    """Writes config and weights into a folder that the caller makes whole (files.new_folder). Raises OSError.

    dense: write every tensor as it is, for other readers of safetensors, instead of sparse where that is smaller.
    extra: further keys of config.json that decide nothing here, such as those of transformers.
    halved: dense tensors to store in 16 bits (fp16), which rounds them; readers get fp32, the model in memory keeps its own.
    val_threshold: of the shards it was trained on (data/shards.py); None: what the folder it came from says, if anything.
    Raises ValueError where an entry is too large for that.
    """
    where = Path(folder)
    own = {name: _halved(name, tensor) if name in halved else tensor for name, tensor in own_tensors(model).items()}
    tensors, metadata = (own, {}) if dense else pack(own)
    if halved:
        metadata = {**metadata, HALVED: json.dumps(sorted(halved))}
    write_tensors(where / WEIGHTS_FILE, tensors, metadata)
    config = model.config.to_dict()
    stored = {
        **(extra or {}),
        "kind": "model",
        "model_type": "sparse_circuits",
        "format_version": FORMAT_VERSION,
        "model": config,
        "tokenizer_hash": tokenizer_hash,
        "weights_sha256": file_hash(where / WEIGHTS_FILE),
    }
    if model.released is not None:
        stored["released"] = dict(model.released)
    held_out = stored_val_threshold(model.source) if val_threshold is None else val_threshold
    if held_out is not None:
        stored["val_threshold"] = held_out
    write_json(where / CONFIG_FILE, {**stored, "config_sha256": _config_hash(stored)})


def _halved(name: str, tensor: Tensor) -> Tensor:
    half = tensor.detach().half()
    if not bool(half.isfinite().all()):
        raise ValueError(f"{name} has entries beyond 65,504 and cannot be stored in 16 bits; leave it out of `halved`")
    return half


def read_model(
    folder: str | Path, *, verify: bool = True, dtype: torch.dtype | None = torch.float32
) -> SparseTransformer:
    """Reads a model folder, in evaluation mode; `source` and `released` are set.

    verify: whether weights are compared with their recorded hash and NaN refused. dtype: what they become; None as stored.
    Raises ValueError, one line, for anything absent, damaged or edited.
    """
    where = Path(folder)
    stored = read_json(where / CONFIG_FILE)
    check_format(stored, "model", FORMAT_VERSION, where)
    try:
        config = ModelConfig.from_dict(stored.get("model", {}))
    except ValueError as error:
        raise ValueError(f"{where / CONFIG_FILE}: {error}") from None
    # Folders of the first release have no such hash; they also lack the options that came with it.
    may_lack = not ModelConfig.model_fields.keys() <= stored["model"].keys()
    recorded, released = stored.get("config_sha256"), stored.get("released")
    if recorded != _config_hash(stored) and not (may_lack and "config_sha256" not in stored):
        raise ValueError(
            f"{where / CONFIG_FILE} was edited: `model` or `released` is not what was saved with the weights; restore it"
        )
    if not isinstance(released, dict | None):
        raise ValueError(f"{where / CONFIG_FILE}: `released` must be an object, not {type(released).__name__}")
    file = open_tensors(where / WEIGHTS_FILE, foreign=False)
    if verify and file_hash(file.path) != stored.get("weights_sha256"):
        raise ValueError(f"{file.path} is not the file this model was saved with (hash differs); restore it or retrain")
    model = assemble(config, _weights(file), check_values=verify, dtype=dtype)
    model.source, model.released = where, released
    return model


def _config_hash(stored: dict[str, Any]) -> str:
    """Hash of what config.json says about the model; with `released`, where there is one."""
    return json_hash([stored["model"], stored["released"]] if "released" in stored else stored["model"])


def _weights(file: TensorFile) -> Weights:
    """The tensors of a file of ours, sparse ones (hub.sparse_format) made dense when they are taken."""
    sparse, halved = packed_shapes(file.metadata, file.path), _names_halved(file)
    parts = {name + end for name in sparse for end in (VALUES, GAPS)}
    if not parts <= set(file.names):
        raise ValueError(f"{file.path} is damaged: a sparse tensor lacks its values or gaps; restore it")

    def get(name: str) -> Tensor:
        if name not in sparse:
            return file.get(name).float() if name in halved else file.get(name)
        return unpack(file.get(name + VALUES), file.get(name + GAPS), sparse[name], file.path)

    dense = [name for name in file.names if name not in parts]
    return Weights(
        where=file.path,
        shapes={**{name: file.shapes[name] for name in dense}, **sparse},
        dtypes={
            **{n: torch.float32 if n in halved else file.dtypes[n] for n in dense},
            **{name: file.dtypes[name + VALUES] for name in sparse},
        },
        get=get,
    )


def _names_halved(file: TensorFile) -> frozenset[str]:
    """Names of the tensors stored in fp16. Raises ValueError if the metadata names others."""
    try:
        names: Any = json.loads(file.metadata.get(HALVED, "[]"))
        whole = isinstance(names, list) and all(file.dtypes.get(name) == torch.float16 for name in names)
    except (ValueError, TypeError):
        whole, names = False, []
    if not whole:
        raise ValueError(f"{file.path} is damaged: its metadata `{HALVED}` is no list of its fp16 tensors; restore it")
    return frozenset(names)


def stored_tokenizer_hash(folder: str | Path) -> str | None:
    """Hash of the tokenizer the model was trained with, None if unknown (as of a model in the published layout)."""
    return next((found for _, found in _stored(folder, "tokenizer_hash")), None)


def stored_val_threshold(folder: str | Path | None) -> float | None:
    """Documents whose split key has a `split_place` below it were held out of the model's training; None if unknown.

    Raises ValueError if a file says so in something that is no number.
    """
    for file, found in () if folder is None else _stored(folder, "val_threshold"):
        if not isinstance(found, float | int):
            raise ValueError(f"{file}: `val_threshold` must be a number, not {type(found).__name__}; restore it")
        return float(found)
    return None


def _stored(folder: str | Path, name: str) -> Iterator[tuple[Path, Any]]:
    """What the files of a model folder say of the model beside its weights, and where; a folder may have none of them."""
    for file in (Path(folder) / EXPORT_FILE, Path(folder) / CONFIG_FILE):
        found = read_json(file).get(name) if file.is_file() else None
        if found is not None:
            yield file, found


def model_hash(model: SparseTransformer) -> str:
    """sha256 of config and weights: what a circuit remembers of its model.

    Options that came after the first release count only where they are chosen, so adding one leaves the hashes of all older
    models, and with them circuits and reference values, as they were.
    """
    config = model.config
    first = config.model_dump(mode="json", include=set(FIRST_FIELDS))
    chosen = config.model_dump(mode="json", exclude_defaults=True)
    return json_hash([{**first, **chosen, "norm_eps": config.eps}, tensors_hash(own_tensors(model))])
