"""Reads the README so that tests can hold it to the truth: fenced blocks, the printed tree, the commands it shows.

The tree is a fenced block with the line `src/sparse_circuits/`. Below it a line is indented and starts with a name
(`sites.py`, `model/`); deeper indentation means inside the folder above. After a folder the same line may go on with
`file.py` and `folder/` words: they lie in that folder. Everything else on a line is prose about the names.
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROGRAM = "sparse-circuits"
PACKAGE_LINE = "src/sparse_circuits/"
NAME = re.compile(r"(?<![\w./])(\w[\w-]*\.py|\w[\w-]*/)(?![\w.])")


def fenced_blocks(markdown: str, language: str) -> list[str]:
    """The text of every fenced block of that language ("" for blocks that name none), in order."""
    pattern = re.compile(r"^```([\w+-]*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
    return [text for found, text in pattern.findall(markdown) if found == language]


def printed_tree(markdown: str) -> set[str]:
    """The paths the README's tree names, relative to the package: `sites.py`, `model/`, `model/taps.py`."""
    for block in fenced_blocks(markdown, ""):
        lines = block.splitlines()
        starts = [number for number, line in enumerate(lines) if line.strip().startswith(PACKAGE_LINE)]
        if starts:
            return tree_paths(lines[starts[0] + 1 :])
    raise ValueError(f"the README has no fenced block (without a language) with a line {PACKAGE_LINE!r}")


def tree_paths(lines: list[str]) -> set[str]:
    paths: set[str] = set()
    open_folders: list[tuple[int, str]] = []  # (indentation, path) of the folders the current line may lie in
    for line in lines:
        indentation = len(line) - len(line.lstrip())
        if line.strip() and indentation == 0:
            break  # the tree goes on with examples/, tests/, docs/
        names = NAME.findall(line)
        if not names or not line.lstrip().startswith(names[0]):
            continue  # prose that runs on from the line above
        open_folders = [(depth, path) for depth, path in open_folders if depth < indentation]
        parent = open_folders[-1][1] if open_folders else ""
        if names[0].endswith("/"):
            parent += names[0]
            open_folders.append((indentation, parent))
            paths.add(parent)
            names = names[1:]
        paths.update(parent + name for name in names)
    return paths


def actual_tree(package: Path) -> set[str]:
    """Every folder and every .py file of the package; a folder's __init__.py goes without saying, as do the parts of a folder
    of data."""
    paths = [path.relative_to(package) for path in package.rglob("*") if "__pycache__" not in path.parts]
    code = [path for path in paths if (package / path).is_dir() and any((package / path).parent.glob("*.py"))]
    folders = {f"{path.as_posix()}/" for path in code}
    return folders | {path.as_posix() for path in paths if path.suffix == ".py" and path.name != "__init__.py"}


def commands(markdown: str, program: str = PROGRAM) -> list[list[str]]:
    """Every call of the program in bash blocks, as words; comments dropped, continued lines joined."""
    found = []
    for block in fenced_blocks(markdown, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\||;", line):
                words = shlex.split(part.removeprefix("$ "), comments=True)
                words = [word for word in words if "=" not in word or word.startswith("-")]  # NAME=value in front
                if words and Path(words[0]).name == program:
                    found.append(words[1:])
    return found


def verb(words: list[str]) -> list[str]:
    """The verb of a command: its leading lower-case words (`data build`), up to the first option, path or name."""
    end = next((i for i, word in enumerate(words) if not re.fullmatch(r"[a-z]+(-[a-z]+)*", word)), len(words))
    return words[:end]


def run_python_blocks(markdown: str, namespace: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Runs the README's python blocks in order, in one namespace and in the current folder, and returns the namespace.

    A test calls this from a temporary folder that holds what the snippets expect (`monkeypatch.chdir(tmp_path)`).
    A traceback names the block: `README python block 2`, line within the block.
    """
    names = dict(namespace or {})
    for number, block in enumerate(fenced_blocks(markdown, "python"), start=1):
        exec(compile(block, f"README python block {number}", "exec"), names)
    return names
