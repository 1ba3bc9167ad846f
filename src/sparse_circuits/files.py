"""Files that are whole or absent: atomic writes, hashes, format versions.

Every file is written under a temporary name in the same folder, flushed to disk and renamed; a folder is built as a
temporary sibling and renamed. Whoever reads therefore never meets half a file, and a failed write (a full disk, a kill)
leaves the old content in place. Artifacts are folders of JSON + safetensors with a `format_version` (docs/format.md).
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file atomically. Raises OSError (nothing is left behind)."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` when the block ends well; an older folder there is replaced whole."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    try:
        yield draft
        draft.chmod(0o755)
        for file in draft.rglob("*"):
            if file.is_file():
                _flush(file)
        if target.exists():
            aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".old"))
            os.replace(target, aside / "old")
            os.replace(draft, target)
            shutil.rmtree(aside)
        else:
            os.replace(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def sweep(folder: str | Path) -> None:
    """Clears what a killed process left in a folder: drafts go, and a folder caught in mid-replacement comes back."""
    root = Path(folder)
    for left in [*root.glob(".*.old"), *root.glob("*/.*.old")]:
        target = left.parent / left.name[1:].rsplit(".", 2)[0]
        if (left / "old").exists() and not target.exists():
            os.replace(left / "old", target)
        shutil.rmtree(left)
    for left in [*root.glob(".*.tmp"), *root.glob("*/.*.tmp")]:
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def _flush(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: str | Path) -> dict[str, Any]:
    """Reads one JSON object. Raises ValueError naming the file if it is absent, truncated or not an object."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"no file {file.name} in {file.parent}")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is damaged (not valid JSON: {error}); restore it or make it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} must hold a JSON object, not {type(value).__name__}")
    return value


def check_format(value: Mapping[str, Any], kind: str, version: int, where: str | Path) -> None:
    """Raises ValueError unless `value` declares this kind of artifact in this format version."""
    if value.get("kind") != kind:
        raise ValueError(f"{where} holds {value.get('kind', 'something')!r}, not a {kind}; give the folder of a {kind}")
    if value.get("format_version") != version:
        raise ValueError(f"{where} has format_version {value.get('format_version')!r}; this release reads {version}")


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file atomically."""
    ready = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    write_bytes(path, tensors_to_bytes(ready, dict(metadata or {})))


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Reads a safetensors file. Raises ValueError naming the file if it is absent or truncated."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"no file {file.name} in {file.parent}")
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged or truncated ({error}); restore it or make it again") from None


def read_metadata(path: str | Path) -> dict[str, str]:
    """The string metadata of a safetensors file."""
    with safe_open(Path(path), framework="pt") as tensors:
        return dict(tensors.metadata() or {})


def file_hash(path: str | Path) -> str:
    """sha256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_hash(text: str) -> str:
    """sha256 of UTF-8 text, hex. Surrogates (undecodable bytes of source files) pass through."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def json_hash(value: Any) -> str:
    """sha256 of a JSON value in canonical form, hex."""
    return text_hash(json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":")))


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes, independent of order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
