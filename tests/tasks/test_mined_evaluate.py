"""Scores on mined pairs and points, against one forward per prompt without padding."""

from pathlib import Path
from typing import Any

import pytest
import torch

from refusals import refused
from sparse_circuits.circuit import evaluate_mined as module
from sparse_circuits.circuit.evaluate_mined import evaluate_mined
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.taps import Replace
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import Edge, Node, node_sites
from sparse_circuits.tasks.mined import MinedTask, mine_task
from tasks.mined_code import mining_tokenizer
from viz.made_up import made_up


def model_of(vocab: int) -> SparseTransformer:
    config = ModelConfig(vocab_size=vocab, n_layer=2, d_model=16, n_head=2, d_head=8, afrac=0.5)
    model = SparseTransformer(config).initialize(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(weight.numel()))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> SparseTransformer:
    return model_of(3000)


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> MinedTask:
    folder = tmp_path_factory.mktemp("code")
    for i in range(6):
        quote = "'\""[i > 3]
        (folder / f"m{i}.py").write_text(
            f"x = {i}\nlog({quote}ready{quote})\nfor x in y:\n    print({quote}x{quote})\n"
        )
    return mine_task("single_double_quote", mining_tokenizer(), str(folder))


def logits(model: SparseTransformer, tokens: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([list(tokens)]))[0, -1].double()


@pytest.mark.parametrize("chunk", [16_384, 40])
def test_scores_by_hand(
    model: SparseTransformer, mined: MinedTask, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_TOKENS", chunk)
    found = evaluate_mined(model, mined)
    assert found.n_points == mined.counts == {"A": 8, "B": 4}
    right = {0: [], 1: []}
    for point in mined.points:
        good, bad = logits(model, point.tokens)[list(point.answers)].tolist()
        right[point.side].append(good > bad)
    shares = [sum(right[side]) / len(right[side]) for side in (0, 1)]
    assert 0 < sum(shares) < 2
    assert found.unpaired_accuracy == pytest.approx(sum(right[0] + right[1]) / 12)
    assert found.balanced_accuracy == pytest.approx(sum(shares) / 2)
    assert mined.pairs is not None and found.n_pairs == mined.pairs.n == 4
    terms, answered = [], []
    for i in range(4):
        for side in (0, 1):
            tokens = mined.pairs.tokens[i, side, : mined.pairs.lengths[i, side]].tolist()
            both = logits(model, tokens)[mined.pairs.completions[i]]
            terms.append(-float(both.log_softmax(-1)[side]))
            answered.append(bool(both[side] > both[1 - side]))
    assert found.loss == pytest.approx(sum(terms) / 8, rel=1e-4)
    assert found.accuracy == pytest.approx(sum(answered) / 8)


def test_at_most_so_many_points_per_class(model: SparseTransformer, mined: MinedTask) -> None:
    assert evaluate_mined(model, mined, most=3).n_points == {"A": 3, "B": 3}
    assert evaluate_mined(model, mined, most=5).n_points == {"A": 5, "B": 4}
    assert evaluate_mined(model, mined, most=5) == evaluate_mined(model, mined, most=5)
    assert evaluate_mined(model, mined, most=None) == evaluate_mined(model, mined)


def test_nothing_to_pair_or_ask_is_none(model: SparseTransformer, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("log('ready')\n")
    found = evaluate_mined(model, mine_task("single_double_quote", mining_tokenizer(), str(tmp_path)))
    assert (found.loss, found.accuracy, found.n_pairs, found.balanced_accuracy) == (None, None, 0, None)
    assert found.unpaired_accuracy in (0, 1) and found.n_points == {"A": 1, "B": 0}


def test_another_tokenizer_is_refused(mined: MinedTask) -> None:
    with refused("single_double_quote was mined with another tokenizer", "mine it again"):
        evaluate_mined(model_of(300), mined)


def test_a_circuit_is_asked_like_the_model(model: SparseTransformer, mined: MinedTask) -> None:
    """The whole model as a circuit scores what the model scores; some nodes less, with a cut edge, what the edited forward says."""
    values = {site: torch.full((width,), 0.1) for site, width in model.widths.items()}
    values |= {f"{layer}.attn.y": torch.full((16,), 0.1) for layer in range(2)}
    nodes = tuple(Node(site, c) for site in node_sites(2) for c in range(model.widths[site]))
    whole = made_up().circuit.replace(nodes=nodes, values=values, cut_edges=())
    assert evaluate_mined(model, mined, circuit=whole) == evaluate_mined(model, mined)
    gone, cut = Node("1.mlp.post_act", 3), Edge(Node("0.mlp.post_act", 5), Node("0.mlp.resid_delta", 2), 1.0)
    part = whole.replace(nodes=tuple(node for node in nodes if node != gone), cut_edges=(cut,))
    found = evaluate_mined(model, mined, circuit=part)
    weight = float(model.state_dict()["blocks.0.mlp.c_proj.weight"][2, 5])

    def logits_of(tokens: Any) -> torch.Tensor:
        ids = torch.tensor([list(tokens)])

        def without(y: torch.Tensor) -> torch.Tensor:
            y = y.clone()
            y[..., 3] = 0.1
            return y

        changed = {name: p.clone() for name, p in model.named_parameters() if name.startswith("blocks.0.mlp.c_proj")}
        changed["blocks.0.mlp.c_proj.weight"][2, 5] -= weight
        changed["blocks.0.mlp.c_proj.bias"][2] += weight * 0.1
        tap = Replace({"1.mlp.post_act": without})
        with torch.no_grad():
            return model(ids, tap=tap, weights=changed)[0, -1].double()

    right = {0: [], 1: []}
    for point in mined.points:
        good, bad = logits_of(point.tokens)[list(point.answers)].tolist()
        right[point.side].append(good > bad)
    assert found.unpaired_accuracy == pytest.approx(sum(right[0] + right[1]) / 12)
    losses = []
    for i in range(4):
        for side in (0, 1):
            tokens = mined.pairs.tokens[i, side, : mined.pairs.lengths[i, side]].tolist()
            losses.append(-float(logits_of(tokens)[mined.pairs.completions[i]].log_softmax(-1)[side]))
    assert found.loss == pytest.approx(sum(losses) / 8, abs=1e-5)
    assert found.loss != pytest.approx(evaluate_mined(model, mined).loss, abs=1e-4)
