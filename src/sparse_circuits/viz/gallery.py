"""The pages of several circuits of one model, and a page that lists them.

The list is written last: where it is, every page it leads to is there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.files import write_text
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.tasks.task import Task
from sparse_circuits.viz.document import build_document
from sparse_circuits.viz.page import write_page
from sparse_circuits.viz.static_page import section, static_page, table

HEAD = ("task", "nodes", "edges", "test loss", "target", "the model's", "what it asks")
STATEMENT = (
    "Each circuit is the part of the model that is left when every other node is set to its mean: it does the task alone. "
    "Losses are in nats, on prompts that pruning never saw; chance is 0.693."
)


def write_gallery(
    circuits: Mapping[str, tuple[Circuit, Task]],
    model: SparseTransformer,
    tokenizer: Any,
    out: str | Path,
    *,
    n_pairs: int = 6,
    progress: Progress = SILENT,
) -> Path:
    """Writes out/NAME.html for every circuit and out/index.html, whose path is returned.

    circuits: name of the page -> circuit and its task. n_pairs: pairs of prompts on each page. Raises ValueError for no circuits.
    """
    if not circuits:
        raise ValueError("no circuits to show; make some with `sparse-circuits circuits run`")
    folder = Path(out)
    for name, (circuit, task) in circuits.items():
        progress.say(f"page of {name}")
        write_page(build_document(circuit, model, task, tokenizer, n_pairs=n_pairs), folder / f"{name}.html")
    rows = [_row(name, circuit, task) for name, (circuit, task) in circuits.items()]
    links = [f"{name}.html" for name in circuits]
    where = next(iter(circuits.values()))[0].model.where
    page = static_page(f"Circuits of {where}", STATEMENT, [section("Circuits", table(HEAD, rows, links))])
    write_text(folder / "index.html", page)
    return folder / "index.html"


def _row(name: str, circuit: Circuit, task: Task) -> Sequence[str]:
    loss, model, target = circuit.loss, circuit.model_loss, circuit.target_loss
    verdict = {True: "met", False: "MISSED", None: "not known"}[circuit.met_target]
    return (
        name,
        str(len(circuit.nodes)),
        str(len(circuit.edges)),
        "-" if loss is None else f"{loss.test:.3f}",
        verdict if target is None else f"{target} {verdict}",
        "-" if model is None else f"{model.test:.3f}",
        task.statement,
    )
