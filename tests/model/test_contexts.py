"""Contexts around calls one does not make oneself: per model, nested, gone afterwards; gradients by full site name."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from refusals import refused
from sparse_circuits.model.contexts import intervening, recording, tapped
from sparse_circuits.model.generate import generate, intervene, record
from sparse_circuits.model.taps import Record, Replace
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import all_sites

MakeModel = Callable[..., SparseTransformer]


def double(x: Tensor) -> Tensor:
    return 2 * x


def test_a_recording_holds_what_record_gives(model: SparseTransformer, tokens: Tensor) -> None:
    expected = record(model, tokens, "*")
    with recording(model) as seen:
        model(tokens)
    assert seen.acts.keys() == expected.keys() == set(all_sites(model.config.n_layer))
    assert all(torch.equal(seen.acts[site], act) for site, act in expected.items())


def test_an_intervention_is_that_of_intervene_and_ends_with_the_block(model: SparseTransformer, tokens: Tensor) -> None:
    edit = {"*.resid_mid": lambda x: x.roll(1, -1)}
    base, expected = model(tokens), intervene(model, tokens, edit)
    with intervening(model, edit):
        assert torch.equal(model(tokens), expected)
    assert not torch.equal(expected, base) and torch.equal(model(tokens), base)
    with pytest.raises(KeyError), intervening(model, edit):
        raise KeyError
    assert torch.equal(model(tokens), base)


def test_contexts_nest_from_the_outside_in(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()
    v = record(model, tokens, "0.attn.v")["0.attn.v"]
    with recording(model, "0.attn.v") as outer, intervening(model, {"0.attn.v": double}):
        with intervening(model, {"0.attn.v": lambda x: x + 1}), recording(model, "0.attn.v") as inner:
            own = Record({"0.attn.v"})
            model(tokens, tap=own)
            assert torch.equal(own.acts["0.attn.v"], v)
        assert torch.equal(inner.acts["0.attn.v"], 2 * v + 1)
        model(tokens, Replace({"0.attn.v": 3 * v}))  # a tap in its place
        assert torch.equal(outer.acts["0.attn.v"], 3 * v)


def test_contexts_are_per_model(make_model: MakeModel, tokens: Tensor) -> None:
    one, other = make_model(0), make_model(1)
    base = other(tokens)
    with recording(one) as seen, intervening(one, {"final_resid": double}):
        assert torch.equal(other(tokens), base)
        assert not seen.acts


def test_a_pass_with_other_weights_is_tapped_once(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()
    weights = {"embed.weight": model.embed.weight.detach() * 1.5}
    expected = model(tokens, tap=Replace({"0.resid_in": double}), weights=weights)
    with intervening(model, {"0.resid_in": double}):
        assert torch.equal(model(tokens, weights=weights), expected)


def test_calls_of_others_are_reached(make_model: MakeModel, tokens: Tensor) -> None:
    """sampling makes its own calls, through the cache"""
    model = make_model()
    favourite = torch.zeros(13).index_fill(0, torch.tensor([4]), 1e4)
    with intervening(model, {"bigram": lambda b: b + favourite}):
        assert generate(model, tokens, 3)[:, 7:].eq(4).all()
    assert not generate(model, tokens, 3)[:, 7:].eq(4).all()


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_come_out_under_full_names(model: SparseTransformer, tokens: Tensor, frozen: bool) -> None:
    """Against finite differences; backward runs after the block."""
    model = model.double().requires_grad_(not frozen)
    sites = ["0.resid_mid", f"{model.config.n_layer - 1}.resid_in", "final_resid"]

    def loss(*, nudge: tuple[str, Tensor] | None = None) -> Tensor:
        tap = None if nudge is None else Replace({nudge[0]: lambda x: x + nudge[1]})
        return model(tokens, tap=tap).square().mean()

    with recording(model, sites, gradients=True) as seen:
        value = loss()
    value.backward()
    assert seen.grads.keys() == set(sites)
    with torch.no_grad():
        for site in sites:
            direction = torch.randn(seen.acts[site].shape, dtype=torch.float64) * (seen.acts[site] != 0)
            if site != "final_resid" and model.config.afrac is not None:
                continue  # a nudge may change which entries a later AbsTopK keeps
            step = 1e-6
            rise = (loss(nudge=(site, step * direction)) - loss(nudge=(site, -step * direction))) / (2 * step)
            torch.testing.assert_close((seen.grads[site] * direction).sum(), rise, rtol=1e-5, atol=1e-9)


def test_refusals(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()
    with refused("unknown site 'act_in'"), recording(model, "act_in"):
        pass
    with refused("Linear", "no model of this library"), tapped(torch.nn.Linear(2, 2), Record(())):
        pass
    with refused("the replacement at 0.attn.v"), intervening(model, {"0.attn.v": lambda v: v[:, :1, :2]}):
        model(tokens)
