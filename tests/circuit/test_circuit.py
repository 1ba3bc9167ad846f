"""A circuit on disk: whole or refused, and still pointing at its model after the folder around it was moved."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_circuits.circuit.circuit import Circuit, Origin, PublishedLoss, SplitLosses, load_circuit
from sparse_circuits.circuit.evaluate import resolve
from sparse_circuits.files import write_json
from viz.made_up import made_up

FIELDS = [name for name in Circuit.__dataclass_fields__ if name not in ("values", "folder", "model", "tokenizer")]


@pytest.fixture
def circuit(tmp_path: Path) -> Circuit:
    home = (tmp_path / "runs" / "model").absolute()
    home.mkdir(parents=True)
    return made_up().circuit.replace(
        model=Origin(where=str(home), hash="ab" * 32), tokenizer=Origin(where=str(home), hash="cd" * 32)
    )


@pytest.fixture
def folder(circuit: Circuit, tmp_path: Path) -> Path:
    circuit.save(tmp_path / "runs" / "circuit")
    return tmp_path / "runs" / "circuit"


def test_every_field_survives_saving(circuit: Circuit, folder: Path) -> None:
    loaded = load_circuit(folder)
    for name in FIELDS:
        assert getattr(loaded, name) == getattr(circuit, name), name
    assert circuit.values is not None and loaded.values is not None
    assert set(loaded.values) == set(circuit.values)
    assert all(torch.equal(loaded.values[site], value) for site, value in circuit.values.items())
    assert loaded.folder == folder and loaded.model.hash == circuit.model.hash


def test_an_imported_circuit_without_values_stays_so(circuit: Circuit, tmp_path: Path) -> None:
    circuit.replace(values=None, calibration=None).save(tmp_path / "bare")
    loaded = load_circuit(tmp_path / "bare")
    assert loaded.values is None and loaded.calibration is None
    assert [path.name for path in (tmp_path / "bare").iterdir()] == ["circuit.json"]


UNKNOWN = {
    **dict.fromkeys(
        ("loss", "calibrated_loss", "model_loss", "empty_loss", "accuracy", "target_loss", "ablation", "seed")
    ),
    **dict.fromkeys(("edges_embed", "edges_unembed", "constant_nodes", "stranded_nodes", "values", "calibration")),
}


def test_what_an_imported_circuit_does_not_know_survives_as_null(circuit: Circuit, tmp_path: Path) -> None:
    bare = circuit.replace(
        **UNKNOWN,
        model=Origin(where="", hash=None),
        tokenizer=Origin(where="", hash=None),
        edges=tuple(edge._replace(weight=None) for edge in circuit.edges),
        published_loss=PublishedLoss(circuit=0.25, model=0.1),
    )
    bare.save(tmp_path / "bare")
    assert {**vars(load_circuit(tmp_path / "bare")), "folder": None} == {**vars(bare), "folder": None}
    stored = json.loads((tmp_path / "bare" / "circuit.json").read_text("utf-8"))
    assert [stored[name] for name in UNKNOWN if name != "values"] == [None] * (len(UNKNOWN) - 1)
    assert stored["model"]["hash"] is None and stored["met_target"] is None
    assert {edge[2] for edge in stored["edges"]} == {None}
    assert stored["published_loss"] == {"circuit": 0.25, "model": 0.1}


def test_a_circuit_saved_before_circuits_were_imported_still_loads(circuit: Circuit, folder: Path) -> None:
    stored = json.loads((folder / "circuit.json").read_text("utf-8"))
    del stored["published_loss"]
    write_json(folder / "circuit.json", stored)
    assert load_circuit(folder).published_loss is None and load_circuit(folder).nodes == circuit.nodes


def test_a_reference_says_what_it_is_or_leaves_it(circuit: Circuit) -> None:
    bare = circuit.replace(values=None, ablation=None)
    assert circuit.values is not None
    assert bare.with_reference(circuit.values).ablation is None
    assert bare.with_reference(circuit.values, "zero").ablation == "zero"
    assert circuit.replace(values=None).with_reference(circuit.values).ablation == "mean_pretrain"


def test_paths_are_relative_and_survive_a_move(circuit: Circuit, folder: Path, tmp_path: Path) -> None:
    assert load_circuit(folder).model.where == "../model"
    assert str(tmp_path) not in (folder / "circuit.json").read_text("utf-8")
    shutil.move(tmp_path / "runs", tmp_path / "elsewhere")
    moved = load_circuit(tmp_path / "elsewhere" / "circuit")
    assert resolve(moved, moved.model.where) == (tmp_path / "elsewhere" / "model").resolve()


def test_a_relative_folder_gives_the_same_paths(
    circuit: Circuit, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    circuit.save("runs/again")
    assert load_circuit("runs/again").model.where == "../model"


def test_meeting_the_target_is_about_test_and_the_chosen_loss(circuit: Circuit) -> None:
    missed = circuit.replace(loss=SplitLosses(train=0.1, val=0.1, test=0.2), target_loss=0.15)
    assert not missed.met_target
    assert missed.replace(calibrated_loss=SplitLosses(train=9.0, val=9.0, test=0.15), target_on="calibrated").met_target
    assert missed.replace(target_loss=0.2).met_target
    assert missed.replace(target_loss=None).met_target is None
    assert missed.replace(loss=None).met_target is None
    assert missed.replace(calibrated_loss=None).met_target is False


# --- damage


def edit(key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        stored = json.loads((folder / "circuit.json").read_text("utf-8"))
        stored[key] = value
        write_json(folder / "circuit.json", {k: v for k, v in stored.items() if v != "GONE"})

    return change


def truncated_json(folder: Path) -> None:
    file = folder / "circuit.json"
    file.write_text(file.read_text("utf-8")[:-200], "utf-8")


def changed_values(folder: Path) -> None:
    file = folder / "values.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\x00\x00\x80\x3f")


def truncated_values(folder: Path) -> None:
    file = folder / "values.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def no_values(folder: Path) -> None:
    (folder / "values.safetensors").unlink()


DAMAGE = {
    "absent": shutil.rmtree,
    "truncated json": truncated_json,
    "changed values": changed_values,
    "truncated values": truncated_values,
    "no values": no_values,
    "another version": edit("format_version", 2),
    "another kind": edit("kind", "model"),
    "a field gone": edit("node_effects", "GONE"),
    "a node misspelt": edit("node_names", ["2.mlp.post_act(37)"]),
    "a node that is a number": edit("node_names", [37]),
    "nodes that are a number": edit("node_names", 37),
    "an edge too short": edit("edges", [["0.attn.q[1]", "0.attn.q[2]"]]),
    "an unknown ablation": edit("ablation", "mean"),
    "an unknown loss": edit("loss_kind", "softplus"),
    "an unknown target": edit("target_on", "both"),
    "a target in words": edit("target_loss", "low"),
    "a loss in words": edit("loss", {"train": 0.1, "val": "low", "test": 0.2}),
    "a published loss too few": edit("published_loss", {"circuit": 0.2}),
    "a split too few": edit("loss", {"train": 0.1, "val": 0.1}),
    "a split too many": edit("loss", {"train": 0.1, "val": 0.1, "test": 0.1, "ood": 0.1}),
    "an origin without hash": edit("model", {"where": "../model"}),
    "an unsigned scale": edit("calibration", {"scale": -1.0, "shift": 0.0}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_circuit_is_refused_in_one_line(
    damage: Callable[[Path], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jaxtyping

    damage(folder)
    jaxtyping.config.update("jaxtyping_disable", True)  # as users run it
    try:
        with pytest.raises(ValueError, match=folder.name) as caught:
            load_circuit(folder)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert "\n" not in str(caught.value)
