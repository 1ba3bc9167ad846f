"""A server on the loopback that holds released files as their container does, and a Hub repo, with faults to switch on.

`Server.files` (path -> bytes) are served with ETag, Last-Modified, Content-MD5 and ranges; each `Faults` field breaks one
of these promises. Every request is logged with the bytes that were really sent. Of the Hub's protocol it speaks what
`snapshot_download` asks: revision, tree, and resolve with the Hub's headers.
"""

import base64
import hashlib
import json
import re
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from threading import Thread
from urllib.parse import urlsplit

RELEASED = Path(__file__).parent.parent / "golden" / "released"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATED = "someone/gated"
SLICE = 4096


@dataclass
class Request:
    """One request as it was answered."""

    method: str
    path: str
    range: str | None
    status: int = 0
    sent: int = 0
    """Bytes of the body, as far as they were written."""


@dataclass
class Faults:
    """What goes wrong; the default is a server that keeps its promises."""

    ranges: bool = True
    """Honours Range."""
    if_range: bool = True
    """Honours If-Range, i.e. sends all of a file that changed."""
    shift: int = 0
    """Ranges start this many bytes too early."""
    etag: str | None = "strong"
    """"strong", "weak" or None for none."""
    modified: bool = True
    md5: str | None = "right"
    """"right", "wrong", "garbled" or None for none."""
    status: int | None = None
    """Answers this instead of the file."""
    statuses: int | None = None
    """How many times; None: always."""
    cut_after: int | None = None
    """Bytes after which a body is cut off."""
    cuts: int | None = None
    """How many times; None: always."""
    reset: bool = False
    """Cuts are resets, not ends."""
    length: int | None = 0
    """Added to Content-Length, and to the size of ranges; None: no length, the connection just ends."""
    pause: float = 0.0
    """Seconds between slices."""
    headers: dict[str, str] = field(default_factory=dict)
    linked: str | None = None
    """The sha256 that redirects name; None: the right one."""
    chunked: bool = False
    tampered: dict[str, bytes] = field(default_factory=dict)
    """Repo file -> what is sent in its place, once, under the hash of the true one."""


class Server(ThreadingHTTPServer):
    """Serves `files`, and `repos` as a Hub."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.repos: dict[str, dict[str, bytes]] = {}
        self.faults = Faults()
        self.log: list[Request] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def requests(self, name: str = "") -> list[Request]:
        """The requests for paths with this end."""
        return [request for request in self.log if request.path.endswith(name)]


@contextmanager
def serving() -> Iterator[Server]:
    """A running server with one model, the tokenizer's files and one circuit, in the released layout."""
    server = Server()
    model = RELEASED / "rms_afrac_full_bigram"
    for name in ("beeg_config.json", "final_model.pt"):
        server.files[f"models/csp_yolo1/{name}"] = (model / name).read_bytes()
    server.files["tinypython/vocab.bpe"] = b"#version: 0.2\n"
    server.files["tinypython/encoder.json"] = b'{"!": 0}'
    server.files["viz/csp_yolo1/quote/prune_v2/k_optim/viz_data.pt"] = (RELEASED / "viz_like/viz_data.pt").read_bytes()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.request_log = Request(self.command, path, self.headers.get("Range"))
        self.server.log.append(self.request_log)
        faults = self.server.faults
        if faults.status and faults.statuses != 0:
            faults.statuses = None if faults.statuses is None else faults.statuses - 1
            self.answer(faults.status, {}, b"")
        elif path.startswith("/redirect/"):  # as the Hub's mirror sends large files to its store
            body = self.server.files[path.removeprefix("/redirect/")]
            linked = {"X-Linked-ETag": f'"{faults.linked or hashlib.sha256(body).hexdigest()}"'}
            self.answer(302, {"Location": path.replace("redirect/", "store/"), **linked}, b"")
        elif (file := path.removeprefix("/store").removeprefix("/mirror").strip("/")) in self.server.files:
            self.answer_file(self.server.files[file])
        elif not self.answer_hub(path):
            self.answer(404, {}, b"no such file")

    def answer_file(self, body: bytes) -> None:
        faults = self.server.faults
        digest = hashlib.md5(body).digest()
        headers = dict(faults.headers)
        tag = f'"{digest.hex()[:12]}"'
        if faults.etag:
            headers["ETag"] = tag if faults.etag == "strong" else f"W/{tag}"
        if faults.modified:
            headers["Last-Modified"] = f"Mon, 01 Jan 2024 00:00:{digest[0] % 60:02d} GMT"
        unchanged = self.headers.get("If-Range") in (None, tag, headers.get("Last-Modified"))
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start and faults.ranges and (unchanged or not faults.if_range):
            begin, total = int(start[1]) - faults.shift, len(body) + (faults.length or 0)
            if begin >= len(body):
                self.answer(416, {"Content-Range": f"bytes */{total}"}, b"")
                return
            headers["Content-Range"] = f"bytes {begin}-{total - 1}/{total}"
            headers["Content-MD5"] = base64.b64encode(hashlib.md5(body[begin:]).digest()).decode()  # of the range
            self.answer(206, headers, body[begin:])
            return
        if faults.md5:
            shown = digest if faults.md5 == "right" else bytes(16)
            headers["Content-MD5"] = base64.b64encode(shown).decode() if faults.md5 != "garbled" else "no base64!"
        self.answer(200, headers, body)

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        faults = self.server.faults
        self.request_log.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if faults.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif faults.length is not None:
            self.send_header("Content-Length", str(len(body) + (faults.length if status < 300 else 0)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self.send_body(body)
        except OSError:  # the other side has left
            self.close_connection = True

    def send_body(self, body: bytes) -> None:
        faults = self.server.faults
        cut = faults.cut_after
        if cut is None or faults.cuts == 0 or cut >= len(body):
            cut = None
        elif faults.cuts is not None:
            faults.cuts -= 1
        for begin in range(0, len(body if cut is None else body[:cut]), SLICE):
            piece = body[begin : min(begin + SLICE, len(body) if cut is None else cut)]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if faults.chunked else piece)
            self.request_log.sent += len(piece)
            time.sleep(faults.pause)
        if faults.chunked and cut is None:
            self.wfile.write(b"0\r\n\r\n")
        if cut is not None and faults.reset:
            time.sleep(0.05)  # let what was sent be read: a reset throws away what is under way
            self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        if cut is not None or faults.length != 0:
            self.close_connection = True

    # --- the Hub

    def answer_hub(self, path: str) -> bool:
        asked = re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/(revision|tree)/(\w+)", path)
        if asked:
            self.answer_api(*asked.groups())
            return True
        asked = re.fullmatch(r"/([\w-]+/[\w-]+)/resolve/(\w+)/(.+)", path)
        if not asked or asked[3] not in self.server.repos.get(asked[1], {}):
            return False
        true = self.server.repos[asked[1]][asked[3]]
        headers = {"ETag": f'"{_blob(asked[3], true)}"', "X-Repo-Commit": COMMIT}
        if _large(asked[3]):
            headers |= {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(len(true))}
        tampered = self.server.faults.tampered
        self.answer(200, headers, tampered.pop(asked[3], true) if self.command == "GET" else true)
        return True

    def answer_api(self, repo: str, what: str, revision: str) -> None:
        error = None
        if repo == GATED:
            error = (403, "GatedRepo")
        elif repo not in self.server.repos:
            error = (404, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            error = (404, "RevisionNotFound")
        if error:
            self.answer(error[0], {"X-Error-Code": error[1]}, b"")
            return
        files = self.server.repos[repo]
        if what == "revision":
            value: object = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        else:
            value = [_tree_entry(name, body) for name, body in files.items()]
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())


def _large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def _blob(name: str, body: bytes) -> str:
    """The name of a file's content: sha256 in the large-file store, git's sha1 elsewhere."""
    return (
        hashlib.sha256(body).hexdigest()
        if _large(name)
        else hashlib.sha1(b"blob %d\0%s" % (len(body), body)).hexdigest()
    )


def _tree_entry(name: str, body: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
    if _large(name):
        entry["lfs"] = {"oid": _blob(name, body), "size": len(body), "pointerSize": 130}
    return entry
