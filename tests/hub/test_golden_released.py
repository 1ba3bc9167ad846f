"""The golden vectors of the released layout, met twice: by the plain float64 reference, and by our library.

tests/golden/released holds random nets saved as the paper's models are, with the logits, hooks, loss and interventions
that the reference implementation gave (RELEASE_FORMAT, head and 1.7; tolerances from its MANIFEST.json).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

import sparse_circuits as sc
from hub.reference_forward import Array, read_folder, reference_forward, reference_loss
from sparse_circuits.files import file_hash

GOLDEN = Path(__file__).parent.parent / "golden" / "released"
MANIFEST: dict[str, Any] = json.loads((GOLDEN / "MANIFEST.json").read_text("utf-8"))
CASES = sorted(MANIFEST["cases"])
FOLDERS = [*CASES, *sorted({name.split("/")[0] for name in MANIFEST["sha256"] if "__hf/" in name})]
LOGITS, HOOKS = 1e-5, 5e-5  # absolute

Edits = dict[str, list[int]]


def read_golden(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def vectors(folder: str) -> dict[str, Array]:
    return read_golden(GOLDEN / folder / "golden.safetensors")[0]


def set_channels(channels: list[int]) -> Callable[[Any], Any]:
    """Sets each of the channels to 0.25 + 0.01 * channel, in a numpy array or a tensor."""

    def edit(x: Any) -> Any:
        x = x.copy() if isinstance(x, np.ndarray) else x.clone()
        for channel in channels:
            x[..., channel] = 0.25 + 0.01 * channel
        return x

    return edit


def golden_interventions(folder: str) -> tuple[Array, Array, dict[str, Callable[[Any], Any]]]:
    """Tokens, logits and what was done at which hook."""
    held, metadata = read_golden(GOLDEN / folder.removesuffix("__hf") / "golden_interventions.safetensors")
    assert metadata["set_to"] == "0.25 + 0.01 * channel"
    edits: Edits = json.loads(metadata["hooks"])
    return held["input_ids"], held["logits"], {name: set_channels(channels) for name, channels in edits.items()}


def farthest(actual: Any, expected: Array) -> float:
    actual = np.asarray(actual, np.float64)
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max())


def test_the_files_are_those_of_the_manifest() -> None:
    present = {str(file.relative_to(GOLDEN)) for file in GOLDEN.rglob("*") if file.is_file()} - {"MANIFEST.json"}
    assert present == set(MANIFEST["sha256"])
    assert {name: file_hash(GOLDEN / name) for name in present} == MANIFEST["sha256"]
    assert len(FOLDERS) == 5
    assert {name: len(hook_names(name)) for name in FOLDERS} == dict.fromkeys(FOLDERS, 23)


def hook_names(folder: str) -> list[str]:
    return sorted(set(vectors(folder)) - {"input_ids", "targets", "logits", "loss"})


# --- the reference, without our library


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_reference_meets_the_golden_vectors(folder: str) -> None:
    config, state = read_folder(GOLDEN / folder)
    golden = vectors(folder)
    margins: list[float] = []
    logits, hooks = reference_forward(config, state, golden["input_ids"], margins=margins)
    assert farthest(logits, golden["logits"]) < LOGITS
    assert sorted(hooks) == hook_names(folder)
    assert {name: farthest(x, golden[name]) for name, x in hooks.items() if farthest(x, golden[name]) >= HOOKS} == {}
    assert reference_loss(logits, golden["targets"]) == pytest.approx(golden["loss"].item(), abs=1e-6)
    assert bool(margins) == (config["afrac"] is not None)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_reference_meets_the_golden_interventions(folder: str) -> None:
    config, state = read_folder(GOLDEN / folder)
    tokens, expected, edits = golden_interventions(folder)
    logits, _ = reference_forward(config, state, tokens, edits)
    assert farthest(logits, expected) < LOGITS
    assert farthest(reference_forward(config, state, tokens)[0], expected) > 100 * LOGITS


# --- our library


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_loaded_model_meets_the_golden_vectors(folder: str) -> None:
    model, golden = sc.load_model(GOLDEN / folder), vectors(folder)
    tokens = torch.from_numpy(golden["input_ids"])
    with torch.no_grad():
        logits = model(tokens)
    acts = sc.record(model, tokens, "*")
    assert farthest(logits, golden["logits"]) < LOGITS
    assert sorted(acts) == hook_names(folder)
    assert {name: farthest(x, golden[name]) for name, x in acts.items() if farthest(x, golden[name]) >= HOOKS} == {}
    loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(golden["targets"]).flatten(), ignore_index=-1)
    assert loss.item() == pytest.approx(golden["loss"].item(), abs=1e-5)


@pytest.mark.parametrize("folder", FOLDERS)
def test_intervening_by_the_released_names_meets_the_golden_vectors(folder: str) -> None:
    model = sc.load_model(GOLDEN / folder)
    tokens, expected, edits = golden_interventions(folder)
    with torch.no_grad():
        logits = sc.intervene(model, torch.from_numpy(tokens), edits)
    assert farthest(logits, expected) < LOGITS


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_loaded_model_in_float64_equals_the_reference(folder: str) -> None:
    config, state = read_folder(GOLDEN / folder)
    model = sc.load_model(GOLDEN / folder).double()
    tokens = vectors(folder)["input_ids"]
    expected, hooks = reference_forward(config, state, tokens)
    with torch.no_grad():
        assert farthest(model(torch.from_numpy(tokens)), expected) < 1e-10
    acts = sc.record(model, torch.from_numpy(tokens), "*")
    assert max(farthest(acts[name], hooks[name]) for name in hooks) < 1e-10
