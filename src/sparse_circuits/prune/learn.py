"""Learning node masks: one tau per node, a step function with a sigmoid's gradient, a price per kept node (METHOD 1f).

Objective: task loss + k_coef * (number of kept nodes), minimised over tau by AdamW with the learning rate falling to zero;
the model's weights stay as they are. Several seeds run as one batch over one frozen model: each has its own tau, its own
pairs and its own gradient clip, so a seed finds the same mask alone and in company (up to rounding). Beyond the paper: the
price rises from zero at the start, and a very sure model is seen as a less sure one (docs/method.md).

Shapes: S seeds, N nodes, n pairs.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_circuits.circuit.evaluate import binary_losses, contrast, pair_losses
from sparse_circuits.log import SILENT, Progress
from sparse_circuits.model.taps import Mask
from sparse_circuits.model.transformer import SparseTransformer
from sparse_circuits.prune.config import PruneConfig
from sparse_circuits.prune.mask import NodeLayout, heaviside
from sparse_circuits.tasks.pairs import Pairs

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
) -> Float[Tensor, "S N"]:
    """Returns tau of every seed after training; a node is kept where tau >= 0.

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
        with progress.bar("pruning", config.steps) as bar:
            for step in range(config.steps):
                adam.param_groups[0]["lr"] = config.lr * _schedule(step, config)
                drawn = [torch.randint(pairs.n, (config.batch_pairs,), generator=draw) for draw in draws]
                batch = pairs.take(torch.cat(drawn))
                losses = _masked_losses(model, values, layout, tau, batch, config, scale)
                kept = heaviside(tau, config.temperature).sum(-1)
                (losses + _price(step, config) * kept).sum().backward()
                _clip(tau, config.clip_rms)
                adam.step()
                adam.zero_grad()
                with torch.no_grad():
                    tau.clamp_(-1, 1)
                bar.update(step + 1, loss=losses.mean().item(), nodes=kept.mean().item())
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return tau.detach().cpu()


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
    tau: Float[Tensor, "S N"],
    batch: Pairs,
    config: PruneConfig,
    scale: float,
) -> Float[Tensor, " S"]:
    """Task loss of every seed's mask on its own part of the batch, the seeds' parts one after the other."""
    masks, groups, found = heaviside(tau, config.temperature), batch.by_length(), []
    for group in groups:
        part, owner = batch.take(group), (group // config.batch_pairs).repeat_interleave(2)
        tap = Mask(layout.owned(masks, owner), {site: values[site] for site in layout.widths})
        if scale == 1.0:
            found.append(pair_losses(model, part, tap, config.loss_kind))
        else:
            found.append(binary_losses(scale * contrast(model, part, tap)))
    losses = torch.cat(found)[torch.cat(groups).argsort()]
    return losses.view(len(tau), -1).mean(-1)


def _clip(tau: Tensor, limit: float) -> None:
    """Scales each seed's gradient so that its RMS is at most `limit`."""
    assert tau.grad is not None
    rms = tau.grad.norm(dim=-1, keepdim=True) / math.sqrt(tau.shape[-1])
    tau.grad.mul_((limit / rms.clamp(min=1e-30)).clamp(max=1.0))
