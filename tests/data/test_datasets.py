"""Parquet files and Hugging Face datasets as sources; every file is written here with pyarrow, every hash taken by hand.

No test leaves this machine: the Hub is a server on the loopback that holds one dataset.
"""

import hashlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from refusals import refused
from sparse_circuits.data.corpus import Document, Source, open_source
from sparse_circuits.data.shards import build_shards
from sparse_circuits.data.tokenizer import train_tokenizer

SOURCE = Path(__file__).parent.parent.parent / "src"
COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written beside the user's own data sets."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


def table(path: Path, rows: int | None = 3, **columns: list | pa.Array) -> Path:
    """Writes a parquet file with `rows` rows to a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=rows)
    return path


def texts_of(spec: str | Path) -> list[str]:
    return [document.text for document in open_source(str(spec)).documents()]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def file_sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


WORDS = [f"text {number} ü" for number in range(10)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset as the Hub lays it out: two files of one split, one of another."""
    root = tmp_path / "texts"
    table(root / "data/train-00000-of-00002.parquet", text=WORDS[:7], n=list(range(7)))
    table(root / "data/train-00001-of-00002.parquet", text=WORDS[7:], n=[7, 8, 9])
    table(root / "data/test-00000-of-00001.parquet", text=["held out"], n=[10])
    return root


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


# --- .parquet


def test_a_parquet_file_in_row_groups(tmp_path):
    path = table(tmp_path / "a.parquet", n=list(range(10)), text=WORDS, other=["no"] * 10)
    assert pq.ParquetFile(path).num_row_groups == 4
    source = open_source(str(path))
    assert isinstance(source, Source)
    expected = [Document(f"a.parquet:{row}", text, sha(text)) for row, text in enumerate(WORDS)]
    assert list(source.documents()) == expected == list(source.documents(seed=5))
    manifest = source.manifest()
    assert manifest["files"] == {"a.parquet": file_sha(path)}
    assert (manifest["column"], manifest["name"], manifest["count"]) == ("text", "a.parquet", 1)
    assert str(tmp_path) not in json.dumps(manifest)


def test_another_column(tmp_path):
    path = table(tmp_path / "a.parquet", text=["a", "b"], content=["c", " "], **{"a.b:c": ["d", "e"]})
    assert texts_of(f"{path}:column=content") == ["c"]
    assert texts_of(f"{path}:column=a.b:c") == ["d", "e"]
    assert open_source(f"{path}:column=content").manifest()["column"] == "content"


def test_folders_and_globs(tmp_path):
    table(tmp_path / "b" / "x.parquet", text=["one"])
    table(tmp_path / "a.parquet", text=["two"])
    write(tmp_path, c_DOT_txt="three", d_DOT_jsonl='{"text": "four"}\n')
    assert [document.name for document in open_source(str(tmp_path)).documents()] == [
        "a.parquet:0",
        "b/x.parquet:0",
        "c.txt",
        "d.jsonl:1",
    ]
    assert texts_of(f"{tmp_path}/**/*.parquet") == texts_of(f"{tmp_path}/**/*.parquet:column=text") == ["two", "one"]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_every_kind_of_string(tmp_path, kind):
    path = table(tmp_path / "a.parquet", text=pa.array(["x", "y", "x"], pa.string()).cast(kind))
    assert texts_of(path) == ["x", "y", "x"]


def test_empty_tables_have_no_documents(tmp_path):
    assert texts_of(table(tmp_path / "a.parquet", text=pa.array([], pa.string()))) == []
    assert texts_of(table(tmp_path / "b.parquet", text=pa.array([], pa.null()))) == []
    assert texts_of(table(tmp_path / "c.parquet", text=["", " \n"])) == []


def test_a_large_row_group_is_never_in_memory(tmp_path):
    rows = [f"{number} " * 300 for number in range(20_000)]
    path = table(tmp_path / "a.parquet", rows=None, text=rows)
    size = sum(map(len, rows))
    assert pq.ParquetFile(path).num_row_groups == 1 and 0.9 * size < open_source(str(path)).size < 1.1 * size
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    held = [pa.total_allocated_bytes() - before for _ in open_source(str(path)).documents()]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(held) == 20_000 and max(held) + peak < size / 3  # a page and a few rows, however many there are


def test_refused_parquet(tmp_path):
    good = table(tmp_path / "good.parquet", text=["a"], n=[1], raw=[b"x"], content=["b"])
    with refused("good.parquet has no column 'body'", "text, content", ":column=NAME"):
        open_source(f"{good}:column=body")
    with refused("has int64 in column 'n'", "text, content"):
        open_source(f"{good}:column=n")
    with refused("has binary in column 'raw'"):
        open_source(f"{good}:column=raw")
    with refused("cannot read source", "path.parquet[:column=NAME]"):
        open_source(f"{good}:column=")
    with refused("cannot read source", "path.parquet[:column=NAME]"):
        open_source(f"{good}:col=text")
    with refused("no file or folder", "absent.parquet'"):
        open_source(f"{tmp_path}/absent.parquet:column=text")
    with refused("only .parquet files have columns"):
        open_source(f"{write(tmp_path, a_DOT_txt='x') / 'a.txt'}:column=text")
    twice = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with refused("twice.parquet has two columns 'text'"):
        open_source(str(tmp_path / "twice.parquet"))


def test_a_null_is_named_by_its_place(tmp_path):
    path = table(tmp_path / "a.parquet", text=["a", "b", "c", "d", None, "f"])
    with refused("a.parquet, row group 1, row 4", "holds null, not a string", "remove such rows"):
        texts_of(path)
    with refused("row group 0, row 0", "null"):
        texts_of(table(tmp_path / "b.parquet", text=[None]))


def test_damaged_parquet(tmp_path):
    path = table(tmp_path / "a.parquet", rows=1000, text=[f"word {number} " * 50 for number in range(3000)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with refused("a.parquet is damaged or no parquet file", "restore it"):
        open_source(str(path))
    place = pq.ParquetFile(io.BytesIO(whole)).metadata.row_group(1).column(0).data_page_offset
    path.write_bytes(
        whole[: place + 60] + bytes(byte ^ 0xFF for byte in whole[place + 60 : place + 600]) + whole[place + 600 :]
    )
    read = []
    with refused("a.parquet, row group 1 is damaged", "restore the file"):
        read += [document.name for document in open_source(str(path)).documents()]
    path.write_bytes(b"")
    with refused("a.parquet is damaged or no parquet file"):
        open_source(str(path))


def test_a_flipped_byte_is_noticed_where_pages_have_checksums(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["needle in here"] * 3}), path, compression="none", write_page_checksum=True)
    path.write_bytes(path.read_bytes().replace(b"needle", b"noodle", 1))
    with refused("a.parquet, row group 0 is damaged"):
        texts_of(path)


def test_no_damage_to_the_end_of_a_file_loses_rows_unseen(tmp_path):
    path = table(tmp_path / "a.parquet", rows=100, text=[f"word {number} " * 9 for number in range(300)])
    whole = path.read_bytes()
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    said = []
    for place in range(start, len(whole)):
        for bit in (0, 3):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                assert len(texts_of(path)) == 300
            except ValueError as error:
                said.append(str(error))
    assert all("\n" not in line and "a.parquet" in line for line in said)
    assert any("rows, not the" in line for line in said) and len(said) > 100


def test_bytes_that_are_no_text(tmp_path):
    wrong = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9"], pa.binary()).buffers())
    with refused("a.parquet, row group 0 is damaged", "utf-8"):
        texts_of(table(tmp_path / "a.parquet", text=wrong))


# --- Hugging Face datasets in a folder


def test_a_folder_of_the_hubs_layout(folder, tmp_path):
    source = open_source(f"hf:{folder}")
    assert isinstance(source, Source)
    expected = [Document(f"texts:{row}", text, sha(text)) for row, text in enumerate(WORDS)]
    assert list(source.documents()) == expected == list(source.documents(seed=3))
    manifest = source.manifest()
    assert manifest["files"] == {
        name: file_sha(folder / name)
        for name in ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet")
    }
    known = {key: manifest[key] for key in ("kind", "name", "split", "column", "bytes", "revision")}
    assert list(known.values()) == ["hf-dataset", "texts", "train", "text", None, None]
    assert str(tmp_path) not in json.dumps(manifest)
    assert texts_of(f"hf:{folder}:split=test") == ["held out"]


def test_a_relative_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert texts_of("hf:./texts") == texts_of("hf:texts") == WORDS


def test_json_lines_by_file_name(tmp_path):
    write(tmp_path, train_DOT_jsonl='{"text": "a", "n": 1}\n{"text": "b"}\n', test_DOT_jsonl='{"text": "c", "n": 2}\n')
    assert texts_of(f"hf:{tmp_path}") == ["a", "b"]
    assert texts_of(f"hf:{tmp_path}:split=test:column=text") == ["c"]


def test_metadata_of_a_readme(tmp_path):
    readme = """---
configs:
- config_name: one
  data_files: "one/*.jsonl"
- config_name: two
  data_files:
  - split: train
    path: "two/*.jsonl"
  - split: odd
    path: "odd.jsonl"
---
"""
    files = {"one__a_DOT_jsonl": "1", "two__a_DOT_jsonl": "2", "odd_DOT_jsonl": "3"}
    write(tmp_path, README_DOT_md=readme, **{name: json.dumps({"text": text}) + "\n" for name, text in files.items()})
    assert texts_of(f"hf:{tmp_path}:config=one") == ["1"]
    assert texts_of(f"hf:{tmp_path}:config=two") == ["2"]
    odd = open_source(f"hf:{tmp_path}:config=two:split=odd")
    assert [document.text for document in odd.documents()] == ["3"]
    assert (odd.manifest()["config"], list(odd.manifest()["files"])) == ("two", ["odd.jsonl"])
    with refused("cannot open", "'one'", "'two'", ":config=NAME"):
        open_source(f"hf:{tmp_path}")
    with refused("'three' not found", "'one'", "'two'"):
        open_source(f"hf:{tmp_path}:config=three")


def test_a_size_cuts_at_documents(tmp_path):
    rows = ["ü" * 250, "b" * 400, "c" * 100, "d"]  # 500, 400, 100 and 1 bytes of UTF-8
    table(tmp_path / "data/train.parquet", text=rows)
    for size, count in (("0.4KB", 1), ("0.899KB", 1), ("0.9KB", 2), ("0.999KB", 2), ("1KB", 3), ("1MB", 4)):
        source = open_source(f"hf:{tmp_path}:{size}")
        assert [document.text for document in source.documents()] == rows[:count], size
    assert source.manifest()["bytes"] == 1_000_000
    assert open_source(f"hf:{tmp_path}:0.4KB").size <= 400


def test_shards_of_a_dataset_name_it_and_keep_splits_apart(folder, tmp_path):
    many = table(tmp_path / "many.parquet", text=[f"def f_{number}(): return {number}\n" for number in range(200)])
    sources = [open_source(f"hf:{folder}"), open_source(str(many))]
    tokenizer = train_tokenizer((document.text for source in sources for document in source.documents()), 300)
    shards = build_shards(sources, tokenizer, tmp_path / "shards", val_fraction=0.1)
    assert [source["kind"] for source in shards.manifest["sources"]] == ["hf-dataset", "files"]
    keys = [document.split_key for source in sources for document in source.documents()]
    below = sum(int(key_hash(key), 16) / 2**48 < shards.manifest["val_threshold"] for key in keys)
    assert shards.manifest["documents"] == {"train": 210 - below, "val": below} and below > 0


def key_hash(key: str) -> str:
    return sha(key)[:12]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("hf:{folder}:split=nope", ("has no split 'nope'; its splits: train, test", ":split=NAME")),
        ("hf:{folder}:column=body", ("has no column 'body'", "text", ":column=NAME")),
        ("hf:{folder}:column=n", ("int64", "'n'", "text")),
        ("hf:{folder}:split=train[:5]", ("cannot read '5]'", "[:50MB]")),
        ("hf:{folder}:split=train:split=test", ("a second 'split=test'",)),
        ("hf:{folder}:shuffle=yes", ("cannot read 'shuffle=yes'", "[:config=NAME]")),
        ("hf:{folder}:revision=main", ("a folder has no revisions",)),
        ("hf:{folder}:0MB", ("is not a size",)),
        ("hf:{folder}/absent", ("no folder", "hf:owner/name")),
        ("hf:json", ("'json' is neither a folder nor owner/name",)),
        ("hf:", ("'' is neither a folder nor owner/name",)),
    ],
)
def test_refused_specs(folder, spec, words):
    with refused(*words):
        open_source(spec.replace("{folder}", str(folder)))


def test_refused_folders(folder, tmp_path):
    (tmp_path / "hollow").mkdir()
    with refused("hollow", "any data files"):
        open_source(f"hf:{tmp_path}/hollow")
    table(tmp_path / "odd[1]/train.parquet", text=["a"])
    with refused("must not hold", "rename"):
        open_source(f"hf:{tmp_path}/odd[1]")
    write(tmp_path / "saved", state_DOT_json="{}")
    with refused("save_to_disk", "to_parquet"):
        open_source(f"hf:{tmp_path}/saved")
    secret = write(tmp_path / "elsewhere", a_DOT_jsonl='{"text": "secret"}\n')
    for path in ("../elsewhere/a.jsonl", f"{secret}/a.jsonl"):
        readme = f'---\nconfigs:\n- config_name: default\n  data_files: "{path}"\n---\n'
        with refused("outside of the folder", "a.jsonl"):
            open_source(f"hf:{write(tmp_path / 'leaving', README_DOT_md=readme)}")


def test_rows_that_are_no_strings(folder, tmp_path):
    table(folder / "data/train-00001-of-00002.parquet", text=["a", None, "b"], n=[7, 8, 9])
    with refused("texts, split train, row 8", "holds null, not a string"):
        texts_of(f"hf:{folder}")
    write(tmp_path / "lines", train_DOT_jsonl='{"text": "a"}\n{"body": "b"}\n')
    with refused("lines, split train, row 1", "null"):
        texts_of(f"hf:{tmp_path / 'lines'}")


def test_damaged_files_of_a_folder(folder, tmp_path, caplog):
    lines = write(tmp_path / "lines", train_DOT_jsonl='{"text": "a"}\n{"text": oops}\n')
    with caplog.at_level(logging.WARNING), refused("lines", "JSON parse error", "restore"):
        texts_of(f"hf:{lines}")
    path = table(folder / "data/train-00001-of-00002.parquet", text=[f"word {n} " * 50 for n in range(99)], n=[0] * 99)
    whole = path.read_bytes()
    place = pq.ParquetFile(path).metadata.row_group(20).column(0).data_page_offset
    path.write_bytes(
        whole[: place + 20] + bytes(byte ^ 0xFF for byte in whole[place + 20 : place + 90]) + whole[place + 90 :]
    )
    with refused("train-00001-of-00002.parquet, row group 20 is damaged", "restore"):
        texts_of(f"hf:{folder}")
    path.write_bytes(whole[:-5])
    with refused("train-00001-of-00002.parquet is damaged or no parquet file"):
        open_source(f"hf:{folder}")
    assert not caplog.records  # the error says it all


@pytest.mark.parametrize("package", ["datasets", "pyarrow"])
def test_a_missing_extra_is_named(folder, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    spec = f"hf:{folder}" if package == "datasets" else str(folder / "data")
    with refused('pip install "sparse-circuits[data]"', folder.name):
        open_source(spec)


# --- the Hub


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as reading a dataset asks: commit, listing, files with ranges."""

    files: dict[str, bytes]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        asked = re.fullmatch(r"(?:/api)?/datasets/owner/texts(?:/(revision|tree|resolve)/(\w+)/?(.*))?", path)
        if not asked:
            self.answer(404, b"", **{"X-Error-Code": "RepoNotFound"})
        elif asked[2] not in (None, "main", COMMIT):
            self.answer(404, b"", **{"X-Error-Code": "RevisionNotFound"})
        elif asked[1] in (None, "revision"):
            self.answer(200, json.dumps({"id": "owner/texts", "sha": COMMIT, "siblings": []}).encode())
        elif asked[1] == "tree":
            self.answer(200, json.dumps(list(self.tree(asked[3]))).encode())
        elif asked[3] in self.files:
            self.answer_file(self.files[asked[3]])
        else:
            self.answer(404, b"", **{"X-Error-Code": "EntryNotFound"})

    def tree(self, below: str) -> Iterator[dict[str, object]]:
        paths = [Path(name) for name in self.files]
        for path in paths:
            if path.parent == Path(below):
                body = self.files[path.as_posix()]
                yield {
                    "type": "file",
                    "path": path.as_posix(),
                    "size": len(body),
                    "oid": hashlib.sha1(body).hexdigest(),
                }
        for parent in {path.parent for path in paths} - {Path(".")}:
            if parent.parent == Path(below):
                yield {"type": "directory", "path": parent.as_posix(), "size": 0, "oid": "0" * 40}

    def answer_file(self, body: bytes) -> None:
        headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            self.answer(200, body, **headers)
            return
        begin, end = int(part[1]), min(int(part[2] or len(body)), len(body) - 1)
        headers["Content-Range"] = f"bytes {begin}-{end}/{len(body)}"
        self.answer(206, body[begin : end + 1], **headers)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


ASK = """
import json, sys
from sparse_circuits.data.corpus import open_source
for spec in sys.argv[1:]:
    try:
        source = open_source(spec)
        print(json.dumps([[document.text for document in source.documents()], source.manifest()]))
    except ValueError as error:
        print(json.dumps(str(error)))
"""


def ask(tmp_path: Path, *specs: str, **variables: str) -> list:
    """What a fresh process gets for each spec: texts and manifest, or the error. It must say nothing on stderr."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1", **variables}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *specs], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def hub(folder: Path) -> Iterator[str]:
    """The url of a Hub that holds the folder as owner/texts."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.parquet")}
    handler = type("Served", (Hub,), {"files": {**files, "README.md": b"# Texts\n"}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads, server.block_on_close = True, False
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_dataset_by_name(hub, tmp_path):
    name = "hf:owner/texts"
    whole, test, early, split, revision, repo, kind = ask(
        tmp_path,
        name,
        f"{name}:split=test:revision=main",
        f"{name}:0.025KB",
        f"{name}:split=nope",
        f"{name}:revision=v9",
        "hf:owner/absent",
        f"{name}:column=n",
        HF_ENDPOINT=hub,
    )
    assert whole == [WORDS, {**whole[1], "kind": "hf-dataset", "name": "owner/texts", "revision": COMMIT}]
    assert test[0] == ["held out"] and (test[1]["split"], test[1]["revision"]) == ("test", COMMIT)
    assert early[0] == WORDS[: 25 // len(WORDS[0].encode())] and early[1]["bytes"] == 25
    assert "has no split 'nope'; its splits: train, test" in split
    assert "no revision 'v9'" in revision
    assert "no dataset 'owner/absent'" in repo and hub in repo
    assert "column 'n' holds Value('int64'), not strings; columns of strings: text" in kind


def test_a_dataset_by_name_without_a_network(tmp_path):
    """One line at once, without the dozens of retries that `datasets` would make."""
    (unreached,) = ask(tmp_path, "hf:owner/texts", HF_ENDPOINT="http://127.0.0.1:9")
    (offline,) = ask(tmp_path, "hf:owner/texts", HF_HUB_OFFLINE="1")
    for error in (unreached, offline):
        assert "\n" not in error and "hf download --repo-type dataset owner/texts --local-dir FOLDER" in error
        assert "hf:./FOLDER" in error
    assert "127.0.0.1:9" in unreached and "HF_HUB_OFFLINE" in offline
