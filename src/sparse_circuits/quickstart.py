"""The whole pipeline on two CPU cores in minutes: corpus, tokenizer, training, pruning, evaluation, report.

Each stage is one call of the library; read this file to see how they fit together. Everything lands in one folder:
tokenizer/, shards/, run/ (with run/model), circuit/ (the best of a few pruning seeds, all of them in circuit/seeds) and
report.html.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_circuits.circuit.circuit import Circuit, load_circuit
from sparse_circuits.data.corpus import open_sources
from sparse_circuits.data.shards import build_shards
from sparse_circuits.data.tokenizer import read_tokenizer, save_tokenizer, train_tokenizer
from sparse_circuits.hub.load import load_model
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.prune.pipeline import best, prune_seeds
from sparse_circuits.prune.refine import with_minimality
from sparse_circuits.prune.seeds import save_seeds, seed_folder
from sparse_circuits.tasks.load import load_task
from sparse_circuits.train.loop import TrainResult, train
from sparse_circuits.train.presets import preset
from sparse_circuits.viz.document import build_document
from sparse_circuits.viz.page import write_page
from sparse_circuits.viz.table import render_text

SOURCES = ("tiny-python:9MB", "python-env:2MB")
VOCAB_SIZE = 512
TASK = "single_double_quote"
PRUNE_SEEDS = 2


@dataclass(frozen=True, kw_only=True)
class QuickstartResult:
    """What the quickstart made."""

    seconds: dict[str, float]
    """Wall-clock seconds per stage, and `total`."""
    trained: TrainResult
    circuit: Circuit
    """The best circuit of the pruning seeds, chosen on validation pairs."""
    circuits: tuple[str, ...]
    """Folders of all circuits, the best first."""
    report: str
    """The page."""
    table: str
    """The terminal table of the best circuit."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "seconds": self.seconds,
            "model": self.trained.path,
            "val_loss": self.trained.val_loss,
            "nonzero_fraction": self.trained.nonzero_fraction,
            "tokens_per_second": self.trained.tokens_per_second,
            "circuits": list(self.circuits),
            "circuit": self.circuit.summary(),
            "report": self.report,
        }

    def text(self) -> str:
        """For a terminal."""
        spent = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in self.seconds.items())
        return f"{self.table}\n{spent}\nmodel   {self.trained.path}\ncircuit {self.circuits[0]}\npage    {self.report}"


def quickstart(
    out: str | Path = "runs/quickstart", *, seed: int = 0, device: str = "cpu", progress: Progress = SILENT
) -> QuickstartResult:
    """Runs every stage and writes its results under `out`. Raises ValueError if `out` is not empty."""
    root = Path(out)
    if root.exists() and any(root.iterdir()):
        raise ValueError(f"{root} is not empty; give another --out or delete it")
    seconds: dict[str, float] = {}
    with _timed("corpus and tokenizer", seconds, progress):
        sources = open_sources(SOURCES)
        texts = (document.text for source in sources for document in source.documents(seed))
        save_tokenizer(train_tokenizer(texts, VOCAB_SIZE), root / "tokenizer")
        tokenizer = read_tokenizer(root / "tokenizer")
        data = build_shards(sources, tokenizer, root / "shards", seed=seed)
    with _timed("training", seconds, progress):
        config = preset("tiny", VOCAB_SIZE).replace(seed=seed)
        trained = train(config, data, tokenizer, root / "run", device=device, progress=progress)
    model, task = load_model(trained.path, device), load_task(TASK)
    with _timed("pruning", seconds, progress):
        seeds = range(seed, seed + PRUNE_SEEDS)
        circuits = prune_seeds(model, task, tokenizer=tokenizer, seeds=seeds, progress=progress)
        removable = with_minimality(best(circuits), model, task, tokenizer=tokenizer).removable
        save_seeds(circuits, root / "circuit", removable)
    with _timed("report", seconds, progress):
        circuit = load_circuit(root / "circuit")
        document = build_document(circuit, model, task, tokenizer)
        page = write_page(document, root / "report.html")
    seconds["total"] = sum(seconds.values())
    others = tuple(str(seed_folder(root / "circuit", circuit)) for circuit in circuits)
    return QuickstartResult(
        seconds=seconds,
        trained=trained,
        circuit=circuit,
        circuits=(str(root / "circuit"), *others),
        report=str(page),
        table=render_text(document),
    )


@contextmanager
def _timed(stage: str, seconds: dict[str, float], progress: Progress) -> Iterator[None]:
    progress.say(f"{stage} ...")
    begun = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - begun
