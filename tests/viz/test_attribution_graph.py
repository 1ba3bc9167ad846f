"""Attribution graphs: the schema that circuit-tracer's page needs, and numbers found again by other routes.

By hand on a circuit of four nodes; by whole matrices and the recorded residual stream on a random model; by ablating one
value vector at one token and watching what the head writes.
"""

import json
import math
from collections import defaultdict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from sparse_circuits.circuit.circuit import Circuit
from sparse_circuits.circuit.evaluate import circuit_tap
from sparse_circuits.explain.examples import task_heat
from sparse_circuits.model.edge_weights import site_pairs
from sparse_circuits.model.taps import Chain, Record, Replace, Tap
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import FINAL_SITE, Node, node_sites, split_site
from sparse_circuits.viz.attribution_graph import attribution_graph, cantor_pair
from sparse_circuits.viz.document import (
    Document,
    EdgeView,
    ExampleView,
    HeadView,
    LinkView,
    NodeView,
    SiteCount,
    TokenEdgeView,
    build_document,
)
from viz.made_up import made_up

FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "metadata": {
        **{name: (str,) for name in ("slug", "scan", "prompt")},
        **{name: (list,) for name in ("transcoder_list", "prompt_tokens")},
        "node_threshold": (type(None),),
        "schema_version": (int,),
    },
    "qParams": {
        **{name: (list,) for name in ("pinnedIds", "supernodes")},
        **{name: (str,) for name in ("linkType", "clickedId", "sg_pos")},
    },
    "node": {
        **{name: (str,) for name in ("node_id", "layer", "feature_type", "jsNodeId", "clerp")},
        **{name: (int,) for name in ("feature", "ctx_idx", "run_idx", "reverse_ctx_idx")},
        "token_prob": (float,),
        "is_target_logit": (bool,),
        **{name: (float, type(None)) for name in ("influence", "activation")},
    },
    "link": {"source": (str,), "target": (str,), "weight": (float,)},
}


def check_schema(graph: dict[str, Any]) -> None:
    """What the page's code relies on, without that code."""
    assert json.loads(json.dumps(graph, allow_nan=False)) == graph
    assert set(graph) == {"metadata", "qParams", "nodes", "links"}
    groups = {"metadata": [graph["metadata"]], "qParams": [graph["qParams"]], "node": graph["nodes"]}
    for kind, members in {**groups, "link": graph["links"]}.items():
        for member in members:
            assert set(member) == set(FIELDS[kind])
            assert all(type(value) in FIELDS[kind][name] for name, value in member.items()), member
    nodes = {node["node_id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"]) == len({node["jsNodeId"] for node in graph["nodes"]})
    assert len({(node["layer"], node["feature"], node["ctx_idx"]) for node in graph["nodes"]}) == len(nodes)
    tokens = graph["metadata"]["prompt_tokens"]
    assert "".join(tokens) == graph["metadata"]["prompt"]
    for node in nodes.values():
        assert 0 <= node["ctx_idx"] < len(tokens) and node["reverse_ctx_idx"] == len(tokens) - 1 - node["ctx_idx"]
        assert (node["layer"] == "E") == (node["feature_type"] == "embedding")
    seen = {(link["source"], link["target"]) for link in graph["links"]}
    assert len(seen) == len(graph["links"])
    for source, target in seen:
        a, b = nodes[source], nodes[target]
        assert height(a) < height(b) and a["ctx_idx"] <= b["ctx_idx"]
        assert a["ctx_idx"] == b["ctx_idx"] or "attn.v" in a["clerp"]
    logits = [node for node in graph["nodes"] if node["feature_type"] == "logit"]
    assert [node["is_target_logit"] for node in logits].count(True) == 1 and len(logits) == 2
    assert math.isclose(sum(node["token_prob"] for node in logits), 1)
    assert nodes[graph["qParams"]["clickedId"]]["is_target_logit"]
    for node in logits:  # as the page takes the label apart
        before, text, after = node["clerp"].split('"')
        assert before == "Output " and text
        assert float(after.split("(p=")[1].split(")")[0]) == pytest.approx(node["token_prob"], abs=5e-4)
        assert height(node) > max(height(other) for other in nodes.values() if other["feature_type"] != "logit")


def height(node: dict[str, Any]) -> int:
    return -1 if node["layer"] == "E" else int(node["layer"])


def weights(graph: dict[str, Any]) -> dict[tuple[str, str], float]:
    return {(link["source"], link["target"]): link["weight"] for link in graph["links"]}


# --- by hand


def view(name: str, ablated: float | None, heat: tuple[float | None, ...], head: int | None = None) -> NodeView:
    node = Node.parse(name)
    layer, kind = split_site(node.site)
    unknown = {"effect": None, "constant": None, "stranded": None, "bias": None}
    places = {"name": name, "site": node.site, "layer": layer, "kind": kind, "channel": node.channel, "head": head}
    return NodeView(**places, **unknown, ablation_value=ablated, heat_model=(heat,), heat_circuit=(heat,))


@pytest.fixture(scope="module")
def small() -> Document:
    """One layer, two tokens: a head copies what `b` writes, beside the embedding's own way to final_resid."""
    base = build_document(*made_up(), n_pairs=1)
    pattern = ((0.5, 0.0, 0.5), (0.25, 0.5, 0.25))
    return base.replace(
        nodes=(
            view("0.attn.act_in[0]", 0.5, (0.5, 2.0)),  # adds 0, 1.5
            view("0.attn.v[3]", 0.0, (1.0, -1.0), 0),
            view("0.attn.resid_delta[0]", 0.25, (1.25, 0.75)),  # adds 1, 0.5
            view("final_resid[0]", 0.0, (3.0, 4.0)),
        ),
        edges=(EdgeView(source=0, target=1, weight=2.0), EdgeView(source=1, target=2, weight=3.0)),
        embed=(TokenEdgeView(token=7, text="b", node=0, weight=0.5),),
        unembed=(
            TokenEdgeView(token=9, text="x", node=3, weight=2.0),
            TokenEdgeView(token=8, text='"y\n', node=3, weight=-1.0),
        ),
        links=(LinkView(source=2, target=3),),
        shared=(LinkView(source=0, target=3),),
        sites=tuple(SiteCount(site=s, layer=0, kind=s, nodes=0, width=8) for s in node_sites(1)),
        examples=(
            ExampleView(pair=0, label=1, tokens=("a", "b"), right="x", wrong='"y\n', p_model=0.5, p_circuit=0.75),
        ),
        heads=(HeadView(layer=0, head=0, model=(pattern,), circuit=(pattern,)),),
    )


def test_every_link_of_a_small_circuit_by_hand(small: Document) -> None:
    graph = attribution_graph(small, label=1, slug="small")
    check_schema(graph)
    read, value, written, final = "0_0", "3_3", "4_0", "8_0"  # layers are sites in forward order: v is the fourth
    assert weights(graph) == {
        ("E_1", f"{read}_1"): 0.5,
        ("E_1", f"{final}_1"): 0.5,
        (f"{read}_1", f"{value}_1"): 2 * 1.5,
        (f"{value}_0", f"{written}_0"): 3 * 0.5 * 1,
        (f"{value}_0", f"{written}_1"): 3 * 0.25 * 1,
        (f"{value}_1", f"{written}_1"): 3 * 0.5 * -1,
        (f"{written}_0", f"{final}_0"): 1.0,
        (f"{written}_1", f"{final}_1"): 0.5,
        (f"{final}_1", "9_1_1"): 2 * 4.0,
        (f"{final}_1", "9_0_1"): -1 * 4.0,
    }
    nodes = {node["node_id"]: node for node in graph["nodes"]}
    assert f"{read}_0" not in nodes  # there it is what it is ablated to
    assert nodes[f"{written}_0"]["activation"] == 1.25 and nodes[f"{written}_0"]["clerp"] == "0.attn.resid_delta[0]"
    assert nodes["9_1_1"]["clerp"] == 'Output "x" (p=0.750)' and nodes["9_1_1"]["token_prob"] == 0.75
    assert nodes["9_0_1"]["clerp"] == 'Output "\u201dy\\n" (p=0.250)'  # the page ends a text at a quote
    assert graph["metadata"]["transcoder_list"][3].endswith("/0.attn.v")


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        ({}, {"pair": 5}, "pair 5, label 1; allowed: pairs 0..0"),
        ({}, {"slug": "a b"}, "'a b' is no plain file name"),
        ({"heads": ()}, {}, "no attention of the head of 0.attn.v"),
        ({"edges": (EdgeView(source=0, target=1, weight=None),)}, {}, "0.attn.act_in.0. -> 0.attn.v.3. is not known"),
        ({"nodes": (view("0.attn.act_in[0]", None, (1.0, 2.0)),)}, {}, "no ablation value"),
        ({"nodes": (view("0.attn.act_in[0]", 0.0, (1.0, None)),)}, {}, "not finite"),
        ({"embed": tuple(TokenEdgeView(token=t, text="b", node=0, weight=0.5) for t in (7, 6))}, {}, r"\[6, 7\]"),
    ],
)
def test_what_cannot_be_attributed_is_refused(
    small: Document, change: dict[str, Any], arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as error:
        attribution_graph(small.replace(**change), **{"label": 1, **arguments})
    assert "\n" not in str(error.value)


def test_attention_that_was_not_recorded_is_refused(small: Document) -> None:
    other = small.examples[0].replace(pair=1)
    nodes = tuple(node.replace(heat_circuit=node.heat_circuit * 2) for node in small.nodes)
    document = small.replace(examples=(*small.examples, other), nodes=nodes)
    with pytest.raises(ValueError, match=r"not recorded on pair 1; allowed: pairs 0\.\.0"):
        attribution_graph(document, pair=1, label=1)


def test_pairs_of_numbers_are_told_apart() -> None:
    """The page inverts the pairing by counting diagonals."""
    for number in range(500):
        diagonal = next(n for n in range(number + 1) if (n + 1) * (n + 2) // 2 > number)
        y = number - diagonal * (diagonal + 1) // 2
        assert cantor_pair(diagonal - y, y) == number


# --- on a random model


class Case(NamedTuple):
    circuit: Circuit
    model: SparseTransformer
    document: Document
    graph: dict[str, Any]
    tokens: tuple[int, ...]
    completions: dict[int, int]
    """label -> token"""
    known: frozenset[int]
    """Tokens whose embedding entries the circuit lists."""


@pytest.fixture(scope="module", params=[0, 1])
def case(request: pytest.FixtureRequest) -> Case:
    circuit, model, task, tokenizer = made_up(90)
    generator = torch.Generator().manual_seed(5)
    values = {site: torch.randn(len(v), generator=generator) * 0.3 for site, v in (circuit.values or {}).items()}
    circuit, label = circuit.replace(values=values), request.param
    options: dict[str, Any] = {"n_pairs": 2, "split": "train"}
    document = build_document(circuit, model, task, tokenizer, **options)
    example = task_heat(circuit, model, task, tokenizer, **options).examples[2 + label]
    pairs = task.pairs("train", 6, tokenizer)
    graph = attribution_graph(document, pair=1, label=label)
    completions = {label: example.right, 1 - label: example.wrong}
    return Case(
        circuit, model, document, graph, example.tokens, completions, frozenset(pairs.flat_tokens.flatten().tolist())
    )


@torch.no_grad()
def recorded(case: Case, *taps: Tap) -> dict[str, Tensor]:
    """Activations [T, w] in the circuit, residual stream and patterns [H, T, T + 1] included."""
    layers = range(case.model.config.n_layer)
    extra = {f"{layer}.{site}" for layer in layers for site in ("resid_in", "resid_mid", "attn.pattern")}
    seen = Record(extra | set(node_sites(len(layers))))
    case.model(torch.tensor([case.tokens]), tap=Chain(circuit_tap(case.circuit, case.model), *taps, seen))
    return {site: x[0] for site, x in seen.acts.items()}


def sums(case: Case) -> tuple[dict[str, float], dict[str, float]]:
    """Per target: its links added up, and their absolute values."""
    total, size = defaultdict[str, float](float), defaultdict[str, float](float)
    for link in case.graph["links"]:
        total[link["target"]] += link["weight"]
        size[link["target"]] += abs(link["weight"])
    return total, size


def copies(case: Case) -> dict[tuple[Node, int], str]:
    kind = "cross layer transcoder"
    nodes = [node for node in case.graph["nodes"] if node["feature_type"] == kind]
    return {(Node.parse(node["clerp"]), node["ctx_idx"]): node["node_id"] for node in nodes}


def test_the_schema(case: Case) -> None:
    check_schema(case.graph)
    for (node, _), name in copies(case).items():
        layer, channel, _ = map(int, name.split("_"))
        assert channel == node.channel and case.graph["metadata"]["transcoder_list"][layer].endswith(f"/{node.site}")


def test_copies_stand_where_a_node_differs_from_its_ablation(case: Case) -> None:
    acts, values = recorded(case), case.circuit.values or {}
    differs = {
        (node, token)
        for node in case.circuit.nodes
        for token in range(len(case.tokens))
        if abs(acts[node.site][token, node.channel] - values[node.site][node.channel]) > 1e-3
    }
    assert differs <= set(copies(case)) and len(differs) > 100


def test_links_along_weights_sum_to_the_matrix_product(case: Case) -> None:
    """weight @ (all recorded activations - all ablation values), through the pattern for what a head writes."""
    acts, values, (total, size) = recorded(case), case.circuit.values or {}, sums(case)
    config, here, checked = case.model.config, copies(case), 0
    for pair in site_pairs(case.model):
        adds = acts[pair.source] - values[pair.source]
        precision = 1e-3
        if pair.source.endswith(".v"):
            pattern = acts[pair.source.replace(".v", ".pattern")][..., : len(case.tokens)]
            heads = adds.view(-1, config.n_head, config.d_head).transpose(0, 1)
            adds, precision = (pattern @ heads).transpose(0, 1).flatten(1), 6e-3
        product = adds @ pair.weight.T
        for (node, token), name in here.items():
            if node.site == pair.target:
                close = pytest.approx(float(product[token, node.channel]), abs=precision * size.get(name, 0) + 1e-4)
                assert total.get(name, 0.0) == close, name
                checked += name in total
    assert checked > 50


def test_links_along_the_residual_stream_sum_to_the_stream(case: Case) -> None:
    """What a reader finds, less what the writers before it write when ablated."""
    acts, values, (total, size) = recorded(case), case.circuit.values or {}, sums(case)
    order, checked = node_sites(case.model.config.n_layer), 0
    streams = {"attn.act_in": "resid_in", "mlp.act_in": "resid_mid"}
    for (node, token), name in copies(case).items():
        layer, kind = split_site(node.site)
        if (kind not in streams and node.site != FINAL_SITE) or case.tokens[token] not in case.known:
            continue
        stream = acts[FINAL_SITE if layer is None else f"{layer}.{streams[kind]}"][token, node.channel]
        writers = [s for s in order[: order.index(node.site)] if s.endswith("resid_delta")]
        expected = float(stream) - sum(float(values[site][node.channel]) for site in writers)
        assert total.get(name, 0.0) == pytest.approx(expected, abs=1e-3 * size.get(name, 0) + 1e-4), name
        checked += name in total
    assert checked > 20


def test_links_to_the_completions_sum_to_the_unembedding(case: Case) -> None:
    acts, values, (total, size) = recorded(case), case.circuit.values or {}, sums(case)
    adds, heard = acts[FINAL_SITE][-1] - values[FINAL_SITE], 0
    for label, token in case.completions.items():
        name = f"{len(case.document.sites)}_{label}_{len(case.tokens) - 1}"
        expected = float(case.model.unembed.weight[token].detach() @ adds)
        assert total.get(name, 0.0) == pytest.approx(expected, abs=1e-3 * size.get(name, 0) + 1e-4)
        heard += name in total
    assert heard


def test_ablating_a_value_at_one_token_takes_away_its_link(case: Case) -> None:
    """An intervention: what the head writes later changes by the link's weight, unless AbsTopK drops it."""
    names = {name: key for key, name in copies(case).items()}
    values, before, checked = case.circuit.values or {}, recorded(case), 0
    for link in sorted(case.graph["links"], key=lambda link: -abs(link["weight"])):
        source, key = names.get(link["source"], (Node("", 0), 0))
        if not source.site.endswith("attn.v") or checked == 3:
            continue
        target, query = names[link["target"]]

        def ablate(x: Tensor, source: Node = source, key: int = key) -> Tensor:
            changed = x.clone()
            changed[:, key, source.channel] = values[source.site][source.channel]
            return changed

        after = recorded(case, Replace({source.site: ablate}))[target.site][query, target.channel]
        had = before[target.site][query, target.channel]
        if key < query and had and after:
            assert float(had - after) == pytest.approx(link["weight"], rel=6e-3, abs=1e-4)
            checked += 1
    assert checked


def test_circuit_tracers_own_model_reads_it(case: Case) -> None:
    theirs = pytest.importorskip("circuit_tracer.frontend.graph_models", reason="circuit-tracer is not installed")
    read = theirs.Model.model_validate(case.graph).model_dump()
    assert read == case.graph
