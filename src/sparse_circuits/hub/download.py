"""One file over HTTP: whole and checked, or one line that says why not.

1. A lock lets one process at a time work in a folder; the others wait as long as it gets on (`alone_in`).
2. Bytes go to `<file>.part`, and `<file>.part.json` remembers what the server calls them (ETag or Last-Modified, size,
   hashes): a later call asks for the rest only, and starts anew if the server has other content by then.
3. A connection that breaks is opened again a few times; what came stays.
4. When all is there, the size, the MD5 (Content-MD5, which Azure sends) and the sha256 (the X-Linked-ETag that Hugging
   Face sends with a redirect to its store) are checked; then flush and rename. A damaged file is deleted.
The standard library does it all; every socket operation has a time limit. What is fetched from where: hub/fetch.py.
"""

import base64
import binascii
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from sparse_circuits.files import write_json
from sparse_circuits.log import SILENT, Progress

TIMEOUT = 30.0
"""Seconds that connecting, or waiting for the next byte, may take."""
TRIES = 4
"""Connections in a row that may fail; one that brought a CHUNK starts the count again."""
PAUSE = 1.0
"""Seconds before the second of them, doubled before each further one."""
STALLED = 180.0
"""Seconds without a new byte after which another process's lock is an error; above TRIES * TIMEOUT and the pauses."""
CHUNK = 1 << 20
MEGABYTE = 1_000_000


class Unreachable(ValueError):
    """The file could not be had: no network, a server that refuses, a connection that keeps breaking."""


class NotPublished(ValueError):
    """The server is there and has no such file (404)."""


class _Broken(Exception):
    """One connection failed, `connected` or not; another may work."""

    def __init__(self, reason: object, connected: bool) -> None:
        super().__init__(reason)
        self.connected = connected


class _Changed(_Broken):
    """The server has other content by now: what came before is of no use."""

    def __init__(self) -> None:
        super().__init__("the server has other content by now", True)


class Downloaded(NamedTuple):
    """A file that came whole: what a manifest keeps of it."""

    size: int
    """Bytes."""
    sha256: str
    """Hex, of the bytes on disk."""
    url: str
    etag: str | None


@dataclass(frozen=True)
class _Version:
    """What the server says of a file: enough to know the same content again, and to check it."""

    url: str
    etag: str | None
    modified: str | None
    size: int | None
    md5: str | None
    sha256: str | None

    @property
    def tag(self) -> str | None:
        return self.etag or self.modified

    def same(self, other: "_Version") -> bool:
        """Whether bytes of both may be joined."""
        return (self.tag, self.size) == (other.tag, other.size)


def download_file(
    url: str, target: Path, *, title: str, record: Callable[[Downloaded], None], progress: Progress = SILENT
) -> None:
    """Downloads `url` (http or https) to `target`, going on with what an earlier call left in `<target>.part`.

    record: called with what came before it appears under its name, so that no file is ever there unrecorded.
    Raises NotPublished, Unreachable, or ValueError for damaged content (which is deleted); OSError for this machine's disk.
    """
    part = _beside(target, ".part")
    attempts = failures = 0
    while True:
        had = _length(part)
        try:
            version = _transfer(url, part, title, progress)
            break
        except _Broken as broken:
            if isinstance(broken, _Changed):
                _discard(part)
            have = _length(part)
            attempts, failures = attempts + 1, 0 if have - had >= CHUNK else failures + 1
            if failures == TRIES or (attempts == 1 and not broken.connected):
                what = f"the download of {url} keeps failing" if broken.connected else f"cannot reach {url}"
                kept = f"; {have} bytes of it are kept, the next call goes on from there" if have else ""
                raise Unreachable(f"{what} ({broken}){kept}") from None
            progress.say(f"{title} broke off at {have} bytes ({broken}); trying again")
            time.sleep(PAUSE * 2 ** max(failures - 1, 0))
    record(_checked(part, version))
    os.replace(part, target)
    _beside(part, ".json").unlink(missing_ok=True)


def _transfer(url: str, part: Path, title: str, progress: Progress) -> _Version:
    """One connection: brings `part` up to the end of the file, or raises _Broken with what came kept."""
    known = _known(part, url)
    have = _length(part) if known else 0
    if known and have == known.size:  # killed between the last byte and the new name
        return known
    with _open(url, known.tag if known and have else None, have) as (response, offered):
        if response.status == 206:
            if known is None or not offered.same(known) or _range_start(response) != have:
                raise _Changed
        else:  # the whole file; the order matters to a kill: never new words beside old bytes
            part.write_bytes(b"")
            write_json(_beside(part, ".json"), asdict(offered))
            known, have = offered, 0
        total = -(-(known.size or 1) // MEGABYTE)
        with open(part, "ab") as file, progress.bar(f"{title} (MB)", total) as bar:
            while piece := _read(response):
                file.write(piece)
                if have // MEGABYTE < (have := have + len(piece)) // MEGABYTE:
                    bar.update(have // MEGABYTE)
            if known.size is not None and have < known.size:
                raise _Broken("the connection was closed early", True)
            bar.update(total)
    return known


@contextmanager
def _open(url: str, tag: str | None, have: int) -> Iterator[tuple[HTTPResponse, _Version]]:
    """The answer to a GET: of the rest, if the first `have` bytes of a version with that tag are here; without a tag of all."""
    headers = {"User-Agent": "sparse-circuits"}
    if tag is not None:
        headers["Range"] = f"bytes={have}-"
        if not tag.startswith("W/"):  # a weak ETag may not stand here; the answer is compared in any case
            headers["If-Range"] = tag
    redirects = _Redirects()
    try:
        response = build_opener(redirects).open(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        _refused(url, error)
        if error.code == 416 and tag is not None:
            raise _Changed from None
        raise _Broken(f"{error.code} {error.reason}", True) from None
    except URLError as error:
        raise _Broken(error.reason, False) from None
    except (OSError, HTTPException) as error:
        raise _Broken(one_line(error), True) from None
    with response:
        offered = _version(url, response, redirects.linked)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise Unreachable(f"{url} comes compressed, which cannot be checked")
        if response.headers.get_content_type() == "text/html":
            raise Unreachable(f"{url} answers with a web page instead of the file")
        if offered.size is None and not response.chunked:
            raise Unreachable(f"{url} comes without its length, so that a part would pass for the whole")
        yield response, offered


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, never from https to something weaker, and keeps the hash that the Hub sends with its own."""

    linked: str | None = None

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        self.linked = headers.get("X-Linked-ETag") or self.linked
        if urlsplit(newurl).scheme not in ({"https"} if req.type == "https" else {"http", "https"}):
            raise URLError(f"it redirects to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refused(url: str, error: HTTPError) -> None:
    """Raises for an answer that another try would not change; 408, 416, 429 and 5xx may pass."""
    if error.code == 404:
        raise NotPublished(f"{url} does not exist")
    if error.code < 500 and error.code not in (408, 416, 429):
        raise Unreachable(f"{url} answers {error.code} {error.reason}")


def _version(url: str, response: HTTPResponse, linked: str | None) -> _Version:
    headers, partial = response.headers, response.status == 206
    length = headers.get("Content-Range", "").rpartition("/")[2] if partial else headers.get("Content-Length", "")
    linked = (headers.get("X-Linked-ETag") or linked or "").removeprefix("W/").strip('"')
    return _Version(
        url=url,
        etag=headers.get("ETag"),
        modified=headers.get("Last-Modified"),
        size=int(length) if length.isdecimal() else None,
        md5=_md5(headers.get("Content-MD5")),  # with a range the range's own, which nobody asks for
        sha256=linked if re.fullmatch("[0-9a-f]{64}", linked) else None,
    )


def _md5(header: str | None) -> str | None:
    """Hex, from base64; None for what is no MD5."""
    try:
        digest = base64.b64decode(header or "", validate=True)
    except binascii.Error:
        return None
    return digest.hex() if len(digest) == 16 else None


def _range_start(response: HTTPResponse) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, HTTPException) as error:
        raise _Broken(one_line(error), True) from None


def _checked(part: Path, version: _Version) -> Downloaded:
    """Flushes the file to disk and checks it. Raises ValueError, and deletes it, if it is not what the server announced."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with open(part, "rb+") as file:
        while piece := file.read(CHUNK):
            md5.update(piece)
            sha256.update(piece)
        os.fsync(file.fileno())
    found = {"size": _length(part), "md5": md5.hexdigest(), "sha256": sha256.hexdigest()}
    for name, value in found.items():
        wanted = getattr(version, name)
        if wanted not in (None, value):
            _discard(part)
            raise ValueError(
                f"what came from {version.url} is damaged ({name} {value}, announced {wanted}) and was deleted;"
                " try again, or from another mirror"
            )
    return Downloaded(found["size"], found["sha256"], version.url, version.etag)


def _known(part: Path, url: str) -> _Version | None:
    """What the bytes in `part` are the beginning of; None where it is not to be trusted."""
    try:
        version = _Version(**json.loads(_beside(part, ".json").read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return version if version.url == url and _length(part) <= (version.size or 0) else None


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _beside(part, ".json").unlink(missing_ok=True)


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def _length(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def one_line(error: BaseException) -> str:
    """What an error says, however long, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def alone_in(folder: Path, progress: Progress = SILENT) -> Iterator[None]:
    """Holds the lock of a folder for the length of the block; the system frees it when a process ends, however it ends.

    Waits for another holder as long as bytes arrive in the folder. Raises ValueError that names the holder if none did for
    STALLED seconds, OSError where the disk knows no locks.
    """
    import fcntl  # not on every system, and only downloads need it

    with open(folder / ".lock", "a+", encoding="utf-8") as lock:
        holder, seen, since = "", -1, time.monotonic()
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pass
            if not holder:
                lock.seek(0)
                if holder := lock.read():  # written a moment after the lock is taken
                    progress.say(f"waiting for {holder}, which downloads to {folder}")
            arrived = sum(_length(file) for file in folder.iterdir())
            if arrived != seen:
                seen, since = arrived, time.monotonic()
            elif time.monotonic() - since > STALLED:
                who = holder or "another process"
                raise ValueError(f"{who} downloads to {folder}, but nothing came for {STALLED:g} s; end it, or wait")
            time.sleep(0.1)
        try:
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough where a fork holds the file too
