"""The tokenizer: byte-level BPE on the pre-token pattern of the released models.

A vocabulary of V tokens holds V - 1 byte-pair tokens (the 256 bytes always among them, so every text can be written)
and `<|endoftext|>` as id V - 1. There is no BOS, no padding token and no prefix space, and nothing is ever added.

1. The pattern cuts a text into runs: letters with one leading mark or space, up to three digits, punctuation with a
   leading space and trailing newlines, line ends, spaces. So `")\\n` can be one token, and a task can ask for it.
2. Inside a run, bytes are merged in the order the training corpus taught.
3. A document that spells out `<|endoftext|>` gets the letters, never the id: only the shard writer places the id.

Functions take a `tokenizers.Tokenizer` or a transformers fast tokenizer and give the same answer for both.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ..files import json_hash, read_json, write_json, write_text
from ..log import SILENT, Progress

PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
SMALLEST_VOCABULARY = 257
_NOT_UTF8 = re.compile("([\udc80-\udcff])")
"""Bytes that are no UTF-8, as Python's surrogateescape reads them."""

AnyTokenizer = Any  # a tokenizers.Tokenizer or a transformers fast tokenizer; transformers is imported only when needed


def train_tokenizer(texts: Iterable[str], vocab_size: int, progress: Progress = SILENT) -> Tokenizer:
    """Learns a vocabulary of exactly `vocab_size` tokens from the texts; the same texts give the same tokenizer.

    Raises ValueError if vocab_size is below 257 (the bytes and `<|endoftext|>`), if there is no text, or if the texts
    are too few to yield that many tokens.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(f"vocab_size is {vocab_size}, below {SMALLEST_VOCABULARY}: 256 bytes and {END_OF_TEXT}")
    seen = [0]

    def counted() -> Iterator[str]:
        for text in texts:
            seen[0] += len(text)
            yield text

    progress.say(f"learning a vocabulary of {vocab_size} tokens")
    tokenizer = _assemble(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(counted(), trainer)
    if not seen[0]:
        raise ValueError("there is no text to learn a vocabulary from; give at least one document that is not empty")
    _add_end_of_text(tokenizer)
    reached = tokenizer.get_vocab_size()
    if reached < vocab_size:
        raise ValueError(
            f"{seen[0]:,} characters of text yield only {reached} tokens, not {vocab_size}; "
            f"give more text or vocab_size <= {reached}"
        )
    progress.say(f"learned {vocab_size} tokens from {seen[0]:,} characters")
    return tokenizer


def make_tokenizer(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """The tokenizer of a known vocabulary (GPT-2's byte alphabet, ids 0..V-2, no `<|endoftext|>`) and its merges."""
    tokenizer = _assemble(models.BPE(vocab=dict(vocab), merges=list(merges)))
    _add_end_of_text(tokenizer)
    return tokenizer


def _assemble(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _add_end_of_text(tokenizer: Tokenizer) -> None:
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])


def save_tokenizer(tokenizer: AnyTokenizer, folder: str | Path) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json` into a new or existing folder; other files there stay.

    `transformers.AutoTokenizer.from_pretrained(folder)` reads them. Raises ValueError without an `<|endoftext|>` token.
    """
    backend = _backend(tokenizer)
    end_id(backend)
    if backend.truncation is not None or backend.padding is not None:
        backend = _copy(backend)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_TEXT}
    write_text(Path(folder) / TOKENIZER_FILE, backend.to_str(pretty=True) + "\n")
    write_json(Path(folder) / CONFIG_FILE, {**config, "clean_up_tokenization_spaces": False})


def read_tokenizer(folder: str | Path) -> AnyTokenizer:
    """The transformers fast tokenizer of a folder. Raises ValueError if a file is missing or damaged, or has no EOT."""
    file = Path(folder) / TOKENIZER_FILE
    if not file.is_file():
        raise ValueError(f"no {TOKENIZER_FILE} in {folder}; give a tokenizer folder, made by `data tokenizer`")
    if (Path(folder) / CONFIG_FILE).is_file():
        read_json(Path(folder) / CONFIG_FILE)
    try:
        backend = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is damaged ({reason}); restore it or make it again") from None
    return as_fast_tokenizer(backend)


def as_fast_tokenizer(tokenizer: AnyTokenizer) -> AnyTokenizer:
    """The same tokenizer as a transformers fast tokenizer: eos `<|endoftext|>`, no padding token."""
    if not isinstance(tokenizer, Tokenizer):
        return tokenizer
    end_id(tokenizer)
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: AnyTokenizer, text: str) -> list[int]:
    """Token ids of a text; nothing is added, and a spelled-out `<|endoftext|>` is plain text."""
    return _plain(_backend(tokenizer), (text,)).encode(text, add_special_tokens=False).ids


def encode_batch(tokenizer: AnyTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """`encode` of every text, on all cores."""
    backend = _plain(_backend(tokenizer), texts)
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def decode(tokenizer: AnyTokenizer, ids: Iterable[int]) -> str:
    """Text of token ids, `<|endoftext|>` written out; bytes that are no UTF-8 become U+FFFD.

    Raises ValueError for an id that does not exist.
    """
    backend = _backend(tokenizer)
    listed = [int(token) for token in ids]
    for token in set(listed):
        _token_name(backend, token)
    return backend.decode(listed, skip_special_tokens=False)


def encode_bytes(tokenizer: AnyTokenizer, data: bytes) -> list[int]:
    """Token ids of any bytes: what is UTF-8 is encoded as text, every other byte by its own token."""
    vocabulary = _backend(tokenizer).get_vocab()
    numbers = {byte: vocabulary[letter] for letter, byte in _byte_alphabet().items()}
    ids: list[int] = []
    for run in _NOT_UTF8.split(data.decode("utf-8", "surrogateescape")):
        if _NOT_UTF8.fullmatch(run):
            ids.append(numbers[ord(run) - 0xDC00])
        elif run:
            ids.extend(encode(tokenizer, run))
    return ids


def decode_bytes(tokenizer: AnyTokenizer, ids: Iterable[int]) -> bytes:
    """The bytes of token ids, exactly; `<|endoftext|>` written out. Raises ValueError for an id that does not exist."""
    backend, alphabet = _backend(tokenizer), _byte_alphabet()
    special = {number: token.content for number, token in backend.get_added_tokens_decoder().items()}
    return b"".join(
        special[token].encode()
        if token in special
        else bytes(alphabet[letter] for letter in _token_name(backend, token))
        for token in map(int, ids)
    )


def token_text(tokenizer: AnyTokenizer, token: int) -> str:
    """Text of one token for people; bytes that are no UTF-8 on their own are written `\\xNN`.

    Raises ValueError for an id that does not exist.
    """
    name = _token_name(_backend(tokenizer), token)
    alphabet = _byte_alphabet()
    if any(letter not in alphabet for letter in name):
        return decode(tokenizer, [token])
    return bytes(alphabet[letter] for letter in name).decode("utf-8", "backslashreplace")


def vocab_size(tokenizer: AnyTokenizer) -> int:
    """V: the number of ids, `<|endoftext|>` included."""
    return max(_backend(tokenizer).get_vocab(with_added_tokens=True).values()) + 1


def end_id(tokenizer: AnyTokenizer) -> int:
    """Id of `<|endoftext|>`. Raises ValueError if there is none."""
    found = _backend(tokenizer).token_to_id(END_OF_TEXT)
    if found is None:
        raise ValueError(f"the tokenizer has no {END_OF_TEXT} token; use one made by `data tokenizer`")
    return found


def tokenizer_hash(tokenizer: AnyTokenizer) -> str:
    """sha256 over all that decides which ids a text gets: model, merges, normalizer, pre-tokenizer, added tokens.

    Equal before saving, after loading through transformers and after saving again (which add an idle post-processor and
    forget padding).
    """
    backend = _backend(tokenizer)
    state: dict[str, Any] = json.loads(backend.to_str())
    model = state["model"]
    model["merges"] = [pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges", [])]
    added = sorted((token["id"], token["content"]) for token in state["added_tokens"])
    parts = {"model": model, "normalizer": state["normalizer"], "pre_tokenizer": state["pre_tokenizer"], "added": added}
    return json_hash(parts)


def _backend(tokenizer: AnyTokenizer) -> Tokenizer:
    found = tokenizer if isinstance(tokenizer, Tokenizer) else getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(found, Tokenizer):
        raise ValueError(f"{type(tokenizer).__name__} is no tokenizers.Tokenizer and no transformers fast tokenizer")
    return found


def _plain(backend: Tokenizer, texts: Sequence[str]) -> Tokenizer:
    """The tokenizer itself, or where it would cut, pad or find a special token in these texts, a copy that does not."""
    special = [token.content for token in backend.get_added_tokens_decoder().values() if token.special]
    spelled = any(name in text for text in texts for name in special)
    return _copy(backend) if spelled or backend.truncation is not None or backend.padding is not None else backend


def _copy(backend: Tokenizer) -> Tokenizer:
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


def _token_name(backend: Tokenizer, token: int) -> str:
    name = backend.id_to_token(int(token)) if token >= 0 else None
    if name is None:
        raise ValueError(f"there is no token {token}; the tokenizer has ids 0..{vocab_size(backend) - 1}")
    return name


@cache
def _byte_alphabet() -> Mapping[str, int]:
    """Letter -> byte of the GPT-2 byte alphabet: printable Latin-1 stands for itself, the rest from U+0100 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {**{chr(byte): byte for byte in shown}, **{chr(256 + place): byte for place, byte in enumerate(hidden)}}
