"""Figures over windows, seeds and curves; nothing here reads a file.

Shapes: W windows, S seeds.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
"""Of the bootstrap; evaluation.md asks for at least 1000."""

Curve = list[tuple[float, float]]
"""(bytes read, bits per byte), bytes rising."""


@dataclass(frozen=True)
class Difference:
    """A difference in bits per byte and its 95 % interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    nats_SW: NDArray[np.float64],  # noqa: N803
    other_SW: NDArray[np.float64],  # noqa: N803
    bytes_W: NDArray[np.float64],  # noqa: N803
    seed: int = 0,
) -> Difference:
    """Bits per byte of one arm less those of another on the same windows (Koehn 2004).

    The windows are drawn again with replacement, both arms on the same draw; each window's nats are first averaged over
    the training seeds. So the interval says how much the difference hangs on the choice of text. How much it hangs on
    the training seed, the spread over seeds says.

    Args:
        nats_SW, other_SW: nats of each window by seed, float64 [S, W].
        bytes_W: bytes of each window.
    """
    gap_W = (nats_SW.mean(axis=0) - other_SW.mean(axis=0)) / math.log(2)  # noqa: N806
    drawn = np.random.default_rng(seed).integers(len(gap_W), size=(RESAMPLES, len(gap_W)))
    found = gap_W[drawn].sum(axis=1) / bytes_W[drawn].sum(axis=1)
    low, high = np.quantile(found, [0.025, 0.975])
    return Difference(float(gap_W.sum() / bytes_W.sum()), float(low), float(high))


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
