"""The model folder: what comes back equals what went in, and nothing damaged, edited or foreign loads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from refusals import refused
from sparse_circuits.files import file_hash, new_folder, read_tensors, write_json, write_tensors
from sparse_circuits.model.config import AbsTopKSite, ModelConfig
from sparse_circuits.model.edge_weights import site_biases, site_pairs
from sparse_circuits.model.folder import model_hash, read_model, save_model, stored_tokenizer_hash
from sparse_circuits.model.generate import record
from sparse_circuits.model.transformer import SparseTransformer

MakeModel = Callable[..., SparseTransformer]

sizes = st.integers(1, 4096)
configs = st.builds(
    ModelConfig,
    vocab_size=sizes,
    n_layer=sizes,
    d_model=sizes,
    n_head=sizes,
    d_head=sizes,
    d_mlp=st.none() | sizes,
    block_size=sizes,
    afrac=st.none() | st.floats(0, 1),
    afrac_sites=st.lists(st.sampled_from(get_args(AbsTopKSite)), unique=True).map(tuple),
    sink=st.booleans(),
    bigram=st.booleans(),
    norm=st.sampled_from(("rms", "layer")),
    norm_eps=st.none() | st.floats(1e-30, 1, exclude_min=True),
    tied_unembed=st.booleans(),
    bias=st.booleans(),
    residual_activation=st.sampled_from(("identity", "relu")),
    positions=st.sampled_from(("none", "learned")),
)


@given(configs)
def test_every_config_comes_back_whole(config: ModelConfig) -> None:
    text = json.dumps(config.to_dict())
    back = ModelConfig.from_dict(json.loads(text))
    assert back == config
    assert config.to_dict().keys() == set(ModelConfig.model_fields)
    for name in ModelConfig.model_fields:
        assert type(getattr(back, name)) is type(getattr(config, name))


def test_a_saved_model_gives_identical_logits(model: SparseTransformer, tokens: Tensor, tmp_path: Path) -> None:
    with new_folder(tmp_path / "model") as draft:
        save_model(model, draft, tokenizer_hash="abc")
    back = read_model(tmp_path / "model")
    assert torch.equal(back(tokens).view(torch.int32), model(tokens).view(torch.int32))
    assert back.config == model.config
    assert model_hash(back) == model_hash(model)
    assert stored_tokenizer_hash(tmp_path / "model") == "abc"
    assert not back.training
    trained = [parameter.requires_grad for parameter in model.parameters()]
    assert [parameter.requires_grad for parameter in back.parameters()] == trained
    with torch.no_grad():
        back.embed.weight[0, 0] += 1
    assert model_hash(back) != model_hash(model)


def test_the_hash_covers_the_config(make_model: MakeModel) -> None:
    one, other = make_model(afrac=0.25), make_model(afrac=0.5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert model_hash(one) != model_hash(other)


@pytest.fixture
def folder(make_model: MakeModel, tmp_path: Path) -> Path:
    save_model(make_model(), tmp_path, dense=True)
    return tmp_path


def edit_config(folder: Path, **fields: object) -> None:
    stored = json.loads((folder / "config.json").read_text("utf-8"))
    write_json(folder / "config.json", {**stored, **fields})


def fails(folder: Path, *words: str) -> None:
    with refused(str(folder), *words):
        read_model(folder)


def rewrite(folder: Path, tensors: dict[str, Tensor]) -> None:
    write_tensors(folder / "model.safetensors", tensors)
    edit_config(folder, weights_sha256=file_hash(folder / "model.safetensors"))


def test_a_folder_without_its_files_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    fails(folder, "model.safetensors")
    (folder / "config.json").unlink()
    fails(folder, "config.json")


def test_damaged_files_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-7])
    fails(folder, "is damaged")
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    fails(folder, "hash differs")
    weights.write_bytes(whole)
    read_model(folder)
    (folder / "config.json").write_text("{", "utf-8")
    fails(folder, "not valid JSON")


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    tensors = read_tensors(folder / "model.safetensors")
    rewrite(
        folder,
        {name: tensor for name, tensor in tensors.items() if name != "blocks.1.attn.sink"} | {"x": torch.ones(1)},
    )
    fails(folder, "missing: blocks.1.attn.sink", "unexpected: x")
    rewrite(folder, {**tensors, "embed.weight": tensors["embed.weight"].T})
    fails(folder, "wrong shapes: embed.weight")


def test_foreign_and_future_folders_are_refused(folder: Path) -> None:
    edit_config(folder, format_version=2)
    fails(folder, "format_version 2", "reads 1")
    edit_config(folder, format_version=1, kind="circuit")
    fails(folder, "'circuit'", "not a model")
    edit_config(folder, kind="model", model={"vocab_size": 3})
    fails(folder, "config.json", "n_layer is missing")
    edit_config(folder, model=[1])
    fails(folder, "needs one object of fields, given list")


# --- the weights between sites


def test_site_pairs_form_the_sites(make_model: MakeModel, tokens: Tensor) -> None:
    """Each target activation is its matrix times the source plus its bias (GELU for the neurons; y stands in for v)."""
    model = make_model()
    acts, biases = record(model, tokens), site_biases(model)
    pairs = site_pairs(model)
    assert len(pairs) == 12
    parameters = dict(model.named_parameters())
    for source, target, weight, linear, first_row in pairs:
        rows = slice(first_row, first_row + len(weight))
        assert torch.equal(parameters[f"{linear}.weight"][rows], weight)
        assert torch.equal(parameters[f"{linear}.bias"][rows], biases[target])
        read = acts[source.replace("attn.v", "attn.y")]
        formed = read @ weight.T + biases[target]
        formed = torch.nn.functional.gelu(formed) if target.endswith("post_act") else formed
        torch.testing.assert_close(formed, acts[target], atol=1e-5, rtol=1e-5)
        assert weight.shape == (model.widths[target], model.widths[source])
        assert not weight.requires_grad
    assert {pair.target for pair in pairs} == set(biases)
    assert pairs[0].weight.data_ptr() == model.blocks[0].attn.c_attn.weight.data_ptr()  # a view, not a copy
