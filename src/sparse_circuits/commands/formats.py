"""Verbs on the formats of models: import, export, upload."""

from dataclasses import asdict

from sparse_circuits.commands.common import DEFAULTS, Output, Shared, Where


def model_import(path: Where, out: str, no_verify: bool = False, common: Shared = DEFAULTS) -> Output:
    """Reads a model of any layout (or a released name, or a Hub repo) into a model folder of this library.

    Args:
        path: Folder, released name such as csp_yolo1, or Hub repo (owner/name).
        out: New model folder.
        no_verify: Do not read every byte to compare checksums and look for NaN.
    """
    from sparse_circuits.hub.io import import_model

    written = import_model(path, out, verify=not no_verify, progress=common.progress)
    return Output(asdict(written), f"model folder {out}, {written.bytes:,} bytes")


def model_export(
    path: Where, to: str, out: str, licence: str = "apache-2.0", no_verify: bool = False, common: Shared = DEFAULTS
) -> Output:
    """Writes a model in another layout, with its tokenizer and a model card.

    Args:
        path: Model folder, released name or Hub repo.
        to: released (beeg_config.json + final_model.pt), transformers (config.json + safetensors), sparse (a model folder of
            this library, nonzero weights only where that is smaller) or own (the same, every tensor dense).
        out: New folder.
        licence: Licence of the weights, for the card, as the Hub writes it.
        no_verify: Do not read every byte to compare checksums and look for NaN.
    """
    from sparse_circuits.hub.io import export_model

    written = export_model(path, to, out, licence=licence, verify=not no_verify, progress=common.progress)
    return Output(asdict(written), f"{to} folder {out}, {written.bytes:,} bytes")


def model_push(folder: Where, repo: Where, private: bool = False, common: Shared = DEFAULTS) -> Output:  # noqa: ARG001 (options of every verb)
    """Uploads an exported folder to the Hugging Face Hub, as who `hf auth login` says you are.

    Args:
        folder: Folder that `model export` or `model import` wrote.
        repo: owner/name; made if it does not exist.
        private: Make a new repo private.
    """
    from sparse_circuits.hub.io import push_folder

    url = push_folder(folder, repo, private=private or None)
    return Output({"url": url}, url)
