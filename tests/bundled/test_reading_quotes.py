"""docs/circuits/single_double_quote.md: the claims of its table, in the circuit and in the whole model."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import sparse_circuits as sc
from bundled.readings import Way, open_way, right
from sparse_circuits.circuit.evaluate import binary_losses

DOCS = Path(__file__).parent.parent.parent / "docs" / "circuits"
SITES = ("0.mlp.post_act", "1.attn.act_in", "1.attn.q", "1.attn.k", "1.attn.v", "1.attn.pattern", "2.mlp.post_act")
SINGLE, DOUBLE = (228, 447), (29, 382)
HEAD, QUERY, VALUES = 11, 177, (181, 182, 185, 186)
INHIBITORS = (149, 306)


@pytest.fixture(scope="module", params=["circuit", "model"])
def way(request: pytest.FixtureRequest) -> Way:
    return open_way("single_double_quote", request.param == "circuit", SITES)


def test_neurons_prefer_one_quote_and_answer_to_both(way: Way) -> None:
    for neurons, prefers in ((SINGLE, 0), (DOUBLE, 1)):
        for neuron in neurons:
            fired = way.at_opening("0.mlp.post_act", neuron)
            assert bool((fired[:, prefers] > fired[:, 1 - prefers]).all()) and bool((fired > 1).all())


def test_channel_149_tells_them_apart(way: Way) -> None:
    sign = way.at_opening("1.attn.act_in", 149)
    assert float(sign[:, 0].max()) < 0.7 < 1.6 < float(sign[:, 1].min())


def test_the_query_is_constant(way: Way) -> None:
    """Held at its mean over the last tokens, at every position of every prompt, nothing is lost."""
    mean = float(way.acts["1.attn.q"][way.rows, way.pairs.last, QUERY].mean())

    def held(x: Tensor) -> Tensor:
        x[..., QUERY] = mean
        return x

    before, after = (float(binary_losses(z).mean()) for z in (way.contrasts, way.changed({"1.attn.q": held})))
    assert after <= before + 0.002


def test_the_head_looks_at_the_opening(way: Way) -> None:
    looks = way.looks(1, HEAD)
    assert torch.equal(looks[:, :-1].argmax(-1), way.opening)
    weight = float(looks[way.rows, way.opening].mean())
    assert weight == pytest.approx(0.45 if way.is_circuit else 0.93, abs=0.01)
    key = way.acts["1.attn.k"][way.rows, way.opening, QUERY]
    assert float(key.max()) < -0.9


def test_exchanged_values_turn_the_answers_around(way: Way) -> None:
    assert min(right(way.contrasts)) > 0.98
    assert max(right(way.changed({"1.attn.v": way.exchanged("1.attn.v", VALUES)}))) < 0.03


def test_inhibition_serves_the_single_quote_only(way: Way) -> None:
    fired = way.acts["2.mlp.post_act"][way.rows, way.pairs.last][:, list(INHIBITORS)].view(-1, 2, 2)
    assert bool((fired[:, 0].sum(-1) > fired[:, 1].sum(-1) + 1).all())
    silent = fired[:, 1].mean(0)

    def held(x: Tensor) -> Tensor:
        x[..., list(INHIBITORS)] = silent
        return x

    z, held_z = way.contrasts, way.changed({"2.mlp.post_act": held})
    single = [float(F.softplus(-found[:, 0]).mean()) for found in (z, held_z)]
    double = [float(F.softplus(found[:, 1]).mean()) for found in (z, held_z)]
    assert single[1] > single[0] + 0.01 and double[1] == pytest.approx(double[0], abs=1e-3)
    if way.is_circuit:
        assert single == pytest.approx([0.19, 0.50], abs=0.01)


def test_sizes_and_losses_in_the_text_are_the_circuits() -> None:
    circuit = sc.load_circuit("bundled/single_double_quote")
    text = (DOCS / "single_double_quote.md").read_text()
    assert circuit.loss is not None and circuit.model_loss is not None
    assert f"It has {len(circuit.nodes)} of {circuit.nodes_total:,} nodes and {len(circuit.edges)} edges" in text
    assert (
        f"the circuit's loss ({circuit.loss.test:.3f})" in text
        and f"the model's ({circuit.model_loss.test:.3f})" in text
    )
