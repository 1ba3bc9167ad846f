"""Own tasks in ten lines of JSONL, and any task written back to it.

Line 1 is the header, every other line one template; `<word>` is a slot that draws from the list `word`:

    {"task": "close_list", "completions": ["]\\n", "}\\n"], "slots": {"word": ["sun", "moon", "sky", "rain", "snow"]}}
    {"split": "train", "a": "<word> = [1, 2", "b": "<word> = {1, 2", "continuation_a": "x = 1\\n"}

1. A list of words is divided among the splits, 60 / 20 / 20, in the order of the words' hashes, so the order in the
   file does not matter; a word of two lists falls into the same split in both. Or a list is given per split:
   {"train": [...], "val": [...], "test": [...]}.
2. `fixed` lists are shared by all splits: for words that the task's definition needs everywhere.
3. `shifted` names shifted splits and the words each has of its own (other lists are test's): {"longer": {}, "names":
   {"word": ["zig", "zag"]}}; templates with such a split are asked out of distribution, nothing is trained on them.
4. Each split needs three templates (METHOD D10). Reading is strict: anything unknown or missing is an error of one line
   that names file and line. `check.check_task` then says whether the task is well posed under a tokenizer.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import text_hash, write_text
from .check import MIN_TEMPLATES
from .task import SPLITS, Shift, Task, Template

_HEADER = ("task", "statement", "determined_by", "completions", "slots", "fixed", "shifted")
_TEMPLATE = ("split", "a", "b", "continuation_a", "continuation_b", "completions")


def read_task(path: str | Path) -> Task:
    """Reads a task from JSONL. Raises ValueError, one line, that names file and line."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"no task file at {file}")
    rows = _rows(file)
    if not rows:
        raise ValueError(f'{file} is empty; line 1 is the header, e.g. {{"task": NAME, "completions": [A, B]}}')
    header_where, header = rows[0]
    _keys(header_where, header, _HEADER, ("task", "completions"))
    shifted = _object(header_where, header, "shifted")
    shifts = {name: _object(header_where, shifted, name) for name in shifted}
    templates: dict[str, list[Template]] = {split: [] for split in (*SPLITS, *shifts)}
    for where, row in rows[1:]:
        _keys(where, row, _TEMPLATE, ("split", "a", "b"))
        split = _text(where, row, "split")
        if split not in templates:
            raise ValueError(f"{where}: unknown split {split!r}; allowed: {', '.join(templates)}")
        templates[split].append(_template(where, row))
    for split, found in templates.items():
        if len(found) < MIN_TEMPLATES:
            raise ValueError(f"{file}: {split} has {len(found)} templates; write at least {MIN_TEMPLATES} per split")
    slots = _object(header_where, header, "slots")
    fixed = _object(header_where, header, "fixed")
    try:
        return Task(
            _text(header_where, header, "task"),
            _text(header_where, header, "statement"),
            _text(header_where, header, "determined_by"),
            _pair(header_where, header["completions"]),
            {split: tuple(templates[split]) for split in SPLITS},
            _all_fillers(header_where, slots),
            {name: _words(header_where, name, words) for name, words in fixed.items()},
            {name: _shift(header_where, templates[name], words) for name, words in shifts.items()},
        )
    except ValueError as error:
        raise ValueError(str(error) if str(file) in str(error) else f"{file}: {error}") from None


def save_task(task: Task, path: str | Path) -> None:
    """Writes a task as JSONL, atomically; `read_task` gives an equal task back."""
    content = task.to_dict()
    templates, shifted = content.pop("templates"), content.pop("shifted", {})
    templates |= {name: shift["templates"] for name, shift in shifted.items()}
    if shifted:
        content["shifted"] = {name: shift["words"] for name, shift in shifted.items()}
    lines = [content, *({"split": split, **template} for split in task.splits for template in templates[split])]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def divide(words: tuple[str, ...], placed: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Divides different words among the splits, 60 / 20 / 20; words in `placed` (word -> split) stay where they are."""
    share = max(1, len(words) // 5)
    divided: dict[str, list[str]] = {split: [word for word in words if placed.get(word) == split] for split in SPLITS}
    for word in sorted((word for word in words if word not in placed), key=text_hash):
        split = next((split for split in ("test", "val") if len(divided[split]) < share), "train")
        divided[split].append(word)
    return {split: tuple(found) for split, found in divided.items()}


def _all_fillers(where: str, slots: Mapping[str, Any]) -> dict[str, dict[str, tuple[str, ...]]]:
    """The lists given per split first: they say where their words belong."""
    placed: dict[str, str] = {}
    fillers = {}
    for name in sorted(slots, key=lambda name: not isinstance(slots[name], dict)):
        fillers[name] = _fillers(where, name, slots[name], placed)
        placed |= {word: split for split, words in fillers[name].items() for word in words}
    return {name: fillers[name] for name in slots}


def _rows(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """("file:line", object) of every line that is not blank."""
    rows = []
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error}); save it as UTF-8") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}:{number} is not valid JSON ({error}); write one object per line") from None
        if not isinstance(value, dict):
            raise ValueError(f"{file}:{number} holds a {type(value).__name__}; write one JSON object per line")
        rows.append((f"{file}:{number}", value))
    return rows


def _keys(where: str, row: Mapping[str, Any], allowed: tuple[str, ...], required: tuple[str, ...]) -> None:
    for key in row:
        if key not in allowed:
            raise ValueError(f"{where}: unknown key {key!r}; allowed: {', '.join(allowed)}")
    for key in required:
        if key not in row:
            raise ValueError(f"{where}: {key!r} is missing; required: {', '.join(required)}")


def _text(where: str, row: Mapping[str, Any], key: str) -> str:
    value = row.get(key, "")
    if not isinstance(value, str) or (key in ("task", "a", "b") and not value):
        raise ValueError(f"{where}: {key!r} is {value!r}; write a text")
    return value


def _object(where: str, row: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = row.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {key!r} is a {type(value).__name__}; write an object of word lists")
    return value


def _template(where: str, row: Mapping[str, Any]) -> Template:
    texts = (_text(where, row, key) for key in ("a", "b", "continuation_a", "continuation_b"))
    return Template(*texts, completions=_pair(where, row["completions"]) if "completions" in row else None)


def _shift(where: str, templates: list[Template], words: Mapping[str, Any]) -> Shift:
    return Shift(tuple(templates), {name: _words(where, name, given) for name, given in words.items()})


def _pair(where: str, value: Any) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(text, str) and text for text in value):
        raise ValueError(f"{where}: completions are {value!r}; write two texts, of class A and of class B")
    return value[0], value[1]


def _words(where: str, name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(word, str) and word for word in value):
        raise ValueError(f"{where}: list {name!r} is {str(value)[:60]}; write a list of one or more words")
    if len(set(value)) < len(value):
        raise ValueError(f"{where}: list {name!r} repeats a word; write each word once")
    return tuple(value)


def _fillers(where: str, name: str, value: Any, placed: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    if isinstance(value, dict):
        _keys(f"{where}: list {name!r}", value, SPLITS, SPLITS)
        return {split: _words(where, name, value[split]) for split in SPLITS}
    words = _words(where, name, value)
    if len(words) < len(SPLITS):
        raise ValueError(f"{where}: list {name!r} has {len(words)} words for three splits; write at least 3")
    divided = divide(words, placed)
    for split, found in divided.items():
        if not found:
            raise ValueError(f"{where}: list {name!r} gets no word for {split}; add words, or give the list per split")
    return divided
