"""Shards hold exactly the documents, no text is in two splits, batches are pure, damage and a full disk are noticed."""

import errno
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_circuits.data import shards as module
from sparse_circuits.data.corpus import Document, open_sources
from sparse_circuits.data.shards import Shards, build_shards
from sparse_circuits.data.tokenizer import decode, end_id, tokenizer_hash, train_tokenizer

TOKENIZER = train_tokenizer([f"value_{i} = [{i}, 'x']\nprint(value_{i})\n" for i in range(50)], 290)
BATCH = {"batch_size": 4, "context": 8}


class Listed:
    """A source of given texts; every key is a path, several texts may share one."""

    name, size = "listed", 100

    def __init__(self, texts: list[str], keys: list[str] | None = None) -> None:
        self.texts, self.keys = texts, keys or [f"{i}.py" for i in range(len(texts))]

    def documents(self, seed: int = 0) -> Iterator[Document]:
        for text, key in zip(self.texts, self.keys, strict=True):
            yield Document(key, text, key)

    def manifest(self) -> dict:
        return {"kind": "listed"}


def texts_of(shards: Shards, split: str) -> list[str]:
    """The documents of a split, read back by another route: cut the ids at EOT and decode."""
    ids, texts = [], []
    for token in shards.tokens(split).tolist():
        if token == end_id(TOKENIZER):
            texts.append(decode(TOKENIZER, ids))
            ids = []
        else:
            ids.append(token)
    assert not ids, "the split does not end with EOT"
    return texts


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Shards:
    texts = [f"value_{i} = [{i}, 'x']\n" for i in range(400)]
    return build_shards([Listed(texts)], TOKENIZER, tmp_path_factory.mktemp("data") / "shards", val_fraction=0.1)


DOCUMENTS = st.lists(
    st.tuples(st.text("ab \n", max_size=6), st.sampled_from(["a.py", "b.py", "c.py", "d.py"])), max_size=25
)


@given(DOCUMENTS, st.sampled_from([0.02, 0.5, 0.98]), st.integers(0, 5))
def test_no_text_is_in_both_splits_and_none_is_lost(pairs, fraction, seed):
    first: dict[str, str] = {}
    for text, key in pairs:
        if text.strip():
            first.setdefault(text, key)
    source = Listed([text for text, _ in pairs], [key for _, key in pairs])
    with tempfile.TemporaryDirectory() as folder:
        if len(set(first.values())) < 2:
            with pytest.raises(ValueError, match="no text|cannot be split"):
                build_shards([source], TOKENIZER, Path(folder) / "s", val_fraction=fraction, seed=seed)
            assert not list(Path(folder).iterdir())
            return
        built = build_shards([source], TOKENIZER, Path(folder) / "s", val_fraction=fraction, seed=seed)
        train, val = texts_of(built, "train"), texts_of(built, "val")
    assert train and val and not set(train) & set(val)
    assert Counter(train + val) == Counter(first.keys())
    assert not {first[text] for text in train} & {first[text] for text in val}
    assert built.manifest["documents"] == {"train": len(train), "val": len(val)}
    assert built.manifest["duplicates_dropped"] == sum(bool(text.strip()) for text, _ in pairs) - len(first)
    assert built.manifest["text_bytes"] == sum(len(text) for text in first)


def test_the_split_is_the_stated_rule(shards):
    """Recomputed from the words in the manifest with nothing but hashlib."""
    place = {i: int(hashlib.sha256(f"{i}.py".encode()).hexdigest()[:12], 16) / 2**48 for i in range(400)}
    expected = {f"value_{i} = [{i}, 'x']\n" for i in place if place[i] < 0.1}
    assert set(texts_of(shards, "val")) == expected
    assert 10 < len(expected) < 80 and repr(shards.manifest["val_threshold"]) in shards.manifest["split_rule"]


def test_manifest(shards):
    manifest = json.loads((shards.folder / "manifest.json").read_text())
    assert (manifest["kind"], manifest["format_version"], manifest["dtype"], manifest["seed"]) == (
        "shards",
        1,
        "<u2",
        0,
    )
    assert manifest["vocab_size"] == shards.vocab_size == 290
    assert (
        manifest["tokenizer_hash"]
        == shards.tokenizer_hash
        == tokenizer_hash(TOKENIZER)
        == tokenizer_hash(shards.tokenizer())
    )
    for split in ("train", "val"):
        raw = (shards.folder / f"{split}.bin").read_bytes()
        assert hashlib.sha256(raw).hexdigest() == manifest["sha256"][split]
        assert np.frombuffer(raw, "<u2").tolist() == shards.tokens(split).tolist()
        assert manifest["tokens"][split] == len(raw) // 2
    names = {"manifest.json", "train.bin", "val.bin", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in shards.folder.iterdir()} == names


def test_rebuilding_gives_the_same_bytes_and_another_seed_another_order(tmp_path):
    sources = open_sources(["tiny-python:30KB:seed=1", "python-env:60KB"])
    first, second = (build_shards(sources, TOKENIZER, tmp_path / name, seed=3) for name in "ab")
    for file in first.folder.iterdir():
        assert file.read_bytes() == (second.folder / file.name).read_bytes()
    other = build_shards(sources, TOKENIZER, tmp_path / "c", seed=4)
    assert other.corpus_hash != first.corpus_hash
    assert sorted(texts_of(other, "train")) == sorted(texts_of(first, "train"))
    library = {document.text for document in sources[1].documents()}
    origin = [text in library for text in texts_of(first, "train")]
    assert sum(left != right for left, right in zip(origin, origin[1:], strict=False)) > 2, "sources are not mixed"


def test_end_of_text_inside_a_document_is_plain_text(tmp_path):
    texts = ["a <|endoftext|> b", "<|endoftext|>", "c", "d"]
    built = build_shards([Listed(texts)], TOKENIZER, tmp_path / "s", val_fraction=0.5)
    assert sorted(texts_of(built, "train") + texts_of(built, "val")) == sorted(texts)


def test_small_batches_encode_the_same(tmp_path, shards, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 50)
    texts = [f"value_{i} = [{i}, 'x']\n" for i in range(400)]
    again = build_shards(
        [Listed(texts[:100]), Listed(texts[100:], [f"{i}.py" for i in range(100, 400)])],
        TOKENIZER,
        tmp_path / "s",
        val_fraction=0.1,
    )
    assert again.corpus_hash == shards.corpus_hash


def test_batches_are_pure(shards):
    steps = [shards.batch("train", seed=1, step=step, **BATCH) for step in range(5)]
    again = Shards.open(shards.folder)
    for step in (4, 0, 3):
        assert torch.equal(again.batch("train", seed=1, step=step, **BATCH), steps[step])
    assert steps[0].shape == (4, 9) and steps[0].dtype == torch.int64


def test_batches_differ_by_step_rank_seed_and_split(shards):
    def starts(**changes: int) -> tuple:
        return tuple(shards.batch("train", **{"seed": 0, "step": 0, "rank": 0, **changes}, **BATCH).flatten().tolist())

    drawn = [starts(), *(starts(step=i) for i in range(1, 9)), *(starts(rank=i) for i in range(1, 9)), starts(seed=1)]
    assert len(set(drawn)) == len(drawn)
    assert shards.batch("val", seed=0, step=0, **BATCH).shape == (4, 9)


def test_windows_are_uniform_over_the_stream(tmp_path):
    """With a context of n - 2 there are two windows, drawn about equally often, the last token among them."""
    built = build_shards([Listed(["ab cd", "ef gh"])], TOKENIZER, tmp_path / "s", val_fraction=0.5)
    row = built.tokens("train")
    batch = built.batch("train", seed=0, step=0, batch_size=2000, context=len(row) - 2)
    first = (batch[:, 0] == int(row[0])).float().mean().item()
    assert 0.45 < first < 0.55
    assert {tuple(window) for window in batch.tolist()} == {tuple(row[:-1].tolist()), tuple(row[1:].tolist())}


def test_sequential_predicts_every_token_once(shards):
    row = shards.tokens("val").astype(np.int64)
    batches = list(shards.sequential("val", 4, 8))
    windows = torch.cat(batches)
    assert all(len(batch) == 4 for batch in batches[:-1])
    assert np.array_equal(windows[:, :-1].flatten().numpy(), row[: len(windows) * 8])
    assert np.array_equal(windows[:, 1:].flatten().numpy(), row[1 : len(windows) * 8 + 1])
    assert len(row) - 1 - len(windows) * 8 < 8
    assert torch.equal(torch.cat(list(shards.sequential("val", 4, 8, limit=6))), windows[:6])


def test_wide_vocabularies_take_four_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "vocab_size", lambda tokenizer: 65_537)
    built = build_shards([Listed(["a", "b", "c"])], TOKENIZER, tmp_path / "s", val_fraction=0.5)
    assert built.manifest["dtype"] == "<u4" and built.tokens("train").dtype == np.uint32
    assert sorted(texts_of(built, "train") + texts_of(built, "val")) == ["a", "b", "c"]


def test_no_validation_when_asked(tmp_path):
    built = build_shards([Listed(["only one"])], TOKENIZER, tmp_path / "s", val_fraction=0.0)
    assert texts_of(built, "train") == ["only one"] and len(built.tokens("val")) == 0
    with pytest.raises(ValueError, match="val split .* has 0 tokens"):
        built.batch("val", seed=0, step=0, **BATCH)


@pytest.mark.parametrize("name", ["encode_batch", "save_tokenizer", "write_json", "_write_split"])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, name):
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, name, full)
    with pytest.raises(OSError, match="No space left"):
        build_shards([Listed(["a", "b"])], TOKENIZER, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rebuild_keeps_the_old_shards(tmp_path, monkeypatch):
    old = build_shards([Listed(["a", "b"])], TOKENIZER, tmp_path / "s")
    with pytest.raises(ValueError, match="no text"):
        build_shards([Listed([" ", ""])], TOKENIZER, tmp_path / "s")
    assert Shards.open(tmp_path / "s").corpus_hash == old.corpus_hash
    new = build_shards([Listed(["c", "d"])], TOKENIZER, tmp_path / "s")
    assert new.corpus_hash != old.corpus_hash and [path.name for path in tmp_path.iterdir()] == ["s"]


def test_other_folders_are_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds no token shards"):
        build_shards([Listed(["a", "b"])], TOKENIZER, tmp_path)
    assert (tmp_path / "thesis.txt").is_file()


def test_damage_is_noticed(tmp_path):
    folder = build_shards([Listed(["a b c", "d e f"])], TOKENIZER, tmp_path / "s").folder

    def fails(message: str, verify: bool = True) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            Shards.open(folder, verify=verify)
        assert "\n" not in str(caught.value)

    whole = (folder / "train.bin").read_bytes()
    (folder / "train.bin").write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    fails("train.bin is damaged")
    Shards.open(folder, verify=False)
    (folder / "train.bin").write_bytes(whole[:-1])
    fails("train.bin is truncated or changed", verify=False)
    (folder / "train.bin").unlink()
    fails("no file train.bin")
    (folder / "manifest.json").write_text('{"kind": "shards", "format_version": 1}')
    fails("manifest.json is damaged")
    (folder / "manifest.json").write_text('{"kind": "circuit", "format_version": 1}')
    fails("holds 'circuit', not a shards")
    (folder / "manifest.json").write_text('{"kind": "sha')
    fails("manifest.json is damaged")


def test_wrong_uses(shards, tmp_path):
    shards.check_tokenizer(TOKENIZER)
    shards.check_tokenizer(shards.tokenizer())
    with pytest.raises(ValueError, match="another tokenizer"):
        shards.check_tokenizer(train_tokenizer(["ab ab"], 257))
    with pytest.raises(ValueError, match="unknown split 'test'; allowed: train, val"):
        shards.batch("test", seed=0, step=0, **BATCH)
    short = len(shards.tokens("val"))
    shards.batch("val", seed=0, step=0, batch_size=1, context=short - 2)
    with pytest.raises(ValueError, match=f"fewer than context \\+ 2 = {short + 1}"):
        shards.batch("val", seed=0, step=0, batch_size=1, context=short - 1)
    with pytest.raises(ValueError, match="fewer than context"):
        shards.sequential("val", 1, short)
    with pytest.raises(ValueError, match="no folder"):
        Shards.open(tmp_path / "absent")
    with pytest.raises(ValueError, match="val_fraction is 1"):
        build_shards([Listed(["a"])], TOKENIZER, tmp_path / "s", val_fraction=1.0)
