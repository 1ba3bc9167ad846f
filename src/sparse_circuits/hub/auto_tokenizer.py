"""The tokenizer class that AutoTokenizer finds for our folders and for released ones.

AutoTokenizer lets the class named in a folder's tokenizer_config.json decide before it asks what was registered. A released
folder may name a class of code that is not there, and AutoTokenizer then gives up, or reads `vocab.bpe` as GPT-2's. `read_first`
says which folders are ours to read before any of that, `is_our_repo` which Hub repos after it has given up.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerFast

from sparse_circuits.data.tokenizer import TOKENIZER_FILE
from sparse_circuits.files import read_json
from sparse_circuits.hub.fetch import looks_like_repo
from sparse_circuits.hub.hf_config import SparseCircuitsConfig
from sparse_circuits.hub.hf_inputs import one_line
from sparse_circuits.hub.load import load_tokenizer, locate_repo
from sparse_circuits.hub.released_tokenizer import MERGES_FILE, VOCABULARY_FILE

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision")
SETTINGS = ("padding_side", "truncation_side", "model_max_length", "chat_template")
TOKENS = ("pad_token", "eos_token", "bos_token", "unk_token", "sep_token", "cls_token", "mask_token")
REFUSED = (
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "additional_special_tokens",
    "extra_special_tokens",
    "subfolder",
)
"""Nothing is ever added to a text, and no token to the model's vocabulary."""


class SparseCircuitsTokenizer(PreTrainedTokenizerFast):
    """Reads `tokenizer.json`, or `vocab.bpe` + `encoder.json`; what it gives is a plain fast tokenizer."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *inputs: Any, **kwargs: Any) -> Any:  # noqa: ARG003 (its signature)
        """The tokenizer of a folder, released name or Hub repo. Raises ValueError, one line.

        Sides, lengths and special tokens may be set, the latter to tokens there are: the model's vocabulary is fixed.
        """
        for name in REFUSED:
            if kwargs.get(name):
                raise ValueError(f"the tokenizer takes no {name} (given {one_line(kwargs[name])}); leave it out")
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        tokenizer = load_tokenizer(locate_repo(pretrained_model_name_or_path, **hub))
        vocabulary = tokenizer.get_vocab()
        for name in TOKENS:
            if kwargs.get(name) is not None and str(kwargs[name]) not in vocabulary:
                raise ValueError(
                    f"{name} {str(kwargs[name])!r} is not among the {len(vocabulary)} tokens; take one that is, such as "
                    f"{tokenizer.eos_token!r}"
                )
        for name in (*SETTINGS, *TOKENS):
            if name in kwargs:
                setattr(tokenizer, name, kwargs[name])
                tokenizer.init_kwargs[name] = kwargs[name]  # what save_pretrained keeps
        return tokenizer


def read_first(where: Any) -> bool:
    """Whether this is a folder of one of our model types whose only tokenizer files are the released ones."""
    if not isinstance(where, str | Path):
        return False
    folder = Path(where)
    files = [(folder / name).is_file() for name in (MERGES_FILE, VOCABULARY_FILE, TOKENIZER_FILE)]
    if files != [True, True, False]:
        return False
    try:
        return read_json(folder / "config.json").get("model_type") in ("sparse_circuits", "circuitgpt")
    except ValueError:
        return False


def is_our_repo(where: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether this is the name of a Hub repo whose config is one of ours."""
    if not isinstance(where, str) or Path(where).exists() or not looks_like_repo(where):
        return False
    hub = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
    try:
        return isinstance(AutoConfig.from_pretrained(where, **hub), SparseCircuitsConfig)
    except (ValueError, OSError):
        return False
