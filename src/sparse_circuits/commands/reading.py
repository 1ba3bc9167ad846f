"""The verbs for reading a circuit: what its nodes do on one pair of prompts, and what it predicts of the whole model."""

from sparse_circuits.commands.common import DEFAULTS, Output, Shared, Where, open_circuit


def circuit_trace(
    folder: Where,
    pair: int = 0,
    split: str = "test",
    out: str | None = None,
    model: str | None = None,
    task: str | None = None,
    common: Shared = DEFAULTS,
) -> Output:
    """Traces a pair of prompts through a circuit: every node where the prompts part and at the end, every weight, every head.

    Args:
        folder: Circuit folder.
        pair: Which pair; --seed draws others.
        split: Where it comes from: train, val or test.
        out: Markdown file to write.
        model: Model folder; the one the circuit names by default.
        task: Name of a task, or its .jsonl file; the one the circuit names by default.
    """
    from sparse_circuits.explain.trace import trace, trace_page
    from sparse_circuits.files import write_text

    circuit, loaded, found_task, tokenizer = open_circuit(folder, model, common, task)
    found = trace(circuit, loaded, found_task, tokenizer, pair=pair, split=split, seed=common.seed)
    page = trace_page(found)
    if out is not None:
        write_text(out, page)
    return Output({**found.to_dict(), "file": out}, page if out is None else f"trace in {out}")


def circuit_attack(
    folder: Where,
    added: tuple[int, ...] = (0, 2, 4, 8, 16, 24),
    filling: str = "elements",
    pairs: int = 128,
    out: str | None = None,
    model: str | None = None,
    task: str | None = None,
    common: Shared = DEFAULTS,
) -> Output:
    """Dilutes the prompts of a circuit's task: what the circuit predicts, and what the whole model does.

    Args:
        folder: Circuit folder.
        added: Fillings per prompt, one point of the curve each.
        filling: elements (of the list that is open at the end) or lines (above the prompt).
        pairs: Test pairs per point.
        out: Figure, .svg or .png (extra `plot`).
        model: Model folder; the one the circuit names by default.
        task: Name of a task, or its .jsonl file; the one the circuit names by default.
    """
    from sparse_circuits.validate.attack import context_dilution
    from sparse_circuits.validate.subject import Subject

    circuit, loaded, found_task, tokenizer = open_circuit(folder, model, common, task)
    subject = Subject.of(circuit, loaded, found_task, tokenizer, n=pairs)
    found = context_dilution(subject, added=added, filling=filling, seed=common.seed)
    rows = [f"{'added':>5}  {'tokens':>6}  {'model':>6}  {'circuit':>7}   share of prompts answered rightly"]
    for point in found.points:
        right = point.score.model_accuracy.value, point.score.circuit_accuracy.value
        rows.append(f"{point.added:>5}  {point.tokens:>6.1f}  {right[0]:>6.1%}  {right[1]:>7.1%}")
    figure = None
    if out is not None:
        from sparse_circuits.viz.attack_figure import draw_attack

        figure = str(draw_attack(found, out))
        rows.append(f"figure in {figure}")
    correlation = "not defined" if found.correlation is None else f"{found.correlation:.2f}"
    rows.append(f"correlation of both contrasts over all prompts: {correlation}")
    return Output({**found.to_dict(), "figure": figure}, "\n".join(rows))
