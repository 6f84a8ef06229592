"""What a measure gives: figures with 95 % intervals, or the reason why there is none; and their JSON.

    per-item scores [N] --bootstrap, share--> Figure(value, low, high, n)  <-->  {"value": ..., "low": ..., ...}
                                              Absent(reason)               <-->  {"absent": ...}

A figure made from items keeps them, so that two models can be compared item by item (compare.py).
Shapes: N items, R rounds of the bootstrap.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prealign_cpt.run.errors import DataError, NumericError

Array = NDArray[np.float64]

ROUNDS = 1000
"""Of the bootstrap, where nothing else is said."""

Z = 1.959964
"""Of a standard normal variable 95 % lie within so many deviations."""


@dataclass(frozen=True)
class Items:
    """The scores that a figure is the weighted mean of, in the order of the data."""

    values: Array
    weights: Array


@dataclass(frozen=True)
class Figure:
    """A number, its 95 % interval and the number of items behind it. Only finite numbers exist.

    Raises:
        NumericError: a number is not finite.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    note: str = ""
    items: Items | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise NumericError(f"a figure's {name} is {number}: the model's outputs or the data are not finite")


@dataclass(frozen=True)
class Absent:
    """Why a figure is not there."""

    reason: str


Result = dict[str, Figure | Absent]
"""What a measure returns, by the figures' names."""


def bootstrap(
    per_item: np.ndarray, weights: np.ndarray | None = None, seed: int = 0, rounds: int = ROUNDS, note: str = ""
) -> Figure:
    """The weighted mean of items and its percentile interval over resampled items (Efron 1979).

    A ratio of sums is such a mean too: sum(a) / sum(b) is the mean of a / b with the weights b.

    Args:
        per_item: scores, [N], N > 0. Items should be independent: documents or windows, not tokens.
        weights: not negative, [N], with a sum above 0; None: equal.
    """
    items = as_items(per_item, weights)
    drawn = resampled_means(items, draws(len(items.values), seed, rounds))
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(items.values) > 1 else (None, None)
    return Figure(mean(items), _number(low), _number(high), len(items.values), note, items)


def share(hits: np.ndarray, note: str = "") -> Figure:
    """A share of hits with Wilson's interval (Wilson 1927), which stays honest where all items hit or none does.

    Args:
        hits: bool or 0/1, [N], N > 0.
    """
    items = as_items(hits, None)
    n, p = len(items.values), mean(items)
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return Figure(p, min(p, middle - half), max(p, middle + half), n, note, items)


def difference(figure: Figure, other: Figure, seed: int = 0, rounds: int = ROUNDS) -> Figure | Absent:
    """`figure` less `other` on the same items, both resampled by the same draws (paired bootstrap, Koehn 2004).

    The interval says how much the difference hangs on the choice of items; a training seed is not in it.
    """
    if figure.items is None or other.items is None:
        return Absent("not made from items, so nothing can be paired")
    n = len(figure.items.values)
    if n != len(other.items.values):
        return Absent(f"{n} items here, {len(other.items.values)} there: not the same ones")
    drawn = draws(n, seed, rounds)
    gaps = resampled_means(figure.items, drawn) - resampled_means(other.items, drawn)
    low, high = np.quantile(gaps, [0.025, 0.975]) if n > 1 else (None, None)
    return Figure(mean(figure.items) - mean(other.items), _number(low), _number(high), n)


def as_items(per_item: np.ndarray, weights: np.ndarray | None) -> Items:
    """Items as float64.

    Raises:
        NumericError: one is not finite.
    """
    values = np.asarray(per_item, dtype=np.float64)
    own = np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)
    assert values.ndim == 1 and values.shape == own.shape and len(values) and own.min() >= 0 and own.sum() > 0
    if not (np.isfinite(values).all() and np.isfinite(own).all()):
        raise NumericError("an item's score is not finite: the model's outputs or the data are not")
    return Items(values, own)


def mean(items: Items) -> float:
    """The weighted mean."""
    return float((items.values * items.weights).sum() / items.weights.sum())


def draws(num_items: int, seed: int, rounds: int) -> list[NDArray[np.int64]]:
    """For each round the drawn items, [R] arrays of [N]; the same for equal arguments."""
    random = np.random.default_rng(seed)
    return [random.integers(num_items, size=num_items) for _ in range(rounds)]


def resampled_means(items: Items, drawn: list[NDArray[np.int64]]) -> Array:
    """The weighted mean of each round, [R]; a round in which all weights are 0 counts as the whole."""
    sums = np.array([[(items.values[i] * items.weights[i]).sum(), items.weights[i].sum()] for i in drawn])
    return np.where(sums[:, 1] > 0, sums[:, 0] / np.maximum(sums[:, 1], 1e-300), mean(items))


def to_json(result: Result) -> dict[str, dict[str, Any]]:
    """A result as JSON; what is not known is left out."""
    return {
        name: {"absent": one.reason}
        if isinstance(one, Absent)
        else {
            key: value
            for key in ("value", "low", "high", "n", "note")
            if (value := getattr(one, key)) is not None and value != ""
        }
        for name, one in result.items()
    }


def from_json(content: Any, where: str) -> Result:
    """The inverse of `to_json`, without the items.

    Raises:
        DataError: `content` is not what `to_json` writes; `where` and the figure are named.
    """
    if not isinstance(content, dict):
        raise DataError(f"{where}: no figures in it; remove it and evaluate again")
    return {name: _read(one, f"{where}: {name}") for name, one in content.items()}


def _read(one: Any, where: str) -> Figure | Absent:
    kinds: dict[str, Any] = {"value": (int, float), "low": (int, float), "high": (int, float), "n": int, "note": str}
    if isinstance(one, dict) and set(one) == {"absent"} and isinstance(one["absent"], str):
        return Absent(one["absent"])
    if (
        not isinstance(one, dict)
        or "value" not in one
        or not set(one) <= set(kinds)
        or not all(isinstance(value, kinds[key]) and not isinstance(value, bool) for key, value in one.items())
        or not all(math.isfinite(one[key]) for key in ("value", "low", "high") if key in one)
    ):
        raise DataError(f"{where}: not a figure; remove the file and evaluate again")
    return Figure(**one)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
