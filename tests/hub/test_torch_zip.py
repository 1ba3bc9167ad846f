"""torch.save's files, read strictly. What torch writes is read back exactly; everything else is refused in one line.

Crafted files come from `archive`, a second writer of torch's zip layout, which is first compared with torch's own bytes.
tests/golden/torch_zip holds files written by older releases of torch; `wide_*` are the beginning and the end of files with
a storage of more than 4 GiB of zeros, which the tests put back as a hole.
"""

import io
import os
import pickle  # to craft pickles: the reader must refuse them
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from refusals import refused
from sparse_circuits.hub.torch_zip import read_state_dict, read_torch_zip

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = sorted(GOLDEN.glob("released/*/final_model.pt"))


def archive(
    records: Sequence[tuple[str, bytes]],
    *,
    root: str = "archive",
    alignment: int = 64,
    letter: bytes = b"Z",
    gap: bytes = b"",
    moved: tuple[int, int] = (0, 0),
) -> bytes:
    """A file laid out as torch does it, but for: letter, the padding; gap, bytes before the second record; moved, (record,
    bytes) by which the directory points beside that record's header."""
    body, directory = b"", b""
    for number, (name, data) in enumerate(records):
        body += gap if number == 1 else b""
        path, flags = f"{root}/{name}".encode(), 0x808 if data else 0x800
        offset, crc = len(body) + (moved[1] if number == moved[0] else 0), zlib.crc32(data)
        pad = -(len(body) + 34 + len(path)) % alignment
        body += b"PK\3\4" + struct.pack("<HHHIIIIHH", 0, flags, 0, 0, 0, 0, 0, len(path), pad + 4)
        body += path + b"FB" + struct.pack("<H", pad) + letter * pad + data
        body += b"PK\7\10" + struct.pack("<III", crc, len(data), len(data)) if data else b""
        directory += b"PK\1\2" + struct.pack("<HHHHIIII", 0, 0, flags, 0, 0, crc, len(data), len(data))
        directory += struct.pack("<HHHHHII", len(path), 0, 0, 0, 0, 0, offset) + path
    count, size, start = len(records), len(directory), len(body)
    end64 = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 0x31E, 45, 0, 0, count, count, size, start)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, start + size, 1)
    return body + directory + end64 + locator + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, size, start, 0)


class Storage:
    """Stands for one storage in a crafted pickle: its key, and how many numbers the pickle claims."""

    def __init__(self, key: object, claimed: object, kind: Any = torch.FloatStorage) -> None:
        self.pid = ("storage", kind, key, "cpu", claimed)


class Call:
    """Unpickles as the result of a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def crafted(value: Any, protocol: int = 2) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return obj.pid if isinstance(obj, Storage) else None

    stream = io.BytesIO()
    Pickler(stream, protocol).dump(value)
    return stream.getvalue()


def stored(storage: Any, size: Any = (4,), stride: Any = (1,), offset: Any = 0) -> Call:
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


def records(data: bytes, *storages: bytes) -> list[tuple[str, bytes]]:
    named = [(f"data/{number}", storage) for number, storage in enumerate(storages)]
    return [("data.pkl", data), ("byteorder", b"little"), *named, ("version", b"3\n")]


FOUR = struct.pack("<4f", 1, 2, 3, 4)
SOUND = records(crafted({"w": stored(Storage("0", 4))}), FOUR)


def write(tmp_path: Path, content: bytes) -> Path:
    file = tmp_path / "model.pt"
    file.write_bytes(content)
    return file


def both_refuse(file: Path, *words: str) -> None:
    for verify in (False, True):
        with refused(str(file), *words):
            read_torch_zip(file, verify=verify)


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, Tensor):
        assert (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride())
        assert torch.equal(*(one.detach().contiguous().reshape(-1).view(torch.uint8) for one in (found, expected)))
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


# --- what torch writes


def samples() -> dict[str, Any]:
    base = torch.arange(24.0).reshape(4, 6)
    kinds = (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool)
    newer = (torch.uint16, torch.float8_e4m3fn)
    return {
        "flat": OrderedDict(a=torch.randn(3, 5), b=torch.randn(7)),
        "views": {"base": base, "row": base[2], "columns": base[:, 1::2], "turned": base.T, "again": base},
        "empty": {"none": torch.empty(0), "wide": torch.empty(0, 3), "number": torch.tensor(2.5)},
        "dtypes": {str(kind): torch.randint(0, 2, (2, 3)).to(kind) for kind in (*kinds, *newer)},
        "many": {f"t{number}": torch.full((2,), float(number)) for number in range(300)},
        "nothing": {},
        "nested": {1: [torch.randn(2), (None, True, "ä", 2.5)], 0.001: {"size": torch.Size([2, 3])}, "set": {1, 2}},
        "parameter": {"w": torch.nn.Parameter(torch.randn(2, 2)), "dtype": torch.float32},
    }


@pytest.mark.parametrize("kind", samples())
@pytest.mark.parametrize("to", ["path", "buffer"])
def test_what_torch_saves_comes_back(tmp_path: Path, kind: str, to: str) -> None:
    value, file = samples()[kind], tmp_path / "my.model.v2.pt"
    buffer = io.BytesIO()
    torch.save(value, file if to == "path" else buffer)
    if to == "buffer":
        file.write_bytes(buffer.getvalue())
    for verify in (False, True):
        assert_same(read_torch_zip(file, verify=verify), value)


def test_shared_storages_stay_shared_and_mapped(tmp_path: Path) -> None:
    file = tmp_path / "views.pt"
    torch.save(samples()["views"], file)
    found = read_torch_zip(file, verify=True)
    assert found["base"].data_ptr() == found["again"].data_ptr() == found["turned"].data_ptr()
    maps = [
        line.split() for line in Path("/proc/self/maps").read_text("utf-8").splitlines() if line.endswith(str(file))
    ]
    areas = [[int(end, 16) for end in area[0].split("-")] for area in maps]
    assert any(start <= found["row"].data_ptr() < stop for start, stop in areas)
    found["base"][0, 0] = 7.0  # a private mapping: the file does not change
    assert read_torch_zip(file, verify=True)["base"][0, 0] == 0.0


@pytest.mark.parametrize("alignment", [16, 48, 4096])
def test_an_alignment_of_its_own(tmp_path: Path, alignment: int) -> None:
    from torch.utils.serialization import config

    value, file = samples()["flat"], tmp_path / "x.pt"
    with config.patch("save.storage_alignment", alignment):
        torch.save(value, file)
    if alignment == 48:
        both_refuse(file, ".storage_alignment", "b'48'")
    else:
        assert_same(read_torch_zip(file, verify=True), value)


@pytest.mark.parametrize("release", ["1_13", "2_3"])
def test_older_releases_of_torch(release: str) -> None:
    found = read_state_dict(GOLDEN / "torch_zip" / f"torch_{release}.pt", verify=True)
    a = torch.arange(6.0).reshape(2, 3)
    assert list(found) == ["a", "e", "half", "b", "i", "view"]
    assert_same(found["a"], a)
    assert_same(found["view"], a[1:, :2])
    assert_same(found["half"], torch.arange(5).to(torch.float16))
    assert_same(found["b"], torch.ones(3, dtype=torch.bfloat16))
    assert_same(found["i"], torch.arange(4))


@pytest.mark.parametrize(
    ("release", "verify"), [("1_13", False), ("2_13", False), pytest.param("2_13", True, marks=pytest.mark.slow)]
)
def test_beyond_four_gib(tmp_path: Path, release: str, verify: bool) -> None:
    head, tail = ((GOLDEN / "torch_zip" / f"wide_{release}.{part}").read_bytes() for part in ("head", "tail"))
    file, data = tmp_path / "wide.pt", 4 * (2**30 + 5)
    with open(file, "wb") as handle:
        handle.write(head)
        handle.seek(data, os.SEEK_CUR)
        handle.write(tail)
    found = read_state_dict(file, verify=verify)
    assert found["a"].shape == (2**30 + 5,)
    assert_same(found["b"], torch.arange(3))
    assert_same(found["c"], torch.ones(2, 2))
    for place in (len(head) - 60, len(head) + data + 5, len(head) + data + 60):  # zip64 field, descriptor, next header
        with open(file, "r+b") as handle:
            handle.seek(place)
            old = handle.read(1)
            handle.seek(place)
            handle.write(bytes([old[0] ^ 1]))
        with refused("damaged"):
            read_torch_zip(file, verify=False)
        with open(file, "r+b") as handle:
            handle.seek(place)
            handle.write(old)


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.parent.name)
def test_released_layout(file: Path) -> None:
    assert_same(read_state_dict(file, verify=True), dict(torch.load(file, weights_only=True)))


def test_the_golden_cases_are_there() -> None:
    assert len(CASES) == 4


# --- other kinds of files


def test_other_files(tmp_path: Path) -> None:
    with refused("no file absent.pt", str(tmp_path)):
        read_torch_zip(tmp_path / "absent.pt", verify=False)
    both_refuse(tmp_path, "is a folder")
    both_refuse(write(tmp_path, b""), "is empty")
    both_refuse(write(tmp_path, b"version https://git-lfs.github.com/spec/v1\n"), "not a file of torch.save")
    both_refuse(write(tmp_path, b"PK\3\4"), "truncated")
    both_refuse(write(tmp_path, b"PK"), "not a file of torch.save")
    both_refuse(write(tmp_path, pickle.dumps({"w": 1})), "bare pickle", "save it again")
    torch.save({"w": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    both_refuse(tmp_path / "old.pt", "bare pickle", "save it again")
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "model.pt", "w", method) as packed:
            for name, data in SOUND:
                packed.writestr(f"archive/{name}", data)
        assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=True)["w"], torch.tensor([1.0, 2, 3, 4]))
        both_refuse(tmp_path / "model.pt", "not as torch.save writes it")


# --- the container


def test_archive_writes_the_bytes_of_torch(tmp_path: Path) -> None:
    writer = torch._C.PyTorchFileWriter(str(tmp_path / "stem.pt"))
    for name, data in SOUND[:-1]:
        writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    theirs = (tmp_path / "stem.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "stem.pt") as read:
        added = (".data/serialization_id", read.read("stem/.data/serialization_id"))
    assert theirs == archive([*SOUND, added], root="stem")


def test_a_crafted_file_can_be_sound(tmp_path: Path) -> None:
    for options in ({}, {"root": "a b.c-ä"}):
        found = read_torch_zip(write(tmp_path, archive(SOUND, **options)), verify=True)
        assert_same(found, {"w": torch.tensor([1.0, 2, 3, 4])})


def with_record(name: str, data: bytes) -> bytes:
    """SOUND with one record replaced, or added."""
    return archive(list({**dict(SOUND), name: data}.items()))


OTHER_ROOT = archive(SOUND).replace(b"archive/version", b"arch1ve/version")
DOUBLE = archive([*SOUND[:3], ("data/1", FOUR), SOUND[3]]).replace(b"archive/data/1", b"archive/data/0")
DAMAGED: dict[str, tuple[bytes, str]] = {
    "leading byte": (b"\0" + archive(SOUND), "not a file of torch.save"),
    "leading zip": (b"PK\3\4" + archive(SOUND), "truncated"),
    "trailing byte": (archive(SOUND) + b"\0", "truncated"),
    "comment": (archive(SOUND)[:-2] + b"\1\0x", "truncated"),
    "gap": (archive(SOUND, gap=bytes(64)), "gap or an overlap before record byteorder"),
    "moved": (archive(SOUND, moved=(2, 64)), "gap or an overlap before record data/0"),
    "overlap": (archive(SOUND, moved=(2, -10)), "gap or an overlap before record data/0"),
    "far": (archive(SOUND, moved=(1, 2**31)), "gap or an overlap before record byteorder"),
    "padding": (archive(SOUND, letter=b"\0"), "header of record data.pkl"),
    "alignment": (archive(SOUND, alignment=32), "header of record"),
    "bytes before the directory": (archive(SOUND).replace(b"PK\1\2", b"\0PK\1\2", 1), "truncated"),
    "two roots": (OTHER_ROOT, "b'arch1ve/version'"),
    "no root": (archive(SOUND, root=""), "that torch.save does not write"),
    "deep root": (archive(SOUND, root="a/b"), "b'a/b/data.pkl'"),
    "foreign record": (with_record("code/run.py", b"x"), "code/run.py"),
    "torchscript": (with_record("constants.pkl", b"x"), "constants.pkl"),
    "odd storage": (with_record("data/01", FOUR), "data/01"),
    "way out": (with_record("../x", FOUR), "../x"),
    "two records of a name": (DOUBLE, "two records data/0"),
    "no pickle": (archive(SOUND[1:]), "no record data.pkl"),
    "no version": (archive(SOUND[:-1]), "no record version"),
    "no records": (archive([]), "not a file of torch.save"),
    "big-endian": (with_record("byteorder", b"big"), "big-endian"),
    "byteorder": (with_record("byteorder", b"middle"), "unknown byteorder"),
    "version": (with_record("version", b"4\n"), "unknown version"),
    "format": (with_record(".format_version", b"2"), "unknown .format_version"),
    "alignment record": (with_record(".storage_alignment", b"0"), "unknown .storage_alignment"),
    "id": (with_record(".data/serialization_id", b"1" * 41), "unknown .data/serialization_id"),
    "long small record": (with_record("version", b"3\n" * 50_000), "unknown version"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_containers(tmp_path: Path, kind: str) -> None:
    content, words = DAMAGED[kind]
    both_refuse(write(tmp_path, content), words)


# --- checksums


def test_a_changed_storage_is_seen_when_asked(tmp_path: Path) -> None:
    file = write(tmp_path, archive(SOUND).replace(FOUR, FOUR[:-1] + b"\0"))
    assert read_torch_zip(file, verify=False)["w"][3] != 4.0
    with refused(str(file), "checksum", "data/0"):
        read_torch_zip(file, verify=True)
    both_refuse(write(tmp_path, archive(SOUND).replace(b"little", b"Little")), "checksum", "byteorder")


def test_left_out_checksums_and_data(tmp_path: Path) -> None:
    """torch can leave out checksums (set_crc32_options) or all data (skip_data, for planning); neither is a checkpoint."""
    file = tmp_path / "x.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(3)}, file)
    finally:
        torch.serialization.set_crc32_options(True)
    both_refuse(file, "lacks a checksum")
    with torch.serialization.skip_data():
        torch.save({"w": torch.ones(3)}, file)
    both_refuse(file, "data were left out", "data/0")
    torch.save([torch.ones(n) for n in (300, 20, 1000)], file)
    with torch.serialization.skip_data():  # torch.load then hands out memory as it finds it
        both_refuse(file, "does not fit its storages")


# --- pickles


def evil_pickles(marker: Path) -> dict[str, bytes]:
    command = f"touch {marker}"
    maker = Call(os.mkdir, str(marker))
    return {
        "os.system": pickle.dumps(Call(os.system, command), 2),
        "protocol 4": pickle.dumps(Call(os.system, command), 4),
        "eval": pickle.dumps({"w": Call(eval, f"__import__('os').mkdir({str(marker)!r})")}, 2),
        "mkdir": pickle.dumps([maker], 2),
        "among tensors": crafted(OrderedDict(w=stored(Storage("0", 4)), x=maker)),
        "text": f"cos\nsystem\n(S'{command}'\ntR.".encode(),
        "instance": f"(S'{command}'\nios\nsystem\n.".encode(),
    }


@pytest.mark.parametrize("kind", evil_pickles(Path("x")))
def test_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    marker = tmp_path / "marker"
    data = evil_pickles(marker)[kind]
    file = write(tmp_path, archive(records(data, FOUR)))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with torch.serialization.safe_globals([eval, os.mkdir]):  # even where the program around us allowed it
        both_refuse(file, "asks to run code", "refused")
    assert not marker.exists()
    if kind != "among tensors":
        pickle.loads(data)
        assert marker.exists(), "the pickle would not have done anything"


LYING: dict[str, tuple[Any, str]] = {
    "more than the record": (stored(Storage("0", 5), (5,)), "does not fit its storages"),
    "up to the end of the file": (stored(Storage("0", 60), (60,)), "does not fit its storages"),
    "beyond the file": (stored(Storage("0", 2**40), (2**40,)), "cannot be loaded"),
    "less than the record": (stored(Storage("0", 3), (3,)), "does not fit its storages"),
    "nothing of it": (stored(Storage("0", 0), (0,)), "does not fit its storages"),
    "negative": (stored(Storage("0", -4), (0,)), "does not fit its storages"),
    "no number": (stored(Storage("0", "4")), "cannot be loaded"),
    "no storage type": (stored(Storage("0", 4, "float")), "cannot be loaded"),
    "absent record": (stored(Storage("7", 4)), "cannot be loaded"),
    "other record": (stored(Storage("../version", 4)), "cannot be loaded"),
    "both spellings": ([stored(Storage("0", 4)), stored(Storage(0, 2), (2,))], "does not fit its storages"),
    "unused record": ({"w": 1}, "does not fit its storages"),
    "view out of bounds": (stored(Storage("0", 4), (2, 3), (3, 1)), "cannot be loaded"),
    "offset out of bounds": (stored(Storage("0", 4), (4,), (1,), 1), "cannot be loaded"),
    "negative offset": (stored(Storage("0", 4), (2,), (1,), -2), "cannot be loaded"),
    "negative stride": (stored(Storage("0", 4), (2,), (-1,), 2), "cannot be loaded"),
    "overflow": (stored(Storage("0", 4), (2**62, 8), (2**61, 2**62)), "cannot be loaded"),
    "memory as it is": ([stored(Storage("0", 4)), Call(torch.UntypedStorage, 64)], "UntypedStorage"),
    "no data": (Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (4,), (1,), False), "run code"),
    "a class": ([stored(Storage("0", 4)), OrderedDict], "neither a tensor nor a plain value"),
}


@pytest.mark.parametrize("kind", LYING)
def test_pickles_that_lie_about_storages(tmp_path: Path, kind: str) -> None:
    value, words = LYING[kind]
    both_refuse(write(tmp_path, archive(records(crafted(value), FOUR))), words)


SOUND_PICKLE = SOUND[0][1]
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cannot be loaded"),
    "no end": (SOUND_PICKLE[:-1], "cannot be loaded"),
    "text": (b"hello", "cannot be loaded"),
    "two values": (SOUND_PICKLE + b"N.", "after the end of its pickle"),
    "empty stack": (b"\x80\x02.", "cannot be loaded"),
    "no mark": (b"\x80\x02t.", "cannot be loaded"),
    "no memo": (b"\x80\x02h\x07.", "cannot be loaded"),
    "long string": (b"\x80\x02X\xff\xff\xff\xffabc.", "cannot be loaded"),
    "protocol 4": (pickle.dumps({"w": 1}, 4), "cannot be loaded"),
    "extension": (b"\x80\x02\x82\x01.", "asks to run code"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_pickles(tmp_path: Path, kind: str) -> None:
    data, words = BROKEN[kind]
    both_refuse(write(tmp_path, archive(records(data, FOUR))), words)


def test_a_value_that_holds_itself(tmp_path: Path) -> None:
    value: list[Any] = [stored(Storage("0", 4))]
    value.append(value)
    found = read_torch_zip(write(tmp_path, archive(records(crafted(value), FOUR))), verify=True)
    assert found[1] is found


# --- state dicts


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([torch.ones(1)], "a list"),
        (torch.ones(1), "a Tensor"),
        ({"model": {"w": torch.ones(1)}}, "a dict under 'model'"),
        ({"w": torch.ones(1), "step": 3}, "a int under 'step'"),
        ({0: torch.ones(1)}, "a Tensor under 0"),
    ],
)
def test_only_flat_state_dicts(tmp_path: Path, value: Any, words: str) -> None:
    file = tmp_path / "x.pt"
    torch.save(value, file)
    with refused(str(file), words, "state dict"):
        read_state_dict(file, verify=True)


def test_parameters_become_tensors(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 3)
    torch.save(layer.state_dict(keep_vars=True), tmp_path / "x.pt")
    found = read_state_dict(tmp_path / "x.pt", verify=True)
    assert type(found) is dict and list(found) == ["weight", "bias"]
    assert type(found["weight"]) is Tensor and not found["weight"].requires_grad
    assert torch.equal(found["weight"], layer.weight)
