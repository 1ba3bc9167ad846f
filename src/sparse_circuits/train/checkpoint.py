"""Checkpoints: `checkpoints/step_00000500/` with model, optimizer state and hashes, whole or absent.

A folder appears by one rename, under a name of its own, so a run killed at any moment finds its last whole checkpoint.
Batches are a pure function of (seed, step, rank) and the model has no dropout: step + weights + moments is all there is,
and a resumed run continues bit for bit on the same machine.
"""

import shutil
from pathlib import Path

from sparse_circuits.files import (
    check_format,
    file_hash,
    new_folder,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from sparse_circuits.model.folder import read_model, save_model
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.train.optimizer import SparseAdam

FORMAT_VERSION = 1
KEPT = 2


def save_checkpoint(run: str | Path, step: int, model: SparseTransformer, optimizer: SparseAdam) -> Path:
    """Writes the checkpoint after update number `step`; older ones beyond the last two go. Raises OSError."""
    folder = Path(run) / "checkpoints"
    target = folder / f"step_{step:08d}"
    with new_folder(target) as draft:
        save_model(model, draft)
        write_tensors(draft / "optimizer.safetensors", optimizer.state())
        stored = {"kind": "checkpoint", "format_version": FORMAT_VERSION, "step": step}
        write_json(draft / "state.json", {**stored, "optimizer_sha256": file_hash(draft / "optimizer.safetensors")})
    for old in checkpoints(run)[:-KEPT]:
        shutil.rmtree(old)
    return target


def checkpoints(run: str | Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    return sorted((Path(run) / "checkpoints").glob("step_????????"))


def load_checkpoint(folder: str | Path, model: SparseTransformer, optimizer: SparseAdam) -> int:
    """Restores model and optimizer in place and returns the step. Raises ValueError if damaged, edited or of another model."""
    where = Path(folder)
    state = read_json(where / "state.json")
    check_format(state, "checkpoint", FORMAT_VERSION, where)
    step = state.get("step")
    if not isinstance(step, int) or where.name != f"step_{step:08d}":
        raise ValueError(f"{where / 'state.json'} was changed, it says step {step!r}; delete {where} to resume earlier")
    saved = read_model(where)
    if saved.config != model.config:
        raise ValueError(f"{where} holds a model of another shape than the config asks for; train into a new folder")
    moments = read_tensors(where / "optimizer.safetensors")
    if file_hash(where / "optimizer.safetensors") != state.get("optimizer_sha256"):
        raise ValueError(
            f"{where / 'optimizer.safetensors'} was changed after it was saved (hash differs); delete {where} to resume earlier"
        )
    if set(moments) != optimizer.state_names():
        raise ValueError(
            f"{where / 'optimizer.safetensors'} belongs to another model; delete {where} to resume earlier"
        )
    model.load_state_dict(saved.state_dict())
    optimizer.load_state(moments)
    return step
