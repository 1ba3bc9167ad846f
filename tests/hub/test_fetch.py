"""Downloads against a real server on the loopback that breaks its promises one by one (serving.py); no network.

What every fault must leave: the right bytes, or one line that says why not and what would serve; never a damaged file.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request

import pytest

from hub.serving import COMMIT, GATED, Faults, Server, serving
from refusals import refused
from sparse_circuits.files import file_hash
from sparse_circuits.hub import download
from sparse_circuits.hub.download import Downloaded, alone_in
from sparse_circuits.hub.fetch import (
    cache_folder,
    downloaded_hashes,
    fetch_released,
    fetch_tokenizer_files,
    fetch_viz,
    is_released,
    looks_like_repo,
)
from sparse_circuits.log import Bar, Progress

WEIGHTS, CONFIG = "final_model.pt", "beeg_config.json"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A healthy server, named as the mirror, with an empty cache and short waits."""
    with serving() as running:
        monkeypatch.setenv("SPARSE_CIRCUITS_MIRROR", running.url)
        monkeypatch.setenv("SPARSE_CIRCUITS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(download, "PAUSE", 0.01)
        monkeypatch.setattr(download, "TIMEOUT", 5.0)
        yield running


@pytest.fixture
def folder(server: Server, tmp_path: Path) -> Path:
    """Where csp_yolo1 will lie."""
    return tmp_path / "cache" / "models" / "csp_yolo1"


class Watcher(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.bars: dict[str, tuple[int, list[int]]] = {}

    def say(self, message: str) -> None:
        self.said.append(message)

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Bar]:
        counts = self.bars.setdefault(name, (total, []))[1]

        class Counting(Bar):
            def update(self, done: int, **fields: object) -> None:
                counts.append(done)

        yield Counting()


def weights(server: Server) -> bytes:
    return server.files[f"models/csp_yolo1/{WEIGHTS}"]


def assert_whole(folder: Path, server: Server) -> None:
    for name in (CONFIG, WEIGHTS):
        assert (folder / name).read_bytes() == server.files[f"models/csp_yolo1/{name}"]
    assert sorted(file.name for file in folder.iterdir()) == [".lock", CONFIG, WEIGHTS, "manifest.json"]
    assert downloaded_hashes(folder) == {name: file_hash(folder / name) for name in (CONFIG, WEIGHTS)}


# --- names


def test_released_names() -> None:
    assert all(map(is_released, ("csp_yolo1", "csp_yolo2", "csp_bridges2", "dense1_1x")))
    assert is_released("csp_sweep1_16x_14.8Mnonzero_afrac0.062") and is_released("csp_sweep1_1x_0.9Mnonzero_afrac1.000")
    wrong = ("", "csp_yolo3", "csp_yolo1/", "../csp_yolo1", "csp_yolo1\n", "csp_sweep1_3x_0.9Mnonzero_afrac0.125")
    assert not any(map(is_released, wrong))


def test_repos_are_told_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    assert looks_like_repo("openai/circuit-sparsity") and looks_like_repo("runs/second")
    for path in ("runs/first", "csp_yolo1", "./a/b", "../a", "/tmp/a", "a/b/c", "~/a", "a/", "a/b\n", "a\\b/c"):
        assert not looks_like_repo(path)


@pytest.mark.parametrize("name", ["csp_yolo3", "../../etc", ""])
def test_unknown_names_ask_nobody(server: Server, name: str) -> None:
    with refused(repr(name), "csp_yolo2", "csp_sweep1_{1,2,4,8,16}x_{0.9,"):
        fetch_released(name)
    assert server.log == []


@pytest.mark.parametrize("part", ["..", "a/b", "", ".hidden", "a b", "x..y", "a\n"])
def test_circuit_names_stay_inside_the_cache(server: Server, part: str) -> None:
    for names in ((part, "t", "s", 1), ("m", part, "s", 1), ("m", "t", part, 1), ("m", "t", "s", part)):
        with refused(repr(part), "letters"):
            fetch_viz(*names)  # type: ignore[arg-type]
    assert server.log == []


@pytest.mark.parametrize(
    "mirror",
    ["ftp://a/b", "file:///etc", "example.org/x", "https://", "http://u:p@a/b", "https://a/b?sig=1", "http://a/b c"],
)
def test_odd_mirrors_are_refused(server: Server, monkeypatch: pytest.MonkeyPatch, mirror: str) -> None:
    monkeypatch.setenv("SPARSE_CIRCUITS_MIRROR", mirror)
    with refused("SPARSE_CIRCUITS_MIRROR", mirror, "http(s)"):
        fetch_released("csp_yolo1")


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPARSE_CIRCUITS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "sparse_circuits"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "sparse_circuits"
    monkeypatch.setenv("SPARSE_CIRCUITS_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own"


# --- all well


def test_a_model_comes_once(server: Server, folder: Path) -> None:
    watcher = Watcher()
    assert fetch_released("csp_yolo1", progress=watcher) == folder
    assert_whole(folder, server)
    assert [request.path for request in server.log] == [f"/models/csp_yolo1/{CONFIG}", f"/models/csp_yolo1/{WEIGHTS}"]
    assert watcher.said[-1] == f"downloading {WEIGHTS} of models/csp_yolo1 from {server.url} to {folder}"
    assert watcher.bars == {f"{name} (MB)": (1, [1]) for name in (CONFIG, WEIGHTS)}
    held = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert (held["kind"], held["format_version"]) == ("download", 1)
    assert held["files"][WEIGHTS] == {
        "size": len(weights(server)),
        "sha256": hashlib.sha256(weights(server)).hexdigest(),
        "url": f"{server.url}/models/csp_yolo1/{WEIGHTS}",
        "etag": f'"{hashlib.md5(weights(server)).hexdigest()[:12]}"',
    }
    server.log.clear()
    assert fetch_released("csp_yolo1") == folder
    assert server.log == []


def test_the_bar_counts_megabytes(server: Server) -> None:
    server.files["models/csp_yolo1/" + WEIGHTS] = bytes(3_500_000)
    watcher = Watcher()
    fetch_released("csp_yolo1", progress=watcher)
    total, counts = watcher.bars[f"{WEIGHTS} (MB)"]
    assert total == 4 and counts[-1] == 4 and counts == sorted(counts) and set(counts) <= {1, 2, 3, 4}


@pytest.mark.parametrize("end", ["", "/", "/mirror", "/mirror/"])
def test_mirrors_with_and_without_a_path(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setenv("SPARSE_CIRCUITS_MIRROR", server.url + end)
    fetch_released("csp_yolo1")
    assert_whole(folder, server)
    assert server.log[0].path == f"{end.rstrip('/')}/models/csp_yolo1/{CONFIG}"


def test_tokenizer_and_circuit(server: Server, tmp_path: Path) -> None:
    where = fetch_tokenizer_files()
    assert where == tmp_path / "cache" / "tinypython"
    assert {"vocab.bpe", "encoder.json"} <= {file.name for file in where.iterdir()}
    viz = fetch_viz("csp_yolo1", "quote", "prune_v2", "k_optim")
    assert viz == tmp_path / "cache/viz/csp_yolo1/quote/prune_v2/k_optim/viz_data.pt"
    assert downloaded_hashes(viz.parent) == {"viz_data.pt": file_hash(viz)}
    with refused("viz/csp_yolo1/quote/prune_v2/7/viz_data.pt", "not published", "single_double_quote"):
        fetch_viz("csp_yolo1", "quote", "prune_v2", 7)


def test_files_put_there_by_hand_serve(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / CONFIG).write_bytes(b"mine")
    (folder / WEIGHTS).write_bytes(b"mine too")
    assert fetch_released("csp_yolo1") == folder
    assert downloaded_hashes(folder) == {} and server.log == []
    (folder / WEIGHTS).unlink()
    fetch_released("csp_yolo1")
    assert (folder / CONFIG).read_bytes() == b"mine"
    assert downloaded_hashes(folder) == {WEIGHTS: hashlib.sha256(weights(server)).hexdigest()}


# --- broken connections


@pytest.mark.parametrize("reset", [False, True], ids=["ended", "reset"])
def test_a_broken_download_asks_for_the_rest(server: Server, folder: Path, reset: bool) -> None:
    server.faults = Faults(cut_after=100_000, cuts=1, reset=reset)
    watcher = Watcher()
    fetch_released("csp_yolo1", progress=watcher)
    assert_whole(folder, server)
    first, second = server.requests(WEIGHTS)
    assert (first.status, second.status) == (200, 206)
    assert second.range == "bytes=100000-"
    assert first.sent + second.sent == len(weights(server))
    assert any(f"{WEIGHTS} broke off at 100000 bytes" in line for line in watcher.said)


def test_without_ranges_it_starts_anew(server: Server, folder: Path) -> None:
    server.faults = Faults(cut_after=100_000, cuts=1, ranges=False)
    fetch_released("csp_yolo1")
    assert_whole(folder, server)
    assert [request.sent for request in server.requests(WEIGHTS)] == [100_000, len(weights(server))]


def test_what_came_stays_for_the_next_call(server: Server, folder: Path) -> None:
    server.faults = Faults(cut_after=20_000)
    with refused("keeps failing", "80000 bytes", WEIGHTS, str(folder), "no network is needed if a folder"):
        fetch_released("csp_yolo1")
    assert len(server.requests(WEIGHTS)) == download.TRIES == 4
    assert (folder / f"{WEIGHTS}.part").read_bytes() == weights(server)[:80_000]
    assert not (folder / WEIGHTS).exists() and list(downloaded_hashes(folder)) == [CONFIG]
    server.faults = Faults()
    server.log.clear()
    fetch_released("csp_yolo1")
    assert_whole(folder, server)
    assert [(request.range, request.sent) for request in server.log] == [
        ("bytes=80000-", len(weights(server)) - 80_000)
    ]


def test_a_line_that_breaks_often_but_gets_on_is_enough(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "CHUNK", 20_000)
    server.faults = Faults(cut_after=20_000)
    fetch_released("csp_yolo1")
    assert_whole(folder, server)
    assert len(server.requests(WEIGHTS)) == 9 > download.TRIES


def test_silence_is_a_broken_line(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    server.faults = Faults(pause=0.3)
    with refused("keeps failing", "timed out", str(folder)):
        fetch_released("csp_yolo1")
    server.faults = Faults()
    fetch_released("csp_yolo1")
    assert_whole(folder, server)


def test_a_kill_before_the_last_step_costs_no_second_download(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "_checked", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch_released("csp_yolo1")
    server.log.clear()
    fetch_released("csp_yolo1")
    assert_whole(folder, server)
    assert server.requests(CONFIG) == [] and len(server.requests(WEIGHTS)) == 1


# --- changed content


@pytest.mark.parametrize(
    ("faults", "answers"),
    [
        (Faults(), [200]),
        (Faults(if_range=False), [206, 200]),
        (Faults(etag="weak"), [206, 200]),
        (Faults(etag=None), [200]),
        (Faults(etag=None, if_range=False), [206, 200]),
        (Faults(etag=None, modified=False, if_range=False), [200]),
    ],
    ids=["etag", "etag_ignored", "weak_etag", "date", "date_ignored", "no_version"],
)
def test_changed_content_starts_anew(server: Server, folder: Path, faults: Faults, answers: list[int]) -> None:
    """Same size, other bytes: only what the server calls the file tells them apart. MD5 is off, it would tell too."""
    faults.md5 = None
    server.faults = faults
    faults.cut_after = 20_000
    with refused("keeps failing"):
        fetch_released("csp_yolo1")
    server.files[f"models/csp_yolo1/{WEIGHTS}"] = bytes(255 - byte for byte in weights(server))
    faults.cut_after = None
    server.log.clear()
    fetch_released("csp_yolo1")
    assert_whole(folder, server)
    assert [request.status for request in server.requests(WEIGHTS)] == answers


def test_a_file_that_grew_under_its_old_etag_starts_anew(server: Server, folder: Path) -> None:
    server.faults = Faults(etag=None, if_range=False, headers={"ETag": '"always"'}, cut_after=20_000)
    with refused("keeps failing"):
        fetch_released("csp_yolo1")
    server.files[f"models/csp_yolo1/{WEIGHTS}"] += b"more"
    server.faults.cut_after = None
    fetch_released("csp_yolo1")
    assert_whole(folder, server)


def test_a_range_that_was_not_asked_for_is_not_joined(server: Server, folder: Path) -> None:
    server.faults = Faults(md5=None, shift=100, cut_after=100_000, cuts=1)
    fetch_released("csp_yolo1")
    assert_whole(folder, server)
    assert [request.status for request in server.requests(WEIGHTS)] == [200, 206, 200]


def test_another_mirror_starts_anew(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ETag means nothing on another server."""
    server.faults = Faults(cut_after=20_000)
    with refused("keeps failing"):
        fetch_released("csp_yolo1")
    monkeypatch.setenv("SPARSE_CIRCUITS_MIRROR", f"{server.url}/mirror")
    server.faults = Faults()
    server.log.clear()
    fetch_released("csp_yolo1")
    assert_whole(folder, server)
    assert [request.range for request in server.log] == [None]


def test_a_file_that_shrank_starts_anew(server: Server, folder: Path) -> None:
    server.faults = Faults(cut_after=20_000)
    with refused("keeps failing"):
        fetch_released("csp_yolo1")
    server.files[f"models/csp_yolo1/{WEIGHTS}"] = b"short"
    server.faults = Faults(if_range=False)
    fetch_released("csp_yolo1")
    assert [request.status for request in server.requests(WEIGHTS)][-2:] == [416, 200]
    assert_whole(folder, server)


def test_without_any_version_nothing_is_joined(server: Server, folder: Path) -> None:
    server.faults = Faults(etag=None, modified=False, cut_after=100_000, cuts=1)
    fetch_released("csp_yolo1")
    assert_whole(folder, server)
    assert [request.range for request in server.requests(WEIGHTS)] == [None, None]


@pytest.mark.parametrize("left", ["", "{", "[]", '{"url": 1}'])
def test_a_part_of_unknown_origin_is_not_used(server: Server, folder: Path, left: str) -> None:
    folder.mkdir(parents=True)
    (folder / f"{WEIGHTS}.part").write_bytes(b"who knows")
    (folder / f"{WEIGHTS}.part.json").write_text(left, "utf-8")
    fetch_released("csp_yolo1")
    assert_whole(folder, server)


# --- damaged content


def test_a_wrong_md5_keeps_nothing(server: Server, folder: Path) -> None:
    server.faults = Faults(md5="wrong")
    with refused("damaged", "md5", "0" * 32, "deleted", CONFIG):
        fetch_released("csp_yolo1")
    assert [file.name for file in folder.iterdir()] == [".lock"]
    server.faults = Faults()
    fetch_released("csp_yolo1")
    assert_whole(folder, server)


def test_a_mixed_file_fails_its_md5(server: Server, folder: Path) -> None:
    """The MD5 is that of the whole file, kept from the first answer; the answer to a range carries the range's."""
    server.faults = Faults(cut_after=100_000, cuts=1)
    original = download._read

    def tampering(response: Any) -> bytes:
        piece = original(response)
        return piece[:-1] + b"?" if response.status == 206 and piece else piece

    with pytest.MonkeyPatch.context() as patch, refused("damaged", "md5", WEIGHTS):
        patch.setattr(download, "_read", tampering)
        fetch_released("csp_yolo1")
    assert not list(folder.glob(f"{WEIGHTS}*"))


@pytest.mark.parametrize("md5", [None, "garbled"])
def test_without_a_readable_md5_the_size_decides(server: Server, folder: Path, md5: str | None) -> None:
    server.faults = Faults(md5=md5)
    fetch_released("csp_yolo1")
    assert_whole(folder, server)


def test_the_hubs_sha256_is_checked(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror on the Hub redirects to its store; the redirect names the sha256, the store sends no MD5."""
    monkeypatch.setenv("SPARSE_CIRCUITS_MIRROR", f"{server.url}/redirect")
    server.faults = Faults(md5=None, cut_after=100_000, cuts=1)
    fetch_released("csp_yolo1")
    assert_whole(folder, server)
    assert [request.range for request in server.requests(WEIGHTS)] == [None, None, *["bytes=100000-"] * 2]
    (folder / WEIGHTS).unlink()
    server.faults = Faults(md5=None, linked="0" * 64)
    with refused("damaged", "sha256", "0" * 64, WEIGHTS):
        fetch_released("csp_yolo1")
    assert not list(folder.glob(f"{WEIGHTS}*"))


def test_redirects_stay_on_the_web_and_encrypted(server: Server) -> None:
    follow = download._Redirects().redirect_request
    headers: dict[str, str] = {}
    for old, new in (("https://a/x", "http://a/x"), ("http://a/x", "ftp://a/x"), ("https://a/x", "file:///x")):
        with pytest.raises(URLError, match="redirects to"):
            follow(Request(old), None, 302, "Found", headers, new)
    for old, new in (("http://a/x", "https://b/y"), ("http://a/x", "http://b/y"), ("https://a/x", "https://b/y")):
        request = follow(Request(old, headers={"Range": "bytes=5-"}), None, 302, "Found", headers, new)
        assert request is not None and request.full_url == new and request.get_header("Range") == "bytes=5-"


@pytest.mark.parametrize("length", [10, 5_000_000])
def test_a_file_shorter_than_announced_is_never_whole(server: Server, folder: Path, length: int) -> None:
    server.faults = Faults(length=length)
    with refused("keeps failing", CONFIG, str(folder)):
        fetch_released("csp_yolo1")
    assert not (folder / CONFIG).exists() and downloaded_hashes(folder) == {}


def test_a_file_longer_than_announced_fails_its_md5(server: Server, folder: Path) -> None:
    server.faults = Faults(length=-10)
    with refused("damaged", CONFIG, "deleted"):
        fetch_released("csp_yolo1")
    assert [file.name for file in folder.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("faults", "word"),
    [
        (Faults(headers={"Content-Type": "text/html; charset=utf-8"}), "web page"),
        (Faults(headers={"Content-Encoding": "gzip"}), "compressed"),
        (Faults(length=None), "length"),
    ],
    ids=["web_page", "gzip", "no_length"],
)
def test_answers_that_are_not_the_file(server: Server, folder: Path, faults: Faults, word: str) -> None:
    server.faults = faults
    with refused(word, CONFIG, str(folder)):
        fetch_released("csp_yolo1")
    assert [file.name for file in folder.iterdir()] == [".lock"] and len(server.log) == 1


def test_chunks_tell_their_own_end(server: Server, folder: Path) -> None:
    server.faults = Faults(chunked=True, cut_after=100_000, cuts=1)
    fetch_released("csp_yolo1")
    assert_whole(folder, server)
    assert len(server.requests(WEIGHTS)) == 2


# --- servers that refuse, and none at all


def test_a_name_that_is_not_there(server: Server, folder: Path) -> None:
    with refused("csp_yolo2", server.url, "not published", "csp_yolo1", "csp_sweep1_{1,2,4,8,16}x_"):
        fetch_released("csp_yolo2")
    assert len(server.log) == 1


@pytest.mark.parametrize(("status", "requests"), [(500, 4), (503, 4), (429, 4), (403, 1), (401, 1)])
def test_a_server_that_refuses(server: Server, folder: Path, status: int, requests: int) -> None:
    server.faults = Faults(status=status)
    with refused(str(status), f"{server.url}/models/csp_yolo1/{CONFIG}", "no network is needed", str(folder)):
        fetch_released("csp_yolo1")
    assert len(server.log) == requests


def test_a_server_that_was_busy(server: Server, folder: Path) -> None:
    server.faults = Faults(status=503, statuses=2)
    fetch_released("csp_yolo1")
    assert_whole(folder, server)


@pytest.mark.parametrize("mirror", ["http://127.0.0.1:9", "https://nowhere.invalid/x"], ids=["refused", "dns"])
def test_no_network_names_the_folder_that_would_serve(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    monkeypatch.setenv("SPARSE_CIRCUITS_MIRROR", mirror)
    monkeypatch.setattr(download, "PAUSE", 60.0)  # it must not wait
    if "invalid" in mirror:  # without asking a name server

        def unknown(*arguments: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with refused(f"cannot reach {mirror}/models", f"{CONFIG} and {WEIGHTS}", "given by its path", f"put at {folder}"):
        fetch_released("csp_yolo1")
    with refused("vocab.bpe and encoder.json"):
        fetch_tokenizer_files()


def test_a_server_that_leaves_midway(server: Server, folder: Path) -> None:
    """Once bytes came, a server that is gone is a broken line, which may come back."""
    server.faults = Faults(cut_after=100_000)
    original = download._open
    opened: list[str] = []

    def closing(url: str, *arguments: Any) -> Any:
        opened.append(url)
        return original(url if opened.count(url) == 1 else "http://127.0.0.1:9/gone", *arguments)

    with pytest.MonkeyPatch.context() as patch, refused("cannot reach", "100000 bytes of it are kept", str(folder)):
        patch.setattr(download, "_open", closing)
        fetch_released("csp_yolo1")
    assert len(opened) == 1 + download.TRIES


# --- the cache itself


def test_a_file_that_is_not_what_came(server: Server, folder: Path) -> None:
    fetch_released("csp_yolo1")
    with open(folder / WEIGHTS, "ab") as file:
        file.write(b"x")
    with refused(str(folder / WEIGHTS), str(len(weights(server)) + 1), "delete it", "manifest.json"):
        fetch_released("csp_yolo1")
    (folder / "manifest.json").unlink()
    assert fetch_released("csp_yolo1") == folder


def test_damaged_manifests(server: Server, folder: Path) -> None:
    fetch_released("csp_yolo1")
    for text, word in (
        ("{", "damaged"),
        ('{"kind": "model", "format_version": 1}', "'model'"),
        ('{"kind": "download", "format_version": 2}', "format_version 2"),
        ('{"kind": "download", "format_version": 1}', "damaged"),
        ('{"kind": "download", "format_version": 1, "files": {"a": {}}}', "damaged"),
    ):
        (folder / "manifest.json").write_text(text, "utf-8")
        for call in (lambda: downloaded_hashes(folder), lambda: fetch_released("csp_yolo1")):
            with refused(str(folder / "manifest.json"), word):
                call()


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file", "utf-8")
    with refused("cannot write to", str(tmp_path / "cache"), "SPARSE_CIRCUITS_CACHE"):
        fetch_released("csp_yolo1")


def test_a_full_disk_keeps_what_came(server: Server, folder: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with refused("cannot write to", str(folder), "File too large"):
            fetch_released("csp_yolo1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (folder / WEIGHTS).exists()
    fetch_released("csp_yolo1")
    assert_whole(folder, server)


# --- two at once


def test_two_at_once_download_once(server: Server, folder: Path) -> None:
    server.faults = Faults(pause=0.01)
    results: list[Any] = []

    def run() -> None:
        watcher = Watcher()
        results.append((fetch_released("csp_yolo1", progress=watcher), watcher.said))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
        while not server.log:  # the first one is under way
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert [where for where, _ in results] == [folder] * 3
    assert_whole(folder, server)
    assert len(server.requests(CONFIG)) == len(server.requests(WEIGHTS)) == 1
    waited = [said for _, said in results if said and f"waiting for process {os.getpid()}" in said[0]]
    assert len(waited) == 2


HOLDER = """
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
lock.write("process 12345 on elsewhere"); lock.flush()
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of a folder."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", HOLDER, str(folder / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_holder_that_does_nothing_is_named(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "STALLED", 0.3)
    with another_process(folder), refused("process 12345 on elsewhere", str(folder), "0.3 s"):
        fetch_released("csp_yolo1")
    assert server.log == []


def test_a_holder_that_gets_on_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "STALLED", 0.5)
    with another_process(folder) as process:
        deadline = time.monotonic() + 1.5

        def work() -> None:
            with open(folder / "some.part", "ab") as file:
                while time.monotonic() < deadline:
                    file.write(b"x")
                    file.flush()
                    time.sleep(0.1)
            process.kill()  # and a lock dies with its process

        thread = threading.Thread(target=work)
        thread.start()
        with alone_in(folder):
            assert time.monotonic() >= deadline
        thread.join()


def test_every_file_is_recorded_before_it_is_there(server: Server, tmp_path: Path) -> None:
    target = tmp_path / CONFIG
    seen: list[bool] = []

    def record(came: Downloaded) -> None:
        seen.append(target.exists())
        assert came.sha256 == file_hash(tmp_path / f"{CONFIG}.part")

    download.download_file(f"{server.url}/models/csp_yolo1/{CONFIG}", target, title="x", record=record)
    assert seen == [False] and target.exists()


# --- the Hub: its library reads its settings when imported, so each test asks in a process of its own

ASK = """
import json, sys
from contextlib import contextmanager
from sparse_circuits.hub.fetch import fetch_repo
from sparse_circuits.log import Bar, Progress

class Watcher(Progress):
    @contextmanager
    def bar(self, name, total):
        class Counting(Bar):
            def update(self, done, **fields):
                last[:] = [name, total, done, fields["MB"]]
        yield Counting()

answers = []
for repo, revision in json.loads(sys.argv[1]):
    last = []
    try:
        folder = fetch_repo(repo, revision=revision, progress=Watcher())
        files = {str(f.relative_to(folder)): f.read_bytes().hex()[:16] for f in sorted(folder.rglob("*")) if f.is_file()}
        answers.append({"folder": str(folder), "files": files, "bar": last})
    except ValueError as error:
        answers.append({"error": str(error)})
print(json.dumps(answers))
"""

REPO = "someone/circuits"
CONTENT = {
    "config.json": b"{}",
    "model.safetensors": b"weights " * 250_000,
    "sub/notes.txt": b"notes",
    "vocab.bpe": b"#version",
    "modeling.py": b"raise SystemExit",
    "pytorch_model.bin": b"a pickle",
    "viz_data.pt": b"another",
}
DATA = {"config.json", "model.safetensors", "sub/notes.txt", "vocab.bpe"}


@pytest.fixture
def ask(server: Server, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Asks the server for repos, in a fresh process; raises if anything is drawn or said on stderr."""
    server.repos = {REPO: dict(CONTENT), "someone/pickles": {"pytorch_model.bin": b"a pickle"}}

    def asking(*repos: tuple[str, str | None], **environment: str) -> list[dict[str, Any]]:
        own = {
            "PYTHONPATH": str(ROOT / "src"),
            "HF_HOME": str(tmp_path / "hf"),
            "HF_ENDPOINT": server.url,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_ETAG_TIMEOUT": "2",
            **environment,
        }
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS"))
        }
        command = [sys.executable, "-c", ASK, json.dumps(repos)]
        done = subprocess.run(command, env=kept | own, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return json.loads(done.stdout)

    return asking


def test_a_repo_comes_without_code_and_pickles(
    server: Server, tmp_path: Path, ask: Callable[..., list[dict[str, Any]]]
) -> None:
    first, again, at_commit = ask((REPO, None), (REPO, None), (REPO, COMMIT))
    snapshot = tmp_path / "hf" / "hub" / "models--someone--circuits" / "snapshots" / COMMIT
    assert first["folder"] == again["folder"] == at_commit["folder"] == str(snapshot)
    assert first["files"] == {name: CONTENT[name].hex()[:16] for name in sorted(DATA)}
    assert first["bar"] == [f"{REPO} (files)", 4, 4, 2]
    got = {request.path.partition(f"{COMMIT}/")[2] for request in server.log if "/resolve/" in request.path}
    assert got == DATA
    assert [request.method for request in server.requests("model.safetensors")] == ["HEAD", "GET"]
    server.log.clear()
    offline, other = ask((REPO, None), ("someone/else", None), HF_HUB_OFFLINE="1")
    assert offline["folder"] == str(snapshot) and server.log == []
    assert server.url in other["error"] and "someone/else is not whole" in other["error"]
    blob, shared = (snapshot / "model.safetensors").resolve(), tmp_path / "store"
    shared.write_bytes(blob.read_bytes()[::-1])  # rotten on disk; repos may share a store, linked from their own
    blob.unlink()
    blob.symlink_to(shared)
    rotten, unreached = ask((REPO, None), (REPO, None), HF_ENDPOINT="http://127.0.0.1:9")
    assert "model.safetensors" in rotten["error"] and "sha256" in rotten["error"]
    assert not blob.is_symlink() and not shared.exists()
    assert "cannot reach http://127.0.0.1:9" in unreached["error"] and f"no local folder {REPO}" in unreached["error"]
    assert "\n" not in unreached["error"]


def test_a_corrupted_large_file_is_found_and_replaced(server: Server, ask: Callable[..., list[dict[str, Any]]]) -> None:
    server.faults.tampered["model.safetensors"] = CONTENT["model.safetensors"][::-1]
    damaged, whole = ask((REPO, None), (REPO, None))
    assert damaged["error"].startswith(f"model.safetensors of {REPO}: not the sha256") and "deleted" in damaged["error"]
    assert whole["files"]["model.safetensors"] == CONTENT["model.safetensors"].hex()[:16]


def test_what_the_hub_refuses_is_one_line(ask: Callable[..., list[dict[str, Any]]]) -> None:
    cases = {
        ("someone/else", None): ("no repo 'someone/else'", "local folder", "hf auth login"),
        (REPO, "other"): ("no revision 'other'",),
        (GATED, None): ("gated", "HF_TOKEN"),
        ("some one/else", None): ("some one/else", "path of a folder"),
        ("someone/pickles", None): ("holds none of", "*.safetensors"),
    }
    for (repo, words), answer in zip(cases.items(), ask(*cases, HF_HUB_VERBOSITY="error"), strict=True):
        assert all(word in answer["error"] for word in words), (repo, answer)
        assert "\n" not in answer["error"]
