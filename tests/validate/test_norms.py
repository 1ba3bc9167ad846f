"""Frozen norms: nothing changes where nothing is ablated, losses by loops, and a circuit that lives on a norm fails."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from sparse_circuits.circuit.evaluate import last_logits
from sparse_circuits.model.taps import Chain, Mask, Record, Replace
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.validate.norms import FROZEN, FrozenNorms, norm_reliance, norms, scale_sites
from sparse_circuits.validate.subject import Subject
from validate.planted import SMALL, all_nodes, by_hand, circuit_of, prompts, small, small_model, truth
from validate.repeated import rerun_of
from viz.made_up import sparse_model

EVERY = ("0.attn.norm_scale", "0.mlp.norm_scale", "final_norm_scale")


def faint() -> SparseTransformer:
    """The small model with an answer so faint that it depends on how loud the final norm makes it."""
    model = deepcopy(small_model())
    with torch.no_grad():
        model.unembed.weight.mul_(0.1)
    return model


def silent(model: SparseTransformer, n: int = 4) -> Subject:
    """Its circuit with all else at zero: the anchor that makes up most of the stream is gone."""
    values = {site: torch.zeros(width) for site, width in model.widths.items()}
    return Subject.of(circuit_of(model, SMALL, values), model, truth().task, truth().tokenizer, n=n)


def test_with_all_nodes_nothing_changes() -> None:
    found = norm_reliance(small(nodes=all_nodes(small_model())))
    for frozen in FROZEN:
        assert (
            abs(found.rises[frozen].value) < 1e-12 < found.losses[frozen].value
        )  # a loss of 10^-10: sums in another order
    assert found.rms_ratio.value == found.rms_ratio.low == 1


@pytest.mark.parametrize("frozen", FROZEN)
def test_losses_and_ratio_by_loops(frozen: str) -> None:
    """One prompt at a time: scales from the activations themselves, not from the sites that report them."""
    subject = silent(faint())
    losses, ratios = [], []
    for ids, right, wrong in prompts(subject.pairs):
        rms = []
        for kept in (None, SMALL):
            final = by_hand(subject, ids, kept)[1]["final_resid"]
            rms.append(final.square().mean(-1).sqrt())
        ratios.append(float(rms[1][-1] / rms[0][-1]))
        seen = Record(EVERY if frozen == "all" else EVERY[2:])
        with torch.no_grad():
            subject.model(torch.tensor([ids]), tap=seen)
            torch.testing.assert_close(seen.acts["final_norm_scale"][0, :, 0].double(), 1 / rms[0], rtol=1e-4, atol=0)
            logits = subject.model(torch.tensor([ids]), tap=Chain(subject.tap, Replace(seen.acts)))[0, -1]
        losses.append(float(F.cross_entropy(logits[[right, wrong]][None], torch.tensor([0]))))
    found = norm_reliance(subject)
    assert found.losses[frozen].value == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert found.rms_ratio.value == pytest.approx(sum(ratios) / len(ratios), rel=1e-4)
    assert found.rises[frozen].value == pytest.approx(found.losses[frozen].value - found.own_loss.value, abs=1e-6)


def test_a_circuit_that_lives_on_the_final_norm() -> None:
    found = norm_reliance(silent(faint()))
    assert found.rms_ratio.value < 0.8 and found.rises["final"].value > 0.02


def test_the_frozen_model_is_a_chain_of_taps() -> None:
    """Masked, masked with other masks per row, and entered late: always the scales of the plain pass on these tokens."""
    model = sparse_model(2, 32, 0.06)
    generator = torch.Generator().manual_seed(0)
    tokens, last = torch.randint(300, (4, 7), generator=generator), torch.tensor([6, 3, 5, 6])
    widths = {site: width for site, width in model.widths.items() if not site.endswith(("resid_in", "resid_mid", "y"))}
    values = {site: torch.randn(width, generator=generator) for site, width in widths.items()}
    masks = {site: (torch.rand(4, 1, width, generator=generator) < 0.4).float() for site, width in widths.items()}
    kept = {site: mask.amax((0, 1)).nonzero().flatten() for site, mask in masks.items()}
    for frozen in FROZEN:
        made, scales, mid = FrozenNorms.of(model, frozen), Record(scale_sites(model, frozen)), Record(["1.resid_mid"])
        with torch.no_grad():
            assert torch.equal(made(tokens, logits_at=last), model(tokens, logits_at=last))
            model(tokens, tap=scales)
            chain = Chain(Mask(masks, values), Replace(scales.acts))
            expected = model(tokens, tap=Chain(chain, mid), logits_at=last)[:, 0]
            whole = last_logits(made, tokens, last, Mask(masks, values, kept))
            entered = last_logits(
                made, tokens, last, Mask(masks, values), start=("1.resid_mid", mid.acts["1.resid_mid"])
            )
            beside = made(tokens, tap=Chain(Mask(masks, values), seen := Record(["1.resid_mid"])), logits_at=last)[:, 0]
            plain = last_logits(model, tokens, last, Mask(masks, values))
        for found in (whole, entered, beside):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(seen.acts["1.resid_mid"], mid.acts["1.resid_mid"])
        assert float((plain - expected).abs().max()) > 0.01
        assert made.embed.weight.data_ptr() == model.embed.weight.data_ptr()


def test_the_recipe_under_frozen_norms() -> None:
    reliance, size = norms(rerun_of(n=2))
    assert (reliance.name, size.name) == ("norm_reliance", "norm_control")
    assert reliance.outcome == size.outcome == "pass" and abs(reliance.value.value) < 1e-6
    assert set(size.details["runs"]) == set(FROZEN) and size.details["runs"]["final"]["met_on_val"] == [True, True]
    assert size.value.value == pytest.approx(
        float(torch.tensor([size.details["runs"]["all"]["nodes"]]).double().log2().mean())
        - float(torch.tensor([size.details["own"]["nodes"]]).double().log2().mean())
    )
    assert size.details["runs"]["all"]["val_loss"] != size.details["own"]["val_loss"]


def test_which_norms() -> None:
    assert scale_sites(small_model(), "all") == EVERY and scale_sites(small_model(), "final") == EVERY[2:]
    for norm in ("attn", "mlp"):
        assert f"1.{norm}.norm_scale" in scale_sites(sparse_model(2, 32, 0.06), "all")
