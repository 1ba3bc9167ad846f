"""Verbs on circuits: find, show, score, draw."""

from dataclasses import asdict

from sparse_circuits.commands.common import DEFAULTS, Output, Shared, Where, headline, open_circuit, usable_device


def prune(
    model: str,
    task: str,
    out: str,
    target_loss: float = 0.15,
    seeds: int = 1,
    config: str | None = None,
    reference: str | None = None,
    common: Shared = DEFAULTS,
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
    from sparse_circuits.circuit.circuit import load_circuit
    from sparse_circuits.files import check_replaceable
    from sparse_circuits.hub.load import load_model, load_tokenizer
    from sparse_circuits.prune.config import PruneConfig
    from sparse_circuits.prune.pipeline import best, prune_seeds
    from sparse_circuits.prune.refine import with_minimality
    from sparse_circuits.prune.seeds import naming_task, save_seeds
    from sparse_circuits.tasks.load import load_task

    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, given {seeds}")
    check_replaceable(out, "circuit")  # now, not when the work is done
    loaded, found_task, tokenizer = (
        load_model(model, usable_device(common.device)),
        load_task(task),
        load_tokenizer(model),
    )
    circuits = prune_seeds(
        loaded,
        found_task,
        tokenizer=tokenizer,
        target_loss=target_loss,
        seeds=range(common.seed, common.seed + seeds),
        reference=reference,
        config=None if config is None else PruneConfig.from_file(config),
        progress=common.progress,
    )
    removable = with_minimality(best(circuits), loaded, found_task, tokenizer=tokenizer).removable
    runs = save_seeds(naming_task(circuits, task), out, removable)
    summary = load_circuit(out).summary()
    return Output({**summary, "seeds": runs, "path": out}, f"{headline(summary)}\ncircuit in {out}")


def circuit_refine(
    folder: Where,
    out: str,
    minimal: bool = False,
    model: str | None = None,
    task: str | None = None,
    common: Shared = DEFAULTS,
) -> Output:
    """Cuts the edges, and drops the nodes, that a circuit's target does not need.

    Args:
        folder: Circuit folder.
        out: Folder of the refined circuit.
        minimal: Go on until no node and no edge can go alone without missing the target.
        model: Model folder; the one the circuit names by default.
        task: Name of a task, or its .jsonl file; the one the circuit names by default.
    """
    from sparse_circuits.files import check_replaceable
    from sparse_circuits.prune.refine import refine

    check_replaceable(out, "circuit")
    circuit, loaded, found_task, tokenizer = open_circuit(folder, model, common, task)
    whole = circuit.located()
    refined = refine(whole, loaded, found_task, tokenizer=tokenizer, minimal=minimal, progress=common.progress)
    refined.save(out)
    summary = refined.summary()
    change = f"{len(circuit.nodes)} nodes and {len(circuit.edges)} edges before"
    return Output({**summary, "path": out}, f"{headline(summary)}\n{change}\ncircuit in {out}")


def circuit_show(folder: Where, common: Shared = DEFAULTS) -> Output:  # noqa: ARG001 (options of every verb)
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
    rows = [f"  {node}  {effect:+.3f}" for node, effect in zip(circuit.nodes, circuit.node_effects, strict=False)]
    return Output(summary, "\n".join([headline(summary), "nodes, with the loss that ablating each one adds:", *rows]))


def circuit_eval(
    folder: Where,
    model: str | None = None,
    task: str | None = None,
    split: str = "test",
    pairs: int = 512,
    common: Shared = DEFAULTS,
) -> Output:
    """Scores a circuit anew.

    With --json also the fields of `circuit show`, whose own scores are under `stored`: `loss` is the new one, a number.

    Args:
        folder: Circuit folder.
        model: Model folder; the one the circuit names by default.
        task: Name of a task, or its .jsonl file; the one the circuit names by default.
        split: train, val or test.
        pairs: Pairs to score it on; --seed draws them.
    """
    from sparse_circuits.circuit.evaluate import evaluate

    circuit, loaded, found_task, tokenizer = open_circuit(folder, model, common, task)
    found = evaluate(circuit, loaded, found_task, split, tokenizer=tokenizer, n=pairs, seed=common.seed)
    text = f"{circuit.task} {split}: loss {found.loss:.4f} nats, accuracy {found.accuracy:.1%}, {found.n_pairs} pairs"
    facts = circuit.summary()
    stored = {name: facts.pop(name) for name in ("loss", "calibrated_loss", "accuracy", "met_target")}
    return Output({**facts, "split": split, **asdict(found), "stored": stored}, text)


def report(
    folder: Where,
    out: str = "circuit.html",
    model: str | None = None,
    task: str | None = None,
    common: Shared = DEFAULTS,
) -> Output:
    """Writes the one-file page of a circuit and prints its table.

    Args:
        folder: Circuit folder.
        out: HTML file.
        model: Model folder; the one the circuit names by default.
        task: Name of a task, or its .jsonl file; the one the circuit names by default.
    """
    from sparse_circuits.viz.document import build_document
    from sparse_circuits.viz.page import write_page
    from sparse_circuits.viz.table import render_text

    document = build_document(*open_circuit(folder, model, common, task), seed=common.seed)
    path = write_page(document, out)
    return Output({"file": str(path)}, f"{render_text(document)}page in {path}")
