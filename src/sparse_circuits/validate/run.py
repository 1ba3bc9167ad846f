"""`validate()`: the report card of a circuit in one call.

1. Find the circuit's model, task and tokenizer, and draw held-out pairs. 2. Measure, cheapest first: what the quick card holds
(F1-F7, 1h, F9a, F14), what takes longer (F8, F9b, real code), and the controls, which prune again (F10-F13, F15). 3. Each
measurement is stored as soon as it is made, where a folder is given. 4. Judge (verdict.py).

A measurement that cannot be made of this circuit is a row that says why, never an error: a published circuit has no recipe to prune
again with, a task may have no shifted split.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from sparse_circuits.circuit.circuit import Circuit, load_circuit
from sparse_circuits.circuit.evaluate import own_values
from sparse_circuits.hub.origins import load_origins
from sparse_circuits.kernels.sparse_product import frozen
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.tasks.task import Task
from sparse_circuits.validate.card import ReportCard, Row, circuit_facts
from sparse_circuits.validate.card_folder import CardFolder, Part
from sparse_circuits.validate.measure import (
    FULL,
    QUICK,
    Effort,
    agreement_rows,
    completeness_rows,
    faithfulness_rows,
    minimality_rows,
    missing,
    necessity_rows,
    sufficiency_rows,
)
from sparse_circuits.validate.measure_inside import (
    adversarial_rows,
    attention_rows,
    binarisation_rows,
    interchange_rows,
    mined_rows,
    resample_rows,
    role_rows,
    shifted_rows,
    stochastic_rows,
    swap_rows,
)
from sparse_circuits.validate.reruns import CONTROL_STANDARDS, CONTROLS, Rerun
from sparse_circuits.validate.subject import PAIRS, Subject
from sparse_circuits.validate.verdict import judge

Measure = Callable[[Subject, Effort], tuple[Row, ...]]
QUICK_PAIRS = 64
"""Pairs of a quick card."""
QUICK_MEASURES: Mapping[str, Measure] = {
    "agreement": agreement_rows,
    "faithfulness": faithfulness_rows,
    "sufficiency": sufficiency_rows,
    "necessity": necessity_rows,
    "completeness": completeness_rows,
    "minimality": minimality_rows,
    "roles": role_rows,
    "attention": attention_rows,
    "binarisation": binarisation_rows,
    "stochastic_ablation": stochastic_rows,
    "shifted_splits": shifted_rows,
}
MORE_MEASURES: Mapping[str, Measure] = {
    "interchange": interchange_rows,
    "resample_ablation": resample_rows,
    "interchange_accuracy": swap_rows,
    "adversarial": adversarial_rows,
    "mined": mined_rows,
}
"""What the full card adds to the quick one, beside the controls."""
ROWS: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in (*QUICK_MEASURES, *MORE_MEASURES)},
    "agreement": ("agreement", "same_choice"),
    "sufficiency": ("sufficiency", "random_circuit"),
    "attention": ("attention", "dead_heads"),
    "stochastic_ablation": ("robust_loss", "relaxation"),
    "seeds": ("seed_failures", "seed_sizes", "seed_overlap", "seed_gaps"),
    "nonsense": ("nonsense_control",),
    "random_init": ("random_init_control",),
    "ablation": ("ablation_sensitivity",),
    "norm": ("norm_reliance", "norm_control"),
}
"""Measurement or control -> its rows."""


def validate(
    circuit: Circuit | str | Path,
    model: SparseTransformer | str | Path | None = None,
    task: Task | str | Path | None = None,
    *,
    tokenizer: Any = None,
    quick: bool = False,
    controls: Sequence[str] | None = None,
    out: str | Path | None = None,
    n: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> ReportCard:
    """The report card of a circuit, or of the circuit in a folder.

    model, task, tokenizer: themselves, or where they are; None: what the circuit names. quick: only what needs no pruning and
    little time, on fewer pairs. controls: names of those to run (CONTROLS); None: all, or none of a quick card; empty: none.
    out: folder in which every measurement is stored as it is made, and from which an interrupted card goes on; None stores
    nothing. n: held-out pairs per split, None: 128, or 64 of a quick card. seed: of everything random. device: of a model that is
    loaded.
    Raises ValueError, one line, for an unknown control, a circuit that does not fit, or a folder of another card.
    """
    chosen = check_controls(() if controls is None and quick else controls)
    pairs = n if n is not None else QUICK_PAIRS if quick else PAIRS
    if pairs < 2:
        raise ValueError(
            f"{pairs} pairs asked for; a card needs at least 2, since values of one are compared with another's"
        )
    examined = circuit if isinstance(circuit, Circuit) else load_circuit(circuit)
    own_values(examined)
    shared = {"quick": quick, "pairs": pairs, "split": "test", "seed": seed}
    found = load_origins(examined, model=model, task=task, tokenizer=tokenizer, device=device)
    subject = Subject.of(examined, found.model, found.task, found.tokenizer, n=pairs, split="test", seed=seed)
    folder = CardFolder.open(out, examined, shared)  # now, so that a refusal leaves nothing behind
    with frozen(found.model):
        parts = _measured(_Measuring(subject, QUICK if quick else FULL, quick, chosen), folder, progress)
    rows = {row.name: row for part in parts.values() for row in part.rows}
    names = {name: tuple(row.name for row in part.rows) for name, part in parts.items()}
    verdict = judge(rows, names)
    card = ReportCard(
        verdict=verdict.word,
        reasons=verdict.reasons,
        circuit=circuit_facts(examined),
        settings={**shared, "controls": [name for name in parts if name in CONTROLS]},
        rows=rows,
        parts=names,
        seconds={name: part.seconds for name, part in parts.items()},
    )
    folder.conclude(card)
    return card


def check_controls(asked: Sequence[str] | None) -> tuple[str, ...]:
    """The controls asked for, None: all, in the order of the card. Raises ValueError, one line, for another name."""
    if isinstance(asked, str):
        raise ValueError(f"controls are a list of names, given the text {asked!r}; allowed: {', '.join(CONTROLS)}")
    if unknown := [name for name in asked or () if name not in CONTROLS]:
        raise ValueError(f"unknown control {unknown[0]!r}; allowed: {', '.join(CONTROLS)}")
    return tuple(name for name in CONTROLS if asked is None or name in asked)


class _Measuring:
    """The measurements and controls of one card, by name."""

    def __init__(self, subject: Subject, effort: Effort, quick: bool, controls: Sequence[str]) -> None:
        self.subject, self.effort, self.controls = subject, effort, controls
        self.measures = QUICK_MEASURES if quick else {**QUICK_MEASURES, **MORE_MEASURES}

    @cached_property
    def rerun(self) -> Rerun:
        """How to prune again like it; made only where a control asks. Raises ValueError for a circuit without recipe."""
        return Rerun.of(self.subject)

    def rows(self, name: str, progress: Progress) -> tuple[Row, ...]:
        """The rows of one of them."""
        try:
            if name in CONTROLS:
                return CONTROLS[name](self.rerun, progress)
            return self.measures[name](self.subject, self.effort)
        except ValueError as error:
            return tuple(missing(row, str(error), CONTROL_STANDARDS.get(row)) for row in ROWS[name])


def _measured(asked: _Measuring, folder: CardFolder, progress: Progress) -> dict[str, Part]:
    """Every part by name, in the order of the card; those that the folder holds are not measured again."""
    controls = [name for name in CONTROLS if name in asked.controls or folder.holds(name)]
    names, parts = [*asked.measures, *controls], {}
    with progress.bar("report card", len(names)) as bar:
        for done, name in enumerate(names):
            bar.update(done, measuring=name)
            if folder.holds(name):
                parts[name] = folder.read(name)
                continue
            begun = time.perf_counter()
            rows = asked.rows(name, progress)
            parts[name] = Part(rows=rows, seconds=time.perf_counter() - begun)
            folder.keep(name, parts[name])
        bar.update(len(names))
    return parts
