"""The command line: every verb, its JSON, and what it says to bad input: exit 2, one line, nothing half-written."""

import io
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import sparse_circuits
import sparse_circuits as sc
from sparse_circuits.circuit.ablation import save_reference
from sparse_circuits.circuit.evaluate import circuit_tap, circuit_weights, pair_losses
from sparse_circuits.cli import VERBS, main
from sparse_circuits.data.tokenizer import save_tokenizer, tokenizer_hash
from sparse_circuits.files import new_folder, write_json, write_text
from sparse_circuits.model.folder import save_model
from sparse_circuits.validate.ground_truth import quote_model
from train.runs import tiny_config, write_texts

SUMMARY = {
    *("task", "model", "target_loss", "loss_kind", "ablation", "loss", "nodes", "nodes_total", "edges"),
    *("edges_embed", "edges_unembed", "edges_bias", "node_names"),
}
TASK_LINES = [
    {"task": "own_quotes", "completions": ["')\n", '")\n'], "slots": {"word": ["a", "b", "c", "d", "e", "f"]}},
    *(
        {"split": split, "a": f"{start}'<word>", "b": f'{start}"<word>', "continuation_a": "x", "continuation_b": "x"}
        for split, starts in {
            "train": ("print(", "f(", "x = g("),
            "val": ("y = h(", "z(", "a = b("),
            "test": ("open(", "k = l(", "m("),
        }.items()
        for start in starts
    ),
]


class Said(NamedTuple):
    code: int
    out: str
    err: str


def run(*arguments: object) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Said(code, out.getvalue(), err.getvalue())


def data_of(*arguments: object) -> dict[str, Any]:
    """The JSON object of a verb that must succeed; stdout holds nothing else."""
    said = run(*arguments, "--json", "--quiet")
    assert said.code == 0, said.err
    assert said.out.count("\n") == 1
    found = json.loads(said.out)
    assert isinstance(found, dict)
    return found


def refused(*arguments: object, words: str = "") -> str:
    said = run(*arguments, "--quiet") if "--quiet" not in arguments else run(*arguments)
    assert said.code == 2 and said.out == "", said
    assert said.err.count("\n") == 1 and said.err.startswith("sparse-circuits: "), said.err
    assert "Traceback" not in said.err
    for word in words.split("|"):
        assert word in said.err, said.err
    return said.err


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """texts, tokenizer, shards, a trained run, a model with a known circuit, an own task and a circuit found for it."""
    root = tmp_path_factory.mktemp("cli")
    write_texts(root / "texts")
    write_json(root / "config.json", tiny_config().to_dict())
    truth = quote_model()
    with new_folder(root / "known") as draft:
        save_model(truth.model, draft, tokenizer_hash(truth.tokenizer))
        save_tokenizer(truth.tokenizer, draft)
        save_reference(truth.reference, draft)
    write_text(root / "task.jsonl", "".join(json.dumps(line) + "\n" for line in TASK_LINES))
    recipe = {
        "steps": 60,
        "lr": 0.05,
        "k_coef": 3e-3,
        "batch_pairs": 2,
        "train_pairs": 32,
        "val_pairs": 6,
        "choice_train_pairs": 6,
    }
    write_json(root / "recipe.json", recipe)
    data_of("data", "tokenizer", "--source", root / "texts", "--vocab-size", 300, "--out", root / "tokenizer")
    build = ("--source", root / "texts", "--tokenizer", root / "tokenizer", "--val-fraction", 0.1)
    data_of("data", "build", *build, "--out", root / "shards")
    data_of("train", *train_options(root), "--out", root / "run")
    return root


@pytest.fixture(scope="module")
def pruned(place: Path) -> dict[str, Any]:
    recipe = ("--config", place / "recipe.json", "--seeds", 2, "--seed", 3)
    return data_of(
        "prune", "--model", place / "known", "--task", place / "task.jsonl", *recipe, "--out", place / "circuit"
    )


def train_options(root: Path) -> tuple[object, ...]:
    return ("--config", root / "config.json", "--data", root / "shards", "--tokenizer", root / "tokenizer")


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


# --- every verb


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*verb.split(), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"sparse-circuits {verb}" in shown
    for option in ("--json", "--seed", "--device"):
        assert option in shown


def test_usage_names_every_verb() -> None:
    for arguments in ((), ("--help",)):
        said = run(*arguments)
        assert said.code == 0 and all(f"  {verb} " in said.out for verb in VERBS)


def test_a_fresh_process_imports_no_torch_and_knows_its_version() -> None:
    code = (
        "import sys, sparse_circuits; heavy = {'torch', 'numpy', 'transformers'} & set(sys.modules); "
        "assert not heavy, heavy; from sparse_circuits.cli import main; sys.exit(main(['--version']))"
    )
    source = str(Path(sparse_circuits.__file__).parent.parent)
    found = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True)
    assert (found.returncode, found.stdout.strip(), found.stderr) == (0, sparse_circuits.__version__, "")


def test_a_fresh_process_refuses_in_one_line(place: Path, tmp_path: Path) -> None:
    """Without the shape checks of the tests, and with whatever libraries print when they load."""
    command = ["prune", "--model", str(place / "run"), "--task", "single_double_quote", "--out", str(tmp_path / "c")]
    source = str(Path(sparse_circuits.__file__).parent.parent)
    start = [sys.executable, "-m", "sparse_circuits.cli", *command]
    found = subprocess.run(start, env={"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert found.returncode == 2 and found.stdout == "" and not list(tmp_path.iterdir())
    assert len(found.stderr.splitlines()) == 1 and "single_double_quote" in found.stderr


def test_data_verbs(place: Path) -> None:
    build = ("--source", place / "texts", "--tokenizer", place / "tokenizer", "--out", place / "shards2")
    found = data_of("data", "build", *build)
    assert found["documents"] == 60 and found["path"] == str(place / "shards2")
    assert found["tokens"] == sum(found["splits"].values()) > 2000
    assert set(
        data_of("data", "tokenizer", "--source", place / "texts", "--vocab-size", 280, "--out", place / "t2")
    ) >= {
        "path",
        "tokens",
    }


def test_train(place: Path, tmp_path: Path) -> None:
    found = data_of("train", *train_options(place), "--out", tmp_path / "run", "--steps", 3)
    assert set(found) >= {"steps", "val_loss", "nonzero", "nonzero_fraction", "tokens_per_second"}
    assert found["steps"] == 3 and (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_a_seed_that_is_given_counts_also_if_it_is_zero(place: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {**tiny_config().to_dict(), "seed": 5})
    data = ("--data", place / "shards", "--tokenizer", place / "tokenizer", "--steps", 1)
    for name, given, expected in (("own", (), 5), ("zero", ("--seed", 0), 0), ("two", ("--seed", 2), 2)):
        data_of("train", "--config", tmp_path / "config.json", *data, *given, "--out", tmp_path / name)
        trained = json.loads((tmp_path / name / "model" / "training.json").read_text("utf-8"))
        assert trained["config"]["seed"] == expected, name
    assert run("tasks", "show", "with_as", "--seed", 0).out == run("tasks", "show", "with_as").out


def test_progress_goes_to_stderr(place: Path, tmp_path: Path) -> None:
    said = run("train", *train_options(place), "--out", tmp_path / "run", "--json")
    assert said.code == 0 and json.loads(said.out)["steps"] == 12
    assert "training 12/12" in said.err and "loss" in said.err


def test_model_reference(place: Path) -> None:
    shutil.copytree(place / "run" / "model", place / "copy")
    (place / "copy" / "reference.safetensors").unlink()
    found = data_of("model", "reference", "--model", place / "copy", "--data", place / "shards")
    assert found["tokens"] >= 262_144 and Path(found["path"]) == place / "copy" / "reference.safetensors"
    assert Path(found["path"]).is_file()


def test_generate(place: Path) -> None:
    options = ("--model", place / "run", "--prompt", "def red(a", "--max-new-tokens", 8)
    found = data_of("generate", *options, "--seed", 1)
    assert found["text"].startswith("def red(a") and len(found["text"]) > 9 and found["tokens_per_second"] > 0
    assert data_of("generate", *options, "--seed", 1)["text"] == found["text"]
    assert data_of("generate", *options, "--seed", 2)["text"] != found["text"]


def test_task_verbs(place: Path) -> None:
    names = data_of("tasks", "list")["tasks"]
    assert "single_double_quote" in names and all(names.values())
    shown = data_of("tasks", "show", place / "task.jsonl")
    assert shown["task"] == "own_quotes" and set(shown["examples"]) == {"train", "val", "test"}
    scores = data_of("tasks", "eval", "--model", place / "known", "--task", place / "task.jsonl", "--split", "val")
    assert set(scores["tasks"]["own_quotes"]) == {"loss", "accuracy", "n_pairs"}
    assert scores["tasks"]["own_quotes"]["loss"] < 0.15 and scores["tasks"]["own_quotes"]["accuracy"] == 1


def test_a_failed_verdict_is_no_error(place: Path) -> None:
    good = data_of("tasks", "check", place / "task.jsonl", "--model", place / "known")
    assert good["ok"] and len(good["conditions"]) > 8
    bad = data_of("tasks", "check", place / "task.jsonl", "--tokenizer", place / "tokenizer")
    assert not bad["ok"]
    assert (
        "FAIL single-token completions"
        in run("tasks", "check", place / "task.jsonl", "--tokenizer", place / "tokenizer").out
    )


def test_prune_and_the_circuit_verbs(place: Path, pruned: dict[str, Any], tmp_path: Path) -> None:
    assert set(pruned) >= SUMMARY and pruned["task"] == "own_quotes" and pruned["met_target"]
    assert len(pruned["node_names"]) == pruned["nodes"] > 0 and set(pruned["loss"]) == {"train", "val", "test"}
    assert [one["seed"] for one in pruned["seeds"]] == [3, 4]
    assert {path.name for path in (place / "circuit" / "seeds").iterdir()} == {"seed_3", "seed_4", "seeds.json"}
    shown = data_of("circuit", "show", place / "circuit")
    assert {name: pruned[name] for name in shown} == shown
    scored = data_of("circuit", "eval", place / "circuit")
    assert scored["loss"] == pytest.approx(pruned["loss"]["test"], abs=1e-5) and scored["split"] == "test"
    fresh = {"loss", "accuracy", "calibrated_loss", "met_target"}
    assert set(scored) == SUMMARY | set(shown) - {"met_target"} | {"split", "n_pairs", "stored"}
    assert {name: scored[name] for name in set(shown) - fresh} == {name: shown[name] for name in set(shown) - fresh}
    assert scored["stored"] == {name: shown[name] for name in fresh}
    single = data_of("circuit", "eval", place / "circuit" / "seeds" / "seed_4", "--split", "val")
    assert single["loss"] <= 0.15
    page = data_of("report", place / "circuit", "--out", tmp_path / "page.html")
    assert Path(page["file"]).read_text("utf-8").startswith("<!") and not leftovers(tmp_path)


def test_the_seed_of_an_evaluation_draws_its_pairs() -> None:
    circuit, model, told = sc.load_circuit("bundled/while_return_true"), sc.load_model("bundled"), []
    for seed in (0, 3):
        told.append(data_of("circuit", "eval", "bundled/while_return_true", "--pairs", 8, "--seed", seed)["loss"])
        pairs = sc.load_task("while_return_true").pairs("test", 8, sc.load_tokenizer("bundled"), seed=seed)
        with torch.no_grad():
            by_hand = pair_losses(model, pairs, circuit_tap(circuit, model), weights=circuit_weights(circuit, model))
        assert told[-1] == pytest.approx(float(by_hand.mean()), abs=1e-6)
    assert told[0] != told[1]


def test_validate_and_the_page_that_shows_it(place: Path, pruned: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(place / "known", tmp_path / "known")
    shutil.copytree(place / "circuit", tmp_path / "circuit")
    shutil.copy(place / "task.jsonl", tmp_path / "task.jsonl")
    options = ("validate", tmp_path / "circuit", "--quick", "--pairs", 4)
    found = data_of(*options)
    assert found["verdict"] in ("faithful", "unfaithful") and found["path"] == str(tmp_path / "circuit" / "card_quick")
    metrics = found["metrics"]
    assert set(metrics) > {"agreement", "faithfulness", "necessity", "roles", "shifted_splits"}
    assert all(set(row) > {"value", "interval", "control", "threshold", "pass", "reason"} for row in metrics.values())
    assert metrics["sufficiency"]["value"] == pytest.approx(pruned["loss"]["test"], abs=0.05)
    said = run(*options, "--quiet")  # from what is stored
    assert said.code == 0 and f"verdict: {found['verdict']}" in said.out and "F14  shifted_splits" in said.out
    page = data_of("report", tmp_path / "circuit", "--out", tmp_path / "page.html")
    assert f'"card":{{"verdict":"{found["verdict"]}"' in Path(page["file"]).read_text("utf-8")
    refused(*options[:-1], 5, words="card with another pairs|--out")
    refused(*options, "--controls", "seeds,nosense", words="unknown control 'nosense'|nonsense")
    refused("validate", tmp_path / "circuit", "--pairs", 1, words="at least 2")
    assert not leftovers(tmp_path) and not (tmp_path / "circuit" / "card").exists()


def test_a_circuit_still_finds_model_and_own_task_when_all_move_together(
    place: Path, pruned: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("known", "circuit"):
        shutil.copytree(place / name, tmp_path / name)
    shutil.copy(place / "task.jsonl", tmp_path / "task.jsonl")
    assert str(place) not in (tmp_path / "circuit" / "circuit.json").read_text("utf-8")
    assert data_of("circuit", "eval", tmp_path / "circuit")["loss"] == pytest.approx(pruned["loss"]["test"], abs=1e-5)


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("trian",), "unknown verb 'trian'|prune"),
        (("circuit", "prune"), "unknown verb 'circuit prune'|circuit show"),
        (("tasks", "list", "--colour", "red"), "--colour"),
        (("tasks", "show"), "required"),
        (("tasks", "show", "quotes"), "unknown task 'quotes'|single_double_quote"),
        (("tasks", "list", "--seed", "one"), "seed"),
        (("circuit", "show", "nowhere"), "nowhere"),
        (("circuit", "eval", "nowhere"), "nowhere"),
        (("report", "nowhere"), "nowhere"),
        (("validate", "nowhere"), "nowhere"),
        (("generate", "--model", "nowhere", "--prompt", "x"), "no model at nowhere"),
        (("model", "reference", "--model", "nowhere", "--data", "nowhere"), "no folder nowhere|data build"),
        (("tasks", "eval", "--model", "nowhere"), "no model at nowhere"),
        (("tasks", "check", "x.jsonl"), "--model M or --tokenizer DIR"),
        (("train", "--data", "d", "--tokenizer", "t", "--out", "o"), "either --preset NAME or --config FILE"),
        (("data", "build", "--source", "nowhere", "--tokenizer", "t", "--out", "o"), "nowhere|t"),
        (("data", "tokenizer", "--source", "nowhere", "--out", "o"), "nowhere"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    known = " ".join(arguments[:2]) in VERBS or arguments[0] in VERBS
    said = run(*arguments, *(("--quiet",) if known else ()))
    assert said.code == 2 and said.out == "" and said.err.count("\n") == 1, said
    assert any(word in said.err for word in words.split("|"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["gpu", "cuda:99" if torch.cuda.is_available() else "cuda"])
def test_a_device_that_is_not_there(device: str, place: Path, tmp_path: Path) -> None:
    words = f"device {device!r}|cpu always works"
    refused("generate", "--model", place / "run", "--prompt", "x", "--device", device, words=words)
    refused("train", *train_options(place), "--out", tmp_path / "run", "--device", device, words=words)
    for verb in ("quickstart", "circuits run", "prune search"):  # first: neither model nor folder is looked at
        model = () if verb == "quickstart" else ("--model", "nowhere")
        refused(*verb.split(), *model, "--out", tmp_path / "run", "--device", device, words=words)
    assert not (tmp_path / "run").exists()


def test_training_refusals_leave_nothing(place: Path, tmp_path: Path) -> None:
    data = ("--data", place / "shards", "--tokenizer", place / "tokenizer", "--out", tmp_path / "run")
    refused("train", "--preset", "papr", *data, words="unknown preset 'papr'|paper, authors, tiny")
    other = ("--data", place / "shards", "--tokenizer", place / "known", "--out", tmp_path / "run")
    refused("train", "--config", place / "config.json", *other, words="made with another tokenizer")
    config = tiny_config().to_dict()
    edits: dict[str, dict[str, Any]] = {
        "unknown key 'stepz'|batch_size": {**config, "stepz": 3},
        "optimizer.gradients|'normalize' or 'clip'|normalise": {
            **config,
            "optimizer": {**config["optimizer"], "gradients": "normalise"},
        },
        "steps|twelve": {**config, "steps": "twelve"},
        "optimizer is missing": {name: value for name, value in config.items() if name != "optimizer"},
        "vocab_size 99": {**config, "model": {**config["model"], "vocab_size": 99}},
        "largest min_alive that fits is 3": {**config, "sparsity": {**config["sparsity"], "min_alive": 9}},
        "fewer than context + 2": {**config, "model": {**config["model"], "block_size": 5000}},
    }
    for words, edited in edits.items():
        write_json(tmp_path / "config.json", edited)
        refused("train", "--config", tmp_path / "config.json", *data, words=words)
    write_text(tmp_path / "config.json", json.dumps(config)[:-9])
    refused("train", "--config", tmp_path / "config.json", *data, words="config.json")
    refused("train", "--config", tmp_path / "none.yaml", *data, words="no config file at")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_corpus_without_text(tmp_path: Path, place: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "empty.py").write_text("\n  \n")
    build = ("--tokenizer", place / "tokenizer", "--out", tmp_path / "out")
    refused("data", "build", "--source", tmp_path / "texts", *build, words="no text")
    refused("data", "tokenizer", "--source", tmp_path / "texts", "--out", tmp_path / "out", words="text")
    assert not (tmp_path / "out").exists() and not leftovers(tmp_path)


def test_a_run_is_resumed_only_from_whole_checkpoints(place: Path, tmp_path: Path) -> None:
    options = (*train_options(place), "--out", tmp_path / "run", "--resume")
    shutil.copytree(place / "run", tmp_path / "run")
    refused("train", *options[:-1], words="already holds a run|--resume")
    file = tmp_path / "run" / "checkpoints" / "step_00000012" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1000])
    refused("train", *options, words="step_00000012|truncated")
    file.write_bytes(whole[:-4] + b"\x01\x02\x03\x04")
    refused("train", *options, words="step_00000012|hash differs")
    refused("train", *options, "--steps", 99, words="started with another config")
    file.write_bytes(whole)
    assert data_of("train", *options)["steps"] == 12


def test_a_task_whose_completions_are_not_single_tokens(place: Path, tmp_path: Path) -> None:
    header = {**TASK_LINES[0], "completions": ["zebra crossing", "zebra stripes"]}
    write_text(tmp_path / "task.jsonl", "".join(json.dumps(line) + "\n" for line in (header, *TASK_LINES[1:])))
    words = "own_quotes|'zebra crossing' splits into"
    refused("tasks", "eval", "--model", place / "known", "--task", tmp_path / "task.jsonl", words=words)
    prune = ("prune", "--model", place / "known", "--task", tmp_path / "task.jsonl")
    refused(*prune, "--out", tmp_path / "circuit", words=words)
    assert not (tmp_path / "circuit").exists()


def test_a_tokenizer_that_is_not_the_models(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "known", tmp_path / "known")
    shutil.copy(place / "tokenizer" / "tokenizer.json", tmp_path / "known" / "tokenizer.json")
    known = ("--model", tmp_path / "known", "--task", place / "task.jsonl")
    refused("tasks", "eval", *known, words="not the one the model was trained with")
    refused("prune", *known, "--out", tmp_path / "circuit", words="not the one the model was trained with")
    refused(
        "model",
        "reference",
        "--model",
        place / "known",
        "--data",
        place / "shards",
        words="made with another tokenizer",
    )
    assert not (tmp_path / "circuit").exists()


def test_pruning_refusals_leave_nothing(place: Path, tmp_path: Path) -> None:
    known = ("prune", "--model", place / "known", "--task", place / "task.jsonl", "--out", tmp_path / "circuit")
    write_json(tmp_path / "recipe.json", {"ablation": "mean"})
    refused(*known, "--config", tmp_path / "recipe.json", words="ablation|'mean_pretrain'|'mean'")
    refused(*known, "--target-loss", 1e-9, words="the model itself scores|raise target_loss")
    refused(*known, "--seeds", 0, words="--seeds must be at least 1")
    refused(*known, "--reference", tmp_path, words="sparse-circuits model reference --model")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


def test_an_output_folder_with_other_files_is_refused_before_the_work(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparse_circuits.prune import pipeline

    monkeypatch.setattr(pipeline, "prune_seeds", lambda *given, **named: pytest.fail("pruned before refusing"))
    (tmp_path / "thesis.tex").write_text("years of work")
    refused(
        "prune", "--model", place / "known", "--task", place / "task.jsonl", "--out", tmp_path, words="would be deleted"
    )
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_circuit_with_another_model_task_or_node_is_refused(
    place: Path, pruned: dict[str, Any], tmp_path: Path
) -> None:
    refused("circuit", "eval", place / "circuit", "--model", place / "run", words="made with another")
    refused("circuit", "eval", place / "circuit", "--split", "tset", words="unknown split 'tset'|train, val, test")
    for name in ("known", "circuit"):
        shutil.copytree(place / name, tmp_path / name)
    changed = [TASK_LINES[0], *TASK_LINES[2:], {**TASK_LINES[1], "a": "q('<word>", "b": 'q("<word>'}]
    write_text(tmp_path / "task.jsonl", "".join(json.dumps(line) + "\n" for line in changed))
    refused("circuit", "eval", tmp_path / "circuit", words="made with another task")
    (tmp_path / "task.jsonl").unlink()
    refused("report", tmp_path / "circuit", "--out", tmp_path / "page.html", words="task.jsonl")
    shutil.copy(place / "task.jsonl", tmp_path / "task.jsonl")
    stored = json.loads((tmp_path / "circuit" / "circuit.json").read_text("utf-8"))
    for names, words in ((["0.mlp.neuron[3]"], "0.mlp.neuron[3]"), (["final_resid[4800]"], "channels 0..47")):
        write_json(tmp_path / "circuit" / "circuit.json", {**stored, "node_names": names})
        refused("circuit", "eval", tmp_path / "circuit", words=words)
        refused("report", tmp_path / "circuit", "--out", tmp_path / "page.html", words=words)
    assert not (tmp_path / "page.html").exists()
