"""The tokenizer writes every text and loses nothing, is the same before and after files, and keeps EOT to itself."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sparse_circuits.data.tokenizer import (
    END_OF_TEXT,
    as_fast_tokenizer,
    decode,
    encode,
    encode_batch,
    end_id,
    make_tokenizer,
    read_tokenizer,
    save_tokenizer,
    token_text,
    tokenizer_hash,
    train_tokenizer,
    vocab_size,
)

SIZE = 300
TEXTS = [f"def f{i}(items):\n    print('{i}')\n    return [[i, {i}]]\n" for i in range(40)]
MIXED = st.text() | st.text("ab1 _'\")]:\n\r\t/é中<|>") | st.binary().map(lambda raw: raw.decode("latin-1"))


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return train_tokenizer(TEXTS, SIZE)


@pytest.fixture(scope="module")
def fast(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(small, folder)
    return read_tokenizer(folder)


@given(MIXED)
@example(END_OF_TEXT)
@example("\x00\x7f\x80\xad\xff")
def test_every_text_comes_back(small, fast, text):
    ids = encode(small, text)
    assert decode(small, ids) == text
    assert end_id(small) not in ids
    assert encode(fast, text) == ids and decode(fast, ids) == text
    assert all(0 <= token < SIZE for token in ids)


@given(st.lists(MIXED, max_size=5))
def test_a_batch_is_the_texts_one_by_one(small, texts):
    assert encode_batch(small, texts) == [encode(small, text) for text in texts]


def test_runs_are_those_of_the_released_pattern(small):
    """Worked out by hand from the pattern: `")\\n`, ` __init__`, and indentation before a name."""
    runs = [piece for piece, _ in small.pre_tokenizer.pre_tokenize_str('    x = f("a")\ny__init__1234\n\n')]
    shown = [run.replace("Ġ", " ").replace("Ċ", "\n") for run in runs]
    expected = ["   ", " x", " =", " f", '("', "a", '")\n', "y", "__", "init", "__", "123", "4", "\n\n"]
    assert shown == expected


def test_size_and_end_of_text(small):
    assert vocab_size(small) == SIZE
    assert end_id(small) == SIZE - 1
    assert token_text(small, SIZE - 1) == END_OF_TEXT == decode(small, [SIZE - 1])
    singles = {token_text(small, encode(small, chr(byte))[0]) for byte in range(128)}
    assert singles >= {chr(byte) for byte in range(128)}
    assert encode(small, "\n") != [] and token_text(small, encode(small, "é")[0]) == "\\xc3"


def test_smallest_vocabulary_is_bytes():
    tokenizer = train_tokenizer(["a"], 257)
    assert len(encode(tokenizer, "aé")) == 3


def test_transformers_loads_it(small, tmp_path):
    from transformers import AutoTokenizer

    (tmp_path / "other.txt").write_text("stays")
    save_tokenizer(small, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.is_fast and loaded.eos_token == END_OF_TEXT and loaded.eos_token_id == SIZE - 1
    assert loaded.pad_token is None and loaded.bos_token is None and len(loaded) == SIZE
    assert not loaded.clean_up_tokenization_spaces
    text = "def f(a):\n    return a , 'b' !\n"
    assert loaded(text)["input_ids"] == encode(small, text) == loaded.encode(text, add_special_tokens=False)
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.txt", "tokenizer.json", "tokenizer_config.json"]


def test_hash_survives_files_and_transformers(small, fast, tmp_path):
    from transformers import AutoTokenizer

    wanted = tokenizer_hash(small)
    assert tokenizer_hash(fast) == tokenizer_hash(as_fast_tokenizer(small)) == wanted
    fast.save_pretrained(tmp_path / "theirs")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    save_tokenizer(theirs, tmp_path / "ours")
    again = read_tokenizer(tmp_path / "ours")
    assert tokenizer_hash(theirs) == tokenizer_hash(again) == wanted
    theirs(["a", "b c d e f"], truncation=True, max_length=2)
    assert tokenizer_hash(theirs) == wanted


def test_hash_tells_tokenizers_apart(small):
    assert tokenizer_hash(train_tokenizer(TEXTS, SIZE)) == tokenizer_hash(small)
    assert tokenizer_hash(train_tokenizer(TEXTS, SIZE - 1)) != tokenizer_hash(small)
    assert tokenizer_hash(train_tokenizer([text.replace("print", "write") for text in TEXTS], SIZE)) != tokenizer_hash(
        small
    )


def test_made_from_vocabulary_and_merges(small):
    model = json.loads(small.to_str())["model"]
    made = make_tokenizer(model["vocab"], [(left, right) for left, right in model["merges"]])
    assert tokenizer_hash(made) == tokenizer_hash(small)


def test_leftover_truncation_and_padding_do_not_matter(small):
    spoilt = Tokenizer.from_str(small.to_str())
    spoilt.enable_truncation(2)
    spoilt.enable_padding(length=9)
    assert encode(spoilt, TEXTS[0]) == encode(small, TEXTS[0])
    assert encode_batch(spoilt, TEXTS) == encode_batch(small, TEXTS)
    assert spoilt.truncation is not None


def test_truncation_is_not_saved(small, tmp_path):
    spoilt = Tokenizer.from_str(small.to_str())
    spoilt.enable_truncation(2)
    save_tokenizer(spoilt, tmp_path)
    assert encode(Tokenizer.from_file(str(tmp_path / "tokenizer.json")), TEXTS[0]) == encode(small, TEXTS[0])


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [
        (TEXTS, 256, "below 257"),
        ([], 300, "no text"),
        (["", ""], 300, "no text"),
        (["abab"], 1000, r"yield only 25\d tokens, not 1000"),
    ],
)
def test_training_errors(texts, size, message):
    with pytest.raises(ValueError, match=message) as caught:
        train_tokenizer(iter(texts), size)
    assert "\n" not in str(caught.value)


def test_an_error_of_the_texts_comes_through():
    def texts():
        yield "a"
        raise ValueError("bad line")

    with pytest.raises(ValueError, match="bad line"):
        train_tokenizer(texts(), 300)


def test_the_number_in_the_error_works():
    texts = ["abcabc abd"]
    with pytest.raises(ValueError) as caught:
        train_tokenizer(texts, 1000)
    reached = int(re.findall(r"<= (\d+)", str(caught.value))[0])
    assert vocab_size(train_tokenizer(texts, reached)) == reached


@pytest.mark.parametrize(
    "call", [lambda t: decode(t, [0, SIZE]), lambda t: token_text(t, SIZE), lambda t: token_text(t, -1)]
)
def test_unknown_ids(small, call):
    with pytest.raises(ValueError, match=f"ids 0..{SIZE - 1}"):
        call(small)


def test_reading_errors(small, tmp_path):
    def fails(message: str, folder: Path = tmp_path) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            read_tokenizer(folder)
        assert "\n" not in str(caught.value)

    fails("no tokenizer.json", tmp_path / "absent")
    save_tokenizer(small, tmp_path)
    whole = (tmp_path / "tokenizer.json").read_text("utf-8")
    (tmp_path / "tokenizer.json").write_text(whole[: len(whole) // 2], "utf-8")
    fails("damaged")
    (tmp_path / "tokenizer.json").write_text(whole.replace(END_OF_TEXT, "<|other|>"), "utf-8")
    fails("no <|endoftext|>".replace("|", r"\|"))
    (tmp_path / "tokenizer.json").write_text(whole, "utf-8")
    (tmp_path / "tokenizer_config.json").write_text("{", "utf-8")
    fails("not valid JSON")
    (tmp_path / "tokenizer_config.json").unlink()  # other programs write tokenizer.json alone, and it says all we need
    assert read_tokenizer(tmp_path).eos_token == END_OF_TEXT


def test_not_a_tokenizer():
    with pytest.raises(ValueError, match="str is no tokenizers.Tokenizer"):
        encode("gpt2", "a")


def test_no_warnings_from_transformers(small, tmp_path):
    save_tokenizer(small, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_tokenizer(tmp_path).pad_token is None


def test_a_process_may_fork_after_encoding():
    """In a fresh process: the child encodes too, and the tokenizers library prints no advice about forks."""
    script = f"""
import os
from sparse_circuits.data.tokenizer import encode_batch, train_tokenizer
texts = {TEXTS!r}
tokenizer = train_tokenizer(texts, 300)
expected = encode_batch(tokenizer, texts)
child = os.fork()
if child == 0:
    os._exit(0 if encode_batch(tokenizer, texts) == expected else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "tokenizers" not in ran.stderr.lower()
