"""A run stopped at any moment, and in any way, ends with the weights and figures of one that was never stopped."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparse_circuits.data.shards import Shards
from sparse_circuits.data.tokenizer import save_tokenizer
from sparse_circuits.files import file_hash, write_json
from sparse_circuits.train.loop import train
from train.runs import StopAfter, curve, model_hashes, start_cli, tiny_config

LONG = tiny_config(steps=160, eval_every=40, checkpoint_every=20)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shards: Shards, tokenizer: Any) -> Path:
    """The run that nobody stops."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(tiny_config(), shards, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory, shards: Shards, tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("long") / "run"
    train(LONG, shards, tokenizer, folder)
    return folder


@pytest.fixture
def stopped(tmp_path: Path, shards: Shards, tokenizer: Any) -> Path:
    """Stopped after the metrics of step 11; its checkpoints are those of steps 4 and 8."""
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(), shards, tokenizer, folder, progress=StopAfter(11))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step_00000004", "step_00000008"]
    return folder


def same_run(one: Path, other: Path) -> bool:
    return model_hashes(one) == model_hashes(other) and curve(one) == curve(other)


@pytest.mark.parametrize("step", [2, 4, 5, 11, 12])
def test_resumed_equals_never_stopped_bit_for_bit(
    step: int, whole: Path, shards: Shards, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(), shards, tokenizer, tmp_path / "run", progress=StopAfter(step))
    assert not (tmp_path / "run" / "model").exists()
    result = train(tiny_config(), shards, tokenizer, tmp_path / "run", resume=True)
    assert same_run(tmp_path / "run", whole) and result.steps == 12


def test_resuming_from_a_copied_older_checkpoint(whole: Path, shards: Shards, tokenizer: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "model")
    shutil.rmtree(copy / "checkpoints" / "step_00000012")
    train(tiny_config(), shards, tokenizer, copy, resume=True)
    assert same_run(copy, whole)


def test_resuming_a_finished_run_changes_nothing(whole: Path, shards: Shards, tokenizer: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    result = train(tiny_config(), shards, tokenizer, copy, resume=True)
    assert same_run(copy, whole) and result.tokens_per_second == 0


def test_what_a_killed_process_left_is_swept(stopped: Path, whole: Path, shards: Shards, tokenizer: Any) -> None:
    for folder in (stopped, stopped / "checkpoints"):
        (folder / ".step_00000012.abcdef12.tmp").mkdir()
        (folder / ".metrics.jsonl.abcdef12.tmp").write_text("half")
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')
    train(tiny_config(), shards, tokenizer, stopped, resume=True)
    assert not [path for path in stopped.rglob("*") if path.name.startswith(".")]
    assert same_run(stopped, whole)


def truncate(checkpoint: Path) -> None:
    file = checkpoint / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def truncate_weights(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:200])


def edit_moments(checkpoint: Path) -> None:
    file = checkpoint / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\x00\x00\x80\x3f")


def edit_weights(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\x00\x00\x80\x3f")


def empty_state(checkpoint: Path) -> None:
    (checkpoint / "state.json").write_text("")


def edit_state(key: str, value: object) -> Callable[[Path], None]:
    def edit(checkpoint: Path) -> None:
        state = json.loads((checkpoint / "state.json").read_text())
        state[key] = value
        write_json(checkpoint / "state.json", {name: item for name, item in state.items() if item is not None})

    return edit


def remove_state(checkpoint: Path) -> None:
    (checkpoint / "state.json").unlink()


def swap_moments(checkpoint: Path) -> None:
    """Another run's moments with a matching hash: the step no longer tells that they fit."""
    (checkpoint / "optimizer.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    edit_state("optimizer_sha256", file_hash(checkpoint / "optimizer.safetensors"))(checkpoint)


DAMAGE = {
    "truncated moments": truncate,
    "truncated weights": truncate_weights,
    "edited moments": edit_moments,
    "edited weights": edit_weights,
    "empty state": empty_state,
    "no state": remove_state,
    "no step": edit_state("step", None),
    "no hash": edit_state("optimizer_sha256", None),
    "another step": edit_state("step", 3),
    "a step in words": edit_state("step", "eight"),
    "another version": edit_state("format_version", 99),
    "another kind": edit_state("kind", "model"),
    "moments of something else": swap_moments,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_refused_in_one_line(
    damage: Callable[[Path], None], stopped: Path, shards: Shards, tokenizer: Any
) -> None:
    damage(stopped / "checkpoints" / "step_00000008")
    before = (stopped / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match="step_00000008") as caught:
        train(tiny_config(), shards, tokenizer, stopped, resume=True)
    assert "\n" not in str(caught.value)
    assert (stopped / "metrics.jsonl").read_bytes() == before and not (stopped / "model").exists()


def test_an_earlier_checkpoint_serves_where_the_last_is_deleted(
    stopped: Path, whole: Path, shards: Shards, tokenizer: Any
) -> None:
    shutil.rmtree(stopped / "checkpoints" / "step_00000008")
    train(tiny_config(), shards, tokenizer, stopped, resume=True)
    assert same_run(stopped, whole)


def test_another_config_is_refused(stopped: Path, shards: Shards, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="started with another config"):
        train(tiny_config(batch_size=5), shards, tokenizer, stopped, resume=True)


@pytest.mark.parametrize("name", ["corpus_hash", "tokenizer_hash"])
def test_another_corpus_or_tokenizer_is_refused(name: str, stopped: Path, shards: Shards, tokenizer: Any) -> None:
    manifest = json.loads((stopped / "manifest.json").read_text())
    write_json(stopped / "manifest.json", {**manifest, name: "0" * 64})
    with pytest.raises(ValueError, match=f"started with another {name}"):
        train(tiny_config(), shards, tokenizer, stopped, resume=True)


def test_a_truncated_manifest_is_refused(stopped: Path, shards: Shards, tokenizer: Any) -> None:
    (stopped / "manifest.json").write_text((stopped / "manifest.json").read_text()[:80])
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        train(tiny_config(), shards, tokenizer, stopped, resume=True)


# --- processes that are really stopped


def started(run: Path, shards: Shards, tokenizer: Any, tmp_path: Path) -> subprocess.Popen[str]:
    """The command line, training LONG, some random moment after its first checkpoint."""
    write_json(tmp_path / "config.json", LONG.to_dict())
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    process = start_cli("train", *options(run, shards, tmp_path))
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoints/step_*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(random.Random(os.getpid()).random() * 0.1)
    return process


def options(run: Path, shards: Shards, tmp_path: Path) -> list[str]:
    given = {"config": tmp_path / "config.json", "data": shards.folder, "tokenizer": tmp_path / "tokenizer", "out": run}
    return [*(text for name, value in given.items() for text in (f"--{name}", str(value))), "--quiet"]


def test_killed_then_resumed_equals_never_stopped(
    long_run: Path, shards: Shards, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sparse_circuits.cli import main

    run = tmp_path / "run"
    process = started(run, shards, tokenizer, tmp_path)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (run / "model").exists()
    assert main(["train", *options(run, shards, tmp_path), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 160
    assert same_run(run, long_run)


def test_ctrl_c_saves_says_so_in_one_line_and_resumes(
    long_run: Path, shards: Shards, tokenizer: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = started(run, shards, tokenizer, tmp_path)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    assert len(err.strip().splitlines()) == 1 and "interrupted after step" in err and "--resume" in err
    step = int(err.split("after step ")[1].split()[0])
    assert (run / "checkpoints" / f"step_{step:08d}").is_dir() and 20 <= step < 160
    train(LONG, shards, tokenizer, run, resume=True)
    assert same_run(run, long_run)
