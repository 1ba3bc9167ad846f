"""Where text comes from: generated programs, the standard library of the running Python, and the user's own files.

A source is named by a short text, so that a command line and a manifest can say it:
    tiny-python[:20MB][:seed=7]   programs of the grammar in tiny_python.py, until they reach that many bytes
    python-env[:8MB]              the standard library's .py files; a cap takes files in an order fixed by their paths
    a .py, .txt or .jsonl file, a folder of such files, or a glob; each line of a .jsonl holds one object with a `text`

A document carries a *split key*, and its split depends on that key alone (`split_place`): a file's key is its path
below its root (`json/decoder.py`, the same on every machine and nearly every Python version), a generated program's or
a JSONL line's key is the hash of its text. Texts seen before are dropped by whoever reads, so no text is in two splits.
A long file is given in parts (`story.txt#3`), each a document of its own, so one large file can be split as well.
Sizes count bytes of UTF-8: KB, MB and GB are 10^3, 10^6 and 10^9.
"""

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..files import file_hash, json_hash, text_hash

ENDINGS = (".py", ".txt", ".jsonl")
ALLOWED = (
    "tiny-python[:20MB][:seed=7], python-env[:8MB], a .py, .txt or .jsonl file, a folder of them, "
    "or a glob such as 'src/**/*.py'"
)
DEFAULT_TINY_BYTES = 20_000_000
LISTED_FILES = 2000  # a manifest lists the hash of every file up to this many, beyond that one hash over all

# Parts of the standard library that are no hand-written code: tests, tables, bundled packages, machine settings.
SKIPPED_FOLDERS = frozenset(
    ("__pycache__", "_bundled", "dist-packages", "encodings", "idlelib", "lib-dynload", "pydoc_data", "site-packages")
    + ("test", "tests", "turtledemo")
)
SKIPPED_FILES = re.compile(r"_sysconfigdata.*|sitecustomize|usercustomize")
LARGEST_FILE = 200_000  # bytes; what is longer is nearly always generated
PART = 200_000  # characters

_SIZE = re.compile(r"(\d+(?:\.\d+)?)(KB|MB|GB)", re.IGNORECASE)
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


class Document(NamedTuple):
    """One text of a corpus."""

    name: str
    """For people: a path below the source's root, or the number of a generated program."""
    text: str
    split_key: str
    """Decides the split, see `split_place`."""


@runtime_checkable
class Source(Protocol):
    """Anything that gives documents and can say what they were."""

    @property
    def name(self) -> str:
        """What the user called it, without folders of the machine."""
        ...

    @property
    def size(self) -> int:
        """About how many bytes of text it gives, for progress."""
        ...

    def documents(self, seed: int = 0) -> Iterator[Document]:
        """The documents, in the same order every time; `seed` only matters to sources that draw."""
        ...

    def manifest(self) -> dict[str, Any]:
        """JSON values that identify the content: kind, and sizes and seeds or file hashes."""
        ...


def split_place(split_key: str) -> float:
    """A number in [0, 1) that depends on the key alone; validation takes the keys below its fraction."""
    return int.from_bytes(hashlib.sha256(split_key.encode("utf-8", "surrogatepass")).digest()[:6], "big") / 2**48


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
    """Files below a root; what `documents` gives is decided by `paths`, fixed when the source is opened."""

    def __init__(self, name: str, kind: str, root: Path, paths: Sequence[Path]) -> None:
        self.name, self.kind, self.root, self.paths = name, kind, root, tuple(paths)
        self.size = sum(path.stat().st_size for path in self.paths)

    def documents(self, seed: int = 0) -> Iterator[Document]:  # noqa: ARG002 (files are not drawn)
        for path in self.paths:
            key = path.relative_to(self.root).as_posix()
            if path.suffix == ".jsonl":
                yield from _lines(path, key)
            else:
                yield from _parts(_read(path), key)

    def manifest(self) -> dict[str, Any]:
        """The hash of every file by path below the root; for the standard library also the version of Python."""
        hashes = {path.relative_to(self.root).as_posix(): file_hash(path) for path in self.paths}
        known: dict[str, Any] = {"kind": self.kind, "name": self.name, "count": len(hashes), "hash": json_hash(hashes)}
        if self.kind == "python-env":
            known["python"] = platform.python_version()
        return {**known, "files": hashes} if len(hashes) <= LISTED_FILES else known


def open_source(spec: str) -> Source:
    """The source that a text names. Raises ValueError (one line) if it names none, or files that cannot be read."""
    kind, *options = spec.split(":")
    if kind == "tiny-python":
        return _tiny_python(spec, options)
    if kind == "python-env":
        if len(options) > 1:
            raise ValueError(f"cannot read source {spec!r}; write python-env or python-env:8MB")
        return _python_env(spec, parse_size(options[0]) if options else None)
    return _local_files(spec)


def open_sources(specs: Iterable[str]) -> tuple[Source, ...]:
    """`open_source` of each; raises ValueError if there is none."""
    opened = tuple(open_source(spec) for spec in ([specs] if isinstance(specs, str) else specs))
    if not opened:
        raise ValueError(f"no source is given; allowed: {ALLOWED}")
    return opened


def parse_size(text: str) -> int:
    """`8MB` -> 8,000,000 bytes. Raises ValueError for anything else, or zero."""
    match = _SIZE.fullmatch(text)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size <= 0:
        raise ValueError(f"{text!r} is not a size; write a number and KB, MB or GB, e.g. 8MB")
    return size


def _tiny_python(spec: str, options: Sequence[str]) -> TinyPython:
    size, seed = DEFAULT_TINY_BYTES, None
    for option in options:
        given = re.fullmatch(r"seed=(\d+)", option)
        if given:
            seed = int(given[1])
        elif _SIZE.fullmatch(option):
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
    path = Path(spec)
    if path.is_file():
        _check_ending(path, spec)
        return Files(path.name, "files", path.parent, [path])
    if path.is_dir():
        listed = _walk(path, ENDINGS, frozenset({"__pycache__"}))
        if not listed:
            raise ValueError(f"folder {spec!r} has no file that ends in {', '.join(ENDINGS)}")
        return Files(path.resolve().name, "files", path, listed)
    if has_magic(spec):
        matched = sorted(Path(found) for found in glob(spec, recursive=True) if Path(found).is_file())
        if not matched:
            raise ValueError(f"no file matches {spec!r}")
        for found in matched:
            _check_ending(found, spec)
        steady = list(_until_magic(path.parts))
        return Files("/".join(path.parts[len(steady) :]), "files", Path(*steady), matched)
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
