"""The tokenizer class that AutoTokenizer finds for our folders and for released ones."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from sparse_circuits.hub.load import load_tokenizer, locate_repo

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


class SparseCircuitsTokenizer(PreTrainedTokenizerFast):
    """Reads `tokenizer.json`, or `vocab.bpe` + `encoder.json`; what it gives is a plain fast tokenizer."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *inputs: Any, **kwargs: Any) -> Any:  # noqa: ARG003 (its signature)
        """The tokenizer of a folder, released name or Hub repo. Raises ValueError, one line."""
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        tokenizer = load_tokenizer(locate_repo(pretrained_model_name_or_path, **hub))
        for name in ("padding_side", "truncation_side", "pad_token"):
            if name in kwargs:
                setattr(tokenizer, name, kwargs[name])
        return tokenizer
