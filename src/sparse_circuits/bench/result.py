"""What a benchmark says: ours, theirs, the ratio, the unit, and a line on how it was measured."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One line of the table."""

    name: str
    ours: float
    theirs: float
    unit: str
    """Of both sides."""
    theirs_is: str
    """What the other side does."""
    spread: float = 0.0
    """Largest distance of a repetition of ours from its median, as a share of it."""

    @property
    def ratio(self) -> float:
        """ours / theirs."""
        return self.ours / self.theirs

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "ratio": self.ratio}


def interleaved(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of both sides, taken in turns so that a change of the machine's mood meets both."""
    one, other = [], []
    for _ in range(repeats):
        one.append(seconds(ours))
        other.append(seconds(theirs))
    return one, other


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    begun = perf_counter()
    call()
    return perf_counter() - begun


def spread(times: Sequence[float]) -> float:
    """Largest distance from the median, as a share of it."""
    middle = median(times)
    return max(abs(time - middle) for time in times) / middle
