"""What a pass may leave out gives the same logits: positions nobody reads, channels that a mask holds constant."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from refusals import refused
from sparse_circuits.model.attention import KVCache
from sparse_circuits.model.taps import Mask, Record
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.sites import all_sites, node_sites, start_sites

LAST = torch.tensor([6, 2, 4])


def close(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, atol=1e-11, rtol=1e-9)


def masks(model: SparseTransformer, rows: int) -> Mask:
    generator = torch.Generator().manual_seed(3)
    widths = {site: model.widths[site] for site in node_sites(model.config.n_layer)}
    kept = {site: (torch.rand(rows, 1, w, generator=generator) < 0.7).double() for site, w in widths.items()}
    values = {site: torch.randn(w, generator=generator, dtype=torch.float64) for site, w in widths.items()}
    return Mask(kept, values)


def test_the_logits_are_the_same(model: SparseTransformer, tokens: Tensor) -> None:
    """In float64, where no top-k decision differs by rounding."""
    model = model.double()
    for tap in (None, masks(model, len(tokens))):
        close(model(tokens, tap=tap, logits_at=LAST, trim=True), model(tokens, tap=tap, logits_at=LAST))
    padding = torch.ones_like(tokens)
    padding[1, :2] = 0
    close(
        model(tokens, attention_mask=padding, logits_at=LAST, trim=True),
        model(tokens, attention_mask=padding, logits_at=LAST),
    )


def test_wherever_the_pass_is_entered(model: SparseTransformer, tokens: Tensor) -> None:
    model = model.double()
    places = start_sites(model.config.n_layer)
    seen = Record(places)
    model(tokens, tap=seen)
    for site in places:
        start = (site, seen.acts[site])
        close(model(tokens, start=start, logits_at=LAST, trim=True), model(tokens, start=start, logits_at=LAST))


def test_gradients_of_masks_are_the_same(model: SparseTransformer, tokens: Tensor) -> None:
    model = model.double()
    grads = []
    for trim in (False, True):
        tap = masks(model, len(tokens))
        for mask in tap.masks.values():
            mask.requires_grad_()
        model(tokens, tap=tap, logits_at=LAST, trim=trim).square().sum().backward()
        grads.append([torch.zeros_like(mask) if mask.grad is None else mask.grad for mask in tap.masks.values()])
    for one, two in zip(*grads, strict=True):
        close(one, two)


def test_what_a_tap_sees(model: SparseTransformer, tokens: Tensor) -> None:
    last = model.config.n_layer - 1
    whole, part = (Record(all_sites(model.config.n_layer)) for _ in range(2))
    model(tokens, tap=whole, logits_at=LAST)
    model(tokens, tap=part, logits_at=LAST, trim=True)
    late = [site for site in whole.acts if site.startswith(f"{last}.") or site == "final_resid"]
    early = [*(f"{last}.{site}" for site in ("resid_in", "attn.act_in", "attn.k", "attn.v"))]
    for site, act in part.acts.items():
        expected = whole.acts[site]
        if site in late and site not in early:
            expected = expected[torch.arange(3), LAST].unsqueeze(1)
        assert act.shape == expected.shape
        if model.config.afrac is None:
            torch.testing.assert_close(act, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("trim", [False, True])
def test_a_mask_that_knows_what_it_keeps(model: SparseTransformer, tokens: Tensor, share: float, trim: bool) -> None:
    """Constant channels are folded into biases, sites without a kept channel are not computed: the same logits."""
    model, generator = model.double(), torch.Generator().manual_seed(5)
    widths = {site: model.widths[site] for site in node_sites(model.config.n_layer)}
    values = {site: torch.randn(w, generator=generator, dtype=torch.float64) for site, w in widths.items()}
    chosen = {site: torch.rand(w, generator=generator) < share for site, w in widths.items()}
    chosen["1.mlp.resid_delta" if model.config.n_layer > 1 else "0.mlp.resid_delta"][:] = False  # a whole sublayer
    masks = {
        site: ((torch.rand(3, 1, len(some), generator=generator) < 0.7) & some).double()
        for site, some in chosen.items()
    }
    kept = {site: some.nonzero().flatten() for site, some in chosen.items()}
    where = {"logits_at": LAST, "trim": True} if trim else {}
    plain, knowing = Mask(masks, values), Mask(masks, values, kept)
    close(model(tokens, tap=knowing, **where), model(tokens, tap=plain, **where))
    one = {site: mask[0, 0] for site, mask in masks.items()}  # the mask of a circuit has no batch axis
    close(model(tokens, tap=Mask(one, values, kept), **where), model(tokens, tap=Mask(one, values), **where))


def test_refusals(make_model: Callable[..., SparseTransformer], tokens: Tensor) -> None:
    with refused("trim needs logits_at"):
        make_model()(tokens, trim=True)
    with refused("no cache"):
        make_model()(tokens, trim=True, logits_at=LAST, cache=KVCache())


@pytest.mark.parametrize(("shape", "alike"), [((12,), True), ((3, 1, 12), True), ((3, 7, 12), False)])
def test_a_mask_knows_whether_it_treats_positions_alike(shape: tuple[int, ...], alike: bool) -> None:
    assert Mask({"0.attn.q": torch.ones(12)}, {"0.attn.q": torch.zeros(shape)}).positionwise is alike
