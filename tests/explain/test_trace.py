"""A trace says what a plain pass of the circuit computes, where the prompts part, and which weights join its nodes."""

import pytest
import torch

from sparse_circuits.circuit.evaluate import circuit_tap, contrast, usable_tokens
from sparse_circuits.explain.trace import trace, trace_page
from sparse_circuits.model.taps import Chain, Record
from sparse_circuits.sites import Node
from viz.made_up import made_up


@pytest.mark.parametrize("pair", [0, 2])
def test_numbers_are_those_of_a_pass(pair: int) -> None:
    circuit, model, task, tokenizer = made_up(60)
    found = trace(circuit, model, task, tokenizer, pair=pair)
    pairs = task.pairs("test", pair + 1, tokenizer, usable=usable_tokens(model)).take([pair])
    a, b = (pairs.tokens[0, side, : int(pairs.lengths[0, side])].tolist() for side in (0, 1))
    parting = next(i for i in range(min(len(a), len(b))) if a[i] != b[i])
    assert found.parting == (parting, parting) and [len(prompt) for prompt in found.prompts] == [len(a), len(b)]
    seen = Record([*{node.site for node in circuit.nodes}, "0.attn.pattern", "1.attn.pattern"])
    with torch.no_grad():
        z = contrast(model, pairs, Chain(circuit_tap(circuit, model), seen))[0]
    for given, node in zip(found.nodes, circuit.nodes, strict=True):
        x = seen.acts[node.site][..., node.channel]
        assert given.node == str(node)
        assert given.parting == pytest.approx((float(x[0, parting]), float(x[1, parting])), abs=1e-5)
        assert given.last == pytest.approx((float(x[0, len(a) - 1]), float(x[1, len(b) - 1])), abs=1e-5)
        assert circuit.values is not None and given.ablated == float(circuit.values[node.site][node.channel])
        for name, weight in given.writes:
            assert (node, Node.parse(name), pytest.approx(weight)) in [
                (e.source, e.target, e.weight) for e in circuit.edges
            ]
    assert sum(len(node.writes) for node in found.nodes) == len(circuit.edges) > 0
    assert found.chances == pytest.approx((float(z[0].sigmoid()), float((-z[1]).sigmoid())), abs=1e-5)
    for head in found.heads:
        layer, number = map(int, head.head.split("."))
        length = (len(a), len(b))[head.label]
        row = seen.acts[f"{layer}.attn.pattern"][head.label, number, length - 1]
        assert head.attention == pytest.approx(row[:length].tolist(), abs=1e-5)
        assert head.sink == pytest.approx(float(row[-1]), abs=1e-5)
        assert sum(head.attention) + head.sink == pytest.approx(1, abs=1e-4)


def test_page_has_every_node_and_escapes_tokens() -> None:
    circuit, model, task, tokenizer = made_up(60)
    found = trace(circuit, model, task, tokenizer)
    page = trace_page(found)
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert all(any(line.startswith(f"| {node} | ") for line in rows) for node in circuit.nodes)
    assert len({line.count(" | ") for line in rows if line.startswith(("| 0.", "| 1."))}) <= 2  # nodes; heads
    assert page.endswith("\n") and "Where the last token looks:" in page


@pytest.mark.parametrize("pair", [-1, 512])
def test_bad_pairs(pair: int) -> None:
    with pytest.raises(ValueError, match=r"pair must lie in 0\.\.511"):
        trace(*made_up(), pair=pair)


def test_a_pair_that_a_small_task_lacks() -> None:
    circuit, model, task, tokenizer = made_up()
    there = len(task.sample("test", 512))
    assert there < 512
    with pytest.raises(ValueError, match="give a pair below that"):
        trace(circuit, model, task, tokenizer, pair=there)
