"""The model folder: `config.json` + `model.safetensors` (+ tokenizer files, `reference.safetensors`), docs/format.md.

Loading checks the hash of the weights, every name and every shape: nothing ever loads as random weights.
"""

from pathlib import Path

import torch

from sparse_circuits.files import (
    check_format,
    file_hash,
    json_hash,
    read_json,
    read_tensors,
    tensors_hash,
    write_json,
    write_tensors,
)
from sparse_circuits.model.transformer import ModelConfig, SparseTransformer

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def save_model(model: SparseTransformer, folder: str | Path, tokenizer_hash: str | None = None) -> None:
    """Writes config and weights into a folder that the caller makes whole (files.new_folder). Raises OSError."""
    where = Path(folder)
    write_tensors(where / WEIGHTS_FILE, model.state_dict())
    stored = {
        "kind": "model",
        "model_type": "sparse_circuits",
        "format_version": FORMAT_VERSION,
        "model": model.config.to_dict(),
        "tokenizer_hash": tokenizer_hash,
        "weights_sha256": file_hash(where / WEIGHTS_FILE),
    }
    write_json(where / CONFIG_FILE, stored)


def read_model(folder: str | Path) -> SparseTransformer:
    """Reads a model folder, in evaluation mode. Raises ValueError, one line, for anything absent, damaged or edited."""
    where = Path(folder)
    stored = read_json(where / CONFIG_FILE)
    check_format(stored, "model", FORMAT_VERSION, where)
    try:
        config = ModelConfig.from_dict(stored.get("model", {}))
    except ValueError as error:
        raise ValueError(f"{where / CONFIG_FILE}: {error}") from None
    weights = where / WEIGHTS_FILE
    tensors = read_tensors(weights)
    if file_hash(weights) != stored.get("weights_sha256"):
        raise ValueError(f"{weights} is not the file this model was saved with (hash differs); restore it or retrain")
    with torch.device("meta"):
        model = SparseTransformer(config)
    expected = model.state_dict()
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or extra:
        found = f"missing: {', '.join(missing) or 'none'}, unexpected: {', '.join(extra) or 'none'}"
        raise ValueError(f"{weights} does not fit its config; {found}")
    wrong = [name for name in expected if expected[name].shape != tensors[name].shape]
    if wrong:
        raise ValueError(f"{weights} does not fit its config; wrong shapes: {', '.join(wrong)}")
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def stored_tokenizer_hash(folder: str | Path) -> str | None:
    """Hash of the tokenizer the model was trained with, None if unknown."""
    return read_json(Path(folder) / CONFIG_FILE).get("tokenizer_hash")


def model_hash(model: SparseTransformer) -> str:
    """sha256 of config and weights: what a circuit remembers of its model."""
    return json_hash([model.config.to_dict(), tensors_hash(model.state_dict())])
