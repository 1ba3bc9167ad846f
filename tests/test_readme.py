"""The README, word for word: its quickstart, then every snippet and every command on what the quickstart made.

This is the one long test (the whole pipeline at its real size, a few minutes); everything it needs happens in one folder.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from readme import commands, fenced_blocks, run_python_blocks
from sparse_circuits.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `make quickstart` has just been typed, with the docs of a clone."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "docs").symlink_to(ROOT / "docs")
    command = [sys.executable, "-m", "sparse_circuits.cli", "quickstart", "--out", "runs/quickstart", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}  # a process of its own is not slowed by shape checks
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder


def show(folder: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["circuit", "show", folder, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_quickstart_finds_a_small_circuit(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    shown = show("runs/quickstart/circuit", capsys)
    assert shown["task"] == "single_double_quote"
    assert shown["loss"]["test"] <= 0.15
    assert shown["nodes"] <= 25
    assert shown["nodes"] == len(shown["node_names"])
    assert (home / "runs/quickstart/report.html").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_fresh_evaluation_gives_the_stored_loss(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    stored = show("runs/quickstart/circuit", capsys)["loss"]["test"]
    assert main(["circuit", "eval", "runs/quickstart/circuit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(stored, abs=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_python_snippets_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    assert fenced_blocks(README, "python")
    names = run_python_blocks(README)
    assert isinstance(names["logits"], torch.Tensor)
    assert (home / "quotes.html").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_commands_run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(home)
    listed = [words for words in commands(README) if words[0] != "quickstart"]  # that one has run
    assert len(listed) >= 9
    for words in listed:
        assert main([*words, "--quiet"]) == 0, f"{words}: {capsys.readouterr().err}"
