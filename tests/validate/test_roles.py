"""F6, F7: nothing changes in the full circuit; every number again by plain loops; flipped nodes and dead heads are named."""

import math

import numpy as np
import pytest
import torch

from sparse_circuits.sites import Node
from sparse_circuits.validate.roles import attention_divergence, node_roles
from sparse_circuits.validate.subject import Subject
from validate.planted import SMALL, all_nodes, by_hand, prompts, quotes, small, small_model, truth


@pytest.fixture(scope="module")
def true() -> Subject:
    return quotes(n=4)


def test_full_circuit_changes_nothing() -> None:
    full = quotes(all_nodes(truth().model), n=2)
    found = node_roles(full)
    varying = [role for role in found.nodes if role.fvu is not None]
    assert len(found.nodes) == len(full.nodes) and len(varying) > 300
    assert max(role.fvu.high for role in varying) < 1e-9
    assert min(role.correlation.low for role in varying) > 1 - 1e-9
    assert found.repurposed == found.flipped == found.silenced == () and found.repurposed_share.value == 0
    heads = attention_divergence(full)
    assert [(head.layer, head.head) for head in heads] == [(layer, head) for layer in (0, 1) for head in (0, 1, 2)]
    for head in heads:
        assert (head.total_variation.value, head.kl.value, head.kept, head.dead) == (0, 0, (16, 16, 16), False)
        assert head.sink_model == head.sink_circuit and head.uniformity_model == head.uniformity_circuit


def test_empty_circuit_has_no_parts() -> None:
    nothing = quotes((), n=2)
    assert node_roles(nothing).nodes == () and attention_divergence(nothing) == ()


def test_true_circuit_keeps_its_roles(true: Subject) -> None:
    found = node_roles(true)
    assert tuple(role.node for role in found.nodes) == true.nodes and found.repurposed == ()
    assert min(role.correlation.low for role in found.nodes) > 0.95
    (head,) = attention_divergence(true)
    assert (head.layer, head.head, head.kept, head.dead) == (1, 1, (0, 1, 1), False)  # its query is constant by design
    assert head.total_variation.value < 0.2


def test_node_roles_by_hand(true: Subject) -> None:
    runs = [(by_hand(true, ids)[1], by_hand(true, ids, true.nodes)[1]) for ids, *_ in prompts(true.pairs)]
    for role in node_roles(true).nodes:
        f, c = (np.concatenate([run[side][role.node.site][:, role.node.channel] for run in runs]) for side in (0, 1))
        assert role.fvu.value == pytest.approx(((c - f) ** 2).sum() / ((f - f.mean()) ** 2).sum(), abs=1e-5)
        assert role.correlation.value == pytest.approx(np.corrcoef(f, c)[0, 1], abs=1e-5)


def test_flipped_nodes_are_named() -> None:
    """A value channel outside turns channel 1 round, and a path around the circuit repairs the answer: no loss shows it."""
    subject = small(small_model(writes=((1, 1, -6.0), (1, 2, 6.0)), reads=(1, 2)))
    assert float(subject.circuit_losses().mean()) < 0.01 and float(subject.model_losses().mean()) < 0.01
    found = node_roles(subject)
    flipped = (Node("0.attn.resid_delta", 1), Node("final_resid", 1))
    assert found.flipped == found.repurposed == flipped and found.repurposed_share.value == pytest.approx(1 / 3)
    roles = {role.node: role for role in found.nodes}
    for node in flipped:  # a_C = constant - a_f, both of mean about 0: (2 a)^2 / a^2
        assert roles[node].correlation.high < -0.99 and roles[node].fvu.value == pytest.approx(4, abs=0.1)
    assert node_roles(small()).flipped == ()


def test_nodes_that_fall_silent_and_nodes_that_never_spoke() -> None:
    """Without what it reads v[0] is constant; v[3] has no weights at all."""
    unread = tuple(node for node in SMALL if node != Node("0.attn.act_in", 0))
    found = node_roles(small(nodes=(*unread, Node("0.attn.v", 3))))
    assert found.silenced == tuple(
        Node(s, c) for s, c in (("0.attn.v", 0), ("0.attn.resid_delta", 1), ("final_resid", 1))
    )
    roles = {role.node: role for role in found.nodes}
    assert roles[Node("0.attn.v", 0)].correlation is None and roles[Node("0.attn.v", 0)].fvu.value >= 1 - 1e-6
    assert roles[Node("0.attn.v", 3)].fvu is None and roles[Node("0.attn.v", 3)].correlation is None
    assert roles[Node("0.attn.k", 0)].correlation.value == pytest.approx(1)


def test_attention_by_hand(true: Subject) -> None:
    (found,) = attention_divergence(true)
    variation, kl, sinks, even, given = [], [], [[], []], [[], []], [[], []]
    for ids, *_ in prompts(true.pairs):
        f, c = (by_hand(true, ids, kept)[1]["1.attn.pattern"][1] for kept in (None, true.nodes))
        for query in range(len(ids)):
            rows = [pattern[query].tolist() for pattern in (f, c)]
            assert all(sum(row) == pytest.approx(1, abs=1e-6) for row in rows)
            variation.append(sum(abs(p - q) for p, q in zip(*rows, strict=True)) / 2)
            kl.append(sum(p * math.log(p / q) for p, q in zip(*rows, strict=True) if p > 0))
            for side, row in enumerate(rows):
                sinks[side].append(row[-1])
                if query > 0:
                    shares = [p / sum(row[:-1]) for p in row[: query + 1]]
                    even[side].append(-sum(p * math.log(p) for p in shares if p) / math.log(query + 1))
                    given[side].append(1 - row[-1])
    assert found.total_variation.value == pytest.approx(np.mean(variation), abs=1e-5)
    assert found.kl.value == pytest.approx(np.mean(kl), abs=1e-5)
    assert [found.sink_model.value, found.sink_circuit.value] == pytest.approx(np.mean(sinks, axis=1), abs=1e-5)
    expected = [np.average(e, weights=w) for e, w in zip(even, given, strict=True)]
    assert [found.uniformity_model.value, found.uniformity_circuit.value] == pytest.approx(expected, abs=1e-5)


def test_a_head_that_lost_its_keys_is_dead() -> None:
    """It answers as before, only with less to spare: attention is even over all tokens, the sink's logit beside them being 0."""
    blind = tuple(node for node in SMALL if str(node) not in ("0.attn.act_in[2]", "0.attn.k[0]"))
    subject = small(nodes=blind)
    assert float(subject.circuit_losses().mean()) < 0.15
    (head,) = attention_divergence(subject)
    assert head.dead and head.kept == (0, 0, 1)
    assert head.uniformity_circuit.value == pytest.approx(1) and head.uniformity_model.value < 0.8
    score = 4 * float(subject.circuit.values["0.attn.k"][0]) / math.sqrt(4)
    lengths = [len(ids) for ids, *_ in prompts(subject.pairs)]
    sink = [1 / (1 + (t + 1) * math.exp(score)) for length in lengths for t in range(length)]
    assert head.sink_circuit.value == pytest.approx(np.mean(sink), abs=1e-6)
    assert not attention_divergence(small())[0].dead


def test_padding_does_not_count(true: Subject) -> None:
    """The same pairs between much longer ones: the same numbers."""
    lengths = true.pairs.lengths
    assert int(lengths.max()) > int(lengths.min())
    alone = quotes(n=4).pairs.take([0])
    padded = torch.nn.functional.pad(alone.tokens, (0, 9))
    one, other = (
        Subject(
            circuit=true.circuit,
            model=true.model,
            task=true.task,
            tokenizer=true.tokenizer,
            split="test",
            seed=0,
            pairs=type(alone)(tokens, alone.lengths, alone.completions, alone.texts, alone.fixed_completions),
        )
        for tokens in (alone.tokens, padded)
    )
    for a, b in zip(node_roles(one).nodes, node_roles(other).nodes, strict=True):
        assert a.fvu.value == pytest.approx(b.fvu.value, abs=1e-6)
    (a,), (b,) = attention_divergence(one), attention_divergence(other)
    assert a.kl.value == pytest.approx(b.kl.value, abs=1e-6)
    assert a.uniformity_model.value == pytest.approx(b.uniformity_model.value, abs=1e-6)
