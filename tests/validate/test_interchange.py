"""F8: flat where the circuit is the model; patches, donors and flips again by plain loops; planted faults show."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sparse_circuits.validate.interchange import (
    FRACTIONS,
    aligned,
    donor_pairs,
    interchange,
    interchange_accuracy,
    resample_ablation,
)
from sparse_circuits.validate.subject import Patch, Subject
from validate.planted import SMALL, all_nodes, by_hand, prompts, quotes, small, small_model, truth


@pytest.fixture(scope="module")
def true() -> Subject:
    return quotes(n=4)


def flipped() -> Subject:
    """Channel 1 means the opposite in the model (test_roles.py)."""
    return small(small_model(writes=((1, 1, -6.0), (1, 2, 6.0)), reads=(1, 2)))


def loss(logits: torch.Tensor, right: int, wrong: int) -> float:
    return float(F.cross_entropy(logits[[right, wrong]][None], torch.tensor([0])))


def test_full_circuit_is_interchangeable() -> None:
    full = quotes(all_nodes(truth().model), n=2)
    found = interchange(full, draws=1)
    for curve in (found.into_circuit, found.into_model, *found.layers_into_circuit.values()):
        assert curve.at == FRACTIONS and curve.rise.value == pytest.approx(0, abs=1e-6)
        assert curve.area.value == pytest.approx(float(full.model_losses().mean()), abs=1e-5)
    assert list(found.layers_into_model) == ["0", "1", "final"]
    swaps = interchange_accuracy(full, sets=3)
    assert swaps.accuracy.value == 1 and swaps.flips_model == swaps.flips_circuit and swaps.flips_model.value > 0.5
    resampled = resample_ablation(full)
    assert resampled.same_class == resampled.other_class
    assert resampled.same_class.value == pytest.approx(resampled.own_ablation.value, abs=1e-6)


def test_empty_circuit_has_nothing_to_exchange() -> None:
    nothing = quotes((), n=4)
    assert interchange(nothing) is None and interchange_accuracy(nothing) is None
    resampled = resample_ablation(nothing)  # it is the model, on another prompt
    assert resampled.same_class.value < 0.05 and resampled.other_class.value > 3


def test_true_circuit_passes(true: Subject) -> None:
    found = interchange(true, draws=2)
    assert abs(found.into_circuit.rise.value) < 0.01 and abs(found.into_model.rise.value) < 0.01
    swaps = interchange_accuracy(true, sets=6)
    assert swaps.accuracy.value == 1 and swaps.whole_circuit.value == 1 and swaps.flips_circuit.value > 0.5
    assert resample_ablation(true).other_class.value < 0.1


def test_ends_of_the_curve_by_hand(true: Subject) -> None:
    """All nodes of the circuit, and those of layer 0 alone, take their values in the other of f and f_C."""
    found = interchange(true, draws=1)
    sums = np.zeros(3)
    for ids, right, wrong in prompts(true.pairs):
        f, c = by_hand(true, ids)[1], by_hand(true, ids, true.nodes)[1]
        of_f, of_c = ({node: acts[node.site][:, node.channel].float() for node in true.nodes} for acts in (f, c))
        first = {node: value for node, value in of_f.items() if node.site.startswith("0.")}
        sums += [
            loss(by_hand(true, ids, true.nodes, of_f)[0], right, wrong),
            loss(by_hand(true, ids, None, of_c)[0], right, wrong),
            loss(by_hand(true, ids, true.nodes, first)[0], right, wrong),
        ]
    curves = (found.into_circuit, found.into_model, found.layers_into_circuit["0"])
    assert [curve.losses[-1].value for curve in curves] == pytest.approx(sums / (2 * true.pairs.n), abs=1e-5)
    starts = [float(true.circuit_losses().mean()), float(true.model_losses().mean())]
    assert [curve.losses[0].value for curve in curves[:2]] == pytest.approx(starts, abs=1e-5)


def test_parts_grow_node_by_node_within_their_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, seen = small(n=1), []

    class Spied(Patch):
        def __init__(self, channels: dict, values: torch.Tensor, chosen: torch.Tensor) -> None:
            seen.append(chosen[::2])  # a pair is two rows
            super().__init__(channels, values, chosen)

    monkeypatch.setattr("sparse_circuits.validate.interchange.Patch", Spied)
    interchange(subject, draws=3)
    sets = torch.cat(seen).view(
        2, 3, 2 + 3 * 3, len(SMALL)
    )  # into f_C and f; all, layer 0, final; ends and 3 fractions x 3 draws
    assert torch.equal(sets[0], sets[1])
    for scope, wanted in zip(sets[0], ([1] * 6, [1] * 5 + [0], [0] * 5 + [1]), strict=True):
        size = sum(wanted)
        assert scope[0].tolist() == [0] * 6 and scope[1].tolist() == wanted
        between = scope[2:].view(3, 3, 6)
        assert between.sum(-1).tolist() == [[round(fraction * size)] * 3 for fraction in FRACTIONS[1:-1]]
        assert bool((between[0] <= between[1]).all() and (between[1] <= between[2]).all())
    assert len({tuple(row) for row in sets[0, 0, 2:5].tolist()}) > 1  # draws differ
    again = interchange(subject, draws=3)
    assert again == interchange(subject, draws=3)


def test_flipped_roles_show_and_right_ones_do_not() -> None:
    wrong, right = flipped(), small()
    assert float(wrong.circuit_losses().mean()) < 0.01
    assert interchange(wrong, draws=2).into_circuit.rise.low > 0.5
    assert abs(interchange(right, draws=2).into_circuit.rise.value) < 1e-4
    assert interchange_accuracy(wrong).accuracy.value < 0.9 and interchange_accuracy(right).accuracy.value == 1


def test_answers_left_outside_show_under_the_other_class() -> None:
    """A stronger copy of the value channel is ablated to its mean: harmless, until it speaks for the other answer."""
    found = resample_ablation(small(small_model(writes=((1, 1, 6.0),))))
    assert found.own_ablation.value < 0.01 and found.same_class.value < 0.01 and found.other_class.value > 1
    assert resample_ablation(small(nodes=SMALL)).other_class.value < 0.01


def taken(values: torch.Tensor, tokens: int) -> torch.Tensor:
    """Values [m, w] at the positions of a prompt of `tokens` tokens, last on last."""
    return torch.stack([values[min(max(t - tokens + len(values), 0), len(values) - 1)] for t in range(tokens)])


def test_resampled_surroundings_by_hand(true: Subject) -> None:
    donors = donor_pairs(torch.tensor([pair.template for pair in true.pairs.texts]), seed=5)
    outside = sorted(set(all_nodes(true.model)) - set(true.nodes))
    all_prompts, sums = prompts(true.pairs), np.zeros(2)
    for row, (ids, right, wrong) in enumerate(all_prompts):
        for other_class in (0, 1):
            donor = all_prompts[2 * int(donors[row // 2]) + (row % 2 ^ other_class)][0]
            acts = {
                site: taken(x, len(ids)).float() for site, x in by_hand(true, donor)[1].items() if "pattern" not in site
            }
            patches = {node: acts[node.site][:, node.channel] for node in outside}
            sums[other_class] += loss(by_hand(true, ids, None, patches)[0], right, wrong)
    found = resample_ablation(true, seed=5)
    expected = sums / len(all_prompts)
    assert [found.same_class.value, found.other_class.value] == pytest.approx(expected, abs=1e-5)


def test_flips_by_hand(true: Subject) -> None:
    """One node set: all of the circuit, at the values of the pair's other prompt."""
    all_prompts, flips = prompts(true.pairs), [[], []]
    for row, (ids, right, wrong) in enumerate(all_prompts):
        for side, kept in enumerate((None, true.nodes)):
            source = by_hand(true, all_prompts[row ^ 1][0], kept)[1]
            patches = {node: taken(source[node.site], len(ids))[:, node.channel].float() for node in true.nodes}
            before, after = by_hand(true, ids, kept)[0], by_hand(true, ids, kept, patches)[0]
            flips[side].append(bool(before[right] > before[wrong]) != bool(after[right] > after[wrong]))
    found = interchange_accuracy(true, sets=1)
    assert [found.flips_model.value, found.flips_circuit.value] == pytest.approx(np.mean(flips, axis=1))
    assert found.accuracy.value == pytest.approx(np.mean(np.array(flips[0]) == flips[1])) == found.whole_circuit.value


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.integers(0, 5))
def test_donors_are_other_pairs_of_the_same_template(templates: list[int], seed: int) -> None:
    donors = donor_pairs(torch.tensor(templates), seed).tolist()
    assert sorted(donors) == list(range(len(templates)))
    assert all(donor != pair for pair, donor in enumerate(donors))
    alone = {template for template in templates if templates.count(template) == 1}
    strangers = [i for i, donor in enumerate(donors) if templates[donor] != templates[i]]
    if not alone:
        assert strangers == []
    elif len(alone) == 1:
        assert len(strangers) == 2  # it stands between a pair and that one's donor
    else:
        assert {templates[i] for i in strangers} == alone


def test_a_single_pair_has_no_donor() -> None:
    with pytest.raises(ValueError, match="there is 1; draw at least 2"):
        donor_pairs(torch.tensor([0]), 0)


def test_prompts_are_aligned_at_their_ends() -> None:
    """Three values for a prompt of 5 tokens in 6 columns, and five for one of 2."""
    values = torch.tensor([[10.0, 11, 12, 0, 0], [20, 21, 22, 23, 24]])[..., None]
    found = aligned(values, torch.tensor([2, 4]), torch.tensor([4, 1]), 6)[..., 0]
    assert found.tolist() == [[10, 10, 10, 11, 12, 12], [23, 24, 24, 24, 24, 24]]
