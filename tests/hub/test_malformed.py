"""Malformed model folders: an error, never a crash, never code run, never random weights, whatever layout and whichever file.

test_byte_flips.py holds the readers of single files to this; here it is `load_model` on whole folders. What is promised for a
changed byte: an error, or a model with the very same config and weights. For the weights of every layout that carries a
checksum (hashes of our own folders and exports, CRCs of a zip, hashes noted at download) that holds with `verify`; for headers
it always holds. A foreign config.json or beeg_config.json is guarded by nothing but its meaning, and foreign safetensors data
by nothing at all (docs/released_models.md says so): there a change may only never crash.
"""

import json
import math
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sparse_circuits as sc
from hub.made_up_models import Config, draw_state, write_released, write_transformers
from refusals import refused
from sparse_circuits.data.tokenizer import save_tokenizer, tokenizer_hash, train_tokenizer
from sparse_circuits.files import file_hash, new_folder, read_json, write_json
from sparse_circuits.hub import layouts
from sparse_circuits.hub.io import export_model
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.folder import FIRST_FIELDS, model_hash, save_model
from sparse_circuits.model.transformer import SparseTransformer

CONFIG: Config = {"block_size": 6, "vocab_size": 9, "n_layer": 2, "n_head": 2, "d_model": 8, "d_head": 3}
CONFIG |= {"tied_unembed": False, "enable_bigram_table": True, "sink": True, "d_pos_emb": 3, "afrac": 0.5, "pfrac": 0.5}
STATE = draw_state(CONFIG, random.Random(3), np.random.default_rng(0))
assert "final_logits_bias" in STATE


def released(folder: Path) -> Path:
    return write_released(folder, CONFIG, STATE)


def transformers(folder: Path) -> Path:
    return write_transformers(folder, CONFIG, STATE)


def sharded(folder: Path) -> Path:
    return write_transformers(folder, CONFIG, STATE, shards=3)


def own(folder: Path, *, dense: bool = True) -> Path:
    """As `model import` writes it, so with the released config inside."""
    first = released(folder.with_name(f"{folder.name}_from"))
    export_model(first, "own" if dense else "sparse", folder)
    shutil.rmtree(first)
    return folder


def packed(folder: Path) -> Path:
    """An own folder whose tensors are stored as values and gaps."""
    config = ModelConfig(vocab_size=30, n_layer=1, d_model=16, n_head=2, d_head=8, positions="learned", block_size=8)
    model = SparseTransformer(config).initialize(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand(parameter.shape) > 0.9)
    with new_folder(folder) as draft:
        save_model(model, draft)
    assert "|gaps" in (folder / "model.safetensors").read_bytes()[:2000].decode("utf-8", "replace")
    return folder


def exported(folder: Path, to: str = "transformers") -> Path:
    """With sparse_circuits.json."""
    first = own(folder.with_name(f"{folder.name}_own"))
    export_model(first, to, folder)
    shutil.rmtree(first)
    return folder


def exported_shards(folder: Path) -> Path:
    first = own(folder.with_name(f"{folder.name}_own"))
    with new_folder(folder, "export") as draft:
        layouts.write_transformers(sc.load_model(first), draft, max_shard_size=6000)
    shutil.rmtree(first)
    return folder


def downloaded(folder: Path) -> Path:
    """A released folder of the cache, with what was noted when it came."""
    names = ("beeg_config.json", "final_model.pt")
    noted = {
        name: {"size": (released(folder) / name).stat().st_size, "sha256": file_hash(folder / name)} for name in names
    }
    write_json(folder / "manifest.json", {"kind": "download", "format_version": 1, "files": noted})
    return folder


MAKERS = (released, transformers, sharded, own, packed, exported, partial(exported, to="released"), exported_shards)
every_layout = pytest.mark.parametrize("make", [*MAKERS, downloaded])


@contextmanager
def flipped(file: Path, place: int, dice: random.Random) -> Iterator[None]:
    """The file with another byte at this place, in place."""
    handle = os.open(file, os.O_RDWR)
    (old,) = os.pread(handle, 1, place)
    os.pwrite(handle, bytes([(old + dice.randrange(1, 256)) % 256]), place)
    try:
        yield
    finally:
        os.pwrite(handle, bytes([old]), place)
        os.close(handle)


def load(folder: Path, verify: bool = True) -> SparseTransformer | str:
    """The model, or the one line that refuses it; any other exception goes through."""
    try:
        return sc.load_model(folder, verify=verify)
    except ValueError as error:
        assert str(folder) in str(error) and "\n" not in str(error) and not str(error).endswith(":"), str(error)
        return str(error)


def known(model: SparseTransformer) -> tuple[Any, ...]:
    """Config, what an export would say, and the bits of every weight."""
    state = {name: tensor.view(torch.int32).numpy().tobytes() for name, tensor in model.state_dict().items()}
    return model.config, json.dumps(model.released), state


def unharmed(found: SparseTransformer | str, before: tuple[Any, ...]) -> bool:
    """An error, or the very same model."""
    return isinstance(found, str) or known(found) == before


def header_size(file: Path) -> int:
    return 8 + struct.unpack("<Q", file.read_bytes()[:8])[0]


def flip(folder: Path, name: str, times: int, seed: int, *, within: range | None = None) -> Iterator[int]:
    """The folder with one byte of a file changed, `times` times; yields the place."""
    dice = random.Random(f"{name} {seed}")
    for _ in range(times):
        place = dice.choice(within or range((folder / name).stat().st_size))
        with flipped(folder / name, place, dice):
            yield place


@every_layout
def test_the_folders_are_sound_to_begin_with(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    assert known(sc.load_model(folder)) == known(sc.load_model(folder, verify=False))


# --- single bytes


@pytest.mark.parametrize("make", [own, packed])
def test_flips_in_every_file_of_an_own_folder(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    before = known(sc.load_model(folder))
    for place in flip(folder, "config.json", 400, 0):
        for verify in (True, False):
            assert unharmed(load(folder, verify), before), place
    header = range(header_size(folder / "model.safetensors"))
    for place in flip(folder, "model.safetensors", 150, 1, within=header):
        assert isinstance(load(folder), str), place
        assert unharmed(load(folder, verify=False), before), place
    for place in flip(folder, "model.safetensors", 150, 2):
        assert isinstance(load(folder), str), place
    others = {file.name for file in folder.iterdir()} - {"config.json", "model.safetensors"}
    for name in others:
        for place in flip(folder, name, 10, 3):
            assert known(sc.load_model(folder)) == before, (name, place)


@pytest.mark.parametrize("make", [exported, partial(exported, to="released"), exported_shards])
def test_flips_in_every_file_of_an_export(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    before = known(sc.load_model(folder))
    for name in sorted(file.name for file in folder.glob("*.json")):
        for place in flip(folder, name, 110, 4):
            for verify in (True, False):
                assert unharmed(load(folder, verify), before), (name, place)
    for file in (*folder.glob("*.safetensors"), *folder.glob("*.pt")):
        for place in flip(folder, file.name, 60, 5):
            assert isinstance(load(folder), str), (file.name, place)


def test_flips_in_a_released_folder(tmp_path: Path) -> None:
    folder = released(tmp_path / "model")
    for place in flip(folder, "final_model.pt", 400, 6):
        assert isinstance(load(folder), str), place
    for _ in flip(folder, "beeg_config.json", 400, 7):
        load(folder)  # 0.5 may become 0.6, and nothing can tell


def test_flips_in_a_downloaded_folder(tmp_path: Path) -> None:
    folder = downloaded(tmp_path / "model")
    before = known(sc.load_model(folder))
    for name in ("final_model.pt", "beeg_config.json"):
        for place in flip(folder, name, 150, 8):
            assert isinstance(load(folder), str), (name, place)
    for place in flip(folder, "manifest.json", 200, 9):
        assert unharmed(load(folder), before), place


@pytest.mark.parametrize("make", [transformers, sharded])
def test_flips_in_a_foreign_transformers_folder(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    before = known(sc.load_model(folder))
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        for place in flip(folder, file.name, 120 // len(files), 10, within=range(header_size(file))):
            for verify in (True, False):
                assert unharmed(load(folder, verify), before), (file.name, place)
        for _ in flip(folder, file.name, 10, 11, within=range(header_size(file), file.stat().st_size)):
            assert load(folder) != ""  # anything but a crash
    for _ in flip(folder, "config.json", 150, 12):
        load(folder)
    if (folder / "model.safetensors.index.json").exists():
        for place in flip(folder, "model.safetensors.index.json", 150, 13):
            assert unharmed(load(folder), before), place


def test_flips_in_the_tokenizer_are_seen_when_it_is_taken_along(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["x = 1\nprint(x)\n" * 9], 262)
    model = SparseTransformer(ModelConfig(vocab_size=262, n_layer=1, d_model=4, n_head=1)).initialize(0)
    folder = tmp_path / "model"
    export_model(model, "own", folder, tokenizer=tokenizer)
    refusals = 0
    for place in flip(folder, "tokenizer.json", 40, 14):
        try:
            export_model(folder, "own", tmp_path / "out")
        except ValueError as error:
            assert "\n" not in str(error) and str(tmp_path) in str(error)
            refusals += 1
            continue
        assert tokenizer_hash(sc.load_tokenizer(tmp_path / "out")) == tokenizer_hash(tokenizer), place
    assert refusals > 20


# --- rougher damage


@every_layout
def test_any_file_cut_off_empty_or_gone(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    before, dice = known(sc.load_model(folder)), random.Random(15)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        for length in (0, *dice.sample(range(1, len(whole)), 4), len(whole) - 1):
            file.write_bytes(whole[:length])
            for verify in (True, False):
                assert unharmed(load(folder, verify), before), (file.name, length)
        file.unlink()
        gone = load(folder)
        assert isinstance(gone, str) or file.name in ("README.md", "sparse_circuits.json", "manifest.json"), file.name
        file.mkdir()
        assert isinstance(load(folder), str) or not isinstance(gone, str), file.name
        file.rmdir()
        file.write_bytes(whole)
    assert known(sc.load_model(folder)) == before


@pytest.mark.parametrize("make", [make for make in MAKERS if make not in (packed, exported_shards)])
def test_files_of_something_else(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """Weights of another net of another shape, and every kind of file in the place of every other."""
    folder = make(tmp_path / "model")
    before = known(sc.load_model(folder))
    files = {file: file.read_bytes() for file in sorted(folder.iterdir())}
    for file in files:
        for other, content in files.items():
            file.write_bytes(content)
            for verify in (True, False):
                swapped = file.suffix == other.suffix == ".safetensors" and file != other
                assert unharmed(load(folder, verify), before) or (swapped and not verify), (file.name, other.name)
        for content in (b"\x00" * 500, b"{}", b"[]", b"null", b"PK\x05\x06" + bytes(18), b"\x80\x02}."):
            file.write_bytes(content)
            assert unharmed(load(folder), before), (file.name, content)
        file.write_bytes(files[file])


# --- code


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("hidden", ["instead", "among", "legacy", "bare"])
def test_a_pickle_with_code_is_refused_and_not_run(hidden: str, tmp_path: Path) -> None:
    folder, mark = released(tmp_path / "model"), tmp_path / "ran"
    state: dict[str, Any] = {name: torch.from_numpy(value) for name, value in STATE.items()}
    code: Any = Runs(mark)
    if hidden == "instead":
        torch.save(code, folder / "final_model.pt")
    elif hidden == "among":
        torch.save({**state, "more": code}, folder / "final_model.pt")
    elif hidden == "legacy":
        torch.save({**state, "more": code}, folder / "final_model.pt", _use_new_zipfile_serialization=False)
    else:
        (folder / "final_model.pt").write_bytes(pickle.dumps(code))
    for verify in (True, False):
        with refused(str(folder)):
            sc.load_model(folder, verify=verify)
    assert not mark.exists()


def test_a_zip_of_another_program_is_refused(tmp_path: Path) -> None:
    folder = released(tmp_path / "model")
    with zipfile.ZipFile(folder / "final_model.pt") as whole:
        held = {entry.filename: whole.read(entry) for entry in whole.infolist()}
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(folder / "final_model.pt", "w", compression) as again:
            for name, content in held.items():
                again.writestr(name, content)
        for verify in (True, False):
            assert isinstance(load(folder, verify), str)


# --- tensors that are not those of the config


Change = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]


def rewrite(folder: Path, change: Change) -> None:
    """The weights of a foreign folder, changed, in a sound file."""
    if (folder / "final_model.pt").exists():
        torch.save(dict(change(torch.load(folder / "final_model.pt", weights_only=True))), folder / "final_model.pt")
        return
    held = load_file(folder / "model.safetensors")
    changed = change({name.removeprefix("circuit_model."): tensor for name, tensor in held.items()})
    prefixed = {f"circuit_model.{name}": tensor.clone() for name, tensor in changed.items()}
    save_file(prefixed, folder / "model.safetensors", {"format": "pt"})


foreign = pytest.mark.parametrize("make", [released, transformers])
LOGITS = ("bigram_table", "final_logits_bias")
C_FC, WTE, LM_HEAD = "transformer.h.1.mlp.c_fc.weight", "transformer.wte.weight", "lm_head.weight"


@foreign
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {n: v for n, v in t.items() if n != C_FC}, ("missing:", C_FC)),
        (lambda t: {n: v for n, v in t.items() if ".h.1." not in n}, ("missing:", "transformer.h.1.", "and 9 more")),
        (lambda t: {n: v for n, v in t.items() if n != LM_HEAD}, ("missing:", LM_HEAD)),
        (lambda t: {**t, "transformer.h.2.ln_1.weight": torch.ones(8)}, ("unexpected:", "transformer.h.2.ln_1.weight")),
        (lambda t: {**t, "model.layers.0.q_proj.weight": torch.ones(2)}, ("unexpected:", "model.layers.0")),
        (lambda t: {f"model.{n}": v for n, v in t.items()}, ("missing:", "unexpected:", "model.transformer")),
        (lambda t: {"state_dict." + n: v for n, v in t.items()}, ("missing:", "unexpected:")),
        (lambda t: {**t, C_FC: t[C_FC].T.contiguous()}, ("wrong shapes:", C_FC, "[11, 32], not [32, 11]")),
        (lambda t: {**t, C_FC: t[C_FC].flatten()}, ("wrong shapes:", C_FC)),
        (lambda t: {**t, C_FC: t[C_FC].half()}, (C_FC, "float16", "float32")),
        (lambda t: {**t, C_FC: t[C_FC].long()}, (C_FC, "int64")),
        (lambda t: {n: v.int() for n, v in t.items()}, ("int32", "float32")),
        (lambda t: {n: v.to(torch.float8_e4m3fn) for n, v in t.items()}, ("float8_e4m3fn", "float32")),
        (lambda t: {}, ()),
    ],
)
def test_tensors_that_do_not_fit_are_listed(
    make: Callable[[Path], Path], change: Change, words: tuple[str, ...], tmp_path: Path
) -> None:
    folder = make(tmp_path / "model")
    rewrite(folder, change)
    for verify in (True, False):
        with refused(str(folder), *words):
            sc.load_model(folder, verify=verify)


@foreign
def test_a_name_of_ours_is_no_name_of_the_layout(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """`embed.weight` is what this library calls wte: as a key of a released file it is as foreign as any other."""
    for change, words in (
        (lambda t: {**t, "embed.weight": torch.ones(9, 8)}, ("unexpected:", "embed.weight")),
        (lambda t: {("embed.weight" if n == WTE else n): v for n, v in t.items()}, ("missing:", WTE, "embed.weight")),
    ):
        folder = make(tmp_path / words[0].strip(":"))
        rewrite(folder, change)
        with refused(*words):
            sc.load_model(folder)


@foreign
def test_nan_and_infinity_are_found_in_every_tensor(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """What is added to logits may forbid a token."""
    infinite = {name: (math.inf, -math.inf) for name in (*LOGITS, WTE, C_FC, "transformer.ln_f.weight")}
    for name, value in ((key, value) for key in STATE for value in (math.nan, *infinite.get(key, ()))):
        if ".h.0." in name:  # one layer stands for both
            continue
        folder = make(tmp_path / "model")

        def put(tensors: dict[str, Tensor], name: str = name, value: float = value) -> dict[str, Tensor]:
            tensors[name].view(-1)[-1] = value
            return tensors

        rewrite(folder, put)
        if name in LOGITS and not math.isnan(value):
            sc.load_model(folder)
            continue
        sc.load_model(folder, verify=False)
        with refused(name, "NaN or infinity"):
            sc.load_model(folder)


def test_values_whose_sum_overflows_are_finite(tmp_path: Path) -> None:
    folder = released(tmp_path / "model")
    rewrite(folder, lambda t: {**t, C_FC: torch.full_like(t[C_FC], 3e38)})
    assert sc.load_model(folder).get_parameter("blocks.1.mlp.c_fc.weight")[0, 0] == torch.tensor(3e38)


@foreign
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_belong_to_transformers_only(
    make: Callable[[Path], Path], dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = make(tmp_path / "model")
    rewrite(folder, lambda tensors: {name: value.to(dtype) for name, value in tensors.items()})
    if make is released:
        with refused(str(dtype), "torch.float32"):
            sc.load_model(folder)
    else:
        assert sc.load_model(folder, dtype=None).embed.weight.dtype == dtype


# --- tied and untied


@foreign
def test_tied_and_untied_must_agree(make: Callable[[Path], Path], tmp_path: Path) -> None:
    write = write_released if make is released else write_transformers
    tied = {**CONFIG, "tied_unembed": True}
    one = {**STATE, LM_HEAD: STATE[WTE]}
    with refused("tied_unembed", WTE, LM_HEAD, "differ"):
        sc.load_model(write(tmp_path / "two", tied, STATE, **({} if make is released else {"tied_key": True})))
    wide = {**STATE, LM_HEAD: np.zeros((9, 9), np.float32)}
    with refused("tied_unembed", WTE, LM_HEAD, "differ"):
        sc.load_model(write(tmp_path / "wide", tied, wide, **({} if make is released else {"tied_key": True})))
    for lost in (WTE, LM_HEAD):  # either name alone will do
        folder = write(tmp_path / lost, tied, one, **({} if make is released else {"tied_key": True}))
        rewrite(folder, lambda tensors, lost=lost: {n: v for n, v in tensors.items() if n != lost})
        model = sc.load_model(folder)
        assert model.unembed.weight is model.embed.weight
        assert torch.equal(model.embed.weight, torch.from_numpy(STATE[WTE]))
    folder = write(tmp_path / "none", tied, one)
    rewrite(folder, lambda tensors: {n: v for n, v in tensors.items() if n not in (WTE, LM_HEAD)})
    with refused("missing:", WTE):
        sc.load_model(folder)


def test_one_tensor_under_two_names_is_a_tied_net(tmp_path: Path) -> None:
    """tied_unembed is true where a config does not say: one that says false about such a file is wrong."""
    one = {**STATE, LM_HEAD: STATE[WTE]}
    with refused("tied_unembed", WTE, LM_HEAD, "one tensor"):
        sc.load_model(write_released(tmp_path / "one", CONFIG, one))
    apart = {**STATE, LM_HEAD: STATE[WTE].copy()}
    model = sc.load_model(write_released(tmp_path / "apart", CONFIG, apart))
    assert model.unembed.weight.data_ptr() != model.embed.weight.data_ptr()


def test_tied_and_tie_word_embeddings_must_agree(tmp_path: Path) -> None:
    folder = transformers(tmp_path / "model")
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "tie_word_embeddings": True})
    with refused("tie_word_embeddings", "tied_unembed"):
        sc.load_model(folder)


# --- causal masks that some files hold


@foreign
def test_masks_are_passed_over_and_nothing_else_under_their_name(make: Callable[[Path], Path], tmp_path: Path) -> None:
    before = known(sc.load_model(make(tmp_path / "plain")))
    square = torch.ones(6, 6).tril()[None, None]
    folder = make(tmp_path / "masks")
    rewrite(folder, lambda t: {**t, "transformer.h.0.attn.bias": square, "transformer.h.1.attn.bias": square.clone()})
    assert known(sc.load_model(folder))[2] == before[2]
    for name, value in (("transformer.h.0.attn.bias", torch.ones(8)), ("transformer.h.7.attn.bias", square)):
        folder = make(tmp_path / name)
        rewrite(folder, lambda t, name=name, value=value: {**t, name: value})
        with refused("unexpected:", name):
            sc.load_model(folder)


# --- configs no file can fit


@pytest.mark.parametrize("make", [released, transformers, own])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("n_layer", 10**9), ("n_layer", 2**70), ("d_model", 10**12), ("vocab_size", 2**62), ("block_size", 10**30)),
        *(("d_mlp", 2**63), ("d_head", 2**40), ("d_pos_emb", 2**66)),
    ],
)
def test_enormous_sizes_are_refused_at_once(
    make: Callable[[Path], Path], field: str, value: int, tmp_path: Path
) -> None:
    folder = make(tmp_path / "model")
    name = "beeg_config.json" if make is released else "config.json"
    stored = read_json(folder / name)
    if make is own:
        stored["model"][field] = value
        write_json(folder / name, {key: held for key, held in stored.items() if key != "config_sha256"})
    else:
        write_json(folder / name, {**stored, field: value})
    assert isinstance(load(folder), str)


# --- our own config.json


def edited(folder: Path, *gone: str, **changes: Any) -> Path:
    stored = {**read_json(folder / "config.json"), **changes}
    write_json(folder / "config.json", {key: value for key, value in stored.items() if key not in gone})
    return folder


def test_an_own_config_is_what_was_saved(tmp_path: Path) -> None:
    folder = own(tmp_path / "model")
    whole = read_json(folder / "config.json")
    model, before = whole["model"], known(sc.load_model(folder))
    for changes in (
        {"model": {**model, "afrac": 0.25}},
        {"model": {**model, "sink": False}},
        {"model": {name: value for name, value in model.items() if name != "afrac"}},
        {"released": {**whole["released"], "pfrac": 0.25}},
        {"released": None},
        {"released": "beeg"},
        {"released": [1]},
        {"config_sha256": None},
        {"config_sha256": "0" * 64},
        {"weights_sha256": None},
    ):
        assert isinstance(load(edited(folder, **changes)), str), changes
        write_json(folder / "config.json", whole)
    for gone in ("model", "released", "config_sha256", "weights_sha256", "kind", "format_version"):
        assert isinstance(load(edited(folder, gone)), str), gone
        write_json(folder / "config.json", whole)
    with refused("config.json", "edited", "restore"):
        sc.load_model(edited(folder, "config_sha256", model={**model, "afrac": 0.25}))
    write_json(folder / "config.json", whole)
    for changes in ({"kind": "circuit"}, {"kind": None}, {"format_version": 2}, {"format_version": "1"}):
        assert isinstance(load(edited(folder, **changes)), str), changes
        write_json(folder / "config.json", whole)
    for changes in ({"tokenizer_hash": "other"}, {"architectures": ["X"]}, {"model_type": "gpt2"}):
        assert known(sc.load_model(edited(folder, **changes))) == before, changes
        write_json(folder / "config.json", whole)


def test_a_folder_of_the_first_release_still_loads(tmp_path: Path) -> None:
    """It has no config_sha256, and its config none of the options that came with the released models."""
    model = SparseTransformer(ModelConfig(vocab_size=9, n_layer=1, d_model=4, n_head=1)).initialize(0).eval()
    with new_folder(tmp_path / "model") as draft:
        save_model(model, draft, dense=True)
    stored = read_json(tmp_path / "model" / "config.json")
    old = {name: value for name, value in stored["model"].items() if name in FIRST_FIELDS} | {"norm_eps": 2.0**-23}
    folder = edited(tmp_path / "model", "config_sha256", model=old)
    loaded = sc.load_model(folder)
    assert loaded.config == model.config.replace(norm_eps=2.0**-23) and model_hash(loaded) == model_hash(model)
    assert isinstance(load(edited(folder, model={**old, "afrac": 2.0})), str)


def test_weights_of_another_model_are_not_taken_even_if_they_fit(tmp_path: Path) -> None:
    one, other = own(tmp_path / "one"), own(tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["embed.weight"] += 1
    save_file(tensors, one / "model.safetensors")
    with refused("model.safetensors", "hash differs"):
        sc.load_model(one)


def test_tokenizers_saved_into_a_model_folder_do_not_disturb_it(tmp_path: Path) -> None:
    folder = own(tmp_path / "model")
    save_tokenizer(train_tokenizer(["a b c " * 9], 258), folder)
    sc.load_model(folder)
