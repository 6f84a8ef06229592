"""Figures with 95 % intervals, and differences of two models on the same items; nothing here reads a file.

    mean_of, share      items of one model  -> Figure      t interval of a ratio of sums; Wilson's of a share
    difference          two such figures    -> Figure      paired t interval; of shares Newcombe's, McNemar's p
    paired_difference   windows of training runs, one or several seeds each -> Difference
    bytes_to_reach                          learning curves

All intervals speak of other items (texts, words, rows) of the same kind. Only `paired_difference` also speaks of other
training seeds, where it is given several.
Shapes: N items, W windows, S seeds.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from prealign_cpt.evaluate.figures import Absent, Array, Figure, Items, Result
from prealign_cpt.run.errors import NumericError

LEVEL = 0.95
"""Of every interval."""

Curve = list[tuple[float, float]]
"""(bytes read, bits per byte), bytes rising."""


def mean_of(
    values_N: np.ndarray, weights_N: np.ndarray | None = None, note: str = "", groups_N: np.ndarray | None = None
) -> Figure:
    """The weighted mean of items and its t interval; no interval of one item or group.

    A ratio of sums is such a mean too: sum(a) / sum(b) is the mean of a / b with the weights b.

    Args:
        values_N: items should be independent: documents or windows, not tokens.
        weights_N: not negative, with a sum above 0; None: equal.
        groups_N: numbers of the groups within which items are not independent: the interval is over groups then.

    Raises:
        NumericError: an item is not finite.
    """
    items = as_items(values_N, weights_N, groups_N)
    value = float((items.values * items.weights).sum() / items.weights.sum())
    half = _half(_residuals(items, value), items.groups)
    low, high = (None, None) if half is None else (value - half, value + half)
    return Figure(value, low, high, len(items.values), note, items=items)


def share(hits_N: np.ndarray, note: str = "") -> Figure:
    """A share of hits with Wilson's interval (Wilson 1927), which stays honest where all items hit or none does.

    Args:
        hits_N: bool or 0/1, N > 0.
    """
    items = as_items(hits_N)
    hits, count = int(items.values.sum()), len(items.values)
    low, high = _wilson(hits, count)
    return Figure(hits / count, low, high, count, note, items=items)


def difference(figure: Figure, other: Figure) -> Figure | Absent:
    """`figure` less `other` on the same items.

    Shares: Newcombe's interval for paired shares, and the p of McNemar's exact test, which decides `Figure.clear`: two
    items that differ prove nothing, whichever way. Other means: t interval of the items' differences.
    """
    if figure.items is None or other.items is None:
        return Absent("not made from items, so nothing can be paired")
    mine, theirs = figure.items, other.items
    count = len(mine.values)
    if count != len(theirs.values):
        return Absent(f"{count} items here, {len(theirs.values)} there: not the same ones")
    if all(np.isin(items.values, (0, 1)).all() and (items.weights == 1).all() for items in (mine, theirs)):
        return _difference_of_shares(mine.values == 1, theirs.values == 1)
    value = figure.value - other.value
    # Each side's own residuals, since the weights may differ: tokens of two tokenizers, say.
    half = _half(_residuals(mine, figure.value) - _residuals(theirs, other.value), mine.groups)
    low, high = (None, None) if half is None else (value - half, value + half)
    return Figure(value, low, high, count)


def with_changes(result: Result) -> Result:
    """A result and, as `change/NAME`, each of its figures less `base/NAME`."""
    changes: Result = {}
    for name, figure in result.items():
        before = result.get(f"base/{name}")
        if isinstance(figure, Figure) and isinstance(before, Figure):
            changes[f"change/{name}"] = difference(figure, before)
    return result | changes


def as_items(values_N: np.ndarray, weights_N: np.ndarray | None = None, groups_N: np.ndarray | None = None) -> Items:
    """Items as float64.

    Raises:
        NumericError: one is not finite.
    """
    values = np.asarray(values_N, dtype=np.float64)
    weights = np.ones_like(values) if weights_N is None else np.asarray(weights_N, dtype=np.float64)
    assert values.ndim == 1 and values.shape == weights.shape and len(values) and weights.min() >= 0 < weights.sum()
    if not (np.isfinite(values).all() and np.isfinite(weights).all()):
        raise NumericError("an item's score is not finite: the model's outputs or the data are not")
    return Items(values, weights, groups_N)


@dataclass(frozen=True)
class Difference:
    """A difference in bits per byte and its 95 % interval; no interval where there is but one window and one seed."""

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
    """Bits per byte of one variant less those of another on the same windows and seeds, with a paired t interval.

    Over windows the difference is a ratio of sums (linearised: Cochran 1977, section 6.4), its nats averaged over the
    seeds; over two seeds or more it is the mean of the seeds' differences. Half the interval is the root of the sum of
    squares of the two half t intervals (MOVER, Zou & Donner 2008), so it holds for other text and other training seeds
    together; Satterthwaite's degrees of freedom hold the truth in 0.89 of the draws with two seeds. With one seed it
    speaks of other text alone.

    Args:
        nats_SW, other_SW: nats of each window by seed, float64 [S, W]; the same seeds in both.
        bytes_W: bytes of each window.
    """
    gap_SW = (nats_SW - other_SW) / math.log(2)
    seeds, windows = gap_SW.shape
    total = float(bytes_W.sum())
    by_seed_S = gap_SW.sum(axis=1) / total
    mean = float(by_seed_S.mean())
    halves: list[float | None] = []
    if windows > 1:
        halves.append(_half((gap_SW.mean(axis=0) - mean * bytes_W) / total))
    if seeds > 1:
        halves.append(_half((by_seed_S - mean) / seeds))
    if not halves:
        return Difference(mean, None, None)
    half = math.hypot(*(part or 0.0 for part in halves))
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


def _half(residual_N: Array, groups_N: np.ndarray | None = None) -> float | None:
    """Half the t interval of a sum whose linearised residuals these are; None for one item or group."""
    if groups_N is not None:
        residual_N = np.bincount(np.unique(groups_N, return_inverse=True)[1], residual_N).astype(np.float64)
    count = len(residual_N)
    if count < 2:
        return None
    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * math.sqrt(
        count / (count - 1) * float(residual_N @ residual_N)
    )


def _residuals(items: Items, mean: float) -> Array:
    return (items.values - mean) * items.weights / items.weights.sum()


def _wilson(hits: int, count: int) -> tuple[float, float]:
    low, high = stats.binomtest(hits, count).proportion_ci(LEVEL, method="wilson")
    # Rounding may leave a bound a hair on the wrong side of the share.
    return min(float(low), hits / count), max(float(high), hits / count)


def _difference_of_shares(mine_N: np.ndarray, theirs_N: np.ndarray) -> Figure:
    """Interval: Newcombe 1998 (Statistics in Medicine 17, 2635), method 10. p: McNemar's exact test."""
    count = len(mine_N)
    both, neither = int((mine_N & theirs_N).sum()), int((~mine_N & ~theirs_N).sum())
    only_mine, only_theirs = int((mine_N & ~theirs_N).sum()), int((~mine_N & theirs_N).sum())
    differing = only_mine + only_theirs
    p = float(stats.binomtest(only_mine, differing).pvalue) if differing else 1.0
    hits, other = both + only_mine, both + only_theirs
    (low, high), (other_low, other_high) = _wilson(hits, count), _wilson(other, count)
    product = float(both * neither - only_mine * only_theirs)
    if product > 0:
        product = max(product - count / 2, 0)
    margins = hits * (count - hits) * other * (count - other)
    phi = product / math.sqrt(margins) if margins else 0.0

    def distance(one: float, two: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * phi * one * two + two * two))

    value = (only_mine - only_theirs) / count
    return Figure(
        value,
        value - distance(hits / count - low, other_high - other / count),
        value + distance(high - hits / count, other / count - other_low),
        count,
        p=p,
    )
