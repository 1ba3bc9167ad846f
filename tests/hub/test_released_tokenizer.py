"""The released tokenizer's files against the algorithm the models were trained with, written out below.

1. The pattern cuts a text into pre-tokens (here with the `regex` package).
2. Inside one, while two neighbours together are a token, the pair whose token has the lowest id is joined, leftmost first.
Nothing of our reader is used for that, only the two files.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.hf_folders import source_texts, train, write_released_tokenizer
from refusals import refused
from sparse_circuits.data.tokenizer import (
    END_OF_TEXT,
    decode,
    decode_bytes,
    encode,
    encode_bytes,
    make_tokenizer,
    token_text,
    vocab_size,
)
from sparse_circuits.hub.load import load_tokenizer
from sparse_circuits.hub.released_tokenizer import read_released_tokenizer

PATTERN = regex.compile(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_letters() -> dict[int, str]:
    """GPT-2's letter of every byte: the printable ones themselves, the others from U+0100 in order."""
    letters, spare = {}, 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174:
            letters[byte] = chr(byte)
        else:
            letters[byte], spare = chr(spare), spare + 1
    return letters


LETTERS = byte_letters()


def ranks(folder: Path) -> dict[bytes, int]:
    """Bytes of every token -> its id, from the files alone: the single bytes by encoder.json, the rest by line of vocab.bpe."""
    listed = json.loads((folder / "encoder.json").read_text("utf-8"))
    back = {letter: byte for byte, letter in LETTERS.items()}
    return {bytes(back[letter] for letter in token): number for token, number in listed.items() if token != END_OF_TEXT}


def reference_encode(text: str, rank: dict[bytes, int]) -> list[int]:
    ids = []
    for piece in PATTERN.findall(text):
        parts = [bytes([byte]) for byte in piece.encode("utf-8")]
        while True:
            pairs = [(rank[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False)) if a + b in rank]
            if not pairs:
                break
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids += [rank[part] for part in parts]
    return ids


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, dict[bytes, int], Any]:
    """Folder, our reading of it, ranks, and a tokenizer with the learned merges alone."""
    _, vocabulary, merges = train(1200)
    folder = write_released_tokenizer(tmp_path_factory.mktemp("tinypython"), vocabulary, merges)
    return folder, read_released_tokenizer(folder), ranks(folder), make_tokenizer(vocabulary, merges)


CODE = st.lists(
    st.sampled_from(
        [
            "def ",
            "return",
            " __init__",
            "(x)",
            "]]\n",
            '")\n',
            ":\n",
            "    ",
            "\n\n",
            "1234567",
            "self",
            " = ",
            "é",
            "日本",
            "\r\n",
        ]
        + ["\t", "//", "#!", "'s", " .", "  \n", "<|endoftext|>", "\u00a0", "naïve", "٣٤", "🙂", "_", "x" * 9]
    ),
    max_size=30,
).map("".join)


@settings(max_examples=300)
@given(text=st.one_of(st.text(max_size=60), CODE))
def test_ids_are_those_of_the_algorithm(trained: Any, text: str) -> None:
    _, tokenizer, rank, _ = trained
    found = encode(tokenizer, text)
    assert found == reference_encode(text, rank)
    assert decode(tokenizer, found) == text


def test_ids_of_real_files_are_those_of_the_algorithm(trained: Any) -> None:
    _, tokenizer, rank, _ = trained
    for text in random.Random(0).sample(source_texts(), 12):
        assert encode(tokenizer, text) == reference_encode(text, rank)


def stray_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Tokens that greedy lowest-rank joining reaches by a pair that was never learned: `abc` was learned as `a` + `bc`."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(LETTERS.values()))}
    merges = [("a", "b"), ("b", "c"), ("a", "bc"), ("abc", "d"), ("c", "d"), ("x", "y"), ("xy", "xy"), ("y", "x")]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    return vocabulary, merges


def test_a_token_reached_by_an_unlearned_pair(tmp_path: Path) -> None:
    vocabulary, merges = stray_vocabulary()
    folder = write_released_tokenizer(tmp_path, vocabulary, merges)
    tokenizer, rank = read_released_tokenizer(folder), ranks(folder)
    assert encode(tokenizer, "abc") == reference_encode("abc", rank) == [rank[b"abc"]]
    learned_alone = make_tokenizer(vocabulary, merges)
    assert encode(learned_alone, "abc") == [rank[b"ab"], rank[b"c"]]  # what a reader of the merges alone would say


@settings(max_examples=200)
@given(text=st.text("abcdxy ", max_size=24))
def test_ids_with_many_ambiguous_merges(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    vocabulary, merges = stray_vocabulary()
    if not hasattr(stray_vocabulary, "folder"):
        stray_vocabulary.folder = write_released_tokenizer(tmp_path_factory.mktemp("stray"), vocabulary, merges)
    folder = stray_vocabulary.folder
    assert encode(read_released_tokenizer(folder), text) == reference_encode(text, ranks(folder))


def test_for_merges_learned_in_order_the_merges_alone_say_the_same(trained: Any) -> None:
    """No difference on any pre-token of real code nor on words made up of tokens and letters."""
    _, tokenizer, rank, learned = trained
    pick = random.Random(0)
    tokens = [token for token in rank if token.isalpha()]
    words = sorted({piece for text in source_texts() for piece in PATTERN.findall(text)})
    words += [b"".join(pick.choices(tokens, k=3)).decode() for _ in range(2000)]
    words += ["".join(pick.choices("etaoinsrhl", k=9)) for _ in range(2000)]
    assert len(words) > 8000
    expected = [reference_encode(word, rank) for word in words]
    assert [encode(tokenizer, word) for word in words] == expected == [encode(learned, word) for word in words]


# --- bytes


@settings(max_examples=300)
@given(data=st.one_of(st.binary(max_size=80), st.text(max_size=40).map(str.encode), CODE.map(str.encode)))
def test_any_bytes_come_back(trained: Any, data: bytes) -> None:
    _, tokenizer, _, _ = trained
    ids = encode_bytes(tokenizer, data)
    assert decode_bytes(tokenizer, ids) == data
    assert all(0 <= number < 1199 for number in ids)


def test_the_fast_tokenizer_gives_the_same_ids(trained: Any) -> None:
    folder, tokenizer, _, _ = trained
    fast = load_tokenizer(folder)
    for data in (b"def f(x):\n\treturn x\r\n", bytes(range(256)), "naïve 日本 🙂".encode()):
        assert encode_bytes(fast, data) == encode_bytes(tokenizer, data)
        assert decode_bytes(fast, encode_bytes(fast, data)) == data


@given(st.text(max_size=40))
def test_utf8_bytes_are_encoded_as_text(trained: Any, text: str) -> None:
    _, tokenizer, _, _ = trained
    assert encode_bytes(tokenizer, text.encode()) == encode(tokenizer, text)


def test_every_byte_and_every_token_alone(trained: Any) -> None:
    _, tokenizer, rank, _ = trained
    for byte in range(256):
        assert decode_bytes(tokenizer, encode_bytes(tokenizer, bytes([byte]))) == bytes([byte])
    for token, number in rank.items():
        assert decode_bytes(tokenizer, [number]) == token
        assert token_text(tokenizer, number) == token.decode("utf-8", "backslashreplace")


# --- the files


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("version", [True, False])
def test_with_and_without_what_may_be_absent(end: bool, version: bool, tmp_path: Path) -> None:
    _, vocabulary, merges = train(300)
    tokenizer = read_released_tokenizer(
        write_released_tokenizer(tmp_path, vocabulary, merges, end=end, version=version)
    )
    assert vocab_size(tokenizer) == 300
    assert tokenizer.token_to_id(END_OF_TEXT) == 299
    fast = load_tokenizer(tmp_path)
    assert (fast.eos_token_id, fast.bos_token, fast.pad_token, len(fast)) == (299, None, None, 300)
    text = "def f(x):\n    return [[x]]\n"
    assert fast(text)["input_ids"] == fast(text, add_special_tokens=False)["input_ids"] == encode(tokenizer, text)
    assert fast.decode(fast(text)["input_ids"] + [299], skip_special_tokens=True) == text
    assert len(encode(tokenizer, END_OF_TEXT)) > 1  # spelled out in a document, it is letters


def test_carriage_returns_do_not_change_the_merges(tmp_path: Path) -> None:
    """A checkout on Windows writes them into text files."""
    _, vocabulary, merges = train(300)
    write_released_tokenizer(tmp_path, vocabulary, merges)
    expected = encode(read_released_tokenizer(tmp_path), "def f(x): return self")
    file = tmp_path / "vocab.bpe"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert encode(read_released_tokenizer(tmp_path), "def f(x): return self") == expected


def damaged(folder: Path, edit: Any) -> None:
    file = folder / "encoder.json"
    listed = json.loads(file.read_text("utf-8"))
    edit(listed)
    file.write_text(json.dumps(listed), "utf-8")


REFUSALS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "no merges": (lambda f: (f / "vocab.bpe").unlink(), ("vocab.bpe",)),
    "no vocabulary": (lambda f: (f / "encoder.json").unlink(), ("encoder.json",)),
    "not json": (lambda f: (f / "encoder.json").write_text("{", "utf-8"), ("encoder.json", "damaged")),
    "a list": (lambda f: (f / "encoder.json").write_text("[]", "utf-8"), ("encoder.json", "list")),
    "empty": (lambda f: (f / "encoder.json").write_text("{}", "utf-8"), ("encoder.json",)),
    "not utf-8": (lambda f: (f / "vocab.bpe").write_bytes(b"\xff\xfe a b"), ("vocab.bpe", "UTF-8")),
    "three words": (lambda f: (f / "vocab.bpe").write_text("a b c\n", "utf-8"), ("vocab.bpe", "a b c")),
    "one word": (lambda f: (f / "vocab.bpe").write_text("ab\n", "utf-8"), ("vocab.bpe", "ab")),
    "cut off": (lambda f: cut(f / "vocab.bpe"), ("encoder.json", "never merges")),
    "a hole": (lambda f: damaged(f, lambda v: v.update({"zz": 10_000})), ("encoder.json", "0..")),
    "an id twice": (lambda f: damaged(f, lambda v: v.update({"th": 0})), ("encoder.json", "0..")),
    "a negative id": (lambda f: damaged(f, lambda v: v.update({"!": -1})), ("encoder.json",)),
    "a float id": (lambda f: damaged(f, lambda v: v.update({"!": 0.0})), ("encoder.json",)),
    "a true id": (lambda f: damaged(f, lambda v: v.update({'"': True})), ("encoder.json",)),
    "an id as text": (lambda f: damaged(f, lambda v: v.update({"!": "0"})), ("encoder.json",)),
    "a null id": (lambda f: damaged(f, lambda v: v.update({"!": None})), ("encoder.json",)),
    "a nested id": (lambda f: damaged(f, lambda v: v.update({"!": {"id": 0}})), ("encoder.json",)),
    "end in the middle": (lambda f: damaged(f, lambda v: v.update({END_OF_TEXT: 3})), ("encoder.json", "last")),
    "end of no kind": (lambda f: damaged(f, lambda v: v.update({END_OF_TEXT: "299"})), ("encoder.json", "last")),
    "a byte missing": (lambda f: damaged(f, drop_byte), ("encoder.json",)),
    "a letter of no byte": (lambda f: damaged(f, lambda v: v.update({"日": v.pop("!")})), ("encoder.json",)),
    "an unknown merge": (lambda f: append(f / "vocab.bpe", "q qqqq\n"), ("q qqqq", "unknown")),
}


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text("utf-8") + text, "utf-8")


def cut(file: Path) -> None:
    file.write_text("\n".join(file.read_text("utf-8").split("\n")[:-9]), "utf-8")


def drop_byte(listed: dict[str, int]) -> None:
    """Takes a byte away and closes the gap in the numbers."""
    gone = listed.pop("!")
    for token in listed:
        listed[token] -= listed[token] > gone


@pytest.fixture(scope="module")
def small() -> tuple[dict[str, int], list[tuple[str, str]]]:
    _, vocabulary, merges = train(300)
    return vocabulary, merges


@pytest.mark.parametrize("name", REFUSALS)
def test_files_that_cannot_be_read_are_refused_in_one_line(name: str, small: Any, tmp_path: Path) -> None:
    folder = write_released_tokenizer(tmp_path, *small)
    damage, words = REFUSALS[name]
    damage(folder)
    with refused(*words):
        read_released_tokenizer(folder)
    if (folder / "encoder.json").is_file():  # else it is no folder of this kind for load_tokenizer
        with refused(*words):
            load_tokenizer(folder)


def test_a_folder_of_no_tokenizer_at_all(tmp_path: Path) -> None:
    with refused("encoder.json"):
        read_released_tokenizer(tmp_path)
    with refused("tokenizer.json"):
        load_tokenizer(tmp_path)
