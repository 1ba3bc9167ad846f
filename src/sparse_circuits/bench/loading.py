"""Loading a released-size model: seconds and peak memory against reading the same bytes, in each of the three layouts.

1. A network of the shape of the largest released one (8 layers, d_model 2048, 419M parameters) with 0.1% of its weights drawn
   at random, the rest zero, is written in each layout.
2. Every measurement is a process of its own, files in the page cache: one that reads the files' bytes into memory, one that
   loads the model and then touches every page of its weights (they are memory-mapped, so loading alone would read little).
3. Peak memory is what the process added over what it held after its imports (VmHWM, mapped files included).
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from sparse_circuits.bench.result import Measured, spread
from sparse_circuits.hub.io import LAYOUTS, export_model
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.transformer import SparseTransformer

RELEASED_SIZE = ModelConfig(
    vocab_size=2048,
    n_layer=8,
    d_model=2048,
    n_head=128,
    d_head=16,
    d_mlp=8192,
    block_size=1024,
    afrac=0.25,
    positions="concat",
    d_pos_emb=32,
)
DENSITY = 0.001
REPEATS = 3

_CHILD = """
import json, sys, time
from pathlib import Path
import torch
from sparse_circuits.hub.load import load_model
from sparse_circuits.hub.released_tokenizer import read_released_tokenizer

def peak(field="VmHWM"):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

folder, what = Path(sys.argv[1]), sys.argv[2]
files = [file for file in folder.iterdir() if file.suffix in (".pt", ".safetensors")]
before = peak("VmRSS")
begun = time.perf_counter()
if what == "read":
    held = [file.read_bytes() for file in files]
else:
    model = load_model(folder, verify=what == "verified")
    loaded = time.perf_counter() - begun
    for tensor in model.state_dict().values():
        tensor.view(-1)[::1024].sum().item()
spent = time.perf_counter() - begun
print(json.dumps({"seconds": spent, "peak": peak() - before, "loaded": loaded if what != "read" else spent}))
"""


def bench_loading(config: ModelConfig = RELEASED_SIZE, progress: Progress = SILENT) -> Iterator[Measured]:
    """Lines for every layout: seconds, peak memory, and seconds with verification, each against reading the bytes.

    The sparse files are compared with reading and holding the dense ones, since that is what loading them gives.
    """
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        model = _random(config)
        for layout in LAYOUTS:
            progress.say(f"writing {sum(p.numel() for p in model.parameters()):,} parameters, {layout} layout")
            export_model(model, layout, root / layout)
        del model
        for layout in LAYOUTS:
            progress.say(f"loading, {layout} layout")
            yield from _lines(layout, root / layout, root / ("own" if layout == "sparse" else layout))
        sparse, dense = (_size(root / layout) for layout in ("sparse", "own"))
        yield Measured(
            name="size sparse", ours=sparse / 1e6, theirs=dense / 1e6, unit="MB", theirs_is="dense safetensors"
        )


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".pt", ".safetensors"))


def _lines(layout: str, folder: Path, plain_bytes: Path) -> Iterator[Measured]:
    runs: dict[str, list[dict[str, float]]] = {"read": [], "plain": [], "verified": []}
    for _ in range(REPEATS):
        for what, found in runs.items():
            found.append(_child(plain_bytes if what == "read" else folder, what))
    read, plain, verified = ([run["seconds"] for run in runs[what]] for what in runs)
    size = _size(plain_bytes)
    theirs = "reading the bytes" if folder == plain_bytes else "reading the dense bytes"
    yield Measured(
        name=f"load {layout}", ours=median(plain), theirs=median(read), unit="s", theirs_is=theirs, spread=spread(plain)
    )
    yield Measured(
        name=f"load {layout}, verified", ours=median(verified), theirs=median(read), unit="s", theirs_is=theirs,
        spread=spread(verified),
    )  # fmt: skip
    for what, label in (("plain", ""), ("verified", ", verified")):
        peak = max(run["peak"] for run in runs[what])
        yield Measured(
            name=f"peak memory {layout}{label}",
            ours=peak / 1e6,
            theirs=size / 1e6,
            unit="MB",
            theirs_is="size of the files",
        )


def _child(folder: Path, what: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder), what], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"the measuring process failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


@torch.no_grad()
def _random(config: ModelConfig) -> SparseTransformer:
    """A network whose matrices hold DENSITY random entries, everything else as at the start of training."""
    generator = torch.Generator().manual_seed(0)
    model = SparseTransformer(config)
    for parameter in model.parameters():
        if parameter.dim() < 2:
            continue
        parameter.zero_()
        count = max(1, int(DENSITY * parameter.numel()))
        places = torch.randint(parameter.numel(), (count,), generator=generator)
        parameter.view(-1)[places] = torch.randn(count, generator=generator)
    return model.eval()
