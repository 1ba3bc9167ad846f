"""Scoring: the task loss of a model or of a circuit, one mask or many at once.

Binary loss (METHOD D3, 1e): the mean over both prompts of a pair of the cross-entropy over its two completions, nats;
chance is ln 2. `full_vocab` takes the cross-entropy over the whole vocabulary instead. Everything is computed in fp32.

Shapes: n pairs, 2 classes (A, B), K masks, N nodes, T tokens, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sparse_circuits.bundled.folders import NAMES, bundled_folder
from sparse_circuits.circuit.circuit import LOSS_KINDS, Calibration, Circuit, LossKind
from sparse_circuits.circuit.cuts import cut_weights
from sparse_circuits.data.tokenizer import read_tokenizer, tokenizer_hash, vocab_size
from sparse_circuits.kernels.sparse_product import frozen
from sparse_circuits.model.folder import model_hash, stored_tokenizer_hash
from sparse_circuits.model.taps import Mask, Tap
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.mask import NodeLayout
from sparse_circuits.sites import check_nodes
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.tasks.task import Task

EVAL_PAIRS = 512
"""Pairs per split behind every reported loss, where the task has so many."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a circuit or a model scores on one split of a task."""

    loss: float
    """Mean task loss, nats, uncalibrated."""
    loss_kind: LossKind
    accuracy: float
    """Share of prompts whose right completion has the higher logit of the two."""
    n_pairs: int
    calibrated_loss: float | None
    """Binary loss after the circuit's calibration; None without one."""


def usable_tokens(model: SparseTransformer) -> Tensor:
    """Bool[V]: tokens whose embedding row is not all zero (METHOD D2)."""
    return (model.embed.weight != 0).any(-1)


Weights = Mapping[str, Tensor]
"""Parameters to use instead of the model's own: how edges are cut (cuts.py)."""
Start = tuple[str, Tensor]
"""A residual site and the activation there, Float[rows T d]: the pass is entered there."""


def contrast(
    model: SparseTransformer, pairs: Pairs, tap: Tap | None = None, weights: Weights | None = None
) -> Float[Tensor, "n 2"]:
    """z_A - z_B, the difference of the two completions' logits, after prompt A and after prompt B."""
    return contrast_of(last_logits(model, pairs.flat_tokens, pairs.last, tap, weights), pairs)


def last_logits(
    model: SparseTransformer,
    rows: Int[Tensor, "rows T"],
    last: Int[Tensor, " rows"],
    tap: Tap | None = None,
    weights: Weights | None = None,
    start: Start | None = None,
) -> Float[Tensor, "rows V"]:
    """Logits at the last position of every row, fp32."""
    trim = tap is None or (isinstance(tap, Mask) and tap.positionwise)
    return model(rows, tap=tap, start=start, logits_at=last, trim=trim, weights=weights or None)[:, 0].float()


def contrast_of(logits: Float[Tensor, "rows V"], pairs: Pairs) -> Float[Tensor, "n 2"]:
    """z_A - z_B from the logits after every prompt."""
    both = logits.view(-1, 2, logits.shape[-1]).gather(-1, pairs.completions[:, None, :].expand(-1, 2, -1))
    return both[..., 0] - both[..., 1]


def binary_losses(contrasts: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    """Binary loss per pair from z_A - z_B."""
    return (F.softplus(-contrasts[..., 0]) + F.softplus(contrasts[..., 1])) / 2


def pair_losses(
    model: SparseTransformer,
    pairs: Pairs,
    tap: Tap | None = None,
    kind: LossKind = "binary",
    weights: Weights | None = None,
    start: Start | None = None,
) -> Float[Tensor, " n"]:
    """Task loss of every pair, nats. start: where the pass is entered, as in the model. Raises ValueError for an unknown kind."""
    logits = last_logits(model, pairs.flat_tokens, pairs.last, tap, weights, start)
    if kind == "binary":
        return binary_losses(contrast_of(logits, pairs))
    if kind != "full_vocab":
        raise ValueError(f"unknown loss kind {kind!r}; allowed: {', '.join(LOSS_KINDS)}")
    return F.cross_entropy(logits, pairs.completions.flatten(), reduction="none").view(-1, 2).mean(-1)


def own_values(circuit: Circuit) -> Mapping[str, Tensor]:
    """The circuit's ablation values, site -> Float[width]. Raises ValueError if it has none."""
    if circuit.values is None:
        raise ValueError(
            "this circuit has no ablation values (published ones come without): give it some with "
            "circuit.with_reference(values), or import it again with --model and --reference"
        )
    return circuit.values


def circuit_tap(circuit: Circuit, model: SparseTransformer) -> Mask:
    """The tap that makes `model` compute the circuit: kept nodes pass, every other node takes its ablation value.

    Raises ValueError if the circuit has no ablation values or does not fit the model.
    """
    values = own_values(circuit)
    check_nodes(circuit.nodes, model.widths)
    layout = NodeLayout.of(model.widths)
    given = {site: tuple(value.shape) for site, value in values.items()}
    wrong = [site for site, width in layout.widths.items() if given.get(site) != (width,)]
    if wrong:
        raise ValueError(
            f"the circuit's ablation values do not fit this model at {wrong[0]}; give the model it was made on"
        )
    device = next(model.parameters()).device
    mask = layout.flat(circuit.nodes).to(device)
    return Mask(layout.split(mask), {site: values[site].to(device) for site in layout.widths}, layout.kept(mask[None]))


def circuit_weights(circuit: Circuit, model: SparseTransformer) -> dict[str, Tensor]:
    """The parameters to pass beside `circuit_tap`: those that cut edges change; empty where none is cut.

    Raises ValueError if the circuit has no ablation values or does not fit the model.
    """
    device = next(model.parameters()).device
    if not circuit.cut_edges:
        return {}
    return cut_weights(model, circuit.cut_edges, {site: v.to(device) for site, v in own_values(circuit).items()})


@torch.no_grad()
def score(
    model: SparseTransformer,
    pairs: Pairs,
    tap: Tap | None,
    kind: LossKind,
    calibration: Calibration | None,
    weights: Weights | None = None,
) -> Evaluation:
    """Loss, accuracy and calibrated loss on given pairs."""
    with frozen(model):
        contrasts = contrast(model, pairs, tap, weights)
        losses = binary_losses(contrasts) if kind == "binary" else pair_losses(model, pairs, tap, kind, weights)
    right = (contrasts[:, 0] > 0).float().mean() + (contrasts[:, 1] < 0).float().mean()
    calibrated = None
    if calibration is not None:
        calibrated = float(binary_losses(calibration.scale * contrasts + calibration.shift).mean())
    return Evaluation(
        loss=float(losses.mean()),
        loss_kind=kind,
        accuracy=float(right / 2),
        n_pairs=pairs.n,
        calibrated_loss=calibrated,
    )


def evaluate(
    circuit: Circuit,
    model: SparseTransformer,
    task: Task,
    split: str = "test",
    *,
    tokenizer: Any = None,
    n: int = EVAL_PAIRS,
    seed: int = 0,
) -> Evaluation:
    """Scores a circuit on a split of its task. Without `tokenizer` the one the circuit refers to is read.

    Raises ValueError if the circuit has no ablation values, or if model, task or tokenizer are not those it was made with.
    """
    own_values(circuit)  # before anything is read or drawn
    tokenizer = circuit_tokenizer(circuit) if tokenizer is None else tokenizer
    check_origin("model", circuit.model.hash, model_hash(model))
    check_origin("task", circuit.task_origin.hash, task.hash)
    check_origin("tokenizer", circuit.tokenizer.hash, tokenizer_hash(tokenizer))
    device = next(model.parameters()).device
    pairs = task.pairs(split, n, tokenizer, seed=seed, usable=usable_tokens(model)).to(device)
    weights = circuit_weights(circuit, model)
    return score(model, pairs, circuit_tap(circuit, model), circuit.loss_kind, circuit.calibration, weights)


def evaluate_model(
    model: SparseTransformer,
    task: Task,
    tokenizer: Any,
    split: str = "test",
    *,
    n: int = EVAL_PAIRS,
    seed: int = 0,
    kind: LossKind = "binary",
) -> Evaluation:
    """Scores the whole model on a split of a task. Raises ValueError if the tokenizer is not the model's."""
    check_tokenizer(model, tokenizer)
    device = next(model.parameters()).device
    pairs = task.pairs(split, n, tokenizer, seed=seed, usable=usable_tokens(model)).to(device)
    return score(model, pairs, None, kind, None)


def check_tokenizer(model: SparseTransformer, tokenizer: Any) -> None:
    """Raises ValueError where a model meets another tokenizer than the one it was trained with, as far as it knows."""
    own = None if model.source is None else stored_tokenizer_hash(model.source)
    if own is not None and own != tokenizer_hash(tokenizer):
        raise ValueError(
            f"this tokenizer (hash {tokenizer_hash(tokenizer)[:12]}) is not the one the model was trained with ({own[:12]}); "
            f"use load_tokenizer({str(model.source)!r})"
        )
    if vocab_size(tokenizer) != model.config.vocab_size:
        given = vocab_size(tokenizer)
        raise ValueError(
            f"the tokenizer has {given} tokens, the model {model.config.vocab_size}; use the model's own tokenizer"
        )


def check_origin(what: str, expected: str | None, given: str) -> None:
    """Raises ValueError where a circuit meets another model, task or tokenizer than its own, as far as it knows that."""
    if expected is not None and expected != given:
        raise ValueError(
            f"this circuit was made with another {what} (hash {expected[:12]}, given {given[:12]}); give its own {what}"
        )


def circuit_tokenizer(circuit: Circuit) -> Any:
    """The tokenizer a circuit refers to. Raises ValueError if it is not there."""
    return read_tokenizer(resolve(circuit, circuit.tokenizer.where))


def resolve(circuit: Circuit, where: str) -> Path:
    """An origin's path: absolute, or relative to the circuit's folder, or of a bundled name.

    Raises ValueError for a circuit kept in memory only.
    """
    if where in NAMES:
        return bundled_folder(where)
    path = Path(where)
    if path.is_absolute():
        return path
    if not where or circuit.folder is None:
        raise ValueError("the circuit does not say where its model lies; give model and tokenizer yourself")
    return (circuit.folder / path).resolve()
