"""Edges of a set of nodes, and which of them lie on a path from the prompt to the answer (METHOD D5).

Counted edges are nonzero weights between kept nodes. Beside them, never mixed in: embedding entries of prompt tokens that
a kept reader reads, unembedding entries of the completions at kept final_resid nodes, nonzero biases of kept nodes.

A path may also use what is structural: q[c] and k[c] act on the output of their head (through kept v channels, or through
constant ones where a sink can take attention away); resid_delta[c] reaches every later act_in[c] and final_resid[c].
Channels of act_in beyond d_model (concatenated positions) and residual channels that learned positions write vary along
the prompt, so a path may begin there too. A node with no path to the logits is a candidate for removal; one that no token
reaches is constant.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from sparse_circuits.model.edge_weights import site_biases, site_pairs
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import FINAL_SITE, Edge, Node, TokenEdge, node_sites, split_site

TOKENS, LOGITS = Node("tokens", 0), Node("logits", 0)
"""Ends of every path; not nodes of the circuit."""


@dataclass(frozen=True, kw_only=True)
class EdgeSet:
    """What METHOD D5 counts, and what the paths say."""

    edges: tuple[Edge, ...]
    edges_embed: tuple[TokenEdge, ...]
    edges_unembed: tuple[TokenEdge, ...]
    edges_bias: tuple[Node, ...]
    candidates: tuple[Node, ...]
    """Nodes without a path to the logits."""
    constant: tuple[Node, ...]
    """Nodes without a path from a token."""


def find_edges(
    model: SparseTransformer,
    nodes: Sequence[Node],
    prompt_tokens: Iterable[int],
    completions: Iterable[int],
    cut: Iterable[Edge] = (),
) -> EdgeSet:
    """Edges and reachability of `nodes`, for a task whose training prompts use these tokens and completions.

    cut: weights between them that the circuit does without.
    """
    channels, gone = _by_site(nodes), {edge[:2] for edge in cut}
    edges = tuple(edge for edge in _counted(model, channels) if edge[:2] not in gone)
    embed = _embed_edges(model, channels, sorted(set(prompt_tokens)))
    unembed = _unembed_edges(model, channels.get(FINAL_SITE, []), sorted(set(completions)))
    biases = site_biases(model)
    biased = tuple(node for node in nodes if node.site in biases and float(biases[node.site][node.channel]) != 0)
    forward = _graph(model, nodes, edges, embed, unembed)
    backward: dict[Node, set[Node]] = defaultdict(set)
    for source, targets in forward.items():
        for target in targets:
            backward[target].add(source)
    from_tokens, to_logits = _reached(forward, TOKENS), _reached(backward, LOGITS)
    return EdgeSet(
        edges=edges,
        edges_embed=tuple(edge for edge, _ in embed),
        edges_unembed=unembed,
        edges_bias=biased,
        candidates=tuple(node for node in nodes if node not in to_logits),
        constant=tuple(node for node in nodes if node not in from_tokens),
    )


def _by_site(nodes: Iterable[Node]) -> dict[str, list[int]]:
    channels: dict[str, list[int]] = defaultdict(list)
    for node in nodes:
        channels[node.site].append(node.channel)
    return channels


def _nonzero(weight: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Iterable[tuple[int, int, float]]:
    """(row, column, weight) of the nonzero entries of a submatrix."""
    part = weight[list(rows)][:, list(columns)].cpu()
    for i, j in part.nonzero().tolist():
        yield rows[i], columns[j], float(part[i, j])


def _counted(model: SparseTransformer, channels: dict[str, list[int]]) -> Iterable[Edge]:
    for pair in site_pairs(model):
        if pair.source in channels and pair.target in channels:
            for row, column, value in _nonzero(pair.weight, channels[pair.target], channels[pair.source]):
                yield Edge(Node(pair.source, column), Node(pair.target, row), value)


def _embed_edges(
    model: SparseTransformer, channels: dict[str, list[int]], tokens: Sequence[int]
) -> tuple[tuple[TokenEdge, tuple[Node, ...]], ...]:
    """Nonzero E[t, c], each once, with every kept node that reads channel c from the residual stream."""
    readers = _readers(channels)
    columns = sorted(channel for channel in readers if channel < model.config.d_model)
    found = _nonzero(model.embed.weight.detach(), tokens, columns) if tokens and columns else ()
    return tuple((TokenEdge(token, readers[c][0], value), tuple(readers[c])) for token, c, value in found)


def _readers(channels: dict[str, list[int]]) -> dict[int, list[Node]]:
    """Channel -> the nodes that read it from the residual stream (or, beyond d_model, from the positions)."""
    readers: dict[int, list[Node]] = defaultdict(list)
    for site, kept in channels.items():
        if split_site(site)[1].endswith("act_in") or site == FINAL_SITE:
            for channel in kept:
                readers[channel].append(Node(site, channel))
    return readers


def _position_readers(model: SparseTransformer, channels: dict[str, list[int]]) -> Iterable[Node]:
    """Kept nodes that read a nonzero position channel."""
    if model.positions is None:
        return
    shift = model.config.d_model if model.config.positions == "concat" else 0
    written = (model.positions.weight.detach() != 0).any(0).nonzero().flatten().tolist()
    readers = _readers(channels)
    for channel in written:
        yield from readers.get(channel + shift, ())


def _unembed_edges(model: SparseTransformer, kept: Sequence[int], completions: Sequence[int]) -> tuple[TokenEdge, ...]:
    found = _nonzero(model.unembed.weight.detach(), completions, kept) if kept and completions else ()
    return tuple(TokenEdge(token, Node(FINAL_SITE, channel), value) for token, channel, value in found)


def _graph(
    model: SparseTransformer,
    nodes: Sequence[Node],
    edges: Iterable[Edge],
    embed: Iterable[tuple[TokenEdge, tuple[Node, ...]]],
    unembed: Iterable[TokenEdge],
) -> dict[Node, set[Node]]:
    """Everything a signal can travel along, source -> targets."""
    graph: dict[Node, set[Node]] = defaultdict(set)
    for edge in edges:
        graph[edge.source].add(edge.target)
    for _, readers in embed:
        graph[TOKENS].update(readers)
    for edge in unembed:
        graph[edge.node].add(LOGITS)
    graph[TOKENS].update(_position_readers(model, _by_site(nodes)))
    for source, target in _residual_links(model, nodes):
        graph[source].add(target)
    for source, target in _head_links(model, nodes):
        graph[source].add(target)
    return graph


def residual_links(n_layer: int, nodes: Sequence[Node]) -> Iterable[tuple[Node, Node]]:
    """resid_delta[c] -> every later act_in[c] and final_resid[c] among the nodes: structural, not counted."""
    order = {site: place for place, site in enumerate(node_sites(n_layer))}
    for source in nodes:
        for target in nodes:
            reads = target.site == FINAL_SITE or target.site.endswith("act_in")
            writes = source.site.endswith("resid_delta") and source.channel == target.channel
            if writes and reads and order[source.site] < order[target.site]:
                yield source, target


def _residual_links(model: SparseTransformer, nodes: Sequence[Node]) -> Iterable[tuple[Node, Node]]:
    return residual_links(model.config.n_layer, nodes)


def _head_links(model: SparseTransformer, nodes: Sequence[Node]) -> Iterable[tuple[Node, Node]]:
    """q[c] and k[c] -> what their head writes.

    A query matters only where it can choose: between keys that differ (a kept k[c]) or between keys and sink.
    """
    width, kept = model.config.d_head, set(nodes)
    sink = model.config.sink
    for pair in site_pairs(model):
        if not pair.target.endswith("attn.resid_delta"):
            continue
        layer = pair.source.removesuffix(".v")
        for row, column, _ in _nonzero(
            pair.weight, [n.channel for n in nodes if n.site == pair.target], list(range(pair.weight.shape[1]))
        ):
            if not sink and Node(pair.source, column) not in kept:
                continue
            for node in nodes:
                same_head = node.site in (f"{layer}.q", f"{layer}.k") and node.channel // width == column // width
                chooses = node.site.endswith(".k") or sink or Node(f"{layer}.k", node.channel) in kept
                if same_head and chooses:
                    yield node, Node(pair.target, row)


def _reached(graph: dict[Node, set[Node]], start: Node) -> set[Node]:
    seen, todo = {start}, [start]
    while todo:
        for target in graph.get(todo.pop(), ()):
            if target not in seen:
                seen.add(target)
                todo.append(target)
    return seen
