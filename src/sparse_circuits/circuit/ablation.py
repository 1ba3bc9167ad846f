"""Ablation values: what a node outputs when it is not in the circuit (METHOD D4).

`mean_pretrain` values are the mean activation of every node site and attn.y over at least 262,144 training tokens, after
AbsTopK, in fp32. They are measured once per model and stored beside it as `reference.safetensors`; without them pruning
refuses. `zero` needs nothing; `mean_task` is the mean over the task's training prompts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sparse_circuits.circuit.circuit import ABLATIONS, Ablation
from sparse_circuits.data.shards import Shards
from sparse_circuits.files import read_metadata, read_tensors, write_tensors
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.folder import model_hash
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import all_sites, node_sites
from sparse_circuits.tasks.pairs import Pairs

REFERENCE_FILE = "reference.safetensors"
REFERENCE_TOKENS = 262_144
"""Training tokens a reference needs at least (METHOD D4)."""
BATCH_TOKENS = 16_384


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Mean activations of one model on its training corpus."""

    values: Mapping[str, Tensor]
    """Site -> Float[width]: every node site and every attn.y."""
    tokens: int
    """Tokens averaged over."""
    corpus_hash: str
    """Hash of the token shards they came from."""
    model_hash: str
    """Hash of the model they belong to."""


def reference_sites(n_layer: int) -> tuple[str, ...]:
    """Every node site and every attn.y, in forward order."""
    nodes = node_sites(n_layer)
    return tuple(site for site in all_sites(n_layer) if site in nodes or site.endswith("attn.y"))


class _Sum:
    """A tap that adds up activations, optionally only where `counted` [B, T] is true."""

    def __init__(self, sites: tuple[str, ...]) -> None:
        self.sites = frozenset(sites)
        self.sums: dict[str, Tensor] = {}
        self.counted: Tensor | None = None

    def wants(self, site: str) -> bool:
        return site in self.sites

    def __call__(self, site: str, x: Tensor) -> Tensor:
        rows = (x.flatten(0, 1) if self.counted is None else x[self.counted]).double().sum(0)
        self.sums[site] = self.sums.get(site, torch.zeros_like(rows)) + rows
        return x


@torch.no_grad()
def measure_reference(
    model: SparseTransformer,
    data: Shards,
    *,
    tokens: int = REFERENCE_TOKENS,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Reference:
    """Averages activations over at least `tokens` training tokens, in windows of block_size."""
    context = model.config.block_size
    rows = max(1, BATCH_TOKENS // context)
    steps = -(-tokens // (rows * context))
    device = next(model.parameters()).device
    tap = _Sum(reference_sites(model.config.n_layer))
    with progress.bar("reference values", steps) as bar:
        for step in range(steps):
            batch = data.batch("train", seed=seed, step=step, rank=0, batch_size=rows, context=context)
            model(batch[:, :-1].to(device), tap=tap, logits_at=torch.zeros(rows, dtype=torch.long, device=device))
            bar.update(step + 1)
    seen = steps * rows * context
    values = {site: (total / seen).float().cpu() for site, total in tap.sums.items()}
    return Reference(values=values, tokens=seen, corpus_hash=data.corpus_hash, model_hash=model_hash(model))


def save_reference(reference: Reference, folder: str | Path) -> Path:
    """Writes `reference.safetensors` into a model folder, atomically."""
    path = Path(folder) / REFERENCE_FILE
    labels = {"kind": "reference", "format_version": "1", "tokens": str(reference.tokens)}
    write_tensors(
        path, reference.values, {**labels, "corpus_hash": reference.corpus_hash, "model_hash": reference.model_hash}
    )
    return path


def load_reference(where: str | Path, model: SparseTransformer) -> Reference:
    """Reads the reference of `model` from a model folder or a file.

    Raises ValueError naming the command that makes one if it is absent, damaged, or of another model.
    """
    path = Path(where) / REFERENCE_FILE if Path(where).is_dir() else Path(where)
    command = "make it with: sparse-circuits model reference --model MODEL --data SHARDS"
    if not path.is_file():
        raise ValueError(
            f"no ablation reference values at {path}; {command} (or choose the ablation zero or mean_task)"
        )
    values, labels = read_tensors(path), read_metadata(path)
    if labels.get("kind") != "reference" or labels.get("model_hash") != model_hash(model):
        raise ValueError(f"{path} was measured on another model; {command}")
    shapes = {site: tuple(value.shape) for site, value in values.items()}
    wanted = {site: (model.widths[site],) for site in reference_sites(model.config.n_layer)}
    if shapes != wanted:
        raise ValueError(f"{path} lacks sites of this model or has wrong widths; {command}")
    if not labels.get("tokens", "").isdecimal() or "corpus_hash" not in labels:
        raise ValueError(f"{path} does not say what it was measured on (tokens, corpus_hash); {command}")
    return Reference(
        values=values, tokens=int(labels["tokens"]), corpus_hash=labels["corpus_hash"], model_hash=labels["model_hash"]
    )


@torch.no_grad()
def task_means(model: SparseTransformer, pairs: Pairs) -> dict[str, Tensor]:
    """Mean activation per site over all real tokens of a task's prompts: site -> Float[width]."""
    tokens, last = pairs.flat_tokens, pairs.last
    tap = _Sum(reference_sites(model.config.n_layer))
    tap.counted = torch.arange(tokens.shape[1], device=tokens.device) <= last[:, None]
    model(tokens, tap=tap, logits_at=last)
    seen = int(tap.counted.sum())
    return {site: (total / seen).float() for site, total in tap.sums.items()}


def ablation_values(
    model: SparseTransformer, ablation: Ablation, reference: Reference | None, train_pairs: Pairs
) -> dict[str, Tensor]:
    """Site -> Float[width] for every node site and attn.y. Raises ValueError for an unknown kind or a missing reference."""
    if ablation not in ABLATIONS:
        raise ValueError(f"unknown ablation {ablation!r}; allowed: {', '.join(ABLATIONS)}")
    if ablation == "zero":
        return {site: torch.zeros(model.widths[site]) for site in reference_sites(model.config.n_layer)}
    if ablation == "mean_task":
        return task_means(model, train_pairs)
    if reference is None:
        raise ValueError(
            "mean_pretrain ablation needs the model's reference values; give reference=, or use zero or mean_task"
        )
    return dict(reference.values)
