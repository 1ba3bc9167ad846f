"""The optimizer step: gradients on a common scale, Adam, projection, decay; and the learning rate.

METHOD 1c, in this order: 1. g <- g / (RMS(g) + 1e-5) over ALL parameters; 2. Adam(0.9, 0.95, eps 0.1);
3. projection onto the k largest entries; 4. W <- W - wd * lr_t * W for matrices except the bigram table.
The learning rate warms up, falls linearly to zero, and carries the sharkfin factor sqrt(f_final / f_t) <= 1: `lr` is the
rate at TARGET sparsity (METHOD D1; the replication's lr_repl = lr * sqrt(f_final)).
"""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from sparse_circuits.config import Config
from sparse_circuits.train.sparsity import SparsityConfig, project, rules

RMS_FLOOR = 1e-5


class OptimizerConfig(Config):
    """METHOD 1c and D2."""

    lr: float
    """Peak learning rate at target sparsity (METHOD D1)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Adam's moment decays."""
    eps: float = 0.1
    """Added to Adam's root; belongs to normalised gradients."""
    weight_decay: float = 0.1
    """wd, per unit of learning rate, on matrices except the bigram table."""
    warmup: float = 0.01
    """Share of training with rising learning rate."""
    gradients: Literal["normalize", "clip"] = "normalize"
    """Divide gradients by their global RMS always, or only when it exceeds 1."""
    sharkfin: bool = True
    """Whether the learning rate carries sqrt(f_final / f_t)."""

    def model_post_init(self, context: object) -> None:  # noqa: ARG002 (pydantic's signature)
        if not self.lr > 0 or not self.eps > 0 or self.weight_decay < 0 or not 0 <= self.warmup < 1:
            raise ValueError("lr and eps must be above 0, weight_decay at least 0 and warmup in [0, 1)")


def learning_rate(config: OptimizerConfig, sparsity: SparsityConfig, step: int, steps: int) -> float:
    """Learning rate of update number `step` (1..steps)."""
    warm = config.warmup * steps
    rise = min(step / warm, 1.0) if warm else 1.0
    fall = 1 - max(step - warm, 0.0) / (steps - warm)
    fin = math.sqrt(sparsity.fraction / sparsity.fraction_at(step / steps)) if config.sharkfin else 1.0
    return config.lr * rise * fall * fin


@torch.no_grad()
def scale_gradients(parameters: Iterable[Tensor], how: Literal["normalize", "clip"]) -> Tensor:
    """Puts all gradients on a common scale in place and returns their RMS before."""
    grads = [p.grad for p in parameters if p.grad is not None]
    count = sum(grad.numel() for grad in grads)
    rms = torch.nn.utils.get_total_norm(grads) / math.sqrt(count)
    divisor = rms + RMS_FLOOR
    if how == "clip":
        divisor = divisor.clamp(min=1.0)
    for grad in grads:
        grad.div_(divisor)
    return rms


class SparseAdam:
    """Owns Adam's moments for one model and performs whole steps."""

    def __init__(self, model: nn.Module, config: OptimizerConfig, sparsity: SparsityConfig) -> None:
        self.model, self.config, self.sparsity = model, config, sparsity
        self.rules = rules(model, sparsity)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names = list(trained)
        self.adam = torch.optim.Adam(trained.values(), lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
        self.decayed = [p for name, p in trained.items() if p.dim() > 1 and name != "bigram.weight"]

    def step(self, step: int, steps: int) -> tuple[float, Tensor]:
        """Update number `step` (1..steps) from the gradients present. Returns (learning rate, RMS of the gradients)."""
        lr = learning_rate(self.config, self.sparsity, step, steps)
        rms = scale_gradients(self.model.parameters(), self.config.gradients)
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        self.adam.zero_grad()
        project(self.model, self.sparsity, self.rules, step / steps)
        with torch.no_grad():
            for weight in self.decayed:
                weight.mul_(1 - self.config.weight_decay * lr)
        return lr, rms

    def state(self) -> dict[str, Tensor]:
        """Adam's moments and step counts by parameter name, for a checkpoint."""
        state = self.adam.state_dict()["state"]
        return {f"{self.names[i]}|{key}": value for i, entry in state.items() for key, value in entry.items()}

    def state_names(self) -> set[str]:
        """The names `state` has after the first step."""
        return {f"{name}|{key}" for name in self.names for key in ("exp_avg", "exp_avg_sq", "step")}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restores what `state` gave."""
        by_index: dict[int, dict[str, Tensor]] = {}
        for label, value in tensors.items():
            name, key = label.rsplit("|", 1)
            by_index.setdefault(self.names.index(name), {})[key] = value
        self.adam.load_state_dict({**self.adam.state_dict(), "state": by_index})
