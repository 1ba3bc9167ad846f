"""Training: the loop that reads top to bottom, and what surrounds a step (looking, saving, stopping).

A run folder holds `manifest.json` (config, data, versions), `metrics.jsonl`, `checkpoints/` and, at the end, `model/`: the
model folder with its tokenizer and the ablation reference values (METHOD D4). A resumed run continues bit for bit.
"""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_circuits.circuit.ablation import measure_reference, save_reference
from sparse_circuits.data.shards import Shards
from sparse_circuits.data.tokenizer import save_tokenizer, tokenizer_hash
from sparse_circuits.files import new_folder, read_json, sweep, write_json
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.folder import save_model
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.train.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from sparse_circuits.train.config import TrainConfig
from sparse_circuits.train.metrics import Metrics
from sparse_circuits.train.optimizer import SparseAdam
from sparse_circuits.train.sparsity import nonzeros


class TrainingStopped(ValueError):
    """A run that ended before its last step; the message says where it stands and what to do."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What `train` returns."""

    steps: int
    val_loss: float
    """Mean next-token loss on validation documents, nats."""
    nonzero: int
    """Nonzero entries of weight matrices and biases, bigram table excluded."""
    nonzero_fraction: float
    """The same as a share of all their entries."""
    zero_rows: int
    """Occurring tokens whose embedding row is all zero (METHOD D2)."""
    tokens_per_second: float
    """Training tokens per second, validation and saving excluded; 0 when nothing was left to train."""
    path: str
    """The model folder."""


def train(
    config: TrainConfig,
    data: Shards,
    tokenizer: Any,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> TrainResult:
    """Trains a model and writes its run folder.

    Raises ValueError if tokenizer, data and config do not fit, if `out` holds another run, or (TrainingStopped) when the
    loss is not finite or the run is interrupted; both name the checkpoint to go on from.
    """
    run = Path(out)
    _check_fits(config, data, tokenizer)
    model = SparseTransformer(config.model).initialize(config.seed).to(device)
    optimizer = SparseAdam(model, config.optimizer, config.sparsity)  # refuses a sparsity that does not fit
    _open_run(run, config, data, resume)
    step = load_checkpoint(checkpoints(run)[-1], model, optimizer) if checkpoints(run) else 0
    metrics = Metrics(run, resume_from=step if step else None)
    begun, busy = step, 0.0
    with progress.bar("training", config.steps) as bar, _interruptible() as interrupted:
        while step < config.steps:
            clock = time.perf_counter()
            loss = _backward(model, _batch(data, config, step, device), config)
            lr, rms = optimizer.step(step + 1, config.steps)
            figures = {"loss": loss.item(), "lr": lr, "grad_rms": rms.item()}
            seconds = time.perf_counter() - clock
            busy += seconds
            step += 1
            speed = (step - begun) * config.tokens_per_step / busy
            if step % config.eval_every == 0 or step == config.steps:
                figures["val_loss"] = validation_loss(model, data, config)
            _stop_unless_finite(figures, step, run)
            nonzero, _ = nonzeros(model)
            metrics.write(step, **figures, nonzero=nonzero, tokens_per_second=speed, seconds=seconds)
            bar.update(step, loss=figures["loss"], nonzeros=nonzero, **{"tokens/s": int(speed)})
            if step % config.checkpoint_every == 0 or step == config.steps or interrupted.is_set():
                saved = save_checkpoint(run, step, model, optimizer)
                if interrupted.is_set() and step < config.steps:
                    raise TrainingStopped(
                        f"interrupted after step {step} of {config.steps}, saved {saved}; go on with --resume"
                    )
    speed = (step - begun) * config.tokens_per_step / busy if busy else 0.0
    return _finish(run, model.eval(), config, data, tokenizer, speed, progress)


def _check_fits(config: TrainConfig, data: Shards, tokenizer: Any) -> None:
    data.check_tokenizer(tokenizer)
    if config.model.vocab_size != data.vocab_size:
        raise ValueError(
            f"the config has vocab_size {config.model.vocab_size}, the tokenizer {data.vocab_size}; make them equal"
        )
    for split in ("train", "val"):  # too little text is refused here, not at the first validation
        data.sequential(split, 1, config.model.block_size)


def _open_run(run: Path, config: TrainConfig, data: Shards, resume: bool) -> None:
    """Creates the run folder, or checks that the one there is the run to resume."""
    manifest = {
        "kind": "run",
        "format_version": 1,
        "config": config.to_dict(),
        "corpus_hash": data.corpus_hash,
        "tokenizer_hash": data.tokenizer_hash,
        "torch": torch.__version__.split("+")[0],
    }
    sweep(run)
    if not (run / "manifest.json").exists():
        write_json(run / "manifest.json", manifest)
        return
    if not resume:
        raise ValueError(f"{run} already holds a run; resume it (resume=True, --resume) or give an empty folder")
    before = read_json(run / "manifest.json")
    for name in ("config", "corpus_hash", "tokenizer_hash"):
        if before.get(name) != manifest[name]:
            raise ValueError(f"{run} was started with another {name}; resume with the same or give an empty folder")


def _batch(data: Shards, config: TrainConfig, step: int, device: str) -> Tensor:
    context = config.model.block_size
    batch = data.batch("train", seed=config.seed, step=step, rank=0, batch_size=config.batch_size, context=context)
    return batch.to(device)


def _backward(model: SparseTransformer, batch: Tensor, config: TrainConfig) -> Tensor:
    """Leaves gradients of the mean next-token cross-entropy of a batch [B, T + 1] and returns it, nats, taken in fp32."""
    with _autocast(config, batch.device):
        logits = model(batch[:, :-1])
    loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
    loss.backward()
    return loss.detach()


def _autocast(config: TrainConfig, device: torch.device) -> Any:
    """bf16 products where asked for, or where the GPU has them; weights and residual stream stay fp32."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if config.precision == "bf16" or (config.precision == "auto" and able):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


@torch.no_grad()
def validation_loss(model: SparseTransformer, data: Shards, config: TrainConfig) -> float:
    """Mean next-token loss over the first `eval_tokens` validation tokens, fp32, nats."""
    device = next(model.parameters()).device
    context, losses = config.model.block_size, []
    rows = min(config.batch_size, 32)
    limit = max(1, config.eval_tokens // context)
    for batch in data.sequential("val", batch_size=rows, context=context, limit=limit):
        logits = model(batch[:, :-1].to(device))
        targets = batch[:, 1:].flatten().to(device)
        losses.append(F.cross_entropy(logits.flatten(0, 1), targets, reduction="none").double().cpu())
    return float(torch.cat(losses).mean())


def _stop_unless_finite(figures: dict[str, float], step: int, run: Path) -> None:
    if all(map(math.isfinite, figures.values())):
        return
    good = checkpoints(run)[-1] if checkpoints(run) else "none"
    raise TrainingStopped(
        f"the loss is not finite at step {step}; last good checkpoint: {good}; try a lower optimizer.lr, a longer warmup or "
        "anneal, or precision fp32, in a new folder"
    )


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Within the block Ctrl-C sets the event instead of cutting a step in half; a second Ctrl-C stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def ask(number: int, frame: Any) -> None:  # noqa: ARG001 (signal's signature)
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _finish(
    run: Path,
    model: SparseTransformer,
    config: TrainConfig,
    data: Shards,
    tokenizer: Any,
    speed: float,
    progress: Progress,
) -> TrainResult:
    """Writes the model folder with tokenizer and reference values, and the result into it."""
    nonzero, total = nonzeros(model)
    result = TrainResult(
        steps=config.steps,
        val_loss=validation_loss(model, data, config),
        nonzero=nonzero,
        nonzero_fraction=nonzero / total,
        zero_rows=zero_rows(model, data),
        tokens_per_second=speed,
        path=str(run / "model"),
    )
    reference = measure_reference(model, data, tokens=config.reference_tokens, seed=config.seed, progress=progress)
    with new_folder(run / "model", "model") as draft:
        save_model(model, draft, tokenizer_hash(tokenizer), val_threshold=data.manifest.get("val_threshold"))
        save_tokenizer(tokenizer, draft)
        save_reference(reference, draft)
        write_json(draft / "training.json", {"config": config.to_dict(), **asdict(result)})
    return result


def zero_rows(model: SparseTransformer, data: Shards) -> int:
    """Tokens that occur in training but whose embedding row is all zero (METHOD D2)."""
    occurs = np.bincount(data.tokens("train"), minlength=data.vocab_size) > 0
    dead = (model.embed.weight == 0).all(-1).cpu().numpy()
    return int((occurs & dead).sum())
