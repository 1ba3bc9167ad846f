"""Safetensors files, read strictly: what the library writes comes back; whatever does not fit together is one line."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from refusals import refused
from sparse_circuits.files import write_tensors
from sparse_circuits.hub.tensor_file import TensorFile, open_sharded, open_tensors

GOLDEN = Path(__file__).parent.parent / "golden" / "released"
F2 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
EIGHT = struct.pack("<2f", 1.0, 2.0)


def tensors() -> dict[str, torch.Tensor]:
    kinds = (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn)
    made = {str(kind): torch.randint(0, 2, (2, 3)).to(kind) for kind in kinds}
    return {
        "w": torch.randn(4, 5),
        "none": torch.empty(0, 7),
        "number": torch.tensor(2.5),
        'ä "b"\\': torch.ones(3),
        **made,
    }


def assert_holds(found: TensorFile, expected: dict[str, torch.Tensor]) -> None:
    assert set(found.names) == set(found.shapes) == set(found.dtypes) == set(expected)
    for name, tensor in expected.items():
        got = found.get(name)
        assert found.shapes[name] == tuple(tensor.shape) == tuple(got.shape)
        assert found.dtypes[name] == tensor.dtype == got.dtype
        assert torch.equal(got.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def raw(folder: Path, header: bytes, data: bytes = EIGHT, length: int | None = None) -> Path:
    """A file with any bytes as header."""
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return file


def made(folder: Path, header: Any, data: bytes = EIGHT) -> Path:
    return raw(folder, json.dumps(header).encode(), data)


# --- one file


def test_what_the_library_writes_comes_back(tmp_path: Path) -> None:
    expected = tensors()
    save_file(expected, tmp_path / "x.safetensors", {"format": "pt", "other": "ä"})
    found = open_tensors(tmp_path / "x.safetensors")
    assert found.path == tmp_path / "x.safetensors"
    assert found.metadata == {"format": "pt", "other": "ä"}
    assert_holds(found, expected)
    write_tensors(tmp_path / "own.safetensors", expected)
    own = open_tensors(tmp_path / "own.safetensors", foreign=False)
    assert own.metadata == {}
    assert_holds(own, expected)


def test_released_layout() -> None:
    file = GOLDEN / "sink_catpos_afrac_full__hf" / "model.safetensors"
    sibling = torch.load(GOLDEN / "sink_catpos_afrac_full" / "final_model.pt", weights_only=True)
    assert_holds(open_tensors(file), {f"circuit_model.{name}": tensor for name, tensor in sibling.items()})


def test_tensors_are_mapped(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"w": torch.arange(1000.0)}, file)
    tensor = open_tensors(file).get("w")
    maps = [
        line.split() for line in Path("/proc/self/maps").read_text("utf-8").splitlines() if line.endswith(str(file))
    ]
    areas = [[int(end, 16) for end in area[0].split("-")] for area in maps]
    assert any(start <= tensor.data_ptr() < stop for start, stop in areas)
    tensor[0] = 7.0  # a private mapping: the file does not change
    assert open_tensors(file).get("w")[0] == 0.0


@pytest.mark.parametrize("spaces", range(9))
def test_any_padding_and_alignment(tmp_path: Path, spaces: int) -> None:
    found = open_tensors(raw(tmp_path, json.dumps({"w": F2}).encode() + b" " * spaces))
    assert torch.equal(found.get("w"), torch.tensor([1.0, 2.0]))
    assert found.get("w").data_ptr() % 4 == 0


def test_unknown_names(tmp_path: Path) -> None:
    found = open_tensors(made(tmp_path, {"w": F2}))
    with refused(str(found.path), "no tensor 'v'", "'w'"):
        found.get("v")


def test_other_files(tmp_path: Path) -> None:
    with refused("no file absent.safetensors", str(tmp_path)):
        open_tensors(tmp_path / "absent.safetensors")
    with refused("is a folder"):
        open_tensors(tmp_path)
    file = tmp_path / "model.safetensors"
    for content, words in (
        (b"", "truncated"),
        (b"1234567", "truncated"),
        (b"version https://git-lfs", "no safetensors"),
    ):
        file.write_bytes(content)
        with refused(str(file), words):
            open_tensors(file)


PAIR = {"v": F2, "w": {**F2, "data_offsets": [8, 16]}}
HEADERS: dict[str, tuple[Any, str]] = {
    "unknown dtype": ({"w": {**F2, "dtype": "F31"}}, "'F31'; known: BOOL"),
    "dtype no string": ({"w": {**F2, "dtype": 32}}, "dtype 32"),
    "shape": ({"w": {**F2, "shape": [3]}}, "do not fit its shape"),
    "dtype of another size": ({"w": {**F2, "dtype": "F64"}}, "do not fit its shape"),
    "float in shape": ({"w": {**F2, "shape": [2.0]}}, "whole numbers"),
    "bool in shape": ({"w": {**F2, "shape": [2, True]}}, "whole numbers"),
    "negative shape": ({"w": {**F2, "shape": [-2]}}, "whole numbers"),
    "two negative": ({"w": {**F2, "shape": [-2, -1]}}, "whole numbers"),
    "huge shape": ({"w": {**F2, "shape": [0, 2**63], "data_offsets": [0, 0]}}, "whole numbers"),
    "shape no list": ({"w": {**F2, "shape": 2}}, "whole numbers"),
    "float offset": ({"w": {**F2, "data_offsets": [0, 8.0]}}, "whole numbers"),
    "negative offset": ({"w": {**F2, "data_offsets": [-8, 0]}}, "whole numbers"),
    "three offsets": ({"w": {**F2, "data_offsets": [0, 4, 8]}}, "whole numbers"),
    "offsets backwards": ({"w": {**F2, "data_offsets": [8, 0]}}, "do not fit its shape"),
    "beyond the file": ({"w": {**F2, "shape": [4], "data_offsets": [0, 16]}}, "describes 16"),
    "hole": ({"w": {**F2, "shape": [1], "data_offsets": [4, 8]}}, "gap at byte 0"),
    "hole between": ({"v": {**F2, "shape": [0], "data_offsets": [4, 4]}, "w": F2}, "overlap or leave a gap"),
    "overlap": ({"v": F2, "w": F2}, "overlap or leave a gap"),
    "too little": ({"v": {**F2, "shape": [1], "data_offsets": [0, 4]}}, "describes 4"),
    "missing key": ({"w": {"dtype": "F32", "shape": [2]}}, "exactly dtype, shape"),
    "further key": ({"w": {**F2, "order": "C"}}, "exactly dtype, shape"),
    "entry no object": ({"w": [1]}, "exactly dtype, shape"),
    "no object": ([F2], "one JSON object"),
    "metadata no object": ({"__metadata__": ["pt"], "w": F2}, "strings to strings"),
    "metadata no strings": ({"__metadata__": {"format": "pt", "n": 3}, "w": F2}, "strings to strings"),
    "metadata null": ({"__metadata__": {"format": None}, "w": F2}, "strings to strings"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_that_do_not_fit(tmp_path: Path, kind: str) -> None:
    header, words = HEADERS[kind]
    for foreign in (False, True):
        file = made(tmp_path, header)
        with refused(str(file), words):
            open_tensors(file, foreign=foreign)


GOOD = json.dumps({"w": F2}).encode()
BYTES: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{" + b"x" * 50 + b"}", "not valid JSON"),
    "cut off": (GOOD[:-1], "not valid JSON"),
    "cut off within": (GOOD[:-2], "one JSON object"),
    "no UTF-8": (GOOD.replace(b"w", b"\xff"), "not valid JSON"),
    "same name twice": (GOOD[:-1] + b', "w": ' + json.dumps(F2).encode() + b"}", "same key twice"),
    "same key twice": (GOOD.replace(b'"shape"', b'"dtype": "F32", "shape"'), "same key twice"),
    "same name, escaped": (GOOD[:-1] + b', "\\u0077": ' + json.dumps(F2).encode() + b"}", "same key twice"),
    "padded with zeros": (GOOD + bytes(3), "padded with spaces only"),
    "padded with line ends": (GOOD + b"\n", "padded with spaces only"),
    "tabs inside": (GOOD.replace(b" ", b"\t"), "padded with spaces only"),
    "space in front": (b" " + GOOD, "one JSON object"),
    "NaN": (GOOD.replace(b"[2]", b"[NaN]"), "not valid JSON"),
    "long number": (GOOD.replace(b"[2]", b"[" + b"9" * 5000 + b"]"), "not valid JSON"),
    "deep": (b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not valid JSON"),
    "lone surrogate": (GOOD.replace(b"w", b"\\ud800"), "damaged"),
    "nothing": (b"", "one JSON object"),
}


@pytest.mark.parametrize("kind", BYTES)
def test_malformed_headers(tmp_path: Path, kind: str) -> None:
    header, words = BYTES[kind]
    file = raw(tmp_path, header)
    with refused(str(file), words):
        open_tensors(file)


def test_lengths(tmp_path: Path) -> None:
    for length in (len(GOOD) + 9, 2**31, 2**63, 2**64 - 1):
        with refused("a header of", "cannot be"):
            open_tensors(raw(tmp_path, GOOD, length=length))
    for length in (0, 1, len(GOOD) - 1, len(GOOD) + 1, len(GOOD) + 8):
        with refused("damaged"):
            open_tensors(raw(tmp_path, GOOD, length=length))
    with refused("8 bytes", "describes 0"):
        open_tensors(raw(tmp_path, b"{}"))
    assert open_tensors(raw(tmp_path, b"{}", b"")).names == ()
    for data in (EIGHT[:-1], EIGHT + b"\0"):
        with refused(f"{len(data)} bytes of data", "describes 8"):
            open_tensors(made(tmp_path, {"w": F2}, data))


def test_foreign_files_say_torch(tmp_path: Path) -> None:
    for metadata in ({"format": "tf"}, {"other": "x"}, {}):
        file = made(tmp_path, {"__metadata__": metadata, "w": F2})
        with refused(str(file), "'pt'"):
            open_tensors(file)
        assert open_tensors(file, foreign=False).metadata == metadata
    assert open_tensors(made(tmp_path, {"__metadata__": {"format": "pt"}, "w": F2})).metadata == {"format": "pt"}
    assert open_tensors(made(tmp_path, {"w": F2})).metadata == {}


# --- shards

PARTS = {
    "model-00001-of-00002.safetensors": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(5)},
    "model-00002-of-00002.safetensors": {"c": torch.ones(4, dtype=torch.bfloat16)},
}


def sharded(folder: Path, **changes: Any) -> Path:
    """An index and its shards; changes: other values in the index, None to leave a key out."""
    for name, part in PARTS.items():
        save_file(part, folder / name, {"format": "pt"})
    weight_map = {name: shard for shard, part in PARTS.items() for name in reversed(part)}
    stored = {"metadata": {"total_size": 24 + 40 + 8}, "weight_map": weight_map, **changes}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({key: value for key, value in stored.items() if value is not None}, indent=2), "utf-8")
    return index


def mapped(**changes: Any) -> dict[str, Any]:
    first, second = PARTS
    return {key: value for key, value in {"b": first, "a": first, "c": second, **changes}.items() if value is not None}


def test_shards_are_one_file(tmp_path: Path) -> None:
    for metadata in ({"total_size": 72, "total_parameters": 15}, {"total_size": 72.0}, {}, None):
        found = open_sharded(sharded(tmp_path, metadata=metadata))
        assert found.names == ("b", "a", "c")
        assert found.metadata == {"format": "pt"}
        assert_holds(found, {name: tensor for part in PARTS.values() for name, tensor in part.items()})
    with refused("index.json", "no tensor 'd'"):
        found.get("d")


ESCAPES = (
    "../x.safetensors",
    "/x.safetensors",
    "sub/x.safetensors",
    "sub\\x.safetensors",
    "c:x.safetensors",
    "..",
    "x.pt",
    "",
    3,
)


@pytest.mark.parametrize("shard", ESCAPES)
def test_shards_lie_beside_the_index(tmp_path: Path, shard: object) -> None:
    with refused("plain file name", repr(shard)):
        open_sharded(sharded(tmp_path, weight_map=mapped(c=shard)))


INDEXES: dict[str, tuple[dict[str, Any], str]] = {
    "no map": ({"weight_map": None}, "no weight_map"),
    "empty map": ({"weight_map": {}}, "no weight_map"),
    "list": ({"weight_map": ["a"]}, "no weight_map"),
    "absent shard": ({"weight_map": mapped(d="other.safetensors")}, "no file other.safetensors"),
    "name left out": ({"weight_map": mapped(a=None)}, "holds 'a', which the index does not put there"),
    "name too many": ({"weight_map": mapped(d=list(PARTS)[0])}, "lacks 'd'"),
    "wrong shard": ({"weight_map": mapped(a=list(PARTS)[1])}, "a"),
    "total size": ({"metadata": {"total_size": 71}}, "total_size 71, and the shards hold 72 bytes"),
    "total no number": ({"metadata": {"total_size": "72"}}, "total_size '72'"),
    "total true": ({"metadata": {"total_size": True}}, "total_size True"),
    "metadata no object": ({"metadata": [72]}, "metadata must be a JSON object"),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_indexes_that_do_not_fit(tmp_path: Path, kind: str) -> None:
    changes, words = INDEXES[kind]
    with refused(str(tmp_path), words):
        open_sharded(sharded(tmp_path, **changes))


def test_damaged_indexes_and_shards(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    text = index.read_text("utf-8")
    for changed, words in (
        (text[:-1], "not valid JSON"),
        (text.replace('"weight_map": {', '"weight_map": {"a": "x.safetensors",'), "same key twice"),
        ("[]", "JSON object"),
    ):
        index.write_text(changed, "utf-8")
        with refused(str(index), words):
            open_sharded(index)
    with refused("no file model.safetensors.index.json"):
        open_sharded(tmp_path / "sub" / "model.safetensors.index.json")
    first, second = PARTS
    index = sharded(tmp_path)
    (tmp_path / second).write_bytes(save(PARTS[second], {"format": "pt"})[:-1])
    with refused(second, "7 bytes of data"):
        open_sharded(index)
    save_file({**PARTS[second], "a": torch.ones(1)}, tmp_path / second, {"format": "pt"})
    with refused(second, "holds 'a'"):
        open_sharded(index)
    for name, note in ((first, "1"), (second, "2")):
        save_file(PARTS[name], tmp_path / name, {"format": "pt", "note": note})
    with refused("contradict", "'note'"):
        open_sharded(index)
    for name in PARTS:
        save_file(PARTS[name], tmp_path / name)
    assert open_sharded(index).metadata == {}
