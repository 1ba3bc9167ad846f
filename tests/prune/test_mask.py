"""The flat vector of all node masks, and the step function that learns them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_circuits.prune.mask import NodeLayout, heaviside
from sparse_circuits.sites import Node, node_sites, site_widths

shapes = st.tuples(*(st.integers(1, 5) for _ in range(4)))


def layout_of(shape: tuple[int, int, int, int]) -> NodeLayout:
    return NodeLayout.of(site_widths(*shape))


@given(shapes, st.data())
def test_positions_and_nodes_are_each_others_inverse(shape: tuple[int, int, int, int], data: st.DataObject) -> None:
    layout = layout_of(shape)
    layers, d, attn, mlp = shape
    assert layout.size == layers * (4 * d + 3 * attn + mlp) + d
    assert tuple(layout.widths) == node_sites(layers)
    index = data.draw(st.integers(0, layout.size - 1))
    assert layout.index(layout.node(index)) == index
    every = [Node(site, channel) for site, width in layout.widths.items() for channel in range(width)]
    assert [layout.index(node) for node in every] == list(range(layout.size))


@given(shapes, st.data())
def test_a_set_of_nodes_survives_the_flat_vector(shape: tuple[int, int, int, int], data: st.DataObject) -> None:
    layout = layout_of(shape)
    chosen = data.draw(st.sets(st.integers(0, layout.size - 1)))
    nodes = [layout.node(index) for index in chosen]
    flat = layout.flat(nodes)
    assert flat.sum() == len(chosen)
    assert layout.nodes(flat) == tuple(layout.node(index) for index in sorted(chosen))
    for site, part in layout.split(flat).items():
        assert part.tolist() == [float(Node(site, channel) in nodes) for channel in range(len(part))]


@given(shapes, st.integers(1, 3), st.integers(1, 3))
def test_batched_masks_repeat_each_mask_for_its_rows(shape: tuple[int, int, int, int], masks: int, rows: int) -> None:
    layout = layout_of(shape)
    values = torch.rand(masks, layout.size)
    for site, part in layout.batched(values, rows).items():
        assert part.shape == (masks * rows, 1, layout.widths[site])
        for row in range(masks * rows):
            assert torch.equal(part[row, 0], layout.split(values[row // rows])[site])


def test_the_step_is_on_at_zero() -> None:
    tau = torch.tensor([-1.0, -1e-9, -0.0, 0.0, 1e-9, 1.0])
    assert heaviside(tau, 1.0).tolist() == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_its_gradient_is_that_of_a_sigmoid(temperature: float) -> None:
    """sigmoid'(tau / T) / T by finite differences, times what comes from above (METHOD 1f)."""
    tau = torch.tensor([-1.0, -0.2, 0.0, 0.7], dtype=torch.double, requires_grad=True)
    weight = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.double)
    (heaviside(tau, temperature) * weight).sum().backward()

    def smooth(x: float) -> float:
        return 1 / (1 + math.exp(-x / temperature))

    expected = [w * (smooth(t + 1e-5) - smooth(t - 1e-5)) / 2e-5 for t, w in zip(tau.tolist(), weight, strict=True)]
    assert tau.grad is not None
    assert tau.grad.tolist() == pytest.approx([float(value) for value in expected], rel=1e-6)


def test_at_temperature_one_the_gradient_is_almost_straight_through() -> None:
    tau = torch.linspace(-1, 1, 9, requires_grad=True)
    heaviside(tau, 1.0).sum().backward()
    assert tau.grad is not None
    assert float(tau.grad.min()) >= 0.1966 and float(tau.grad.max()) == pytest.approx(0.25)
