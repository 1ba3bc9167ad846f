"""F1-F5: known answers of the full, the empty and the true circuit; every number again by plain loops; planted faults."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_circuits.sites import Node
from sparse_circuits.validate.faithfulness import (
    agreement,
    completeness,
    faithfulness,
    kl_divergence,
    minimality,
    necessity,
    sufficiency,
)
from sparse_circuits.validate.subject import Subject
from validate.planted import SMALL, all_nodes, by_hand, loss_by_hand, prompts, quotes, small, small_model, truth


@pytest.fixture(scope="module")
def true() -> Subject:
    return quotes(n=4)


@pytest.fixture(scope="module")
def full() -> Subject:
    return quotes(all_nodes(truth().model), n=4)


@pytest.fixture(scope="module")
def empty() -> Subject:
    return quotes((), n=4)


def test_full_circuit_is_the_model(full: Subject) -> None:
    found = agreement(full)
    assert (found.kl_binary.value, found.kl_vocab.value, found.kl_vocab.high) == (0, 0, 0)
    assert (found.same_choice.value, found.same_token.low) == (1, 1)
    assert found.contrast_correlation is not None and found.contrast_correlation.value == pytest.approx(1)
    losses = faithfulness(full)
    assert losses.faithfulness is not None and losses.faithfulness.value == 1 and not losses.better_than_model
    assert losses.circuit_loss == losses.model_loss
    needed, enough = necessity(full, sets=2), sufficiency(full, sets=2)
    assert needed.value.value == pytest.approx(losses.empty_loss.value - losses.model_loss.value)
    assert needed.z is None and enough.z is None  # every set of that size is the same set
    assert completeness(full, parts=3).largest_gap.value == 0


def test_empty_circuit_has_the_empty_loss(empty: Subject) -> None:
    losses = faithfulness(empty)
    assert losses.faithfulness is not None and losses.faithfulness.value == 0
    assert losses.circuit_loss == losses.empty_loss
    assert losses.empty_loss.value == pytest.approx(loss_by_hand(empty, ()), abs=1e-5)
    assert necessity(empty, sets=2).value.value == pytest.approx(0, abs=1e-6)
    assert completeness(empty).mean_gap is None and minimality(empty).idle_share is None
    found = agreement(empty)
    assert found.same_choice.value == 0.5 and found.contrast_correlation is None  # always the same answer


def test_true_circuit_passes(true: Subject) -> None:
    found, losses, needed = agreement(true), faithfulness(true), necessity(true, sets=8)
    assert found.kl_binary.high < 0.01 and found.same_choice.value == 1 and found.contrast_correlation.value > 0.99
    assert losses.faithfulness.value == pytest.approx(1, abs=0.02)
    assert needed.value.value > 0.8 and needed.z > 2 and needed.random.value < 0.3
    enough = sufficiency(true, sets=8)
    assert enough.value.value < 0.01 and enough.random.value > 0.9 and enough.z > 10
    assert completeness(true, parts=8).mean_gap.high < 0.1
    assert minimality(true).idle == () and minimality(true).idle_share.value == 0


def test_agreement_by_hand(true: Subject) -> None:
    kl_binary, kl_vocab, choices, tokens, contrasts = [], [], [], [], []
    for i, (ids, right, wrong) in enumerate(prompts(true.pairs)):
        a, b = (right, wrong) if i % 2 == 0 else (wrong, right)
        f, c = by_hand(true, ids)[0], by_hand(true, ids, true.nodes)[0]
        p, q = 1 / (1 + math.exp(f[b] - f[a])), 1 / (1 + math.exp(c[b] - c[a]))
        kl_binary.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
        probabilities = f.exp() / f.exp().sum()
        kl_vocab.append(float((probabilities * (probabilities / (c.exp() / c.exp().sum())).log()).sum()))
        choices.append((p > 0.5) == (q > 0.5))
        tokens.append(int(f.argmax()) == int(c.argmax()))
        contrasts.append([float(f[a] - f[b]), float(c[a] - c[b])])
    found = agreement(true)
    assert found.kl_binary.value == pytest.approx(np.mean(kl_binary), abs=1e-5)
    assert found.kl_vocab.value == pytest.approx(np.mean(kl_vocab), abs=1e-4)
    assert found.same_choice.value == np.mean(choices) and found.same_token.value == pytest.approx(np.mean(tokens))
    assert found.contrast_correlation.value == pytest.approx(np.corrcoef(np.array(contrasts).T)[0, 1], abs=1e-5)


def test_losses_by_hand(true: Subject) -> None:
    everything = set(all_nodes(true.model))
    losses = faithfulness(true)
    f, c, nothing = (loss_by_hand(true, kept) for kept in (None, true.nodes, ()))
    assert losses.model_loss.value == pytest.approx(f, abs=1e-5)
    assert losses.circuit_loss.value == pytest.approx(c, abs=1e-5)
    assert losses.faithfulness.value == pytest.approx((nothing - c) / (nothing - f), abs=1e-4)
    without = loss_by_hand(true, everything - set(true.nodes))
    assert necessity(true, sets=2).value.value == pytest.approx(without - f, abs=1e-5)


def test_random_sets_have_as_many_nodes_at_every_site(true: Subject) -> None:
    sets = true.random_masks(5, seed=1)
    for site, part in true.layout.split(sets).items():
        assert part.sum(-1).tolist() == [sum(node.site == site for node in true.nodes)] * 5
    assert len({true.layout.nodes(mask) for mask in sets}) == 5
    assert torch.equal(sets, true.random_masks(5, seed=1)) and not torch.equal(sets, true.random_masks(5, seed=2))
    found = sufficiency(true, sets=2, seed=7)
    by_loops = [loss_by_hand(true, true.layout.nodes(mask)) for mask in true.random_masks(2, seed=7)]
    assert found.random.value == pytest.approx(np.mean(by_loops), abs=1e-5)
    with pytest.raises(ValueError, match="1 random sets of nodes asked for; ask for at least 2"):
        sufficiency(true, sets=1)


def test_completeness_and_minimality_by_hand(true: Subject) -> None:
    found = completeness(true, parts=4, seed=3)
    part, everything = set(found.largest_part), set(all_nodes(true.model))
    gap = loss_by_hand(true, set(true.nodes) - part) - loss_by_hand(true, everything - part)
    assert found.largest_gap.value == pytest.approx(abs(gap), abs=1e-5)
    assert found.largest_gap.value >= found.mean_gap.value > 0 and part <= set(true.nodes)
    effects = minimality(true).effects
    assert tuple(effect.node for effect in effects) == true.nodes
    base = loss_by_hand(true, true.nodes)
    some = minimality(true, most=5)  # 12 nodes: every third
    assert some.effects == effects[::3] and some.idle_share == minimality(true).idle_share
    for effect in (effects[0], effects[-2]):
        rise = loss_by_hand(true, set(true.nodes) - {effect.node}) - base
        assert effect.effect.value == pytest.approx(rise, abs=1e-5)


def test_a_circuit_that_answers_what_the_model_does_not_disagrees_with_it() -> None:
    """A second value channel outside the circuit turns the model's answer round: a low loss, and no agreement at all."""
    subject = small(small_model(writes=((1, 1, -6.0),)))
    found, losses = agreement(subject), faithfulness(subject)
    assert losses.circuit_loss.value < 0.01 and losses.model_loss.value > 5
    assert losses.faithfulness is None  # the model does worse than nothing: there is no way to go
    assert found.same_choice.value == 0 and found.kl_binary.value > 5
    assert found.contrast_correlation.value == pytest.approx(-1, abs=1e-3)


def test_better_than_the_model_is_not_clipped() -> None:
    """Here it nearly cancels the answer, so the circuit does better without it."""
    losses = faithfulness(small(small_model(writes=((1, 1, -2.8),))))
    assert losses.model_loss.value > 0.05 > losses.circuit_loss.value
    assert losses.better_than_model and losses.faithfulness.value > 1.05


def test_a_backup_outside_the_circuit_shows_in_completeness_alone() -> None:
    """A second path of the same head takes over in the model when the circuit's own is ablated, and not in the circuit."""
    backed = small(small_model(writes=((1, 2, 3.0),), reads=(1, 2)))
    assert agreement(backed).same_choice.value == 1 and faithfulness(backed).circuit_loss.value < 0.01
    found = completeness(backed, parts=8)
    assert found.mean_gap.value > 0.1 and found.largest_gap.value > 0.5
    assert completeness(small(), parts=8).largest_gap.high < 0.01


def test_an_idle_node_shows_in_minimality() -> None:
    idle = Node("0.attn.v", 3)
    found = minimality(small(nodes=(*SMALL, idle)))
    assert found.idle == (idle,) and found.idle_share.value == pytest.approx(1 / 7)


logits = st.lists(st.floats(-30, 30), min_size=4, max_size=4)


@given(logits, logits, st.floats(-5, 5))
def test_kl_is_zero_only_between_equals(one: list[float], other: list[float], shift: float) -> None:
    p, q = torch.tensor([one]).double(), torch.tensor([other]).double()
    found = float(kl_divergence(p, q))
    assert found >= 0 and float(kl_divergence(p, p + shift)) == pytest.approx(0, abs=1e-9)
    distance = float((p.softmax(-1) - q.softmax(-1)).abs().sum()) / 2
    assert found >= 2 * distance**2 - 1e-9  # Pinsker
