"""One point of a frontier from nothing to its record; what a worker runs.

1. Train into `points/NAME/run`, or go on with the run that is there; a trained model is not trained again.
2. Score the model on every task. One that cannot be asked, or that the model itself does not do to the target, is recorded
   as a miss with the reason: no circuit could be expected of it.
3. Prune the others with several seeds; circuits go to `points/NAME/circuits/TASK`, the best on validation in front.
4. Write point.json, last: where it is, the point is finished.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sparse_circuits.circuit.circuit import load_circuit
from sparse_circuits.circuit.evaluate import EVAL_PAIRS, Evaluation, score, usable_tokens
from sparse_circuits.data.shards import Shards
from sparse_circuits.data.tokenizer import read_tokenizer
from sparse_circuits.files import read_json, write_json
from sparse_circuits.frontier.grid import Grid, Point
from sparse_circuits.frontier.record import POINT_FILE, PointRecord, TaskRecord, read_point, write_point
from sparse_circuits.model.edge_weights import site_pairs
from sparse_circuits.model.folder import read_model
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.mask import NodeLayout
from sparse_circuits.prune.pipeline import meets_on_val, prune_seeds
from sparse_circuits.prune.seeds import save_seeds
from sparse_circuits.tasks.task import SPLITS, Task, UnusableTokens
from sparse_circuits.train.loop import train
from sparse_circuits.train.metrics import read_metrics


def point_folder(out: str | Path, name: str) -> Path:
    """Where a point lies."""
    return Path(out) / "points" / name


def run_point(out: str, grid: Mapping[str, Any], name: str, device: str = "cpu") -> dict[str, Any]:
    """Makes one point and returns its record as plain JSON values; a finished one is only read.

    out: folder of the frontier, with its tokenizer and shards. grid: the fields of Grid. Raises ValueError where training stops.
    """
    chosen = Grid.from_dict(grid)
    folder = point_folder(out, name)
    if (folder / POINT_FILE).is_file():
        return read_point(folder).to_dict()
    point, seconds = chosen.point(name), {}
    training = _train(point, Path(out), folder, device)
    model = read_model(folder / "run" / "model").to(device)
    seconds["training"] = training_seconds(folder / "run" / "metrics.jsonl")
    tokenizer = read_tokenizer(Path(out) / "tokenizer")
    begun = time.perf_counter()
    tasks = tuple(_task(model, task, tokenizer, chosen, folder / "circuits") for task in chosen.loaded_tasks())
    seconds["tasks"] = time.perf_counter() - begun
    record = PointRecord(
        name=name,
        family=point.family,
        width=model.config.d_model,
        fraction=point.config.sparsity.fraction,
        afrac=model.config.afrac,
        seed=point.config.seed,
        **{key: training[key] for key in ("val_loss", "nonzero", "nonzero_fraction", "zero_rows")},
        nodes_total=NodeLayout.of(model.widths).size,
        edges_total=sum(int(pair.weight.count_nonzero()) for pair in site_pairs(model)),
        tasks=tasks,
        seconds=seconds,
    )
    write_point(folder, record)
    return record.to_dict()


def training_seconds(path: Path) -> float:
    """Wall-clock seconds of all training steps. Raises ValueError for a run that did not note them."""
    steps = read_metrics(path)
    if untimed := [step["step"] for step in steps if "seconds" not in step]:
        raise ValueError(
            f"{path} has no `seconds` at step {untimed[0]}: the run was begun by an older version; delete {path.parent} to train "
            "this point again"
        )
    return sum(step["seconds"] for step in steps)


def _train(point: Point, root: Path, folder: Path, device: str) -> dict[str, Any]:
    """Trains what is not trained yet; the content of training.json."""
    run = folder / "run"
    if not (run / "model").is_dir():
        resume = (run / "manifest.json").is_file()
        tokenizer = read_tokenizer(root / "tokenizer")
        train(point.config, Shards.open(root / "shards"), tokenizer, run, resume=resume, device=device)
    return read_json(run / "model" / "training.json")


def _task(model: SparseTransformer, task: Task, tokenizer: Any, grid: Grid, circuits: Path) -> TaskRecord:
    """Scores and prunes one task."""
    asked = {"task": task.name, "task_hash": task.hash}
    try:
        scores = model_scores(model, task, tokenizer, grid.prune)
    except UnusableTokens as error:
        return TaskRecord(**asked, status="unusable", reason=str(error))
    test: dict[str, Any] = {**asked, "model_loss": scores["test"].loss, "accuracy": scores["test"].accuracy}
    worst = max(scores["train"].loss, scores["val"].loss)
    if worst > grid.target_loss:
        reason = f"the model itself scores {worst:.3f} nats, above the target {grid.target_loss}"
        return TaskRecord(status="unsolved", reason=reason, **test)
    found = prune_seeds(
        model,
        task,
        tokenizer=tokenizer,
        target_loss=grid.target_loss,
        seeds=range(grid.prune_seeds),
        config=grid.prune,
    )
    runs = save_seeds(found, circuits / task.name)
    best = load_circuit(circuits / task.name)
    assert best.loss is not None
    sizes: dict[str, Any] = {
        "loss": best.loss.test,
        "nodes": len(best.nodes),
        "edges": len(best.edges),
        "met_on_val": meets_on_val(best),
        "seeds": tuple(runs),
    }
    if best.met_target:
        return TaskRecord(status="met", **test, **sizes)
    reason = f"the circuit scores {best.loss.test:.3f} nats on test, above the target {grid.target_loss}"
    return TaskRecord(status="missed", reason=reason, **test, **sizes)


@torch.no_grad()
def model_scores(model: SparseTransformer, task: Task, tokenizer: Any, recipe: PruneConfig) -> dict[str, Evaluation]:
    """split -> what the whole model scores, on the pairs that pruning will draw and judge the model by.

    Raises UnusableTokens where one of them cannot be asked.
    """
    counts = {"train": recipe.train_pairs, "val": recipe.val_pairs, "test": 1}
    found = {}
    for split in SPLITS:
        drawn = task.pairs(split, max(counts[split], EVAL_PAIRS), tokenizer, usable=usable_tokens(model))
        pairs = drawn.to(next(model.parameters()).device).take(range(min(EVAL_PAIRS, drawn.n)))
        found[split] = score(model, pairs, None, recipe.loss_kind, None)
    return found


def write_failure(folder: str | Path, error: str, trace: str) -> None:
    """Notes why a point has no record. Raises OSError."""
    stored = {"kind": "frontier_failure", "format_version": 1, "error": error, "trace": trace}
    write_json(Path(folder) / "error.json", stored)
