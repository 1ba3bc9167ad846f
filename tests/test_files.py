"""Files that are whole or absent: every failure half-way must leave the old content and nothing else."""

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refusals import refused
from sparse_circuits import files
from sparse_circuits.files import (
    check_format,
    check_replaceable,
    file_hash,
    json_hash,
    new_folder,
    read_json,
    read_metadata,
    read_tensors,
    sweep,
    tensors_hash,
    text_hash,
    write_bytes,
    write_json,
    write_tensors,
    write_text,
)

ARTIFACT = json.dumps({"kind": "thing", "format_version": 1})


class Stop(BaseException):
    """Stands in for a kill that Python still sees, such as Ctrl-C."""


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def artifact(folder: Path, **texts: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "thing.json").write_text(ARTIFACT, "utf-8")
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    return folder


# --- one file


def test_writing_makes_parents_and_replaces(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "x.txt"
    write_text(file, "one")
    write_text(file, "zwei: ä\n")
    assert file.read_bytes() == "zwei: ä\n".encode()
    assert names(tmp_path) == ["a", "a/b", "a/b/x.txt"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), Stop()], ids=["full_disk", "stop"])
def test_a_failed_write_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    file = tmp_path / "x.txt"
    write_text(file, "old")

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(files.os, failing, fail)
    with pytest.raises(type(error)):
        write_bytes(file, b"new")
    with pytest.raises(type(error)):
        write_bytes(tmp_path / "y.txt", b"new")
    assert names(tmp_path) == ["x.txt"]
    assert file.read_text("utf-8") == "old"


def test_a_real_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    """A limit on the size of files makes the system refuse the bytes."""
    import resource

    file = tmp_path / "x.txt"
    write_text(file, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_bytes(file, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["x.txt"]
    assert file.read_text("utf-8") == "old"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    file = tmp_path_factory.getbasetemp() / "value.json"
    try:
        write_json(file, {"value": value})
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8
        return
    assert read_json(file) == {"value": value}


def test_json_that_nests_without_end_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "deep.json"
    file.write_text("[" * 200_000, "utf-8")
    with pytest.raises(ValueError, match="deep.json is damaged"):
        read_json(file)


def test_unreadable_json_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    with refused("x.json", str(tmp_path)):
        read_json(file)
    for damaged in (b"", b'{"a": 1', b"\xff\xfe{}", b"{}}"):
        file.write_bytes(damaged)
        with refused(str(file), "damaged", "restore it"):
            read_json(file)
    file.write_text("[1]", "utf-8")
    with refused(str(file), "list"):
        read_json(file)


def test_formats(tmp_path: Path) -> None:
    check_format({"kind": "model", "format_version": 1}, "model", 1, tmp_path)
    with refused("'circuit'", "not a model"):
        check_format({"kind": "circuit", "format_version": 1}, "model", 1, tmp_path)
    with refused("format_version 2", "reads 1"):
        check_format({"kind": "model", "format_version": 2}, "model", 1, tmp_path)
    with refused("not a model"):
        check_format({}, "model", 1, tmp_path)


# --- folders


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "model"
    with new_folder(target) as draft:
        (draft / "sub").mkdir()
        (draft / "sub" / "x.txt").write_text("x", "utf-8")
        assert not target.exists()
        assert draft.parent == target.parent
    assert names(target) == ["sub", "sub/x.txt"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert names(tmp_path / "runs") == ["model", "model/sub", "model/sub/x.txt"]


def test_an_older_artifact_is_replaced_whole(tmp_path: Path) -> None:
    target = artifact(tmp_path / "model", old="old")
    with new_folder(target) as draft:
        (draft / "new").write_text("new", "utf-8")
        assert names(target) == ["old", "thing.json"]
    assert names(tmp_path) == ["model", "model/new"]
    (target / "new").unlink()
    with new_folder(target) as draft:  # an empty folder may be used too
        (draft / "newer").write_text("new", "utf-8")
    assert names(tmp_path) == ["model", "model/newer"]


@pytest.mark.parametrize(
    "error", [RuntimeError("bad"), Stop(), OSError(errno.ENOSPC, "full")], ids=["bug", "stop", "full_disk"]
)
def test_a_failed_folder_leaves_the_old_one(tmp_path: Path, error: BaseException) -> None:
    target = artifact(tmp_path / "model", old="old")
    with pytest.raises(type(error)), new_folder(target) as draft:
        (draft / "new").write_text("new", "utf-8")
        raise error
    assert names(tmp_path) == ["model", "model/old", "model/thing.json"]


@pytest.mark.parametrize("failing_call", [1, 2])
def test_a_failed_exchange_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    """The first rename moves the old folder aside, the second puts the new one in its place."""
    target = artifact(tmp_path / "model", old="old")
    replace, calls = os.replace, []

    def fail_once(source: object, destination: object) -> None:
        calls.append(source)
        if len(calls) == failing_call:
            raise OSError(errno.EIO, "input/output error")
        replace(source, destination)

    monkeypatch.setattr(files.os, "replace", fail_once)
    with pytest.raises(OSError, match="input/output"), new_folder(target) as draft:
        (draft / "new").write_text("new", "utf-8")
    assert names(tmp_path) == ["model", "model/old", "model/thing.json"]


def test_what_is_not_ours_is_never_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    papers = tmp_path / "papers"
    papers.mkdir()
    (papers / "thesis.tex").write_text("years", "utf-8")
    (papers / "settings.json").write_text("{}", "utf-8")
    (papers / "broken.json").write_text("{", "utf-8")
    with refused(str(papers), "other files"), new_folder(papers):
        raise AssertionError("reached the block")
    with refused("is a file"), new_folder(papers / "thesis.tex"):
        raise AssertionError("reached the block")
    monkeypatch.chdir(papers)
    with refused("'.'"):
        check_replaceable(".")
    assert names(tmp_path) == ["papers", "papers/broken.json", "papers/settings.json", "papers/thesis.tex"]
    check_replaceable(tmp_path / "free")
    ours = artifact(tmp_path / "ours")
    check_replaceable(ours)
    with refused("other files"):
        check_replaceable(ours, "another kind")


# --- after a kill


def leftovers(folder: Path) -> None:
    """What a kill can leave: half a file, a draft, an old folder moved aside, an old folder already replaced."""
    (folder / ".x.json.abcd1234.tmp").write_text("half", "utf-8")
    artifact(folder / ".draft.abcd123_.tmp")
    artifact(folder / ".moved.abcd1234.old" / "old", old="precious")
    artifact(folder / ".done.abcd1234.old" / "old", old="outdated")
    artifact(folder / "done", new="current")
    (folder / ".empty.abcd1234.old").mkdir()


def test_sweep_clears_drafts_and_restores_what_was_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    leftovers(tmp_path)
    leftovers(tmp_path / "run")
    sweep(tmp_path)
    here = ["done", "done/new", "done/thing.json", "moved", "moved/old", "moved/thing.json"]
    assert names(tmp_path) == sorted([*here, "run", *(f"run/{name}" for name in here)])
    assert (tmp_path / "moved" / "old").read_text("utf-8") == "precious"
    assert (tmp_path / "done" / "new").read_text("utf-8") == "current"
    sweep(tmp_path)
    sweep(tmp_path / "absent")


def test_sweep_leaves_what_is_not_ours(tmp_path: Path) -> None:
    for name in (".git", ".config.old", ".notes.tmp", "x.abcd1234.tmp", ".cache"):
        (tmp_path / name).mkdir()
    (tmp_path / ".vimrc.old").write_text("set", "utf-8")
    before = names(tmp_path)
    sweep(tmp_path)
    assert names(tmp_path) == before


KILLED = """
import os, sys
from sparse_circuits import files
replace, calls = os.replace, []
def die_at_second(source, destination):
    calls.append(source)
    if len(calls) == 2:
        os._exit(9)
    replace(source, destination)
files.os.replace = die_at_second
with files.new_folder(sys.argv[1]) as draft:
    (draft / "new").write_text("new", "utf-8")
"""


def test_a_killed_exchange_is_repaired(tmp_path: Path) -> None:
    """A kill between the two renames: nothing of the library runs any more, then the next process sweeps."""
    target = artifact(tmp_path / "model", old="old")
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(target)], env=environment, timeout=120)
    assert killed.returncode == 9
    assert not target.exists()
    sweep(tmp_path)
    assert names(tmp_path) == ["model", "model/old", "model/thing.json"]


# --- tensors


def test_tensors_come_back(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    tensors = {
        "whole": base,
        "view": base[1],  # shares memory with `whole`
        "transposed": base.T,
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "half": base.bfloat16(),
        "flags": base > 0,
        "leaf": torch.nn.Parameter(base),
    }
    write_tensors(tmp_path / "x.safetensors", tensors, {"kind": "test"})
    back = read_tensors(tmp_path / "x.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor), name
    assert read_metadata(tmp_path / "x.safetensors") == {"kind": "test"}
    assert tensors_hash(back) == tensors_hash(tensors)


def test_damaged_tensors_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with refused("x.safetensors", str(tmp_path)):
        read_tensors(file)
    write_tensors(file, {"a": torch.randn(100)})
    whole = file.read_bytes()
    for length in (0, 4, 30, len(whole) - 1):
        file.write_bytes(whole[:length])
        for read in (read_tensors, read_metadata):
            with refused(str(file), "damaged or truncated"):
                read(file)
    file.write_bytes(whole)
    assert read_metadata(file) == {}


# --- hashes


def test_hashes_by_hashlib(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180 test vector
    assert file_hash(tmp_path / "x") == text_hash("abc") == known
    assert text_hash("\udcff") == hashlib.sha256(b"\xed\xb3\xbf").hexdigest()
    assert json_hash({"b": [1, "ä"], "a": None}) == text_hash('{"a":null,"b":[1,"\\u00e4"]}')
    assert json_hash({"a": 1, "b": 2}) == json_hash({"b": 2, "a": 1})


def test_a_tensor_hash_sees_names_types_shapes_and_bytes() -> None:
    base = {"a": torch.arange(6, dtype=torch.float32), "b": torch.ones(2)}
    assert tensors_hash(base) == tensors_hash(dict(reversed(base.items())))
    assert tensors_hash({"x": torch.arange(6.0).view(2, 3).T}) == tensors_hash(
        {"x": torch.arange(6.0).view(2, 3).T.contiguous()}
    )
    others = [
        {**base, "a": base["a"].view(2, 3)},
        {**base, "a": base["a"].double()},
        {**base, "a": -base["a"]},
        {
            **base,
            "a": (base["a"].view(torch.int32) ^ torch.tensor([1, 0, 0, 0, 0, 0])).int().view(torch.float32),
        },  # first bit
        {"a": base["b"], "b": base["a"]},
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"]},
    ]
    hashes = [tensors_hash(tensors) for tensors in (base, *others)]
    assert len(set(hashes)) == len(hashes)
