"""The view document says what the circuit says, as JSON that reads back to the same value."""

import json
import math

import pytest

from sparse_circuits.model.edge_weights import site_biases
from sparse_circuits.viz.document import Document, build_document
from sparse_circuits.viz.table import render_text
from viz.made_up import MadeUp, made_up


@pytest.fixture(scope="module", params=[14, 90])
def case(request: pytest.FixtureRequest) -> tuple[MadeUp, Document]:
    given = made_up(request.param)
    return given, build_document(*given, n_pairs=3)


def test_round_trip(case: tuple[MadeUp, Document]) -> None:
    document = case[1]
    text = document.model_dump_json()
    assert "NaN" not in text and "Infinity" not in text
    assert Document.from_dict(json.loads(text)) == document


def test_counts_are_the_circuits(case: tuple[MadeUp, Document]) -> None:
    (circuit, *_), document = case
    header = document.header
    assert len(document.nodes) == header.nodes == len(circuit.nodes)
    assert len(document.edges) == header.edges == len(circuit.edges)
    assert len(document.embed) == header.edges_embed == len(circuit.edges_embed)
    assert len(document.unembed) == header.edges_unembed == len(circuit.edges_unembed)
    assert sum(site.nodes for site in document.sites) == len(circuit.nodes)
    assert sum(matrix.edges for matrix in document.matrices) == len(circuit.edges)
    assert header.met_target == circuit.met_target


def test_edges_point_at_their_nodes(case: tuple[MadeUp, Document]) -> None:
    (circuit, *_), document = case
    names = [node.name for node in document.nodes]
    drawn = [(names[edge.source], names[edge.target], edge.weight) for edge in document.edges]
    assert drawn == [(str(edge.source), str(edge.target), edge.weight) for edge in circuit.edges]
    for link in document.links:
        source, target = document.nodes[link.source], document.nodes[link.target]
        assert source.channel == target.channel and source.kind.endswith("resid_delta")
    for link in document.shared:
        source, target = document.nodes[link.source], document.nodes[link.target]
        assert source.channel == target.channel and link.source < link.target


def test_biases_are_the_models(case: tuple[MadeUp, Document]) -> None:
    (_, model, *_), document = case
    biases = site_biases(model)
    for node in document.nodes:
        assert (node.bias is None) == (node.site not in biases)
        if node.bias is not None:
            assert node.bias == float(biases[node.site][node.channel])


def test_numbers_that_are_not_finite_become_null() -> None:
    circuit, model, task, tokenizer = made_up()
    odd = circuit.replace(empty_loss=math.nan, node_effects=(), recipe={"a": [math.inf, 1.5]})
    document = build_document(odd, model, task, tokenizer, n_pairs=1)
    assert document.header.empty_loss is None
    assert document.header.recipe == {"a": [None, 1.5]}
    assert {node.effect for node in document.nodes} == {None}


def test_the_terminal_report_names_verdict_numbers_and_nodes() -> None:
    given = made_up()
    document = build_document(*given, n_pairs=1)
    text = render_text(document)
    assert "target met" in text and "0.1437" in text and "\x1b" not in text
    assert f"{len(document.nodes)} of {document.header.nodes_total} nodes" in text
    assert all(node.name in text for node in document.nodes)
    assert "... and 11 more" in render_text(document, node_limit=3)
    assert "MISSED" in render_text(build_document(*made_up(met=False), n_pairs=1))


def test_node_names_are_not_read_as_markup() -> None:
    circuit, model, task, tokenizer = made_up()
    document = build_document(circuit.replace(task="[red]x[/]"), model, task, tokenizer, n_pairs=1)
    assert "[red]x[/]" in render_text(document)
