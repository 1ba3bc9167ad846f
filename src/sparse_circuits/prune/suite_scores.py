"""What the circuits of a suite score where pruning never looked (step 4 of suite.py): test split, shifted splits, mined pairs."""

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from sparse_circuits.circuit.circuit import Circuit, load_circuit
from sparse_circuits.circuit.evaluate import evaluate, evaluate_model, usable_tokens
from sparse_circuits.circuit.evaluate_mined import evaluate_mined
from sparse_circuits.circuit.task_scores import score_shifted
from sparse_circuits.hub.load import load_model, load_tokenizer
from sparse_circuits.kernels.sparse_product import frozen
from sparse_circuits.log import Progress
from sparse_circuits.model.folder import stored_val_threshold
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.pipeline import meets_on_val
from sparse_circuits.tasks.load import is_built_in
from sparse_circuits.tasks.mined import MinedTask, mine_all
from sparse_circuits.tasks.task import Task

KINDS = ("plain", "refined")


@dataclass(frozen=True)
class SuiteScorer:
    """The model and the mined pairs are there once something is to be scored."""

    where: str
    """The model: name or folder."""
    device: str
    source: str | None
    """Of mined pairs; None: what the model's training held out of the standard library."""
    progress: Progress

    @cached_property
    def model(self) -> SparseTransformer:
        return load_model(self.where, self.device)

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.where)

    @cached_property
    def mined(self) -> dict[str, MinedTask]:
        """Of all tasks at once: every file is read once."""
        self.progress.say("mining real code")
        return _mine(self.model, self.tokenizer, self.source, self.progress)

    def scores(self, task: Task, folder: Path) -> dict[str, Any]:
        """Scores of the model and of the circuits in a task's folder, as plain values."""
        mined = self.mined.get(task.name) if is_built_in(task) else None
        asking = _Asking(self.model, self.tokenizer, task, mined)
        kinds = [kind for kind in KINDS if (folder / kind).is_dir()]
        with frozen(self.model):
            circuits = {kind: asking.sized(load_circuit(folder / kind)) for kind in kinds}
            return {"model": asking.scores(None), **circuits}


def _mine(model: SparseTransformer, tokenizer: Any, source: str | None, progress: Progress) -> dict[str, MinedTask]:
    """All tasks at once, since every file is read once. Where the library asks none of them, the other scores are still made.

    Raises ValueError for a source that was given and cannot be read, or asks none.
    """
    threshold = stored_val_threshold(model.source)
    try:
        return mine_all(tokenizer, None, source, usable=usable_tokens(model), val_threshold=threshold)
    except ValueError as error:
        if source is not None:
            raise
        progress.say(f"no mined pairs: {error}")
        return {}


class _Asking(NamedTuple):
    """A task put to a model and to circuits in it."""

    model: SparseTransformer
    tokenizer: Any
    task: Task
    mined: MinedTask | None

    def scores(self, circuit: Circuit | None) -> dict[str, Any]:
        """Test, shifted and mined scores as plain values; None for what the task does not have. circuit: None is the model."""
        model, tokenizer, task, mined = self
        if circuit is None:
            test = evaluate_model(model, task, tokenizer)
        else:
            test = evaluate(circuit, model, task, tokenizer=tokenizer)
        shifted = score_shifted(model, tokenizer, task, circuit=circuit) if task.shifted else None
        found = evaluate_mined(model, mined, circuit=circuit) if mined else None
        return {
            "test": asdict(test),
            "shifted": asdict(shifted) if shifted else None,
            "mined": asdict(found) if found else None,
        }

    def sized(self, circuit: Circuit) -> dict[str, Any]:
        """The same with the circuit's size, and its loss on validation, where it was chosen."""
        assert circuit.loss is not None
        left = None if circuit.removable is None else len(circuit.removable)
        return {
            "nodes": len(circuit.nodes),
            "edges": len(circuit.edges),
            "val_loss": circuit.loss.val,
            "met_on_val": meets_on_val(circuit),
            "met": circuit.met_target,
            "removable": left,
            **self.scores(circuit),
        }
