"""Ten thousand flipped bytes, and rougher damage: each is one ValueError, and never another exception or a crash.

A flip replaces one byte of a sound file by another value. In a zip of torch.save every flip outside the storages must be
refused always, and in a storage with `verify`. In the header of a safetensors file it must be refused, or change what the
caller compares: names, shapes, dtypes, metadata. Where a zip's storages lie is found with `zipfile`, not with our reader.
A part runs in a process of its own, where a crash would end that process and not the test.
"""

import os
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sparse_circuits.hub.tensor_file import TensorFile, open_tensors
from sparse_circuits.hub.torch_zip import read_torch_zip

GOLDEN = Path(__file__).parent.parent / "golden" / "released"
MODELS = sorted(path.parent.name for path in GOLDEN.glob("*/final_model.pt"))


def small_tensors() -> dict[str, torch.Tensor]:
    return {
        "transformer.wte.weight": torch.randn(3, 4),
        "transformer.h.0.attn.bias": torch.randn(4),
        "bigram": torch.arange(6).reshape(2, 3),
        "sink": torch.ones(2, dtype=torch.bfloat16),
        "empty": torch.empty(0, 4),
    }


def small_zip(folder: Path) -> Path:
    file = folder / "small.pt"
    torch.save(small_tensors(), file)
    return file


def small_safetensors(folder: Path) -> Path:
    file = folder / "small.safetensors"
    save_file(small_tensors(), file, {"format": "pt", "note": "made here"})
    return file


def storage_positions(file: Path) -> list[int]:
    """Every byte of every storage of a torch zip."""
    content, found = file.read_bytes(), list[int]()
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if "/data/" in entry.filename:
                name, extra = struct.unpack_from("<2H", content, entry.header_offset + 26)
                start = entry.header_offset + 30 + name + extra
                found += range(start, start + entry.file_size)
    return found


def other_positions(file: Path) -> list[int]:
    return sorted(set(range(file.stat().st_size)) - set(storage_positions(file)))


@contextmanager
def flipped(file: Path, *places: int, dice: random.Random) -> Iterator[None]:
    """The file with other bytes at these places, in place: writing it anew 10,000 times would take the time."""
    handle = os.open(file, os.O_RDWR)
    old = {place: os.pread(handle, 1, place) for place in places}
    for place, (byte,) in old.items():
        os.pwrite(handle, bytes([(byte + dice.randrange(1, 256)) % 256]), place)
    try:
        yield
    finally:
        for place, byte in old.items():
            os.pwrite(handle, byte, place)
        os.close(handle)


def refusal(read: Any) -> str:
    """The message of the ValueError; any other exception goes through, and no exception is an empty string."""
    try:
        read()
    except ValueError as error:
        return str(error)
    return ""


def assert_refused(file: Path, what: object, verify: tuple[bool, ...] = (False, True)) -> None:
    for mode in verify:
        message = refusal(lambda mode=mode: read_torch_zip(file, verify=mode))
        assert message, f"{what} with verify={mode} was read"
        assert str(file) in message and "\n" not in message and type(message) is str


def flip_zip(file: Path, seed: int, times: int) -> None:
    """As many flips outside the storages, and a quarter as many inside."""
    dice = random.Random(seed)
    outside, inside = other_positions(file), storage_positions(file)
    assert len(outside) > 1000 and inside
    for place in dice.choices(outside, k=times):
        with flipped(file, place, dice=dice):
            assert_refused(file, f"a flip at byte {place}")
    for place in dice.choices(inside, k=times // 4):
        with flipped(file, place, dice=dice):
            assert_refused(file, f"a flip in a storage at byte {place}", verify=(True,))
    read_torch_zip(file, verify=True)


def header_end(file: Path) -> int:
    return 8 + struct.unpack("<Q", file.read_bytes()[:8])[0]


def seen(file: TensorFile) -> object:
    return file.names, file.shapes, file.dtypes, file.metadata


def assert_refused_or_seen(file: Path, before: object, what: object) -> None:
    opened: list[TensorFile] = []
    message = refusal(lambda: opened.append(open_tensors(file)))
    assert "\n" not in message
    if not message:
        assert seen(opened[0]) != before, f"{what} changed nothing that a caller sees"
        for name in opened[0].names:
            assert opened[0].get(name).shape == opened[0].shapes[name]
    else:
        assert str(file) in message


def flip_header(file: Path, seed: int, times: int, at_once: int = 1) -> None:
    dice, end, before = random.Random(seed), header_end(file), seen(open_tensors(file))
    for _ in range(times):
        places = dice.sample(range(end), at_once)
        with flipped(file, *places, dice=dice):
            assert_refused_or_seen(file, before, f"a flip at bytes {places}")
    assert seen(open_tensors(file)) == before


def copied(name: str, folder: Path) -> Path:
    file = folder / name.replace("/", "_")
    file.write_bytes((GOLDEN / name).read_bytes())
    return file


@pytest.mark.parametrize("seed", range(4))
def test_flips_in_a_small_zip(tmp_path: Path, seed: int) -> None:
    flip_zip(small_zip(tmp_path), seed, 1000)


@pytest.mark.parametrize("seed", range(2))
def test_flips_in_a_small_safetensors_header(tmp_path: Path, seed: int) -> None:
    flip_header(small_safetensors(tmp_path), seed, 1200)


@pytest.mark.parametrize("name", MODELS)
def test_flips_in_released_models(tmp_path: Path, name: str) -> None:
    flip_zip(copied(f"{name}/final_model.pt", tmp_path), 5, 400)


def test_flips_in_released_viewer_data(tmp_path: Path) -> None:
    flip_zip(copied("viz_like/viz_data.pt", tmp_path), 6, 40)


def test_flips_in_a_released_safetensors_header(tmp_path: Path) -> None:
    flip_header(copied("sink_catpos_afrac_full__hf/model.safetensors", tmp_path), 7, 600)


def test_every_byte_around_the_storages_is_guarded(tmp_path: Path) -> None:
    """Not a sample: each header, directory and pickle byte of the small zip once, and each byte of the small header."""
    file, dice = small_zip(tmp_path), random.Random(8)
    for place in other_positions(file):
        with flipped(file, place, dice=dice):
            assert_refused(file, f"a flip at byte {place}", verify=(False,))
    file = small_safetensors(tmp_path)
    before = seen(open_tensors(file))
    for place in range(header_end(file)):
        with flipped(file, place, dice=dice):
            assert_refused_or_seen(file, before, f"a flip at byte {place}")


def test_a_flip_in_a_storage_changes_only_that_tensor(tmp_path: Path) -> None:
    """Without `verify` storages are not read; what comes back then is the file's, and nobody else's memory."""
    file, dice = small_zip(tmp_path), random.Random(9)
    expected = {name: tensor.clone() for name, tensor in read_torch_zip(file, verify=True).items()}
    for place in dice.choices(storage_positions(file), k=200):
        with flipped(file, place, dice=dice):
            found = {name: tensor.clone() for name, tensor in read_torch_zip(file, verify=False).items()}
        changed = [int((found[name].view(torch.uint8) != expected[name].view(torch.uint8)).sum()) for name in expected]
        assert sorted(changed)[-2:] == [0, 1]


# --- rougher damage


def test_two_flips(tmp_path: Path) -> None:
    file, dice = small_zip(tmp_path), random.Random(10)
    size = file.stat().st_size
    for _ in range(500):
        places = dice.sample(range(size), 2)
        with flipped(file, *places, dice=dice):
            assert_refused(file, f"flips at bytes {places}", verify=(True,))
    flip_header(small_safetensors(tmp_path), 11, 500, at_once=2)


@pytest.mark.parametrize("make", [small_zip, small_safetensors])
def test_cut_off_anywhere(tmp_path: Path, make: Any) -> None:
    whole = make(tmp_path).read_bytes()
    file = tmp_path / f"cut{make(tmp_path).suffix}"
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert_damaged(file, f"cut off after {length} bytes")


@pytest.mark.parametrize("make", [small_zip, small_safetensors])
def test_blocks_put_in_taken_out_and_moved(tmp_path: Path, make: Any) -> None:
    whole, dice = make(tmp_path).read_bytes(), random.Random(12)
    file = tmp_path / f"changed{make(tmp_path).suffix}"
    for _ in range(400):
        place, length = dice.randrange(len(whole) + 1), dice.randrange(1, 65)
        noise, zeros = dice.randbytes(length), bytes(length)
        copy = whole[dice.randrange(len(whole)) :][:length]
        for block in (noise, zeros, copy):
            file.write_bytes(whole[:place] + block + whole[place:])
            assert_damaged(file, f"{block!r} put in at byte {place}")
        file.write_bytes(whole[:place] + whole[place + length :])
        if place < len(whole):
            assert_damaged(file, f"{length} bytes taken out at byte {place}")


@pytest.mark.parametrize("name", ["layernorm_tied_nmlp/final_model.pt", "sink_catpos_afrac_full__hf/model.safetensors"])
def test_released_files_cut_off(tmp_path: Path, name: str) -> None:
    file, dice = copied(name, tmp_path), random.Random(13)
    for length in sorted(dice.sample(range(file.stat().st_size), 300), reverse=True):
        os.truncate(file, length)
        assert_damaged(file, f"cut off after {length} bytes")


def assert_damaged(file: Path, what: str) -> None:
    if file.suffix == ".pt":
        assert_refused(file, what)
    else:
        message = refusal(lambda: open_tensors(file))
        assert str(file) in message and "\n" not in message, what


# --- in a process of its own


def worker(folder: Path) -> None:
    """What the process below runs: other seeds, all kinds, and at last a count."""
    flip_zip(small_zip(folder), 20, 400)
    flip_header(small_safetensors(folder), 21, 200)
    flip_zip(copied("sink_catpos_afrac_full/final_model.pt", folder), 22, 80)
    test_two_flips(folder)


def test_no_flip_crashes_a_process(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parents[2] / "src"), str(Path(__file__).parent)]
    code = f"import sys; sys.path[:0] = {paths!r}; import test_byte_flips as t; t.worker(t.Path({str(tmp_path)!r}))"
    code += "; sys.stdout.write('all refused')"
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "all refused"), done.stderr
