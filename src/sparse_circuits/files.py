"""Files that are whole or absent: atomic writes, hashes, format versions.

Every file is written under a temporary name in the same folder, flushed to disk and renamed; a folder is built as a
temporary sibling and renamed. Whoever reads therefore never meets half a file, and a failed write (a full disk, a kill)
leaves the old content in place. Artifacts are folders of JSON + safetensors with a `format_version` (docs/format.md).
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.(?P<kind>tmp|old)")
"""Names that tempfile gives our drafts."""


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary file that becomes `path` when the block ends well. Raises OSError (nothing is left behind)."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        _flush(draft)
        draft.chmod(0o644)
        os.replace(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file atomically. Raises OSError (nothing is left behind)."""
    with new_file(path) as draft:
        draft.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def new_folder(path: str | Path, kind: str | None = None) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` when the block ends well, in place of an older artifact there.

    kind: what it will hold; only an older artifact of the same kind is replaced (None: any of this library's).
    Raises ValueError for a path that `check_replaceable` refuses, OSError for a full disk and the like.
    """
    target = Path(path)
    check_replaceable(target, kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    try:
        yield draft
        draft.chmod(0o755)
        for file in draft.rglob("*"):
            if file.is_file():
                _flush(file)
        if target.exists():
            _exchange(draft, target)
        else:
            os.replace(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def check_replaceable(path: str | Path, kind: str | None = None) -> None:
    """Raises ValueError unless `path` is free, empty or an artifact of that kind: nothing else is ever deleted."""
    target = Path(path)
    if not target.name:
        raise ValueError(f"cannot make the folder {str(path)!r}; give it a name")
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"{target} is a file; give the name of a new folder")
    if any(target.iterdir()) and not any(_is_artifact(file, kind) for file in target.glob("*.json")):
        raise ValueError(f"{target} holds other files, which would be deleted; give a new folder, or empty this one")


def _is_artifact(file: Path, kind: str | None) -> bool:
    try:
        held = read_json(file)
    except ValueError:
        return False
    return "format_version" in held and kind in (None, held.get("kind"))


def _exchange(draft: Path, target: Path) -> None:
    """Puts draft in the place of target; if that fails, target stays."""
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".old"))
    try:
        os.replace(target, aside / "old")
        os.replace(draft, target)
    except BaseException:
        if (aside / "old").exists() and not target.exists():
            os.replace(aside / "old", target)
        raise
    finally:
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: str | Path) -> None:
    """Clears what a killed process left in a folder: drafts go, and a folder caught in mid-replacement comes back."""
    root = Path(folder)
    for left in sorted([*root.glob(".*"), *root.glob("*/.*")]):
        match = _LEFTOVER.fullmatch(left.name)
        if match is None:
            continue
        target = left.parent / match["name"]
        if match["kind"] == "old" and (left / "old").exists() and not target.exists():
            os.replace(left / "old", target)
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
    except (ValueError, RecursionError) as error:
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
    """Writes a safetensors file atomically, straight from the tensors' memory (views of one storage are copied)."""
    storages: set[int] = set()
    ready = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        storage = plain.untyped_storage()
        if storage.nbytes() != plain.nbytes or storage.data_ptr() in storages:
            plain = plain.clone()
        storages.add(plain.untyped_storage().data_ptr())
        ready[name] = plain
    with new_file(path) as draft:
        try:
            save_file(ready, draft, dict(metadata or {}))
        except SafetensorError as error:  # hides what the system said
            code = re.search(r"os error (\d+)|code: (\d+)", str(error))
            number = int(code[1] or code[2]) if code else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from None


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Reads a safetensors file. Raises ValueError naming the file if it is absent or truncated."""
    with _open_tensors(Path(path)) as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 (not a dict)


@contextmanager
def _open_tensors(file: Path) -> Iterator[Any]:
    if not file.is_file():
        raise ValueError(f"no file {file.name} in {file.parent}")
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged or truncated ({error}); restore it or make it again") from None


def read_metadata(path: str | Path) -> dict[str, str]:
    """The string metadata of a safetensors file. Raises ValueError like `read_tensors`."""
    with _open_tensors(Path(path)) as tensors:
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
