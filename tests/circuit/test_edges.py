"""Edges and paths of a two-layer model whose few weights are written down here, so every count is done on paper.

d_model 3, one head of width 2, three hidden neurons, vocabulary 5. Channel 0 carries the signal:
    token 1 -> residual 0 -> (layer 0) v[0] -> resid_delta[1] -> (layer 1) neuron 2 -> resid_delta[0] -> logit 3
"""

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from sparse_circuits.circuit.edges import EdgeSet, find_edges
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.edge_weights import site_biases, site_pairs
from sparse_circuits.model.generate import intervene, record
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.mask import NodeLayout
from sparse_circuits.sites import Edge, Node, TokenEdge

PROMPT, COMPLETIONS = (0, 1, 2), (3, 4)


def empty_model(sink: bool = True, **options: Any) -> SparseTransformer:
    config = ModelConfig(vocab_size=5, n_layer=2, d_model=3, n_head=1, d_head=2, d_mlp=3, block_size=8, sink=sink)
    model = SparseTransformer(config.replace(**options)).initialize(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if name.endswith("gain") else 0.0)
    return model.eval()


def put(model: SparseTransformer, name: str, row: int, column: int, value: float) -> None:
    with torch.no_grad():
        model.get_parameter(name)[row, column] = value


def paper_model(sink: bool = True) -> SparseTransformer:
    model = empty_model(sink)
    put(model, "embed.weight", 1, 0, 2.0)
    put(model, "embed.weight", 4, 0, 3.0)  # token 4 is not in the prompts
    put(model, "embed.weight", 2, 2, 5.0)  # nothing reads residual channel 2
    put(model, "blocks.0.attn.c_attn.weight", 4, 0, 0.5)  # act_in[0] -> v[0] (rows: q 0-1, k 2-3, v 4-5)
    put(model, "blocks.0.attn.c_proj.weight", 1, 0, -0.25)  # v[0] -> resid_delta[1]
    put(model, "blocks.1.mlp.c_fc.weight", 2, 1, 4.0)  # act_in[1] -> neuron 2
    put(model, "blocks.1.mlp.c_fc.weight", 1, 1, 7.0)  # ... and a neuron outside the circuit
    put(model, "blocks.1.mlp.c_proj.weight", 0, 2, 1.5)  # neuron 2 -> resid_delta[0]
    put(model, "unembed.weight", 3, 0, 6.0)
    put(model, "unembed.weight", 2, 0, 8.0)  # token 2 is no completion
    with torch.no_grad():
        model.get_parameter("blocks.1.mlp.c_fc.bias")[2] = -1.0
        model.get_parameter("blocks.1.mlp.c_fc.bias")[1] = -1.0
    return model


def nodes(*names: str) -> tuple[Node, ...]:
    return tuple(Node.parse(name) for name in names)


CHAIN = nodes(
    "0.attn.act_in[0]",
    "0.attn.v[0]",
    "0.attn.resid_delta[1]",
    "1.mlp.act_in[1]",
    "1.mlp.post_act[2]",
    "1.mlp.resid_delta[0]",
    "final_resid[0]",
)


def found(model: SparseTransformer, kept: Iterable[Node], prompt: Iterable[int] = PROMPT) -> EdgeSet:
    return find_edges(model, tuple(kept), prompt, COMPLETIONS)


def test_every_kind_of_edge_is_counted_once() -> None:
    edges = found(paper_model(), CHAIN)
    expected = [
        ("0.attn.act_in[0]", "0.attn.v[0]", 0.5),
        ("0.attn.v[0]", "0.attn.resid_delta[1]", -0.25),
        ("1.mlp.act_in[1]", "1.mlp.post_act[2]", 4.0),
        ("1.mlp.post_act[2]", "1.mlp.resid_delta[0]", 1.5),
    ]
    assert edges.edges == tuple(Edge(Node.parse(a), Node.parse(b), weight) for a, b, weight in expected)
    assert [(e.token, e.node.channel, e.weight) for e in edges.edges_embed] == [(1, 0, 2.0)]
    assert edges.edges_unembed == (TokenEdge(3, Node("final_resid", 0), 6.0),)
    assert edges.edges_bias == nodes("1.mlp.post_act[2]")
    assert edges.candidates == () and edges.constant == ()


def test_an_embedding_entry_with_two_readers_counts_once() -> None:
    """E[1, 0] is read by 0.attn.act_in[0] and by final_resid[0]: one nonzero weight, one edge."""
    assert len(found(paper_model(), nodes("0.attn.act_in[0]", "final_resid[0]")).edges_embed) == 1
    assert found(paper_model(), nodes("0.attn.v[0]")).edges_embed == ()


def test_an_edge_needs_both_ends() -> None:
    without_neuron = found(paper_model(), (n for n in CHAIN if n.site != "1.mlp.post_act"))
    assert len(without_neuron.edges) == 2 and without_neuron.edges_bias == ()


def test_nodes_cut_off_from_the_logits_are_candidates_and_those_behind_a_cut_constant() -> None:
    edges = found(paper_model(), (n for n in CHAIN if n.site != "1.mlp.post_act"))
    assert edges.candidates == CHAIN[:4]  # all before the cut
    assert edges.constant == nodes("1.mlp.resid_delta[0]")  # final_resid[0] still reads token 1 directly
    silent = found(paper_model(), CHAIN, prompt=(0,))  # no prompt token writes anything
    assert silent.constant == CHAIN and silent.candidates == () and silent.edges_embed == ()


def test_the_residual_link_goes_forward_and_within_a_channel() -> None:
    model = paper_model()
    assert found(model, nodes("1.mlp.resid_delta[0]", "final_resid[0]")).candidates == ()
    assert found(model, nodes("1.mlp.resid_delta[1]", "final_resid[0]")).candidates == nodes("1.mlp.resid_delta[1]")
    # 1.mlp.resid_delta[1] is written after 1.mlp.act_in[1] is read
    backwards = found(model, (*CHAIN[3:], *nodes("1.mlp.resid_delta[1]")))
    assert backwards.candidates == nodes("1.mlp.resid_delta[1]")


@pytest.mark.parametrize(
    ("sink", "extra", "candidates"),
    [
        (True, ("0.attn.k[1]",), ()),  # a key moves attention between its tokens and the sink
        (True, ("0.attn.q[1]",), ()),  # a query too
        (False, ("0.attn.k[1]",), ()),  # without a sink keys still choose among values that differ
        (False, ("0.attn.q[1]",), ("0.attn.q[1]",)),  # but a query has nothing to choose between
        (False, ("0.attn.q[1]", "0.attn.k[0]"), ("0.attn.q[1]",)),  # its own channel of the key is constant
        (False, ("0.attn.q[1]", "0.attn.k[1]"), ()),
    ],
)
def test_queries_and_keys_reach_their_head_through_a_kept_value(
    sink: bool, extra: tuple[str, ...], candidates: tuple[str, ...]
) -> None:
    assert found(paper_model(sink), (*CHAIN, *nodes(*extra))).candidates == nodes(*candidates)


@pytest.mark.parametrize(("sink", "reaches"), [(True, True), (False, False)])
def test_a_key_with_constant_values_matters_only_with_a_sink(sink: bool, reaches: bool) -> None:
    """With every v ablated to its mean, attention moves y only by what the sink takes (METHOD D5)."""
    without_value = [n for n in CHAIN if n.site != "0.attn.v"]
    key = nodes("0.attn.k[1]")
    edges = found(paper_model(sink), (*without_value, *key))
    assert (key[0] not in edges.candidates) == reaches
    model = paper_model(sink)  # the model agrees: with constant values, does the output of the head follow the key?
    tokens = torch.tensor([[0, 1, 2, 1]])

    def output(key_value: float) -> torch.Tensor:
        constant = {"0.attn.v": torch.tensor([1.0, 0.0]), "0.attn.q": torch.ones(2)}
        moved = torch.zeros(1, 4, 2)
        moved[0, 1:, 1] = key_value
        seen: list[torch.Tensor] = []
        put_back = {"0.attn.resid_delta": lambda x: seen.append(x) or x}
        intervene(model, tokens, {**constant, "0.attn.k": moved, **put_back})
        return seen[0]

    assert torch.allclose(output(0.0), output(3.0), atol=1e-6) != reaches


def test_a_key_of_another_head_reaches_nothing() -> None:
    config = ModelConfig(vocab_size=5, n_layer=1, d_model=3, n_head=2, d_head=2, d_mlp=3)
    model = SparseTransformer(config).initialize(0)
    with torch.no_grad():
        model.get_parameter("blocks.0.attn.c_proj.weight").zero_()
    put(model, "blocks.0.attn.c_proj.weight", 0, 1, 1.0)  # only head 0 writes
    kept = nodes("0.attn.k[0]", "0.attn.k[2]", "0.attn.resid_delta[0]", "final_resid[0]")
    assert found(model, kept).candidates == nodes("0.attn.k[2]")


# --- weights between sites, by intervention


@pytest.fixture(scope="module")
def random_model() -> SparseTransformer:
    config = ModelConfig(vocab_size=7, n_layer=2, d_model=6, n_head=2, d_head=3, d_mlp=10, block_size=8)
    model = SparseTransformer(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return model.eval()


@pytest.mark.parametrize("index", range(12))
def test_moving_a_source_node_moves_its_targets_by_the_weight(random_model: SparseTransformer, index: int) -> None:
    """x_j + delta at the source moves what the target forms from it by w_ij * delta, for every target i at once."""
    pair = site_pairs(random_model)[index]
    tokens = torch.tensor([[1, 5, 2, 6]])
    before = pair.target.replace("post_act", "pre_act")  # the weight ends before GELU
    source = pair.source.replace("attn.v", "attn.y")  # and begins at y where a head lies between
    channel = index % pair.weight.shape[1]
    step = torch.zeros(pair.weight.shape[1])
    step[channel] = 0.3
    rest = record(random_model, tokens, [before])[before]
    seen: list[torch.Tensor] = []
    intervene(random_model, tokens, {source: lambda x: x + step, before: lambda x: seen.append(x) or x})
    moved = (seen[0] - rest)[0, -1]
    torch.testing.assert_close(moved, 0.3 * pair.weight[:, channel], atol=1e-5, rtol=1e-4)


def test_biases_are_what_a_site_gets_from_silent_sources(random_model: SparseTransformer) -> None:
    tokens = torch.tensor([[1, 5, 2]])
    biases = site_biases(random_model)
    for pair in site_pairs(random_model):
        before = pair.target.replace("post_act", "pre_act")
        seen: list[torch.Tensor] = []
        silent = {pair.source.replace("attn.v", "attn.y"): torch.zeros(1)}
        intervene(random_model, tokens, {**silent, before: lambda x, seen=seen: seen.append(x) or x})
        torch.testing.assert_close(seen[0][0, 0], biases[pair.target])


# --- positions and models without biases


READS_POSITION = nodes("1.mlp.act_in[4]", "1.mlp.post_act[2]", "1.mlp.resid_delta[0]", "final_resid[0]")


def concat_model() -> SparseTransformer:
    """Position channel 1 (act_in[4]) differs along the prompt, channel 0 (act_in[3]) is zero everywhere."""
    model = empty_model(positions="concat", d_pos_emb=2)
    put(model, "positions.weight", 5, 1, 0.5)
    put(model, "embed.weight", 1, 1, 2.0)
    put(model, "blocks.1.mlp.c_fc.weight", 2, 3, 4.0)
    put(model, "blocks.1.mlp.c_fc.weight", 2, 4, 4.0)
    put(model, "blocks.1.mlp.c_proj.weight", 0, 2, 1.5)
    put(model, "unembed.weight", 3, 0, 6.0)
    return model


def test_a_path_may_begin_at_a_concatenated_position() -> None:
    edges = found(concat_model(), READS_POSITION)
    assert edges.edges == (
        Edge(Node("1.mlp.act_in", 4), Node("1.mlp.post_act", 2), 4.0),
        Edge(Node("1.mlp.post_act", 2), Node("1.mlp.resid_delta", 0), 1.5),
    )
    assert edges.constant == () and edges.candidates == ()
    assert edges.edges_embed == ()  # position channels are none of the embedding's
    assert edges.edges_unembed == (TokenEdge(3, Node("final_resid", 0), 6.0),)


def test_a_position_channel_of_zeros_varies_with_nothing() -> None:
    kept = (*nodes("1.mlp.act_in[3]"), *READS_POSITION[1:])
    edges = found(concat_model(), kept)
    assert edges.constant == kept and edges.candidates == ()
    both = found(concat_model(), (*nodes("1.mlp.act_in[3]"), *READS_POSITION))
    assert both.constant == nodes("1.mlp.act_in[3]")
    assert [edge.source.channel for edge in both.edges if edge.source.site == "1.mlp.act_in"] == [3, 4]


def test_embed_edges_are_for_residual_channels_only() -> None:
    """E[1, 1] is read by act_in[1], not by act_in[4], though both are channel 1 of their part."""
    kept = (*nodes("1.mlp.act_in[1]"), *READS_POSITION)
    edges = found(concat_model(), kept)
    assert edges.edges_embed == (TokenEdge(1, Node("1.mlp.act_in", 1), 2.0),)
    assert edges.candidates == nodes("1.mlp.act_in[1]")  # no weight leads on from there


def test_nothing_written_to_the_stream_reaches_a_position_channel() -> None:
    kept = (*nodes("0.mlp.resid_delta[1]"), *READS_POSITION)
    assert found(concat_model(), kept).candidates == nodes("0.mlp.resid_delta[1]")


def test_position_nodes_move_the_logits_by_the_edge_they_have() -> None:
    """The model agrees: on a prompt of one repeated token the channel that counts as varying does, the other does not."""
    model = concat_model()
    acts = record(model, torch.full((1, 8), 2), "1.mlp.act_in")["1.mlp.act_in"][0]
    varies = (acts != acts[0]).any(0).tolist()
    assert varies == [False, False, False, False, True]


def test_a_path_may_begin_where_added_positions_write() -> None:
    model = paper_model()
    learned = empty_model(positions="learned")
    learned.load_state_dict({**learned.state_dict(), **model.state_dict()})
    assert found(learned, CHAIN, prompt=(0,)).constant == CHAIN  # no token of the prompt writes anything
    put(learned, "positions.weight", 7, 0, 1.0)
    edges = found(learned, CHAIN, prompt=(0,))
    assert edges.constant == () and edges.candidates == () and edges.edges_embed == ()
    other = empty_model(positions="learned")
    other.load_state_dict({**learned.state_dict(), "positions.weight": torch.zeros(8, 3)})
    put(other, "positions.weight", 7, 2, 1.0)  # a channel that nobody kept reads
    assert found(other, CHAIN, prompt=(0,)).constant == CHAIN
    put(other, "positions.weight", 7, 1, 1.0)  # read by 1.mlp.act_in[1], half way down
    assert found(other, CHAIN, prompt=(0,)).constant == CHAIN[:3]


def test_a_model_without_biases_has_no_edges_of_them() -> None:
    model = empty_model(bias=False)
    weights = {name: value for name, value in paper_model().state_dict().items() if name in model.state_dict()}
    model.load_state_dict(weights)
    assert site_biases(model) == {}
    with_biases, without = found(paper_model(), CHAIN), found(model, CHAIN)
    assert without.edges_bias == () != with_biases.edges_bias
    assert without.edges == with_biases.edges and without.constant == ()


def test_a_tied_unembedding_counts_on_both_ends() -> None:
    model = empty_model(tied_unembed=True)
    put(model, "embed.weight", 1, 0, 2.0)
    put(model, "embed.weight", 3, 0, 6.0)
    edges = found(model, nodes("final_resid[0]"))
    assert edges.edges_embed == (TokenEdge(1, Node("final_resid", 0), 2.0),)
    assert edges.edges_unembed == (TokenEdge(3, Node("final_resid", 0), 6.0),)


def test_nodes_of_a_model_with_concatenated_positions() -> None:
    """What is read is d + p wide, and every channel of it is a node that a mask can drop and a name that can be read."""
    config = ModelConfig(
        vocab_size=5, n_layer=3, d_model=6, n_head=2, d_head=5, d_mlp=7, positions="concat", d_pos_emb=4
    )
    layout = NodeLayout.of(config.widths)
    d, p, a, m = 6, 4, 10, 7
    assert layout.size == 3 * (2 * (d + p) + 3 * a + 2 * d + m) + d
    assert layout.node(layout.index(Node("1.mlp.act_in", 9))) == Node("1.mlp.act_in", 9)
    assert Node.parse("1.mlp.act_in[9]") in layout.nodes(torch.ones(layout.size))
    assert layout.split(torch.zeros(layout.size))["2.attn.act_in"].shape == (d + p,)


def test_nodes_of_the_largest_model_of_the_paper_are_as_many_as_published() -> None:
    """num_total_nodes of csp_yolo1 in a published file (RELEASE_FORMAT 1.9)."""
    config = ModelConfig(vocab_size=2048, n_layer=12, d_model=1024, n_head=128, d_head=8, positions="learned")
    assert NodeLayout.of(config.widths).size == 136_192
