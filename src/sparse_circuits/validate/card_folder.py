"""The folder of a report card: every measurement is stored when it is made, so that an interrupted card goes on where it stopped.

plan.json says what is measured and how; parts/NAME.json holds the rows of one measurement or control; card.json is the card and is
written last. A folder that was begun for another circuit or with other settings is refused, never mixed. Controls may come later:
one measured into the folder before belongs to the card from then on.

By default a card lies in its circuit's folder, `card/`, and a quick one in `card_quick/`: there the report page finds it. The
circuits in the box are not written to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_circuits import __version__
from sparse_circuits.bundled.folders import circuit_folder
from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.files import check_format, read_json, sweep, write_json
from sparse_circuits.json_values import plain
from sparse_circuits.validate.card import ReportCard, Row, circuit_hash

CARD, QUICK_CARD = "card", "card_quick"
PLAN_KIND, PART_KIND, FORMAT_VERSION = "report_card_plan", "report_card_part", 1


@dataclass(frozen=True, kw_only=True)
class Part:
    """One measurement or control."""

    rows: tuple[Row, ...]
    seconds: float
    """Wall-clock."""


@dataclass(frozen=True)
class CardFolder:
    """Where the parts of one card are kept; None keeps nothing."""

    path: Path | None

    @classmethod
    def open(cls, path: str | Path | None, circuit: Circuit, settings: Mapping[str, Any]) -> "CardFolder":
        """Begins a folder, or goes on with one that was begun for the same circuit with the same settings.

        settings: what two calls must share. Raises ValueError, one line, for the folder of anything else.
        """
        if path is None:
            return cls(None)
        folder, file = Path(path), Path(path) / "plan.json"
        plan = plain({"circuit": circuit_hash(circuit), "release": __version__, **settings})
        if not file.is_file():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise ValueError(f"{folder} holds something else; give a new folder for the card")
            write_json(file, {"kind": PLAN_KIND, "format_version": FORMAT_VERSION, **plan})
            return cls(folder)
        before = read_json(file)
        check_format(before, PLAN_KIND, FORMAT_VERSION, folder)
        if changed := [name for name in plan if before.get(name) != plan[name]]:
            told = "of" if changed[0] in ("circuit", "release") else "with"
            raise ValueError(
                f"{folder} holds a card {told} another {changed[0]}; give a new folder (--out), or remove that one"
            )
        sweep(folder)
        return cls(folder)

    def holds(self, part: str) -> bool:
        """Whether a part was stored."""
        return self.path is not None and self._file(self.path, part).is_file()

    def read(self, part: str) -> Part:
        """A part that was stored. Raises ValueError, one line, if it is damaged."""
        assert self.path is not None
        file = self._file(self.path, part)
        stored = read_json(file)
        check_format(stored, PART_KIND, FORMAT_VERSION, file)
        try:
            rows = tuple(Row.from_dict(name, row) for name, row in stored["metrics"].items())
            return Part(rows=rows, seconds=float(stored["seconds"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{file} is damaged ({type(error).__name__}: {error}); remove it") from None

    def keep(self, part: str, found: Part) -> None:
        """Stores a part, atomically. Raises OSError."""
        if self.path is None:
            return
        head = {"kind": PART_KIND, "format_version": FORMAT_VERSION, "part": part, "seconds": found.seconds}
        write_json(self._file(self.path, part), {**head, "metrics": {row.name: row.to_dict() for row in found.rows}})

    def conclude(self, card: ReportCard) -> None:
        """Writes card.json, atomically. Raises OSError."""
        if self.path is not None:
            write_json(self.path / "card.json", card.to_dict())

    @staticmethod
    def _file(folder: Path, part: str) -> Path:
        return folder / "parts" / f"{part}.json"


def default_folder(circuit: str | Path, quick: bool) -> Path:
    """Where the card of the circuit in a folder lies unless told otherwise."""
    name, where = QUICK_CARD if quick else CARD, circuit_folder(circuit)
    return where / name if where == Path(circuit) else Path("runs") / "validate" / where.name / name


def load_card(folder: str | Path) -> ReportCard:
    """Reads the card in a folder. Raises ValueError, one line, if it is absent, unfinished or damaged."""
    file = Path(folder) / "card.json"
    if not file.is_file() and (Path(folder) / "plan.json").is_file():
        raise ValueError(f"the card in {folder} is not finished; run validate again, and it goes on")
    return ReportCard.from_dict(read_json(file), str(file))


def card_beside(circuit: Circuit, names: Sequence[str] = (CARD, QUICK_CARD)) -> ReportCard | None:
    """The finished card in the circuit's folder, the full one before the quick one; None where there is none.

    Raises ValueError, one line, if it is damaged or that of another circuit.
    """
    if circuit.folder is None:
        return None
    found = next((circuit.folder / name for name in names if (circuit.folder / name / "card.json").is_file()), None)
    if found is None:
        return None
    card = load_card(found)
    if card.circuit.get("hash") != circuit_hash(circuit):
        raise ValueError(f"the card in {found} is that of another circuit; remove it, or validate again")
    return card
