"""1h: two-valued nodes lose nothing; levels and losses of graded ones again by brute force and prompt-by-prompt loops."""

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sparse_circuits.circuit.ablation import task_means
from sparse_circuits.circuit.circuit import Origin
from sparse_circuits.data.tokenizer import tokenizer_hash
from sparse_circuits.model.taps import Replace
from sparse_circuits.sites import Edge, Node
from sparse_circuits.validate import binarise
from sparse_circuits.validate.binarise import binarisation, two_means
from sparse_circuits.validate.known_counts import COUNT, counting_model
from sparse_circuits.validate.measure_inside import binarisation_rows
from sparse_circuits.validate.run import QUICK
from sparse_circuits.validate.subject import Subject
from validate.planted import SMALL, all_nodes, by_hand, circuit_of, prompts, quotes, small, small_model, truth

Pair = tuple[float, float]


@cache
def counting(n: int = 4) -> Subject:
    """The compiled circuit that tells whether one, two or three beeps are even."""
    known = counting_model()
    origin = Origin(where="", hash=tokenizer_hash(known.tokenizer))
    circuit = circuit_of(known.model, known.nodes, known.reference.values, known.task).replace(tokenizer=origin)
    return Subject.of(circuit, known.model, known.task, known.tokenizer, n=n)


def two_valued() -> Subject:
    """The small model where kinds are 0 and 1 (none: 0), both quotes are equally loud, and the head looks nowhere else."""
    model, known = deepcopy(small_model()), truth()
    weights = model.state_dict()
    for split in ("train", "val", "test"):
        a, b = known.task.pairs(split, 64, known.tokenizer).tokens.unbind(1)
        weights["embed.weight"][a[a != b]] = torch.tensor([0.0, 0, 1, 0, 0, 0, 1, 3])
        weights["embed.weight"][b[a != b]] = torch.tensor([1.0, 0, 1, 0, 0, 0, 0, 3])
    weights["blocks.0.attn.c_attn.weight"][4, 2] = 200.0  # k[0]: the weight of all other tokens is 0 in fp32
    weights["blocks.0.attn.c_proj.bias"][1] = -1.0
    values = task_means(model, known.task.pairs("train", 64, known.tokenizer))
    nodes = (*SMALL, Node("0.attn.q", 0))  # a bias: constant
    circuit = circuit_of(model, nodes, {site: value.detach() for site, value in values.items()})
    return Subject.of(circuit, model, known.task, known.tokenizer, n=6)


def test_two_valued_nodes_lose_nothing() -> None:
    found = binarisation(two_valued())
    assert found is not None and found.one_level.value > 0.5
    assert found.rise.value == pytest.approx(0, abs=1e-6) and found.loss.value < 0.1
    assert found.constant == (Node("0.attn.q", 0),)
    one = 1 / np.sqrt(11 / 8)  # a quote's embedding has the square 11, in 8 channels
    levels = {
        "0.attn.act_in[0]": (0, one),
        "0.attn.act_in[2]": (0, one),
        "0.attn.k[0]": (0, 200 * one),
        "0.attn.v[0]": (0, one),
        "0.attn.resid_delta[1]": (-1, 3 * one - 1),
        "final_resid[1]": (-1, 3 * one - 1),
    }
    assert [str(node.node) for node in found.nodes] == list(levels)
    for node in found.nodes:
        assert (node.low, node.high) == pytest.approx(levels[str(node.node)], abs=1e-5)
        assert node.rise.value == pytest.approx(0, abs=1e-6) and node.explained.low == pytest.approx(1, abs=1e-9)


# --- the same by plain loops


def split_by_hand(values: np.ndarray) -> Pair | None:
    """The two means with the least squared error, every split tried; None for a constant."""
    values = np.sort(values)
    if values.std() <= 1e-6 * np.sqrt((values**2).mean()):
        return None
    splits = [(values[:k], values[k:]) for k in range(1, len(values))]
    low, high = min(splits, key=lambda parts: sum(((part - part.mean()) ** 2).sum() for part in parts))
    return float(low.mean()), float(high.mean())


def read_at_the_end(subject: Subject, site: str) -> bool:
    """Whether only the last position can reach the answer: in the last block all but what it reads, its keys and values."""
    last = f"{subject.model.config.n_layer - 1}."
    return site == "final_resid" or site.startswith((f"{last}attn.q", f"{last}attn.resid_delta", f"{last}mlp."))


def taken_by_hand(subject: Subject, split: str, n: int) -> dict[Node, np.ndarray]:
    """What every node takes in f_C on some pairs, at the positions that count."""
    weights, found = subject.edges(1.0), {node: [] for node in subject.nodes}
    for ids, *_ in prompts(subject.on(split, n).pairs):
        acts = by_hand(subject, ids, subject.nodes, weights=weights)[1]
        for node, values in found.items():
            own = acts[node.site][:, node.channel]
            values.append(own[-1:] if read_at_the_end(subject, node.site) else own)
    return {node: torch.cat(values).numpy() for node, values in found.items()}


def loss_by_hand(subject: Subject, levels: Mapping[Node, Pair], nodes: Collection[Node]) -> float:
    """Mean binary loss of f_C, these nodes at their levels, one prompt at a time, no padding."""
    kept, terms = set(subject.nodes), []

    def rebuilt(site: str, x: torch.Tensor) -> torch.Tensor:
        new = x.clone()
        for channel in range(x.shape[-1]):
            node, own = Node(site, channel), x[0, :, channel]
            if node not in kept:
                new[0, :, channel] = subject.circuit.values[site][channel]
            elif node in nodes:
                low, high = levels[node]
                new[0, :, channel] = torch.where((own - high).abs() < (own - low).abs(), high, low)
        return new

    tap = Replace({site: lambda x, site=site: rebuilt(site, x) for site in subject.layout.widths})
    for ids, right, wrong in prompts(subject.pairs):
        with torch.no_grad():
            logits = subject.model(torch.tensor([ids]), tap=tap, weights=subject.edges(1.0))[0, -1]
        terms.append(float(F.cross_entropy(logits[[right, wrong]][None].double(), torch.tensor([0]))))
    return sum(terms) / len(terms)


def with_a_cut() -> Subject:
    """A second value channel writes too, along an edge that is cut."""
    edge = Edge(Node("0.attn.v", 1), Node("0.attn.resid_delta", 1), 1.0)
    return small(small_model(writes=((1, 1, 1.0),)), nodes=(*SMALL, Node("0.attn.v", 1)), n=2, cut_edges=(edge,))


def whole() -> Subject:
    """Every node: no mask holds any channel constant."""
    return small(nodes=all_nodes(small_model()), n=2)


@pytest.mark.parametrize("make", [counting, with_a_cut, whole])
def test_levels_and_losses_by_hand(make: Callable[[], Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binarise, "FIT_PAIRS", 10)
    subject = make()
    taken = taken_by_hand(subject, "train", 10)
    levels = {node: levels for node, values in taken.items() if (levels := split_by_hand(values)) is not None}
    found = binarisation(subject)
    assert [node.node for node in found.nodes] == [node for node in subject.nodes if node in levels]
    assert set(found.constant) == set(subject.nodes) - set(levels)
    for node in found.nodes:
        assert (node.low, node.high) == pytest.approx(levels[node.node], rel=1e-4, abs=1e-5)
    own = loss_by_hand(subject, levels, ())
    assert found.loss.value == pytest.approx(loss_by_hand(subject, levels, levels), abs=1e-5)
    assert found.rise.value == pytest.approx(found.loss.value - own, abs=1e-5)
    flat = {node: (taken[node].mean(), taken[node].mean()) for node in levels}
    assert found.one_level.value == pytest.approx(loss_by_hand(subject, flat, flat) - own, abs=1e-5)
    scored = taken_by_hand(subject, "test", subject.pairs.n)
    for node in found.nodes:
        alone = loss_by_hand(subject, levels, (node.node,)) - own
        assert node.rise.value == pytest.approx(alone, abs=1e-5)
        low, high = levels[node.node]
        values = scored[node.node]
        left = np.minimum((values - low) ** 2, (values - high) ** 2).sum()
        assert node.explained.value == pytest.approx(1 - left / ((values - values.mean()) ** 2).sum(), abs=1e-3)


def test_nodes_are_fed_by_binarised_nodes() -> None:
    """The logits read one node. At its level in f_C, as if all were replaced at once, it is right; fed forward it is not."""
    found = binarisation(counting())
    assert str(found.nodes[-1].node) == "final_resid[29]" and found.nodes[-1].rise.value < 0.01
    assert found.rise.value > 1


def test_three_counts_need_three_levels() -> None:
    (row,) = binarisation_rows(counting(), QUICK)
    assert row.outcome == "fail" and row.value.value == pytest.approx(3.7, abs=0.1)  # as docs/validation.md quotes it
    assert f"alone lose most: 0.attn.resid_delta[{COUNT}]" in row.reason and "one level, each node's mean" in row.reason
    detail = {name: (rise, share) for name, _, _, rise, share in row.details["nodes"]}
    assert detail[f"0.attn.resid_delta[{COUNT}]"][1][0] < 0.9 and detail["0.attn.k[32]"][1][0] > 0.999


def test_three_values_pass_where_later_nodes_divide_them_again() -> None:
    (row,) = binarisation_rows(quotes(n=4), QUICK)
    assert row.outcome == "pass" and row.number == "1h" and row.control.value > 0.5
    assert max(rise[0] for _, _, _, rise, _ in row.details["nodes"]) > 0.3 > abs(row.value.value)


def test_what_has_no_two_levels() -> None:
    assert binarisation(quotes((), n=2)) is None
    assert binarisation_rows(quotes((), n=2), QUICK)[0].reason == "the circuit has no nodes"
    (row,) = binarisation_rows(small(nodes=[Node("final_resid", 1)], n=2), QUICK)
    assert row.outcome == "not applicable" and row.reason == "no node varies in the circuit"


def test_levels_come_from_other_pairs_than_those_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, draw = [], Subject.on

    def spied(self: Subject, split: str, n: int | None = None) -> Subject:
        drawn.append(split)
        return draw(self, split, n)

    monkeypatch.setattr(Subject, "on", spied)
    subject = small(n=2)
    binarisation(subject)
    binarisation(replace(subject, split="train", pairs=draw(subject, "train").pairs))
    assert drawn == ["train", "val"]


def errors(values: Sequence[int], low: float, high: float) -> float:
    return sum(min((value - low) ** 2, (value - high) ** 2) for value in values)


@given(st.lists(st.tuples(st.integers(-6, 6), st.integers(-2, 90)), min_size=2, max_size=12))
def test_two_means_are_the_best_two(rows: list[tuple[int, int]]) -> None:
    found = two_means(torch.tensor(rows, dtype=torch.float32))
    near = found.nearest(torch.tensor(rows, dtype=torch.float32))
    for column, values in enumerate(zip(*rows, strict=True)):
        assert bool(found.varies[column]) == (len(set(values)) > 1)
        assert float(found.mean[column]) == pytest.approx(sum(values) / len(values), rel=1e-5, abs=1e-6)
        if len(set(values)) == 1:
            assert near[:, column].tolist() == list(values)
            later = found.nearest(torch.full((2,), 100.0))
            assert float(later[column]) == 100  # stays as it is, also where it comes to vary
            continue
        best = min(
            sum(sum((v - sum(part) / len(part)) ** 2 for v in part) for part in parts)
            for at in set(values) - {min(values)}
            for parts in [([v for v in values if v < at], [v for v in values if v >= at])]
        )
        low, high = float(found.low[column]), float(found.high[column])
        assert low < high and errors(values, low, high) == pytest.approx(best, rel=1e-4, abs=1e-4)
        assert errors(values, low, high) == pytest.approx(
            sum((v - n) ** 2 for v, n in zip(values, near[:, column].tolist(), strict=True)), rel=1e-4, abs=1e-4
        )
