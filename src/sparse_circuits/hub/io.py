"""Import, export and upload: one model in any layout, and always the tokenizer and a card beside it.

import: any layout (or a released name, or a Hub repo) -> our own model folder.
export: any model -> the released layout, the transformers layout, or our own, with sparse tensors or with dense ones.
push:   a folder to the Hub, through the Hub's own library; only ever when asked.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sparse_circuits.data.tokenizer import save_tokenizer, tokenizer_hash, vocab_size
from sparse_circuits.files import check_replaceable, new_folder, read_json, read_metadata, write_bytes
from sparse_circuits.hub.card import TRAINING_FILE, write_card
from sparse_circuits.hub.layouts import MANIFEST, write_released, write_transformers
from sparse_circuits.hub.load import load_model, load_tokenizer, tokenizer_place
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.folder import CONFIG_FILE, model_hash, save_model
from sparse_circuits.model.transformer import SparseTransformer

ExportLayout = Literal["own", "sparse", "released", "transformers"]
"""`sparse` and `own` are our model folder; `sparse` packs tensors where that is smaller, `own` leaves all as they are."""
LAYOUTS: tuple[ExportLayout, ...] = get_args(ExportLayout)
REFERENCE_FILE = "reference.safetensors"


@dataclass(frozen=True, kw_only=True)
class Written:
    """What an import or export made."""

    path: str
    bytes: int
    """Size of all files."""
    layout: ExportLayout
    tokenizer: bool
    """Whether a tokenizer was found and written beside the model."""


def import_model(where: str | Path, out: str | Path, *, verify: bool = True, progress: Progress = SILENT) -> Written:
    """Any model that `load_model` reads -> our own folder at `out`. Raises ValueError, one line, OSError."""
    return export_model(where, "sparse", out, verify=verify, progress=progress)


def export_model(
    where: str | Path | SparseTransformer,
    to: ExportLayout | str,
    out: str | Path,
    *,
    tokenizer: Any = None,
    licence: str = "apache-2.0",
    verify: bool = True,
    progress: Progress = SILENT,
) -> Written:
    """Writes a model (or what lies at a path) in another layout into a new folder, whole or not at all.

    tokenizer: None = the one beside the model, if any. licence: for the card, as the Hub writes it.
    Raises ValueError, one line, for an unknown layout, a folder in use, an option that the layout cannot express, a tokenizer
    that is damaged or not the model's.
    """
    layout: ExportLayout | None = next((name for name in LAYOUTS if name == to), None)
    if layout is None:
        raise ValueError(f"unknown layout {to!r}; allowed: {', '.join(LAYOUTS)}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise ValueError(f"licence {licence!r}; allowed: an identifier as the Hub writes it, such as apache-2.0 or mit")
    ours = to in ("own", "sparse")
    kind = "model" if ours else "export"
    check_replaceable(out, kind)
    in_memory = isinstance(where, SparseTransformer)
    model = where if in_memory else load_model(where, verify=verify, dtype=None, progress=progress)
    beside = model.source if in_memory else where
    if tokenizer is None and beside is not None:
        tokenizer = find_tokenizer(beside, model, progress)
    hashed = check_tokenizer(tokenizer, model)
    with new_folder(out, kind) as draft:
        if ours:
            save_model(model, draft, hashed, dense=layout == "own")
            _copy_beside(model, draft, changed=in_memory)
        elif layout == "released":
            write_released(model, draft, hashed)
        else:
            write_transformers(model, draft, hashed)
        if tokenizer is not None:
            save_tokenizer(tokenizer, draft)
        write_card(model, draft, layout, name=Path(out).name, licence=licence, has_tokenizer=tokenizer is not None)
    size = sum(file.stat().st_size for file in Path(out).rglob("*") if file.is_file())
    return Written(path=str(out), bytes=size, layout=layout, tokenizer=tokenizer is not None)


def find_tokenizer(where: str | Path, model: SparseTransformer, progress: Progress) -> Any:
    """The tokenizer beside a model, None if there is none. Raises ValueError if it is damaged."""
    try:
        return load_tokenizer(where, progress=progress)
    except ValueError as error:
        if model.source is not None and tokenizer_place(model.source) is not None:
            raise
        progress.say(f"no tokenizer taken along: {error}")
        return None


def check_tokenizer(tokenizer: Any, model: SparseTransformer) -> str | None:
    """Hash of the tokenizer; without one, of that which the model's folder names. Raises ValueError if it is not the model's."""
    recorded = None
    for name in (MANIFEST, CONFIG_FILE):
        if recorded is None and model.source is not None and (model.source / name).is_file():
            recorded = read_json(model.source / name).get("tokenizer_hash")
    if tokenizer is None:
        return recorded
    tokens, hashed = vocab_size(tokenizer), tokenizer_hash(tokenizer)
    if tokens != model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokens} tokens, the model {model.config.vocab_size} ({model.source or 'in memory'}); "
            "give the one the model was trained with"
        )
    if recorded not in (None, hashed):
        raise ValueError(
            f"this tokenizer (hash {hashed[:12]}) is not the one that {model.source} was saved with ({str(recorded)[:12]}); "
            "restore that"
        )
    return hashed


def _copy_beside(model: SparseTransformer, draft: Path, changed: bool) -> None:
    """What a folder of ours holds beside the weights, when the model came from one.

    changed: the model may have been, since; then reference values only go along if they are still its own.
    """
    for file in () if model.source is None else (model.source / TRAINING_FILE, model.source / REFERENCE_FILE):
        if file.is_file() and not (changed and file.name == REFERENCE_FILE and _of_another(file, model)):
            write_bytes(draft / file.name, file.read_bytes())


def _of_another(reference: Path, model: SparseTransformer) -> bool:
    return read_metadata(reference).get("model_hash") != model_hash(model)


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    **commit: Any,
) -> str:
    """Uploads a folder to a Hub repo (made if needed) in one commit; returns its address.

    commit: options of the Hub's `upload_folder` (commit_message, commit_description, revision, create_pr).
    Raises ValueError, one line, if the Hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    where = Path(folder)
    if not any((where / name).is_file() for name in ("config.json", "beeg_config.json")):
        raise ValueError(f"{where} holds no model; export one first")
    api = HfApi(token=token)
    try:
        made = api.create_repo(repo_id, private=private, exist_ok=True)
        options = {"commit_message": f"Upload {repo_id}", **{key: value for key, value in commit.items() if value}}
        done = api.upload_folder(repo_id=made.repo_id, folder_path=where, **options)
    except (HTTPError, OSError, ValueError) as error:  # the Hub's refusals, no network, a name it does not allow
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{where} was not uploaded to {repo_id} ({reason}); log in with `hf auth login` and try again"
        ) from None
    return str(done.commit_url)
