"""Mining by hand-counted files: which places are points, what their prompts hold, which of them are paired, refusals."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from refusals import refused
from sparse_circuits.data.corpus import Files, open_source
from sparse_circuits.data.source import Document
from sparse_circuits.data.tokenizer import encode, tokenizer_hash
from sparse_circuits.tasks.load import task_names
from sparse_circuits.tasks.mined import MinedTask, mine_all, mine_task
from sparse_circuits.tasks.mined_file import read_code
from sparse_circuits.tasks.mined_points import FINDERS
from tasks.mined_code import CASES, mining_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return mining_tokenizer()


def write(folder: Path, **files: str) -> str:
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return str(folder)


def places(mined: MinedTask) -> list[tuple[str, int]]:
    return [(point.file, point.line) for point in mined.points]


# --- which places are points


@pytest.mark.parametrize("name", CASES)
def test_every_point_of_a_task_and_nothing_else(name: str, tokenizer: Any, tmp_path: Path) -> None:
    files, expected = CASES[name]
    for file, text in files.items():
        compile(text, file, "exec")
        (tmp_path / file).write_text(text, encoding="utf-8")
    mined = mine_task(name, tokenizer, str(tmp_path))
    assert sorted((p.file, p.line, "AB"[p.side], p.completion, p.wrong) for p in mined.points) == sorted(expected)
    assert mined.files == ("a.py", "b.py")
    assert mined.counts == {side: sum(point[2] == side for point in expected) for side in "AB"}
    assert mined.tokenizer_hash == tokenizer_hash(tokenizer)
    for point in mined.points:
        text, known = files[point.file], point.prompt + point.completion
        assert text.startswith(known) and point.continuation == text[len(known) :][:64]
        whole = encode(tokenizer, point.prompt + point.completion + point.continuation)
        assert tuple(whole[: len(point.tokens) + 1]) == (*point.tokens, point.answers[0])
        assert encode(tokenizer, point.wrong) == [point.answers[1]]


@pytest.mark.parametrize("name", CASES)
def test_the_one_pair_of_each_case(name: str, tokenizer: Any, tmp_path: Path) -> None:
    for file, text in CASES[name].files.items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    mined = mine_task(name, tokenizer, str(tmp_path))
    assert mined.pairs is not None and mined.pairs.n == 1
    (pair,) = mined.pairs.texts
    sides = [next(p for p in mined.points if p.prompt == pair.prompt(i) and p.side == i) for i in (0, 1)]
    assert sides[0].file != sides[1].file
    assert (pair.completion_a, pair.completion_b) == tuple(p.completion for p in sides)
    assert sides[0].tokens[-1] == sides[1].tokens[-1]
    for i, point in enumerate(sides):
        assert mined.pairs.tokens[0, i, : len(point.tokens)].tolist() == list(point.tokens)
        assert mined.pairs.completions[0, i] == point.answers[0]


def test_every_task_can_be_mined() -> None:
    assert set(CASES) == set(FINDERS) >= set(task_names()), "a task without a finder"


def test_indented_branches_and_blocks_take_their_space(tokenizer: Any, tmp_path: Path) -> None:
    body = "def f(x):\n    if x:\n        y = 1\n    else:\n        y = 2\n    for z in y:  # each one\n        x = z\n"
    mined = mine_all(
        tokenizer, ["else_elif", "indent_for"], write(tmp_path, a=body + "    z = x  # and so\n    y = z\n")
    )
    branches, blocks = mined["else_elif"].points, mined["indent_for"].points
    assert [(p.line, p.completion, p.wrong) for p in branches] == [(4, " else", " elif")]
    assert [(p.line, "AB"[p.side], len(p.completion), len(p.wrong)) for p in blocks] == [(7, "A", 7, 3), (9, "B", 3, 7)]


def test_places_are_right_after_letters_of_several_bytes(tokenizer: Any, tmp_path: Path) -> None:
    text = 'x = "äöü→"; y = [1, 2]\nif "é" in x: z = "ü" if y else 1\nn = "→→" if y.get("é") else x\n'
    mined = mine_all(tokenizer, ["bracket_counting", "if_ternary", "with_as"], write(tmp_path, a=text))
    assert [p.prompt for p in mined["bracket_counting"].points] == ['x = "äöü→"; y = [1, 2']
    assert [text.split("\n")[1].startswith(p.prompt.split("\n")[1]) for p in mined["if_ternary"].points] == [True]
    assert [p.prompt.endswith('y.get("é")') for p in mined["with_as"].points] == [True]


def test_an_f_string_is_one_token_on_every_python() -> None:
    text = "x = f\"{f'{a}' + 'b'!r:>{w}}\" 'c'\ny = f'{{' f'''\n{x}'''\n"
    file = read_code("a.py", text)
    assert file is not None
    strings = [token.text for token in file.tokens if token.text[-1:] in ("'", '"')]
    assert strings == ["f\"{f'{a}' + 'b'!r:>{w}}\"", "'c'", "f'{{'", "f'''\n{x}'''"]
    assert all(text[token.start : token.end] == token.text for token in file.tokens)


# --- prompts


def test_a_prompt_begins_with_its_definition_where_that_fits(tokenizer: Any, tmp_path: Path) -> None:
    before = "".join(f"x{i} = {i}\n" for i in range(60))
    inner = "@wrap\ndef f(a):\n    b = 1\n    log('ready')\n    return b\n"
    source = write(tmp_path, a=before + inner + before)
    (point,) = mine_task("single_double_quote", tokenizer, source).points
    assert point.prompt == "@wrap\ndef f(a):\n    b = 1\n    log('ready"
    assert point.line == 64
    (point,) = mine_task("single_double_quote", tokenizer, source, context=12).points
    assert point.prompt == "    b = 1\n    log('ready" and len(point.tokens) <= 12


def test_a_prompt_never_begins_inside_a_string_or_a_bracket(tokenizer: Any, tmp_path: Path) -> None:
    text = 'x = """\nit is said\nit\'s so\n"""\ny = f(\n    1,\n    2,\n    log(\'ready\')\n)\n'
    found = set()
    for context in range(4, 40):
        source = write(tmp_path, a=text, b='print("end")\n')
        points = mine_task("single_double_quote", tokenizer, source, context=context).points
        found |= {point.prompt for point in points if point.file == "a.py"}
        assert all(len(point.tokens) <= context for point in points)
    assert found == {text[: text.index("')\n")], text[text.index("y = f") : text.index("')\n")]}


def test_what_decides_is_in_the_prompt_or_there_is_no_point(tokenizer: Any, tmp_path: Path) -> None:
    far = "seen = set()\n" + "x = 1\n" * 40 + "seen.add(x)\n"
    source = write(tmp_path, a=far)
    with refused("1 Python file of source", "never ask task set_or_string within the context", "a larger context"):
        mine_task("set_or_string", tokenizer, source)
    (point,) = mine_task("set_or_string", tokenizer, source, context=255).points
    assert point.prompt == far.removesuffix(".add(x)\n") and len(point.tokens) > 96


# --- pairs


def numbered(word: str, count: int, quote: str) -> str:
    return "".join(f"log({quote}{word}{quote})\nx = {i}\n" for i in range(count))


def test_pairs_are_from_two_files_and_use_a_point_once(tokenizer: Any, tmp_path: Path) -> None:
    both = write(tmp_path / "one", a=numbered("ready", 3, "'") + numbered("ready", 3, '"'))
    mined = mine_task("single_double_quote", tokenizer, both)
    assert mined.pairs is None and mined.counts == {"A": 3, "B": 3}
    source = write(tmp_path / "two", a=numbered("ready", 3, "'"), b=numbered("ready", 5, '"'))
    mined = mine_task("single_double_quote", tokenizer, source)
    assert mined.pairs is not None and mined.pairs.fixed_completions
    assert mined.pairs.n == 3 == len({pair.prompt_a for pair in mined.pairs.texts})
    assert len({pair.prompt_b for pair in mined.pairs.texts}) == 3


def test_pairs_are_of_about_one_length_and_end_alike(tokenizer: Any, tmp_path: Path) -> None:
    for more, text, expected in (
        (8, "x\n" * 4 + 'log("ready")\n', 1),
        (9, "x = 1\n" + "x\n" * 2 + 'log("ready")\n', 0),
    ):
        source = write(tmp_path, a="log('ready')\n", b=text)
        mined = mine_task("single_double_quote", tokenizer, source)
        a, b = (len(point.tokens) for point in mined.points)
        assert b - a == more and (mined.pairs.n if mined.pairs else 0) == expected
    other = write(tmp_path, a="log('ready')\n", b='log("lock")\n')
    assert mine_task("single_double_quote", tokenizer, other).pairs is None


def test_names_are_paired_only_where_both_prompts_hold_both(tokenizer: Any, tmp_path: Path) -> None:
    text = "def f({}):\n    {} = 1\n    if {}:\n        pass\n"
    files = {"a": text.format("count", "x", "x"), "b": text.format("count", "y", "y")}
    assert mine_task("var_if", tokenizer, write(tmp_path, **files)).pairs is None
    files["b"] = text.format("x, z", "y", "y").replace("(x", "(n, x")
    files["a"] = text.format("y, count", "x", "x")
    mined = mine_task("var_if", tokenizer, write(tmp_path, **files))
    assert mined.pairs is not None and not mined.pairs.fixed_completions
    assert mined.pairs.texts[0][2:4] == (" x", " y")
    assert {point.wrong for point in mined.points} == {" count", " z"}  # alone: the last bound


def test_the_seed_pairs_and_the_points_stay(tokenizer: Any, tmp_path: Path) -> None:
    files = {f"a{i}": f"n = {i}\n" + numbered("ready", 4, "'\""[i % 2]) for i in range(6)}
    source = write(tmp_path, **files)
    first, again, other = (mine_task("single_double_quote", tokenizer, source, seed=seed) for seed in (0, 0, 1))
    assert first.points == again.points == other.points
    assert first.pairs and again.pairs and other.pairs
    assert first.pairs.texts == again.pairs.texts != other.pairs.texts


def test_only_tokens_that_the_model_has(tokenizer: Any, tmp_path: Path) -> None:
    source = write(tmp_path, a="log('ready')\nx = 1\n", b='log("ready")\n', c='print("lock")\n')
    usable = torch.ones(3000, dtype=torch.bool)
    usable[encode(tokenizer, "log")[0]] = False
    assert places(mine_task("single_double_quote", tokenizer, source, usable=usable)) == [("c.py", 1)]
    usable[encode(tokenizer, '")\n')[0]] = False
    with refused("3 Python files", "single_double_quote 3 times", "this tokenizer and model"):
        mine_task("single_double_quote", tokenizer, source, usable=usable)


# --- sources


def test_the_same_text_counts_once_and_prose_not_at_all(tokenizer: Any, tmp_path: Path) -> None:
    text = "log('ready')\n"
    write(tmp_path, a=text, b=text, c="print \"python 2\"\nlog('ready')\n")
    (tmp_path / "prose.txt").write_text("It is said: log('ready')\n")
    (tmp_path / "lines.jsonl").write_text('{"text": "x = 1\\r\\nlog(\'ready\')\\r\\n"}\n')
    assert places(mine_task("single_double_quote", tokenizer, str(tmp_path))) == [("a.py", 1), ("lines.jsonl:1", 2)]


def test_own_files_need_no_path_rule_and_any_source_will_do(tokenizer: Any, tmp_path: Path) -> None:
    files = {f"m{i}": f"x = {i}\nlog('ready')\n" for i in range(20)}
    source = write(tmp_path, **files)
    assert len(mine_task("single_double_quote", tokenizer, source).points) == 20

    class Memory:
        name, size = "memory", 1

        def documents(self, seed: int = 0) -> Any:
            yield Document("a", f"x = {seed}\nlog('ready')\n", "a")

        def manifest(self) -> dict[str, Any]:
            return {}

    assert places(mine_task("single_double_quote", tokenizer, Memory())) == [("a", 2)]
    assert len(mine_task("single_double_quote", tokenizer, open_source(source)).points) == 20


def test_a_model_that_held_out_less_is_asked_less(tokenizer: Any, tmp_path: Path) -> None:
    """Of a library what training held out, by the first 48 bits of the hash of the path; never more than a fifth."""
    write(tmp_path, **{f"m{i}": f"x = {i}\nlog('ready')\n" for i in range(100)})
    library = Files("python-env", "python-env", tmp_path, sorted(tmp_path.iterdir()))
    place = {path.name: int(sha256(path.name.encode()).hexdigest()[:12], 16) / 16**12 for path in library.paths}
    for threshold, share in ((None, 0.2), (0.2, 0.2), (0.9, 0.2), (0.1, 0.1), (0.05, 0.05)):
        mined = mine_task("single_double_quote", tokenizer, library, val_threshold=threshold)
        assert set(mined.files) == {name for name in place if place[name] < share} and len(mined.points) > 1
    with refused(
        "the held-out part (0.0001 of the paths) of source 'python-env'", "give a folder of other Python code"
    ):
        mine_task("single_double_quote", tokenizer, library, val_threshold=1e-4)
    assert len(mine_task("single_double_quote", tokenizer, str(tmp_path), val_threshold=1e-4).points) == 100


def test_refusals(tokenizer: Any, tmp_path: Path) -> None:
    source = write(tmp_path, a="x = 1\n")
    with refused("unknown task 'quotes'", "single_double_quote", "class_init"):
        mine_task("quotes", tokenizer, source)
    with refused("no task is given", "single_double_quote"):
        mine_all(tokenizer, [], source)
    with refused("context is 0 tokens", "1 to 255"):
        mine_task("with_as", tokenizer, source, context=0)
    with refused("context is 256 tokens", "1 to 255"):
        mine_task("with_as", tokenizer, source, context=256)
    with refused("1 Python file of source", "never ask any of 2 tasks"):
        mine_all(tokenizer, ["with_as", "with_open"], source)
    (tmp_path / "a.py").write_text("no python at all\n")
    with refused("has no Python code to mine", "give .py files"):
        mine_task("with_as", tokenizer, source)
    with refused("no file or folder"):
        mine_task("with_as", tokenizer, str(tmp_path / "none.py"))


def test_a_task_without_points_does_not_stop_the_others(tokenizer: Any, tmp_path: Path) -> None:
    mined = mine_all(tokenizer, None, write(tmp_path, a="x = [1, 2]\n"))
    assert set(mined) == set(FINDERS)
    assert mined["bracket_brace"].counts == {"A": 1, "B": 0}
    assert mined["with_as"] == mined["with_as"] and mined["with_as"].points == ()
    assert mined["with_as"].pairs is None and mined["with_as"].files == ()
