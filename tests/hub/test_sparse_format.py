"""Sparse tensors: exact there and back whatever the bits, small, and refused when their parts do not fit."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refusals import refused
from sparse_circuits.files import new_folder
from sparse_circuits.hub.sparse_format import GAPS, METADATA_KEY, VALUES, pack, packed_shapes, unpack
from sparse_circuits.hub.tensor_file import open_tensors
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.folder import read_model, save_model
from sparse_circuits.model.transformer import SparseTransformer

BITS = {torch.float32: torch.int32, torch.float64: torch.int64, torch.bfloat16: torch.int16, torch.float16: torch.int16}
SPECIAL = [-0.0, math.nan, math.inf, -math.inf, 1e-40, 1.0, -2.5]


def back(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    stored, metadata = pack(tensors)
    sparse = packed_shapes(metadata, "here")
    found = {name: unpack(stored[name + VALUES], stored[name + GAPS], sparse[name], "here") for name in sparse}
    return found | {name: tensor for name, tensor in stored.items() if "|" not in name}


def same_bits(one: torch.Tensor, two: torch.Tensor) -> bool:
    bits = BITS[one.dtype]
    return one.dtype == two.dtype and one.shape == two.shape and torch.equal(one.view(bits), two.view(bits))


@given(
    shape=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    density=st.sampled_from([0.0, 0.001, 0.02, 0.3, 0.7, 1.0]),
    dtype=st.sampled_from(list(BITS)),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_every_bit_comes_back(shape: list[int], density: float, dtype: torch.dtype, seed: int, data: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=generator)  # a product with a mask would leave -0.0, which is stored
    tensor = tensor.where(torch.rand(shape, generator=generator) < density, 0.0)
    flat = tensor.to(dtype).view(-1)
    for place in data.draw(st.lists(st.integers(0, max(0, len(flat) - 1)), max_size=4 if len(flat) else 0)):
        flat[place] = data.draw(st.sampled_from(SPECIAL))
    tensor = flat.view(shape)
    assert same_bits(back({"w": tensor})["w"], tensor)
    stored, _ = pack({"w": tensor})
    assert sum(t.nbytes for t in stored.values()) <= tensor.nbytes
    if "w|values" in stored:  # by hand: walk the gaps
        most = torch.iinfo(stored["w|gaps"].dtype).max
        walked, at, values = torch.zeros(tensor.numel(), dtype=dtype), 0, iter(stored["w|values"])
        for gap in stored["w|gaps"].tolist():
            at += gap
            if gap != most:
                walked[at] = next(values)
                at += 1
        assert next(values, None) is None and same_bits(walked.view(shape), tensor)


@pytest.mark.parametrize("zeros", [0, 254, 255, 256, 510, 65_534, 65_535, 65_536, 131_070, 200_000])
def test_runs_at_the_edge_of_a_word(zeros: int) -> None:
    tensor = torch.zeros(2 * zeros + 300_000)
    tensor[zeros], tensor[2 * zeros + 1] = 1.0, 2.0
    assert torch.equal(back({"w": tensor})["w"], tensor)


def test_an_entry_takes_six_bytes_at_one_in_a_thousand() -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(2048, 2048, generator=generator)
    tensor = tensor.where(torch.rand(2048, 2048, generator=generator) < 1e-3, 0.0)
    stored, _ = pack({"w": tensor})
    assert sum(t.nbytes for t in stored.values()) <= 6.01 * int(tensor.count_nonzero())


def test_dense_stays_dense() -> None:
    tensor = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    stored, metadata = pack({"w": tensor})
    assert stored["w"] is tensor and not metadata


def test_a_saved_sparse_model_is_sparse_and_loads_bit_for_bit(tmp_path: Any) -> None:
    model = SparseTransformer(ModelConfig(vocab_size=40, n_layer=2, d_model=32, n_head=2, d_head=16)).initialize(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.masked_fill_(torch.rand(parameter.shape) > 0.01, 0.0)
    with new_folder(tmp_path / "sparse") as draft:
        save_model(model, draft)
    with new_folder(tmp_path / "dense") as draft:
        save_model(model, draft, dense=True)
    sparse, dense = (tmp_path / name / "model.safetensors" for name in ("sparse", "dense"))
    assert "embed.weight|values" in open_tensors(sparse, foreign=False).names
    assert "embed.weight" in open_tensors(dense, foreign=False).names
    assert sparse.stat().st_size < dense.stat().st_size / 5
    for folder in ("sparse", "dense"):
        loaded = read_model(tmp_path / folder).state_dict()
        assert all(same_bits(loaded[name], tensor) for name, tensor in model.state_dict().items())


def damaged(**changes: Any) -> None:
    parts = {"values": torch.tensor([1.0, 2.0]), "gaps": torch.tensor([1, 2], dtype=torch.uint8), "shape": (2, 3)}
    unpack(**{**parts, **changes}, where="the file")


@pytest.mark.parametrize(
    "changes",
    [
        {"values": torch.tensor([1.0])},
        {"values": torch.tensor([1.0, 2.0, 3.0])},
        {"values": torch.tensor([[1.0, 2.0]])},
        {"gaps": torch.tensor([1, 255], dtype=torch.uint8)},
        {"gaps": torch.tensor([1, 5], dtype=torch.uint8)},
        {"gaps": torch.tensor([1, 2])},
        {"shape": (2, 2)},
    ],
)
def test_parts_that_do_not_fit(changes: dict[str, Any]) -> None:
    damaged()
    with refused("the file is damaged", "values, gaps and shape"):
        damaged(**changes)


@pytest.mark.parametrize("stored", ["{", "[]", json.dumps({"w": [-1]}), json.dumps({"w": [1.5]}), json.dumps({"w": 3})])
def test_damaged_metadata(stored: str) -> None:
    with refused("the file is damaged", METADATA_KEY):
        packed_shapes({METADATA_KEY: stored}, "the file")
