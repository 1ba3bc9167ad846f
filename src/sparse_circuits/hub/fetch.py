"""Released names and Hub repos to local folders: downloaded once, checked, then served from disk (RELEASE_FORMAT 1.1, 2).

The paper's files lie in one public container; `SPARSE_CIRCUITS_MIRROR` names another server of the same layout, such as
`https://huggingface.co/datasets/<owner>/<name>/resolve/main`. Here they lie in the cache, again in the same layout:

    <cache>/models/<name>/{beeg_config.json, final_model.pt}   <cache>/tinypython/{vocab.bpe, encoder.json}
    <cache>/viz/<model>/<task>/<sweep>/<k>/viz_data.pt

with a `manifest.json` in each folder that keeps what came (docs/format.md). <cache> is `SPARSE_CIRCUITS_CACHE`, or
`sparse_circuits` in the user's cache folder. Files put there by hand serve as they are: no network is needed then. Hub
repos go to the Hub's own cache, with the Hub's own library; code and pickles are never asked for.
"""

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sparse_circuits.files import check_format, file_hash, read_json, write_json
from sparse_circuits.hub.download import (
    MEGABYTE,
    Downloaded,
    NotPublished,
    Unreachable,
    alone_in,
    download_file,
    one_line,
)
from sparse_circuits.log import SILENT, Progress

PUBLISHED = "https://openaipublic.blob.core.windows.net/circuit-sparsity"
MODEL_FILES = ("beeg_config.json", "final_model.pt")
TOKENIZER_FILES = ("vocab.bpe", "encoder.json")
VIZ_FILES = ("viz_data.pt",)
MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 1
REPO_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.bpe")
"""What is downloaded of a repo: data only."""

_SINGLE = ("csp_yolo1", "csp_yolo2", "csp_bridges2", "dense1_1x")
_SWEEP = (
    ("1", "2", "4", "8", "16"),
    ("0.9", "1.9", "3.7", "7.4", "14.8"),
    ("0.062", "0.125", "0.250", "0.500", "1.000"),
)
_NAMES = {*_SINGLE, *(f"csp_sweep1_{x}x_{n}Mnonzero_afrac{a}" for x, n, a in itertools.product(*_SWEEP))}
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_MIRROR = re.compile(r"https?://([\w.-]+|\[[0-9a-f:]+\])(:\d+)?(/[!-\"$->@-~]*)?", re.ASCII | re.IGNORECASE)
"""No user, query or fragment: file names are appended, and the url is written into manifests."""
_PART = re.compile(r"\w[\w.+-]*", re.ASCII)


def released_names() -> str:
    """All released names in one line, the sweep as a pattern."""
    expansion, nonzero, afrac = ("{" + ",".join(values) + "}" for values in _SWEEP)
    return f"{', '.join(_SINGLE)}, csp_sweep1_{expansion}x_{nonzero}Mnonzero_afrac{afrac}"


def is_released(name: str) -> bool:
    """Whether this is the name of a model of the paper."""
    return name in _NAMES


def looks_like_repo(name: str) -> bool:
    """Whether this reads as "owner/name" on the Hub and is not a path that exists here."""
    return _REPO.fullmatch(name) is not None and not Path(name).exists()


def cache_folder() -> Path:
    """Where downloads are kept: SPARSE_CIRCUITS_CACHE, else `sparse_circuits` in XDG_CACHE_HOME, else in ~/.cache."""
    if own := os.environ.get("SPARSE_CIRCUITS_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparse_circuits"


def fetch_released(name: str, *, progress: Progress = SILENT) -> Path:
    """The folder of a released model in the cache, downloaded if it is not there.

    Raises ValueError, one line: an unknown name, no network, a server without it, damaged content, an unusable cache.
    """
    if not is_released(name):
        raise ValueError(f"no released model is called {name!r}; the names are {released_names()}")
    return _fetch(("models", name), MODEL_FILES, f"the models published are among {released_names()}", progress)


def fetch_tokenizer_files(*, progress: Progress = SILENT) -> Path:
    """The folder of the released tokenizer's files (RELEASE_FORMAT 3). Raises ValueError like `fetch_released`."""
    return _fetch(("tinypython",), TOKENIZER_FILES, "every mirror must hold the tokenizer", progress)


def fetch_viz(model: str, task: str, sweep: str, k: int | str, *, progress: Progress = SILENT) -> Path:
    """The `viz_data.pt` of a published circuit, such as ("csp_yolo1", "single_double_quote", "prune_v2", 128).

    k: nodes of the circuit, or "k_optim". Raises ValueError like `fetch_released`.
    """
    names = (model, task, sweep, str(k))
    for name in names:
        if not _PART.fullmatch(name) or ".." in name:
            raise ValueError(f"{name!r} cannot be part of a circuit's name; use letters, digits and _ . + - only")
    known = "published are csp_yolo1/single_double_quote/prune_v2/128, csp_yolo2/bracket_counting_beeg/prune_v4/k_optim and others"
    return _fetch(("viz", *names), VIZ_FILES, known, progress) / VIZ_FILES[0]


def downloaded_hashes(folder: str | Path) -> dict[str, str]:
    """File name -> sha256 of what was downloaded into a folder of the cache; empty for files put there by hand.

    Raises ValueError if the manifest is damaged or of another format.
    """
    return {name: held["sha256"] for name, held in _manifest(Path(folder)).items()}


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / MANIFEST_FILE
    if not file.is_file():
        return {}
    stored = read_json(file)
    check_format(stored, "download", FORMAT_VERSION, file)
    files: Any = stored.get("files")
    whole = isinstance(files, dict) and all(
        isinstance(held, dict) and {"size", "sha256"} <= set(held) for held in files.values()
    )
    if not whole:
        raise ValueError(f"{file} is damaged; delete the folder to download it again")
    return files


def _fetch(parts: tuple[str, ...], names: tuple[str, ...], published: str, progress: Progress) -> Path:
    """<cache>/<parts>, with all the files; `published`: what to say when the server has them not."""
    folder = cache_folder().joinpath(*parts)
    try:
        if not _missing(folder, names):
            return folder
        base = _base()
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder, progress):
            for name in _missing(folder, names):  # asked again: another process may have brought them meanwhile
                progress.say(f"downloading {name} of {'/'.join(parts)} from {base} to {folder}")
                url = "/".join((base, *(quote(part) for part in parts), name))
                download_file(url, folder / name, title=name, record=partial(_record, folder, name), progress=progress)
    except NotPublished as error:
        raise ValueError(f"{error}: {'/'.join(parts)} is not published there; {published}") from None
    except Unreachable as error:
        local = f"a folder with {' and '.join(names)} is given by its path or put at {folder}"
        raise ValueError(f"{error}; no network is needed if {local}") from None
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder} ({one_line(error)}); name another cache in SPARSE_CIRCUITS_CACHE"
        ) from None
    return folder


def _missing(folder: Path, names: tuple[str, ...]) -> list[str]:
    """Which files are not there. Raises ValueError for one that is there and is not what was downloaded."""
    for name, held in _manifest(folder).items():
        file = folder / name
        if name in names and file.is_file() and file.stat().st_size != held["size"]:
            found = f"{file} has {file.stat().st_size} bytes, {held['size']} were downloaded"
            raise ValueError(
                f"{found}; delete it to download it again, or {MANIFEST_FILE} if you put it there yourself"
            )
    return [name for name in names if not (folder / name).is_file()]


def _record(folder: Path, name: str, came: Downloaded) -> None:
    files = {**_manifest(folder), name: came._asdict()}
    write_json(folder / MANIFEST_FILE, {"kind": "download", "format_version": FORMAT_VERSION, "files": files})


def _base() -> str:
    """The server to ask, without a slash at its end."""
    mirror = os.environ.get("SPARSE_CIRCUITS_MIRROR")
    if not mirror:
        return PUBLISHED
    if not _MIRROR.fullmatch(mirror):
        raise ValueError(
            f"SPARSE_CIRCUITS_MIRROR is {mirror!r}; give the plain http(s) url of a folder with models/ and tinypython/"
        )
    return mirror.rstrip("/")


# --- the Hub


def fetch_repo(repo_id: str, *, revision: str | None = None, progress: Progress = SILENT, **hub: Any) -> Path:
    """The folder of a Hub repo's data files at a revision, in the Hub's own cache (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE).

    Every file in the Hub's large-file store is checked against its sha256, also when it was there already: the Hub's own
    library checks sizes only. hub: further options of its `snapshot_download` (cache_dir, token, local_files_only,
    force_download). Raises ValueError, one line: no such repo or revision, no access, no network, damaged content.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HTTPError  # pyright: ignore[reportPrivateImportUsage]

    try:
        with _relayed(repo_id, progress) as bars:
            got = snapshot_download(repo_id, revision=revision, allow_patterns=list(REPO_FILES), tqdm_class=bars, **hub)
    except (OSError, HTTPError, EntryNotFoundError, RuntimeError, ValueError) as error:
        raise ValueError(_hub_refusal(error, repo_id, revision, constants.ENDPOINT, constants.HF_HUB_CACHE)) from None
    folder = Path(got)
    if not folder.is_dir():
        raise ValueError(f"{repo_id} on {constants.ENDPOINT} holds none of {', '.join(REPO_FILES)}; give another repo")
    damaged = [file for pattern in REPO_FILES for file in sorted(folder.rglob(pattern)) if not _as_named(file)]
    for file in damaged:
        named = file.parent / file.readlink()
        file.resolve().unlink()  # what the name leads to in the end: repos may share a store
        named.unlink(missing_ok=True)
    if damaged:
        names = ", ".join(str(file.relative_to(folder)) for file in damaged)
        raise ValueError(
            f"{names} of {repo_id}: not the sha256 that {constants.ENDPOINT} announced; deleted, try again"
        )
    return folder


def _as_named(link: Path) -> bool:
    """Whether a file of a snapshot is what it links to by name; true also where the name is no sha256 (small files)."""
    name = link.readlink().name if link.is_symlink() and link.is_file() else ""
    return re.fullmatch("[0-9a-f]{64}", name) is None or file_hash(link) == name


@contextmanager
def _relayed(repo_id: str, progress: Progress) -> Iterator[type]:
    """The class of bars that the Hub's library is given: they draw nothing and tell `progress` how many files and MB came."""
    from tqdm import tqdm

    class Relay(tqdm):
        """One of: the bar of files, which stands for all of them; a bar of bytes."""

        shown, files, megabytes = None, 0, 0.0

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})
            self.counts_bytes = options.get("unit") == "B"
            if not self.counts_bytes:
                Relay.shown = open_bars.enter_context(
                    progress.bar(f"{repo_id} (files)", int(options.get("total") or 0))
                )

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self.counts_bytes:  # what was received and what was written are counted apart; the larger says more
                Relay.megabytes = max(Relay.megabytes, self.n / MEGABYTE)
            else:
                Relay.files = int(self.n)
            if Relay.shown is not None:
                Relay.shown.update(Relay.files, MB=round(Relay.megabytes))

    with ExitStack() as open_bars:
        yield Relay


def _hub_refusal(error: Exception, repo_id: str, revision: str | None, endpoint: str, cache: str) -> str:
    """What a user can do about an error of the Hub's library, in one line."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    local = f"there is no local folder {repo_id}; no network is needed if you give the path of a folder with its files"
    if isinstance(error, GatedRepoError):  # the special case of the next
        return f"{repo_id} is gated: accept its terms at {endpoint}/{repo_id}, then `hf auth login` or set HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"no repo {repo_id!r} on {endpoint}, nor a local folder of that name; check the name, and if it is private,"
            " `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} on {endpoint} has no revision {revision!r}; give one of its branches, tags or commits"
    if isinstance(error, LocalEntryNotFoundError):
        cause = error.__cause__ or error
        return f"cannot reach {endpoint} ({one_line(cause)}), and {repo_id} is not whole in {cache}; {local}"
    return f"cannot download {repo_id} from {endpoint} ({one_line(error)}); {local}"
