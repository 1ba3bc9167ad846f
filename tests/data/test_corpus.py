"""Sources give the same documents every time, name no machine in their manifests, and fail in one clear line."""

import hashlib
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_circuits.data import corpus
from sparse_circuits.data.corpus import Source, open_source, open_sources, parse_size, split_place


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8"))
    return folder


@pytest.fixture
def tree(tmp_path) -> Path:
    lines = '{"text": "one"}\n\n{"text": "two", "id": 3}\n{"text": "  "}\n'
    write(tmp_path, a_DOT_py="x = 1\r\n", pkg__b_DOT_py="\ufeffy = 2\n", pkg__c_DOT_txt="prose", d_DOT_jsonl=lines)
    return write(
        tmp_path, pkg__empty_DOT_py="\n \n", notes_DOT_md="no", pkg__x_DOT_bin="no", _DOT_git__e_DOT_py="hidden"
    )


def test_a_folder(tree):
    found = {document.name: document for document in open_source(str(tree)).documents()}
    assert {name: document.text for name, document in found.items()} == {
        "a.py": "x = 1\n",
        "pkg/b.py": "y = 2\n",
        "pkg/c.txt": "prose",
        "d.jsonl:1": "one",
        "d.jsonl:3": "two",
    }
    assert found["pkg/b.py"].split_key == "pkg/b.py"
    assert found["d.jsonl:3"].split_key == hashlib.sha256(b"two").hexdigest()


def test_a_file_and_a_glob(tree):
    assert [document.name for document in open_source(str(tree / "pkg" / "b.py")).documents()] == ["b.py"]
    globbed = open_source(str(tree / "**" / "*.py"))
    assert [document.split_key for document in globbed.documents()] == ["a.py", "pkg/b.py"]


def test_manifest_identifies_content_and_names_no_machine(tree):
    manifest = open_source(str(tree)).manifest()
    assert manifest["files"]["a.py"] == hashlib.sha256(b"x = 1\r\n").hexdigest()
    assert str(tree.parent) not in json.dumps(manifest)
    (tree / "a.py").write_text("x = 2\n")
    assert open_source(str(tree)).manifest()["hash"] != manifest["hash"]


def test_tiny_python():
    source = open_source("tiny-python:20KB:seed=3")
    texts = [document.text for document in source.documents(0)]
    total = sum(len(text.encode()) for text in texts)
    assert total - len(texts[-1].encode()) < 20_000 <= total
    assert texts == [document.text for document in source.documents(1)]
    assert source.manifest() == {"kind": "tiny-python", "bytes": 20_000, "seed": 3}
    free = open_source("tiny-python:20KB")
    assert (
        [document.text for document in free.documents(3)] == texts != [document.text for document in free.documents(4)]
    )
    assert all(
        document.split_key == hashlib.sha256(document.text.encode()).hexdigest() for document in free.documents(3)
    )
    assert open_source("tiny-python").manifest()["bytes"] == 20_000_000


def test_python_env():
    source = open_source("python-env")
    manifest = source.manifest()
    names = set(manifest["files"])
    assert {"json/decoder.py", "argparse.py", "os.py"} <= names
    parts = {part for name in names for part in name.split("/")[:-1]}
    assert not parts & {"test", "tests", "site-packages", "dist-packages", "idlelib", "encodings", "__pycache__"}
    assert not any("sysconfigdata" in name for name in names)
    assert manifest["python"].startswith("3.")
    document = next(found for found in source.documents() if found.name == "json/decoder.py")
    assert "class JSONDecoder" in document.text and document.split_key == "json/decoder.py"


def test_python_env_cap_grows_by_whole_files():
    small, large = open_source("python-env:200KB"), open_source("python-env:1MB")
    some, more = ({document.name for document in source.documents()} for source in (small, large))
    assert some < more and small.size <= 200_000 < large.size <= 1_000_000
    assert [document.name for document in small.documents()] == sorted(some)


def test_sources_follow_the_protocol(tree):
    assert all(isinstance(source, Source) for source in open_sources(["tiny-python", "python-env:1MB", str(tree)]))


@given(st.text())
def test_split_place_is_a_hash_of_the_key(key):
    digest = hashlib.sha256(key.encode("utf-8")).hexdigest()
    assert split_place(key) == int(digest[:12], 16) / 2**48
    assert 0 <= split_place(key) < 1


@pytest.mark.parametrize(("text", "size"), [("8MB", 8_000_000), ("1.5kb", 1500), ("2GB", 2 * 10**9)])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tiny-pyhton", "unknown source 'tiny-pyhton'; allowed: tiny-python"),
        ("tiny-python:lots", "cannot read 'lots'"),
        ("python-env:big", "'big' is not a size"),
        ("python-env:1MB:2MB", "python-env:8MB"),
        ("python-env:0MB", "is not a size"),
        ("{tree}/absent.py", "no file or folder"),
        ("{tree}/*.rst", "no file matches"),
        ("{tree}/notes.md", r"has ending '.md'; allowed endings: .py, .txt, .jsonl, .parquet"),
        ("{tree}/pkg/*", "has ending '.bin'.*narrow the pattern"),
        ("{tree}/hollow", "has no file that ends in .py, .txt, .jsonl, .parquet"),
        ("parquet", r"unknown source 'parquet'; allowed: .*\.parquet\[:column=text\] file.*hf:owner/name"),
        ("{tree}/a.py:column=text", "only .parquet files have columns"),
    ],
)
def test_errors_when_opened(tree, spec, message):
    (tree / "hollow").mkdir()
    with pytest.raises(ValueError, match=message) as caught:
        open_source(spec.replace("{tree}", str(tree)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"', "line 2: "),
        (b'{"body": "a"}', 'line 2: it must hold an object with a string "text"'),
        (b'["a"]', "line 2: it must hold"),
        (b'{"text": "\\ud800"}', "line 2: .*surrogates"),
        (b'{"text": "\xff"}', "line 2: .*utf-8"),
    ],
)
def test_bad_jsonl_lines(tmp_path, line, message):
    (tmp_path / "bad.jsonl").write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(ValueError, match=message) as caught:
        list(open_source(str(tmp_path / "bad.jsonl")).documents())
    assert "bad.jsonl" in str(caught.value) and "\n" not in str(caught.value)


@given(st.lists(st.sampled_from(["a", "bc d", "\n", "\n\n", " "]), min_size=1, max_size=80).map("".join))
def test_a_long_file_is_given_in_parts(text):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "PART", 12)
        (Path(folder) / "long.txt").write_text(text)
        found = list(open_source(str(Path(folder) / "long.txt")).documents())
    assert all(len(document.text) <= 12 and document.split_key == document.name for document in found)
    assert "".join("".join(document.text for document in found).split()) == "".join(text.split())
    assert len({document.split_key for document in found}) == len(found)
    if len(text) > 12 and not text[0].isspace():
        first = found[0].text
        assert first.endswith("\n") or "\n" not in text[7:12]


def test_undecodable_file(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"latin.txt is not UTF-8 text \(byte 3\)"):
        list(open_source(str(tmp_path / "latin.txt")).documents())


def test_no_source():
    with pytest.raises(ValueError, match="no source is given"):
        open_sources([])
