"""A circuit as GraphML 1.0, for networkx, Gephi, Cytoscape and whatever else reads graphs.

1. Declare every attribute once, as a <key>.
2. Nodes: the circuit's nodes `n0`, `n1`, ... in forward order; beside them a token per embedding entry (`in7` for token
   id 7) and a completion per unembedding entry (`out7`).
3. Directed edges, by `kind`: `weight` (counted edges), `embed` and `unembed` (entries, counted beside them), and what is
   structural and never counted: `embed_shared` (a later reader of a channel that a token's entry writes) and `residual`
   (a resid_delta and a later reader of its channel), which has no weight of its own.

What is not known is left out. Texts are written as Python writes them in a string literal (`visible`), since XML 1.0 has
no way to say most control characters.

Source: the GraphML primer and schema (graphml.graphdrawing.org).
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping

from sparse_circuits.viz.document import Document, NodeView, TokenEdgeView

NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
KEYS: Mapping[str, Mapping[str, str]] = {
    "graph": {name: "string" for name in ("task", "statement", "model_sha256", "task_sha256", "tokenizer_sha256")},
    "node": {
        "name": "string",
        "kind": "string",
        "site": "string",
        "layer": "int",
        "channel": "int",
        "head": "int",
        "effect": "double",
        "bias": "double",
        "ablation_value": "double",
        "constant": "boolean",
        "stranded": "boolean",
        "token": "int",
        "text": "string",
    },
    "edge": {"kind": "string", "weight": "double"},
}
"""What carries which attributes, and their GraphML types. A node's fields mean what they mean in `NodeView`."""

Value = str | int | float | None


def graphml_text(document: Document) -> str:
    """The circuit of a view document as the text of a GraphML file."""
    return tree_text(graphml_tree(document))


def graphml_tree(document: Document) -> ET.Element:
    """The same as an element tree: `graph/node` and `graph/edge` below the root."""
    root = ET.Element("graphml", xmlns=NAMESPACE)
    for owner, attributes in KEYS.items():
        for name, kind in attributes.items():
            key = {"id": f"{owner}.{name}", "for": owner, "attr.name": name, "attr.type": kind}
            ET.SubElement(root, "key", key)
    graph = ET.SubElement(root, "graph", {"id": "circuit", "edgedefault": "directed"})
    _describe(graph, "graph", _origin_values(document))
    for name, values in _nodes(document):
        _describe(ET.SubElement(graph, "node", id=name), "node", values)
    for source, target, kind, weight in _edges(document):
        edge = ET.SubElement(graph, "edge", source=source, target=target)
        _describe(edge, "edge", {"kind": kind, "weight": weight})
    return root


def tree_text(root: ET.Element) -> str:
    """An element tree as indented XML with its declaration; meant to be written as UTF-8."""
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def visible(text: str) -> str:
    """The text as a Python string literal has it between the quotes: one line, printable, and it can be read back.

    Backslashes are doubled and whatever does not print (control characters, lone surrogates) is escaped, `\\n` say.
    """
    return "".join(
        "\\\\" if letter == "\\" else letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def _describe(element: ET.Element, owner: str, values: Mapping[str, Value]) -> None:
    """Adds the attributes that are known as <data>."""
    for name, value in values.items():
        if value is not None:
            ET.SubElement(element, "data", key=f"{owner}.{name}").text = _written(value)


def _written(value: str | int | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return visible(value) if isinstance(value, str) else repr(value)


def _origin_values(document: Document) -> dict[str, Value]:
    header = document.header
    hashes = {f"{name}_sha256": digest for name, (_, digest) in header.origins.items()}
    return {"task": header.task, "statement": header.statement, **hashes}


def _nodes(document: Document) -> Iterator[tuple[str, dict[str, Value]]]:
    """(id, attributes) of the circuit's nodes, the tokens and the completions."""
    own = [name for name in KEYS["node"] if name in NodeView.model_fields]
    for index, node in enumerate(document.nodes):
        yield f"n{index}", {name: getattr(node, name) for name in own}
    yield from _ends(document.embed, "in", "token")
    yield from _ends(document.unembed, "out", "completion")


def _ends(entries: tuple[TokenEdgeView, ...], prefix: str, kind: str) -> Iterator[tuple[str, dict[str, Value]]]:
    """Every token of the entries once."""
    for token, text in {entry.token: entry.text for entry in entries}.items():
        yield f"{prefix}{token}", {"kind": kind, "token": token, "text": text}


def _edges(document: Document) -> Iterator[tuple[str, str, str, float | None]]:
    """(source id, target id, kind, weight) of everything a signal travels along, queries and keys aside."""
    for edge in document.edges:
        yield f"n{edge.source}", f"n{edge.target}", "weight", edge.weight
    later = shared_readers(document)
    for entry in document.embed:
        yield f"in{entry.token}", f"n{entry.node}", "embed", entry.weight
        for node in later.get(entry.node, ()):
            yield f"in{entry.token}", f"n{node}", "embed_shared", entry.weight
    for entry in document.unembed:
        yield f"n{entry.node}", f"out{entry.token}", "unembed", entry.weight
    for link in document.links:
        yield f"n{link.source}", f"n{link.target}", "residual", None


def shared_readers(document: Document) -> dict[int, list[int]]:
    """First reader of a channel that embedding entries write -> the later ones, as indices of nodes."""
    later: dict[int, list[int]] = {}
    for link in document.shared:
        later.setdefault(link.source, []).append(link.target)
    return later
