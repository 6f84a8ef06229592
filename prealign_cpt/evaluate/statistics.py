"""Figures over windows, seeds and curves; nothing here reads a file.

Shapes: W windows, S seeds.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Curve = list[tuple[float, float]]
"""(bytes read, bits per byte), bytes rising."""


@dataclass(frozen=True)
class Difference:
    """A difference in bits per byte and its 95 % interval; no interval where there is but one window."""

    mean: float
    low: float | None
    high: float | None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        bounds = "no interval" if self.low is None or self.high is None else f"{self.low:+z.3f}, {self.high:+z.3f}"
        return f"{self.mean:+z.3f} [{bounds}]"


def paired_difference(
    nats_SW: NDArray[np.float64],
    other_SW: NDArray[np.float64],
    bytes_W: NDArray[np.float64],
) -> Difference:
    """Bits per byte of one arm less those of another on the same windows, with a paired t interval.

    The difference is a ratio of sums over windows; its variance is that of the linearised residuals (Cochran 1977,
    section 6.4), with W - 1 degrees of freedom. Each window's nats are first averaged over the training seeds. So the
    interval says how much the difference hangs on the choice of text. How much it hangs on the training seed, the
    spread over seeds says. (A percentile bootstrap over ten windows covers 90 % where it says 95.)

    Args:
        nats_SW, other_SW: nats of each window by seed, float64 [S, W].
        bytes_W: bytes of each window.
    """
    gap_W = (nats_SW.mean(axis=0) - other_SW.mean(axis=0)) / math.log(2)
    count, total = len(gap_W), bytes_W.sum()
    mean = float(gap_W.sum() / total)
    if count < 2:
        return Difference(mean, None, None)
    residual_W = gap_W - mean * bytes_W
    error = math.sqrt(count / (count - 1) * float(residual_W @ residual_W)) / total
    half = float(stdtrit(count - 1, 0.975)) * error
    return Difference(mean, mean - half, mean + half)


def mean_and_deviation(values: list[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for a deviation of less than two values."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def bytes_to_reach(curve: Curve, level: float) -> float | None:
    """Where a curve first is at or below a level, in a straight line between points; None if it never is."""
    for i, (place, value) in enumerate(curve):
        if value <= level:
            if i == 0:
                return place
            before, above = curve[i - 1]
            return before + (place - before) * (above - level) / (above - value)
    return None


def mean_over(curve: Curve, low: float, high: float) -> float:
    """Area under a curve from `low` to `high` bytes, divided by their distance; straight lines between points."""
    if high <= low:
        return at(curve, high)
    inner = [point for point in curve if low < point[0] < high]
    points = [(low, at(curve, low)), *inner, (high, at(curve, high))]
    x, y = np.array(points).T
    return float(np.trapezoid(y, x) / (high - low))


def at(curve: Curve, place: float) -> float:
    """A curve's value at a place, in a straight line between points; beyond its ends, the value at the end."""
    x, y = np.array(curve).T
    return float(np.interp(place, x, y))
