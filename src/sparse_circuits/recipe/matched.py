"""`dense-matched` (METHOD D12): a smaller dense model whose validation loss is that of a sparse one, within 0.02 nats.

Every trial is a whole training run of its own schedule, never an early stop; only its width differs. Loss falls with width,
nearly along a straight line in log(width):
1. Start from a guess; the second trial is half or twice as wide, towards the target.
2. Each further width comes from the line through the two trials nearest to the target, kept inside what is known to be too
   narrow and too wide.
3. Stop when a trial is within the tolerance, when no width is left between, or after `most` trials; the nearest wins.

Trials are kept: a search that was interrupted goes on where it stopped.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sparse_circuits.train.config import TrainConfig
from sparse_circuits.train.presets import dense_twin

TOLERANCE = 0.02
"""Nats by which the validation losses of a sparse model and its dense-matched twin may differ (METHOD D12)."""
STEP = 2
"""Widths are multiples of this."""


@dataclass(frozen=True, kw_only=True)
class Matched:
    """What a search found."""

    width: int
    """d_model of the trial nearest to the target."""
    val_loss: float
    target: float
    """Validation loss of the sparse model, nats."""
    trials: Mapping[int, float]
    """width -> validation loss, nats."""

    @property
    def met(self) -> bool:
        """Whether the nearest is within the tolerance."""
        return abs(self.val_loss - self.target) <= TOLERANCE


def matched_config(sparse: TrainConfig, width: int, steps: int) -> TrainConfig:
    """The dense twin at another width and length: heads of the same width, an MLP in the same proportion."""
    twin = dense_twin(sparse)
    model = twin.model
    ratio = model.mlp_width / model.d_model
    smaller = model.replace(d_model=width, n_head=max(1, round(width / model.d_head)), d_mlp=round(ratio * width))
    return twin.replace(name=f"{sparse.name}-dense-matched", model=smaller, steps=steps)


def search_width(val_loss: Callable[[int], float], target: float, *, first: int, widest: int, most: int = 6) -> Matched:
    """Trains at widths of its choice until one has the target loss. `val_loss(width)` trains and returns nats.

    first: width to start from. widest: largest to try. most: trials. Raises ValueError for limits that allow no width.
    """
    if not STEP <= first <= widest or most < 1:
        raise ValueError(
            f"first width {first}, widest {widest}, {most} trials; widths start at {STEP}, one trial at least"
        )
    trials: dict[int, float] = {}
    width: int | None = first
    while width is not None and len(trials) < most:
        trials[width] = val_loss(width)
        width = None if abs(trials[width] - target) <= TOLERANCE else _next(trials, target, widest)
    best = min(trials, key=lambda width: (abs(trials[width] - target), width))
    return Matched(width=best, val_loss=trials[best], target=target, trials=dict(sorted(trials.items())))


def _next(trials: Mapping[int, float], target: float, widest: int) -> int | None:
    """The next width; None where nothing is left to try."""
    below = max((width for width, loss in trials.items() if loss > target), default=0)  # too narrow
    above = min((width for width, loss in trials.items() if loss <= target), default=widest + STEP)  # too wide
    if len(trials) == 1:
        only = next(iter(trials))
        guess = only * 2.0 if only == below else only / 2.0
    else:
        (one, loss), (two, other) = sorted(trials.items(), key=lambda item: abs(item[1] - target))[:2]
        slope = (other - loss) / (math.log(two) - math.log(one)) or -1.0
        guess = math.exp(math.log(one) + max(-1.0, min(1.0, (target - loss) / slope)))
    width = STEP * round(guess / STEP)
    width = min(max(width, below + STEP), above - STEP)
    return width if STEP <= width <= widest and width not in trials and below < width < above else None
