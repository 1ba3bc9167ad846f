"""Very small training runs: text, tokenizer, shards, config, and a way to stop a run where a test wants it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sparse_circuits.files import file_hash, read_tensors, tensors_hash
from sparse_circuits.log import Bar, Progress
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.train.config import TrainConfig
from sparse_circuits.train.metrics import read_metrics
from sparse_circuits.train.optimizer import OptimizerConfig
from sparse_circuits.train.sparsity import SparsityConfig

WORDS = ("red", "blue", "green", "stone", "river", "cloud", "paper", "tiger")


def write_texts(folder: Path, count: int = 60) -> Path:
    """A folder of small Python files, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        word, other = WORDS[i % 8], WORDS[(i // 8) % 8]
        text = f"def {word}_{i}(a, b):\n    return a + {i}\n\nprint('{word} {other}')\nx = [{i}, {i + 1}, {i + 2}]\n"
        (folder / f"{word}_{i}.py").write_text(text + "y = x\nfor a in x:\n    print(a)\n", "utf-8")
    return folder


def tiny_config(vocab_size: int = 300, steps: int = 12, **changes: Any) -> TrainConfig:
    config = TrainConfig(
        name="test",
        model=ModelConfig(vocab_size=vocab_size, n_layer=1, d_model=16, n_head=2, d_head=8, block_size=16, afrac=0.5),
        sparsity=SparsityConfig(fraction=0.2, min_alive=1),
        optimizer=OptimizerConfig(lr=0.05),
        steps=steps,
        batch_size=4,
        eval_every=4,
        eval_tokens=512,
        checkpoint_every=4,
        reference_tokens=256,
    )
    return config.replace(**changes)


class StopAfter(Progress):
    """Raises KeyboardInterrupt when the training bar reaches a step: after its metrics line, before its checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Bar]:
        limit = self.step if name == "training" else total + 1

        class Stopping(Bar):
            def update(self, done: int, **fields: object) -> None:
                if done >= limit:
                    raise KeyboardInterrupt

        yield Stopping()


def curve(run: Path) -> list[dict[str, float | int]]:
    """The metrics of a run without the one that depends on the clock."""
    lines = read_metrics(run / "metrics.jsonl")
    return [
        {name: value for name, value in line.items() if name not in ("tokens_per_second", "seconds")} for line in lines
    ]


def model_hashes(run: Path) -> tuple[str, str]:
    """Hashes over all bytes of the final weights and of the reference values (whose file has labels in any order)."""
    folder = run / "model"
    return file_hash(folder / "model.safetensors"), tensors_hash(read_tensors(folder / "reference.safetensors"))


def start_cli(*arguments: object) -> subprocess.Popen[str]:
    """The command line in a process of its own, with this process's number of threads."""
    threads = str(torch.get_num_threads())
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "sparse_circuits.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
