"""The run's figures: one JSON object per line in `metrics.jsonl`, cut back to the checkpoint on resume."""

import json
from pathlib import Path

from sparse_circuits.files import write_text


class Metrics:
    """Appends to `metrics.jsonl`; every line carries its `step`."""

    def __init__(self, folder: str | Path, resume_from: int | None = None) -> None:
        self.path = Path(folder) / "metrics.jsonl"
        kept = [] if resume_from is None else [line for line in _whole_lines(self.path) if line["step"] <= resume_from]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, step: int, **figures: float | int) -> None:
        """Appends one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")


def read_metrics(path: str | Path) -> list[dict[str, float | int]]:
    """All whole lines of a metrics file."""
    return _whole_lines(Path(path))


def _whole_lines(path: Path) -> list[dict[str, float | int]]:
    """A killed run may leave half a last line; it is dropped."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
