"""Learning node masks: one tau per node, a step function with a sigmoid's gradient, a price per kept node (METHOD 1f).

Objective: task loss (or KL to the model) + k_coef * (number of kept nodes), minimised over tau by AdamW with the learning rate
falling to zero; the model's weights stay as they are. Several seeds run as one batch over one frozen model: each has its own
tau, its own pairs and its own gradient clip, so a seed finds the same mask alone and in company (up to rounding). Beyond the
paper: the price rises from zero at the start, and a very sure model is seen as a less sure one (docs/method.md).

Shapes: S seeds, N nodes, n pairs.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sparse_circuits.circuit.evaluate import binary_losses, contrast, pair_losses
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.taps import Mask
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.mask import NodeLayout, heaviside
from sparse_circuits.tasks.pairs import Pairs

Excess = Callable[[Float[Tensor, "K N"]], Float[Tensor, " K"]]
"""Masks -> how far each is above the target, nats; at most 0 where the target holds."""
JUDGED_TOGETHER = 8
"""States judged in one go, the smallest first."""
SCALE_PAIRS = 256
"""Training pairs on which `contrast_scale` measures the model."""


def learn_masks(
    model: SparseTransformer,
    values: Mapping[str, Tensor],
    pairs: Pairs,
    config: PruneConfig,
    seeds: Sequence[int],
    progress: Progress = SILENT,
    *,
    least_loss: float = 0.0,
    aim: float | None = None,
    excess: Excess | None = None,
) -> Float[Tensor, "S N"]:
    """Returns tau of every seed after training; a node is kept where tau >= 0.

    aim: the task loss that the price steers to (`PruneConfig.steer_to`), nats; None: the price is not steered.
    excess: judges the states that a steered seed has passed through; None: the smallest one within the aim.
    least_loss: where the model's own binary loss is below this, contrasts are scaled down until it equals it (see
    `PruneConfig.least_loss_share`), nats.
    """
    layout = NodeLayout.of(model.widths)
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.stack([torch.randn(layout.size, generator=draw) for draw in draws])
    device = next(model.parameters()).device
    tau = (config.init_noise_bias + config.init_noise_scale * noise).clamp(-1, 1).to(device).requires_grad_()
    betas = (config.beta1, config.beta2)
    adam = torch.optim.AdamW([tau], lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay)
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        scale = contrast_scale(model, pairs, least_loss) if config.loss_kind == "binary" else 1.0
        contrasts = model_contrasts(model, pairs) if config.objective == "kl_to_model" else None
        steering = _Steering(aim, tau)
        with progress.bar("pruning", config.steps) as bar:
            for step in range(config.steps):
                adam.param_groups[0]["lr"] = config.lr * _schedule(step, config)
                drawn = [torch.randint(pairs.n, (config.batch_pairs,), generator=draw) for draw in draws]
                batch = pairs.take(torch.cat(drawn))
                masks = heaviside(tau, config.temperature)
                kept = masks.sum(-1)
                if config.stochastic_ablation:
                    masks = _partly_ablated(masks, draws)
                own = None if contrasts is None else contrasts[torch.cat(drawn).to(device)]
                losses, task_losses = _masked_losses(model, values, layout, masks, batch, config, scale, own)
                (losses + _price(step, config) * steering.factor * kept).sum().backward()
                steering.update(task_losses, tau.detach())
                _clip(tau, config.clip_rms)
                adam.step()
                adam.zero_grad()
                with torch.no_grad():
                    tau.clamp_(-1, 1)
                bar.update(step + 1, loss=losses.mean().item(), nodes=kept.mean().item())
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return steering.chosen(tau, excess).cpu()


@torch.no_grad()
def contrast_scale(model: SparseTransformer, pairs: Pairs, least_loss: float) -> float:
    """The a in (0, 1] for which the model's binary loss on a * (z_A - z_B) is at least `least_loss`; 1 if it is already."""
    contrasts = contrast(model, pairs.take(range(min(pairs.n, SCALE_PAIRS)))).double()
    low, high = 0.0, 1.0
    if float(binary_losses(contrasts).mean()) >= least_loss:
        return 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if float(binary_losses(middle * contrasts).mean()) >= least_loss:
            low = middle
        else:
            high = middle
    return low


STEER_RATE = 0.04
"""Largest change of the logarithm of a seed's price in one step."""
STEER_MEMORY = 0.9
"""Share of the running mean of a seed's task loss that stays from one step to the next."""
STEER_MOST = 30.0
"""The price is never more than this many times, nor less than one part in as many of, what `k_coef` says."""


class _Steering:
    """What multiplies each seed's price: it grows while the seed's task loss is below the aim, and shrinks above it.

    A step changes its logarithm by `STEER_RATE` times (aim - loss) / aim, cut to [-1, 1], of the running mean of the loss. The
    steered loss swings about the aim, and learning may end anywhere, so every state within the aim is a candidate: one whose
    running mean was not above it, nor the loss of its own few pairs. The smallest of many such states tends to have had luck with
    its pairs, so the candidates are judged again, all on one batch.
    """

    def __init__(self, aim: float | None, tau: Float[Tensor, "S N"]) -> None:
        self.aim, self.factor = aim, torch.ones(len(tau), device=tau.device)
        self.mean: Tensor | None = None
        self.passed: list[list[Tensor]] = [[] for _ in tau]

    @torch.no_grad()
    def update(self, losses: Float[Tensor, " S"], tau: Float[Tensor, "S N"]) -> None:
        """After a step's losses, of the masks that tau (not yet changed by the step) makes."""
        if self.aim is None:
            return
        self.mean = losses if self.mean is None else STEER_MEMORY * self.mean + (1 - STEER_MEMORY) * losses
        change = ((self.aim - self.mean) / self.aim).clamp(-1, 1)
        self.factor = (self.factor * (STEER_RATE * change).exp()).clamp(1 / STEER_MOST, STEER_MOST)
        for seed in ((self.mean <= self.aim) & (losses <= self.aim)).nonzero().flatten().tolist():
            self.passed[seed].append(tau[seed].clone())

    @torch.no_grad()
    def chosen(self, tau: Float[Tensor, "S N"], excess: Excess | None) -> Float[Tensor, "S N"]:
        """The tau to go on with, every seed's own: the smallest candidate without excess, or the one with the least."""
        return torch.stack([self._chosen(last, passed, excess) for last, passed in zip(tau, self.passed, strict=True)])

    def _chosen(self, last: Float[Tensor, " N"], passed: list[Tensor], excess: Excess | None) -> Float[Tensor, " N"]:
        ranked = sorted(passed, key=lambda state: int((state >= 0).sum()))
        if not ranked or excess is None:
            return ranked[0] if ranked else last
        ranked, over = sorted([*ranked, last], key=lambda state: int((state >= 0).sum())), []
        for first in range(0, len(ranked), JUDGED_TOGETHER):
            states = torch.stack(ranked[first : first + JUDGED_TOGETHER])
            over += excess((states >= 0).float()).tolist()
            if min(over) <= 0:
                break
        fitting = next((i for i, value in enumerate(over) if value <= 0), None)
        return ranked[over.index(min(over)) if fitting is None else fitting]


def _schedule(step: int, config: PruneConfig) -> float:
    """Linear warm-up, then linear to zero."""
    warm = config.lr_warmup_frac * config.steps
    return (step + 1) / warm if step + 1 < warm else 1 - max(step - warm, 0) / (config.steps - warm)


def _price(step: int, config: PruneConfig) -> float:
    """Price of a kept node at this step, nats."""
    warm = config.k_coef_warmup * config.steps
    return config.k_coef * min((step + 1) / warm, 1.0) if warm else config.k_coef


def _masked_losses(
    model: SparseTransformer,
    values: Mapping[str, Tensor],
    layout: NodeLayout,
    masks: Float[Tensor, "S N"],
    batch: Pairs,
    config: PruneConfig,
    scale: float,
    own: Float[Tensor, "n 2"] | None,
) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
    """What learning minimises, and the task loss, of every seed's mask on its own part of the batch, the seeds' parts one after
    the other.

    own: the model's own contrasts on the batch, where the objective is to agree with them.
    """
    groups, found, plain = batch.by_length(), [], []
    for group in groups:
        part, owner = batch.take(group), (group // config.batch_pairs).repeat_interleave(2)
        tap = Mask(layout.owned(masks, owner), {site: values[site] for site in layout.widths})
        if config.loss_kind != "binary":
            found.append(pair_losses(model, part, tap, config.loss_kind))
            plain.append(found[-1].detach())
            continue
        contrasts = contrast(model, part, tap)
        plain.append(binary_losses(contrasts.detach()))
        seen = scale * contrasts
        found.append(binary_losses(seen) if own is None else divergence(scale * own[group.to(own.device)], seen))
    order = torch.cat(groups).argsort()
    losses, task_losses = (torch.cat(parts)[order].view(len(masks), -1).mean(-1) for parts in (found, plain))
    return losses, task_losses


@torch.no_grad()
def model_contrasts(model: SparseTransformer, pairs: Pairs) -> Float[Tensor, "n 2"]:
    """z_A - z_B of the whole model after both prompts of every pair."""
    groups = pairs.by_length()
    found = torch.cat([contrast(model, pairs.take(group)) for group in groups])
    return found[torch.cat(groups).argsort().to(found.device)]


def divergence(aim: Float[Tensor, "n 2"], given: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """KL(p_aim || p_given) over the two completions, mean of both prompts of a pair, nats, from contrasts z_A - z_B."""
    p = aim.sigmoid()
    cross = p * F.softplus(-given) + (1 - p) * F.softplus(given)
    entropy = p * F.softplus(-aim) + (1 - p) * F.softplus(aim)
    return (cross - entropy).mean(-1)


def _partly_ablated(masks: Float[Tensor, "S N"], draws: Sequence[torch.Generator]) -> Float[Tensor, "S N"]:
    """Each seed's mask with some of the ablated nodes left as they are: each is ablated with probability r ~ U(0, 1)."""
    width, device = masks.shape[-1], masks.device
    rates = torch.cat([torch.rand(1, generator=draw) for draw in draws])[:, None]
    spared = torch.stack([torch.rand(width, generator=draw) for draw in draws]) >= rates
    return masks + (1 - masks) * spared.to(device)


def _clip(tau: Tensor, limit: float) -> None:
    """Scales each seed's gradient so that its RMS is at most `limit`."""
    assert tau.grad is not None
    rms = tau.grad.norm(dim=-1, keepdim=True) / math.sqrt(tau.shape[-1])
    tau.grad.mul_((limit / rms.clamp(min=1e-30)).clamp(max=1.0))
