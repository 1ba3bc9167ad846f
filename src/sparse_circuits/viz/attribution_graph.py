"""One prompt through a circuit, in the JSON of attribution graphs that the page of the package circuit-tracer draws.

A circuit's node is one thing at every token; an attribution graph has a copy of it per token. For one recorded prompt:

1. What a node *adds* at a token is its activation in the circuit minus its ablation value. Where that is nothing there is
   no copy of it.
2. The prompt's tokens are embedding nodes; the two completions are logit nodes at the last token.
3. A link says what its source adds to its target's input, compared with the source ablated:
       weight edge        weight * adds, at the same token; before the target's AbsTopK or GELU
       v -> resid_delta   weight * pattern[query, key] * adds at the key; from the key's token to the query's
       residual           adds, from a resid_delta to every later reader of its channel
       embed              the token's embedding entry, to every reader of its channel (nothing is ablated there)
       unembed            weight * adds at the last token
   What act_in reads is stated before the norm, one factor per token away from what arrives; what the logits read is
   stated before the final norm and its gains, so shares of a logit are exact as far as those gains agree.
4. Queries and keys act through the pattern, not by adding: links lead into their copies and none out of them.

The links into a copy sum to how far its input lies from its input with every kept source ablated and no embedding,
patterns and norms held, up to the rounding of the document (five digits, three for patterns). They leave out what no
document says: tokens that no training prompt has, learned positions, the bigram table, and what a residual stream with
its own AbsTopK or ReLU loses.

The page knows no sites, so each is a layer of its own: `layer` counts the node sites in forward order (`document.sites`)
and the node's name is its label. The page would look up a node's examples on a public host; a list of places per layer
that begin with `./` keeps it on its own server. Schema: circuit_tracer/frontend/graph_models.py, schema_version 1.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sparse_circuits.viz.document import Document, ExampleView, NodeView, Rows, TokenEdgeView
from sparse_circuits.viz.graphml import shared_readers, visible

SCHEMA_VERSION = 1
NODE, TOKEN, COMPLETION = "cross layer transcoder", "embedding", "logit"
"""The `feature_type` of the three kinds of nodes; the page shows labels and activations for the first name only."""
_SLUG = re.compile(r"[A-Za-z0-9._-]+")

Link = tuple[str, str, float]
Fields = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    """One example of a document, and what every node adds there."""

    document: Document
    place: int
    """Which of the document's examples."""
    adds: tuple[tuple[float, ...], ...]
    """Activation minus ablation value, [node][token]; 0 where they agree to the digits that the document keeps."""
    layers: Mapping[str, int]
    """Site -> layer of the page."""

    @property
    def example(self) -> ExampleView:
        return self.document.examples[self.place]

    def copy_id(self, node: int, token: int) -> str:
        view = self.document.nodes[node]
        return f"{self.layers[view.site]}_{view.channel}_{token}"

    def completion_id(self, label: int) -> str:
        return f"{len(self.layers)}_{label}_{len(self.example.tokens) - 1}"

    def adding(self, node: int) -> Iterator[tuple[int, float]]:
        """(token, what the node adds there) wherever it has a copy."""
        return ((token, value) for token, value in enumerate(self.adds[node]) if value)


def attribution_graph(document: Document, *, pair: int = 0, label: int = 0, slug: str = "circuit") -> Fields:
    """The attribution graph of one of the document's prompts, as plain JSON values: metadata, qParams, nodes, links.

    pair, label: which prompt; label 0 is class A, 1 is class B. slug: the page reads `SLUG.json`.
    Raises ValueError for a prompt the document does not have or recorded no attention on, for a slug that is no file
    name, and for a document without the weights, ablation values or finite activations that links are made of.
    """
    if not _SLUG.fullmatch(slug):
        raise ValueError(f"the graph's name {slug!r} is no plain file name; use letters, digits, '.', '_' and '-'")
    place = _find(document, pair, label)
    prompt = _Prompt(
        document=document,
        place=place,
        adds=tuple(_adds(node, place) for node in document.nodes),
        layers={site.site: layer for layer, site in enumerate(document.sites)},
    )
    nodes = [*_tokens(prompt), *_copies(prompt), *_completions(prompt)]
    known = {node["node_id"] for node in nodes}
    links = [
        {"source": source, "target": target, "weight": weight}
        for source, target, weight in (*_token_links(prompt), *_node_links(prompt), *_completion_links(prompt))
        if weight and source in known and target in known
    ]
    right = prompt.completion_id(prompt.example.label)
    chosen = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": right, "sg_pos": ""}
    return {"metadata": _metadata(prompt, slug), "qParams": chosen, "nodes": nodes, "links": links}


def _find(document: Document, pair: int, label: int) -> int:
    """Place of the prompt among the document's examples."""
    for place, example in enumerate(document.examples):
        if (example.pair, example.label) == (pair, label):
            return place
    allowed = sorted({example.pair for example in document.examples})
    raise ValueError(
        f"no prompt of pair {pair}, label {label}; allowed: pairs {allowed[0]}..{allowed[-1]}, label 0 or 1"
    )


def _adds(node: NodeView, place: int) -> tuple[float, ...]:
    if node.ablation_value is None:
        raise ValueError(f"{node.name} has no ablation value to compare with; give the circuit some (with_reference)")
    ablated, rounded = node.ablation_value, float(f"{node.ablation_value:.5g}")  # activations come with five digits
    row = tuple(_finite(value, node.name) for value in node.heat_circuit[place])
    return tuple(0.0 if value == rounded else value - ablated for value in row)


def _finite(value: float | None, where: str) -> float:
    if value is None:
        raise ValueError(f"{where} is not finite on this prompt, so nothing can be attributed; choose another prompt")
    return value


def _metadata(prompt: _Prompt, slug: str) -> Fields:
    model = (prompt.document.header.origins["model"][1] or "model")[:12]
    return {
        "slug": slug,
        "scan": "custom-sparse-circuits",  # `custom-`: where examples would lie is said per layer
        "transcoder_list": [f"./data/{model}/{site}" for site in prompt.layers],
        "prompt_tokens": list(prompt.example.tokens),
        "prompt": "".join(prompt.example.tokens),
        "node_threshold": None,
        "schema_version": SCHEMA_VERSION,
    }


def _tokens(prompt: _Prompt) -> Iterator[Fields]:
    for token, text in enumerate(prompt.example.tokens):
        yield _entry(prompt, f"E_{token}", TOKEN, "E", token, token, clerp=f"Emb: {visible(text)}")


def _copies(prompt: _Prompt) -> Iterator[Fields]:
    for index, node in enumerate(prompt.document.nodes):
        layer, heat = prompt.layers[node.site], node.heat_circuit[prompt.place]
        for token, _ in prompt.adding(index):
            fields = {"clerp": node.name, "activation": heat[token]}
            feature = cantor_pair(layer, node.channel)
            yield _entry(prompt, prompt.copy_id(index, token), NODE, str(layer), feature, token, **fields)


def _completions(prompt: _Prompt) -> Iterator[Fields]:
    """Class A, then class B. The page reads a logit's text and chance out of its label, and the text ends at a quote."""
    example, last = prompt.example, len(prompt.example.tokens) - 1
    chance = _finite(example.p_circuit, "the chance of the right completion")
    texts = {example.label: example.right, 1 - example.label: example.wrong}
    for label, text in sorted(texts.items()):
        right = label == example.label
        p = chance if right else 1 - chance
        shown = visible(text).replace('"', "\u201d")
        fields = {"token_prob": p, "is_target_logit": right, "clerp": f'Output "{shown}" (p={p:.3f})'}
        yield _entry(prompt, prompt.completion_id(label), COMPLETION, str(len(prompt.layers)), label, last, **fields)


def _entry(prompt: _Prompt, name: str, kind: str, layer: str, feature: int, token: int, **fields: Any) -> Fields:
    """A node with every field of the schema. `influence`, a threshold's input, is null: a circuit is pruned already."""
    behind = len(prompt.example.tokens) - 1 - token
    return {
        "node_id": name,
        "feature": feature,
        "layer": layer,
        "ctx_idx": token,
        "feature_type": kind,
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": behind,
        "jsNodeId": f"{name.rpartition('_')[0]}-{behind}",
        "clerp": "",
        "influence": None,
        "activation": None,
        **fields,
    }


def cantor_pair(x: int, y: int) -> int:
    """One number for two, neither negative; the page takes it apart again to show layer and channel."""
    return (x + y) * (x + y + 1) // 2 + y


def _token_links(prompt: _Prompt) -> Iterator[Link]:
    """Embedding entries of the prompt's tokens, to every node that reads their channel."""
    later = shared_readers(prompt.document)
    for token, text in enumerate(prompt.example.tokens):
        for entry in _entries_of(prompt.document.embed, text):
            for node in (entry.node, *later.get(entry.node, ())):
                yield f"E_{token}", prompt.copy_id(node, token), entry.weight


def _entries_of(entries: Iterable[TokenEdgeView], text: str) -> list[TokenEdgeView]:
    """The entries of the token of that text: examples have texts, entries have ids."""
    found = [entry for entry in entries if entry.text == text]
    ids = sorted({entry.token for entry in found})
    if len(ids) > 1:
        raise ValueError(f"the tokens {ids} have the same text {text!r}; choose a prompt without it")
    return found


def _node_links(prompt: _Prompt) -> Iterator[Link]:
    """Weight edges, then residual links."""
    document = prompt.document
    for edge in document.edges:
        source, target = document.nodes[edge.source], document.nodes[edge.target]
        if edge.weight is None:
            arrow = f"{source.name} -> {target.name}"
            raise ValueError(
                f"the weight of {arrow} is not known; import the circuit with its model (circuit import --model)"
            )
        if source.kind == "attn.v":
            yield from _head_links(prompt, edge.source, edge.target, edge.weight)
            continue
        for token, adds in prompt.adding(edge.source):
            yield prompt.copy_id(edge.source, token), prompt.copy_id(edge.target, token), edge.weight * adds
    for link in document.links:
        for token, adds in prompt.adding(link.source):
            yield prompt.copy_id(link.source, token), prompt.copy_id(link.target, token), adds


def _head_links(prompt: _Prompt, source: int, target: int, weight: float) -> Iterator[Link]:
    """From a v at every key to what its head writes at every query that sees the key."""
    view = prompt.document.nodes[source]
    pattern = _pattern(prompt, view)
    for key, adds in prompt.adding(source):
        for query in range(key, len(pattern)):
            share = _finite(pattern[query][key], f"the attention of {view.name}")
            yield prompt.copy_id(source, key), prompt.copy_id(target, query), weight * share * adds


def _pattern(prompt: _Prompt, node: NodeView) -> Rows:
    """[query][key] of the node's head in the circuit; a sink is the last column, which holds no token."""
    examples = prompt.document.examples
    for head in prompt.document.heads:
        if (head.layer, head.head) == (node.layer, node.head):
            if prompt.place < len(head.circuit):
                return head.circuit[prompt.place]
            pairs = [example.pair for example in examples[: len(head.circuit)]]
            raise ValueError(
                f"attention was not recorded on pair {prompt.example.pair}; allowed: pairs 0..{max(pairs)}"
            )
    raise ValueError(f"the document has no attention of the head of {node.name}; build it again from the circuit")


def _completion_links(prompt: _Prompt) -> Iterator[Link]:
    example = prompt.example
    last = len(example.tokens) - 1
    for text, label in ((example.right, example.label), (example.wrong, 1 - example.label)):
        for entry in _entries_of(prompt.document.unembed, text):
            source, target = prompt.copy_id(entry.node, last), prompt.completion_id(label)
            yield source, target, entry.weight * prompt.adds[entry.node][last]
