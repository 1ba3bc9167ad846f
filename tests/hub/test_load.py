"""`load_model` and `load_tokenizer`: what may be given, what comes back, and what it costs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import pre_tokenizers

import sparse_circuits as sc
from hub.made_up_models import draw_case, write_released, write_transformers
from refusals import refused
from sparse_circuits.data.tokenizer import encode, save_tokenizer, tokenizer_hash, train_tokenizer, vocab_size
from sparse_circuits.files import file_hash, new_folder, write_json
from sparse_circuits.hub import fetch
from sparse_circuits.hub.io import LAYOUTS, export_model
from sparse_circuits.hub.load import check_download, layout, tokenizer_place
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.folder import model_hash, save_model
from sparse_circuits.model.transformer import SparseTransformer

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model in every layout, and without our manifest where there is one."""
    root, config = (
        tmp_path_factory.mktemp("load"),
        ModelConfig(vocab_size=261, n_layer=2, d_model=8, n_head=2, d_head=4),
    )
    model = SparseTransformer(config.replace(positions="learned", block_size=12)).initialize(0)
    for to in LAYOUTS:
        export_model(model, to, root / to)
    return {to: root / to for to in LAYOUTS}


@pytest.fixture(autouse=True)
def nothing_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and servers that answer nobody."""
    monkeypatch.setenv("SPARSE_CIRCUITS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SPARSE_CIRCUITS_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setattr("sparse_circuits.hub.download.PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


every_layout = pytest.mark.parametrize("to", LAYOUTS)


# --- where


@every_layout
def test_a_folder_by_path_or_text_and_the_run_around_it(to: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders[to]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(folder)
    for where in (folder, str(folder), tmp_path / "run", str(tmp_path / "run"), f"{folder}/"):
        model = sc.load_model(where)
        assert model_hash(model) == model_hash(sc.load_model(folders["own"]))
        assert not model.training and model.source is not None and model.source.samefile(folder)
    assert layout(folder) == ("own" if to == "sparse" else to)


def test_relative_paths_are_paths(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`a/b` also reads as a repo, and csp_yolo1 as a released name: what exists here comes first."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").symlink_to(folders["own"])
    (tmp_path / "csp_yolo1").symlink_to(folders["own"])
    monkeypatch.chdir(tmp_path)
    for where in ("a/b", "./a/b", "csp_yolo1", Path("a/b")):
        sc.load_model(where)
    monkeypatch.chdir(folders["own"])
    sc.load_model(".")


def test_a_mistyped_path_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*given: Any, **options: Any) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(fetch, "fetch_repo", asked)
    monkeypatch.setattr(fetch, "fetch_released", asked)
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    for where in ("runs/mdoel", Path("owner/name"), Path("csp_yolo1"), "csp_yolo3", "./nothing", "a/b/c", "", "a\0b"):
        with refused("no model at", "csp_yolo1", "owner/name"):
            sc.load_model(where)


def test_a_folder_without_a_model_and_a_file_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for where in (tmp_path, folders["own"] / "model.safetensors"):
        with refused("no model at", str(where), "config.json", "beeg_config.json"):
            sc.load_model(where)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "bert", "hidden_size": 8}, ("'bert'", "sparse_circuits, circuitgpt")),
        ({"model_type": "gpt2", "n_embd": 8}, ("'gpt2'",)),
        ({"hidden_size": 8}, ("'something'",)),
        ({"kind": "circuit", "format_version": 1}, ("'circuit'",)),
        ({"model_type": ["circuitgpt"]}, ("circuitgpt",)),
    ],
)
def test_models_of_another_library_are_refused(
    config: dict[str, Any], words: tuple[str, ...], folders: dict[str, Path], tmp_path: Path
) -> None:
    write_json(tmp_path / "config.json", config)
    (tmp_path / "model.safetensors").write_bytes((folders["own"] / "model.safetensors").read_bytes())
    with refused(str(tmp_path), *words):
        sc.load_model(tmp_path)


def test_without_a_network_the_error_names_what_would_serve() -> None:
    with refused("csp_yolo1", "final_model.pt", "no network is needed"):
        sc.load_model("csp_yolo1")


# --- device and dtype


@every_layout
def test_dtypes(to: str, folders: dict[str, Path]) -> None:
    first = sc.load_model(folders[to])
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        model = sc.load_model(folders[to], dtype=dtype)
        assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype}
        assert torch.equal(model.embed.weight, first.embed.weight.to(dtype))
        assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in first.parameters()]
    assert sc.load_model(folders[to], dtype=None).embed.weight.dtype == torch.float32
    for wrong in (torch.int8, torch.complex64, torch.bool, torch.float8_e4m3fn, "bfloat16"):
        with refused(str(wrong), "torch.bfloat16"):
            sc.load_model(folders[to], dtype=wrong)


def test_devices_that_are_not_there(folders: dict[str, Path]) -> None:
    assert sc.load_model(folders["own"], "cpu").embed.weight.device == torch.device("cpu")
    assert sc.load_model(folders["own"], torch.device("meta")).embed.weight.is_meta
    for device in ("nonsense", "cuda:97", "cpu:x"):
        with refused(device, "cpu always works"):
            sc.load_model(folders["own"], device)


@pytest.mark.gpu
@every_layout
def test_on_a_gpu_the_model_is_the_same(to: str, folders: dict[str, Path]) -> None:
    model, there = sc.load_model(folders[to]), sc.load_model(folders[to], "cuda")
    assert {tensor.device.type for tensor in there.state_dict().values()} == {"cuda"}
    assert all(torch.equal(a, b.cpu()) for a, b in zip(model.parameters(), there.parameters(), strict=True))
    assert model_hash(there) == model_hash(model)
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        torch.testing.assert_close(there(tokens.cuda()).cpu(), model(tokens), rtol=1e-4, atol=1e-4)
    tied = SparseTransformer(model.config.replace(tied_unembed=True)).initialize(0)
    with new_folder(folders[to].parent / f"tied_{to}") as draft:
        save_model(tied, draft)
    moved = sc.load_model(folders[to].parent / f"tied_{to}", "cuda")
    assert moved.unembed.weight is moved.embed.weight


def test_tied_matrices_stay_one_through_dtypes(tmp_path: Path) -> None:
    case = next(case for case in map(draw_case, range(40)) if case.config.get("tied_unembed", True))
    for folder in (write_released(tmp_path / "a", case.config, case.state), tmp_path / "b"):
        if folder.name == "b":
            write_transformers(folder, case.config, case.state)
        for dtype in (None, torch.float64, torch.bfloat16):
            model = sc.load_model(folder, dtype=dtype)
            assert model.unembed.weight is model.embed.weight
            model.double()
            assert model.unembed.weight is model.embed.weight


@every_layout
def test_a_loaded_model_may_be_changed_without_changing_its_file(to: str, folders: dict[str, Path]) -> None:
    """Weights are memory-mapped; a mapping that wrote through would destroy the model on disk."""
    before = {file.name: file_hash(file) for file in folders[to].iterdir()}
    for verify in (True, False):
        model = sc.load_model(folders[to], verify=verify)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        model(torch.arange(5)[None]).sum().backward()
    assert {file.name: file_hash(file) for file in folders[to].iterdir()} == before


# --- verification


@every_layout
def test_without_verify_bytes_are_trusted_and_structure_is_not(
    to: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in folders[to].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (weights,) = [*folder.glob("*.pt"), *folder.glob("*.safetensors")]
    content = bytearray(weights.read_bytes())
    needle = sc.load_model(folder).embed.weight.detach().numpy().tobytes()[:16]
    assert content.count(needle) == 1
    content[content.index(needle)] ^= 1
    weights.write_bytes(content)
    with refused(str(weights)):
        sc.load_model(folder)
    assert not torch.equal(sc.load_model(folder, verify=False).embed.weight, sc.load_model(folders[to]).embed.weight)
    weights.write_bytes(content[:-1])
    with refused(str(weights)):
        sc.load_model(folder, verify=False)


def test_a_download_is_compared_with_what_came(tmp_path: Path) -> None:
    case = draw_case(2)
    folder = write_released(tmp_path / "cache" / "models" / "csp_yolo1", case.config, case.state)
    names = ("beeg_config.json", "final_model.pt")
    noted = {name: {"size": (folder / name).stat().st_size, "sha256": file_hash(folder / name)} for name in names}
    write_json(folder / "manifest.json", {"kind": "download", "format_version": 1, "files": noted})
    assert sc.load_model("csp_yolo1").config == sc.load_model(folder).config
    other = json.dumps({**case.config, "afrac": 0.875})
    (folder / "beeg_config.json").write_text(other, "utf-8")
    with refused("beeg_config.json", "not what was downloaded", "delete it"):
        sc.load_model(folder)
    with refused("not what was downloaded"):
        check_download(folder)
    assert sc.load_model(folder, verify=False).config.afrac == 0.875
    write_json(folder / "manifest.json", {"kind": "download", "format_version": 1, "files": {"final_model.pt": 3}})
    with refused("manifest.json", "damaged"):
        sc.load_model(folder)


# --- the tokenizer


def released_tokenizer(folder: Path) -> Path:
    """vocab.bpe + encoder.json: the bytes, two merges and the end of text."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "in", "int", "<|endoftext|>"]
    (folder / "encoder.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), "utf-8")
    (folder / "vocab.bpe").write_text("#version: 0.2\ni n\nin t\n", "utf-8")
    return folder


def check_released_tokenizer(tokenizer: Any) -> None:
    assert vocab_size(tokenizer) == 259 and tokenizer.eos_token_id == 258
    assert encode(tokenizer, "int") == [257] and encode(tokenizer, "in") == [256]


def test_the_released_tokenizer_in_the_folder_or_beside_it(tmp_path: Path) -> None:
    case = draw_case(2)
    folder = write_released(tmp_path / "container" / "models" / "net", case.config, case.state)
    with refused(str(folder), "vocab.bpe", "encoder.json", str(tmp_path / "container" / "tinypython")):
        sc.load_tokenizer(folder)
    released_tokenizer(tmp_path / "container" / "tinypython")
    for where in (folder, str(folder)):
        check_released_tokenizer(sc.load_tokenizer(where))
    own = released_tokenizer(folder)
    assert tokenizer_place(folder) == own
    check_released_tokenizer(sc.load_tokenizer(folder))


def test_relative_folders_have_neighbours_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = draw_case(2)
    folder = write_released(tmp_path / "models" / "net", case.config, case.state)
    released_tokenizer(tmp_path / "tinypython")
    monkeypatch.chdir(folder)
    check_released_tokenizer(sc.load_tokenizer("."))


def test_a_model_of_ours_does_not_take_the_neighbour_s_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    """`../../tinypython` is a rule of the released container; here it is another project's folder."""
    folder = tmp_path / "runs" / "mine"
    export_model(folders["own"], "own", folder)
    released_tokenizer(tmp_path / "tinypython")
    with refused("tokenizer.json", str(folder)):
        sc.load_tokenizer(folder)
    assert not export_model(folder, "released", tmp_path / "out").tokenizer


def test_tokenizer_json_comes_first(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a b c " * 9], 258)
    folder = released_tokenizer(tmp_path / "both")
    save_tokenizer(tokenizer, folder)
    assert tokenizer_hash(sc.load_tokenizer(folder)) == tokenizer_hash(tokenizer)


def test_the_tokenizer_of_a_run_and_of_a_folder_that_has_none(folders: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a b c " * 9], 258)
    run = tmp_path / "run"
    export_model(folders["own"], "own", run / "model")
    save_tokenizer(tokenizer, run / "model")
    assert tokenizer_hash(sc.load_tokenizer(run)) == tokenizer_hash(tokenizer)
    for where in (tmp_path, tmp_path / "nowhere", folders["transformers"]):
        with refused("tokenizer.json", str(where)):
            sc.load_tokenizer(where)


def test_a_tokenizer_folder_is_no_model_and_may_be_given(tmp_path: Path) -> None:
    check_released_tokenizer(sc.load_tokenizer(released_tokenizer(tmp_path / "tinypython")))


# --- memory


PEAK = """
import gc, json, sys
from pathlib import Path
import sparse_circuits as sc
import sparse_circuits.hub.load

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

def load(folder, verify):
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = memory("VmRSS")
    model = sc.load_model(folder, verify=verify)
    seen = sum(float(parameter.sum()) for parameter in model.parameters())  # every page is touched
    return memory("VmHWM") - before

load(sys.argv[1], True)  # what the first call imports is not the model's
print(json.dumps([[load(folder, verify) for verify in (False, True)] for folder in sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """About 100 MB of weights in every layout, none of them zero; in the sparse one 95% are."""
    config = ModelConfig(vocab_size=2048, n_layer=4, d_model=640, n_head=16, d_head=40, positions="learned")
    model, root = SparseTransformer(config).initialize(0), tmp_path_factory.mktemp("large")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3)
    made = {}
    for to in ("own", "released", "transformers", "sparse"):
        if to == "sparse":
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.masked_fill_(torch.rand(parameter.shape) > 0.05, 0.0)
        export_model(model, to, root / to)
        made[to] = root / to
    assert (root / "sparse" / "model.safetensors").stat().st_size < 10e6
    return made


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc, which only Linux has")
def test_loading_costs_the_model_s_size_once(large: dict[str, Path]) -> None:
    size = sum(tensor.nbytes for tensor in sc.load_model(large["own"], verify=False).parameters())
    assert size > 90e6
    environment = {"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, large.values())], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    peaks = {to: [peak / size for peak in both] for to, both in zip(large, json.loads(done.stdout), strict=True)}
    assert all(peak < 1.3 for both in peaks.values() for peak in both), peaks
    assert all(peak > 0.9 for to, both in peaks.items() if to != "sparse" for peak in both), (
        peaks
    )  # it is measured at all
