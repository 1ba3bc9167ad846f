"""The view document: everything a viewer shows of one circuit, as typed plain values.

It is the contract between Python and what draws: the page (assets/*.js), the terminal report, the server. They show
what is here and compute nothing about the model. Nodes are referred to by their index in `nodes`. A number that is not
finite, or that an imported circuit does not say, is null; activations keep five significant digits.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from torch import Tensor

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.circuit.edges import residual_links
from sparse_circuits.config import Config
from sparse_circuits.data.tokenizer import token_text
from sparse_circuits.explain.examples import Example, HeadHeat, NodeHeat, TaskHeat, head_of, task_heat
from sparse_circuits.json_values import finite, plain
from sparse_circuits.model.edge_weights import site_biases
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import FINAL_SITE, Node, TokenEdge, node_sites, split_site
from sparse_circuits.tasks.task import Task
from sparse_circuits.validate.card import ReportCard
from sparse_circuits.validate.card_folder import card_beside
from sparse_circuits.viz.card_view import CardView, card_view

FORMAT_VERSION = 1
Rows = tuple[tuple[float | None, ...], ...]


class Losses(Config):
    """Task loss per split, nats."""

    train: float | None = None
    val: float | None = None
    test: float | None = None


class Header(Config):
    """The circuit as a whole: what it is for, what it scores, how large it is, how it was found."""

    task: str
    statement: str
    """What the task asks, in words."""
    determined_by: str
    """How the prompt determines the answer."""
    origins: dict[str, tuple[str, str | None]]
    """model, task, tokenizer -> (where, sha256)."""
    n_layer: int
    d_head: int
    loss: Losses
    """Uncalibrated loss of the circuit."""
    calibrated_loss: Losses
    model_loss: Losses
    empty_loss: float | None
    accuracy: float | None
    published_loss: dict[str, float | None] | None
    """circuit, model -> the loss an imported circuit came with, nats; on which prompts is not said."""
    target_loss: float | None
    target_on: Literal["loss", "calibrated"]
    met_target: bool | None
    ablation: str | None
    loss_kind: str
    calibration_scale: float | None
    calibration_shift: float | None
    nodes: int
    nodes_total: int
    edges: int
    cut_edges: int
    edges_embed: int | None
    edges_unembed: int | None
    edges_bias: int
    constant_nodes: int | None
    stranded_nodes: int | None
    removable: int | None
    """Nodes and edges that could each go alone without missing the target; None where it was not measured."""
    seed: int | None
    reference: dict[str, Any]
    recipe: dict[str, Any]


class NodeView(Config):
    """One kept node, with its activations on the examples."""

    name: str
    site: str
    layer: int | None
    """None at final_resid."""
    kind: str
    """The site without its layer, e.g. `mlp.post_act`."""
    channel: int
    head: int | None
    """Attention head of a q, k or v channel."""
    effect: float | None
    """Rise of the loss where nodes were chosen when only this one is ablated, nats; None where it was not measured."""
    constant: bool | None
    stranded: bool | None
    bias: float | None
    """None where the site has no bias."""
    ablation_value: float | None
    heat_model: Rows
    """Full model, [example][token]."""
    heat_circuit: Rows
    """Circuit, [example][token]."""


class EdgeView(Config):
    """A nonzero weight between two kept nodes; null in a circuit imported without its model."""

    source: int
    target: int
    weight: float | None


class TokenEdgeView(Config):
    """A nonzero embedding or unembedding entry between a token and a kept node."""

    token: int
    text: str
    node: int
    weight: float


class LinkView(Config):
    """Two nodes on the same residual channel. Structural, never counted as an edge."""

    source: int
    target: int


class SiteCount(Config):
    """Kept nodes at one site."""

    site: str
    layer: int | None
    kind: str
    nodes: int
    width: int


class MatrixCount(Config):
    """Kept edges between two sites."""

    source: str
    target: str
    edges: int


class CurveView(Config):
    """Loss with the k most important nodes kept, on the prompts that chose them."""

    nodes: int
    loss: float | None
    standard_error: float | None


class ExampleView(Config):
    """One prompt of the task."""

    pair: int
    label: int
    """0: class A, 1: class B."""
    tokens: tuple[str, ...]
    right: str
    wrong: str
    p_model: float | None
    p_circuit: float | None


class HeadView(Config):
    """Attention of one head on the first examples, [example][query][key], the sink as last column."""

    layer: int
    head: int
    model: tuple[Rows, ...]
    circuit: tuple[Rows, ...]


class Document(Config):
    """All of it."""

    format_version: int = FORMAT_VERSION
    header: Header
    nodes: tuple[NodeView, ...]
    edges: tuple[EdgeView, ...]
    embed: tuple[TokenEdgeView, ...]
    unembed: tuple[TokenEdgeView, ...]
    links: tuple[LinkView, ...]
    """What `source`, a resid_delta, adds, `target` reads later."""
    shared: tuple[LinkView, ...]
    """`target` reads a channel that embedding entries write and `source` reads first."""
    sites: tuple[SiteCount, ...]
    """Every node site in forward order, also those without kept nodes."""
    matrices: tuple[MatrixCount, ...]
    """Every pair of sites that has edges, in forward order."""
    curve: tuple[CurveView, ...]
    split: str
    """Split the examples come from."""
    examples: tuple[ExampleView, ...]
    heads: tuple[HeadView, ...]
    sink: bool
    """Whether attention patterns end in a sink column."""
    card: CardView | None = None
    """The report card; None for a circuit that was not validated."""


def build_document(
    circuit: Circuit,
    model: SparseTransformer,
    task: Task,
    tokenizer: Any,
    *,
    n_pairs: int = 6,
    split: str = "test",
    seed: int = 0,
    card: ReportCard | None = None,
) -> Document:
    """Records the examples and puts everything into view form.

    card: by default the one in the circuit's folder, if there is one. Raises ValueError as `task_heat` does, and for the card of
    another circuit.
    """
    found = card_beside(circuit) if card is None else card
    heat = task_heat(circuit, model, task, tokenizer, n_pairs=n_pairs, split=split, seed=seed)
    index = {node: i for i, node in enumerate(circuit.nodes)}

    def links(pairs: Iterable[tuple[Node, Node]]) -> tuple[LinkView, ...]:
        return tuple(LinkView(source=index[a], target=index[b]) for a, b in pairs)

    return Document(
        header=_header(circuit, model, task),
        nodes=_nodes(circuit, model, heat),
        edges=tuple(EdgeView(source=index[a], target=index[b], weight=weight) for a, b, weight in circuit.edges),
        embed=_token_edges(circuit.edges_embed or (), index, tokenizer),
        unembed=_token_edges(circuit.edges_unembed or (), index, tokenizer),
        links=links(residual_links(model.config.n_layer, circuit.nodes)),
        shared=links(_shared_reads(circuit)),
        sites=_site_counts(circuit, model),
        matrices=_matrix_counts(circuit, model.config.n_layer),
        curve=tuple(CurveView(**plain(vars(point))) for point in circuit.curve),
        split=heat.split,
        examples=tuple(_example(example, tokenizer) for example in heat.examples),
        heads=tuple(_head(head) for head in heat.heads),
        sink=heat.sink,
        card=None if found is None else card_view(found),
    )


def _shared_reads(circuit: Circuit) -> tuple[tuple[Node, Node], ...]:
    """(first reader, later reader) of channels that embedding entries write; those are listed at the first."""
    first = {edge.node.channel: edge.node for edge in circuit.edges_embed or ()}
    later = (node for node in circuit.nodes if node.site.endswith("act_in") or node.site == FINAL_SITE)
    return tuple((first[node.channel], node) for node in later if first.get(node.channel, node) != node)


def _header(circuit: Circuit, model: SparseTransformer, task: Task) -> Header:
    same = ("task", "target_loss", "target_on", "met_target", "ablation", "loss_kind", "nodes_total", "seed")
    sizes = ("nodes", "edges", "cut_edges", "edges_embed", "edges_unembed", "edges_bias", "constant_nodes")
    counted = (*sizes, "stranded_nodes", "removable")
    origins = {"model": circuit.model, "task": circuit.task_origin, "tokenizer": circuit.tokenizer}
    fields: dict[str, Any] = {name: getattr(circuit, name) for name in same}
    fields |= {name: None if (held := getattr(circuit, name)) is None else len(held) for name in counted}
    measured = {name: getattr(circuit, name) or Losses() for name in ("loss", "calibrated_loss", "model_loss")}
    fields |= {name: Losses(**plain(vars(held))) for name, held in measured.items()}
    fields |= {name: plain(getattr(circuit, name)) for name in ("empty_loss", "accuracy", "reference", "recipe")}
    fitted, published = circuit.calibration, circuit.published_loss
    return Header(
        **fields,
        published_loss=None if published is None else plain(vars(published)),
        statement=task.statement,
        determined_by=task.determined_by,
        origins={name: (origin.where, origin.hash) for name, origin in origins.items()},
        n_layer=model.config.n_layer,
        d_head=model.config.d_head,
        calibration_scale=None if fitted is None else finite(fitted.scale),
        calibration_shift=None if fitted is None else finite(fitted.shift),
    )


def _nodes(circuit: Circuit, model: SparseTransformer, heat: TaskHeat) -> tuple[NodeView, ...]:
    effects, biases = circuit.node_effects or (math.nan,) * len(circuit.nodes), site_biases(model)
    values, constant, stranded = circuit.values, circuit.constant_nodes, circuit.stranded_nodes

    def view(node: Node, effect: float, warmth: NodeHeat) -> NodeView:
        layer, kind = split_site(node.site)
        return NodeView(
            name=str(node),
            site=node.site,
            layer=layer,
            kind=kind,
            channel=node.channel,
            head=head_of(node, model.config.d_head),
            effect=finite(effect),
            constant=None if constant is None else node in constant,
            stranded=None if stranded is None else node in stranded,
            bias=finite(float(biases[node.site][node.channel])) if node.site in biases else None,
            ablation_value=None if values is None else finite(float(values[node.site][node.channel])),
            heat_model=tuple(_row(x) for x in warmth.model),
            heat_circuit=tuple(_row(x) for x in warmth.circuit),
        )

    return tuple(view(*triple) for triple in zip(circuit.nodes, effects, heat.nodes, strict=True))


def _token_edges(edges: Iterable[TokenEdge], index: Mapping[Node, int], tokenizer: Any) -> tuple[TokenEdgeView, ...]:
    return tuple(
        TokenEdgeView(token=e.token, text=token_text(tokenizer, e.token), node=index[e.node], weight=e.weight)
        for e in edges
    )


def _site_counts(circuit: Circuit, model: SparseTransformer) -> tuple[SiteCount, ...]:
    kept = Counter(node.site for node in circuit.nodes)
    places = ((site, *split_site(site)) for site in node_sites(model.config.n_layer))
    return tuple(
        SiteCount(site=site, layer=layer, kind=kind, nodes=kept[site], width=model.widths[site])
        for site, layer, kind in places
    )


def _matrix_counts(circuit: Circuit, n_layer: int) -> tuple[MatrixCount, ...]:
    counts = Counter((edge.source.site, edge.target.site) for edge in circuit.edges)
    order = {site: i for i, site in enumerate(node_sites(n_layer))}
    ranked = sorted(counts, key=lambda pair: (order[pair[0]], order[pair[1]]))
    return tuple(MatrixCount(source=a, target=b, edges=counts[a, b]) for a, b in ranked)


def _example(example: Example, tokenizer: Any) -> ExampleView:
    return ExampleView(
        pair=example.pair,
        label=example.label,
        tokens=tuple(token_text(tokenizer, token) for token in example.tokens),
        right=token_text(tokenizer, example.right),
        wrong=token_text(tokenizer, example.wrong),
        p_model=finite(example.p_model),
        p_circuit=finite(example.p_circuit),
    )


def _head(head: HeadHeat) -> HeadView:
    def patterns(tensors: tuple[Tensor, ...]) -> tuple[Rows, ...]:
        return tuple(tuple(_row(query, 3) for query in pattern) for pattern in tensors)

    return HeadView(layer=head.layer, head=head.head, model=patterns(head.model), circuit=patterns(head.circuit))


def _row(x: Tensor, digits: int = 5) -> tuple[float | None, ...]:
    return tuple(finite(float(f"{value:.{digits}g}")) for value in x.tolist())
