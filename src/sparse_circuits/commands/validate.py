"""The verb of the report card."""

from sparse_circuits.commands.common import DEFAULTS, Output, Shared, Where, open_circuit


def validate(
    folder: Where,
    quick: bool = False,
    controls: str | None = None,
    out: str | None = None,
    model: str | None = None,
    task: str | None = None,
    pairs: int | None = None,
    common: Shared = DEFAULTS,
) -> Output:
    """Measures whether a circuit is what its model does: every metric with interval, control and threshold, and a verdict.

    Args:
        folder: Circuit folder, or `bundled/TASK`.
        quick: Only what needs no pruning, on fewer pairs: about a minute for a small circuit.
        controls: Those to run, separated by commas: seeds, nonsense, random_init, ablation, norm. All by default, none with
            --quick; "" runs none.
        out: Folder of the card; an interrupted one goes on there. By default `card` (`card_quick`) in the circuit's folder, where
            the report page finds it, and `runs/validate/TASK` for a bundled circuit.
        model: Model folder; the one the circuit names by default.
        task: Name of a task, or its .jsonl file; the one the circuit names by default.
        pairs: Held-out pairs per split; 128 by default, 64 with --quick.
    """
    from sparse_circuits.validate.card_folder import default_folder
    from sparse_circuits.validate.run import check_controls
    from sparse_circuits.validate.run import validate as measure
    from sparse_circuits.viz.card_table import card_text

    chosen = None if controls is None else [name.strip() for name in controls.split(",") if name.strip()]
    check_controls(chosen)  # before anything is loaded
    where = default_folder(folder, quick) if out is None else out
    circuit, loaded, found_task, tokenizer = open_circuit(folder, model, common, task)
    card = measure(
        circuit,
        loaded,
        found_task,
        tokenizer=tokenizer,
        quick=quick,
        controls=chosen,
        out=where,
        n=pairs,
        seed=common.seed,
        progress=common.progress,
    )
    return Output({**card.to_dict(), "path": str(where)}, f"{card_text(card)}card in {where}")
