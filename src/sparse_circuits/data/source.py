"""What a source of text is: documents in a fixed order, and a manifest that says what they were.

corpus.py turns the text that names a source into one of the kinds; this file is what the kinds share. The split of a
document depends on its *split key* alone (`split_place`), so it is the same whatever else is in the corpus.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..files import json_hash

LISTED_FILES = 2000  # a manifest lists the hash of every file up to this many, beyond that one hash over all

SIZE = re.compile(r"(\d+(?:\.\d+)?)(KB|MB|GB)", re.IGNORECASE)
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


def parse_size(text: str) -> int:
    """`8MB` -> 8,000,000 bytes. Raises ValueError for anything else, or zero."""
    match = SIZE.fullmatch(text)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size <= 0:
        raise ValueError(f"{text!r} is not a size; write a number and KB, MB or GB, e.g. 8MB")
    return size


def listed(hashes: Mapping[str, str]) -> dict[str, Any]:
    """The part of a manifest on files (path below the root -> sha256): their count, one hash over all, and each."""
    known = {"count": len(hashes), "hash": json_hash(hashes)}
    return {**known, "files": dict(hashes)} if len(hashes) <= LISTED_FILES else known


def missing_extra(what: str) -> ValueError:
    """The error for a source whose library is not installed."""
    return ValueError(f'{what}: reading it needs the extra "data"; run: pip install "sparse-circuits[data]"')


def one_line(error: object) -> str:
    """What another library said, on one line and not for pages."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."
