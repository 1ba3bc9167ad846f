"""Verbs on many circuits at once: searching a recipe, pruning all tasks, the table of them, their report cards and verdicts."""

import tyro

from sparse_circuits.commands.common import DEFAULTS, Output, Shared, Where, usable_device


def prune_search(
    model: str,
    out: str,
    task: tuple[str, ...] = ("single_double_quote", "bracket_counting", "set_or_string", "class_init"),
    trials: int = 16,
    seeds: int = 2,
    workers: int = 1,
    target_loss: float = 0.15,
    config: str | None = None,
    common: Shared = DEFAULTS,
) -> Output:
    """Searches one pruning recipe for several tasks (extra `search`); goes on where it was stopped.

    Args:
        model: Name or folder of the model.
        out: Folder of the search; recipe.json in it is for `prune --config`.
        task: Names of tasks, or .jsonl files.
        trials: Recipes to try in all, earlier calls included; more where the one to start from is not among them yet.
        seeds: Pruning seeds per task and trial.
        workers: Processes, among which the cores are shared.
        target_loss: Mean task loss to reach, nats.
        config: Recipe to start from (JSON or YAML); the default recipe if none is given.
    """
    from sparse_circuits.prune.config import PruneConfig
    from sparse_circuits.prune.search import search

    device = usable_device(common.device)
    found = search(
        model,
        task,
        out,
        trials=trials,
        seeds=seeds,
        workers=workers,
        target_loss=target_loss,
        start=None if config is None else PruneConfig.from_file(config),
        seed=common.seed,
        device=device,
        progress=common.progress,
    )
    settings = ", ".join(f"{name} {value:.3g}" for name, value in found.best.settings.items())
    text = (
        f"best of {len(found.trials)} trials in {found.seconds:.0f} s: {found.best.nodes:.1f} nodes (geometric mean), "
        f"{found.best.misses} misses; it started from {found.first.nodes:.1f}\n{settings}\nrecipe in {out}/recipe.json"
    )
    return Output({**found.to_dict(), "path": out}, text)


def circuits_run(
    model: str,
    out: str,
    task: tuple[str, ...] = (),
    seeds: int = 8,
    target_loss: float = 0.15,
    config: str | None = None,
    refine: bool = True,
    workers: int = 1,
    common: Shared = DEFAULTS,
) -> Output:
    """Finds, refines and scores the circuits of many tasks in one model; goes on where it was stopped.

    Args:
        model: Name or folder of the model.
        out: Folder of the circuits: TASK/plain, TASK/refined, and suite.json on all of them.
        task: Names of built-in tasks; all twenty if none is given.
        seeds: Pruning seeds per task.
        target_loss: Mean task loss to reach, nats.
        config: Recipe (JSON or YAML), e.g. the recipe.json of a search.
        refine: Also cut the weights and nodes that the target does not need.
        workers: Processes, among which the cores are shared.
    """
    from sparse_circuits.prune.config import PruneConfig
    from sparse_circuits.prune.suite import prune_tasks

    device = usable_device(common.device)
    made = prune_tasks(
        model,
        out,
        tasks=task or None,
        seeds=seeds,
        seed=common.seed,
        target_loss=target_loss,
        config=None if config is None else PruneConfig.from_file(config),
        refined=refine,
        workers=workers,
        device=device,
        progress=common.progress,
    )
    found = [entry for entry in made["tasks"].values() if "plain" in entry]
    met = sum(bool(entry["plain"]["met"]) for entry in found)
    text = f"{len(found)} of {len(made['tasks'])} tasks have a circuit, {met} meet {target_loss} on test\ncircuits in {out}"
    return Output({**made, "path": out}, text)


def circuits_table(
    folder: Where,
    dense: str | None = None,
    summary: bool = False,
    out: str | None = None,
    common: Shared = DEFAULTS,  # noqa: ARG001 (options of every verb)
) -> Output:
    """Shows the circuits of many tasks as a table, beside those of a dense twin.

    Args:
        folder: Folder that `circuits run` made.
        dense: The same of the dense twin.
        summary: Only one table with both models' circuits, a task per row; needs `dense`.
        out: Markdown file to write.
    """
    from sparse_circuits.files import write_text
    from sparse_circuits.prune.suite_page import circuits_page, ratios, read_suite, summary_table

    sparse, twin = read_suite(folder), None if dense is None else read_suite(dense)
    command = f"sparse-circuits circuits table {folder}" + (f" --dense {dense}" if dense else "")
    if summary and twin is None:
        raise ValueError("a summary sets two models side by side; give the dense twin's folder with --dense")
    page = circuits_page(sparse, twin, command) if not summary or twin is None else summary_table(sparse, twin)
    if out is not None:
        write_text(out, page)
    compared = {"ratios": None, "ratios_on_validation": None}
    if twin is not None:
        compared = {"ratios": ratios(sparse, twin), "ratios_on_validation": ratios(sparse, twin, "val")}
    data = {"tasks": sparse["tasks"], **compared, "file": out}
    return Output(data, page if out is None else f"table in {out}")


def circuits_ship(
    folder: Where,
    out: str,
    kind: str = "plain",
    common: Shared = DEFAULTS,  # noqa: ARG001 (options of every verb)
) -> Output:
    """Copies the circuit of every task into one folder: how the circuits in the box are made.

    Args:
        folder: Folder that `circuits run` made.
        out: Folder of the copies, one per task.
        kind: plain or refined.
    """
    from sparse_circuits.prune.suite import ship_circuits

    found = {name: str(where) for name, where in ship_circuits(folder, out, kind).items()}
    return Output({"circuits": found, "path": out}, f"{len(found)} circuits in {out}")


def circuits_cards(folder: Where, workers: int = 1, full: bool = False, common: Shared = DEFAULTS) -> Output:
    """Makes the report card of every plain and refined circuit of many tasks; goes on where it was stopped.

    Args:
        folder: Folder that `circuits run` made; each card lies in its circuit's folder, and cards.json holds what all of them say.
        workers: Processes, among which the cores are shared.
        full: Whole cards with every control, which prune again, in place of quick ones.
    """
    from sparse_circuits.validate.suite_cards import make_cards, verdicts

    device = usable_device(common.device)
    made = make_cards(folder, workers=workers, full=full, seed=common.seed, device=device, progress=common.progress)
    counts, file = verdicts(made), f"{folder}/cards.json"
    words = ", ".join(f"{count} {word}" for word, count in counts.items())
    return Output({**made, "path": file}, f"{counts.total()} cards: {words}\ncards in {file}")


def circuits_verdicts(
    folders: tyro.conf.Positional[tuple[str, ...]],
    out: str | None = None,
    common: Shared = DEFAULTS,  # noqa: ARG001 (options of every verb)
) -> Output:
    """Shows what the report cards of many circuits say, of one recipe or of several side by side.

    Args:
        folders: Folders of one model's circuits, each with the cards.json of `circuits cards`.
        out: Markdown file to write.
    """
    from sparse_circuits.files import write_text
    from sparse_circuits.validate.verdicts_page import compare, verdicts_page

    found = compare(folders)
    page = verdicts_page(found, f"sparse-circuits circuits verdicts {' '.join(folders)}")
    if out is not None:
        write_text(out, page)
    return Output({**found, "file": out}, page if out is None else f"verdicts in {out}")
