"""Text from a Hugging Face dataset, by its name on the Hub or from a local folder of the same layout.

    hf:owner/name[:split=train][:config=NAME][:column=text][:revision=REF][:50MB]
    hf:./folder[...]     data/*.parquet, *.jsonl and so on; the split from file names, or a README's metadata

The `datasets` library reads both, row by row (its streaming mode): nothing is downloaded first, nothing is prepared on
disk, no code of a dataset runs. The Hub is asked once, before anything is read, which commit it holds; that commit is
read and goes into the manifest. A size takes rows from the start until the next would go beyond it.
Rows are counted from 0. A row's split key is the hash of its text.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Any

from ..files import file_hash, text_hash
from .parquet import TEXT_COLUMN, text_size, texts
from .source import SIZE, Document, listed, missing_extra, one_line, parse_size

FORM = "hf:owner/name[:split=train][:config=NAME][:column=text][:revision=REF][:50MB], or hf:./folder"
TIMEOUT = 20.0  # seconds for the Hub's first answer

_BATCH = 64  # rows at a time
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_OPTIONS = ("split", "config", "column", "revision")


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """One split of a dataset, opened by `open_hub_dataset`."""

    name: str
    """owner/name, or the name of the folder."""
    split: str
    config: str
    column: str
    cap: int | None
    """At most this many bytes of text, if the first row has no more; None: all."""
    revision: str | None
    """The commit on the Hub; None for a folder."""
    folder: Path | None
    files: tuple[Path, ...]
    """The folder's files of this split."""
    size: int
    rows: Any
    """The `datasets.IterableDataset`."""

    def documents(self, seed: int = 0) -> Iterator[Document]:  # noqa: ARG002 (rows are not drawn)
        """The rows that hold more than blanks. Raises ValueError (one line) if one is no string or cannot be read."""
        taken = 0
        for row, text in self._texts():
            if not text.strip():
                continue
            size = len(text.encode("utf-8"))
            if self.cap is not None and taken and taken + size > self.cap:
                return
            taken += size
            yield Document(f"{self.name}:{row}", text, text_hash(text))

    def _texts(self) -> Iterator[tuple[int, str]]:
        row = 0
        batches = iter(self.rows.iter(batch_size=_BATCH))
        while (batch := self._next(batches, row)) is not None:
            if self.column not in batch:
                raise _no_column(self.name, self.column, batch)
            for text in batch[self.column]:
                if not isinstance(text, str):
                    held = "null" if text is None else type(text).__name__
                    raise ValueError(
                        f"{self.name}, split {self.split}, row {row}: column {self.column!r} holds {held}, not a string; "
                        "remove such rows, or name another column"
                    )
                yield row, text
                row += 1

    def _next(self, batches: Iterator[Any], row: int) -> Any:
        """The next rows by column, None after the last."""
        try:
            with _hushed():
                return next(batches, None)
        except Exception as error:  # every file format and every transport behind `datasets` has its own
            self._name_damaged_file()
            remedy = "restore its files" if self.folder else "try again, or give another :revision="
            raise ValueError(
                f"{self.name}, split {self.split}: cannot read on from row {row} ({one_line(error)}); {remedy}"
            ) from None

    def _name_damaged_file(self) -> None:
        """Raises ValueError with file and row group if one of the folder's .parquet files cannot be read through."""
        for file in self.files:
            if file.suffix == ".parquet":
                for _ in texts(file, self.column):
                    pass

    def manifest(self) -> dict[str, Any]:
        """What was read: for the Hub the commit, for a folder the hashes of the split's files by path."""
        known: dict[str, Any] = {"kind": "hf-dataset", "name": self.name, "split": self.split, "config": self.config}
        known |= {"column": self.column, "bytes": self.cap, "revision": self.revision}
        if self.folder is None:
            return known
        root = self.folder
        return {**known, **listed({path.relative_to(root).as_posix(): file_hash(path) for path in self.files})}


def open_hub_dataset(spec: str) -> HubDataset:
    """The dataset that `hf:...` names. Raises ValueError (one line): no such dataset, config, split or column, no network."""
    name, *given = spec.removeprefix("hf:").split(":")
    options, cap = _read_options(spec, given)
    folder = Path(name).resolve() if name and Path(name).is_dir() else None
    if folder is None and not _NAME.fullmatch(name):
        reason = f"no folder {name!r}" if "/" in name else f"{name!r} is neither a folder nor owner/name"
        raise ValueError(f"cannot open {spec!r}: {reason}; allowed: {FORM}")
    if folder:
        _check_folder(folder, spec, options)
    try:
        import datasets
    except ImportError:
        raise missing_extra(spec) from None

    split, column = options.get("split", "train"), options.get("column", TEXT_COLUMN)
    revision = None if folder else _commit(name, options.get("revision"))
    where = str(folder) if folder else name
    with _refusals(spec):
        builder = datasets.load_dataset_builder(where, name=options.get("config"), revision=revision)
    files = _local_files((builder.config.data_files or {}).get(split, ()), folder) if folder else ()
    size = _size(builder, split, column, files, cap)  # first: it names the file that is damaged
    rows = _rows(builder, spec, split, column)
    return HubDataset(
        name=folder.name if folder else name,
        split=split,
        config=builder.config.name,
        column=column,
        cap=cap,
        revision=revision,
        folder=folder,
        files=files,
        size=size,
        rows=rows,
    )


def _check_folder(folder: Path, spec: str, options: Mapping[str, str]) -> None:
    """Raises ValueError for what `datasets` would misread or call something else."""
    if "revision" in options:
        raise ValueError(f"cannot read 'revision={options['revision']}' in source {spec!r}; a folder has no revisions")
    if has_magic(str(folder)):
        raise ValueError(f"cannot open {spec!r}: a folder's path must not hold *, ? or [ for datasets; rename {folder}")
    if any((folder / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
        raise ValueError(f"{folder} was written by save_to_disk; write it with to_parquet and give that folder")


def _read_options(spec: str, given: Sequence[str]) -> tuple[dict[str, str], int | None]:
    options: dict[str, str] = {}
    for option in given:
        key, _, value = ("bytes", "", option) if SIZE.fullmatch(option) else option.partition("=")
        if key not in ("bytes", *_OPTIONS) or not value or key in options:
            again = "a second " if key in options else ""
            raise ValueError(f"cannot read {again}{option!r} in source {spec!r}; write {FORM}")
        options[key] = value
    size = options.pop("bytes", None)
    return options, None if size is None else parse_size(size)


def _rows(builder: Any, spec: str, split: str, column: str) -> Any:
    """The split's rows, of which only the column is read where the format can."""
    with _refusals(spec):
        splits = builder.as_streaming_dataset()
    if split not in splits:
        raise ValueError(f"{spec} has no split {split!r}; its splits: {', '.join(splits)}; write :split=NAME")
    features = splits[split].features
    if features is None:  # a format whose columns show when it is read, such as JSON lines
        return splits[split]
    if column not in features:
        raise _no_column(spec, column, features)
    if getattr(features[column], "dtype", None) not in ("string", "large_string", "null"):
        others = ", ".join(key for key in features if getattr(features[key], "dtype", "") in ("string", "large_string"))
        raise ValueError(
            f"{spec}: column {column!r} holds {one_line(features[column])}, not strings; columns of strings: "
            f"{others or 'none'}; write :column=NAME"
        )
    if hasattr(builder.config, "columns"):
        builder.config.columns = [column]
        with _refusals(spec):
            splits = builder.as_streaming_dataset()
    return splits[split].select_columns([column])


def _no_column(where: str, column: str, columns: Any) -> ValueError:
    return ValueError(f"{where} has no column {column!r}; its columns: {', '.join(columns)}; write :column=NAME")


def _local_files(data_files: Sequence[str], folder: Path) -> tuple[Path, ...]:
    """The files of a split; of an archive's members, the archive. Raises ValueError for one outside the folder."""
    found = sorted({Path(os.path.normpath(str(file).rpartition("::")[2])) for file in data_files})
    for file in found:
        if not file.is_relative_to(folder):
            raise ValueError(f"{folder.name}: its metadata names {file}, outside of the folder; give that as a source")
    return tuple(found)


def _size(builder: Any, split: str, column: str, files: Sequence[Path], cap: int | None) -> int:
    """About the bytes of text; reading the ends of parquet files for it also finds a damaged one before the work starts."""
    sizes = [text_size(file, column) if file.suffix == ".parquet" else file.stat().st_size for file in files]
    told = (builder.info.splits or {}).get(split)
    known = sum(sizes) or (told.num_bytes if told is not None else 0) or 0
    return known if cap is None else min(cap, known or cap)


def _commit(name: str, revision: str | None) -> str:
    """The commit that the Hub holds under a revision (None: its main branch). Raises ValueError, one line."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = constants.ENDPOINT
    try:
        found = HfApi().dataset_info(name, revision=revision, timeout=TIMEOUT).sha
    except GatedRepoError:  # the special case of the next
        wanted = f"{name} is gated: accept its terms at {where}/datasets/{name}, then `hf auth login` or set HF_TOKEN"
    except RepositoryNotFoundError:
        wanted = (
            f"no dataset {name!r} on {where}, nor a local folder of that name; check the name, and if it is private, "
            "`hf auth login` or set HF_TOKEN"
        )
    except RevisionNotFoundError:
        wanted = f"{name} on {where} has no revision {revision!r}; give one of its branches, tags or commits"
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        wanted = (
            f"cannot reach {where} for the dataset {name} ({one_line(error)}); where there is a network, run: "
            f"hf download --repo-type dataset {name} --local-dir FOLDER, then give hf:./FOLDER"
        )
    else:
        if found:
            return found
        wanted = f"{where} names no commit of {name}; give a :revision="
    raise ValueError(wanted)


@contextmanager
def _refusals(spec: str) -> Iterator[None]:
    """Errors of `datasets` as one line."""
    try:
        with _hushed():
            yield
    except Exception as error:  # every file format and every transport behind it has its own
        raise ValueError(f"cannot open {spec!r}: {one_line(error)}; allowed: {FORM}") from None


@contextmanager
def _hushed() -> Iterator[None]:
    """Without log lines that repeat what the error says, or remark on a README without metadata."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub.repocard")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
