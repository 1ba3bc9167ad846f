"""The models in the box, made from nothing by one command: `sparse-circuits bundle`.

1. Corpus and tokenizer: `tiny-python` programs and the running Python's standard library; the fifth of its files that the
   path rule holds out is validation, and what mined pairs are taken from.
2. Training: the sparse model (`presets.bundled`), its dense twin of the same shape (`dense-same`), and the dense twin of the
   same loss (`dense-matched`, matched.py). Each goes on where it was interrupted.
3. The sparse and the dense-matched model are written as they ship, the bigram table rounded to 16 bits, with reference values
   measured on the rounded weights; then every number is computed on what was written: losses, tasks, card.

Everything lands in one folder: plan.json (what two calls must share, since finished stages are not done again), tokenizer/,
shards/, runs/NAME (training), matched.json, sparse/ and dense/ (what ships), scores.json.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparse_circuits.circuit.ablation import measure_reference, save_reference
from sparse_circuits.circuit.task_scores import HEAD, score_table, table_rows
from sparse_circuits.data.corpus import open_sources
from sparse_circuits.data.shards import Shards, build_shards
from sparse_circuits.data.tokenizer import read_tokenizer, save_tokenizer, tokenizer_hash, train_tokenizer
from sparse_circuits.files import new_folder, read_json, write_json
from sparse_circuits.hub.card import write_card
from sparse_circuits.hub.load import load_model
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.markdown import markdown_table
from sparse_circuits.model.folder import save_model
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.recipe.matched import Matched, matched_config, search_width
from sparse_circuits.tasks.mined import HELD_OUT
from sparse_circuits.train.config import TrainConfig
from sparse_circuits.train.loop import train, validation_loss, zero_rows
from sparse_circuits.train.presets import bundled, dense_twin

SOURCES = ("tiny-python:80MB", "python-env")
VOCAB_SIZE = 1536
FIRST_WIDTH = 64
"""Width at which the search for dense-matched starts."""
MATCHED_STEPS = 0.25
"""Length of a dense-matched run, as a share of the sparse one's: dense models need fewer steps, and several widths are tried."""
HALVED = ("bigram.weight",)
"""Tensors that ship in 16 bits."""
STAGES = ("corpus", "sparse", "dense-same", "dense-matched", "ship")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `bundle` trains; the defaults are the models in the box."""

    recipe: Callable[[int], TrainConfig] = bundled
    """Vocabulary size -> config of the sparse model."""
    sources: Sequence[str] = SOURCES
    vocab_size: int = VOCAB_SIZE
    matched_steps: float = MATCHED_STEPS
    first_width: int = FIRST_WIDTH
    trials: int = 6
    """Widths that the search for dense-matched may try."""


@dataclass(frozen=True, kw_only=True)
class BundleResult:
    """What was made in this call."""

    seconds: dict[str, float]
    """Wall-clock seconds per stage."""
    path: str
    scores: dict[str, Any] | None
    """The content of scores.json; None before the last stage."""


def build_bundle(
    out: str | Path,
    *,
    stages: Sequence[str] = STAGES,
    plan: Plan | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> BundleResult:
    """Runs the stages in order; what an earlier call has finished is not done again.

    stages: some of STAGES, so that trainings can share a machine or run on several. Raises ValueError for an unknown stage, or
    one whose predecessors are missing, and for a folder that was begun with another plan or seed, or by something else.
    """
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise ValueError(f"unknown stage {unknown[0]!r}; allowed: {', '.join(STAGES)}")
    work = _Work(Path(out), plan or Plan(), seed, device, progress)
    _open(work)
    seconds: dict[str, float] = {}
    for stage in (stage for stage in STAGES if stage in stages):
        progress.say(f"{stage} ...")
        begun = time.perf_counter()
        _DO[stage](work)
        seconds[stage] = time.perf_counter() - begun
    scores = work.root / "scores.json"
    return BundleResult(seconds=seconds, path=str(work.root), scores=read_json(scores) if scores.is_file() else None)


@dataclass(frozen=True)
class _Work:
    """One folder that is being filled."""

    root: Path
    plan: Plan
    seed: int
    device: str
    progress: Progress

    @property
    def config(self) -> TrainConfig:
        return self.plan.recipe(self.plan.vocab_size).replace(seed=self.seed)

    def shards(self) -> Shards:
        folder = self.root / "shards"
        if not folder.is_dir():
            raise ValueError(f"no corpus in {self.root}; run the stage corpus first")
        return Shards.open(folder)

    def tokenizer(self) -> Any:
        return read_tokenizer(self.root / "tokenizer")

    def trained(self, name: str) -> Path:
        """The model folder of a run. Raises ValueError where the run is not finished."""
        folder = self.root / "runs" / name / "model"
        if not folder.is_dir():
            raise ValueError(f"no trained model {name!r} in {self.root}; run the stage {name.split('/')[0]} first")
        return folder

    def target(self) -> float:
        """Validation loss of the sparse model, nats: what dense-matched is to have."""
        return float(read_json(self.trained("sparse") / "training.json")["val_loss"])

    def matched(self) -> Matched | None:
        """What the search for dense-matched found; None where there was none for this sparse model."""
        file = self.root / "matched.json"
        found = read_json(file) if file.is_file() else None
        if found is None or found["target"] != self.target():  # another one: the sparse model was trained anew
            return None
        return Matched(**{**found, "trials": {int(width): loss for width, loss in found["trials"].items()}})

    def train(self, name: str, config: TrainConfig) -> float:
        """Trains a run or what is left of it; validation loss, nats."""
        run = self.root / "runs" / name
        if not (run / "model").is_dir():
            resume = (run / "manifest.json").is_file()
            self.progress.say(f"training {name}: {config.steps} steps")
            train(
                config, self.shards(), self.tokenizer(), run, resume=resume, device=self.device, progress=self.progress
            )
        return float(read_json(run / "model" / "training.json")["val_loss"])


def _open(work: _Work) -> None:
    """Writes plan.json, or checks that the folder was begun with the same."""
    plan, file = work.plan, work.root / "plan.json"
    facts = {
        "kind": "bundle_plan",
        "format_version": 1,
        "sources": list(plan.sources),
        "vocab_size": plan.vocab_size,
        "seed": work.seed,
        "config": work.config.to_dict(),
        "matched": {"steps": plan.matched_steps, "first_width": plan.first_width, "trials": plan.trials},
    }
    if file.is_file():
        before = read_json(file)
        if changed := [name for name in facts if before.get(name) != facts[name]]:
            raise ValueError(f"{work.root} was begun with another {changed[0]}; give the same, or an empty folder")
        return
    if work.root.is_dir() and any(not path.name.startswith(".") for path in work.root.iterdir()):
        raise ValueError(
            f"{work.root} holds files but no plan.json (an older release wrote none), so nothing says what they were made from; "
            "give an empty folder"
        )
    write_json(file, facts)


def _corpus(work: _Work) -> None:
    if (work.root / "shards").is_dir():
        return
    sources = open_sources(work.plan.sources)
    texts = (document.text for source in sources for document in source.documents(work.seed))
    save_tokenizer(train_tokenizer(texts, work.plan.vocab_size, work.progress), work.root / "tokenizer")
    build_shards(
        sources,
        work.tokenizer(),
        work.root / "shards",
        val_fraction=HELD_OUT,
        seed=work.seed,
        progress=work.progress,
    )


def _sparse(work: _Work) -> None:
    work.train("sparse", work.config)


def _dense_same(work: _Work) -> None:
    work.train("dense-same", dense_twin(work.config))


def _dense_matched(work: _Work) -> None:
    if work.matched() is not None:
        return
    steps = max(1, round(work.config.steps * work.plan.matched_steps))

    def val_loss(width: int) -> float:
        return work.train(f"dense-matched/width_{width}", matched_config(work.config, width, steps))

    widest = work.config.model.d_model
    found = search_width(val_loss, work.target(), first=work.plan.first_width, widest=widest, most=work.plan.trials)
    write_json(work.root / "matched.json", asdict(found))


def _ship(work: _Work) -> None:
    """Writes sparse/ and dense/ as they ship, and scores.json with what they score."""
    found = work.matched()
    if found is None:
        raise ValueError(f"no dense-matched model in {work.root} for its sparse one; run the stage dense-matched first")
    figures: dict[str, Any] = {"matched": {**asdict(found), "met": found.met}}
    for name, title, run in (
        ("sparse", "bundled", "sparse"),
        ("dense", "bundled-dense", f"dense-matched/width_{found.width}"),
    ):
        work.progress.say(f"writing {name}")
        figures[title] = _ship_one(work, work.root / name, title, work.trained(run))
    if (work.root / "runs" / "dense-same" / "model").is_dir():  # ships nowhere, so its scores may come later
        work.progress.say("scoring dense-same")
        figures["dense-same"] = _scored(work, load_model(work.trained("dense-same"), work.device))
    write_json(work.root / "scores.json", figures)


def _ship_one(work: _Work, folder: Path, title: str, run: Path) -> dict[str, Any]:
    """Rounds, writes, loads what was written, measures it, and writes the card last."""
    shards, tokenizer = work.shards(), work.tokenizer()
    model = load_model(run, work.device)
    with new_folder(folder, "model") as draft:
        save_model(model, draft, tokenizer_hash(tokenizer), halved=HALVED)
        save_tokenizer(tokenizer, draft)
        shipped = load_model(draft, work.device)
        reference = measure_reference(shipped, shards, seed=work.seed, progress=work.progress)
        save_reference(reference, draft)
        figures = _scored(work, shipped)
        training = {
            **read_json(run / "training.json"),
            "val_loss": figures["val_loss"],
            "zero_rows": figures["zero_rows"],
        }
        write_json(draft / "training.json", {key: value for key, value in training.items() if key != "path"})
        sections = {"Data": _data(shards), "Tasks": markdown_table(HEAD, table_rows(figures["tasks"]))}
        write_card(shipped, draft, "own", name=title, sections=sections)
    return figures


def _scored(work: _Work, model: SparseTransformer) -> dict[str, Any]:
    shards = work.shards()
    return {
        "val_loss": validation_loss(model, shards, work.config),
        "zero_rows": zero_rows(model, shards),
        "tasks": score_table(model, work.tokenizer(), seed=work.seed, progress=work.progress),
    }


def _data(shards: Shards) -> str:
    """The corpus in words."""
    manifest = shards.manifest
    sources = "; ".join(
        f"`{source.get('name', source['kind'])}`"
        + (f", {source['bytes']:,} bytes of generated programs" if source["kind"] == "tiny-python" else "")
        + (f", {source['count']} files of Python {source['python']}" if source["kind"] == "python-env" else "")
        for source in manifest["sources"]
    )
    tokens = manifest["tokens"]
    return (
        f"{tokens['train']:,} training tokens and {tokens['val']:,} validation tokens of a vocabulary of "
        f"{manifest['vocab_size']:,}, from {sources}. Split rule: {manifest['split_rule']}. Corpus hash "
        f"`{manifest['corpus_hash']}`. The text of the standard library is under the Python Software Foundation License; none "
        "of it is shipped."
    )


_DO: dict[str, Callable[[_Work], None]] = {
    "corpus": _corpus,
    "sparse": _sparse,
    "dense-same": _dense_same,
    "dense-matched": _dense_matched,
    "ship": _ship,
}
