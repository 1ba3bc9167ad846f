"""Scores by hand: the two-sided loss, accuracy, calibration, many masks at once, refusals of what does not belong."""

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_circuits.circuit import mask_scorer
from sparse_circuits.circuit.ablation import reference_sites
from sparse_circuits.circuit.circuit import Calibration, Circuit, Origin
from sparse_circuits.circuit.evaluate import (
    binary_losses,
    circuit_tap,
    contrast,
    evaluate,
    evaluate_model,
    pair_losses,
    score,
    usable_tokens,
)
from sparse_circuits.circuit.mask_scorer import MaskScorer, check_task_on_model, repeat_pairs
from sparse_circuits.data.tokenizer import as_fast_tokenizer, encode, save_tokenizer, tokenizer_hash, train_tokenizer
from sparse_circuits.files import new_folder
from sparse_circuits.hub.load import load_model
from sparse_circuits.model.folder import model_hash, save_model
from sparse_circuits.model.generate import intervene
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.mask import NodeLayout
from sparse_circuits.sites import node_sites
from sparse_circuits.tasks.pairs import Pairs
from sparse_circuits.validate.ground_truth import quote_model
from viz.made_up import MadeUp, made_up, sparse_model, tokenizer_of


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def made() -> MadeUp:
    return made_up()


@pytest.fixture(scope="module")
def pairs(made: MadeUp) -> Pairs:
    return made.task.pairs("train", 6, made.tokenizer)


@pytest.fixture(scope="module")
def circuit(made: MadeUp) -> Circuit:
    """The made-up circuit with the true hashes and drawn ablation values."""
    generator = torch.Generator().manual_seed(2)
    return made.circuit.replace(
        model=Origin(where="model", hash=model_hash(made.model)),
        tokenizer=Origin(where="model", hash=tokenizer_hash(made.tokenizer)),
        values={s: torch.randn(made.model.widths[s], generator=generator) for s in reference_sites(2)},
    )


def logits_at_the_end(model: SparseTransformer, made: MadeUp, text: str) -> Tensor:
    return model(torch.tensor([encode(made.tokenizer, text)]))[0, -1].detach().double()


# --- losses


def test_binary_loss_by_hand() -> None:
    """z_A - z_B = ln 3 after A: p(A) = 3/4; = ln 4 after B: p(B) = 1/5."""
    contrasts = torch.tensor([[math.log(3), math.log(4)], [0.0, 0.0]])
    expected = [(-math.log(3 / 4) - math.log(1 / 5)) / 2, math.log(2)]
    assert binary_losses(contrasts).tolist() == pytest.approx(expected)


def test_both_prompts_count_each_with_its_own_answer(made: MadeUp, pairs: Pairs) -> None:
    """METHOD D3, from single unpadded forwards and a softmax over the two completions."""
    losses = pair_losses(made.model, pairs)
    for i, pair in enumerate(pairs.texts):
        both = pairs.completions[i].tolist()
        terms = [-logits_at_the_end(made.model, made, pair.prompt(c))[both].log_softmax(-1)[c] for c in (0, 1)]
        assert float(losses[i]) == pytest.approx(float(sum(terms)) / 2, rel=1e-4)


def test_full_vocab_loss_is_over_all_tokens(made: MadeUp, pairs: Pairs) -> None:
    losses = pair_losses(made.model, pairs, kind="full_vocab")
    for i, pair in enumerate(pairs.texts):
        terms = [
            -logits_at_the_end(made.model, made, pair.prompt(c)).log_softmax(-1)[int(pairs.completions[i, c])]
            for c in (0, 1)
        ]
        assert float(losses[i]) == pytest.approx(float(sum(terms)) / 2, rel=1e-4)


def test_unknown_loss_kind_raises(made: MadeUp, pairs: Pairs) -> None:
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match="unknown loss kind 'softplus'; allowed: binary, full_vocab"):
            pair_losses(made.model, pairs, kind="softplus")  # pyright: ignore
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_accuracy_and_calibrated_loss_from_the_contrasts(made: MadeUp, pairs: Pairs) -> None:
    z = contrast(made.model, pairs).tolist()
    calibration = Calibration(scale=0.7, shift=-0.4)
    found = score(made.model, pairs, None, "binary", calibration)
    right = sum((a > 0) + (b < 0) for a, b in z) / (2 * len(z))
    calibrated = [(math.log1p(math.exp(-(0.7 * a - 0.4))) + math.log1p(math.exp(0.7 * b - 0.4))) / 2 for a, b in z]
    assert found.accuracy == pytest.approx(right) and found.n_pairs == 6
    assert found.calibrated_loss == pytest.approx(sum(calibrated) / 6, rel=1e-4)
    assert found.loss == pytest.approx(float(pair_losses(made.model, pairs).mean()))
    assert score(made.model, pairs, None, "binary", None).calibrated_loss is None


# --- masks


@pytest.mark.parametrize("what", ["any", "late", "both"])
def test_many_masks_score_as_each_alone(
    made: MadeUp, pairs: Pairs, circuit: Circuit, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """One mask at a time through intervene() with mixing written out, against chunks of several masks."""
    from sparse_circuits.circuit import mask_scorer as module

    assert circuit.values is not None
    layout = NodeLayout.of(made.model.widths)
    masks = (torch.rand(5, layout.size, generator=torch.Generator().manual_seed(4)) < 0.5).float()
    late = masks[0].repeat(6, 1)  # masks that share their first nodes: each enters at the place before its own gap
    late[0, int(masks[0].nonzero()[-1])] = 0.0
    for row, site in enumerate(("1.mlp.post_act", "1.attn.k", "0.mlp.act_in", "0.attn.q", "final_resid"), 1):
        late[row, layout.offsets[site] : layout.offsets[site] + layout.widths[site]] = 0.0
    masks = {"any": masks, "late": late, "both": torch.cat([masks, late])}[what]
    scorer = MaskScorer(model=made.model, layout=layout, values=circuit.values, pairs=pairs)
    monkeypatch.setattr(module, "CACHED_TOKENS", 2 * pairs.flat_tokens.numel())  # two masks per forward
    many = scorer.losses(masks)
    assert many.shape == (len(masks), 6)
    for mask, losses in zip(masks, many, strict=True):
        parts = layout.split(mask)
        replace_by = {
            site: (lambda x, m=parts[site], mu=circuit.values[site]: torch.where(m > 0, x, mu)) for site in parts
        }
        logits = intervene(made.model, pairs.flat_tokens, replace_by)[range(12), pairs.last].view(6, 2, -1)
        z = logits.gather(-1, pairs.completions[:, None].expand(-1, 2, -1))
        expected = F.cross_entropy(z.flatten(0, 1), torch.tensor([0, 1] * 6), reduction="none").view(6, 2).mean(-1)
        torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-4)


def test_changed_weights_score_as_in_a_pass_from_the_beginning(made: MadeUp, pairs: Pairs, circuit: Circuit) -> None:
    assert circuit.values is not None
    layout = NodeLayout.of(made.model.widths)
    mask = (torch.rand(1, layout.size, generator=torch.Generator().manual_seed(4)) < 0.7).float()
    scorer = MaskScorer(model=made.model, layout=layout, values=circuit.values, pairs=pairs)
    names = {
        "0.attn.q": "blocks.0.attn.c_attn",
        "1.mlp.post_act": "blocks.1.mlp.c_fc",
        "1.attn.resid_delta": "blocks.1.attn.c_proj",
    }
    changes = []
    for site, name in names.items():
        weight = made.model.get_parameter(f"{name}.weight").detach() * 0.5
        changes.append((site, lambda name=name, weight=weight: {f"{name}.weight": weight}))
    found = scorer.losses_where(mask, changes)
    for (_, weights), losses in zip(changes, found, strict=True):
        with torch.no_grad():
            alone = pair_losses(made.model, pairs, scorer.tap(mask, 12), weights=weights())
        torch.testing.assert_close(losses, alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found[0], scorer.losses(mask)[0], atol=1e-6)


def test_circuit_tap_keeps_its_nodes_and_ablates_all_others(made: MadeUp, circuit: Circuit) -> None:
    assert circuit.values is not None
    tap = circuit_tap(circuit, made.model)
    kept = {(node.site, node.channel) for node in circuit.nodes}
    for site in node_sites(2):
        width = made.model.widths[site]
        out = tap(site, torch.full((1, 1, width), 9.0))[0, 0]
        expected = [9.0 if (site, c) in kept else float(circuit.values[site][c]) for c in range(width)]
        assert out.tolist() == pytest.approx(expected)
    assert not tap.wants("0.attn.y")


def test_repeated_pairs_come_as_whole_copies(pairs: Pairs) -> None:
    twice = repeat_pairs(pairs, 2)
    assert twice.n == 12
    assert torch.equal(twice.flat_tokens[:12], pairs.flat_tokens) and torch.equal(
        twice.flat_tokens[12:], pairs.flat_tokens
    )


# --- evaluate()


def test_evaluate_equals_the_scores_of_its_tap(made: MadeUp, circuit: Circuit) -> None:
    found = evaluate(circuit, made.model, made.task, "test", tokenizer=made.tokenizer, n=8)
    usable = usable_tokens(made.model)
    drawn = made.task.pairs("test", 8, made.tokenizer, usable=usable)
    losses = pair_losses(made.model, drawn, circuit_tap(circuit, made.model))
    assert found.loss == pytest.approx(float(losses.mean())) and found.n_pairs == drawn.n == 8
    with_all = evaluate_model(made.model, made.task, made.tokenizer, "test", n=8)
    assert with_all.loss == pytest.approx(float(pair_losses(made.model, drawn).mean()))
    assert abs(with_all.loss - found.loss) > 1e-3


def test_evaluate_refuses_another_model_task_or_tokenizer(made: MadeUp, circuit: Circuit) -> None:
    other_tokenizer = as_fast_tokenizer(train_tokenizer(["some other text, other words\n" * 9], 270))
    cases = [
        ("model", sparse_model(2, 32, 0.2), made.task, made.tokenizer),
        ("task", made.model, replace(made.task, completions=('")\n', "')\n")), made.tokenizer),
        ("tokenizer", made.model, made.task, other_tokenizer),
    ]
    for what, model, task, tokenizer in cases:
        with pytest.raises(ValueError, match=f"made with another {what} .*give its own {what}"):
            evaluate(circuit, model, task, tokenizer=tokenizer)


def test_what_a_circuit_does_not_know_is_not_checked(made: MadeUp, circuit: Circuit) -> None:
    """An imported circuit has no hashes; whether it fits is seen from its nodes and values alone."""
    unknown = Origin(where="", hash=None)
    imported = circuit.replace(model=unknown, task_origin=unknown, tokenizer=unknown)
    found = evaluate(imported, made.model, made.task, tokenizer=made.tokenizer, n=8)
    assert found == evaluate(circuit, made.model, made.task, tokenizer=made.tokenizer, n=8)
    with pytest.raises(ValueError, match=r"no ablation values .*circuit.with_reference\(values\)"):
        evaluate(imported.replace(values=None), made.model, made.task)


def test_a_circuit_without_values_or_for_another_shape_is_refused(made: MadeUp, circuit: Circuit) -> None:
    assert circuit.values is not None
    with pytest.raises(ValueError, match="no ablation values"):
        circuit_tap(circuit.replace(values=None), made.model)
    wider = {**circuit.values, "0.attn.q": torch.zeros(99)}
    fewer = {site: value for site, value in circuit.values.items() if site != "1.mlp.act_in"}
    with pytest.raises(ValueError, match="do not fit this model at 1.mlp.act_in"):
        circuit_tap(circuit.replace(values=fewer), made.model)
    with pytest.raises(ValueError, match="do not fit this model at 0.attn.q"):
        circuit_tap(circuit.replace(values=wider), made.model)
    with pytest.raises(ValueError, match=r"final_resid has channels 0\.\.31"):
        circuit_tap(circuit.replace(nodes=(*circuit.nodes, circuit.nodes[-1]._replace(channel=32))), made.model)


def test_evaluate_finds_the_tokenizer_beside_the_model(made: MadeUp, circuit: Circuit, tmp_path: Path) -> None:
    save_tokenizer(made.tokenizer, tmp_path / "model")
    circuit.save(tmp_path / "circuit")
    with pytest.raises(ValueError, match="give model and tokenizer yourself"):
        evaluate(circuit, made.model, made.task)
    from sparse_circuits.circuit.circuit import load_circuit

    loaded = load_circuit(tmp_path / "circuit").replace(tokenizer=Origin(where="../model", hash=circuit.tokenizer.hash))
    assert evaluate(loaded, made.model, made.task, n=4).n_pairs == 4


def test_a_model_refuses_another_tokenizer_than_its_own(made: MadeUp, tmp_path: Path) -> None:
    with new_folder(tmp_path / "model") as draft:
        save_model(made.model, draft, tokenizer_hash(made.tokenizer))
    model = load_model(tmp_path / "model")
    assert evaluate_model(model, made.task, made.tokenizer, n=2).n_pairs == 2
    with pytest.raises(ValueError, match="not the one the model was trained with"):
        evaluate_model(model, made.task, tokenizer_of(312))
    with pytest.raises(ValueError, match="the tokenizer has 312 tokens, the model 320"):
        evaluate_model(made.model, made.task, tokenizer_of(312))


def test_tokens_without_embedding_are_not_usable(made: MadeUp) -> None:
    model = deepcopy(made.model)
    model.embed.weight.fill_(1.0)
    model.embed.weight[[3, 7]] = 0
    assert (~usable_tokens(model)).nonzero().flatten().tolist() == [3, 7]


def test_task_check_measures_the_empty_circuit_and_the_bigram_table() -> None:
    """A table that prefers A by 3 after the common last token: right by e^-3 once, wrong by 3 + e^-3 once."""
    truth = quote_model()
    model = deepcopy(truth.model)
    assert model.bigram is not None
    first = truth.task.pairs("test", 1, truth.tokenizer)
    last, a = int(first.flat_tokens[0, first.last[0]]), int(first.completions[0, 0])
    model.bigram.weight[last, a] += 3
    report = check_task_on_model(truth.task, truth.tokenizer, model, truth.reference.values, n=16)
    empty, bigram = report.conditions[-2:]
    assert (empty.name, bigram.name) == ("empty circuit scores >= 0.6", "bigram table alone scores >= 0.6")
    assert report.ok and float(bigram.detail.removeprefix("loss ")) > math.log(2)
    solved = {site: torch.zeros_like(value) for site, value in truth.reference.values.items()}
    layout = NodeLayout.of(model.widths)
    scorer = MaskScorer(model=model, layout=layout, values=solved, pairs=truth.task.pairs("test", 16, truth.tokenizer))
    zero = check_task_on_model(truth.task, truth.tokenizer, model, solved, n=16).conditions[-2]
    assert zero.detail == f"loss {float(scorer.losses(torch.zeros(1, layout.size)).mean()):.3f}"


def test_task_check_scores_where_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs and values are sent to the model's device before anything is scored; a spy stands in for a second device."""
    truth, moved, scored = quote_model(), [], []
    sent, own_scorer = Pairs.to, mask_scorer.MaskScorer

    class Value(torch.Tensor):
        def to(self, *given: Any, **named: Any) -> torch.Tensor:
            moved.append(("value", *given))
            return self.as_subclass(torch.Tensor)

    def send(pairs: Pairs, device: torch.device) -> Pairs:
        moved.append(("pairs", device))
        return sent(pairs, device)

    def scorer(**given: Any) -> MaskScorer:
        scored.append(not any(isinstance(value, Value) for value in given["values"].values()))
        return own_scorer(**given)

    monkeypatch.setattr(Pairs, "to", send)
    monkeypatch.setattr(mask_scorer, "MaskScorer", scorer)
    values = {site: value.as_subclass(Value) for site, value in truth.reference.values.items()}
    device = next(truth.model.parameters()).device
    assert check_task_on_model(truth.task, truth.tokenizer, truth.model, values, n=4).ok
    assert moved == [("pairs", device), *[("value", device)] * len(values)] and scored == [True]
