"""Learning masks: seeds do not disturb each other, the model is left as it was, and the node that matters is found."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from refusals import refused
from sparse_circuits.circuit.ablation import reference_sites
from sparse_circuits.circuit.evaluate import contrast
from sparse_circuits.log import Bar, Progress
from sparse_circuits.model.config import ModelConfig
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune import learn
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.learn import learn_masks
from sparse_circuits.prune.mask import NodeLayout
from sparse_circuits.sites import Node
from sparse_circuits.tasks.pairs import Pair, Pairs
from viz.made_up import MadeUp, made_up

SHORT = PruneConfig(steps=12, batch_pairs=4, lr=0.02)


@pytest.fixture(scope="module")
def made() -> MadeUp:
    return made_up()


@pytest.fixture(scope="module")
def values(made: MadeUp) -> dict[str, Tensor]:
    return {site: torch.zeros(made.model.widths[site]) for site in reference_sites(2)}


@pytest.fixture(scope="module")
def pairs(made: MadeUp) -> Pairs:
    return made.task.pairs("train", 6, made.tokenizer)


def test_a_seed_finds_the_same_alone_and_in_company(made: MadeUp, values: dict[str, Tensor], pairs: Pairs) -> None:
    both = learn_masks(made.model, values, pairs, SHORT, [3, 8])
    for row, seed in zip(both, (3, 8), strict=True):
        torch.testing.assert_close(learn_masks(made.model, values, pairs, SHORT, [seed])[0], row, atol=1e-4, rtol=0)
    assert not torch.allclose(both[0], both[1], atol=1e-3)


class Stops(Progress):
    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Bar]:
        class Stopping(Bar):
            def update(self, done: int, **fields: object) -> None:
                raise KeyboardInterrupt

        yield Stopping()


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_model_is_left_as_it_was(interrupted: bool, made: MadeUp, values: dict[str, Tensor], pairs: Pairs) -> None:
    before = {name: weight.detach().clone() for name, weight in made.model.named_parameters()}
    made.model.embed.weight.requires_grad_(False)  # one that was frozen stays frozen
    try:
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                learn_masks(made.model, values, pairs, SHORT, [0], Stops())
        else:
            learn_masks(made.model, values, pairs, SHORT, [0])
        for name, weight in made.model.named_parameters():
            assert torch.equal(weight, before[name]) and weight.grad is None, name
            assert weight.requires_grad == (name != "embed.weight"), name
    finally:
        made.model.embed.weight.requires_grad_(True)


def test_tau_stays_between_minus_one_and_one(made: MadeUp, values: dict[str, Tensor], pairs: Pairs) -> None:
    tau = learn_masks(made.model, values, pairs, SHORT.replace(lr=5.0, steps=3), [0])
    assert float(tau.min()) == -1.0 and float(tau.max()) <= 1.0


def test_without_learning_tau_is_noise_around_its_bias(made: MadeUp, values: dict[str, Tensor], pairs: Pairs) -> None:
    tau = learn_masks(made.model, values, pairs, SHORT.replace(lr=1e-12, steps=1), [0])[0]
    assert float(tau.mean()) == pytest.approx(0.1, abs=0.003) and float(tau.std()) == pytest.approx(0.01, rel=0.15)


def test_each_seed_is_clipped_by_its_own_rms() -> None:
    tau = torch.zeros(2, 4, requires_grad=True)
    tau.grad = torch.tensor([[2.0, -2.0, 2.0, -2.0], [0.1, 0.0, 0.0, 0.0]])
    learn._clip(tau, 0.5)
    assert tau.grad.tolist() == [[0.5, -0.5, 0.5, -0.5], pytest.approx([0.1, 0, 0, 0])]


def test_learning_rate_rises_then_falls_to_zero() -> None:
    config = PruneConfig(steps=100, lr_warmup_frac=0.1)
    rates = [learn._schedule(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.02


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("k_coef_warmup", (-1, 1.1), (0, 1)),
        ("lr_warmup_frac", (-0.1, 1), (0, 0.999)),
        ("beta1", (-0.1, 1), (0, 0.999)),
        ("beta2", (-0.1, 1), (0, 0.999)),
        ("eps", (-1e-8, 0), (1e-12,)),
        ("weight_decay", (-1e-3,), (0,)),
        ("clip_rms", (-1, 0), (1e-6,)),
        ("init_noise_scale", (-1,), (0,)),
        ("least_loss_share", (-0.1, 1.1), (0, 1)),
    ],
)
def test_settings_outside_their_range_are_refused(
    name: str,
    wrong: tuple[float, ...],
    right: tuple[float, ...],
    made: MadeUp,
    values: dict[str, Tensor],
    pairs: Pairs,
) -> None:
    for value in (*wrong, math.nan):
        with refused(f"{name} must be ", f"given {float(value)}"):
            PruneConfig(**{name: float(value)})
    for (
        value
    ) in right:  # at the ends of the range prices and learning rates stay what they are called, and learning ends
        config = SHORT.replace(**{name: float(value)})
        assert all(0 <= learn._price(step, config) <= config.k_coef for step in range(config.steps))
        assert all(0 < learn._schedule(step, config) <= 1 for step in range(config.steps))
        tau = learn_masks(made.model, values, pairs, config, [0])
        assert bool((tau.abs() <= 1).all())


def one_node_model() -> SparseTransformer:
    """Token 1 writes +1 and token 2 writes -1 to residual 0, which final_resid[0] turns into the answers 3 and 4."""
    config = ModelConfig(vocab_size=6, n_layer=1, d_model=4, n_head=1, d_head=2, d_mlp=4, block_size=4)
    model = SparseTransformer(config).initialize(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if name.endswith("gain") else 0.0)
        model.embed.weight[1] = torch.tensor([1.0, 0.3, -0.2, 0.4])
        model.embed.weight[2] = torch.tensor([-1.0, 0.3, -0.2, 0.4])
        model.unembed.weight[3, 0], model.unembed.weight[4, 0] = 4.0, -4.0
    return model.eval()


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("objective", ["task_loss", "kl_to_model"])
def test_the_one_node_that_matters_is_found(objective: str, noise: bool) -> None:
    model = one_node_model()
    pairs = Pairs(
        torch.tensor([[[1], [2]]]),
        torch.ones(1, 2).long(),
        torch.tensor([[3, 4]]),
        (Pair("a", "b", "c", "d", 0),),
        True,
    )
    values = {site: torch.zeros(model.widths[site]) for site in reference_sites(1)}
    config = PruneConfig(steps=150, lr=0.02, k_coef=0.01, batch_pairs=2, objective=objective, stochastic_ablation=noise)
    tau = learn_masks(model, values, pairs, config, [0, 1])
    layout = NodeLayout.of(model.widths)
    assert [layout.nodes((row >= 0).float()) for row in tau] == [(Node("final_resid", 0),)] * 2


def steering(aim: float | None, nodes: int = 3) -> learn._Steering:
    return learn._Steering(aim, torch.zeros(2, nodes))


def test_price_is_steered_to_the_aim_each_seed_alone() -> None:
    """By hand: below the aim it grows by exp(0.04 (aim - mean) / aim) a step, far above it shrinks by exp(-0.04)."""
    steer = steering(0.1)
    steer.update(torch.tensor([0.05, 0.9]), torch.zeros(2, 3))
    torch.testing.assert_close(steer.factor, torch.tensor([math.exp(0.04 * 0.5), math.exp(-0.04)]))
    steer.update(torch.tensor([0.15, 0.9]), torch.zeros(2, 3))
    mean = 0.9 * 0.05 + 0.1 * 0.15
    expected = math.exp(0.04 * 0.5 + 0.04 * (0.1 - mean) / 0.1)
    assert float(steer.factor[0]) == pytest.approx(expected) and float(steer.mean[0]) == pytest.approx(mean)
    for _ in range(200):
        steer.update(torch.tensor([0.0, 9.0]), torch.zeros(2, 3))
    assert steer.factor.tolist() == pytest.approx([30, 1 / 30])


def kept_first(count: int) -> Tensor:
    """tau of a state that keeps the first `count` of three nodes."""
    return torch.tensor([0.5] * count + [-0.5] * (3 - count))


def passed_through() -> learn._Steering:
    """Seed 0 was within the aim with 3, 2 and 2 nodes, and above it with 1; seed 1 never was within."""
    steer = steering(0.1)
    for loss, count in ((0.05, 3), (0.06, 2), (0.08, 2), (0.7, 1)):
        steer.update(torch.tensor([loss, 9.0]), torch.stack([kept_first(count)] * 2))
    return steer


def test_the_state_kept_is_the_smallest_that_was_within_the_aim() -> None:
    last = torch.stack([kept_first(0)] * 2)
    found = passed_through().chosen(last, None)
    assert (found >= 0).sum(-1).tolist() == [2, 0], "never within the aim: the last state"
    unsteered = steering(None)
    unsteered.update(torch.tensor([0.0, 0.0]), torch.zeros(2, 3))
    assert unsteered.factor.tolist() == [1, 1] and unsteered.chosen(torch.ones(2, 3), None).tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize(
    ("over", "kept"), [([3.0, 2.0, 1.0, -1.0], 3), ([9.0, 8.0, 0.0, -1.0], 2), ([9.0, 7.0, 8.0, 8.0], 1)]
)
def test_states_are_judged_again_the_smallest_first(over: list[float], kept: int) -> None:
    """over: excess of the states with 0 (the last), 1, 2 and 3 nodes; without one that holds, the least excess counts."""
    steer = passed_through()
    steer.passed[0].append(kept_first(1))
    found = steer.chosen(torch.stack([kept_first(0)] * 2), lambda masks: torch.tensor(over)[masks.sum(-1).long()])
    assert int((found[0] >= 0).sum()) == kept


def test_divergence_is_the_mean_of_two_bernoulli_divergences() -> None:
    """By hand: p = 3/4 against q = 1/2 is 3/4 ln(3/2) + 1/4 ln(1/2); a prompt that agrees adds 0."""
    aim, given = torch.tensor([[math.log(3), 2.0]]), torch.tensor([[0.0, 2.0]])
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    torch.testing.assert_close(learn.divergence(aim, given), torch.tensor([expected]))
    assert float(learn.divergence(-aim, aim)) > 0.3


def test_agreeing_with_a_wrong_model_is_no_loss(made: MadeUp, pairs: Pairs) -> None:
    """The task loss of the whole model is far from 0, its divergence from itself is 0."""
    aims = learn.model_contrasts(made.model, pairs)
    assert aims.shape == (6, 2) and float(learn.divergence(aims, aims).abs().max()) < 1e-6
    with torch.no_grad():
        torch.testing.assert_close(aims, contrast(made.model, pairs), atol=1e-5, rtol=0)


def test_stochastic_ablation_spares_a_random_share_of_the_ablated() -> None:
    masks = torch.zeros(400, 300)
    masks[:, :50] = 1
    noisy = learn._partly_ablated(masks, [torch.Generator().manual_seed(seed) for seed in range(400)])
    assert bool((noisy[:, :50] == 1).all()) and set(noisy.unique().tolist()) == {0.0, 1.0}
    spared = noisy[:, 50:].mean(-1)  # 1 - r of each seed, r uniform
    assert abs(float(spared.mean()) - 0.5) < 0.06 and abs(float(spared.std()) - math.sqrt(1 / 12)) < 0.05


def test_a_divergence_needs_the_two_completions() -> None:
    with pytest.raises(ValueError, match="needs loss_kind binary, given full_vocab"):
        PruneConfig(objective="kl_to_model", loss_kind="full_vocab")
