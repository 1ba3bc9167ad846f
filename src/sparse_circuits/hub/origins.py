"""A circuit with what it refers to: the model, task and tokenizer it was made with, found where it says and checked by hash."""

from pathlib import Path
from typing import Any, NamedTuple

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.circuit.evaluate import check_origin, own_values, resolve
from sparse_circuits.data.tokenizer import tokenizer_hash
from sparse_circuits.hub.load import load_model, load_tokenizer
from sparse_circuits.model.folder import model_hash
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.tasks.load import load_task, task_names
from sparse_circuits.tasks.task import Task


class Origins(NamedTuple):
    """What a circuit was made with."""

    model: SparseTransformer
    task: Task
    tokenizer: Any


def load_origins(
    circuit: Circuit,
    *,
    model: SparseTransformer | str | Path | None = None,
    task: Task | str | Path | None = None,
    tokenizer: Any = None,
    device: str = "cpu",
) -> Origins:
    """Loads what is not given.

    model, task: themselves, or where they are; None: what the circuit names. tokenizer: None reads the model's own. device: of a
    model that is loaded. Raises ValueError, one line, where something is not found, is not the circuit's own, or where the circuit
    has no ablation values.
    """
    own_values(circuit)
    if isinstance(model, SparseTransformer):
        loaded, where = model, model.source
    else:
        where = model or str(resolve(circuit, circuit.model.where))
        loaded = load_model(where, device)
    if tokenizer is None:
        tokenizer = load_tokenizer(where or resolve(circuit, circuit.tokenizer.where))
    found = task if isinstance(task, Task) else _task(circuit, task)
    check_origin("model", circuit.model.hash, model_hash(loaded))
    check_origin("tokenizer", circuit.tokenizer.hash, tokenizer_hash(tokenizer))
    check_origin("task", circuit.task_origin.hash, found.hash)
    return Origins(loaded, found, tokenizer)


def _task(circuit: Circuit, given: str | Path | None) -> Task:
    named = circuit.task_origin.where
    if given is None and circuit.task_origin.hash is None and named not in task_names():
        raise ValueError(
            f"this imported circuit is for the task {circuit.task!r}, which this library does not have; give it with --task"
        )
    return load_task(given or (named if named in task_names() else resolve(circuit, named)))
