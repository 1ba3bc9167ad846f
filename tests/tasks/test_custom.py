"""Own tasks from JSONL: ten lines are enough, a round trip is exact, every mistake is one line with file and line."""

import json
import re

import pytest

from sparse_circuits.tasks.check import check_task
from sparse_circuits.tasks.custom import divide, read_task, save_task
from sparse_circuits.tasks.load import load_task, task_names
from sparse_circuits.tasks.task import SPLITS

WORDS = ["item", "value", "key", "line", "city"]
HEADER = {"task": "list_or_set", "completions": ["]\n", "}\n"], "slots": {"w": WORDS}}
SHAPES = {
    "train": ("<w> = {}1, 2", "<w> = 1\nx = {}1, 2", "x = <w>\ny = {}1, 2"),
    "val": ("if <w>:\n    x = {}1, 2", "<w> = x = {}1, 2", "x = 1\n<w> = {}1, 2, 1, 2"),
    "test": ("for <w> in y:\n    x = {}1, 2", "<w> += {}1, 2", "x = x = <w> = {}1, 2"),
}
LINES = [
    {"split": split, "a": shape.replace("{}", "["), "b": shape.replace("{}", "{")} | (
        {"continuation_a": "x = 1\n", "continuation_b": "x = 1\n"} if split == "train" else {}
    )
    for split, shapes in SHAPES.items()
    for shape in shapes
]  # fmt: skip


def write(path, lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_ten_lines_make_a_well_posed_task(tmp_path, tokenizer):
    lines = [HEADER, *LINES]
    task = load_task(write(tmp_path / "own.jsonl", lines))
    report = check_task(task, tokenizer)
    assert len(lines) == 10 and report.ok, report.failed
    assert sorted(sum(task.fillers["w"].values(), ())) == sorted(WORDS)
    assert [len(task.fillers["w"][split]) for split in SPLITS] == [3, 1, 1]
    assert task.pairs("test", 100, tokenizer).n == 3


def test_shifted_splits_are_read_written_and_asked(tmp_path, make, tokenizer):
    shifted = {"longer": {}, "names": {"name": ["zig", "zag"]}}
    task = make()
    save_task(task, tmp_path / "own.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "own.jsonl").read_text().splitlines()]
    lines[0]["shifted"] = shifted
    test = [line for line in lines if line.get("split") == "test"]
    lines += [
        {**line, "split": "longer", "a": "import os\n" + line["a"], "b": "import os\n" + line["b"]} for line in test
    ]
    lines += [{**line, "split": "names"} for line in test]
    path = tmp_path / "shifted.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_task(path)
    assert read.splits == ("train", "val", "test", "longer", "names") and read.hash != task.hash
    assert read.words("longer") == read.words("test") and read.words("names") == {"name": ("zig", "zag")}
    assert all(pair.prompt_a.startswith("import os\n") for pair in read.sample("longer", 6))
    assert read.pairs("names", 4, tokenizer).n == 4 and check_task(read, tokenizer).ok
    save_task(read, tmp_path / "again.jsonl")
    assert read_task(tmp_path / "again.jsonl") == read
    header = {**lines[0], "shifted": {"names": {"nmae": ["zig"]}}}
    path.write_text(
        "".join(json.dumps(line) + "\n" for line in [header, *lines[1:], *({**t, "split": "names"} for t in test)])
    )
    with pytest.raises(ValueError, match="unknown split 'longer'; allowed: train, val, test, names"):
        read_task(path)
    kept = [line for line in lines[1:] if line["split"] != "longer"]
    path.write_text("".join(json.dumps(line) + "\n" for line in [header, *kept]))
    with pytest.raises(ValueError, match="names has words for 'nmae', which is no list; use one"):
        read_task(path)


def test_division_ignores_the_order_and_keeps_shared_words_together(tmp_path):
    words = tuple(f"w{i}" for i in range(20))
    there, back = divide(words, {}), divide(words[::-1], {})
    assert {s: set(v) for s, v in there.items()} == {s: set(v) for s, v in back.items()}
    assert [len(there[split]) for split in SPLITS] == [12, 4, 4]
    slots = {"w": list(words), "v": list(words[5:]) + ["new"]}
    task = read_task(write(tmp_path / "own.jsonl", [HEADER | {"slots": slots}, *LINES]))
    for split in SPLITS:
        others = {word for other in SPLITS if other != split for word in task.fillers["v"][other]}
        assert not others & set(task.fillers["w"][split])


def test_round_trip(tmp_path, make):
    for task in (*(load_task(name) for name in task_names()), make()):
        path = tmp_path / "task.jsonl"
        save_task(task, path)
        again = load_task(path)
        assert again == task and again.hash == task.hash


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], "own.jsonl is empty; line 1 is the header"),
        (["{oops", *LINES], "own.jsonl:1 is not valid JSON"),
        ([HEADER, "[1]"], "own.jsonl:2 holds a list; write one JSON object per line"),
        ([HEADER | {"template": 1}, *LINES], "own.jsonl:1: unknown key 'template'; allowed: task, statement"),
        ([{"task": "x"}, *LINES], "own.jsonl:1: 'completions' is missing"),
        ([HEADER | {"completions": ["]"]}, *LINES], "own.jsonl:1: completions are [']']; write two texts"),
        ([HEADER, LINES[0] | {"prompt": "x"}], "own.jsonl:2: unknown key 'prompt'; allowed: split, a, b"),
        ([HEADER, {"split": "train", "a": "x"}], "own.jsonl:2: 'b' is missing"),
        ([HEADER, LINES[0] | {"split": "dev"}], "own.jsonl:2: unknown split 'dev'; allowed: train, val, test"),
        ([HEADER, LINES[0] | {"split": ["train"]}], "own.jsonl:2: 'split' is ['train']; write a text"),
        ([HEADER, LINES[0] | {"split": {}}], "own.jsonl:2: 'split' is {}; write a text"),
        ([HEADER, LINES[0] | {"split": None}], "own.jsonl:2: 'split' is None; write a text"),
        ([HEADER, LINES[0] | {"a": 3}], "own.jsonl:2: 'a' is 3; write a text"),
        ([HEADER, *LINES[:6]], "own.jsonl: test has 0 templates; write at least 3 per split"),
        ([HEADER, *LINES[:8]], "own.jsonl: test has 2 templates; write at least 3 per split"),
        ([HEADER | {"slots": {"w": []}}, *LINES], "own.jsonl:1: list 'w' is []; write a list of one or more words"),
        ([HEADER | {"slots": {"w": ["a", "b"]}}, *LINES], "own.jsonl:1: list 'w' has 2 words for three splits"),
        ([HEADER | {"slots": {"w": ["a", "b", "b"]}}, *LINES], "own.jsonl:1: list 'w' repeats a word"),
        ([HEADER | {"slots": {"w": {"train": ["a"]}}}, *LINES], "own.jsonl:1: list 'w': 'val' is missing"),
        ([HEADER | {"slots": ["w"]}, *LINES], "own.jsonl:1: 'slots' is a list; write an object of word lists"),
        ([HEADER | {"fixed": {"w": ["a"]}}, *LINES], "task 'list_or_set': list 'w' is both per split and fixed"),
    ],
)
def test_mistakes_are_one_line(tmp_path, lines, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_task(write(tmp_path / "own.jsonl", lines))
    assert "\n" not in str(caught.value)
