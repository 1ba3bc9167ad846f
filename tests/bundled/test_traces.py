"""The traces in docs/circuits are what their command writes; numbers may differ in the last digit shown on another processor."""

import re
from pathlib import Path

import pytest

from sparse_circuits.cli import main

DOCS = Path(__file__).parent.parent.parent / "docs" / "circuits"
TRACES = sorted(DOCS.glob("*_trace.md"))
NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.mark.parametrize("file", TRACES, ids=lambda file: file.stem)
def test_trace_is_what_the_command_writes(file: Path, tmp_path: Path) -> None:
    task = file.stem.removesuffix("_trace")
    assert main(["circuit", "trace", f"bundled/{task}", "--out", str(tmp_path / "trace.md")]) == 0
    made, kept = (tmp_path / "trace.md").read_text(), file.read_text()
    assert NUMBER.sub("N", made) == NUMBER.sub("N", kept)
    pairs = zip(NUMBER.findall(made), NUMBER.findall(kept), strict=True)
    assert all(abs(float(x) - float(y)) < 0.015 for x, y in pairs)


def test_every_reading_has_its_trace_its_picture_and_its_tests() -> None:
    readings = [file for file in DOCS.glob("*.md") if file not in TRACES]
    assert {file.stem for file in readings} == {file.stem.removesuffix("_trace") for file in TRACES}
    for file in readings:
        text = file.read_text()
        assert (DOCS / f"{file.stem}.png").is_file() and f"]({file.stem}.png)" in text
        (tests,) = re.findall(r"`tests/bundled/(test_reading_\w+\.py)`", text)
        assert (Path(__file__).parent / tests).is_file()
