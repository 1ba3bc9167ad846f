"""The pitfalls of METHOD 2a that concern the model, one test each."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sparse_circuits.model.generate import record
from sparse_circuits.model.taps import Chain, Mask, Record, Replace
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import node_sites

MakeModel = Callable[..., SparseTransformer]


def kept_entries(model: SparseTransformer, site: str) -> int:
    return int(model.config.afrac * model.widths[site])


def test_c1_all_nodes_kept_explains_all_variance(make_model: MakeModel, tokens: Tensor) -> None:
    """The reference is the model itself, AbsTopK included: with every node kept the unexplained variance is 0."""
    model = make_model(afrac=0.25)
    sites = node_sites(2)
    full = record(model, tokens, sites)
    listener = Record(sites)
    ones = {site: torch.ones(model.widths[site]) for site in sites}
    model(tokens, tap=Chain(Mask(ones, {site: torch.randn(len(mask)) for site, mask in ones.items()}), listener))
    for site in sites:
        a, b = full[site].flatten(0, 1), listener.acts[site].flatten(0, 1)
        assert (a - b).square().sum() == 0
        assert (a - a.mean(0)).square().sum() > 0


def test_c1_recorded_activations_are_sparse(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(afrac=0.25)
    for site, act in record(model, tokens, [site for site in node_sites(2) if site != "final_resid"]).items():
        assert (act != 0).sum(-1).max() == kept_entries(model, site), site


def test_c2_means_are_taken_after_abs_top_k(make_model: MakeModel, tokens: Tensor) -> None:
    """The mean of what is recorded is the mean of sparse activations, not the sparse part of a mean."""
    model = make_model(afrac=0.25)
    block = model.blocks[0]
    acts = record(model, tokens, ["0.attn.act_in", "0.attn.q"])
    dense = block.attn.c_attn(acts["0.attn.act_in"])[..., :10]
    threshold = dense.abs().sort(-1, descending=True).values[..., 1:2]
    by_hand = torch.where(dense.abs() >= threshold, dense, 0.0).mean((0, 1))
    torch.testing.assert_close(acts["0.attn.q"].mean((0, 1)), by_hand)
    assert not torch.allclose(by_hand, dense.mean((0, 1)), atol=1e-2)


def test_c2_frozen_norms_with_all_nodes_kept_change_nothing(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(afrac=0.25)
    names = ("0.attn.norm_scale", "0.mlp.norm_scale", "1.attn.norm_scale", "1.mlp.norm_scale", "final_norm_scale")
    assert torch.equal(model(tokens, tap=Replace(record(model, tokens, names))), model(tokens))


def test_c3_every_pass_applies_the_same_sites(make_model: MakeModel, tokens: Tensor) -> None:
    """Plain, tapped, entered half-way and with weights passed in: one forward, so the same sparsity everywhere."""
    model = make_model(afrac=0.25)
    acts = record(model, tokens)
    for keywords in ({}, {"start": ("1.resid_in", acts["1.resid_in"])}, {"weights": dict(model.named_parameters())}):
        tap = Record(["1.mlp.act_in", "1.mlp.resid_delta", "final_resid"])
        logits = model(tokens, tap=tap, **keywords)
        assert torch.equal(logits, model(tokens))
        assert all(torch.equal(act, acts[site]) for site, act in tap.acts.items())
    assert torch.equal(
        acts["1.resid_in"], acts["0.resid_mid"] + acts["0.mlp.resid_delta"]
    )  # the stream itself is not cut
    assert (acts["1.resid_in"] != 0).sum(-1).max() > kept_entries(model, "1.resid_in")


def test_c5_starting_weights_are_those_of_the_method(make_model: MakeModel) -> None:
    """Gains 1, biases and sinks 0, spreads 0.02 and 0.02 / sqrt(2 L), bigram uniform; the seed alone decides."""
    shape = {"vocab_size": 64, "d_model": 64, "n_head": 4, "d_head": 16, "d_mlp": 256, "n_layer": 8}
    model = make_model(1, **shape).initialize(3)
    for name, parameter in model.named_parameters():
        parameter = parameter.detach()
        spread = float(parameter.std())
        if name == "bigram.weight":
            assert float(parameter.min()) >= 0
            assert float(parameter.max()) < 0.02
            assert abs(float(parameter.mean()) - 0.01) < 5e-4
        elif parameter.dim() == 2:
            expected = 0.02 / math.sqrt(16) if "c_proj" in name else 0.02
            assert abs(spread / expected - 1) < 0.05, name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, 1.0 if name.endswith("gain") else 0.0)), name
    again, other = make_model(2, **shape).initialize(3), make_model(1, **shape).initialize(4)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not torch.equal(model.embed.weight, other.embed.weight)


def test_c15_patterns_show_the_sink(make_model: MakeModel, tokens: Tensor) -> None:
    with_sink, without = make_model(afrac=0.5), make_model(afrac=0.5, sink=False)
    pattern = record(with_sink, tokens, ["1.attn.pattern"])["1.attn.pattern"]
    assert pattern.shape == (3, 2, 7, 8)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(3, 2, 7))
    assert (pattern[..., -1] > 0).all()
    assert (pattern[..., :-1].sum(-1) < 1).all()
    plain = record(without, tokens, ["1.attn.pattern"])["1.attn.pattern"]
    assert plain.shape == (3, 2, 7, 7)
    torch.testing.assert_close(plain.sum(-1), torch.ones(3, 2, 7))


def test_c15_the_sink_counts_on_every_path(make_model: MakeModel, tokens: Tensor) -> None:
    """A sink that takes everything silences attention, fused and explicit alike."""
    model = make_model()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.sink.fill_(60.0)
    for extra in ([], ["0.attn.pattern", "1.attn.pattern"]):
        acts = record(model, tokens, ["*", *extra])
        assert acts["0.attn.y"].abs().max() < 1e-20
        assert acts["1.attn.y"].abs().max() < 1e-20
