"""Token shards: a corpus as two long rows of token ids on disk, one for training and one for validation.

Building (`build_shards`):
1. Read every document of every source; drop a text that was seen before, so that no text can be in both splits.
2. Encode in batches and append the ids, each document closed by `<|endoftext|>`, to a scratch file: memory stays flat.
3. A document belongs to validation if `split_place(its key)` is below `val_fraction`; where none is, the lowest is.
4. Write the documents of each split in a random order that the seed fixes, so sources are mixed.
The folder appears whole or not at all and holds `manifest.json`, `train.bin`, `val.bin` and the tokenizer's files.

Reading (`Shards`): the rows are memory-mapped. A training batch is a pure function of (seed, step, rank): a generator
with a counter draws where its windows start, so a run can resume at any step.

Shapes: N tokens of a split, B batch, T context, T1 = T + 1.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..files import check_format, file_hash, json_hash, new_folder, read_json, text_hash, write_json
from ..log import SILENT, Progress
from .corpus import Document, Source, split_place
from .tokenizer import AnyTokenizer, encode_batch, end_id, read_tokenizer, save_tokenizer, tokenizer_hash, vocab_size

KIND, VERSION = "shards", 1
SPLITS = ("train", "val")
MANIFEST = "manifest.json"

_BATCH = 1 << 20  # characters encoded at a time
_SCRATCH = ".scratch.bin"


class Shards:
    """A folder of token shards, open for reading."""

    def __init__(self, folder: Path, manifest: dict[str, Any], rows: dict[str, np.ndarray]) -> None:
        """For `Shards.open`."""
        self.folder, self.manifest, self._rows = folder, manifest, rows
        self.vocab_size: int = manifest["vocab_size"]
        self.tokenizer_hash: str = manifest["tokenizer_hash"]
        self.corpus_hash: str = manifest["corpus_hash"]

    @classmethod
    def open(cls, folder: str | Path, verify: bool = True) -> "Shards":
        """Opens a folder made by `build_shards`; `verify` also reads it through and compares hashes.

        Raises ValueError (one line) if it is no such folder, or a file is missing, truncated or changed.
        """
        where = Path(folder)
        if not where.is_dir():
            raise ValueError(f"no folder {where}; make token shards with `data build`")
        manifest = read_json(where / MANIFEST)
        check_format(manifest, KIND, VERSION, where)
        try:
            return cls(where, manifest, {split: _open_row(where, manifest, split, verify) for split in SPLITS})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{where / MANIFEST} is damaged ({error}); build the shards again") from None

    def tokens(self, split: str) -> np.ndarray:
        """[N] all token ids of a split, memory-mapped. Raises ValueError for an unknown split."""
        if split not in self._rows:
            raise ValueError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}")
        return self._rows[split]

    def tokenizer(self) -> AnyTokenizer:
        """The tokenizer stored with the shards, as a transformers fast tokenizer."""
        return read_tokenizer(self.folder)

    def check_tokenizer(self, tokenizer: AnyTokenizer) -> None:
        """Raises ValueError unless this tokenizer made the shards."""
        given = tokenizer_hash(tokenizer)
        if given != self.tokenizer_hash:
            raise ValueError(
                f"the shards in {self.folder} were made with another tokenizer (hash {self.tokenizer_hash[:12]}, given "
                f"{given[:12]}); use the one in that folder or build shards with this one"
            )

    def batch(
        self, split: str, *, seed: int, step: int, rank: int = 0, batch_size: int, context: int
    ) -> Int[Tensor, "B T1"]:
        """[B, T+1] int64 windows at uniform random places: inputs `[:, :-1]`, targets `[:, 1:]`.

        The same (seed, step, rank) gives the same batch, whatever was drawn before. Raises ValueError if the split has
        fewer than context + 2 tokens.
        """
        row = self._checked(split, context, batch_size)
        bits = np.random.Philox(key=[seed, SPLITS.index(split)], counter=[0, rank, step, 0])
        starts = np.random.Generator(bits).integers(0, len(row) - context, size=batch_size)
        return _windows(row, starts, context)

    def sequential(
        self, split: str, batch_size: int, context: int, limit: int | None = None
    ) -> Iterator[Int[Tensor, "b T1"]]:
        """Consecutive windows from the start of the split, at most `limit` of them; the last batch may have fewer rows.

        The inputs `[:, :-1]` of the windows do not overlap, so every token is predicted once (the tail that fills no
        window, never). Raises ValueError if the split has fewer than context + 2 tokens.
        """
        row = self._checked(split, context, batch_size)
        count = (len(row) - 1) // context
        count = count if limit is None else min(count, limit)
        return (
            _windows(row, np.arange(first, min(first + batch_size, count)) * context, context)
            for first in range(0, count, batch_size)
        )

    def _checked(self, split: str, context: int, batch_size: int) -> np.ndarray:
        row = self.tokens(split)
        if context < 1 or batch_size < 1:
            raise ValueError(f"context {context} and batch_size {batch_size} must be at least 1")
        if len(row) < context + 2:
            raise ValueError(
                f"the {split} split in {self.folder} has {len(row)} tokens, fewer than context + 2 = {context + 2}; "
                "use a shorter context or more text"
            )
        return row


def _windows(row: np.ndarray, starts: np.ndarray, context: int) -> Tensor:
    return torch.from_numpy(row[starts[:, None] + np.arange(context + 1)].astype(np.int64))


def _open_row(folder: Path, manifest: dict[str, Any], split: str, verify: bool) -> np.ndarray:
    file, dtype, expected = folder / f"{split}.bin", np.dtype(manifest["dtype"]), manifest["tokens"][split]
    if not file.is_file():
        raise ValueError(f"no file {file.name} in {folder}; build the shards again")
    size = file.stat().st_size
    if size != expected * dtype.itemsize:
        wanted = expected * dtype.itemsize
        raise ValueError(f"{file} is truncated or changed ({size} bytes, not {wanted}); build the shards again")
    if verify and file_hash(file) != manifest["sha256"][split]:
        raise ValueError(f"{file} is damaged (its sha256 is not the manifest's); build the shards again")
    return np.memmap(file, dtype, mode="r") if expected else np.empty(0, dtype)


def build_shards(
    sources: Iterable[Source],
    tokenizer: AnyTokenizer,
    out: str | Path,
    *,
    val_fraction: float = 0.02,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Shards:
    """Turns a corpus into a folder of token shards and opens it; the same input gives the same bytes.

    Raises ValueError if the corpus has no text or too few documents to split, or `out` holds something else; OSError if
    the disk is full (then nothing is left behind).
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction is {val_fraction}; it must be in [0, 1)")
    given = tuple(sources)
    _check_target(Path(out))
    size = vocab_size(tokenizer)
    dtype = np.dtype("<u2" if size <= 1 << 16 else "<u4")
    with new_folder(out, KIND) as draft:
        scratch = draft / _SCRATCH
        with open(scratch, "wb") as file:
            read = _encode_all(given, tokenizer, file, dtype, seed, progress)
        if not read.places.size:
            names = ", ".join(source.name for source in given) or "none"
            raise ValueError(f"the corpus has no text (sources: {names}); give sources with at least one document")
        threshold = _threshold(read.places, val_fraction)
        parts = {"train": np.flatnonzero(read.places >= threshold), "val": np.flatnonzero(read.places < threshold)}
        for index, split in enumerate(SPLITS):
            order = np.random.Generator(np.random.Philox(key=[seed, index])).permutation(parts[split])
            _write_split(scratch, draft / f"{split}.bin", read.ends, order, dtype)
        scratch.unlink()
        hashes = {split: file_hash(draft / f"{split}.bin") for split in SPLITS}
        lengths = np.diff(read.ends, prepend=0)
        manifest = {
            "kind": KIND,
            "format_version": VERSION,
            "tokens": {split: int(lengths[parts[split]].sum()) for split in SPLITS},
            "documents": {split: len(parts[split]) for split in SPLITS},
            "duplicates_dropped": read.duplicates,
            "text_bytes": read.text_bytes,
            "dtype": dtype.str,
            "sha256": hashes,
            "corpus_hash": json_hash({"dtype": dtype.str, **hashes}),
            "tokenizer_hash": tokenizer_hash(tokenizer),
            "vocab_size": size,
            "split_rule": _rule(threshold),
            "val_fraction": val_fraction,
            "val_threshold": threshold,
            "seed": seed,
            "sources": [source.manifest() for source in given],
        }
        save_tokenizer(tokenizer, draft)
        write_json(draft / MANIFEST, manifest)
    return Shards.open(out, verify=False)


class _Read(NamedTuple):
    """What reading the corpus found, D kept documents in the order they were read."""

    places: np.ndarray
    """[D] `split_place` of every document."""
    ends: np.ndarray
    """[D] where every document ends in the scratch file, in tokens."""
    duplicates: int
    text_bytes: int


def _encode_all(
    sources: Sequence[Source], tokenizer: AnyTokenizer, file: BinaryIO, dtype: np.dtype, seed: int, progress: Progress
) -> _Read:
    kept = _Unseen()
    places: list[float] = []
    lengths: list[int] = []
    closing = end_id(tokenizer)
    for source in sources:
        with progress.bar(f"encoding {source.name}", source.size) as bar:
            before = kept.text_bytes
            for batch in _batches(source.documents(seed)):
                fresh = [document for document in batch if kept.add(document.text)]
                places += [split_place(document.split_key) for document in fresh]
                for ids in encode_batch(tokenizer, [document.text for document in fresh]):
                    file.write(np.array([*ids, closing], dtype).tobytes())
                    lengths.append(len(ids) + 1)
                bar.update(min(kept.text_bytes - before, source.size), documents=len(lengths))
    return _Read(np.array(places), np.cumsum(lengths), kept.duplicates, kept.text_bytes)


class _Unseen:
    """Lets every text through once and counts."""

    def __init__(self) -> None:
        self._hashes: set[bytes] = set()
        self.duplicates, self.text_bytes = 0, 0

    def add(self, text: str) -> bool:
        digest = bytes.fromhex(text_hash(text))
        if digest in self._hashes:
            self.duplicates += 1
            return False
        self._hashes.add(digest)
        self.text_bytes += len(text.encode("utf-8"))
        return True


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents by about `_BATCH` characters, the empty ones left out."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        if not document.text.strip():
            continue
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _threshold(places: np.ndarray, val_fraction: float) -> float:
    """Keys below it are validation: the fraction, or just above the lowest key where the fraction catches none."""
    if val_fraction == 0:
        return 0.0
    distinct = np.unique(places)
    if len(distinct) < 2:
        raise ValueError("the corpus has one document, which cannot be split; give more documents, or val_fraction=0.0")
    lowest, highest = float(distinct[0]), float(distinct[-1])
    return min(max(val_fraction, float(np.nextafter(lowest, 1.0))), highest)


def _rule(threshold: float) -> str:
    return (
        "a text seen before is dropped; a document is validation if the first 48 bits of the sha256 of its split key "
        "(its path below the source's root, or the sha256 of its text where it has none), divided by 2^48, are below "
        f"{threshold!r}"
    )


def _write_split(scratch: Path, target: Path, ends: np.ndarray, order: np.ndarray, dtype: np.dtype) -> None:
    tokens = np.memmap(scratch, dtype, mode="r")
    starts = np.concatenate([np.zeros(1, ends.dtype), ends[:-1]])
    with open(target, "wb") as file:
        for document in order:
            file.write(tokens[starts[document] : ends[document]].tobytes())


def _check_target(out: Path) -> None:
    """An existing folder is replaced only if it holds shards or nothing."""
    empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not empty and not ((out / MANIFEST).is_file() and read_json(out / MANIFEST).get("kind") == KIND):
        raise ValueError(f"{out} exists and holds no token shards; give another folder for them")
