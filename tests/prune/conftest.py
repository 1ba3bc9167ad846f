"""The quote model, whose circuit is known, in memory and as a model folder with its task beside it."""

from pathlib import Path

import pytest

from sparse_circuits.circuit.ablation import save_reference
from sparse_circuits.data.tokenizer import save_tokenizer, tokenizer_hash
from sparse_circuits.files import new_folder
from sparse_circuits.model.folder import save_model
from sparse_circuits.tasks.custom import save_task
from sparse_circuits.validate.ground_truth import GroundTruth, quote_model


@pytest.fixture(scope="module")
def truth() -> GroundTruth:
    return quote_model()


@pytest.fixture(scope="module")
def folder(truth: GroundTruth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/ and task.jsonl."""
    root = tmp_path_factory.mktemp("quotes")
    with new_folder(root / "model", "model") as draft:
        save_model(truth.model, draft, tokenizer_hash(truth.tokenizer))
        save_tokenizer(truth.tokenizer, draft)
        save_reference(truth.reference, draft)
    save_task(truth.task, root / "task.jsonl")
    return root
