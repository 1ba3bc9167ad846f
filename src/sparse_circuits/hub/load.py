"""`load_model` and `load_tokenizer`: from a name or a folder to what it holds.

One loader for three layouts, told apart by their files: our own model folder, the released folder
(`beeg_config.json` + `final_model.pt`), and the transformers folder (`config.json`, model_type `circuitgpt`). A released name
or a Hub repo is downloaded first (hub.fetch) and then read like any folder.
"""

from pathlib import Path
from typing import Any, Literal

import torch

from sparse_circuits.bundled.folders import NAMES, bundled_folder
from sparse_circuits.data.tokenizer import TOKENIZER_FILE, as_fast_tokenizer, read_tokenizer
from sparse_circuits.files import file_hash, read_json
from sparse_circuits.hub import fetch
from sparse_circuits.hub.layouts import read_released, read_transformers
from sparse_circuits.hub.released import CONFIG_FILE as RELEASED_CONFIG
from sparse_circuits.hub.released_tokenizer import VOCABULARY_FILE, read_released_tokenizer
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.folder import CONFIG_FILE, read_model
from sparse_circuits.model.transformer import SparseTransformer

Layout = Literal["own", "released", "transformers"]
READERS = {"own": read_model, "released": read_released, "transformers": read_transformers}


def load_model(
    where: str | Path,
    device: str | torch.device = "cpu",
    *,
    verify: bool = True,
    dtype: torch.dtype | None = torch.float32,
    progress: Progress = SILENT,
) -> SparseTransformer:
    """A model ready to evaluate; it remembers its folder as `source`.

    where: `bundled` or `bundled-dense`, a model folder of this library (or the run folder that holds one), a released folder,
    a transformers folder, a released name such as `csp_yolo1`, or a Hub repo such as `openai/circuit-sparsity`.
    verify: whether all bytes are read now and compared with the checksums there are (our hashes, the CRCs of a zip, hashes
    noted at download), and NaN refused. Structure, names, shapes and dtypes are checked always.
    dtype: of the weights; None leaves them as stored. Weights stay memory-mapped where nothing converts them.
    Raises ValueError, one line, if there is no model, or it is damaged, edited or of another format.
    """
    folder = model_folder(locate(where, progress=progress))
    _check_device(device)
    if verify:
        check_download(folder)
    model = READERS[layout(folder)](folder, verify=verify, dtype=dtype)
    return model.to(device)


def load_tokenizer(where: str | Path, *, progress: Progress = SILENT) -> Any:
    """The transformers fast tokenizer of a model, tokenizer or shards folder, a released name or a Hub repo.

    Reads `tokenizer.json`, or `vocab.bpe` + `encoder.json` in the folder or where the released container has them
    (`../../tinypython`). Raises ValueError, one line.
    """
    folder = locate(where, progress=progress)
    inner = folder / "model"
    folder = inner if (inner / CONFIG_FILE).is_file() else folder
    place = tokenizer_place(folder)
    if place is None and fetch.is_released(str(where)):
        place = fetch.fetch_tokenizer_files(progress=progress)
    if place is None and (folder / RELEASED_CONFIG).is_file():
        both = f"{folder} or {_beside(folder)}"
        raise ValueError(
            f"no tokenizer for {folder}; put {TOKENIZER_FILE}, or vocab.bpe and {VOCABULARY_FILE}, into {both}"
        )
    if place is None or (place / TOKENIZER_FILE).is_file():
        return read_tokenizer(place or folder)
    return as_fast_tokenizer(read_released_tokenizer(place))


def tokenizer_place(folder: Path) -> Path | None:
    """The folder that holds the tokenizer's files: the given one or, for a released model, the container's."""
    places = (folder, _beside(folder)) if (folder / RELEASED_CONFIG).is_file() else (folder,)
    names = (TOKENIZER_FILE, VOCABULARY_FILE)
    return next((place for place in places if any((place / name).is_file() for name in names)), None)


def _beside(folder: Path) -> Path:
    """Where the released container keeps its tokenizer."""
    return folder.absolute().parent.parent / "tinypython"


def locate(where: str | Path, *, progress: Progress = SILENT) -> Path:
    """The local folder of a bundled name, path, released name or Hub repo, downloaded where needed. Raises ValueError, one line."""
    if where in NAMES:
        return bundled_folder(str(where))
    if Path(where).exists() or isinstance(where, Path):
        return Path(where)
    if fetch.is_released(where):
        return fetch.fetch_released(where, progress=progress)
    if fetch.looks_like_repo(where) and not Path(where).parent.is_dir():
        return fetch.fetch_repo(where, progress=progress)
    return Path(where)


def locate_repo(where: str | Path, **hub: Any) -> Path:
    """`locate`, with the options of transformers for a Hub repo (revision, cache_dir, token, ...). Raises ValueError."""
    given = {name: value for name, value in hub.items() if value}
    if isinstance(where, str) and fetch.looks_like_repo(where) and given:
        return fetch.fetch_repo(where, **given)
    return locate(where)


def model_folder(where: str | Path) -> Path:
    """The folder itself, or `model` inside a run folder."""
    folder = Path(where)
    for candidate in (folder, folder / "model"):
        if (candidate / CONFIG_FILE).is_file() or (candidate / RELEASED_CONFIG).is_file():
            return candidate
    raise ValueError(
        f"no model at {folder}; give {' or '.join(NAMES)}, a model folder (with {CONFIG_FILE} or {RELEASED_CONFIG}), a run "
        f"folder that holds one, a released name ({fetch.released_names()}) or a Hub repo (owner/name)"
    )


def layout(folder: Path) -> Layout:
    """Which of the three layouts a model folder has. Raises ValueError for a model of another library."""
    if (folder / RELEASED_CONFIG).is_file():
        return "released"
    stored = read_json(folder / CONFIG_FILE)
    kind = stored.get("model_type")
    if kind == "circuitgpt":
        return "transformers"
    if stored.get("kind") == "model" or kind == "sparse_circuits":
        return "own"
    raise ValueError(
        f"{folder} holds {stored.get('kind') or kind or 'something'!r}, not a model this library reads; "
        "allowed model_type: sparse_circuits, circuitgpt"
    )


def _check_device(device: str | torch.device) -> None:
    """Raises ValueError if torch does not know the device or this machine lacks it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {str(device)!r} cannot be used here ({reason}); cpu always works") from None


def check_download(folder: Path) -> None:
    """Raises ValueError if a file is no longer what was downloaded into this folder."""
    for name, recorded in fetch.downloaded_hashes(folder).items():
        if (folder / name).is_file() and file_hash(folder / name) != recorded:
            raise ValueError(f"{folder / name} is not what was downloaded (hash differs); delete it and load again")
