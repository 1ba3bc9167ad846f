"""The files of torch.save, read strictly: a malformed checkpoint is an error, never a crash, foreign code or random weights.

A `.pt` file is a zip archive of uncompressed records under one root: `data.pkl` says how the object is built, `data/<n>` hold
its storages, a few more records say how it was written (RELEASE_FORMAT 1.1, 4.2). torch.load looks only at what it needs of
that, checks nothing of mapped storages, and lets a pickle claim more bytes than a record has. So, in this order:

1. The records (name, size, CRC-32, place) are parsed from the directory at the end of the file.
2. From the records alone follow all bytes that torch's writer puts around the data: local headers with their padding,
   data descriptors, directory, end records. The file must have exactly these bytes, and no others (they are laid out the
   same since torch 1.13, always with zip64 end records).
3. The CRC-32 of every small record is computed; with `verify` also that of every storage, in chunks.
4. `data.pkl` is split into its opcodes without running any; a name that plain tensors do not need is refused as code.
5. torch.load, restricted to weights and memory-mapped; every storage it hands out must be exactly one record, and
   what it returns may hold only tensors over them and plain values.
"""

import pickletools
import re
import struct
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, FileIO
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_TAIL = struct.Struct("<4sQ2H2I4Q" + "4sIQI" + "4s4H2IH")
"""The zip64 end record, its locator, the end record."""
_FLAGS = (0x0800, 0x0808)  # UTF-8 names; for a record that is not empty also: a data descriptor follows
_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF

_STORAGE = re.compile(r"data/(0|[1-9]\d*)", re.ASCII)
_CONTENTS = {
    "version": re.compile(rb"3\n"),
    "byteorder": re.compile(rb"little"),
    ".format_version": re.compile(rb"1"),
    ".storage_alignment": re.compile(rb"16|32|64|128|256|512|1024|2048|4096|8192|16384|32768"),
    ".data/serialization_id": re.compile(rb"\d{40}"),
}
"""What the small records besides data.pkl may hold."""

_PLAIN_GLOBALS = {
    "builtins": ("set",),
    "__builtin__": ("set",),
    "collections": ("OrderedDict",),
    "torch": ("Size",),
    "torch._utils": ("_rebuild_parameter", "_rebuild_tensor_v2", "_rebuild_tensor_v3"),
    "torch.storage": ("UntypedStorage",),
}
"""Names a pickle of plain dense tensors may ask for, by module; dtypes and storage types come on top."""
_Place = tuple[int, int]  # first byte, number of bytes
_LEAVES = frozenset({str, int, float, bool, type(None), torch.dtype})
_AGAIN = "download or save it again"


class _Refused(ValueError):
    """A finding of ours, without the file's name."""


@dataclass(frozen=True, slots=True)
class _Record:
    """One entry of the directory, and the bytes torch writes for it."""

    name: bytes
    """With the root: `archive/data/0`."""
    size: int
    """Bytes."""
    crc: int
    header: int
    """Byte offset of the local header."""

    def zip64(self, packed: int) -> bytes:
        """The extra field of a record that is long or lies far in the file; packed: the stored size if known by then."""
        wide = [self.size, packed] * (self.size >= _MAX32) + [self.header] * (self.header >= _MAX32)
        return struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""

    def local_header(self, alignment: int) -> bytes:
        """Header, name, zip64 field, and a field FB whose letters Z push the data to a multiple of `alignment` bytes."""
        zip64 = self.zip64(packed=0)
        padding = -(self.header + _LOCAL.size + len(self.name) + len(zip64) + 4) % alignment
        extra = zip64 + struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        fixed = _LOCAL.pack(b"PK\3\4", 0, _FLAGS[self.size > 0], 0, 0, 0, 0, 0, 0, len(self.name), len(extra))
        return fixed + self.name + extra

    def descriptor(self) -> bytes:
        """What follows the data."""
        form = "<4sI2Q" if self.zip64(packed=0) else "<4s3I"
        return struct.pack(form, b"PK\7\b", self.crc, self.size, self.size) if self.size else b""

    def entry(self) -> bytes:
        """Its part of the directory."""
        short, zip64 = min(self.size, _MAX32), self.zip64(packed=self.size)
        lengths = (len(self.name), len(zip64), 0, 0, 0, 0, min(self.header, _MAX32))
        fixed = _ENTRY.pack(b"PK\1\2", 0, 0, _FLAGS[self.size > 0], 0, 0, 0, self.crc, short, short, *lengths)
        return fixed + self.name + zip64


def read_torch_zip(path: str | Path, *, verify: bool) -> Any:
    """What a file of torch.save holds; its tensors stay memory-mapped (the file must not change while they are used).

    verify: also compare the CRC-32 of every storage, which reads the whole file once; all else is always checked.
    Raises ValueError, one line, for anything but a sound file of plain tensors, containers, numbers and strings.
    """
    file = Path(path)
    if not file.is_file():
        found = f"{file} is a folder" if file.is_dir() else f"no file {file.name} in {file.parent}"
        raise ValueError(f"{found}; give a .pt file of torch.save")
    try:
        with FileIO(file) as handle:
            storages = _check(handle, file.stat().st_size, verify)
        return _load(file, storages)
    except _Refused as refusal:
        raise ValueError(f"{file} {refusal}") from None
    except Exception as error:  # torch fails in many ways on crafted files; all mean the same to a user
        raise ValueError(f"{file} cannot be loaded ({_first_line(error)}); {_AGAIN}") from None


def read_state_dict(path: str | Path, *, verify: bool) -> dict[str, Tensor]:
    """The flat state dict (name -> tensor) in a file of torch.save; see `read_torch_zip`.

    Raises ValueError, one line, also if the file holds something else.
    """
    value = read_torch_zip(path, verify=verify)
    found = type(value).__name__
    if type(value) in (dict, OrderedDict):
        odd = [name for name, tensor in value.items() if not isinstance(name, str) or not isinstance(tensor, Tensor)]
        if not odd:
            return {name: tensor.detach() for name, tensor in value.items()}
        found = f"{found} with a {type(value[odd[0]]).__name__} under {odd[0]!r:.80}"
    raise ValueError(f"{path} holds a {found}, not a flat state dict (name -> tensor); save only the state dict")


def _check(handle: FileIO, file_size: int, verify: bool) -> list[_Place]:
    """Steps 1 to 4. Returns the place of every storage. Raises _Refused."""
    _check_kind(_read(handle, 0, min(file_size, 4)))
    records, directory = _read_directory(handle, file_size)
    named = _by_name(records)
    alignment = _alignment(handle, named.get(".storage_alignment"))
    places = _check_layout(handle, named, directory, alignment)
    for name, (start, size) in places.items():
        stored, is_storage = named[name].crc, _STORAGE.fullmatch(name)
        # A stored CRC of 0 means "never computed": torch can leave out checksums, or all data and write zeros instead.
        if (verify or not is_storage or 0 in (stored, size)) and _crc(handle, start, size) != stored:
            finding = "is damaged (its checksum differs)" if stored else "lacks a checksum, or its data were left out"
            raise _Refused(f"{finding}: record {name}; {_AGAIN}")
        if name == "data.pkl":
            _check_pickle(_read(handle, start, size))
        elif not is_storage:
            _check_content(name, _read(handle, start, min(size, 64)))
    return [place for name, place in places.items() if _STORAGE.fullmatch(name)]


def _check_kind(beginning: bytes) -> None:
    if not beginning:
        raise _Refused(f"is empty; {_AGAIN}")
    if beginning[:1] == b"\x80":
        raise _Refused("is a bare pickle, not a zip of torch.save; save it again with torch 1.13 or later")
    if beginning != b"PK\3\4":
        raise _Refused("is not a file of torch.save (it does not begin like a zip archive); give the .pt file")


def _read(handle: FileIO, start: int, size: int) -> bytes:
    handle.seek(start)
    data = handle.read(size)
    if data is None or len(data) != size:
        raise _Refused(f"is truncated; {_AGAIN}")
    return data


def _read_directory(handle: FileIO, file_size: int) -> tuple[list[_Record], int]:
    """Step 1: the records, and where the directory starts."""
    damaged = _Refused(f"is truncated, or its directory is not as torch.save writes it; {_AGAIN}")
    tail = _read(handle, max(0, file_size - _TAIL.size), _TAIL.size)
    count, size, start = _TAIL.unpack(tail)[7:10]
    if start + size + _TAIL.size != file_size or tail != _tail(count, size, start):
        raise damaged
    directory, at = _read(handle, start, size), 0
    records: list[_Record] = []
    while at < size:
        try:
            records.append(_parse_entry(directory, at))
        except struct.error:
            raise damaged from None
        entry = records[-1].entry()
        if directory[at : at + len(entry)] != entry:
            raise damaged
        at += len(entry)
    if len(records) != count:
        raise damaged
    return records, start


def _tail(count: int, size: int, start: int) -> bytes:
    """What follows a directory of `count` entries and `size` bytes that begins at byte `start`."""
    end64 = (b"PK\6\6", 44, 0x031E, 45, 0, 0, count, count, size, start)
    locator = (b"PK\6\7", 0, start + size, 1)
    short = (min(count, _MAX16), min(count, _MAX16), min(size, _MAX32), min(start, _MAX32))
    return _TAIL.pack(*end64, *locator, b"PK\5\6", 0, 0, *short, 0)


def _parse_entry(directory: bytes, at: int) -> _Record:
    """The record of the entry at byte `at`; whether the entry is torch's is for the caller to compare."""
    fields = _ENTRY.unpack_from(directory, at)
    crc, size, name_length, extra_length, header = fields[7], fields[9], fields[10], fields[11], fields[16]
    at += _ENTRY.size
    name = directory[at : at + name_length]
    wide = struct.unpack_from(f"<{extra_length // 8}Q", directory, at + name_length + 4) if extra_length else ()
    if wide and size == _MAX32:
        size = wide[0]
    if wide and header == _MAX32:
        header = wide[-1]
    return _Record(name=name, size=size, crc=crc, header=header)


def _by_name(records: Sequence[_Record]) -> dict[str, _Record]:
    """The records by their names without the root, in order; the root is one, each name is known and there once."""
    root = records[0].name.split(b"/")[0] + b"/" if records else b""
    named: dict[str, _Record] = {}
    for record in records:
        name = record.name.removeprefix(root).decode("ascii", "backslashreplace")
        known = name == "data.pkl" or name in _CONTENTS or _STORAGE.fullmatch(name)
        if root == b"/" or not record.name.startswith(root) or not known:
            raise _Refused(f"has a record {record.name!r:.80} that torch.save does not write; {_AGAIN}")
        if name in named:
            raise _Refused(f"has two records {name}; {_AGAIN}")
        named[name] = record
    for name in ("data.pkl", "version"):
        if name not in named:
            raise _Refused(f"has no record {name}; {_AGAIN}")
    return named


def _alignment(handle: FileIO, record: _Record | None) -> int:
    """To which multiple of bytes the data are padded: 64 unless a record says otherwise."""
    if record is None:
        return 64
    *_, name_length, extra_length = _LOCAL.unpack(_read(handle, record.header, _LOCAL.size))
    start = record.header + _LOCAL.size + name_length + extra_length
    content = _read(handle, start, min(record.size, 8))
    _check_content(".storage_alignment", content)
    return int(content)


def _check_layout(handle: FileIO, named: Mapping[str, _Record], directory: int, alignment: int) -> dict[str, _Place]:
    """Step 2: all bytes between the data are torch's. Returns the place of every record's data."""
    places: dict[str, _Place] = {}
    end, before = 0, b""
    for name, record in named.items():
        if record.header != end + len(before):
            raise _Refused(f"has a gap or an overlap before record {name}; {_AGAIN}")
        around = before + record.local_header(alignment)
        if _read(handle, end, len(around)) != around:
            raise _Refused(f"is damaged (in the header of record {name}, or just before it); {_AGAIN}")
        places[name] = (end + len(around), record.size)
        end, before = sum(places[name]), record.descriptor()
    if end + len(before) != directory or _read(handle, end, len(before)) != before:
        raise _Refused(f"is damaged (between the last record and the directory); {_AGAIN}")
    return places


def _crc(handle: FileIO, start: int, size: int) -> int:
    """CRC-32 of `size` bytes, a chunk at a time."""
    crc, left = 0, size
    chunk = memoryview(bytearray(min(left, 1 << 20)))
    handle.seek(start)
    while left:
        read = handle.readinto(chunk[:left])
        if not read:
            raise _Refused(f"is truncated; {_AGAIN}")
        crc = zlib.crc32(chunk[:read], crc)
        left -= read
    return crc


def _check_content(name: str, content: bytes) -> None:
    if name == "byteorder" and content == b"big":
        raise _Refused("was saved on a big-endian machine, and only little-endian files are read; save it again here")
    if not _CONTENTS[name].fullmatch(content):
        raise _Refused(f"has an unknown {name}: {content[:40]!r}, not one that torch.save writes; save it again")


def _check_pickle(data: bytes) -> None:
    """Step 4: every name the pickle asks for is one that plain tensors need."""
    stream = BytesIO(data)
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST") and not _is_plain(*str(argument).split(" ", 1)):
            name = str(argument).replace(" ", ".")
            raise _Refused(f"asks to run code ({name:.80}) and is refused; only plain tensors are read")
        if opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            raise _Refused("asks to run code by a computed name and is refused; save it with pickle protocol 2")
    if stream.read(1):
        raise _Refused(f"has bytes after the end of its pickle; {_AGAIN}")


def _is_plain(module: str, name: str) -> bool:
    found = vars(torch).get(name) if module == "torch" else None  # vars: getattr(torch, ...) can import modules
    is_storage = isinstance(found, type) and name.endswith("Storage")
    return name in _PLAIN_GLOBALS.get(module, ()) or isinstance(found, torch.dtype) or is_storage


def _load(file: Path, storages: Sequence[_Place]) -> Any:
    """Step 5: what the file holds; `storages` as `_check` returns them."""
    mapped = set[_Place]()

    def keep(storage: Any, location: str) -> Any:  # noqa: ARG001 (where it was saved from does not matter)
        mapped.add((storage.data_ptr(), storage.nbytes()))
        return storage

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = torch.load(str(file), map_location=keep, mmap=True, weights_only=True)
    found = sorted(place for place in mapped if place[1])
    expected = sorted(place for place in storages if place[1])
    shift = found[0][0] - expected[0][0] if found and expected else 0  # where the file is mapped: at a page
    if shift % PAGESIZE or [(pointer - shift, size) for pointer, size in found] != expected:
        raise _Refused(f"has a pickle that does not fit its storages; {_AGAIN}")
    _check_value(value, {pointer for pointer, _ in found})
    return value


def _check_value(value: Any, pointers: Collection[int]) -> None:
    """Raises _Refused for anything but plain values and tensors over those storages; a value may hold itself."""
    waiting, seen = [value], set[int]()
    while waiting:
        one = waiting.pop()
        if type(one) in _LEAVES or id(one) in seen:
            continue
        seen.add(id(one))
        if type(one) in (dict, OrderedDict):
            waiting += [*one.keys(), *one.values()]
        elif type(one) in (list, tuple, set, torch.Size):
            waiting += one
        elif type(one) not in (Tensor, torch.nn.Parameter):
            raise _Refused(f"holds a {type(one).__name__}, which is neither a tensor nor a plain value; {_AGAIN}")
        elif one.untyped_storage().nbytes() and one.untyped_storage().data_ptr() not in pointers:
            raise _Refused(f"holds a tensor without stored data; {_AGAIN}")


def _first_line(error: Exception) -> str:
    """What went wrong in a few words; torch wraps the reason of a failed unpickling in advice of several paragraphs."""
    reason = str(error).split("\n\nCheck the documentation")[0].split("\n\n")[-1].strip()
    return f"{type(error).__name__}: {' '.join(reason.splitlines()[:1])[:200]}"
