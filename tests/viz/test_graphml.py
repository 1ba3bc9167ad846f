"""A circuit as GraphML, read back by networkx: the same nodes, edges and texts as the view document."""

import ast
import io
import xml.etree.ElementTree as ET
from typing import Any

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_circuits.sites import Node
from sparse_circuits.viz.document import Document, build_document
from sparse_circuits.viz.graphml import KEYS, NAMESPACE, graphml_text, visible
from viz.made_up import made_up

HOSTILE = "\x00\x0b\r\n\t \ud800\ufffe\u2028&<]]>\"'\\n é 語"


def read(document: Document) -> Any:
    return networkx.read_graphml(io.BytesIO(graphml_text(document).encode("utf-8")))


@pytest.fixture(scope="module")
def document() -> Document:
    return build_document(*made_up(90), n_pairs=1)


@pytest.fixture(scope="module")
def graph(document: Document) -> Any:
    return read(document)


def test_networkx_reads_the_nodes(document: Document, graph: Any) -> None:
    assert type(graph) is networkx.DiGraph  # directed, and no two edges between the same nodes
    for index, node in enumerate(document.nodes):
        held = graph.nodes[f"n{index}"]
        assert Node.parse(held["name"]) == (held["site"], held["channel"])
        for name in ("layer", "kind", "head", "effect", "bias", "ablation_value", "constant", "stranded"):
            assert held.get(name) == getattr(node, name), name
    others = {name: held for name, held in graph.nodes.items() if not name.startswith("n")}
    ends = {("token", e.token, e.text) for e in document.embed} | {
        ("completion", e.token, e.text) for e in document.unembed
    }
    assert len(others) == len(ends)
    found = {(held["kind"], held["token"], ast.literal_eval(f"'''{held['text']} '''")[:-1]) for held in others.values()}
    assert found == ends


def test_networkx_reads_the_edges(document: Document, graph: Any) -> None:
    found: dict[str, dict[tuple[str, str], float | None]] = {}
    for source, target, held in graph.edges(data=True):
        found.setdefault(held["kind"], {})[source, target] = held.get("weight")
    assert found["weight"] == {(f"n{e.source}", f"n{e.target}"): e.weight for e in document.edges}
    assert found["embed"] == {(f"in{e.token}", f"n{e.node}"): e.weight for e in document.embed}
    assert found["unembed"] == {(f"n{e.node}", f"out{e.token}"): e.weight for e in document.unembed}
    assert found["residual"] == {(f"n{e.source}", f"n{e.target}"): None for e in document.links}
    header = document.header
    assert [len(found[kind]) for kind in ("weight", "embed", "unembed")] == [
        header.edges,
        header.edges_embed,
        header.edges_unembed,
    ]


def test_every_reader_of_an_embedded_channel_hears_its_tokens(document: Document, graph: Any) -> None:
    """By channels alone: whoever reads a residual channel that a token writes is joined to that token."""
    places = {index: node.channel for index, node in enumerate(document.nodes)}
    readers = [i for i, node in enumerate(document.nodes) if node.kind.endswith("act_in") or node.layer is None]
    expected = {
        (f"in{entry.token}", f"n{reader}"): entry.weight
        for entry in document.embed
        for reader in readers
        if places[reader] == places[entry.node]
    }
    joined = {(a, b): held["weight"] for a, b, held in graph.edges(data=True) if held["kind"].startswith("embed")}
    assert joined == expected
    assert len(joined) > len(document.embed)


def test_no_path_leads_from_a_token_to_a_constant_node(graph: Any) -> None:
    constant = {str(node) for node in made_up(90).circuit.constant_nodes or ()}
    reached = set[str]().union(*(networkx.descendants(graph, name) for name in graph if name.startswith("in")))
    names = {graph.nodes[name].get("name") for name in reached}
    assert len(names) > 10 and not names & constant


def test_what_is_not_known_is_left_out(document: Document) -> None:
    bare = {"effect": None, "bias": None, "ablation_value": None, "constant": None, "stranded": None}
    edges = tuple(edge.replace(weight=None) for edge in document.edges)
    graph = read(document.replace(nodes=tuple(node.replace(**bare) for node in document.nodes), edges=edges))
    assert set(graph.nodes["n0"]) <= {"name", "kind", "site", "layer", "channel", "head"}
    assert all("weight" not in held for *_, held in graph.edges(data=True) if held["kind"] == "weight")


def test_every_attribute_is_declared_where_it_is_used(document: Document) -> None:
    root = ET.fromstring(graphml_text(document))
    keys = {
        key.get("id"): (key.get("for"), key.get("attr.name"), key.get("attr.type")) for key in root.iter(tag("key"))
    }
    assert set(keys.values()) == {(owner, name, kind) for owner, held in KEYS.items() for name, kind in held.items()}
    for owner in ("graph", "node", "edge"):
        for element in root.iter(tag(owner)):
            used = [data.get("key") for data in element.findall(tag("data"))]
            assert len(set(used)) == len(used) and {keys[name][0] for name in used} <= {owner}


def tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def test_a_hostile_text_stays_a_text(document: Document) -> None:
    first = document.embed[0]
    hostile = document.replace(
        embed=(first.replace(text=HOSTILE), *(e for e in document.embed if e.token != first.token)),
        header=document.header.replace(task=HOSTILE),
    )
    graph = read(hostile)
    assert graph.nodes[f"in{first.token}"]["text"] == graph.graph["task"] == visible(HOSTILE)
    assert visible(HOSTILE) == "\\x00\\x0b\\r\\n\\t \\ud800\\ufffe\\u2028&<]]>\"'\\\\n é 語"


@given(st.text(st.characters() | st.sampled_from(HOSTILE)))
def test_visible_text_is_valid_xml_and_reads_back(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    element = ET.Element("a")
    element.text = shown
    parsed = ET.fromstring(ET.tostring(element, encoding="utf-8")).text or ""
    assert parsed.encode("latin-1", "backslashreplace").decode("unicode_escape") == text
