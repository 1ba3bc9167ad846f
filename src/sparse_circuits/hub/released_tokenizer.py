"""The released tokenizer's files, `vocab.bpe` + `encoder.json`, as a fast tokenizer (RELEASE_FORMAT 3).

The released models were trained with tokens of another encoder: it merges, leftmost first, the neighbours whose joined bytes
are the token of lowest id, whichever way that token was once learned. For merges learned by BPE and numbered as they were
learned, applying them in order comes to the same; for other files it would leave some such neighbours apart. So every way to
cut a token into two tokens becomes a merge, ranked by the token's id.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

from sparse_circuits.data.tokenizer import END_OF_TEXT, make_tokenizer
from sparse_circuits.files import read_json

MERGES_FILE, VOCABULARY_FILE = "vocab.bpe", "encoder.json"


def read_released_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a folder with `vocab.bpe` and `encoder.json`; `<|endoftext|>` gets the id after the last token.

    Raises ValueError, one line, for a missing or damaged file and for two files that do not belong together.
    """
    where = Path(folder)
    vocabulary = _vocabulary(where / VOCABULARY_FILE)
    learned = _merges(where / MERGES_FILE)
    whole = {left + right for left, right in learned}
    stray = [pair for pair in learned if not {*pair, "".join(pair)} <= vocabulary.keys()]
    if stray:
        raise ValueError(
            f"{where / MERGES_FILE} merges {' '.join(stray[0])!r}, unknown to {VOCABULARY_FILE}; get both from one place"
        )
    orphans = [token for token in vocabulary if len(token) > 1 and token not in whole]
    if orphans:
        raise ValueError(
            f"{where / VOCABULARY_FILE} has {orphans[0]!r}, which {MERGES_FILE} never merges; get both from one place"
        )
    return make_tokenizer(vocabulary, _all_merges(vocabulary))


def _vocabulary(file: Path) -> dict[str, int]:
    """Token -> id, `<|endoftext|>` taken out; ids are 0..n-1, and every byte is a token."""
    stored: dict[str, Any] = read_json(file)
    end = stored.pop(END_OF_TEXT, len(stored))
    if sorted(map(json.dumps, stored.values())) != sorted(map(str, range(len(stored)))) or end != len(stored):
        raise ValueError(
            f"{file} must number its tokens 0..{len(stored) - 1}, {END_OF_TEXT} last; it is damaged or another format"
        )
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    if {token for token in stored if len(token) == 1} != alphabet or not all(
        alphabet.issuperset(name) for name in stored
    ):
        raise ValueError(
            f"{file} must hold the 256 bytes as single letters, and nothing but such letters; it is damaged or another format"
        )
    return stored


def _merges(file: Path) -> list[tuple[str, str]]:
    if not file.is_file():
        raise ValueError(f"no file {file.name} in {file.parent}")
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is damaged (not UTF-8: {error}); get it again") from None
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    bad = next((pair for pair in pairs if len(pair) != 2 or not all(pair)), None)
    if bad is not None:
        raise ValueError(f"{file} is damaged: {' '.join(bad)!r} is no pair of tokens; get it again")
    return [(left, right) for left, right in pairs]


def _all_merges(vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every cut of every token into two tokens, by the token's id."""
    cuts = [
        (number, cut, token[:cut], token[cut:])
        for token, number in vocabulary.items()
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    return [(left, right) for _, _, left, right in sorted(cuts)]
