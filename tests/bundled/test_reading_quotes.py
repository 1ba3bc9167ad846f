"""docs/circuits/single_double_quote.md: the claims of its table, in the circuit and in the whole model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import sparse_circuits as sc
from bundled.readings import Way, open_way, right
from sparse_circuits.circuit.evaluate import binary_losses
from sparse_circuits.sites import Node

DOCS = Path(__file__).parent.parent.parent / "docs" / "circuits"
MIDDLE = ("0.mlp.post_act", "1.attn.act_in", "1.attn.q", "1.attn.k", "1.attn.v", "1.attn.pattern")
SITES = (*MIDDLE, "2.mlp.post_act", "2.mlp.resid_delta")
SINGLE, DOUBLE = (228, 447), (29, 382)
WHICH, WHERE = (149, 161, 6), (162, 254)
HEAD, QUERY, VALUES, LEFT_OUT = 11, 177, (181, 182, 186), 185
INHIBITORS, CROWDED = (149, 306), 89
ONE_PROMPT = 0.009
"""Of 128."""


@pytest.fixture(scope="module", params=["circuit", "model"])
def way(request: pytest.FixtureRequest) -> Way:
    return open_way("single_double_quote", request.param == "circuit", SITES)


def held(channels: int | list[int], value: float | Tensor) -> Callable[[Tensor], Tensor]:
    """Sets channels to a value at every position."""

    def function(x: Tensor) -> Tensor:
        x[..., channels] = value
        return x

    return function


def losses(z: Tensor) -> list[float]:
    """Mean loss of the prompts with a single quote, and of those with a double one."""
    return [float(F.softplus(-z[:, 0]).mean()), float(F.softplus(z[:, 1]).mean())]


def test_four_neurons_tell_the_quotes_apart(way: Way) -> None:
    """Each answers to both quotes and prefers one; exchanged, they turn the answers around."""
    for neurons, prefers in ((SINGLE, 0), (DOUBLE, 1)):
        for neuron in neurons:
            fired = way.at_opening("0.mlp.post_act", neuron)
            assert bool((fired[:, prefers] > fired[:, 1 - prefers]).all()) and bool((fired > 1).all())
    assert right(way.contrasts) == pytest.approx((0.98, 1) if way.is_circuit else (1, 1), abs=ONE_PROMPT)
    z = way.changed({"0.mlp.post_act": way.exchanged("0.mlp.post_act", (*SINGLE, *DOUBLE))})
    assert right(z) == pytest.approx((0, 0.02) if way.is_circuit else (0, 0), abs=ONE_PROMPT)


def test_three_channels_say_which_quote_and_two_do_not(way: Way) -> None:
    sign = way.at_opening("1.attn.act_in", WHICH[0])
    assert float(sign[:, 0].max()) < 0.7 < 1.6 < float(sign[:, 1].min())
    z = way.changed({"1.attn.act_in": way.exchanged("1.attn.act_in", WHICH)})
    assert right(z) == pytest.approx((0.01, 0) if way.is_circuit else (0, 0), abs=ONE_PROMPT)
    z = way.changed({"1.attn.act_in": way.exchanged("1.attn.act_in", WHERE)})
    assert right(z) == pytest.approx((1, 0.99) if way.is_circuit else (1, 1), abs=ONE_PROMPT)


def test_the_query_is_constant(way: Way) -> None:
    """Held at its mean over the last tokens, at every position of every prompt, nothing is lost."""
    mean = float(way.acts["1.attn.q"][way.rows, way.pairs.last, QUERY].mean())
    before, after = (
        float(binary_losses(z).mean()) for z in (way.contrasts, way.changed({"1.attn.q": held(QUERY, mean)}))
    )
    expected, within = ([0.171, 0.171], 1e-3) if way.is_circuit else ([0.0013, 0.0010], 1e-4)
    assert [before, after] == pytest.approx(expected, abs=within)


def test_by_the_key_the_head_finds_the_opening(way: Way) -> None:
    """Its key is negative there and positive after it; with the last token's key it is not found, and not answered."""
    looks = way.looks(1, HEAD)
    assert torch.equal(looks[:, :-1].argmax(-1), way.opening)
    key = way.acts["1.attn.k"][..., QUERY]
    places = torch.arange(key.shape[1])
    after = (places > way.opening[:, None]) & (places <= way.pairs.last[:, None])
    assert float(key[way.rows, way.opening].max()) < -0.9 and float(key[after].min()) > 1

    def lost(x: Tensor) -> Tensor:
        x[way.rows, way.opening, QUERY] = x[way.rows, way.pairs.last, QUERY]
        return x

    z, patterns = way.seen({"1.attn.k": lost}, "1.attn.pattern")
    blind = patterns[way.rows, HEAD, way.pairs.last]
    weights = [float(found[way.rows, way.opening].mean()) for found in (looks, blind)]
    assert weights == pytest.approx([0.39, 0.06] if way.is_circuit else [0.93, 0.01], abs=0.01)
    assert right(z) == pytest.approx((0.20, 0.92) if way.is_circuit else (0.85, 0.20), abs=0.01)


def test_exchanged_values_turn_the_answers_around(way: Way) -> None:
    found = right(way.changed({"1.attn.v": way.exchanged("1.attn.v", VALUES)}))
    assert found == pytest.approx((0.01, 0) if way.is_circuit else (0.06, 0), abs=ONE_PROMPT)
    if not way.is_circuit:
        assert right(way.changed({"1.attn.v": way.exchanged("1.attn.v", (*VALUES, LEFT_OUT))})) == (0, 0)


def test_inhibition_serves_the_single_quote_only_and_switches_a_channel(way: Way) -> None:
    """No edge leads to the channel; in the circuit the two neurons switch it all the same, in the model they do not."""
    node = Node("2.mlp.resid_delta", CROWDED)
    circuit = sc.load_circuit("bundled/single_double_quote")
    assert node in circuit.constant_nodes and all(edge.target != node for edge in circuit.edges)
    fired = way.acts["2.mlp.post_act"][way.rows, way.pairs.last][:, list(INHIBITORS)].view(-1, 2, 2)
    assert bool((fired[:, 0].sum(-1) > fired[:, 1].sum(-1) + 1).all())
    found = [way.seen({"2.mlp.post_act": held(list(INHIBITORS), fired[:, side].mean(0))}, node.site) for side in (0, 1)]
    before, after = losses(way.contrasts), losses(found[1][0])
    assert after[1] == pytest.approx(before[1], abs=1e-3)
    assert [before[0], after[0]] == pytest.approx([0.23, 0.80] if way.is_circuit else [0, 0.013], abs=0.005)
    switched = [x[way.rows, way.pairs.last, CROWDED] for _, x in found]
    if way.is_circuit:
        assert torch.allclose(switched[0], torch.tensor(-4.61), atol=0.01) and not switched[1].any()
    else:
        assert all(float((x == 0).float().mean()) == pytest.approx(0.975, abs=0.01) for x in switched)


def test_the_switched_channel_serves_the_single_quote_in_the_circuit(way: Way) -> None:
    before, after = losses(way.contrasts), losses(way.changed({"2.mlp.resid_delta": held(CROWDED, 0)}))
    assert after[1] == pytest.approx(before[1], abs=1e-3)
    assert [before[0], after[0]] == pytest.approx([0.23, 0.39] if way.is_circuit else [0, 0], abs=0.005)


def test_the_switched_channel_is_at_the_edge_of_what_abs_topk_keeps_in_the_circuit(way: Way) -> None:
    """Computed anew from the neurons: in the circuit the same number after every prompt, the 128th largest or the 129th."""
    with torch.no_grad():
        raw = way.model.blocks[2].mlp.c_proj(way.acts["2.mlp.post_act"][way.rows, way.pairs.last])
    own = raw[:, CROWDED]
    rank = 1 + (raw.abs() > own[:, None].abs()).sum(-1).view(-1, 2)
    assert way.model.config.kept("mlp_out", 256) == 128
    if way.is_circuit:
        assert torch.allclose(own, torch.tensor(-4.61), atol=0.01)
        assert float((rank[:, 0] == 128).float().mean()) > 0.99 and bool((rank[:, 1] == 129).all())
    else:
        assert int(rank.median()) == pytest.approx(209, abs=2)


def test_sizes_and_losses_in_the_text_are_the_circuits() -> None:
    circuit = sc.load_circuit("bundled/single_double_quote")
    text = (DOCS / "single_double_quote.md").read_text()
    assert circuit.loss is not None and circuit.model_loss is not None and not circuit.met_target
    assert f"It has {len(circuit.nodes)} of {circuit.nodes_total:,} nodes and {len(circuit.edges)} edges" in text
    assert (
        f"the circuit's loss ({circuit.loss.test:.3f})" in text
        and f"the model's ({circuit.model_loss.test:.3f})" in text
        and f"missed on test ({circuit.loss.test:.3f}) and met on validation\n({circuit.loss.val:.3f})" in text
    )
