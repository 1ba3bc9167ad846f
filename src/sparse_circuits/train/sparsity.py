"""Weight sparsity: how many entries each tensor keeps at step t, and the exact projection onto that many.

After every optimizer step each sparsified tensor keeps its k = max(1, int(f(t) * n)) entries of largest |w|; the others
become zero, in place (METHOD 1b). Masks are not kept between steps: a zeroed weight may return.
1. The anneal gives the fraction f(t), from 1 down to the target between `anneal_start` and `anneal_end` of training.
2. Min-alive protects the top j entries per neuron on the neuron's own axis (rows of c_attn and c_fc, columns of both
   c_proj) and, where asked, per row of the embedding and unembedding; the total stays exactly k (METHOD D2).
3. Ties go to the lower flat index (METHOD D8). Norm gains, sink logits and the bigram table are exempt.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sparse_circuits.config import Config
from sparse_circuits.kernels import abs_topk_cpu, select_bisect, select_cpu
from sparse_circuits.kernels.compiled import side_by_side
from sparse_circuits.model.abs_topk import abs_topk_mask

LATE_EMBED_START = 16 / 21
"""Share of the anneal during which `embed_schedule="late"` leaves E and W_U dense (METHOD 1b, the L0 schedule bug)."""


class SparsityConfig(Config):
    """Target fractions of nonzero weights and the way there."""

    fraction: float
    """f, fraction of entries every weight matrix keeps at the end; 1 = dense."""
    embed_fraction: float | None = None
    """f_e, the same for embedding and unembedding; None = f (METHOD D2)."""
    biases: bool = True
    """Whether biases are sparsified too, to f."""
    min_alive: int = 4
    """j, protected entries per neuron; 0 = off (METHOD 1b)."""
    min_alive_embed: int = 0
    """Protected entries per row of embedding and unembedding; 0 = off (METHOD D2, `tiny`)."""
    anneal: Literal["linear", "exp", "power_law"] = "linear"
    """f(t): 1 - (1 - f) s, f^s, or a straight line in log f against log t (METHOD 1b)."""
    anneal_start: float = 0.01
    """Share of training at which the anneal starts."""
    anneal_end: float = 0.5
    """Share of training at which the target is reached."""
    embed_schedule: Literal["same", "late"] = "same"
    """`late` leaves E and W_U dense until 76% of the anneal, as the paper did (METHOD 1b)."""

    def model_post_init(self, context: object) -> None:  # noqa: ARG002 (pydantic's signature)
        for name in ("fraction", "embed_fraction"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} must lie in (0, 1], given {value}")
        if not 0 < self.anneal_start < self.anneal_end <= 1:
            given = f"{self.anneal_start}..{self.anneal_end}"
            raise ValueError(f"the anneal must run between two shares of training in (0, 1], given {given}")
        if self.min_alive < 0 or self.min_alive_embed < 0:
            raise ValueError("min_alive and min_alive_embed must be 0 (off) or more")

    @property
    def dense(self) -> bool:
        """Whether nothing is sparsified."""
        return self.fraction == 1 and self.embed_fraction in (None, 1)

    def progress(self, share: float) -> float:
        """s in 0..1: how much of the anneal lies behind us after this share of training."""
        return min(max((share - self.anneal_start) / (self.anneal_end - self.anneal_start), 0.0), 1.0)

    def fraction_at(self, share: float) -> float:
        """f(t) of the weight matrices after this share of training."""
        return self._annealed(self.fraction, self.progress(share), share)

    def embed_fraction_at(self, share: float) -> float:
        """f_e(t) of embedding and unembedding."""
        target = self.fraction if self.embed_fraction is None else self.embed_fraction
        if self.embed_schedule == "late":
            late = (self.progress(share) - LATE_EMBED_START) / (1 - LATE_EMBED_START)
            return _between(target, min(max(late, 0.0), 1.0))
        return self._annealed(target, self.progress(share), share)

    def _annealed(self, target: float, s: float, share: float) -> float:
        if self.anneal == "linear":
            return _between(target, s)
        if self.anneal == "power_law":
            run = math.log(self.anneal_end / self.anneal_start)
            s = min(max(math.log(max(share, self.anneal_start) / self.anneal_start) / run, 0.0), 1.0)
        return target**s


def _between(target: float, s: float) -> float:
    """From 1 to the target in a straight line; at its end exactly the target, so that k is int(f * n), not one less."""
    return target if s == 1 else 1 - (1 - target) * s


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How one tensor is projected."""

    name: str
    is_embed: bool
    protect: int
    """Entries protected per line of `axis`; 0 = none."""
    axis: Literal["row", "column"]


def rules(model: nn.Module, config: SparsityConfig) -> tuple[Rule, ...]:
    """One rule per sparsified tensor. Raises ValueError where min-alive needs more entries than the target keeps."""
    found = []
    for name, tensor in model.named_parameters():
        is_embed = name in ("embed.weight", "unembed.weight")
        is_bias = tensor.dim() == 1
        if not sparsifiable(name, tensor) or not tensor.requires_grad or (is_bias and not config.biases):
            continue
        unprotected = is_bias or name == "positions.weight"
        protect = 0 if unprotected else config.min_alive_embed if is_embed else config.min_alive
        rule = Rule(name=name, is_embed=is_embed, protect=protect, axis="column" if "c_proj" in name else "row")
        _check_fits(rule, tensor, config)
        found.append(rule)
    return tuple(found)


def sparsifiable(name: str, tensor: Tensor) -> bool:
    """Whether sparsity concerns a parameter: matrices and biases, not norms, sink logits and the bigram table."""
    is_bias = name.endswith(".bias") and "norm" not in name
    return name != "bigram.weight" and (tensor.dim() == 2 or is_bias)


def _check_fits(rule: Rule, tensor: Tensor, config: SparsityConfig) -> None:
    if not rule.protect:
        return
    lines = tensor.shape[0] if rule.axis == "row" else tensor.shape[1]
    kept = entries(config.embed_fraction_at(1.0) if rule.is_embed else config.fraction_at(1.0), tensor.numel())
    if rule.protect * lines > kept:
        knob = "min_alive_embed" if rule.is_embed else "min_alive"
        raise ValueError(
            f"{knob}={rule.protect} protects {rule.protect * lines} entries of {rule.name}, but its target keeps {kept}; "
            f"the largest {knob} that fits is {kept // lines}"
        )


def entries(fraction: float, size: int) -> int:
    """k of a tensor of that size."""
    return max(1, int(fraction * size))


@torch.no_grad()
def project(model: nn.Module, config: SparsityConfig, todo: Iterable[Rule], share: float) -> None:
    """Zeroes all but the k largest entries of every tensor of `todo`, in place, for this share of training."""
    f, f_embed = config.fraction_at(share), config.embed_fraction_at(share)
    parameters = dict(model.named_parameters())
    jobs: list[tuple[int, Callable[[], None]]] = []
    for rule in todo:
        w = parameters[rule.name].detach()
        k = entries(f_embed if rule.is_embed else f, w.numel())
        if k == w.numel():
            continue
        if _fast(w) and w.is_contiguous():
            jobs.append((w.numel(), partial(_keep_in_place, w, k, rule)))
        else:
            w.masked_fill_(~keep_mask(w, k, rule), 0.0)  # a product would leave -0.0
    jobs.sort(key=lambda job: -job[0])  # the largest first, so that none is left for last
    side_by_side([job for _, job in jobs])


def _keep_in_place(w: Tensor, k: int, rule: Rule) -> None:
    """All but k entries become zero, by the CPU kernel."""
    select_cpu.keep_top_k_(w.view(-1), _protected(w, rule), k)


def keep_mask(w: Tensor, k: int, rule: Rule) -> Bool[Tensor, "..."]:
    """Which k entries of w stay."""
    flat = w.detach().reshape(-1)
    return _selection(flat)(flat, _protected(w.detach(), rule), k).view(w.shape)


def _protected(w: Tensor, rule: Rule) -> Bool[Tensor, " n"] | None:
    """The best entries of every neuron, flat; None where the rule protects none."""
    if not rule.protect:
        return None
    lines = (w if rule.axis == "row" else w.T).contiguous()
    most = min(rule.protect, lines.shape[1])
    alive = abs_topk_cpu.abs_topk_forward(lines, most)[1] if _fast(w) else abs_topk_mask(lines, most)
    return (alive if rule.axis == "row" else alive.T).reshape(-1)


def _fast(w: Tensor) -> bool:
    return w.device.type == "cpu" and w.dtype == torch.float32


def _selection(w: Tensor) -> Callable[[Tensor, Tensor | None, int], Tensor]:
    """The fastest way to select from tensors like w; all select the same entries."""
    if _fast(w):
        return select_cpu.top_k_mask
    return select_bisect.top_k_mask if w.dtype == torch.float32 else reference_top_k


def reference_top_k(w: Tensor, protected: Tensor | None, k: int) -> Bool[Tensor, " n"]:
    """Exactly k entries: the protected ones, then the largest |w|, ties to the lower index. Plain torch, any device."""
    size = w.abs() if protected is None else w.abs().masked_fill(protected, math.inf)
    order = torch.argsort(size, descending=True, stable=True)
    if protected is not None:  # a true infinity must not displace a protected entry
        order = order[torch.argsort(protected[order].int(), descending=True, stable=True)]
    kept = torch.zeros(w.shape, dtype=torch.bool, device=w.device)
    kept[order[:k]] = True
    return kept


def nonzeros(model: nn.Module) -> tuple[int, int]:
    """(nonzero, all) entries of the tensors that sparsity concerns: weight matrices and biases without the bigram table."""
    concerned = [w for name, w in model.named_parameters() if sparsifiable(name, w)]
    return sum(int(w.count_nonzero()) for w in concerned), sum(w.numel() for w in concerned)
