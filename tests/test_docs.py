"""The documents say what is so: the README's tree and commands, the status column of docs/interfaces.md, the skips."""

import ast
import re
import sys
from pathlib import Path

import pytest

from readme import actual_tree, commands, fenced_blocks, printed_tree, run_python_blocks, verb

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
INTERFACES = (ROOT / "docs" / "interfaces.md").read_text("utf-8")
SKIPS = ROOT / "tests" / "SKIPS.md"


# --- README: the tree ---


def test_the_printed_tree_is_the_tree() -> None:
    printed, actual = printed_tree(README), actual_tree(ROOT / "src" / "sparse_circuits")
    printed.discard("__init__.py")
    assert printed - actual == set(), "the README's tree lists what does not exist"
    assert actual - printed == set(), "the README's tree lacks what exists"


def test_reading_a_tree() -> None:
    text = """
```
src/sparse_circuits/
  sites.py      the vocabulary, read by model/ and others: not a name at the start
                of the line: wrapped prose about log.py
  model/        taps.py the seam · transformer.py the model
  viz/          pictures
    page.py     one file
    assets/     modules
tests/          test_floors.py
```
"""
    below_sites = {"sites.py", "model/"}  # names on a line count wherever they stand
    assert printed_tree(text) == below_sites | {
        "model/taps.py",
        "model/transformer.py",
        "viz/",
        "viz/page.py",
        "viz/assets/",
    }
    with pytest.raises(ValueError, match="no fenced block"):
        printed_tree("# no tree")


# --- README and docs/interfaces.md: the commands ---


def help_exits_with(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of `sparse-circuits WORDS --help`, run in this process."""
    from sparse_circuits.cli import main

    monkeypatch.setattr(sys, "argv", ["sparse-circuits", *words, "--help"])
    try:
        return main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)


@pytest.mark.parametrize("words", commands(README), ids=" ".join)
def test_the_commands_of_the_readme_exist(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert verb(words), "a command without a verb"
    assert help_exits_with(verb(words), monkeypatch) == 0


def test_the_readme_shows_commands() -> None:
    assert ["quickstart"] in [verb(words) for words in commands(README)]


@pytest.mark.parametrize("words", [["no-such-verb"], ["tasks", "no-such-verb"]], ids=" ".join)
def test_an_unknown_verb_is_refused(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert help_exits_with(words, monkeypatch) != 0


def test_reading_commands() -> None:
    text = """
```bash
# sparse-circuits nothing
$ sparse-circuits tasks list --json | head
THREADS=2 .venv/bin/sparse-circuits circuit show runs/a && ls   # a comment
sparse-circuits train \\
  --out x
```
"""
    assert [verb(words) for words in commands(text)] == [["tasks", "list"], ["circuit", "show"], ["train"]]


# --- docs/interfaces.md ---


def verbs_now() -> list[str]:
    """The verbs whose row in the table of commands has the status `now`."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in INTERFACES.splitlines() if line.startswith("|")
    ]
    cells = [row[0] for row in rows if row[-1] == "now"]
    return [" ".join(verb(text.split())) for cell in cells for text in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("words", verbs_now())
def test_the_verbs_marked_now_exist(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert help_exits_with(words.split(), monkeypatch) == 0


def test_the_names_not_marked_planned_exist() -> None:
    import sparse_circuits as sc

    now = "\n".join(fenced_blocks(INTERFACES.split("### Planned")[0], "python"))
    names = sorted(set(re.findall(r"\bsc\.(\w+)", now)))
    assert "load_model" in names
    assert [name for name in names if not hasattr(sc, name)] == []


# --- README: the snippets ---


def test_blocks_share_a_namespace() -> None:
    text = "```python\nx = 1\n```\nprose\n```bash\nfalse\n```\n```python\ny = x + start\n```\n"
    assert run_python_blocks(text, {"start": 2})["y"] == 3
    with pytest.raises(ZeroDivisionError):
        run_python_blocks("```python\n1 / 0\n```\n")


# --- tests/SKIPS.md ---


SKIPPING = re.compile(r"(pytest\.)?(skip|importorskip|xfail|mark\.(skip|skipif|xfail))")


def skip_reasons(source: str) -> list[str | None]:
    """The reason of every skip and expected failure in a test file; None where it is missing or not a plain string."""
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    reasons = [skip_reason(call) for call in calls if SKIPPING.fullmatch(ast.unparse(call.func))]
    called = {id(call.func) for call in calls}
    bare = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and id(node) not in called and SKIPPING.fullmatch(ast.unparse(node))
    ]
    return [*reasons, *(None for _ in bare)]


def skip_reason(call: ast.Call) -> str | None:
    named = [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
    positional = call.args[:1] if ast.unparse(call.func).endswith((".skip", ".xfail")) else []
    value = next(iter([*named, *positional]), None)
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def listed_reasons() -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", SKIPS.read_text("utf-8"), re.MULTILINE)


def used_reasons() -> dict[str, list[str | None]]:
    files = sorted((ROOT / "tests").rglob("*.py"))
    found = {path.relative_to(ROOT).as_posix(): skip_reasons(path.read_text("utf-8")) for path in files}
    return {name: reasons for name, reasons in found.items() if reasons}


def test_every_skip_is_listed() -> None:
    listed = set(listed_reasons())
    unlisted = [f"{name}: {reason!r}" for name, reasons in used_reasons().items() for reason in {*reasons} - listed]
    assert unlisted == [], "give the reason as a plain string and add it to tests/SKIPS.md"


def test_every_listed_skip_is_used() -> None:
    used = {reason for reasons in used_reasons().values() for reason in reasons}
    assert "no chromium on this machine" in used
    assert [reason for reason in listed_reasons() if reason not in used] == []


def test_reading_skip_reasons() -> None:
    source = """
import pytest
yaml = pytest.importorskip("yaml", reason="no yaml")
@pytest.mark.skipif(True, reason="one")
@pytest.mark.xfail("text")
@pytest.mark.skip
@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.skip("two"))])
def test(x):
    pytest.skip("three")
    pytest.skip(f"{x}")
    pytest.importorskip("triton")
"""
    reasons = skip_reasons(source)
    assert {reason for reason in reasons if reason} == {"no yaml", "one", "text", "two", "three"}
    assert reasons.count(None) == 3
