"""A circuit: the kept nodes and edges of one model for one task, with everything needed to score it again.

A `Circuit` is frozen and self-contained: nodes, edges, the ablation value of every other node, the calibration, the recipe
and seed that found it, the losses measured then, and references (where) with hashes (what) of model, task and tokenizer.
On disk it is a folder: `circuit.json` + `values.safetensors` (docs/format.md). `attn.y` has a value but no nodes: its mean
is what cutting an edge v -> attn.resid_delta substitutes (METHOD D13).

A circuit that somebody else published (hub/published.py) lacks some of this; what is not known is None, never a default.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from torch import Tensor

from sparse_circuits.bundled.folders import circuit_folder
from sparse_circuits.files import (
    check_format,
    file_hash,
    new_folder,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from sparse_circuits.sites import Edge, Node, TokenEdge

Ablation = Literal["zero", "mean_pretrain", "mean_task"]
LossKind = Literal["binary", "full_vocab"]
ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)
LOSS_KINDS: tuple[LossKind, ...] = get_args(LossKind)
FORMAT_VERSION = 1
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """z' = scale * (z_A - z_B) + shift, A and B the task's classes (METHOD D6)."""

    scale: float
    """a > 0."""
    shift: float
    """b; 0 where the completions are not fixed for the task."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where something lies and what it was when the circuit was made."""

    where: str
    """A name (`bundled`, a task name) or a path; relative paths start at the circuit's folder."""
    hash: str | None
    """sha256 of its content; None where it is not known."""

    def seen_from(self, folder: Path) -> dict[str, str | None]:
        """Plain JSON values, an absolute path made relative to a folder."""
        relative = os.path.relpath(self.where, folder.absolute()) if os.path.isabs(self.where) else self.where
        return {"where": relative, "hash": self.hash}


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Loss with the k most important nodes kept, on the prompts that choose nodes (METHOD D11)."""

    nodes: int
    """k."""
    loss: float
    """Mean task loss, nats."""
    standard_error: float
    """Standard error of that mean, nats."""


@dataclass(frozen=True, kw_only=True)
class SplitLosses:
    """Task losses on the three splits, nats."""

    train: float
    val: float
    test: float


@dataclass(frozen=True, kw_only=True)
class PublishedLoss:
    """Task losses that an imported circuit came with; on which prompts they were measured is not said."""

    circuit: float
    """Mean task loss of the circuit, nats."""
    model: float
    """The same of the whole model, nats."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Circuit:
    """One model's circuit for one task."""

    task: str
    """Name of the task."""
    model: Origin
    task_origin: Origin
    tokenizer: Origin
    nodes: tuple[Node, ...]
    """Kept nodes, in forward order."""
    nodes_total: int
    """Nodes of the whole model (METHOD 1f)."""
    edges: tuple[Edge, ...]
    """Nonzero weights between kept nodes that are not cut: the headline count (METHOD D5)."""
    cut_edges: tuple[Edge, ...] = ()
    """Nonzero weights between kept nodes that the circuit does without: each sends what its source is ablated to (D13)."""
    edges_embed: tuple[TokenEdge, ...] | None = ()
    """Nonzero E[t, c] with t in the training prompts and c read by a kept act_in or final_resid; None: not known."""
    edges_unembed: tuple[TokenEdge, ...] | None = ()
    """Nonzero W_U entries of the completions at kept final_resid nodes; None: not known."""
    edges_bias: tuple[Node, ...] = ()
    """Kept nodes with a nonzero bias."""
    constant_nodes: tuple[Node, ...] | None = ()
    """Kept nodes that no token reaches; None: not known."""
    stranded_nodes: tuple[Node, ...] | None = ()
    """Kept nodes without a path to the logits whose removal would miss the target (METHOD D5); None: not known."""
    values: Mapping[str, Tensor] | None = None
    """Ablation value of every channel: site -> Float[width]; None for an imported circuit without reference."""
    ablation: Ablation | None = "mean_pretrain"
    """None: not published."""
    loss_kind: LossKind = "binary"
    target_loss: float | None = 0.15
    """What `loss` (or the calibrated loss) should reach, nats; None: not published."""
    target_on: Literal["loss", "calibrated"] = "loss"
    loss: SplitLosses | None
    """Uncalibrated loss of the circuit; None: not published."""
    calibrated_loss: SplitLosses | None
    model_loss: SplitLosses | None
    """Loss of the whole model; None: not published."""
    empty_loss: float | None
    """Test loss with every node ablated; None: not published."""
    accuracy: float | None
    """Share of test prompts whose right completion scores higher; None: not published."""
    published_loss: PublishedLoss | None = None
    """What an imported circuit claims to score; None for a circuit of our own."""
    calibration: Calibration | None = None
    curve: tuple[CurvePoint, ...] = ()
    removable: tuple[str, ...] | None = None
    """Nodes (`site[c]`) and edges (`site[c] -> site[c]`) that could each go, alone, without missing the target where nodes were
    chosen; empty for a minimal circuit, None: not measured."""
    node_effects: tuple[float, ...] = ()
    """Rise of the loss on the prompts that chose the nodes (imported: of the published loss) when that node alone is ablated from
    the circuit, nats; one per node."""
    reference: Mapping[str, Any] = field(default_factory=dict)
    """What the ablation values were measured on: tokens and corpus hash."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The pruning config, as plain JSON."""
    seed: int | None = 0
    """None: not published."""
    folder: Path | None = None
    """Where it was loaded from; relative origins start there."""

    @property
    def met_target(self) -> bool | None:
        """Whether the test loss reaches the target; None if one of the two is not known."""
        losses = self.loss if self.target_on == "loss" else self.calibrated_loss
        return None if losses is None or self.target_loss is None else losses.test <= self.target_loss

    def replace(self, **changes: Any) -> "Circuit":
        """A copy with some fields changed."""
        return replace_fields(self, **changes)

    def summary(self) -> dict[str, Any]:
        """What `circuit show --json` prints; null is what is not known."""
        return {
            "task": self.task,
            "model": self.model.where,
            "target_loss": self.target_loss,
            "target_on": self.target_on,
            "met_target": self.met_target,
            "loss_kind": self.loss_kind,
            "ablation": self.ablation,
            "loss": _given(asdict, self.loss),
            "calibrated_loss": _given(asdict, self.calibrated_loss),
            "model_loss": _given(asdict, self.model_loss),
            "empty_loss": self.empty_loss,
            "accuracy": self.accuracy,
            "published_loss": _given(asdict, self.published_loss),
            "nodes": len(self.nodes),
            "nodes_total": self.nodes_total,
            "edges": len(self.edges),
            "cut_edges": len(self.cut_edges),
            "edges_embed": _given(len, self.edges_embed),
            "edges_unembed": _given(len, self.edges_unembed),
            "edges_bias": len(self.edges_bias),
            "node_names": _names(self.nodes),
            "constant_nodes": _given(_names, self.constant_nodes),
            "stranded_nodes": _given(_names, self.stranded_nodes),
            "removable": _given(list, self.removable),
            "seed": self.seed,
        }

    def located(self) -> "Circuit":
        """A copy whose origins are absolute paths (names stay), so that it can be saved in another folder."""
        if self.folder is None:
            return self

        def absolute(origin: Origin) -> Origin:
            path = (self.folder or Path()).absolute() / origin.where
            return replace_fields(origin, where=os.path.normpath(path)) if origin.where and path.exists() else origin

        origins = {name: absolute(getattr(self, name)) for name in ("model", "tokenizer", "task_origin")}
        return self.replace(**origins, folder=None)

    def with_reference(self, values: Mapping[str, Tensor], ablation: Ablation | None = None) -> "Circuit":
        """A copy with ablation values (site -> Float[width]), for a circuit that came without.

        ablation: what the values are; None keeps what the circuit says, which may be "not published".
        """
        return self.replace(values=dict(values), ablation=ablation or self.ablation)

    def save(self, folder: str | Path) -> None:
        """Writes the circuit folder, atomically. Raises OSError."""
        with new_folder(folder, "circuit") as draft:
            self.write_into(draft, Path(folder))

    def write_into(self, draft: Path, folder: Path) -> None:
        """Writes the circuit's files into a draft that the caller makes whole (files.new_folder) as `folder`."""
        stored = {**self.summary(), **self._details(folder)}
        if self.values is not None:
            write_tensors(draft / "values.safetensors", self.values)
            stored["values_sha256"] = file_hash(draft / "values.safetensors")
        write_json(draft / "circuit.json", {"kind": "circuit", "format_version": FORMAT_VERSION, **stored})

    def _details(self, folder: Path) -> dict[str, Any]:
        """The stored fields that the summary only counts; paths are written relative to the folder."""
        return {
            "model": self.model.seen_from(folder),
            "task_origin": self.task_origin.seen_from(folder),
            "tokenizer": self.tokenizer.seen_from(folder),
            "edges": _edge_rows(self.edges),
            "cut_edges": _edge_rows(self.cut_edges),
            "edges_embed": _given(_rows, self.edges_embed),
            "edges_unembed": _given(_rows, self.edges_unembed),
            "edges_bias": _names(self.edges_bias),
            "calibration": _given(asdict, self.calibration),
            "curve": [[point.nodes, point.loss, point.standard_error] for point in self.curve],
            "node_effects": list(self.node_effects),
            "reference": dict(self.reference),
            "recipe": dict(self.recipe),
        }


def load_circuit(folder: str | Path) -> Circuit:
    """Reads a circuit folder, or `bundled/TASK`. Raises ValueError, one line, if it is absent, damaged or of another version."""
    where = circuit_folder(folder)
    stored = read_json(where / "circuit.json")
    check_format(stored, "circuit", FORMAT_VERSION, where)
    values = None
    if "values_sha256" in stored:
        values = read_tensors(where / "values.safetensors")
        if file_hash(where / "values.safetensors") != stored["values_sha256"]:
            raise ValueError(
                f"{where / 'values.safetensors'} is not the file this circuit was saved with (hash differs); prune again"
            )
    try:
        return _parse(stored, values, where)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{where / 'circuit.json'} is damaged ({type(error).__name__}: {error}); prune again"
        ) from None


def _parse(stored: Mapping[str, Any], values: Mapping[str, Tensor] | None, where: Path) -> Circuit:
    def nodes(names: list[str]) -> tuple[Node, ...]:
        return tuple(Node.parse(name) for name in names)

    def token_edges(rows: list[list[Any]]) -> tuple[TokenEdge, ...]:
        return tuple(TokenEdge(token, Node.parse(node), weight) for token, node, weight in rows)

    choices = {"ablation": (*ABLATIONS, None), "loss_kind": LOSS_KINDS, "target_on": ("loss", "calibrated")}
    for name, allowed in choices.items():
        if stored[name] not in allowed:
            raise ValueError(f"unknown {name} {stored[name]!r}, allowed: {', '.join(map(str, allowed))}")
    return Circuit(
        **{name: stored[name] for name in ("task", "ablation", "loss_kind", "target_on")},
        target_loss=_given(float, stored["target_loss"]),
        empty_loss=_given(float, stored["empty_loss"]),
        accuracy=_given(float, stored["accuracy"]),
        nodes_total=int(stored["nodes_total"]),
        seed=_given(int, stored["seed"]),
        model=Origin(**stored["model"]),
        task_origin=Origin(**stored["task_origin"]),
        tokenizer=Origin(**stored["tokenizer"]),
        nodes=nodes(stored["node_names"]),
        edges=_edges(stored["edges"]),
        cut_edges=_edges(stored.get("cut_edges", [])),  # absent before edges could be cut
        removable=_given(tuple, stored.get("removable")),
        edges_embed=_given(token_edges, stored["edges_embed"]),
        edges_unembed=_given(token_edges, stored["edges_unembed"]),
        edges_bias=nodes(stored["edges_bias"]),
        constant_nodes=_given(nodes, stored["constant_nodes"]),
        stranded_nodes=_given(nodes, stored["stranded_nodes"]),
        values=values,
        loss=_given(_split_losses, stored["loss"]),
        calibrated_loss=_given(_split_losses, stored["calibrated_loss"]),
        model_loss=_given(_split_losses, stored["model_loss"]),
        published_loss=_given(_published_loss, stored.get("published_loss")),  # absent before circuits were imported
        calibration=_given(_calibration, stored["calibration"]),
        curve=tuple(CurvePoint(nodes=k, loss=loss, standard_error=error) for k, loss, error in stored["curve"]),
        node_effects=tuple(stored["node_effects"]),
        reference=stored["reference"],
        recipe=stored["recipe"],
        folder=where,
    )


def _split_losses(stored: Mapping[str, Any]) -> SplitLosses:
    return SplitLosses(**{split: float(loss) for split, loss in stored.items()})


def _published_loss(stored: Mapping[str, Any]) -> PublishedLoss:
    return PublishedLoss(**{name: float(loss) for name, loss in stored.items()})


def _calibration(stored: Mapping[str, Any]) -> Calibration:
    found = Calibration(**{name: float(value) for name, value in stored.items()})
    if not found.scale > 0:
        raise ValueError(f"the calibration's scale is {found.scale}, not above 0")
    return found


def _given(change: Callable[[A], B], value: A | None) -> B | None:
    """The changed value; None, which stands for what is not known, stays None."""
    return None if value is None else change(value)


def _names(nodes: Iterable[Node]) -> list[str]:
    return [str(node) for node in nodes]


def _edge_rows(edges: Iterable[Edge]) -> list[list[Any]]:
    return [[str(edge.source), str(edge.target), edge.weight] for edge in edges]


def _edges(rows: Iterable[Sequence[Any]]) -> tuple[Edge, ...]:
    return tuple(Edge(Node.parse(a), Node.parse(b), weight) for a, b, weight in rows)


def _rows(edges: Iterable[TokenEdge]) -> list[list[Any]]:
    return [[edge.token, str(edge.node), edge.weight] for edge in edges]
