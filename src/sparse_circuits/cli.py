"""The command line: `sparse-circuits VERB`, a dictionary from verb to function.

Every verb is a thin call of the Python API that returns an `Output`: the JSON object of `--json`, and the text a person
reads. Progress and messages go to stderr. Exit 0, or one line on stderr and exit 2.
"""

import contextlib
import errno
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from sparse_circuits.log import SILENT, Progress, TerminalProgress


@dataclass(frozen=True)
class Common:
    """Options of every verb."""

    json: bool = False
    """Print one JSON object on stdout and nothing else."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "cpu"
    """torch device: cpu, cuda, cuda:1, ..."""
    quiet: bool = False
    """No progress on stderr."""

    @property
    def progress(self) -> Progress:
        """Where this call reports progress."""
        return SILENT if self.quiet else TerminalProgress()


class Output(NamedTuple):
    """What a verb has to say."""

    data: dict[str, Any]
    """The object of --json."""
    text: str
    """The same for a person."""


Shared = Annotated[Common, tyro.conf.OmitArgPrefixes]
Where = tyro.conf.Positional[str]


def quickstart(out: str = "runs/quickstart", common: Shared = Common()) -> Output:
    """Corpus, tokenizer, training, pruning, evaluation and report in one go, on two CPU cores in minutes.

    Args:
        out: Folder of everything it makes.
    """
    from sparse_circuits.quickstart import quickstart as run

    result = run(out, seed=common.seed, device=common.device, progress=common.progress)
    return Output(result.to_dict(), result.text())


def data_tokenizer(source: tuple[str, ...], out: str, vocab_size: int = 1024, common: Shared = Common()) -> Output:
    """Trains a byte-level BPE tokenizer.

    Args:
        source: tiny-python[:SIZE], python-env[:SIZE], a file, folder or glob (.py, .txt, .jsonl); several may follow.
        out: Folder of the tokenizer.
        vocab_size: Tokens, end-of-text included.
    """
    from sparse_circuits.data.corpus import open_sources
    from sparse_circuits.data.tokenizer import save_tokenizer, tokenizer_hash, train_tokenizer

    texts = (document.text for part in open_sources(source) for document in part.documents(common.seed))
    tokenizer = train_tokenizer(texts, vocab_size, progress=common.progress)
    save_tokenizer(tokenizer, out)
    data = {"path": out, "tokens": vocab_size, "hash": tokenizer_hash(tokenizer)}
    return Output(data, f"tokenizer of {vocab_size} tokens in {out}")


def data_build(
    source: tuple[str, ...], tokenizer: str, out: str, val_fraction: float = 0.02, common: Shared = Common()
) -> Output:
    """Turns a corpus into token shards for training and validation.

    Args:
        source: tiny-python[:SIZE], python-env[:SIZE], a file, folder or glob (.py, .txt, .jsonl); several may follow.
        tokenizer: Folder of the tokenizer.
        out: Folder of the shards.
        val_fraction: Share of the documents kept for validation.
    """
    from sparse_circuits.data.corpus import open_sources
    from sparse_circuits.data.shards import build_shards
    from sparse_circuits.hub.load import load_tokenizer

    shards = build_shards(
        open_sources(source),
        load_tokenizer(tokenizer),
        out,
        val_fraction=val_fraction,
        seed=common.seed,
        progress=common.progress,
    )
    tokens, documents = shards.manifest["tokens"], shards.manifest["documents"]
    data = {"path": out, "tokens": sum(tokens.values()), "documents": sum(documents.values()), "splits": tokens}
    return Output(data, f"{data['tokens']:,} tokens of {data['documents']:,} documents in {out}")


def train(
    data: str,
    tokenizer: str,
    out: str,
    preset: str | None = None,
    config: str | None = None,
    steps: int | None = None,
    resume: bool = False,
    common: Shared = Common(),
) -> Output:
    """Trains a sparse or dense model; --resume goes on from the last whole checkpoint in --out.

    Args:
        data: Folder of token shards.
        tokenizer: Folder of the tokenizer the shards were made with.
        out: Run folder; the model will be in its subfolder `model`.
        preset: paper, authors, tiny, or their dense twins (paper-dense, ...); give this or --config.
        config: JSON or YAML file with the fields of TrainConfig.
        steps: Optimizer steps instead of the preset's.
        resume: Go on with the run in --out.
    """
    from sparse_circuits.data.shards import Shards
    from sparse_circuits.hub.load import load_tokenizer
    from sparse_circuits.train.config import TrainConfig
    from sparse_circuits.train.loop import train as run
    from sparse_circuits.train.presets import preset as recipe

    if (preset is None) == (config is None):
        raise ValueError("give either --preset NAME or --config FILE")
    shards = Shards.open(data)
    chosen = TrainConfig.from_file(config) if config else recipe(preset or "", shards.vocab_size)
    changes = {"seed": common.seed} if preset else {}
    chosen = chosen.replace(**changes, **({} if steps is None else {"steps": steps}))
    result = run(
        chosen,
        shards,
        load_tokenizer(tokenizer),
        out,
        resume=resume,
        device=usable_device(common.device),
        progress=common.progress,
    )
    told = f"{result.nonzero:,} nonzero weights ({result.nonzero_fraction:.2%}), validation loss {result.val_loss:.3f} nats"
    return Output(asdict(result), f"{told}\nmodel in {result.path}")


def model_reference(model: str, data: str, tokens: int = 262_144, common: Shared = Common()) -> Output:
    """Measures a model's ablation reference values on training tokens and stores them beside it.

    Args:
        model: Model folder.
        data: Folder of token shards of the corpus it was trained on.
        tokens: Training tokens to average over, at least 262,144.
    """
    from sparse_circuits.circuit.ablation import REFERENCE_TOKENS, measure_reference, save_reference
    from sparse_circuits.data.shards import Shards
    from sparse_circuits.hub.load import load_model, load_tokenizer

    if tokens < REFERENCE_TOKENS:
        raise ValueError(f"--tokens {tokens} is too few; a reference needs at least {REFERENCE_TOKENS}")
    shards, loaded = Shards.open(data), load_model(model, usable_device(common.device))
    shards.check_tokenizer(load_tokenizer(model))
    found = measure_reference(loaded, shards, tokens=tokens, seed=common.seed, progress=common.progress)
    path = save_reference(found, loaded.source or model)
    return Output({"tokens": found.tokens, "path": str(path)}, f"means over {found.tokens:,} tokens in {path}")


def generate(
    model: str,
    prompt: str,
    max_new_tokens: int = 64,
    temperature: float = 0.8,
    top_p: float = 0.95,
    common: Shared = Common(),
) -> Output:
    """Samples text from a model.

    Args:
        model: Model folder.
        prompt: Text to continue.
        max_new_tokens: Tokens to add.
        temperature: 0 takes the likeliest token.
        top_p: Share of the probability to sample from.
    """
    import torch

    from sparse_circuits.data.tokenizer import decode, encode
    from sparse_circuits.hub.load import load_model, load_tokenizer
    from sparse_circuits.model.generate import generate as sample

    device = usable_device(common.device)
    loaded, tokenizer = load_model(model, device), load_tokenizer(model)
    tokens = torch.tensor([encode(tokenizer, prompt)], dtype=torch.long, device=device)
    begun = time.perf_counter()
    longer = sample(loaded, tokens, max_new_tokens, temperature=temperature, top_p=top_p, seed=common.seed)
    speed = max_new_tokens / (time.perf_counter() - begun)
    text = decode(tokenizer, longer[0].tolist())
    return Output({"text": text, "tokens_per_second": speed}, text)


def tasks_list(common: Shared = Common()) -> Output:  # noqa: ARG001 (options of every verb)
    """Names the built-in tasks."""
    from sparse_circuits.tasks.load import load_task, task_names

    tasks = {name: load_task(name).statement for name in task_names()}
    return Output({"tasks": tasks}, "\n".join(f"{name}: {statement}" for name, statement in tasks.items()))


def tasks_show(task: Where, examples: int = 3, common: Shared = Common()) -> Output:
    """Shows a task and a few of its pairs.

    Args:
        task: Name of a task, or its .jsonl file.
        examples: Pairs to show per split.
    """
    from sparse_circuits.tasks.load import load_task

    loaded = load_task(task)
    pairs = {split: loaded.sample(split, examples, common.seed) for split in ("train", "val", "test")}
    shown = {split: [pair._asdict() for pair in drawn] for split, drawn in pairs.items()}
    counts = {split: loaded.count(split) for split in pairs}
    data = {"task": loaded.name, "statement": loaded.statement, "determined_by": loaded.determined_by}
    lines = [f"{loaded.name}: {loaded.statement}", f"decided by: {loaded.determined_by}"]
    for split, drawn in pairs.items():
        lines.append(f"{split} ({counts[split]:,} combinations)")
        for pair in drawn:
            lines.append(f"  {pair.prompt_a!r} -> {pair.completion_a!r}   {pair.prompt_b!r} -> {pair.completion_b!r}")
    return Output({**data, "combinations": counts, "examples": shown}, "\n".join(lines))


def tasks_check(
    file: Where, model: str | None = None, tokenizer: str | None = None, common: Shared = Common()
) -> Output:
    """Checks that a task is well posed under a tokenizer and, with --model, for a model.

    Args:
        file: The task's .jsonl file, or the name of a built-in task.
        model: Model folder; adds the conditions on the empty circuit and the bigram table.
        tokenizer: Tokenizer folder; the model's own by default.
    """
    from sparse_circuits.circuit.ablation import load_reference
    from sparse_circuits.circuit.evaluate import check_task_on_model
    from sparse_circuits.hub.load import load_model, load_tokenizer
    from sparse_circuits.tasks.check import check_task
    from sparse_circuits.tasks.load import load_task

    if model is None and tokenizer is None:
        raise ValueError("a task is well posed under a tokenizer: give --model M or --tokenizer DIR")
    task, texts = load_task(file), load_tokenizer(tokenizer or model or "")
    if model is None:
        report = check_task(task, texts)
    else:
        loaded = load_model(model, usable_device(common.device))
        report = check_task_on_model(task, texts, loaded, load_reference(loaded.source or model, loaded).values)
    lines = [
        f"{'ok  ' if c.ok else 'FAIL'} {c.name}: {c.detail}" + ("" if c.ok else f" -> {c.fix}")
        for c in report.conditions
    ]
    return Output(report.to_dict(), "\n".join(lines))


def tasks_eval(
    model: str,
    task: tuple[str, ...] = (),
    split: str = "test",
    pairs: int = 512,
    common: Shared = Common(),
) -> Output:
    """Scores a model on tasks.

    Args:
        model: Model folder.
        task: Names or .jsonl files; all built-in tasks by default.
        split: train, val or test.
        pairs: Pairs per task.
    """
    from sparse_circuits.circuit.evaluate import evaluate_model
    from sparse_circuits.hub.load import load_model, load_tokenizer
    from sparse_circuits.tasks.load import load_task, task_names

    loaded, tokenizer = load_model(model, usable_device(common.device)), load_tokenizer(model)
    scores = {}
    for name in task or task_names():
        one = load_task(name)
        found = evaluate_model(loaded, one, tokenizer, split, n=pairs, seed=common.seed)
        scores[one.name] = {"loss": found.loss, "accuracy": found.accuracy, "n_pairs": found.n_pairs}
    lines = [
        f"{n}: loss {s['loss']:.3f} nats, accuracy {s['accuracy']:.1%}, {s['n_pairs']} pairs" for n, s in scores.items()
    ]
    return Output({"tasks": scores}, "\n".join(lines))


def prune(
    model: str,
    task: str,
    out: str,
    target_loss: float = 0.15,
    seeds: int = 1,
    config: str | None = None,
    reference: str | None = None,
    common: Shared = Common(),
) -> Output:
    """Finds the circuit of a task in a model; of several seeds the smallest that meets the target on val is kept.

    Args:
        model: Model folder.
        task: Name of a task, or its .jsonl file.
        out: Folder of the circuit; with several seeds all of them are in its subfolder `seeds`.
        target_loss: Task loss to reach, nats.
        seeds: Prunings, with seeds --seed, --seed + 1, ...
        config: JSON or YAML file with fields of PruneConfig.
        reference: File or model folder with the reference values; the model's own by default.
    """
    from sparse_circuits.files import new_folder, write_json
    from sparse_circuits.hub.load import load_model, load_tokenizer
    from sparse_circuits.prune.config import PruneConfig
    from sparse_circuits.prune.pipeline import best, prune_seeds
    from sparse_circuits.tasks.load import load_task

    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, given {seeds}")
    loaded = load_model(model, usable_device(common.device))
    circuits = prune_seeds(
        loaded,
        load_task(task),
        tokenizer=load_tokenizer(model),
        target_loss=target_loss,
        seeds=range(common.seed, common.seed + seeds),
        reference=reference,
        config=None if config is None else PruneConfig.from_file(config),
        progress=common.progress,
    )
    chosen = best(circuits)
    chosen.save(out)
    runs = [{"seed": c.seed, "nodes": len(c.nodes), "edges": len(c.edges), "test_loss": c.loss.test} for c in circuits]
    if seeds > 1:
        with new_folder(Path(out) / "seeds") as draft:
            write_json(draft / "seeds.json", {"kind": "seeds", "format_version": 1, "seeds": runs})
        for circuit in circuits:
            circuit.save(Path(out) / "seeds" / f"seed_{circuit.seed}")
    from sparse_circuits.circuit.circuit import load_circuit

    return Output(
        {**load_circuit(out).summary(), "seeds": runs, "path": out}, f"{headline(chosen.summary())}\ncircuit in {out}"
    )


def circuit_show(folder: Where, common: Shared = Common()) -> Output:  # noqa: ARG001 (options of every verb)
    """Shows what a circuit is and what it scored when it was made.

    Args:
        folder: Circuit folder.
    """
    from sparse_circuits.circuit.circuit import load_circuit

    circuit = load_circuit(folder)
    summary = circuit.summary()
    per_site: dict[str, int] = {}
    for node in circuit.nodes:
        per_site[node.site] = per_site.get(node.site, 0) + 1
    rows = [f"  {node}  +{effect:.3f}" for node, effect in zip(circuit.nodes, circuit.node_effects, strict=False)]
    return Output(summary, "\n".join([headline(summary), "nodes, with the loss that ablating each one adds:", *rows]))


def circuit_eval(
    folder: Where, model: str | None = None, split: str = "test", pairs: int = 512, common: Shared = Common()
) -> Output:
    """Scores a circuit anew.

    Args:
        folder: Circuit folder.
        model: Model folder; the one the circuit names by default.
        split: train, val or test.
        pairs: Pairs to score it on.
    """
    from sparse_circuits.circuit.evaluate import evaluate

    circuit, loaded, task, tokenizer = open_circuit(folder, model, common)
    found = evaluate(circuit, loaded, task, split, tokenizer=tokenizer, n=pairs)
    text = f"{circuit.task} {split}: loss {found.loss:.4f} nats, accuracy {found.accuracy:.1%}, {found.n_pairs} pairs"
    return Output({"task": circuit.task, "split": split, **asdict(found)}, text)


def report(folder: Where, out: str = "circuit.html", model: str | None = None, common: Shared = Common()) -> Output:
    """Writes the one-file page of a circuit and prints its table.

    Args:
        folder: Circuit folder.
        out: HTML file.
        model: Model folder; the one the circuit names by default.
    """
    from sparse_circuits.viz.document import build_document
    from sparse_circuits.viz.page import write_page
    from sparse_circuits.viz.table import render_text

    document = build_document(*open_circuit(folder, model, common))
    path = write_page(document, out)
    return Output({"file": str(path)}, f"{render_text(document)}page in {path}")


VERBS: dict[str, Callable[..., Output]] = {
    "quickstart": quickstart,
    "data tokenizer": data_tokenizer,
    "data build": data_build,
    "train": train,
    "model reference": model_reference,
    "generate": generate,
    "tasks list": tasks_list,
    "tasks show": tasks_show,
    "tasks check": tasks_check,
    "tasks eval": tasks_eval,
    "prune": prune,
    "circuit show": circuit_show,
    "circuit eval": circuit_eval,
    "report": report,
}


def open_circuit(folder: str, model: str | None, common: Common) -> tuple[Any, Any, Any, Any]:
    """A circuit with its model, task and tokenizer, each checked against the circuit's hashes."""
    from sparse_circuits.circuit.circuit import load_circuit
    from sparse_circuits.circuit.evaluate import check_origin, resolve
    from sparse_circuits.data.tokenizer import tokenizer_hash
    from sparse_circuits.hub.load import load_model, load_tokenizer
    from sparse_circuits.model.folder import model_hash
    from sparse_circuits.tasks.load import load_task, task_names

    circuit = load_circuit(folder)
    where = model or str(resolve(circuit, circuit.model.where))
    loaded, tokenizer = load_model(where, usable_device(common.device)), load_tokenizer(where)
    named = circuit.task_origin.where
    task = load_task(named if named in task_names() else resolve(circuit, named))
    check_origin("model", circuit.model.hash, model_hash(loaded))
    check_origin("tokenizer", circuit.tokenizer.hash, tokenizer_hash(tokenizer))
    check_origin("task", circuit.task_origin.hash, task.hash)
    return circuit, loaded, task, tokenizer


def headline(summary: dict[str, Any]) -> str:
    """A circuit in two lines."""
    loss = summary["loss"]
    verdict = "met" if summary["met_target"] else "MISSED"
    return (
        f"{summary['task']}: {summary['nodes']} of {summary['nodes_total']} nodes, {summary['edges']} edges\n"
        f"test loss {loss['test']:.4f} nats (train {loss['train']:.4f}, val {loss['val']:.4f}), "
        f"target {summary['target_loss']} {verdict}; model {summary['model_loss']['test']:.4f}, empty {summary['empty_loss']:.4f}"
    )


def usable_device(name: str) -> str:
    """The device's name. Raises ValueError if torch does not know it or this machine lacks it."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); cpu always works"
        ) from None
    return name


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given in (["--version"], ["version"]):
        from sparse_circuits import __version__

        print(__version__)  # noqa: T201 (the command's result)
        return 0
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())  # noqa: T201 (the command's result)
        return 0
    verb = next((name for name in (" ".join(given[:2]), given[0]) if name in VERBS), None)
    if verb is None:
        return _fail(f"unknown verb {' '.join(given[:2])!r}; allowed: {', '.join(VERBS)}")
    try:
        arguments = _parse(verb, given[len(verb.split()) :])
        output = arguments()
    except (ValueError, OSError, KeyboardInterrupt) as error:
        return _fail(_explain(error))
    asked_for_json = "--json" in given
    print(json.dumps(output.data) if asked_for_json else output.text)  # noqa: T201 (the command's result)
    return 0


def _parse(verb: str, arguments: list[str]) -> Callable[[], Output]:
    """The verb's call with its options; tyro's boxed complaint becomes one line."""
    said = io.StringIO()
    bound: list[Output] = []
    try:
        with contextlib.redirect_stderr(said):
            call = tyro.cli(
                _deferred(VERBS[verb]),
                prog=f"sparse-circuits {verb}",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        words = " ".join(said.getvalue().translate(str.maketrans("╭╮╰╯─│", "      ")).split())
        raise ValueError(f"{words.removeprefix('Parsing error ')}") from None
    del bound
    return call


def _deferred(function: Callable[..., Output]) -> Callable[..., Callable[[], Output]]:
    """The same signature, but it returns the call instead of making it, so that only parsing happens inside tyro."""
    from functools import partial, wraps

    @wraps(function)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], Output]:
        return partial(function, *args, **kwargs)

    return bind


def _explain(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({error.filename or 'while writing'}); nothing half-written was kept; free space and run again"
    return " ".join(str(error).split())


def _fail(message: str) -> int:
    print(f"sparse-circuits: {message}", file=sys.stderr)  # noqa: T201 (the one line of an error)
    return 2


def usage() -> str:
    """The verbs with their first lines."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {(function.__doc__ or '').splitlines()[0]}" for name, function in VERBS.items()]
    return "\n".join(["usage: sparse-circuits VERB [--help] [--json] ...", "", *lines])


if __name__ == "__main__":
    sys.exit(main())
