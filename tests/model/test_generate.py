"""Sampling with a key-value cache against full passes, and the whole model through both attention paths."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from refusals import refused
from sparse_circuits.model.attention import KVCache
from sparse_circuits.model.generate import _choose, generate
from sparse_circuits.model.taps import Record
from sparse_circuits.model.transformer import SparseTransformer

MakeModel = Callable[..., SparseTransformer]


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[1] * 7, [3, 1, 3], [7], [2, 5]])
def test_cached_passes_equal_the_full_pass(model: SparseTransformer, tokens: Tensor, pieces: list[int]) -> None:
    cache = KVCache()
    logits = torch.cat([model(piece, cache=cache) for piece in tokens.split(pieces, 1)], 1)
    torch.testing.assert_close(logits, model(tokens), atol=1e-5, rtol=1e-5)
    assert all(keys.shape[2] == 7 for keys, _ in cache.layers.values())


@torch.no_grad()
def test_greedy_generation_equals_a_naive_loop(model: SparseTransformer, tokens: Tensor) -> None:
    expected = tokens
    for _ in range(8):
        expected = torch.cat([expected, model(expected)[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(generate(model, tokens, 8, temperature=0.0), expected)
    assert torch.equal(generate(model, tokens, 0), tokens)


@torch.no_grad()
def test_the_fused_path_equals_the_explicit_one(model: SparseTransformer, tokens: Tensor) -> None:
    """Asking for a pattern makes the model form it."""
    for layer in range(model.config.n_layer):
        tap = Record([f"{layer}.attn.pattern"])
        torch.testing.assert_close(model(tokens, tap=tap), model(tokens), atol=1e-5, rtol=1e-5)
        pattern = tap.acts[f"{layer}.attn.pattern"]
        torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:-1]))


def test_gradients_through_both_paths_agree(make_model: MakeModel, tokens: Tensor) -> None:
    for fields in ({"afrac": 0.5}, {"sink": False}):
        model = make_model(**fields)
        found = []
        for tap in (None, Record(["0.attn.pattern", "1.attn.pattern"])):
            loss = model(tokens, tap=tap).square().mean()
            found.append(torch.autograd.grad(loss, list(model.parameters())))
        for (name, _), one, other in zip(model.named_parameters(), *found, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


def test_the_same_seed_gives_the_same_text(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()
    first = generate(model, tokens, 20, seed=3)
    torch.manual_seed(99)  # the global generator has no say
    before = torch.get_rng_state()
    assert torch.equal(generate(model, tokens, 20, seed=3), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(generate(model, tokens, 20, seed=4), first)


def test_frequencies_follow_the_softmax() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).expand(40_000, 4)
    generator = torch.Generator().manual_seed(0)

    def shares(temperature: float, top_p: float) -> list[float]:
        drawn = _choose(logits, temperature, top_p, generator).flatten()
        return (drawn.bincount(minlength=4) / len(logits)).tolist()

    assert shares(1.0, 1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.01)
    assert shares(0.5, 1.0) == pytest.approx([0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365], abs=0.01)
    assert shares(1.0, 0.7) == pytest.approx(
        [5 / 8, 3 / 8, 0, 0], abs=0.01
    )  # 0.5 falls short of 0.7; the tail is never drawn
    assert shares(1.0, 0.81) == pytest.approx([10 / 19, 6 / 19, 3 / 19, 0], abs=0.01)
    assert shares(1.0, 1e-9) == shares(1e-45, 1.0) == shares(0.0, 1.0) == [1, 0, 0, 0]


def test_bad_settings_are_refused(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()
    with refused("the prompt has no tokens; give at least one character"):
        generate(model, tokens[:, :0], 3)
    nan = float("nan")
    for bad in ({"temperature": -1.0}, {"temperature": nan}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_p": nan}):
        with refused("cannot sample with", "allowed: temperature >= 0, top_p in (0, 1], max_new_tokens >= 0"):
            generate(model, tokens, 3, **bad)
    with refused("max_new_tokens -1"):
        generate(model, tokens, -1)
