"""Published circuits: a `viz_data.pt` of the paper's release as a `Circuit`, with everything else the file says beside it.

The file (RELEASE_FORMAT 4.2, read by viz_data.py) holds nodes, losses and texts, but no ablation values, no weights and no
word on model, task and split. So in the circuit:
- `published_loss` and `node_effects` are halved: the file stores task losses that SUM two terms, so half of one is a mean
  binary cross-entropy in nats (chance ln 2). Names that end in `_stored` are as in the file. `loss` and its like are None.
- Without a model the edges are the entries of `effects` and their weight is None. With a model they are what our own
  circuits count, nonzero weights between kept nodes (METHOD D5), and `comparison` says where the file differs.
- What needs the completions (unembedding entries, paths to the logits) is None; so is what needs prompts, if there are none.

A saved one is a circuit folder with two more files, `published.json` and `samples.safetensors` (docs/format.md).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sparse_circuits.circuit.circuit import Circuit, Origin, PublishedLoss, load_circuit
from sparse_circuits.circuit.edges import find_edges
from sparse_circuits.files import (
    check_format,
    file_hash,
    new_folder,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from sparse_circuits.hub import published_parts as parts
from sparse_circuits.hub.published_weights import Comparison, compare, comparison_values, read_comparison
from sparse_circuits.hub.viz_data import (
    Bucket,
    EdgeTable,
    EdgeValue,
    TaskSamples,
    VizData,
    place,
    read_viz_data,
)
from sparse_circuits.model.folder import model_hash
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import Edge, Node, check_nodes, node_sites

FORMAT_VERSION = 1
KIND = "published_circuit"
_AS_THEY_ARE = (
    *("loss_stored", "model_loss_stored", "node_losses_stored", "layer_losses_stored"),
    *("pruning_curve", "config", "prune_config", "notes"),
)
"""Fields that JSON holds as they are."""
PUBLISHED_FILE, SAMPLES_FILE = "published.json", "samples.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class PublishedCircuit:
    """A published circuit and everything its file says. Losses in nats; `_stored` ones twice that."""

    circuit: Circuit
    source: Origin
    """The file."""
    loss_stored: float
    model_loss_stored: float
    node_losses_stored: tuple[float, ...]
    """Of the circuit without that node, one per node."""
    layer_losses_stored: Mapping[str, float]
    """`{l}.attn` or `{l}.mlp` -> loss without that sublayer. Whether it is doubled like the others is not said."""
    effects: EdgeTable
    """Rise of the loss when an edge is cut. Whether it is doubled is not said."""
    connections: EdgeTable | None
    """A second table over the same pairs, not explained; the weights, if `comparison` finds them equal."""
    samples: Mapping[Node, tuple[Bucket, ...]]
    """Texts of the pretraining data on which a node is strongest and weakest."""
    task_samples: TaskSamples | None
    pruning_curve: tuple[tuple[int, float], ...]
    """(step, stored loss) while the circuit was pruned."""
    config: Mapping[str, Any]
    """The model's config as in the file, undeclared keys included."""
    prune_config: Mapping[str, Any] | None
    comparison: Comparison | None = None
    """None without a model."""
    notes: tuple[str, ...] = ()
    """What is absent, misplaced or ambiguous, one sentence each."""

    @property
    def loss(self) -> float:
        """Of the circuit, nats: mean binary cross-entropy."""
        return self.loss_stored / 2

    @property
    def model_loss(self) -> float:
        """Of the whole model, nats."""
        return self.model_loss_stored / 2

    @property
    def node_losses(self) -> tuple[float, ...]:
        """Of the circuit without that node, nats, one per node."""
        return tuple(loss / 2 for loss in self.node_losses_stored)

    @property
    def layer_effects_as_shown(self) -> dict[str, float]:
        """What the release's own viewer shows per sublayer: the stored loss, not halved, less the halved circuit's loss."""
        return {name: loss - self.loss for name, loss in self.layer_losses_stored.items()}

    def replace(self, **changes: Any) -> "PublishedCircuit":
        """A copy with some fields changed, e.g. `circuit=published.circuit.with_reference(values)`."""
        return replace(self, **changes)

    def save(self, folder: str | Path) -> None:
        """Writes the circuit folder with `published.json` and `samples.safetensors`, atomically. Raises OSError."""
        where = Path(folder)
        with new_folder(where, "circuit") as draft:
            self.circuit.write_into(draft, where)
            samples, tensors = parts.pack_samples(self.samples)
            task, more = (None, {}) if self.task_samples is None else parts.pack_task_samples(self.task_samples)
            write_tensors(draft / SAMPLES_FILE, {**tensors, **more})
            stored = {
                "kind": KIND,
                "format_version": FORMAT_VERSION,
                "source": self.source.seen_from(where),
                **{name: getattr(self, name) for name in _AS_THEY_ARE},
                "effects": parts.table_values(self.effects),
                "connections": None if self.connections is None else parts.table_values(self.connections),
                "comparison": None if self.comparison is None else comparison_values(self.comparison),
                "samples": samples,
                "task_nodes": task,
                "samples_sha256": file_hash(draft / SAMPLES_FILE),
            }
            write_json(draft / PUBLISHED_FILE, stored)

    def summary(self) -> dict[str, Any]:
        """What `circuit import --json` adds to the circuit's summary."""
        compared = self.comparison
        task = self.task_samples
        return {
            "loss_stored": self.loss_stored,
            "model_loss_stored": self.model_loss_stored,
            "effects": len(self.effects.edges),
            "effects_bias": len(self.effects.biases),
            "connections": None if self.connections is None else len(self.connections.edges),
            "connections_bias": None if self.connections is None else len(self.connections.biases),
            "zero_weight": None if compared is None else len(compared.zero_weight),
            "unlisted": None if compared is None else len(compared.unlisted),
            "zero_bias": None if compared is None else len(compared.zero_bias),
            "unlisted_bias": None if compared is None else len(compared.unlisted_bias),
            "connections_off": None if compared is None else compared.connections_off,
            "nodes_with_samples": len(self.samples),
            "task_documents": None if task is None else len(task.tokens),
            "notes": list(self.notes),
        }


def import_circuit(
    path: str | Path, *, task: str | None = None, model: SparseTransformer | None = None
) -> PublishedCircuit:
    """Reads a published circuit from a `viz_data.pt`.

    task: its name; None takes it from the published layout `viz/<model>/<task>/<sweep>/<k>/viz_data.pt`, if the file lies so.
    model: its model, to read weights from.
    Raises ValueError, one line, if the file is none, contradicts itself or does not fit the model.
    """
    file = Path(path)
    data = read_viz_data(file)
    named_model, named_task = _published_names(file)
    name = task or named_task or "unknown"
    loss = data.loss / 2
    circuit = Circuit(
        task=name,
        model=Origin(where=named_model or "", hash=None),
        task_origin=Origin(where="" if name == "unknown" else name, hash=None),
        tokenizer=Origin(where="", hash=None),
        nodes=data.nodes,
        nodes_total=data.nodes_total,
        edges=tuple(Edge(edge.source, edge.target, None) for edge in sorted(data.effects.edges, key=_edge_place)),
        edges_embed=None,
        edges_unembed=None,
        edges_bias=tuple(sorted({edge.target for edge in data.effects.biases}, key=place)),
        constant_nodes=None,
        stranded_nodes=None,
        ablation=None,
        target_loss=None,
        loss=None,
        calibrated_loss=None,
        model_loss=None,
        empty_loss=None,
        accuracy=None,
        published_loss=PublishedLoss(circuit=loss, model=data.model_loss / 2),
        node_effects=tuple(x / 2 - loss for x in data.node_losses),
        recipe=data.prune_config or {},
        seed=None,
    )
    found = PublishedCircuit(
        circuit=circuit,
        source=Origin(where=os.path.abspath(file), hash=file_hash(file)),
        loss_stored=data.loss,
        model_loss_stored=data.model_loss,
        node_losses_stored=data.node_losses,
        layer_losses_stored=data.layer_losses,
        effects=data.effects,
        connections=data.connections,
        samples=data.samples,
        task_samples=data.task_samples,
        pruning_curve=data.curve,
        config=data.config,
        prune_config=data.prune_config,
        notes=(*data.notes, *_ambiguities(data)),
    )
    return found if model is None else _with_model(found, model)


def load_published(folder: str | Path) -> PublishedCircuit:
    """Reads what `PublishedCircuit.save` wrote. Raises ValueError, one line, if it is absent, damaged or edited."""
    where = Path(folder)
    circuit = load_circuit(where)
    stored = read_json(where / PUBLISHED_FILE)
    check_format(stored, KIND, FORMAT_VERSION, where)
    tensors = read_tensors(where / SAMPLES_FILE)
    if file_hash(where / SAMPLES_FILE) != stored.get("samples_sha256"):
        raise ValueError(
            f"{where / SAMPLES_FILE} is not the file this circuit was saved with (hash differs); import it again"
        )
    try:
        return _parse(stored, circuit, tensors)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"{where / PUBLISHED_FILE} is damaged ({type(error).__name__}: {said}); import it again"
        ) from None


def _parse(stored: Mapping[str, Any], circuit: Circuit, tensors: Mapping[str, Tensor]) -> PublishedCircuit:
    losses = tuple(float(loss) for loss in stored["node_losses_stored"])
    if len(losses) != len(circuit.nodes):
        raise ValueError(f"{len(losses)} node losses for {len(circuit.nodes)} nodes")
    connections, compared, task = (stored[name] for name in ("connections", "comparison", "task_nodes"))
    return PublishedCircuit(
        circuit=circuit,
        source=Origin(**stored["source"]),
        loss_stored=float(stored["loss_stored"]),
        model_loss_stored=float(stored["model_loss_stored"]),
        node_losses_stored=losses,
        layer_losses_stored={name: float(loss) for name, loss in stored["layer_losses_stored"].items()},
        effects=parts.read_table(stored["effects"]),
        connections=None if connections is None else parts.read_table(connections),
        samples=parts.unpack_samples(stored["samples"], tensors),
        task_samples=None if task is None else parts.unpack_task_samples(task, tensors),
        pruning_curve=tuple((int(step), float(loss)) for step, loss in stored["pruning_curve"]),
        config=stored["config"],
        prune_config=stored["prune_config"],
        comparison=None if compared is None else read_comparison(compared),
        notes=tuple(stored["notes"]),
    )


def _published_names(file: Path) -> tuple[str | None, str | None]:
    """(model, task) of a file that lies as it was published."""
    *_, viz, model, task, _, _, _ = ("",) * 6 + file.absolute().parts
    return (model, task) if viz == "viz" else (None, None)


def _ambiguities(data: VizData) -> list[str]:
    notes = ["which prompts the losses were measured on is not said"]
    if data.effects.edges or data.effects.biases:
        notes.append("whether the effects of edges are doubled like the stored losses is not said; kept raw")
    if data.layer_losses:
        notes.append("whether layer losses are doubled like the other stored losses is not said; kept raw")
    if data.curve:
        notes.append("losses of the pruning curve are stored ones, not halved")
    return notes


def _edge_place(edge: EdgeValue | Edge) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    return place(edge.target), place(edge.source)


# --- with the model


def _with_model(found: PublishedCircuit, model: SparseTransformer) -> PublishedCircuit:
    """Edges with their weights, and how they compare with what the file lists."""
    _check_config(found.config, model)
    nodes, samples = found.circuit.nodes, found.task_samples
    check_nodes(nodes, model.widths)
    prompts = set() if samples is None else {token for text in samples.documents for token in text.tolist()}
    beyond = [token for token in prompts if not 0 <= token < model.config.vocab_size]
    if beyond:
        raise ValueError(
            f"task_samples have token {beyond[0]}, the model has {model.config.vocab_size} tokens; give the file's own model"
        )
    edges = find_edges(model, nodes, prompts, ())
    where = "" if model.source is None else os.path.abspath(model.source)
    circuit = found.circuit.replace(
        model=Origin(where=where or found.circuit.model.where, hash=model_hash(model)),
        tokenizer=Origin(where=where, hash=None),
        edges=edges.edges,
        edges_embed=edges.edges_embed if prompts else None,
        edges_bias=edges.edges_bias,
        constant_nodes=edges.constant if prompts else None,
    )
    total = sum(model.widths[site] for site in node_sites(model.config.n_layer))
    counts = f"the file counts {circuit.nodes_total} nodes in the whole model, the given model has {total}"
    comparison = compare(found.effects, found.connections, edges.edges, edges.edges_bias)
    notes = (*found.notes, counts) if total != circuit.nodes_total else found.notes
    return found.replace(circuit=circuit, comparison=comparison, notes=notes)


def _check_config(config: Mapping[str, Any], model: SparseTransformer) -> None:
    """Raises ValueError where the file says that its model is another one. Options under other names are not compared."""
    given = {"d_mlp": config.get("n_mlp"), **{name: x for name, x in config.items() if x is not None}}
    shared = ("n_layer", "d_model", "n_head", "d_head", "vocab_size", "bias", "sink", "afrac")
    own = {name: getattr(model.config, name) for name in shared}
    for name, value in {**own, "d_mlp": model.config.mlp_width}.items():
        if given.get(name) not in (None, value):
            raise ValueError(
                f"the published circuit is of a model with {name} {given[name]}, the given one has {value}; give its own model"
            )
