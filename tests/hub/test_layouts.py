"""One model, three layouts, and back: config and weights bit for bit over the whole option space, and sound without our manifest.

Released nets are made up by made_up_models.py, our own by `own_model`. What an export holds is read back with torch and
safetensors themselves, and what it computes with the forward pass written a second time (reference_forward.py).
"""

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import sparse_circuits as sc
from hub.made_up_models import Case, draw_case, write_released, write_transformers
from hub.reference_forward import read_folder, reference_forward
from refusals import refused
from sparse_circuits.files import json_hash, new_folder, read_json, write_json
from sparse_circuits.hub import layouts
from sparse_circuits.hub.io import LAYOUTS
from sparse_circuits.model.assemble import own_tensors
from sparse_circuits.model.config import NORM_EPS, AbsTopKSite, ModelConfig
from sparse_circuits.model.folder import model_hash, save_model
from sparse_circuits.model.transformer import SparseTransformer

BLOCKS, PER_BLOCK = 2, 9
blocks = pytest.mark.parametrize("block", range(BLOCKS))
KINDS = {
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float64: torch.int64,
    torch.float16: torch.int16,
}


def bits(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, str]]:
    """What two models share if and only if they hold the same bytes under the same names (-0.0 is not 0.0)."""
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    return {
        name: (tensor.dtype, json_hash([list(tensor.shape), tensor.view(KINDS[tensor.dtype]).tolist()]))
        for name, tensor in whole.items()
    }


def stored_pt(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "final_model.pt", weights_only=True)


def stored_safetensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a transformers folder, shards read one by one."""
    names = {"model.safetensors"}
    if (folder / "model.safetensors.index.json").exists():
        names = set(read_json(folder / "model.safetensors.index.json")["weight_map"].values())
    return {name: tensor for file in names for name, tensor in load_file(folder / file).items()}


def as_tensors(case: Case) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in case.state.items()}


def export(where: Any, to: str, out: Path) -> Path:
    assert sc.export_model(where, to, out).path == str(out)
    return out


def own_config(seed: int) -> ModelConfig:
    """Any option of ours that both layouts can express."""
    pick = random.Random(seed)
    n_head = pick.choice((1, 2, 3))
    positions = pick.choice(("none", "none", "learned", "concat"))
    norm = pick.choice(("rms", "layer"))
    return ModelConfig(
        vocab_size=pick.randint(2, 17),
        n_layer=pick.randint(1, 3),
        d_model=n_head * pick.randint(1, 6),
        n_head=n_head,
        d_head=pick.choice((1, 3, 8)),
        d_mlp=pick.choice((None, 1, 10, 25)),
        block_size=pick.randint(1, 12),
        afrac=pick.choice((None, 0.0, 0.25, 0.29, 0.5, 1.0)),
        afrac_sites=tuple(pick.sample(get_args(AbsTopKSite), pick.randint(0, 10))),
        sink=pick.random() < 0.5,
        bigram=pick.random() < 0.5,
        learnable_bigram=pick.random() < 0.5,
        logits_bias=pick.random() < 0.5,
        tied_unembed=pick.random() < 0.5,
        bias=pick.random() < 0.5,
        norm=norm,
        ln_bias=pick.random() < 0.5,
        norm_eps=pick.choice((None, NORM_EPS[norm])),
        activation=pick.choice(("gelu", "relu")),
        residual_activation=pick.choice(("identity", "relu")),
        positions=positions,
        d_pos_emb=pick.randint(1, 5) if positions == "concat" else None,
        sinusoidal_positions=positions == "concat" and pick.random() < 0.5,
    )


def own_model(seed: int, **changes: Any) -> SparseTransformer:
    """Every weight drawn, a third of the entries of matrices zero, some of them -0.0."""
    model = SparseTransformer(own_config(seed).replace(**changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in own_tensors(model).values():
            tensor.normal_(0.3, 0.7, generator=generator)
            tensor.mul_(torch.rand(tensor.shape, generator=generator) > 1 / 3 * (tensor.dim() > 1))
    return model.eval()


def save(model: SparseTransformer, folder: Path) -> Path:
    with new_folder(folder) as draft:
        save_model(model, draft)
    return folder


def same_model(one: SparseTransformer, other: SparseTransformer) -> bool:
    alike = one.config == other.config and bits(one.state_dict()) == bits(other.state_dict())
    assert alike == (model_hash(one) == model_hash(other))
    trained = [parameter.requires_grad for parameter in one.parameters()]
    return alike and trained == [parameter.requires_grad for parameter in other.parameters()]


def logits(model: SparseTransformer, tokens: Any) -> Tensor:
    with torch.no_grad():
        return model(torch.as_tensor(tokens))


# --- released nets


def test_the_cases_hold_what_could_be_lost() -> None:
    configs = [draw_case(seed).config for seed in range(BLOCKS * PER_BLOCK)]
    for key in ("n_mlp", "d_mlp", "n_embd", "pfrac", "sparse_matmul_impl", "bigram_table_rank", "use_tied_aux_matrix"):
        assert 3 <= sum(key in config for config in configs) < len(configs), key
    own = [own_config(seed) for seed in range(BLOCKS * PER_BLOCK)]
    for positions in ("none", "learned", "concat"):
        assert sum(config.positions == positions for config in own) >= 4
    assert sum(config.bigram and not config.learnable_bigram for config in own) >= 4
    assert sum(config.tied_unembed and config.positions == "none" for config in own) >= 4


@blocks
def test_released_to_own_and_back(block: int, tmp_path: Path) -> None:
    for seed in range(block * PER_BLOCK, (block + 1) * PER_BLOCK):
        case = draw_case(seed)
        first = write_released(tmp_path / f"{seed}", case.config, case.state, masks=seed % 3 == 0)
        for ours in ("own", "sparse"):
            middle = export(first, ours, tmp_path / f"{seed}_{ours}")
            last = export(middle, "released", tmp_path / f"{seed}_{ours}_last")
            assert (last / "beeg_config.json").read_text("utf-8") == json.dumps(case.config, indent=2) + "\n"
            assert bits(stored_pt(last)) == bits(as_tensors(case)), case
            assert same_model(sc.load_model(first), sc.load_model(middle))
            assert same_model(sc.load_model(first), sc.load_model(last))
            assert sc.load_model(middle).released == case.config


@blocks
def test_released_to_transformers_and_back(block: int, tmp_path: Path) -> None:
    for seed in range(block * PER_BLOCK, (block + 1) * PER_BLOCK):
        case = draw_case(seed)
        first = write_released(tmp_path / f"{seed}", case.config, case.state)
        middle = export(first, "transformers", tmp_path / f"{seed}_hf")
        last = export(middle, "released", tmp_path / f"{seed}_last")
        assert (last / "beeg_config.json").read_text("utf-8") == json.dumps(case.config, indent=2) + "\n"
        assert bits(stored_pt(last)) == bits(as_tensors(case)), case
        held = {name.removeprefix("circuit_model."): tensor for name, tensor in stored_safetensors(middle).items()}
        absent = {"lm_head.weight"} if case.config.get("tied_unembed", True) else set()
        assert bits(held) == bits({name: as_tensors(case)[name] for name in case.state.keys() - absent})
        config = read_json(middle / "config.json")
        assert {key: config[key] for key in case.config} == case.config
        assert config["model_type"] == "circuitgpt" and "auto_map" not in config


@blocks
def test_transformers_to_others_and_back(block: int, tmp_path: Path) -> None:
    for seed in range(block * PER_BLOCK, (block + 1) * PER_BLOCK, 2):
        case = draw_case(seed)
        options = {"shards": 1 + seed % 3, "tied_key": seed % 4 == 0, "masks": seed % 5 == 0}
        first = write_transformers(tmp_path / f"{seed}", case.config, case.state, **options)
        kept = read_json(first / "config.json")
        kept = {key: value for key, value in kept.items() if key not in ("auto_map", "torch_dtype")}
        for way in (("own",), ("released",), ("sparse", "released")):
            folder = first
            for to in (*way, "transformers"):
                folder = export(folder, to, tmp_path / f"{seed}_{'_'.join(way)}_{to}")
            config = read_json(folder / "config.json")
            assert {key: config[key] for key in kept} == kept, way
            assert set(config) - set(kept) <= {"dtype", "unembed_rank", "bigram_table_rank"}
            dropped = {"circuit_model.lm_head.weight"} if kept["tie_word_embeddings"] else set()
            stored = {name: value for name, value in stored_safetensors(first).items() if name not in dropped}
            stored = {name: value for name, value in stored.items() if value.dim() < 4}  # the masks
            assert bits(stored_safetensors(folder)) == bits(stored)
            assert same_model(sc.load_model(first), sc.load_model(folder))


def test_what_was_written_is_no_larger_than_its_weights(tmp_path: Path) -> None:
    """A tensor that is a view (into a mapped file, say) would drag all of its storage along."""
    model = own_model(1, d_model=48, n_head=3, vocab_size=40, tied_unembed=True, positions="learned", d_pos_emb=None)
    size = sum(tensor.nbytes for tensor in own_tensors(model).values())
    held = save(model, tmp_path / "own")
    for turn in range(2):
        for to in ("released", "transformers", "own"):
            held = export(held, to, tmp_path / f"{to}{turn}")
            (file,) = [*held.glob("*.pt"), *held.glob("model*.safetensors")]
            assert size <= file.stat().st_size < size + 20_000, (to, turn)


# --- our own models


@blocks
@pytest.mark.parametrize("to", ["released", "transformers", "sharded", "own", "sparse"])
def test_own_to_any_and_back(to: str, block: int, tmp_path: Path) -> None:
    for seed in range(block * PER_BLOCK, (block + 1) * PER_BLOCK, 1 + (to in ("own", "sparse"))):
        model = own_model(seed)
        first = save(model, tmp_path / f"{seed}")
        out = tmp_path / f"{seed}_{to}"
        if to == "sharded":
            with new_folder(out, "export") as draft:
                layouts.write_transformers(model, draft, max_shard_size=300)
            assert len(list(out.glob("model-*.safetensors"))) > 1
        else:
            export(first, to, out)
        back = sc.load_model(export(out, "sparse", tmp_path / f"{seed}_{to}_back"))
        assert same_model(back, model) and back.released is None, model.config
        assert read_json(tmp_path / f"{seed}_{to}_back" / "config.json") == read_json(first / "config.json")
        tokens = torch.randint(0, model.config.vocab_size, (2, model.config.block_size))
        # Sums of floats follow where a file puts its tensors in memory, so the last bits may differ.
        torch.testing.assert_close(logits(sc.load_model(out), tokens), logits(model, tokens), rtol=1e-4, atol=1e-4)


@blocks
def test_the_reference_computes_the_same_from_what_we_exported(block: int, tmp_path: Path) -> None:
    compared = 0
    for seed in range(block * PER_BLOCK, (block + 1) * PER_BLOCK):
        model = own_model(seed)
        folder = export(model, "released", tmp_path / f"{seed}")
        tokens = np.random.default_rng(seed).integers(0, model.config.vocab_size, (2, model.config.block_size))
        margins: list[float] = []
        expected, _ = reference_forward(*read_folder(folder), tokens, margins=margins)
        if min(margins, default=math.inf) <= 1e-4:
            continue
        compared += 1
        found = logits(model.double(), tokens).numpy()
        assert np.abs(found - expected).max() <= 1e-9 * np.abs(expected).max() + 1e-12, model.config
    assert compared >= PER_BLOCK // 2


@blocks
@pytest.mark.parametrize("to", ["released", "transformers"])
def test_exports_load_without_our_file(to: str, block: int, tmp_path: Path) -> None:
    """No positions become positions of zeros: the same function."""
    for seed in range(block * PER_BLOCK, (block + 1) * PER_BLOCK):
        model = own_model(seed)
        folder = export(model, to, tmp_path / f"{seed}")
        (folder / "sparse_circuits.json").unlink()
        back = sc.load_model(folder)
        if model.config.positions == "none":
            assert back.config.positions == "learned" and back.positions is not None
            assert torch.all(back.positions.weight == 0)
        else:
            assert bits(back.state_dict()) == bits(model.state_dict())
        tokens = torch.randint(0, model.config.vocab_size, (2, model.config.block_size))
        torch.testing.assert_close(logits(back, tokens), logits(model, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("to", ["released", "transformers"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm": "rms", "norm_eps": 1e-5}, ("norm_eps", "1e-05", str(NORM_EPS["rms"]))),
        ({"norm": "layer", "norm_eps": 1e-6}, ("norm_eps", "1e-06", "1e-05")),
        ({"n_head": 3, "d_model": 8}, ("n_head", "3", "8")),
    ],
)
def test_what_a_layout_cannot_say_is_refused(
    to: str, changes: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    with refused(*words):
        sc.export_model(own_model(0, **changes), to, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert same_model(sc.load_model(export(own_model(0, **changes), "own", tmp_path / "own")), own_model(0, **changes))


def test_bfloat16_stays_what_it_is(tmp_path: Path) -> None:
    for seed in range(5):
        model = own_model(seed).to(torch.bfloat16)
        folder = save(model, tmp_path / f"{seed}")
        for to in ("transformers", "own", "sparse"):
            out = export(folder, to, tmp_path / f"{seed}_{to}")
            back = sc.load_model(out, dtype=None)
            assert same_model(back, model) and back.embed.weight.dtype == torch.bfloat16
            assert sc.load_model(out).embed.weight.dtype == torch.float32
            last = sc.load_model(export(out, "sparse", tmp_path / f"{seed}_{to}_last"), dtype=None)
            assert same_model(last, model)
        assert read_json(tmp_path / f"{seed}_transformers" / "config.json")["dtype"] == "bfloat16"
        out = export(folder, "released", tmp_path / f"{seed}_released")
        assert {tensor.dtype for tensor in stored_pt(out).values()} == {torch.float32}
        assert same_model(sc.load_model(out, dtype=torch.bfloat16), model)


def test_float64_would_be_rounded_in_the_released_layout(tmp_path: Path) -> None:
    model = own_model(3).double()
    with refused("float32", "float64"):
        sc.export_model(model, "released", tmp_path / "out")
    for to in ("transformers", "own", "sparse"):
        assert same_model(sc.load_model(export(model, to, tmp_path / to), dtype=None), model)


# --- as other readers see it


def test_files_are_as_their_readers_expect_them(tmp_path: Path) -> None:
    model = own_model(2, tied_unembed=True, positions="none", d_pos_emb=None, sinusoidal_positions=False)
    folder = export(model, "transformers", tmp_path / "hf")
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert "circuit_model.lm_head.weight" not in file.keys()  # noqa: SIM118 (not a dict)
    config = read_json(folder / "config.json")
    assert config["tie_word_embeddings"] is config["tied_unembed"] is True
    assert (config["architectures"], config["dtype"]) == (["CircuitGPTForCausalLM"], "float32")
    tensors = stored_pt(export(model, "released", tmp_path / "released"))
    assert tensors["lm_head.weight"].data_ptr() == tensors["transformer.wte.weight"].data_ptr()
    assert torch.all(tensors["transformer.wpe.weight"] == 0)
    assert tensors["transformer.wpe.weight"].shape == (model.config.block_size, model.config.d_model)


def test_shards_and_a_single_file_take_each_other_s_place(tmp_path: Path) -> None:
    """Saved again into the same folder, as transformers does, only the newer weights count."""
    small = {"max_shard_size": 300}
    one, other = own_model(5), own_model(6)
    for first, second in (({}, small), (small, {})):
        folder = tmp_path / f"to{len(second)}"
        layouts.write_transformers(one, folder, **first)
        layouts.write_transformers(other, folder, **second)
        assert same_model(sc.load_model(folder), other)
        (folder / "sparse_circuits.json").unlink()
        assert torch.equal(sc.load_model(folder).embed.weight, other.embed.weight)


def test_shards_are_as_large_as_allowed_and_fully_indexed(tmp_path: Path) -> None:
    model = own_model(7, d_model=12, n_head=2, n_layer=3)
    layouts.write_transformers(model, tmp_path, max_shard_size="2KB")
    index = read_json(tmp_path / "model.safetensors.index.json")
    files = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(files) > 2 and set(index["weight_map"].values()) == {file.name for file in files}
    held = {file.name: load_file(file) for file in files}
    assert index["metadata"]["total_size"] == sum(t.nbytes for tensors in held.values() for t in tensors.values())
    for tensors in held.values():
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= 2000


# --- our file beside the weights


def manifest(folder: Path, **changes: Any) -> None:
    stored = {**read_json(folder / "sparse_circuits.json"), **changes}
    write_json(folder / "sparse_circuits.json", {key: value for key, value in stored.items() if value != "gone"})


@pytest.mark.parametrize("to", ["released", "transformers"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": {}}, ("no file",)),
        ({"weights": "gone"}, ("damaged", "weights")),
        ({"weights": []}, ("damaged",)),
        ({"weights": {"other.safetensors": "0" * 64}}, ("other.safetensors",)),
        ({"model": "gone"}, ("damaged", "model")),
        ({"model": {"vocab_size": 3}}, ("damaged", "n_layer")),
        ({"released": ["afrac"]}, ("damaged",)),
        ({"released": 5}, ("damaged",)),
        ({"kind": "model"}, ("'model'", "export")),
        ({"format_version": 2}, ("format_version 2", "reads 1")),
    ],
)
def test_a_damaged_manifest_is_refused(
    to: str, changes: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    folder = export(own_model(4), to, tmp_path / "out")
    manifest(folder, **changes)
    for verify in (True, False):
        with refused(str(folder), *words):
            sc.load_model(folder, verify=verify)


@pytest.mark.parametrize("to", ["released", "transformers"])
def test_an_edited_config_is_refused(to: str, tmp_path: Path) -> None:
    """Also where only the manifest was edited, and where the edit changes no meaning but what a further export would keep."""
    case = draw_case(3)
    first = write_released(tmp_path / "first", {**case.config, "pfrac": 0.5}, case.state)
    folder = export(first, to, tmp_path / "out")
    name = "config.json" if to == "transformers" else "beeg_config.json"
    whole, sound = read_json(folder / name), read_json(folder / "sparse_circuits.json")
    fraction = 0.5 if whole.get("afrac") != 0.5 else 0.25
    for edit in ({"afrac": fraction}, {"pfrac": 0.25}, {"flash": not whole.get("flash", True)}):
        write_json(folder / name, {**whole, **edit})
        if edit.keys() <= whole.keys() or "afrac" in edit:
            with refused(str(folder), "edited", "sparse_circuits.json"):
                sc.load_model(folder)
    write_json(folder / name, whole)
    write_json(folder / name, {key: value for key, value in whole.items() if key != "pfrac"})
    with refused("edited"):
        sc.load_model(folder)
    write_json(folder / name, whole)
    for field, value in (("afrac", fraction), ("logits_bias", not sound["model"]["logits_bias"])):
        manifest(folder, model={**sound["model"], field: value})
        with refused("edited"):
            sc.load_model(folder)
    write_json(folder / "sparse_circuits.json", sound)
    assert same_model(sc.load_model(folder), sc.load_model(first))


def test_transformers_may_add_its_own_keys_to_an_exported_config(tmp_path: Path) -> None:
    folder = export(own_model(4), "transformers", tmp_path / "out")
    write_json(
        folder / "config.json", {**read_json(folder / "config.json"), "transformers_version": "5.1", "use_cache": 1}
    )
    assert same_model(sc.load_model(folder), own_model(4))


@pytest.mark.parametrize("to", ["released", "transformers"])
def test_positions_are_not_forgotten_because_a_manifest_says_so(to: str, tmp_path: Path) -> None:
    model = own_model(9, positions="learned", d_pos_emb=None, sinusoidal_positions=False)
    folder = export(model, to, tmp_path / "out")
    manifest(folder, model={**model.config.to_dict(), "positions": "none"})
    for verify in (True, False):
        with refused("positions", "sparse_circuits.json"):
            sc.load_model(folder, verify=verify)


def test_a_file_the_manifest_does_not_know_is_not_read(tmp_path: Path) -> None:
    """A single file takes precedence over shards; put beside ours, nothing would vouch for it."""
    folder = tmp_path / "out"
    layouts.write_transformers(own_model(5), folder, max_shard_size=300)
    other = tmp_path / "other"
    layouts.write_transformers(own_model(5), other)
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with refused("model.safetensors", "model-00001"):
        sc.load_model(folder)


def test_a_folder_from_before_the_released_config_was_noted(tmp_path: Path) -> None:
    case = draw_case(8)
    folder = export(write_released(tmp_path / "first", case.config, case.state), "released", tmp_path / "out")
    manifest(folder, released="gone")
    assert sc.load_model(folder).released == case.config


def test_every_layout_is_tried_here() -> None:
    assert set(LAYOUTS) == {"own", "sparse", "released", "transformers"}
