"""F9, F14: ends and subsets again by plain loops; cancelling ablations show; shifted splits counted by hand."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from sparse_circuits.sites import Edge, Node
from sparse_circuits.tasks.task import Shift, Template
from sparse_circuits.validate.robustness import adversarial_ablation, shifted_splits, stochastic_ablation
from sparse_circuits.validate.subject import Subject
from validate.planted import all_nodes, by_hand, circuit_of, loss_by_hand, prompts, quotes, small, small_model, truth


def cancelling(n: int = 6) -> Subject:
    """Two neurons outside the circuit write the same with opposite signs: nothing, together or both ablated."""
    return small(small_model(neurons=(2.0, -2.0)), n=n)


def test_full_circuit_has_no_outside() -> None:
    full = quotes(all_nodes(truth().model), n=2)
    loss = float(full.model_losses().mean())
    found = stochastic_ablation(full, draws=2)
    assert found.loss.value == pytest.approx(loss, abs=1e-6) == found.high_loss.value
    assert found.bump.value == pytest.approx(0, abs=1e-6) and found.monotone
    worst = adversarial_ablation(full)
    assert worst.loss.value == pytest.approx(loss, abs=1e-6) and worst.outside == 0


def test_true_circuit_holds() -> None:
    true = quotes(n=4)
    found = stochastic_ablation(true, draws=4)
    assert found.loss.high < 0.05 and found.high_loss.value < 0.05 and found.monotone
    assert found.relaxation.losses[0].value == pytest.approx(loss_by_hand(true, true.nodes), abs=1e-5)
    assert found.relaxation.losses[-1].value == pytest.approx(loss_by_hand(true, None), abs=1e-5)
    assert found.relaxation.at[0] == 1 and found.relaxation.at[-1] == 0
    assert list(found.relaxation.at) == sorted(found.relaxation.at, reverse=True)
    worst = adversarial_ablation(true, steps=3)
    assert found.relaxation.losses[0].value <= worst.loss.value < 0.15 and worst.outside == 996


def test_share_ablated_is_r_and_draws_are_nested(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, seen = quotes(n=1), []
    score = Subject.losses

    def spied(self: Subject, masks: torch.Tensor, *, cut: float) -> torch.Tensor:
        seen.append((cut, masks))
        return score(self, masks, cut=cut)

    monkeypatch.setattr(Subject, "losses", spied)
    stochastic_ablation(subject, draws=3)
    outside = subject.kept == 0
    for r, masks in seen:
        assert masks[:, ~outside].min() == 1
        assert 1 - float(masks[:, outside].mean()) == pytest.approx(r, abs=0.05)
    between = [masks for _, masks in seen[1:-1]]
    assert all(bool((later >= earlier).all()) for earlier, later in zip(between, between[1:], strict=False))


def test_cancelling_ablations_show_and_the_loss_does_not() -> None:
    subject = cancelling()
    assert float(subject.circuit_losses().mean()) < 0.01 and float(subject.model_losses().mean()) < 0.01
    found = stochastic_ablation(subject)
    assert not found.monotone and found.bump.low > 0.05 and found.high_loss.value > 0.5 and found.loss.value > 0.1
    calm = stochastic_ablation(small())
    assert calm.monotone and calm.bump.value < 1e-3 and calm.high_loss.value < 0.01


def test_adversary_finds_the_worst_of_all_subsets() -> None:
    """The two neurons and the channel they write: the other outside nodes of this model have no weights. Every one of the 8 ways
    to ablate them by hand."""
    subject = cancelling(n=2)
    alive = (
        Node("0.mlp.act_in", 1),
        Node("0.mlp.post_act", 0),
        Node("0.mlp.post_act", 1),
        Node("0.mlp.resid_delta", 1),
    )
    everything = set(all_nodes(subject.model))
    worst = max(
        loss_by_hand(subject, everything - {node for node, gone in zip(alive, ablated, strict=True) if gone})
        for ablated in product((False, True), repeat=len(alive))
    )
    found = adversarial_ablation(subject)
    assert worst > 5 and found.loss.value >= worst - 1e-4
    calm = adversarial_ablation(small(n=2), steps=4)
    assert calm.loss.value < 0.01 and 0 <= found.ablated <= found.outside == len(everything) - 6


def test_cut_edges_are_outside_too() -> None:
    """A cut edge is cut at r = 1, not at r = 0, and half of it is at r = 1/2."""
    known = truth()
    edge = next(edge for edge in known.edges if edge.target.site == "0.mlp.post_act")
    circuit = circuit_of(known.model, known.nodes, known.reference.values, cut_edges=(Edge(*edge),))
    subject = Subject.of(circuit, known.model, known.task, known.tokenizer, n=3)
    weight = known.model.state_dict()["blocks.0.mlp.c_fc.weight"].clone()
    bias = known.model.state_dict()["blocks.0.mlp.c_fc.bias"].clone()
    row, column = edge.target.channel, edge.source.channel
    own = float(weight[row, column])
    half = subject.edges(0.5)
    assert float(half["blocks.0.mlp.c_fc.weight"][row, column]) == pytest.approx(own / 2)
    bias[row] += own * known.reference.values["0.mlp.act_in"][column]
    weight[row, column] = 0
    cut = {"blocks.0.mlp.c_fc.weight": weight, "blocks.0.mlp.c_fc.bias": bias}
    for name, value in subject.edges(1.0).items():
        assert torch.equal(value, cut[name])
    found = stochastic_ablation(subject, draws=2)
    by_loops = loss_by_hand(subject, known.nodes, cut)
    assert found.relaxation.losses[0].value == pytest.approx(by_loops, abs=1e-5)
    assert found.relaxation.losses[-1].value == pytest.approx(loss_by_hand(subject, None), abs=1e-5)
    assert by_loops > 0.1  # the edge matters
    assert adversarial_ablation(subject, steps=2).loss.value >= by_loops - 1e-5


def test_shifted_splits_by_hand() -> None:
    """One shift that both can do, one that the circuit without keys does worse at, one that cannot be asked."""
    known, after = truth(), "x = 1\n"
    long = "item = value\n" * 6 + "send(<word>, '<word2>"
    shifts = {
        "again": Shift((Template("send('<word2> <word>", 'send("<word2> <word>', after, after),)),
        "longer": Shift((Template(long, long.replace("'", '"'), after, after),)),
        "odd": Shift((Template("send('<word2>", 'send("<word2>', after, after, ("' zq zq", '" zq zq')),)),
    }
    task = replace(known.task, shifted=shifts)
    model = small_model()
    blind = tuple(
        Node.parse(f"{site}") for site in ("0.attn.act_in[0]", "0.attn.v[0]", "0.attn.resid_delta[1]", "final_resid[1]")
    )
    values = {site: x * 0 for site, x in known.reference.values.items()} | small().circuit.values
    circuit = circuit_of(model, blind, values, task)
    subject = Subject.of(circuit, model, task, known.tokenizer, n=4)
    found = shifted_splits(subject)
    assert list(found.splits) == ["again", "longer"] and list(found.unusable) == ["odd"]
    assert "\n" not in found.unusable["odd"]
    for split, score in (("test", found.own), *found.splits.items()):
        shifted = subject.on(split)
        right = [[], []]
        for ids, answer, other in prompts(shifted.pairs):
            for side, kept in enumerate((None, blind)):
                logits = by_hand(shifted, ids, kept)[0]
                right[side].append(bool(logits[answer] > logits[other]))
        accuracies = np.mean(right, axis=1)
        assert [score.model_accuracy.value, score.circuit_accuracy.value] == pytest.approx(accuracies)
        assert score.accuracy_gap.value == pytest.approx(abs(accuracies[0] - accuracies[1]))
        losses = loss_by_hand(shifted, None), loss_by_hand(shifted, blind)
        assert score.loss_gap.value == pytest.approx(losses[1] - losses[0], abs=1e-5)
    assert found.splits["longer"].loss_gap.value > found.own.loss_gap.value > 0
    assert found.largest_gap in [score.accuracy_gap for score in found.splits.values()]


def test_a_task_without_shifts_has_none() -> None:
    found = shifted_splits(small(n=2))
    assert found.splits == {} and found.largest_gap is None and found.own.accuracy_gap.value == 0
