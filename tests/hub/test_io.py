"""Import, export, card, upload, and their verbs: what arrives is complete, and true about the weights it lies beside.

Numbers on cards are computed again from the files; the snippet of every card runs in a fresh process, inside its folder. The
Hub is a server on the loopback that keeps what it is sent.
"""

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer

import sparse_circuits as sc
from hub.made_up_models import draw_case, write_released
from refusals import refused
from sparse_circuits.circuit.ablation import load_reference, save_reference
from sparse_circuits.circuit.evaluate import evaluate_model
from sparse_circuits.cli import main
from sparse_circuits.data.tokenizer import save_tokenizer, tokenizer_hash, train_tokenizer
from sparse_circuits.files import new_folder, read_json, write_json
from sparse_circuits.hub import io as hub_io
from sparse_circuits.hub.card import model_card
from sparse_circuits.hub.io import LAYOUTS, Written, export_model, import_model, push_folder
from sparse_circuits.hub.modeling import SparseCircuitsForCausalLM
from sparse_circuits.log import Progress
from sparse_circuits.model.folder import model_hash, save_model, stored_tokenizer_hash, stored_val_threshold
from sparse_circuits.validate.ground_truth import quote_model

SOURCE = Path(__file__).parents[2] / "src"
TRAINING = {
    "config": {"name": "tiny|x", "steps": 20, "model": {"n_layer": 1}},
    "val_loss": 1.25,
    "path": "runs/a/model",
}
every_layout = pytest.mark.parametrize("to", LAYOUTS)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with all that training leaves in it."""
    truth, folder = quote_model(), tmp_path_factory.mktemp("io") / "quotes"
    with new_folder(folder) as draft:
        save_model(truth.model, draft, tokenizer_hash(truth.tokenizer), val_threshold=0.05)
        save_tokenizer(truth.tokenizer, draft)
        save_reference(truth.reference, draft)
        write_json(draft / "training.json", TRAINING)
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released folder without a tokenizer."""
    case = draw_case(27)
    assert case.config["vocab_size"] > 3 and case.config["block_size"] > 10
    return write_released(tmp_path_factory.mktemp("bare") / "net", {**case.config, "pfrac": 0.015625}, case.state)


@pytest.fixture(scope="module")
def exports(own: Path, bare: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both models in every layout."""
    root, made = tmp_path_factory.mktemp("exports"), {}
    for name, where in (("own", own), ("bare", bare)):
        for to in LAYOUTS:
            made[f"{name} {to}"] = root / f"{name}_{to}"
            written = export_model(where, to, made[f"{name} {to}"], licence="mit")
            size = sum(file.stat().st_size for file in made[f"{name} {to}"].rglob("*") if file.is_file())
            assert written == Written(path=str(root / f"{name}_{to}"), bytes=size, layout=to, tokenizer=name == "own")
    return made


class Listener(Progress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


# --- what an export holds


@every_layout
def test_an_export_is_whole(to: str, own: Path, exports: dict[str, Path]) -> None:
    folder, bare = exports[f"own {to}"], exports[f"bare {to}"]
    weights = {"released": {"beeg_config.json", "final_model.pt"}}.get(to, {"config.json", "model.safetensors"})
    beside = {"README.md", "tokenizer.json", "tokenizer_config.json"}
    beside |= {"reference.safetensors", "training.json"} if to in ("own", "sparse") else {"sparse_circuits.json"}
    assert {file.name for file in folder.iterdir()} == weights | beside
    assert {file.name for file in bare.iterdir()} == weights | beside - {
        *("tokenizer.json", "tokenizer_config.json", "reference.safetensors", "training.json")
    }
    model = sc.load_model(folder)
    assert model_hash(model) == model_hash(sc.load_model(own))
    assert tokenizer_hash(sc.load_tokenizer(folder)) == tokenizer_hash(sc.load_tokenizer(own))
    if to in ("own", "sparse"):
        assert stored_tokenizer_hash(folder) == stored_tokenizer_hash(own)
        assert (folder / "training.json").read_bytes() == (own / "training.json").read_bytes()
        assert load_reference(folder, model).model_hash == model_hash(model)
    else:
        assert read_json(folder / "sparse_circuits.json")["tokenizer_hash"] == stored_tokenizer_hash(own)
        assert read_json(folder / "sparse_circuits.json")["layout"] == to


@every_layout
def test_what_training_held_out_goes_along(to: str, own: Path, exports: dict[str, Path], tmp_path: Path) -> None:
    """To another layout and back, and through a model in memory; nothing is made up for a model that does not say."""
    export_model(exports[f"own {to}"], "own", tmp_path / "back")
    export_model(sc.load_model(own), to, tmp_path / "memory")
    folders = (own, exports[f"own {to}"], tmp_path / "back", tmp_path / "memory")
    assert [stored_val_threshold(folder) for folder in folders] == [0.05] * 4
    assert stored_val_threshold(exports[f"bare {to}"]) is None and stored_val_threshold(None) is None
    file = tmp_path / "back" / "config.json"
    write_json(file, {**read_json(file), "val_threshold": "0.05"})
    with refused("config.json", "`val_threshold` must be a number, not str"):
        stored_val_threshold(tmp_path / "back")


def test_a_model_in_the_published_layout_can_be_asked(exports: dict[str, Path]) -> None:
    """Its folder has no config.json."""
    truth = quote_model()
    model = sc.load_model(exports["own released"])
    asked, known = (evaluate_model(one, truth.task, truth.tokenizer, n=4) for one in (model, truth.model))
    assert asked.n_pairs == 4 and asked.loss == pytest.approx(known.loss, abs=1e-6)
    assert stored_tokenizer_hash(exports["bare released"]) is None


def test_sparse_and_own_differ_in_their_tensors_only(exports: dict[str, Path]) -> None:
    dense, sparse = (load_file(exports[f"own {to}"] / "model.safetensors") for to in ("own", "sparse"))
    assert not any("|" in name for name in dense) and any(name.endswith("|gaps") for name in sparse)
    assert model_hash(sc.load_model(exports["own own"])) == model_hash(sc.load_model(exports["own sparse"]))


def test_import_is_an_export_to_our_own_folder(exports: dict[str, Path], own: Path, tmp_path: Path) -> None:
    for number, where in enumerate(folder for name, folder in exports.items() if name.startswith("own")):
        written = import_model(where, tmp_path / str(number))
        assert written.tokenizer and written.layout == "sparse"
        first, again = read_json(own / "config.json"), read_json(tmp_path / str(number) / "config.json")
        assert again == first
        assert (tmp_path / str(number) / "model.safetensors").read_bytes() == (own / "model.safetensors").read_bytes()


def test_a_run_folder_is_exported_by_its_model(own: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(own)
    assert export_model(tmp_path / "run", "released", tmp_path / "out").tokenizer
    assert model_hash(sc.load_model(tmp_path / "out")) == model_hash(sc.load_model(own))


def test_a_model_in_memory_brings_what_still_belongs_to_it(own: Path, tmp_path: Path) -> None:
    model = sc.load_model(own)
    assert export_model(model, "own", tmp_path / "same").tokenizer
    assert (tmp_path / "same" / "reference.safetensors").exists()
    with torch.no_grad():
        model.embed.weight[0, 0] += 1
    assert export_model(model, "own", tmp_path / "changed").tokenizer
    assert not (tmp_path / "changed" / "reference.safetensors").exists()  # measured on another model
    assert model_hash(sc.load_model(tmp_path / "changed")) == model_hash(model)
    fresh = type(model)(model.config).initialize(0)
    assert not export_model(fresh, "own", tmp_path / "fresh").tokenizer
    assert export_model(fresh, "own", tmp_path / "given", tokenizer=sc.load_tokenizer(own)).tokenizer


# --- refusals


def test_unknown_layouts_and_licences(own: Path, tmp_path: Path) -> None:
    with refused("'safetensors'", "own, sparse, released, transformers"):
        export_model(own, "safetensors", tmp_path / "out")
    for licence in ("MIT License", "mit\nlibrary_name: evil", "", "a: b", "Apache-2.0"):
        with refused("licence", "apache-2.0"):
            export_model(own, "own", tmp_path / "out", licence=licence)
    assert list(tmp_path.iterdir()) == []


@every_layout
def test_a_folder_in_use_is_refused_and_one_of_the_same_kind_replaced(to: str, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("months of work", "utf-8")
    with refused(str(out), "other files"):
        export_model(own, to, out)
    assert (out / "thesis.txt").read_text("utf-8") == "months of work"
    (out / "thesis.txt").unlink()
    export_model(own, to, out)
    (out / "old").write_text("of the export before", "utf-8")
    export_model(own, to, out)
    assert not (out / "old").exists()
    other = "released" if to in ("own", "sparse") else "own"
    with refused(str(out)):
        export_model(own, other, out)
    sc.load_model(out)
    (tmp_path / "file").write_text("", "utf-8")
    with refused("is a file"):
        export_model(own, to, tmp_path / "file")


def test_a_folder_may_be_exported_onto_itself(own: Path, tmp_path: Path) -> None:
    """The weights are memory-mapped from the very files that are replaced."""
    folder = tmp_path / "model"
    export_model(own, "own", folder)
    for to in ("own", "sparse", "own"):
        export_model(folder, to, folder)
    assert model_hash(sc.load_model(folder)) == model_hash(sc.load_model(own))


@every_layout
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("odd")])
def test_an_interrupted_export_leaves_nothing(
    to: str, error: BaseException, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(hub_io, "write_card", fail)  # the last of all files
    with pytest.raises(type(error)):
        export_model(own, to, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    export_model(own, to, tmp_path / "out")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(hub_io, "write_card", fail)
    with pytest.raises(type(error)):
        export_model(own, to, tmp_path / "out")
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# --- the tokenizer


def copy_of(own: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in own.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_damaged_tokenizer_is_not_left_behind_in_silence(own: Path, tmp_path: Path) -> None:
    folder = copy_of(own, tmp_path / "model")
    (folder / "tokenizer.json").write_text("{", "utf-8")
    with refused("tokenizer.json", "damaged"):
        export_model(folder, "released", tmp_path / "out")
    folder = copy_of(own, tmp_path / "other")
    (folder / "tokenizer_config.json").write_text("{", "utf-8")
    with refused("tokenizer_config.json", "damaged"):
        export_model(sc.load_model(folder), "released", tmp_path / "out")


def test_a_model_without_a_tokenizer_says_so_and_keeps_its_name(own: Path, tmp_path: Path) -> None:
    folder, heard = copy_of(own, tmp_path / "model"), Listener()
    (folder / "tokenizer.json").unlink()
    assert not export_model(folder, "transformers", tmp_path / "out", progress=heard).tokenizer
    assert len(heard.said) == 1 and "no tokenizer" in heard.said[0]
    assert not export_model(tmp_path / "out", "own", tmp_path / "back").tokenizer
    assert stored_tokenizer_hash(tmp_path / "back") == stored_tokenizer_hash(own)


@every_layout
def test_another_tokenizer_is_refused(to: str, exports: dict[str, Path], tmp_path: Path) -> None:
    """One of another size, and one of the same size that gives other ids."""
    folder = copy_of(exports[f"own {to}"], tmp_path / "model")
    size = sc.load_model(folder).config.vocab_size
    state = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = state["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    swapped = Tokenizer.from_str(json.dumps(state))
    smaller = train_tokenizer(["x"], 257)
    for other, words in ((smaller, ("257", str(size))), (swapped, ("hash", str(folder)))):
        with refused(*words):
            export_model(folder, "own", tmp_path / "out", tokenizer=other)
        save_tokenizer(other, folder)
        with refused(*words):
            export_model(folder, "own", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- cards


def table(card: str, title: str) -> dict[str, list[str]]:
    """First cell -> the others, of the table under a heading."""
    part = card.split(f"## {title}\n", 1)[1].split("\n## ")[0]
    rows = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in part.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows[2:]}


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_the_numbers_of_a_card_are_those_of_the_weights(exports: dict[str, Path]) -> None:
    for name in ("own own", "bare own"):
        tensors = load_file(exports[name] / "model.safetensors")
        for to in LAYOUTS:
            card = (exports[f"{name.split()[0]} {to}"] / "README.md").read_text("utf-8")
            rows = table(card, "Nonzero weights")
            assert set(rows) == {f"`{tensor}`" for tensor in tensors}
            for tensor, value in tensors.items():
                shape, kept, share = rows[f"`{tensor}`"]
                nonzero = int((value.numpy() != 0).sum())
                assert shape == " x ".join(map(str, value.shape)) and number(kept) == nonzero
                assert share == f"{100 * nonzero / value.numel():.3f}%"
            concerned = [
                value
                for tensor, value in tensors.items()
                if (value.dim() == 2 and tensor != "bigram.weight")
                or (tensor.endswith(".bias") and "norm" not in tensor)
            ]
            kept, of = sum(int((v != 0).sum()) for v in concerned), sum(v.numel() for v in concerned)
            summary = re.search(r"model of ([\d,]+) parameters; of the ([\d,]+) in .* ([\d,]+) \((.*)%\) are", card)
            assert summary is not None
            assert number(summary[1]) == sum(value.numel() for value in tensors.values())
            assert (number(summary[2]), number(summary[3])) == (of, kept)
            assert float(summary[4]) == pytest.approx(100 * kept / of, abs=0.006)
            silent = int((tensors["embed.weight"] == 0).all(1).sum())
            assert f"{silent:,} of {len(tensors['embed.weight']):,} tokens have an embedding of zeros" in card


def test_the_head_of_a_card_is_yaml_and_the_rest_says_what_is_known(exports: dict[str, Path], bare: Path) -> None:
    for name, folder in exports.items():
        card = (folder / "README.md").read_text("utf-8")
        head = yaml.safe_load(card.split("---\n")[1])
        assert head["license"] == "mit" and card.rstrip().endswith("## Licence\n\nmit")
        assert head["library_name"] == "sparse_circuits" and head["pipeline_tag"] == "text-generation"
        assert f"\n# {folder.name}\n" in card
        options = {key: json.loads(value) for key, (value,) in table(card, "Shape").items()}
        config = sc.load_model(folder).config
        assert options == {**config.to_dict(), "d_mlp": config.mlp_width, "norm_eps": config.eps}
        told = table(card, "Training")
        if name == "bare own":
            assert told["pfrac"] == ["0.015625"]
        if name == "own own":
            assert told == {"val_loss": ["1.25"], "name": [r'"tiny\|x"'], "steps": ["20"]}
        if name == "own transformers":
            assert "Recorded by" in card and "runs/a" not in card


def test_a_card_for_a_model_of_unknown_origin_says_so() -> None:
    card = model_card(quote_model().model, "own", name="x")
    assert "Not recorded in the folder" in card and "license: apache-2.0" in card


def test_a_strange_training_file_is_no_crash(own: Path, tmp_path: Path) -> None:
    folder = copy_of(own, tmp_path / "model")
    write_json(folder / "training.json", {"config": [1, 2], "note": "a|b"})
    export_model(folder, "own", tmp_path / "out")
    assert table((tmp_path / "out" / "README.md").read_text("utf-8"), "Training") == {"note": [r'"a\|b"']}


def snippet(folder: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    return code


def fresh(code: str, where: Path) -> str:
    """What a script prints in a new process, as if in that folder."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=where, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_turn(folders: list[Path]) -> str:
    """The snippets one after the other, each in its folder and with nothing left from the one before."""
    return "\n".join(f"import os; os.chdir({str(folder)!r}); exec({snippet(folder)!r}, {{}})" for folder in folders)


def test_the_snippets_of_transformers_cards_run(exports: dict[str, Path], tmp_path: Path) -> None:
    folders = [exports["own transformers"], exports["bare transformers"]]
    for folder in folders:
        code = snippet(folder)
        assert "sc." not in code and "import sparse_circuits" in code
        assert ("AutoTokenizer.from_pretrained" in code) == (folder / "tokenizer.json").exists()
    said = fresh(in_turn(folders), tmp_path)
    assert re.fullmatch(r"(tensor\(\[\[[\d\s,]+\]\]\)\n){2}", said), said


def test_the_snippets_of_all_other_cards_run(exports: dict[str, Path], tmp_path: Path) -> None:
    others = [folder for name, folder in exports.items() if not name.endswith("transformers")]
    for folder in others:
        assert ("load_tokenizer" in snippet(folder)) == (folder / "tokenizer.json").exists()
    said = fresh(in_turn(others), tmp_path)
    shapes = re.findall(r"torch.Size\(\[1, \d+, (\d+)\]\)\n\['0.mlp.post_act'", said)
    assert shapes == [str(sc.load_model(folder).config.vocab_size) for folder in others]


# --- upload


class Hub(ThreadingHTTPServer):
    """As much of the Hub as an upload needs; every file is `regular`, so it comes within the commit."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.asked: list[tuple[str, Any]] = []
        self.commits: list[tuple[str, dict[str, Any], dict[str, bytes]]] = []
        self.refuses: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path, hub = self.path, self.server
        if hub.refuses is not None:
            self.answer({"error": "no"}, hub.refuses)
        elif path == "/api/repos/create":
            hub.asked.append((self.headers.get("Authorization", ""), json.loads(body)))
            self.answer({"url": f"{hub.url}/someone/quotes", "id": "1"})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            hub.commits.append((path, lines[0]["value"], files))
            self.answer({"commitUrl": f"{hub.url}/someone/quotes/commit/1", "commitOid": "1", "pullRequestUrl": None})

    def do_GET(self) -> None:
        self.answer({}, 404)

    def answer(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import close_session, constants

    server = Hub()
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    close_session()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    close_session()
    server.shutdown()
    server.server_close()
    thread.join()


@every_layout
def test_push_sends_the_whole_folder_in_one_commit(to: str, hub: Hub, exports: dict[str, Path]) -> None:
    folder = exports[f"own {to}"]
    url = push_folder(folder, "someone/quotes", token="hf_made_up", private=True, commit_description="as measured")
    assert url == f"{hub.url}/someone/quotes/commit/1"
    ((authorization, asked),) = hub.asked
    assert authorization == "Bearer hf_made_up"
    assert (asked["organization"], asked["name"], asked["visibility"]) == ("someone", "quotes", "private")
    ((path, head, files),) = hub.commits
    assert path.startswith("/api/models/someone/quotes/commit/main")
    assert head["summary"] == "Upload someone/quotes" and head["description"] == "as measured"
    assert files == {file.name: file.read_bytes() for file in folder.iterdir()}


def test_what_the_hub_refuses_is_one_line(hub: Hub, exports: dict[str, Path]) -> None:
    for status in (401, 403, 500):
        hub.refuses = status
        with refused("was not uploaded to someone/quotes", "hf auth login"):
            push_folder(exports["own own"], "someone/quotes", token="hf_made_up")
    hub.refuses = None
    with refused("someone/quo tes"):
        push_folder(exports["own own"], "someone/quo tes", token="hf_made_up")
    assert hub.commits == []


def test_without_a_network_an_upload_is_one_line(
    hub: Hub, exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with refused("was not uploaded to someone/quotes"):
        push_folder(exports["own own"], "someone/quotes", token="hf_made_up")


def test_a_folder_without_a_model_is_not_pushed(hub: Hub, tmp_path: Path) -> None:
    for where in (tmp_path, tmp_path / "nowhere"):
        with refused(str(where), "no model"):
            push_folder(where, "someone/quotes", token="hf_made_up")
    assert hub.asked == hub.commits == []


def test_a_transformers_model_pushes_a_folder_that_loads(hub: Hub, own: Path, tmp_path: Path) -> None:
    SparseCircuitsForCausalLM.from_pretrained(own).push_to_hub("someone/quotes", token="hf_made_up")
    ((_, _, files),) = hub.commits
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert "AutoModelForCausalLM" in snippet(tmp_path)
    assert model_hash(sc.load_model(tmp_path)) == model_hash(sc.load_model(own))


# --- the verbs


def run(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def test_the_verbs_write_what_they_say(own: Path, tmp_path: Path) -> None:
    steps = [
        ("export", own, "--to", "released", "--out", tmp_path / "a", "--licence", "mit"),
        ("import", tmp_path / "a", "--out", tmp_path / "b"),
        ("export", tmp_path / "b", "--to", "transformers", "--out", tmp_path / "c", "--no-verify"),
        ("export", tmp_path / "c", "--to", "own", "--out", tmp_path / "d"),
    ]
    for verb, *rest in steps:
        code, out, err = run("model", verb, *rest, "--json", "--quiet")
        assert (code, err) == (0, "") and out.count("\n") == 1
        told = json.loads(out)
        files = Path(told["path"]).rglob("*")
        assert told["bytes"] == sum(file.stat().st_size for file in files) and told["tokenizer"] is True
        assert set(told) == {"path", "bytes", "layout", "tokenizer"}
    assert "license: mit" in (tmp_path / "a" / "README.md").read_text("utf-8")
    assert model_hash(sc.load_model(tmp_path / "d")) == model_hash(sc.load_model(own))
    code, out, _ = run("model", "export", own, "--to", "sparse", "--out", tmp_path / "e")
    assert code == 0 and str(tmp_path / "e") in out and not out.startswith("{")


def test_the_verbs_refuse_in_one_line(own: Path, tmp_path: Path) -> None:
    damaged = copy_of(own, tmp_path / "damaged")
    content = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for arguments, words in (
        (("export", own, "--to", "gguf", "--out", tmp_path / "x"), ("'gguf'", "released")),
        (("export", own, "--out", tmp_path / "x"), ("--to",)),
        (("export", own, "--to", "own", "--out", tmp_path / "x", "--licence", "a b"), ("licence",)),
        (("export", tmp_path / "nothing", "--to", "own", "--out", tmp_path / "x"), ("no model at",)),
        (("import", damaged, "--out", tmp_path / "x"), ("hash differs",)),
        (("import", own), ("--out",)),
        (("push", tmp_path, "someone/quotes"), ("no model",)),
    ):
        code, out, err = run("model", *arguments)
        assert (code, out) == (2, "") and err.count("\n") == 1 and "Traceback" not in err, err
        assert all(word in err for word in words), err
    assert not (tmp_path / "x").exists()
    assert run("model", "import", damaged, "--out", tmp_path / "x", "--no-verify")[0] == 0


def test_the_verb_pushes(own: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    code, out, _ = run("model", "push", own, "someone/quotes", "--private", "--json", "--quiet")
    assert code == 0 and json.loads(out) == {"url": f"{hub.url}/someone/quotes/commit/1"}
    assert hub.asked[0][1]["visibility"] == "private" and len(hub.commits) == 1
