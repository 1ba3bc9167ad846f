"""The whole frontier in one folder: `run_frontier` makes it, `read_frontier` reads what is there.

    grid.json                   the grid
    tokenizer/, shards/         the corpus, made once and shared by every point
    points/NAME/run             training, resumed where it was interrupted
    points/NAME/circuits/TASK   circuits of every pruning seed
    points/NAME/point.json      what the point was found to be; written last, so its presence means done
    points/NAME/error.json      instead, why the last try failed

A second call goes on where the first stopped and tries failed points again; finished ones are never touched. A larger grid
may go on in the same folder if it contains every point of the smaller one and shares everything else, the content of its tasks
included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparse_circuits.data.corpus import open_sources
from sparse_circuits.data.shards import build_shards
from sparse_circuits.data.tokenizer import read_tokenizer, save_tokenizer, train_tokenizer
from sparse_circuits.executors import Executor, Processes
from sparse_circuits.files import check_format, read_json, sweep, write_json
from sparse_circuits.frontier.grid import Grid
from sparse_circuits.frontier.point import point_folder, run_point, write_failure
from sparse_circuits.frontier.record import POINT_FILE, PointRecord, read_point
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.tasks.task import Task

FORMAT_VERSION = 1
GRID_FILE = "grid.json"
POINTS_OF_A_GRID = ("sparse", "dense_widths", "seeds")
"""The fields of Grid that say which points there are; all others must be equal for points to be comparable."""


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """What a folder holds."""

    grid: Grid
    records: tuple[PointRecord, ...]
    """Finished points, in the order of the grid."""
    failed: dict[str, str]
    """Point -> why its last try failed, one line."""
    missing: tuple[str, ...]
    """Points that are neither finished nor failed."""


def run_frontier(
    grid: Grid,
    out: str | Path,
    *,
    workers: int = 2,
    executor: Executor | None = None,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> Frontier:
    """Makes every point of the grid that `out` does not hold yet, and returns what it holds then.

    workers: processes side by side, each with its share of the cores. executor: other means of running points; `workers` does
    not matter then. A point that fails is in `failed`, and the others go on. Raises ValueError, before any work, for a point
    that cannot be trained, an unknown task, or a folder that holds another grid, points of changed tasks, or other files.
    """
    points, root = grid.points(), Path(out)
    runner = Processes(workers=workers) if executor is None else executor
    _open(root, grid, grid.loaded_tasks())
    _corpus(root, grid, progress)
    todo = [point.name for point in points if not (point_folder(root, point.name) / POINT_FILE).is_file()]
    progress.say(f"{len(points) - len(todo)} of {len(points)} points are there")
    calls = [(str(root), grid.to_dict(), name, device) for name in todo]
    with progress.bar("points", len(todo)) as bar:
        for done, (index, value, failure) in enumerate(runner.run(run_point, calls), start=1):
            folder = point_folder(root, todo[index])
            if failure is None:
                (folder / "error.json").unlink(missing_ok=True)
                progress.say(_told(PointRecord.from_dict(value)))
            else:
                write_failure(folder, failure.error, failure.trace)
                progress.say(f"{todo[index]} FAILED: {failure.error}")
            bar.update(done)
    return read_frontier(root)


def read_frontier(folder: str | Path) -> Frontier:
    """Reads a frontier, finished or not. Raises ValueError, one line, if there is none or a file is damaged."""
    root = Path(folder)
    grid = _read_grid(root)
    records, failed, missing = [], {}, []
    for name in (point.name for point in grid.points()):
        where = point_folder(root, name)
        if (where / POINT_FILE).is_file():
            records.append(read_point(where))
        elif (where / "error.json").is_file():
            failed[name] = str(read_json(where / "error.json").get("error"))
        else:
            missing.append(name)
    return Frontier(grid=grid, records=tuple(records), failed=failed, missing=tuple(missing))


def _read_grid(root: Path) -> Grid:
    if not (root / GRID_FILE).is_file():
        raise ValueError(
            f"no frontier at {root} (no {GRID_FILE}); make one with sparse-circuits frontier run --out {root}"
        )
    stored = read_json(root / GRID_FILE)
    check_format(stored, "frontier", FORMAT_VERSION, root / GRID_FILE)
    try:
        return Grid.from_dict(stored.get("grid", {}))
    except ValueError as error:
        raise ValueError(f"{root / GRID_FILE} is damaged ({error}); restore it or start in another folder") from None


def _open(root: Path, grid: Grid, tasks: Sequence[Task]) -> None:
    """Writes grid.json, or checks that the points of the one there are among the grid's and of the same tasks."""
    sweep(root)
    if (root / GRID_FILE).is_file():
        if (root / "shards").is_dir():  # before that nothing was made that another grid could spoil
            _check_contains(grid, _read_grid(root), root)
            _check_tasks(root, {task.name: task.hash for task in tasks})
    elif root.exists() and any(root.iterdir()):
        raise ValueError(f"{root} holds other files; give a new folder")
    write_json(root / GRID_FILE, {"kind": "frontier", "format_version": FORMAT_VERSION, "grid": grid.to_dict()})


def _check_contains(new: Grid, old: Grid, root: Path) -> None:
    for name in Grid.model_fields:
        if name not in POINTS_OF_A_GRID and getattr(new, name) != getattr(old, name):
            raise ValueError(
                f"{root} holds a frontier with another {name} ({getattr(old, name)!r}), so its points cannot be compared "
                "with these; give the same or another folder"
            )
    points = {point.name: point for point in new.points()}
    if lost := [point.name for point in old.points() if points.get(point.name) != point]:
        raise ValueError(
            f"{root} holds a frontier with points that this grid lacks ({', '.join(lost[:3])}); give a grid that contains them, "
            "or another folder"
        )


def _check_tasks(root: Path, hashes: Mapping[str, str]) -> None:
    """hashes: of the grid's tasks, by name."""
    for record in read_frontier(root).records:
        for task in record.tasks:
            if task.task not in hashes or task.task_hash not in (None, hashes[task.task]):
                raise ValueError(
                    f"{root} holds points of another task {task.task!r} ({record.name}), so they cannot be compared with new ones; "
                    "give that task or another folder"
                )


def _corpus(root: Path, grid: Grid, progress: Progress) -> None:
    if (root / "shards").is_dir():
        return
    progress.say("corpus and tokenizer ...")
    sources = open_sources(grid.sources)
    texts = (document.text for source in sources for document in source.documents(0))
    save_tokenizer(train_tokenizer(texts, grid.vocab_size, progress), root / "tokenizer")
    build_shards(sources, read_tokenizer(root / "tokenizer"), root / "shards", seed=0, progress=progress)


def _told(record: PointRecord) -> str:
    met = sum(task.status == "met" for task in record.tasks)
    spent = sum(record.seconds.values())
    return (
        f"{record.name}: validation loss {record.val_loss:.3f}, {met} of {len(record.tasks)} tasks met, {spent:.0f} s"
    )
