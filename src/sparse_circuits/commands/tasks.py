"""Verbs on tasks."""

from sparse_circuits.commands.common import DEFAULTS, Output, Shared, Where, usable_device


def tasks_list(common: Shared = DEFAULTS) -> Output:  # noqa: ARG001 (options of every verb)
    """Names the built-in tasks."""
    from sparse_circuits.tasks.load import load_task, task_names

    tasks = {name: load_task(name).statement for name in task_names()}
    return Output({"tasks": tasks}, "\n".join(f"{name}: {statement}" for name, statement in tasks.items()))


def tasks_show(task: Where, examples: int = 3, common: Shared = DEFAULTS) -> Output:
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
    file: Where, model: str | None = None, tokenizer: str | None = None, common: Shared = DEFAULTS
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
    common: Shared = DEFAULTS,
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
