"""`load_model` and `load_tokenizer`: from a folder to what it holds."""

from pathlib import Path
from typing import Any

from sparse_circuits.data.tokenizer import read_tokenizer
from sparse_circuits.model.folder import CONFIG_FILE, read_model
from sparse_circuits.model.transformer import SparseTransformer


def load_model(where: str | Path, device: str = "cpu") -> SparseTransformer:
    """The model in a model folder, or in the run folder that holds one, ready to evaluate; it remembers its folder as `source`.

    Raises ValueError, one line, if there is no model, or it is damaged, edited or of another format.
    """
    folder = model_folder(where)
    model = read_model(folder).to(device)
    model.source = folder
    return model


def load_tokenizer(where: str | Path) -> Any:
    """The transformers fast tokenizer beside a model (or in a tokenizer or shards folder). Raises ValueError, one line."""
    folder = Path(where)
    return read_tokenizer(folder / "model" if (folder / "model" / CONFIG_FILE).is_file() else folder)


def model_folder(where: str | Path) -> Path:
    """The folder itself, or `model` inside a run folder."""
    folder = Path(where)
    for candidate in (folder, folder / "model"):
        if (candidate / CONFIG_FILE).is_file():
            return candidate
    raise ValueError(f"no model at {folder}; give a model folder (with {CONFIG_FILE}) or a run folder that holds one")
