"""Verbs on tasks."""

from typing import Any

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
    from sparse_circuits.circuit.mask_scorer import check_task_on_model
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
    source: str = "template",
    common: Shared = DEFAULTS,
) -> Output:
    """Scores a model on tasks: on template pairs, or on pairs mined from real code.

    Args:
        model: bundled, bundled-dense, or a model folder.
        task: Names or .jsonl files; all built-in tasks by default.
        split: train, val or test; one shifted split (longer, deeper, names, fillers); or `shifted` for all of a task's.
        pairs: Pairs per task (and shifted split); mined tasks have as many as the code holds.
        source: template; mined for the standard library's files that the model's training held out (a fifth of them at most); or
            a folder, file or glob of Python code to mine.
    """
    from sparse_circuits.hub.load import load_model, load_tokenizer
    from sparse_circuits.model.folder import stored_val_threshold
    from sparse_circuits.tasks.mined import mined_share

    loaded, tokenizer = load_model(model, usable_device(common.device)), load_tokenizer(model)
    if source == "template":
        scores, unusable = _template_scores(loaded, tokenizer, task, split, pairs, common.seed)
    else:
        if split != "test":
            raise ValueError(f"--split {split} is for template pairs; mined ones have no splits")
        asked = None if source == "mined" else source
        scores, unusable = _mined_scores(loaded, tokenizer, task, asked, common.seed), {}
    lines = [_score_line(name, score) for name, score in scores.items()]
    lines += [f"{name}: cannot be asked: {reason}" for name, reason in unusable.items()]
    data: dict[str, Any] = {"tasks": scores, "unusable": unusable}
    if source == "mined":
        data["held_out"] = mined_share(stored_val_threshold(loaded.source))
        lines.append(f"mined from {data['held_out']:.1%} of the standard library's files, held out by their paths")
    return Output(data, "\n".join(lines))


def _template_scores(
    model: Any, tokenizer: Any, names: tuple[str, ...], split: str, pairs: int, seed: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """(task -> figures, task -> why it cannot be asked); tasks that lack a shifted split are left out unless named."""
    from sparse_circuits.circuit.task_scores import score_shifted, score_tasks, with_usable
    from sparse_circuits.tasks.load import load_task, task_names
    from sparse_circuits.tasks.task import UnusableTokens

    tasks = [load_task(name) for name in names or task_names()]
    if split == "shifted":
        scores: dict[str, Any] = {}
        for one in tasks:
            try:
                found = score_shifted(model, tokenizer, one, n=pairs, seed=seed)
            except UnusableTokens as error:
                raise with_usable(error, tokenizer) from None
            splits = {shift: _figures(score) for shift, score in found.splits.items()}
            scores[one.name] = {**_figures(found), "splits": splits}
        return scores, {}
    if not names and any(split in one.splits for one in tasks):
        tasks = [one for one in tasks if split in one.splits]
    found = score_tasks(model, tokenizer, tasks, split, n=pairs, seed=seed)
    return {name: _figures(score) for name, score in found.scores.items()}, dict(found.unusable)


def _mined_scores(model: Any, tokenizer: Any, names: tuple[str, ...], source: str | None, seed: int) -> dict[str, Any]:
    from dataclasses import asdict

    from sparse_circuits.circuit.task_scores import score_mined

    return {name: asdict(found) for name, found in score_mined(model, tokenizer, names or None, source, seed).items()}


def _figures(score: Any) -> dict[str, Any]:
    return {"loss": score.loss, "accuracy": score.accuracy, "n_pairs": score.n_pairs}


def _score_line(name: str, score: dict[str, Any]) -> str:
    if score["loss"] is None:
        line = f"{name}: no mined pairs"
    else:
        line = f"{name}: loss {score['loss']:.3f} nats, accuracy {score['accuracy']:.1%}, {score['n_pairs']} pairs"
    if score.get("balanced_accuracy") is not None:
        points = score["n_points"]
        line += (
            f"; single points {score['balanced_accuracy']:.1%} ({points['A']} + {points['B']}, mean of both classes)"
        )
    return line


def tasks_table(model: str = "bundled", out: str | None = None, pairs: int = 512, common: Shared = DEFAULTS) -> Output:
    """All tasks of a model in one table: template, shifted and mined; --out writes a page with what each task asks.

    Args:
        model: bundled, bundled-dense, or a model folder.
        out: Markdown file to write, such as docs/tasks.md.
        pairs: Pairs per split.
    """
    from sparse_circuits.circuit.task_scores import score_table, tasks_page
    from sparse_circuits.files import write_text
    from sparse_circuits.hub.load import load_model, load_tokenizer

    loaded, tokenizer = load_model(model, usable_device(common.device)), load_tokenizer(model)
    scores = score_table(loaded, tokenizer, n=pairs, seed=common.seed, progress=common.progress)
    page = tasks_page(scores, model)
    if out is not None:
        write_text(out, page)
    return Output({"tasks": scores, "file": out}, page.split("\n## ")[0].strip())
