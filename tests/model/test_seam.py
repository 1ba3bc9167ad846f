"""The laws of the seam: all-on mask, recorded value put back, entry with the recorded residual, weights passed in.

"Changes no bit" compares the 32 bits of every logit, not their values within a tolerance.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from refusals import refused
from sparse_circuits.model.generate import intervene, record
from sparse_circuits.model.taps import Chain, Mask, Record, Replace, Tap
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import all_sites, node_sites, request_sites, split_site, start_sites

MakeModel = Callable[..., SparseTransformer]


def same_bits(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.view(torch.int32), other.view(torch.int32))


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def random_values(model: SparseTransformer, seed: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    widths = {site: model.widths[site] for site in node_sites(model.config.n_layer)}
    return {site: torch.randn(width, generator=generator) for site, width in widths.items()}


# --- recording and putting back


def test_record_delivers_every_site_in_order_and_shape(model: SparseTransformer, tokens: Tensor) -> None:
    order: list[str] = []

    class Listener(Record):
        def __call__(self, site: str, x: Tensor) -> Tensor:
            order.append(site)
            return super().__call__(site, x)

    tap = Listener(all_sites(model.config.n_layer))
    logits = model(tokens, tap=tap)
    assert same_bits(logits, model(tokens))
    assert tuple(order) == all_sites(model.config.n_layer) == tuple(model.widths)
    assert {site: act.shape for site, act in tap.acts.items()} == {
        s: (*tokens.shape, w) for s, w in model.widths.items()
    }
    assert tuple(record(model, tokens)) == all_sites(model.config.n_layer)


@pytest.mark.parametrize("strides", ["recorded", "contiguous"])
def test_replacing_by_the_recorded_value_changes_no_bit(model: SparseTransformer, tokens: Tensor, strides: str) -> None:
    base, acts = model(tokens), record(model, tokens)
    for site, act in acts.items():
        value = act if strides == "recorded" else act.clone(memory_format=torch.contiguous_format)
        assert same_bits(model(tokens, tap=Replace({site: value})), base), site
    assert same_bits(model(tokens, tap=Replace(acts)), base)


def test_replacing_what_is_only_delivered_by_name(model: SparseTransformer, tokens: Tensor) -> None:
    base, names = model(tokens), request_sites(model.config.n_layer)
    assert tuple(record(model, tokens, names)) == names
    for site in names:
        logits = model(tokens, tap=Replace(record(model, tokens, [site])))
        if "pattern" in site:  # asking for the pattern leaves the fused attention kernel
            torch.testing.assert_close(logits, base, atol=1e-5, rtol=0)
        else:
            assert same_bits(logits, base), site


def test_entering_with_the_recorded_residual_changes_no_bit(model: SparseTransformer, tokens: Tensor) -> None:
    base, places = model(tokens), start_sites(model.config.n_layer)
    acts = record(model, tokens, places)
    for site in places:
        later = Record(all_sites(model.config.n_layer))
        assert same_bits(model(tokens, tap=later, start=(site, acts[site])), base), site
        reached = all_sites(model.config.n_layer)[all_sites(model.config.n_layer).index(site) :]
        assert tuple(later.acts) == reached
        changed = model(tokens, start=(site, acts[site] + torch.linspace(0, 1, acts[site].shape[-1])))
        assert not torch.allclose(changed, base, atol=1e-3)


def test_the_tap_of_the_start_site_sees_the_start_value(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()
    x = torch.randn(*tokens.shape, 12)
    doubled = model(tokens, tap=Replace({"1.resid_mid": lambda value: 2 * value}), start=("1.resid_mid", x))
    assert same_bits(doubled, model(tokens, start=("1.resid_mid", 2 * x)))


# --- masks


def test_an_all_on_mask_changes_no_bit(model: SparseTransformer, tokens: Tensor) -> None:
    base, values = model(tokens), random_values(model)
    ones = {site: torch.ones(len(value)) for site, value in values.items()}
    assert same_bits(model(tokens, tap=Mask(ones, values)), base)
    for site in values:
        assert same_bits(model(tokens, tap=Mask({site: ones[site]}, values)), base), site
    assert same_bits(model(tokens, tap=Mask({s: m.bool() for s, m in ones.items()}, values)), base)


def test_an_all_off_mask_leaves_biases_and_bigram(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(afrac=0.5)
    values = random_values(model)
    off = {site: torch.zeros(len(value)) for site, value in values.items()}
    x = values["final_resid"]
    expected = model.unembed.weight @ (x * (x.square().mean() + 2**-23).rsqrt() * model.final_norm.gain)
    expected = expected + model.bigram.weight[tokens]
    torch.testing.assert_close(model(tokens, tap=Mask(off, values)), expected, atol=1e-5, rtol=1e-5)


def test_per_row_masks_equal_separate_passes(model: SparseTransformer, tokens: Tensor) -> None:
    values = random_values(model)
    draws = {site: (torch.rand(3, 1, len(value)) > 0.4).float() for site, value in values.items()}
    together = model(tokens, tap=Mask(draws, values))
    for row in range(3):
        alone = model(tokens[row : row + 1], tap=Mask({site: mask[row, 0] for site, mask in draws.items()}, values))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together, model(tokens, tap=Mask({s: m[0, 0] for s, m in draws.items()}, values)))


def test_a_masked_node_takes_its_ablation_value_downstream(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(afrac=0.25)
    mask = torch.ones(20)
    mask[4] = 0.0
    values = {"0.mlp.post_act": torch.full((20,), 3.5)}
    listener = Record(("0.mlp.post_act", "0.mlp.resid_delta", "1.resid_in"))
    before = record(model, tokens)
    model(tokens, tap=Chain(Mask({"0.mlp.post_act": mask}, values), listener))
    h = listener.acts["0.mlp.post_act"]
    assert (h[..., 4] == 3.5).all()
    others = torch.arange(20) != 4
    assert same_bits(h[..., others].contiguous(), before["0.mlp.post_act"][..., others].contiguous())
    assert (h != 0).sum(-1).max() == 6  # the 5 that AbsTopK kept and the ablation value: not sparsified again
    c_proj = model.blocks[0].mlp.c_proj
    delta = h @ c_proj.weight.T + c_proj.bias
    kept = delta.abs() >= delta.abs().sort(-1, descending=True).values[..., 2:3]
    torch.testing.assert_close(listener.acts["0.mlp.resid_delta"], delta * kept)
    assert same_bits(listener.acts["1.resid_in"], before["0.resid_mid"] + listener.acts["0.mlp.resid_delta"])


def test_a_mask_between_0_and_1_mixes(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()
    act = record(model, tokens, "0.attn.v")["0.attn.v"]
    tap = Mask({"0.attn.v": torch.full((10,), 0.25)}, {"0.attn.v": torch.full((10,), 8.0)})
    by_hand = model(tokens, tap=Replace({"0.attn.v": act / 4 + 6}))
    torch.testing.assert_close(model(tokens, tap=tap), by_hand)


def test_a_mask_without_values_is_refused() -> None:
    with refused("1.attn.q", "one value per channel"):
        Mask({"1.attn.q": torch.ones(10)}, {})


# --- replacing


def test_replaced_values_are_not_sparsified_again(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(afrac=0.25)
    for site in node_sites(2):
        listener = Record([site])
        dense = torch.randn(*tokens.shape, model.widths[site])
        model(tokens, tap=Chain(Replace({site: dense}), listener))
        assert same_bits(listener.acts[site], dense), site


def test_broadcast_values_and_functions(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()
    row = torch.randn(12)
    whole = row.expand(3, 7, 12)
    assert same_bits(intervene(model, tokens, {"0.resid_mid": row}), intervene(model, tokens, {"0.resid_mid": whole}))
    assert same_bits(
        intervene(model, tokens, {"0.resid_mid": lambda x: x * 0 + row}), intervene(model, tokens, {"0.resid_mid": row})
    )


def test_a_chain_applies_its_taps_in_order(make_model: MakeModel, tokens: Tensor) -> None:
    model, site = make_model(), "1.mlp.act_in"
    add, double, seen = Replace({site: lambda x: x + 1}), Replace({site: lambda x: 2 * x}), Record([site])
    act = record(model, tokens, site)[site]
    model(tokens, tap=Chain(add, seen, double))
    assert same_bits(seen.acts[site], act + 1)
    model(tokens, tap=Chain(double, add, Chain(seen)))
    assert same_bits(seen.acts[site], 2 * act + 1)
    assert isinstance(Chain(add), Tap)
    assert not Chain(add, double).wants("0.mlp.act_in")


def test_an_unwanted_site_is_not_delivered(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()

    class Deaf:
        def wants(self, site: str) -> bool:
            return False

        def __call__(self, site: str, x: Tensor) -> Tensor:
            raise AssertionError(f"delivered {site}")

    assert same_bits(model(tokens, tap=Deaf()), model(tokens))


def test_bad_replacements_are_refused(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()
    with refused("0.attn.q", "[3, 7, 9]", "[3, 7, 10]"):
        model(tokens, tap=Replace({"0.attn.q": torch.zeros(3, 7, 9)}))
    with refused("0.attn.q", "[2, 3, 7, 10]", "[3, 7, 10]"):
        model(tokens, tap=Replace({"0.attn.q": torch.zeros(2, 3, 7, 10)}))
    with refused("0.attn.q", "NoneType", "[3, 7, 10]"):
        model(tokens, tap=Replace({"0.attn.q": lambda x: None}))


# --- frozen norms


def test_frozen_norms_equal_hand_computation(make_model: MakeModel, tokens: Tensor) -> None:
    """With every norm scale taken from other input, a one-layer model is computed here step by step."""
    model = make_model(n_layer=1, afrac=0.5, sink=False, bigram=False)
    names = ("0.attn.norm_scale", "0.mlp.norm_scale", "final_norm_scale")
    scales = record(model, tokens.flip(0, 1), names)
    block, listener = model.blocks[0], Record(all_sites(1))
    logits = model(tokens, tap=Chain(Replace(scales), listener))
    acts = listener.acts

    def top(x: Tensor, k: int) -> Tensor:
        return torch.where(x.abs() >= x.abs().sort(-1, descending=True).values[..., k - 1 : k], x, 0.0)

    u = top(model.embed(tokens) * scales[names[0]] * block.attn.norm.gain, 6)
    w = top(acts["0.resid_mid"] * scales[names[1]] * block.mlp.norm.gain, 6)
    torch.testing.assert_close(acts["0.attn.act_in"], u)
    torch.testing.assert_close(acts["0.mlp.act_in"], w)
    by_hand = (acts["final_resid"] * scales[names[2]] * model.final_norm.gain) @ model.unembed.weight.T
    torch.testing.assert_close(logits, by_hand, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits, model(tokens), atol=1e-2)


def test_a_norm_scale_is_one_over_the_root_mean_square(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()
    acts = record(
        model, tokens, ["1.resid_in", "1.attn.norm_scale", "1.resid_mid", "1.mlp.norm_scale", "final_norm_scale"]
    )
    assert {act.shape for site, act in acts.items() if "scale" in site} == {(3, 7, 1)}
    for site, scale in (("1.resid_in", "1.attn.norm_scale"), ("1.resid_mid", "1.mlp.norm_scale")):
        torch.testing.assert_close(
            acts[scale][..., 0], (acts[site].double().square().mean(-1) + 2**-23).rsqrt().float()
        )


def test_frozen_norms_work_where_only_some_logits_are_formed(make_model: MakeModel, tokens: Tensor) -> None:
    model, last = make_model(), torch.tensor([6, 0, 3])
    scales = record(model, tokens.flip(1), ["final_norm_scale"])
    assert scales["final_norm_scale"].shape == (3, 7, 1)
    full = model(tokens, tap=Replace(scales))
    some = model(tokens, tap=Replace(scales), logits_at=last)
    torch.testing.assert_close(some[:, 0], full[torch.arange(3), last])


# --- logits_at and weights


def test_logits_at_gathers_the_full_logits(model: SparseTransformer, tokens: Tensor) -> None:
    last = torch.tensor([6, 0, 3])
    some = model(tokens, logits_at=last)
    assert some.shape == (3, 1, 13)
    torch.testing.assert_close(some[:, 0], model(tokens)[torch.arange(3), last], atol=1e-6, rtol=1e-6)
    with refused("[1]", "[3]"):
        model(tokens, logits_at=torch.tensor([2]))


def test_weights_passed_in_equal_an_edited_copy(model: SparseTransformer, tokens: Tensor) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    base = model(tokens)
    named = dict(model.named_parameters())
    changed = {
        name: torch.randn_like(value) for name, value in named.items() if "blocks.0.mlp" in name or "embed" in name
    }
    copy = SparseTransformer(model.config)
    tied = {"unembed.weight": changed["embed.weight"]} if model.config.tied_unembed else {}
    copy.load_state_dict({**before, **changed, **tied})
    assert same_bits(model(tokens, weights=changed), copy(tokens))
    assert same_bits(model(tokens), base)
    assert all(same_bits(value, before[name]) for name, value in model.state_dict().items())
    assert dict(model.named_parameters()).keys() == named.keys()
    assert all(dict(model.named_parameters())[name] is parameter for name, parameter in named.items())


def test_a_failing_pass_with_weights_leaves_the_model_whole(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()
    base, weight = model(tokens), model.embed.weight
    with refused("0.attn.q"):
        model(tokens, tap=Replace({"0.attn.q": torch.zeros(99)}), weights={"embed.weight": torch.zeros(13, 12)})
    assert model.embed.weight is weight
    assert same_bits(model(tokens), base)


def test_cutting_an_edge_by_weights_is_replacing_its_sender(make_model: MakeModel, tokens: Tensor) -> None:
    """METHOD D13: w := 0 and bias += w * mu gives the receiver what it would read if the sender were ablated."""
    model = make_model()
    c_fc = model.blocks[1].mlp.c_fc
    weight, bias, mu = c_fc.weight.clone(), c_fc.bias.clone(), 0.7
    bias[3] += weight[3, 5] * mu
    weight[3, 5] = 0.0
    cut = record_with(model, tokens, {"blocks.1.mlp.c_fc.weight": weight, "blocks.1.mlp.c_fc.bias": bias})
    ablated, listener = torch.ones(12), Record(["1.mlp.pre_act"])
    ablated[5] = 0.0
    model(tokens, tap=Chain(Mask({"1.mlp.act_in": ablated}, {"1.mlp.act_in": torch.full((12,), mu)}), listener))
    torch.testing.assert_close(cut[..., 3], listener.acts["1.mlp.pre_act"][..., 3])
    untouched = record(model, tokens, ["1.mlp.pre_act"])["1.mlp.pre_act"]
    others = torch.arange(20) != 3
    torch.testing.assert_close(cut[..., others], untouched[..., others])


def record_with(model: SparseTransformer, tokens: Tensor, weights: dict[str, Tensor]) -> Tensor:
    tap = Record(["1.mlp.pre_act"])
    model(tokens, tap=tap, weights=weights)
    return tap.acts["1.mlp.pre_act"]


def test_gradients_reach_weights_passed_in_and_not_the_model(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()
    with torch.enable_grad():
        weight = model.unembed.weight.detach().clone().requires_grad_()
        model(tokens, weights={"unembed.weight": weight}).square().sum().backward()
    assert weight.grad is not None and weight.grad.abs().sum() > 0
    assert model.unembed.weight.grad is None


def test_unknown_and_misshapen_weights_are_refused(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()
    with refused("'wte'", "embed.weight", "blocks.1.mlp.c_proj.bias"):
        model(tokens, weights={"wte": torch.zeros(1)})
    with refused("unembed.weight", "[12, 13]", "[13, 12]"):
        model(tokens, weights={"unembed.weight": torch.zeros(12, 13)})


# --- what the forward refuses, names and globs


def test_tokens_and_starts_that_do_not_fit_are_refused(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()
    with refused("0..13", "0..12", "tokenizer"):
        model(torch.tensor([[0, 13]]))
    with refused("-1..4", "0..12"):
        model(torch.tensor([[4, -1]]))
    x = torch.zeros(3, 7, 12)
    with refused("'0.attn.q'", "0.resid_in, 0.resid_mid, 1.resid_in, 1.resid_mid, final_resid"):
        model(tokens, start=("0.attn.q", x))
    with refused("1.resid_in", "[3, 6, 12]", "[3, 7, 12]"):
        model(tokens, start=("1.resid_in", x[:, :6]))


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("final_resid", ("final_resid",)),
        ("1.attn.?", ("1.attn.q", "1.attn.k", "1.attn.v", "1.attn.y")),
        ("*.mlp.post_act", ("0.mlp.post_act", "1.mlp.post_act")),
        (["1.resid_in", "embed", "0.*mid"], ("0.resid_mid", "1.resid_in", "embed")),
        (["*", "0.attn.pattern"], (*all_sites(2), "0.attn.pattern")),
        ([], ()),
    ],
)
def test_record_takes_names_and_globs(
    make_model: MakeModel, tokens: Tensor, asked: str | list[str], given: tuple[str, ...]
) -> None:
    assert tuple(record(make_model(), tokens, asked)) == given


def test_globs_do_not_reach_what_must_be_named(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()
    assert all(split_site(site)[1] not in ("attn.pattern", "mlp.pre_act") for site in record(model, tokens, "*"))
    for bad in ("2.attn.q", "act_in", "*.pattern", "0.attn", ""):
        with refused(repr(bad), "0..1", "mlp.post_act", "attn.pattern", "final_resid"):
            record(model, tokens, ["final_resid", bad])
        with refused(repr(bad)):
            intervene(model, tokens, {bad: torch.zeros(1)})


def test_intervene_takes_globs(make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model()
    halved = intervene(model, tokens, {"*.mlp.post_act": lambda x: x / 2})
    by_name = Replace({f"{layer}.mlp.post_act": lambda x: x / 2 for layer in range(2)})
    assert same_bits(halved, model(tokens, tap=by_name))
    assert not torch.allclose(halved, model(tokens))


def test_gradients_flow_through_taps(make_model: MakeModel, tokens: Tensor) -> None:
    """Integrated gradients and mask learning: the derivative of the logits by a replaced value, against differences."""
    model = make_model().double()
    act = record(model, tokens[:1], ["1.attn.act_in"])["1.attn.act_in"]

    def loss(value: Tensor) -> Tensor:
        return model(tokens[:1], tap=Replace({"1.attn.act_in": value})).square().mean()

    with torch.enable_grad():
        value = act.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(value), value)
    step = float(Fraction(1, 2**20))
    for channel in (0, 5, 11):
        shift = torch.zeros_like(act)
        shift[0, 3, channel] = step
        difference = (loss(act + shift) - loss(act - shift)) / (2 * step)
        torch.testing.assert_close(gradient[0, 3, channel], difference, atol=1e-8, rtol=1e-5)
