"""Where text comes from: generated programs, the standard library of the running Python, and the user's own files.

A source is named by a short text, so that a command line and a manifest can say it:
    tiny-python[:20MB][:seed=7]   programs of the grammar in tiny_python.py, until they reach that many bytes
    python-env[:8MB]              the standard library's .py files; a cap takes files in an order fixed by their paths
    a .py, .txt, .jsonl or .parquet file, a folder of such files, or a glob; each line of a .jsonl holds one object with
        a `text`, each row of a .parquet a string in its column `text`, or in NAME after `path:column=NAME`
    hf:owner/name, hf:./folder    a Hugging Face dataset, see hub_dataset.py

A document carries a *split key*, and its split depends on that key alone (`split_place`): a file's key is its path
below its root (`json/decoder.py`, the same on every machine and nearly every Python version); the key of a generated
program, a JSONL line or a row is the hash of its text. Texts seen before are dropped by whoever reads, so no text is in two splits.
A long file is given in parts (`story.txt#3`), each a document of its own, so one large file can be split as well.
Sizes count bytes of UTF-8: KB, MB and GB are 10^3, 10^6 and 10^9.
"""

import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from ..files import file_hash, text_hash
from . import parquet
from .hub_dataset import FORM, open_hub_dataset
from .source import SIZE, Document, Source, listed, parse_size, split_place

ENDINGS = (".py", ".txt", ".jsonl", ".parquet")
ALLOWED = (
    "tiny-python[:20MB][:seed=7], python-env[:8MB], a .py, .txt, .jsonl or .parquet[:column=text] file, a folder of "
    f"them, a glob such as 'src/**/*.py', or {FORM}"
)
DEFAULT_TINY_BYTES = 20_000_000

# Parts of the standard library that are no hand-written code: tests, tables, bundled packages, machine settings.
SKIPPED_FOLDERS = frozenset(
    ("__pycache__", "_bundled", "dist-packages", "encodings", "idlelib", "lib-dynload", "pydoc_data", "site-packages")
    + ("test", "tests", "turtledemo")
)
SKIPPED_FILES = re.compile(r"_sysconfigdata.*|sitecustomize|usercustomize")
LARGEST_FILE = 200_000  # bytes; what is longer is nearly always generated
PART = 200_000  # characters


class TinyPython:
    """Generated programs, `size` bytes of them and the rest of the last; without its own seed it takes the reader's."""

    def __init__(self, size: int = DEFAULT_TINY_BYTES, seed: int | None = None) -> None:
        self.name, self.size, self.seed = "tiny-python", size, seed

    def documents(self, seed: int = 0) -> Iterator[Document]:
        from .tiny_python import programs

        written = 0
        for number, text in enumerate(programs(seed if self.seed is None else self.seed)):
            yield Document(f"{self.name}/{number}", text, text_hash(text))
            written += len(text.encode("utf-8"))
            if written >= self.size:
                return

    def manifest(self) -> dict[str, Any]:
        """Size in bytes and seed; a seed of null is that of whoever reads."""
        return {"kind": "tiny-python", "bytes": self.size, "seed": self.seed}


class Files:
    """Files below a root; what `documents` gives is decided by `paths`, fixed when the source is opened.

    column: of the .parquet files among them.
    """

    def __init__(
        self, name: str, kind: str, root: Path, paths: Sequence[Path], column: str = parquet.TEXT_COLUMN
    ) -> None:
        self.name, self.kind, self.root, self.paths, self.column = name, kind, root, tuple(paths), column
        self.size = sum(
            parquet.text_size(path, self.column) if path.suffix == ".parquet" else path.stat().st_size
            for path in self.paths
        )

    def documents(self, seed: int = 0) -> Iterator[Document]:  # noqa: ARG002 (files are not drawn)
        for path in self.paths:
            key = path.relative_to(self.root).as_posix()
            if path.suffix == ".jsonl":
                yield from _lines(path, key)
            elif path.suffix == ".parquet":
                rows = parquet.texts(path, self.column)
                yield from (Document(f"{key}:{row}", text, text_hash(text)) for row, text in rows if text.strip())
            else:
                yield from _parts(_read(path), key)

    def manifest(self) -> dict[str, Any]:
        """The hash of every file by path below the root; of .parquet files also the column, of python-env Python's version."""
        hashes = {path.relative_to(self.root).as_posix(): file_hash(path) for path in self.paths}
        known: dict[str, Any] = {"kind": self.kind, "name": self.name}
        if self.kind == "python-env":
            known["python"] = platform.python_version()
        if any(path.suffix == ".parquet" for path in self.paths):
            known["column"] = self.column
        return {**known, **listed(hashes)}


def open_source(spec: str) -> Source:
    """The source that a text names. Raises ValueError (one line) if it names none, or files that cannot be read."""
    kind, *options = spec.split(":")
    if kind == "tiny-python":
        return _tiny_python(spec, options)
    if kind == "python-env":
        if len(options) > 1:
            raise ValueError(f"cannot read source {spec!r}; write python-env or python-env:8MB")
        return _python_env(spec, parse_size(options[0]) if options else None)
    if kind == "hf":
        return open_hub_dataset(spec)
    return _local_files(spec)


def open_sources(specs: Iterable[str]) -> tuple[Source, ...]:
    """`open_source` of each; raises ValueError if there is none."""
    opened = tuple(open_source(spec) for spec in ([specs] if isinstance(specs, str) else specs))
    if not opened:
        raise ValueError(f"no source is given; allowed: {ALLOWED}")
    return opened


def _tiny_python(spec: str, options: Sequence[str]) -> TinyPython:
    size, seed = DEFAULT_TINY_BYTES, None
    for option in options:
        given = re.fullmatch(r"seed=(\d+)", option)
        if given:
            seed = int(given[1])
        elif SIZE.fullmatch(option):
            size = parse_size(option)
        else:
            raise ValueError(f"cannot read {option!r} in source {spec!r}; write tiny-python[:20MB][:seed=7]")
    return TinyPython(size, seed)


def _python_env(spec: str, cap: int | None) -> Files:
    """The library's own modules; skips what is generated, bundled, tests, not UTF-8 or above 200 kB."""
    root = Path(os.__file__).resolve().parent
    found: list[tuple[float, Path, int]] = []
    for path in _walk(root, (".py",), SKIPPED_FOLDERS):
        size = path.stat().st_size
        if not SKIPPED_FILES.fullmatch(path.stem) and 0 < size <= LARGEST_FILE and _is_text(path):
            found.append((split_place(f"order:{path.relative_to(root).as_posix()}"), path, size))
    taken, total = [], 0
    for _, path, size in sorted(found):
        if cap is not None and taken and total + size > cap:
            break
        taken.append(path)
        total += size
    if not taken:
        raise ValueError(f"{spec}: this Python has no .py files of its standard library; give files or tiny-python")
    return Files(spec, "python-env", root, sorted(taken))


def _local_files(spec: str) -> Files:
    """Files as they are named; `:column=NAME` after the path is for the .parquet files among them."""
    if Path(spec).exists():
        return _named_files(spec, parquet.TEXT_COLUMN)
    path, given, column = spec.rpartition(":column=")
    if given and not column or not given and ".parquet:" in spec:
        raise ValueError(f"cannot read source {spec!r}; write path.parquet[:column=NAME]")
    if not given:
        return _named_files(spec, parquet.TEXT_COLUMN)
    found = _named_files(path, column)
    if not any(path.suffix == ".parquet" for path in found.paths):
        raise ValueError(f"cannot read ':column={column}' in source {spec!r}; only .parquet files have columns")
    return found


def _named_files(spec: str, column: str) -> Files:
    path = Path(spec)
    if path.is_file():
        _check_ending(path, spec)
        return Files(path.name, "files", path.parent, [path], column)
    if path.is_dir():
        found = _walk(path, ENDINGS, frozenset({"__pycache__"}))
        if not found:
            raise ValueError(f"folder {spec!r} has no file that ends in {', '.join(ENDINGS)}")
        return Files(path.resolve().name, "files", path, found, column)
    if has_magic(spec):
        matched = sorted(Path(file) for file in glob(spec, recursive=True) if Path(file).is_file())
        if not matched:
            raise ValueError(f"no file matches {spec!r}")
        for file in matched:
            _check_ending(file, spec)
        steady = list(_until_magic(path.parts))
        return Files("/".join(path.parts[len(steady) :]), "files", Path(*steady), matched, column)
    if len(path.parts) > 1 or path.suffix in ENDINGS:
        raise ValueError(f"no file or folder {spec!r}")
    raise ValueError(f"unknown source {spec!r}; allowed: {ALLOWED}")


def _until_magic(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if has_magic(part):
            return
        yield part


def _check_ending(path: Path, spec: str) -> None:
    if path.suffix not in ENDINGS:
        narrower = "; narrow the pattern" if has_magic(spec) else ""
        raise ValueError(f"{path} has ending {path.suffix!r}; allowed endings: {', '.join(ENDINGS)}{narrower}")


def _walk(root: Path, endings: Sequence[str], skipped: frozenset[str]) -> list[Path]:
    """Files below a folder by relative path, without hidden folders and files."""
    found: list[Path] = []
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in skipped and not name.startswith(".")]
        paths = (Path(folder, name) for name in names if not name.startswith("."))
        found += [path for path in paths if path.suffix in endings and path.is_file()]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _is_text(path: Path) -> bool:
    try:
        _read(path)
    except ValueError:
        return False
    return True


def _read(path: Path) -> str:
    """The file's text with `\\n` line ends and without a byte order mark. Raises ValueError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); convert it or leave it out") from None
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def _parts(text: str, key: str) -> Iterator[Document]:
    """The text whole, or above `PART` characters in parts cut at a blank line or else a line end where there is one."""
    if len(text) <= PART:
        if text.strip():
            yield Document(key, text, key)
        return
    start = number = 0
    while start < len(text):
        limit = start + PART
        breaks = (text.rfind(mark, start + PART // 2, limit) + len(mark) for mark in ("\n\n", "\n"))
        end = len(text) if limit >= len(text) else next((place for place in breaks if place > start + PART // 2), limit)
        if text[start:end].strip():
            yield Document(f"{key}#{number}", text[start:end], f"{key}#{number}")
        start, number = end, number + 1


def _lines(path: Path, key: str) -> Iterator[Document]:
    """The documents of a JSONL file, read line by line."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                text = value.get("text") if isinstance(value, dict) else None
                if not isinstance(text, str):
                    raise ValueError('it must hold an object with a string "text"')
                text.encode("utf-8")  # a lone surrogate, which JSON can spell, is no text
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {' '.join(str(error).split())}") from None
            if text.strip():
                yield Document(f"{key}:{number}", text, text_hash(text))
