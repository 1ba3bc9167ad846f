"""Safetensors files, read strictly: one file, or the shards of an index; tensors stay memory-mapped.

A safetensors file is 8 bytes (length of the header, little-endian), a JSON header (name -> dtype, shape, first and last byte;
`__metadata__` -> strings), spaces up to the header's length, and the bytes of the tensors without a gap. The header is
parsed here, more strictly than by the library (which takes the last of two equal keys, for one): whatever the header says
fits the file exactly, or it is an error. Nothing in the file guards the tensors' bytes; where they matter, compare a hash.
A sharded model has a `model.safetensors.index.json` that names the shard of every tensor; it must be right for each.
"""

import json
import math
import os
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
_HEADER_LIMIT = 100_000_000
"""Bytes; the library's own limit."""
_LARGEST = 2**63 - 1
_CONTROL = re.compile(rb"[\x00-\x1f]")
_AGAIN = "download or save it again"


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorFile:
    """What a safetensors file or the shards of an index hold, known without reading any tensor."""

    path: Path
    """The file, or the index."""
    names: tuple[str, ...]
    """As they stand in the header or the index."""
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    metadata: dict[str, str]
    handles: Mapping[str, Any]
    """The open safetensors file that holds each tensor."""

    def get(self, name: str) -> Tensor:
        """One tensor, memory-mapped (copied only where its bytes are not aligned). Raises ValueError for an unknown name."""
        if name not in self.handles:
            raise ValueError(f"{self.path} has no tensor {name!r}; it has {_some(self.names)}")
        try:
            tensor = self.handles[name].get_tensor(name)
        except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, ArithmeticError) as error:
            raise _damaged(self.path, f"tensor {name!r} cannot be read: {_line(error)}") from None
        if tuple(tensor.shape) != self.shapes[name] or tensor.dtype != self.dtypes[name]:
            raise _damaged(self.path, f"tensor {name!r} is not what the header says")
        # The format promises no alignment, but kernels count on it.
        return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor


def open_tensors(path: str | Path, *, foreign: bool = True) -> TensorFile:
    """Opens one safetensors file; it must not change while its tensors are used.

    foreign: written for other programs, which say `"format": "pt"` where they have metadata; our own files do not.
    Raises ValueError, one line, for anything absent or malformed.
    """
    file = Path(path)
    if not file.is_file():
        found = f"{file} is a folder" if file.is_dir() else f"no file {file.name} in {file.parent}"
        raise ValueError(f"{found}; give a safetensors file")
    try:
        header, data_size = _read_header(file)
        metadata = _check_metadata(file, header.pop("__metadata__", None), foreign)
        shapes, dtypes = _check_entries(file, header, data_size)
        handle = safe_open(file, framework="pt")
        found = set(handle.keys())
    except (SafetensorError, OSError) as error:
        raise _damaged(file, _line(error)) from None
    if found != set(shapes):
        raise _damaged(file, "the safetensors library sees other names in it")
    handles = dict.fromkeys(shapes, handle)
    return TensorFile(path=file, names=tuple(shapes), shapes=shapes, dtypes=dtypes, metadata=metadata, handles=handles)


def open_sharded(index_path: str | Path, *, foreign: bool = True) -> TensorFile:
    """Opens all shards of a `model.safetensors.index.json`; names in the order of its weight_map. See `open_tensors`."""
    index = Path(index_path)
    if not index.is_file():
        raise ValueError(f"no file {index.name} in {index.parent}; give a model.safetensors.index.json")
    try:
        stored = _parse_json(index, index.read_bytes())
    except OSError as error:
        raise _damaged(index, _line(error)) from None
    weight_map = stored.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _damaged(index, "it has no weight_map from tensor to shard")
    odd = [shard for shard in weight_map.values() if not _is_plain_name(shard)]
    if odd:
        raise _damaged(
            index, f"a shard is a plain file name beside the index, ending in .safetensors, not {odd[0]!r:.80}"
        )
    shards = {name: open_tensors(index.parent / name, foreign=foreign) for name in sorted(set(weight_map.values()))}
    _check_index(index, stored, {name: set(shard.names) for name, shard in shards.items()})
    whole = TensorFile(
        path=index,
        names=tuple(weight_map),
        shapes={name: shards[shard].shapes[name] for name, shard in weight_map.items()},
        dtypes={name: shards[shard].dtypes[name] for name, shard in weight_map.items()},
        metadata=_common(index, {name: shard.metadata for name, shard in shards.items()}),
        handles={name: shards[shard].handles[name] for name, shard in weight_map.items()},
    )
    _check_total(index, stored, sum(_size(whole.dtypes[name], shape) for name, shape in whole.shapes.items()))
    return whole


def _read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The parsed header, and how many bytes follow it."""
    with open(file, "rb") as handle:
        file_size = os.fstat(handle.fileno()).st_size
        beginning = handle.read(8)
        if len(beginning) < 8:
            raise _damaged(file, "it is empty or truncated")
        (length,) = struct.unpack("<Q", beginning)
        if length > min(file_size - 8, _HEADER_LIMIT):
            raise _damaged(file, f"it is truncated or no safetensors file: a header of {length} bytes cannot be")
        data = handle.read(length)
    if len(data) != length:
        raise _damaged(file, "it is truncated")
    # No control characters: so padding and any other blank is a space, and no two headers differ only in blanks.
    if _CONTROL.search(data) or not data.startswith(b"{") or not data.rstrip(b" ").endswith(b"}"):
        raise _damaged(file, "its header must be one JSON object, padded with spaces only")
    return _parse_json(file, data), file_size - 8 - length


def _parse_json(file: Path, data: bytes) -> dict[str, Any]:
    """One JSON object without twice the same key at any depth."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("the same key twice")
        return found

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON number")

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError too
        raise _damaged(file, f"not valid JSON: {_line(error)}") from None
    if not isinstance(value, dict):
        raise _damaged(file, f"it must hold a JSON object, not {type(value).__name__}")
    return value


def _check_metadata(file: Path, metadata: Any, foreign: bool) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(file, "__metadata__ must map strings to strings")
    if foreign and metadata.get("format") != "pt":
        raise ValueError(f"{file} has format {metadata.get('format')!r:.80} in its metadata; only 'pt' (torch) is read")
    return metadata


def _check_entries(
    file: Path, entries: Mapping[str, Any], data_size: int
) -> tuple[dict[str, tuple[int, ...]], dict[str, torch.dtype]]:
    """Shapes and dtypes by name; the tensors fill the `data_size` bytes behind the header without gap or overlap."""
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, torch.dtype] = {}
    places: list[tuple[int, int]] = []
    for name, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise _damaged(file, f"{name!r:.80} must have exactly dtype, shape and data_offsets")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
            raise ValueError(f"{file}: {name!r:.80} has dtype {entry['dtype']!r:.80}; known: {', '.join(_DTYPES)}")
        if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
            raise _damaged(file, f"shape and data_offsets of {name!r:.80} must be lists of whole numbers from 0 on")
        shapes[name], dtypes[name] = tuple(shape), _DTYPES[entry["dtype"]]
        if offsets[1] - offsets[0] != _size(dtypes[name], shape):
            raise _damaged(
                file, f"{name!r:.80} has {offsets[1] - offsets[0]} bytes, which do not fit its shape and dtype"
            )
        places.append((offsets[0], offsets[1]))
    end = 0
    for start, stop in sorted(places):
        if start != end:
            raise _damaged(file, f"its tensors overlap or leave a gap at byte {min(start, end)} of the data")
        end = stop
    if end != data_size:
        kind = "it is truncated: " if data_size < end else ""
        raise _damaged(file, f"{kind}it holds {data_size} bytes of data, and its header describes {end}")
    return shapes, dtypes


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= _LARGEST for value in values)


def _size(dtype: torch.dtype, shape: Iterable[int]) -> int:
    return dtype.itemsize * math.prod(shape)


def _is_plain_name(shard: Any) -> bool:
    """A file in the same folder: nothing that leads elsewhere, on any system."""
    return isinstance(shard, str) and re.fullmatch(r"[^/\\:\x00-\x1f]+\.safetensors", shard) is not None


def _check_index(index: Path, stored: Mapping[str, Any], held: Mapping[str, set[str]]) -> None:
    """Raises ValueError unless every shard holds exactly the tensors that the index puts there."""
    for shard, names in held.items():
        said = {name for name, where in stored["weight_map"].items() if where == shard}
        missing, extra = sorted(said - names), sorted(names - said)
        if missing:
            raise _damaged(index, f"{shard} lacks {_some(missing)}, which the index puts there")
        if extra:
            raise _damaged(index, f"{shard} holds {_some(extra)}, which the index does not put there")


def _check_total(index: Path, stored: Mapping[str, Any], size: int) -> None:
    metadata = stored.get("metadata", {})
    if not isinstance(metadata, dict):
        raise _damaged(index, "its metadata must be a JSON object")
    said = metadata.get("total_size", size)
    if type(said) not in (int, float) or said != size:
        raise _damaged(index, f"it says total_size {said!r:.80}, and the shards hold {size} bytes")


def _common(index: Path, metadata: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The metadata of all shards together, which may not contradict each other."""
    merged: dict[str, str] = {}
    for shard, own in metadata.items():
        for key, value in own.items():
            if merged.setdefault(key, value) != value:
                raise _damaged(index, f"the metadata of {shard} contradict another shard's at {key!r:.80}")
    return merged


def _some(names: Iterable[str]) -> str:
    listed = [repr(name)[:80] for name in names]
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "") or "none"


def _line(error: Exception) -> str:
    return " ".join(str(error).splitlines()[:1])[:200]


def _damaged(file: Path, why: str) -> ValueError:
    return ValueError(f"{file} is damaged ({why}); {_AGAIN}")
