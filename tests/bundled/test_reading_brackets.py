"""docs/circuits/bracket_counting.md: what the circuit does, and where the whole model does something else."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sparse_circuits as sc
from bundled.readings import Way, open_way, right
from sparse_circuits.circuit.evaluate import own_values
from sparse_circuits.data.tokenizer import token_text
from sparse_circuits.validate.attack import ADDED

DOCS = Path(__file__).parent.parent.parent / "docs" / "circuits"
LAST_HEAD = {"1.attn.q": (231,), "1.attn.k": (231,), "1.attn.v": (232, 235, 236, 239)}
SITES = ("0.attn.k", "0.attn.v", "0.attn.pattern", "0.mlp.post_act", "1.attn.pattern", *LAST_HEAD, "final_resid")
NUMBERS, KEYS, VALUES = (20, 35, 199), (2, 10, 167), (7, 13, 174)
HEADS = (0, 10)
BOTH_HEADS = (*range(16), *range(160, 176))
NEURONS = (3, 145, 190, 233, 248, 299)
ANSWER = (5, 159, 254)
LISTS_OF_LISTS = 3
"""The test template whose prompts differ in more than the opening token."""
ONE_PROMPT = 0.009
"""Of 120."""


@pytest.fixture(scope="module", params=["circuit", "model"])
def way(request: pytest.FixtureRequest) -> Way:
    alike = 160, lambda pair: pair.template != LISTS_OF_LISTS
    return open_way("bracket_counting", request.param == "circuit", SITES, *alike)


def swapped(way: Way, site: str, channels: Iterable[int]) -> Callable[[Tensor], Tensor]:
    """Gives each prompt the other one's channels at every token; both are of the same length."""
    assert torch.equal(way.pairs.lengths[:, 0], way.pairs.lengths[:, 1])
    chosen = list(channels)

    def function(x: Tensor) -> Tensor:
        x[..., chosen] = way.acts[site][way.rows ^ 1][..., chosen]
        return x

    return function


def ablated(site: str, channels: Iterable[int]) -> Callable[[Tensor], Tensor]:
    """Sets channels to what they are outside the circuit."""
    chosen, values = list(channels), own_values(sc.load_circuit("bundled/bracket_counting"))[site]

    def function(x: Tensor) -> Tensor:
        x[..., chosen] = values[chosen]
        return x

    return function


def to_opening(way: Way, patterns: Tensor) -> list[list[float]]:
    """Attention of the last token to the opening, per head of layer 0: mean over flat and over nested lists."""
    places = way.rows, way.pairs.last, way.opening
    return [patterns[places[0], head, places[1], places[2]].view(-1, 2).mean(0).tolist() for head in HEADS]


def near(found: list[list[float]], expected: list[list[float]]) -> bool:
    return torch.allclose(torch.tensor(found), torch.tensor(expected), atol=0.01)


def is_right(way: Way, z: Tensor, circuit: tuple[float, float], model: tuple[float, float]) -> bool:
    """Whether the shares of prompts answered rightly are those of the text, rounded there to a percent, or one prompt off."""
    return right(z) == pytest.approx(circuit if way.is_circuit else model, abs=0.005 + ONE_PROMPT)


def test_two_heads_find_the_double_bracket_by_its_key(way: Way) -> None:
    """In the circuit both do; in the model one does, and it looks at a single bracket as well."""
    before = to_opening(way, way.acts["0.attn.pattern"])
    _, patterns = way.seen({"0.attn.k": way.exchanged("0.attn.k", KEYS)}, "0.attn.pattern")
    assert near(before, [[0.05, 0.80], [0.05, 0.64]] if way.is_circuit else [[0.41, 0.69], [0.00, 0.36]])
    after = [[0.80, 0.05], [0.64, 0.05]] if way.is_circuit else [[0.71, 0.39], [0.02, 0.16]]
    assert near(to_opening(way, patterns), after)


def test_numbers_ask_for_it(way: Way) -> None:
    z, patterns = way.seen({"0.attn.act_in": ablated("0.attn.act_in", NUMBERS)}, "0.attn.pattern")
    nested = [[weights[1]] for weights in to_opening(way, patterns)]
    assert near(nested, [[0.26], [0.10]] if way.is_circuit else [[0.27], [0.00]])
    assert is_right(way, z, (0.98, 0.02), (1, 0.42))


def test_what_the_opening_sends_decides_the_circuit_and_only_partly_the_model(way: Way) -> None:
    assert is_right(way, way.contrasts, (0.98, 0.88), (1, 0.94))
    six = {"0.attn.k": way.exchanged("0.attn.k", KEYS), "0.attn.v": way.exchanged("0.attn.v", VALUES)}
    assert is_right(way, way.changed(six), (0.12, 0.02), (0.83, 0.80))
    heads = {site: way.exchanged(site, BOTH_HEADS) for site in ("0.attn.k", "0.attn.v")}
    assert is_right(way, way.changed(heads), (0.12, 0.02), (0.03, 0.86))


def test_values_of_the_opening(way: Way) -> None:
    """One is a detector in both; one is graded in both; the third hardly differs in the circuit, and does in the model."""
    sent = [way.at_opening("0.attn.v", channel).mean(0).tolist() for channel in VALUES]
    assert near(sent, [[-0.63, -0.73] if way.is_circuit else [-1.99, -0.69], [0, 1.45], [0.83, 1.26]])


def test_neurons_carry_it_on_and_fire_for_nested_lists_only_in_the_circuit(way: Way) -> None:
    fired = way.acts["0.mlp.post_act"][way.rows, way.pairs.last][:, list(NEURONS)].view(-1, 2, 6)
    flat, nested = fired.mean(0).tolist()
    if way.is_circuit:
        assert int((fired[:, 0].abs() > 0).any(0).sum()) == 1 and flat[4] == pytest.approx(0.75, abs=0.01)
        assert (min(nested), max(nested)) == pytest.approx((1.83, 9.41), abs=0.01)
    else:
        assert [*flat[:2], *nested[:2]] == pytest.approx([4.94, 8.27, 9.45, 5.94], abs=0.01)
    z = way.changed({"0.mlp.post_act": swapped(way, "0.mlp.post_act", NEURONS)})
    assert is_right(way, z, (0.12, 0.02), (0.34, 0.79))


def test_head_14_asks_the_numbers_of_the_list_only_in_the_circuit(way: Way) -> None:
    texts = [[token_text(way.tokenizer, int(token)) for token in row] for row in way.pairs.flat_tokens]
    numbers = torch.tensor([[text.strip().isdigit() for text in row] for row in texts])
    blanks = torch.tensor([[text == " " for text in row] for row in texts])
    looks, inside = way.looks(1, 14)[:, :-1], torch.arange(numbers.shape[1]) > way.opening[:, None]
    shares = [(looks * (kind & inside)).sum(-1).view(-1, 2).mean(0).tolist() for kind in (numbers, blanks)]
    assert near(shares, [[0.15, 0.94], [0.06, 0.00]] if way.is_circuit else [[0.01, 0.03], [0.35, 0.70]])
    z = way.changed({site: swapped(way, site, channels) for site, channels in LAST_HEAD.items()})
    assert is_right(way, z, (0.80, 0.60), (1, 0.92))


def test_three_channels_are_the_answer(way: Way) -> None:
    z = way.changed({"final_resid": swapped(way, "final_resid", ANSWER)})
    assert is_right(way, z, (0.12, 0.02), (0.85, 0.41))


def test_layer_2_is_needed_to_stay_away(way: Way) -> None:
    nodes = {"2.mlp.post_act": (168,), "2.mlp.resid_delta": (159,)}
    z = way.changed({site: ablated(site, channels) for site, channels in nodes.items()})
    assert is_right(way, z, (0.35, 1), (0.99, 1))
    if way.is_circuit:
        for site, channels in nodes.items():
            _, x = way.seen({}, site)
            assert not x[way.rows, way.pairs.last][:, list(channels)].any()


def test_the_dilution_in_the_text_is_the_file() -> None:
    found = json.loads((DOCS / "bracket_counting_dilution.json").read_text())
    assert [point["added"] for point in found["points"]] == list(ADDED) and found["filling"] == "elements"
    text = (DOCS / "bracket_counting.md").read_text()
    for point in found["points"]:
        score = point["score"]
        row = (point["added"], score["model_accuracy"]["value"], score["circuit_accuracy"]["value"])
        z = [point[name][side]["value"] for side in (0, 1) for name in ("contrasts_model", "contrasts_circuit")]
        line = "| {} | {:.0%} | {:.0%} | {:+.1f} | {:+.1f} | {:+.1f} | {:+.1f} |".format(*row, *z)
        assert line in text, line
    assert f"correlation of both contrasts over all prompts is {found['correlation']:.2f}" in text


def test_sizes_and_losses_in_the_text_are_the_circuits() -> None:
    circuit = sc.load_circuit("bundled/bracket_counting")
    text = (DOCS / "bracket_counting.md").read_text()
    assert circuit.loss is not None and circuit.model_loss is not None and circuit.met_target
    assert f"It has {len(circuit.nodes)} of {circuit.nodes_total:,} nodes and {len(circuit.edges)} edges" in text
    assert f"test loss {circuit.loss.test:.3f}" in text and f"the model's {circuit.model_loss.test:.3f}" in text
