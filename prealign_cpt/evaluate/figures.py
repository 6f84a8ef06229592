"""What a measure gives: figures with 95 % intervals, or the reason why there is none; and their files.

    Figure(value, low, high, n, items)  <-->  OUT/MEASURE.json  {"value": ..., "low": ..., "items": ...}
    Absent(reason)                      <-->                    {"absent": ...}

A figure made from items keeps them, so that two models can be compared item by item (statistics.py).
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prealign_cpt.run.errors import DataError, NumericError
from prealign_cpt.run.manifest import atomic_write

Array = NDArray[np.float64]

FORMAT = 1
"""Version of the result files; another one is done again."""


@dataclass(frozen=True)
class Items:
    """The scores that a figure is the weighted mean of, [N] each, in the order of the data."""

    values: Array
    weights: Array
    groups: NDArray[np.int64] | None = None
    """Items of one group, windows of one document say, are not independent: intervals are over groups."""


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
    p: float | None = None
    """Of a difference between shares: the exact test's, by which `clear` goes; otherwise the interval says it."""
    items: Items | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("value", "low", "high", "p"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise NumericError(f"a figure's {name} is {number}: the model's outputs or the data are not finite")

    @property
    def clear(self) -> bool:
        """Whether a difference is told from 0 at 95 %."""
        if self.p is not None:
            return self.p < 0.05
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Absent:
    """Why a figure is not there."""

    reason: str


Result = dict[str, Figure | Absent]
"""What a measure returns, by the figures' names."""


@dataclass(frozen=True)
class Outcome:
    """What became of one measure."""

    status: Literal["done", "absent", "failed"]
    """"absent": there was nothing to measure with. "failed": there was, and it did not work."""
    result: Result
    seconds: float
    kept: bool
    """Whether it was there from before."""


def to_json(result: Result, with_items: bool = False) -> dict[str, dict[str, Any]]:
    """A result as JSON; what is not known is left out."""
    content: dict[str, dict[str, Any]] = {}
    for name, figure in result.items():
        if isinstance(figure, Absent):
            content[name] = {"absent": figure.reason}
            continue
        content[name] = {key: value for key in _KINDS if (value := getattr(figure, key)) is not None and value != ""}
        if with_items and figure.items is not None:
            parts = {key: getattr(figure.items, key) for key in ("values", "weights", "groups")}
            content[name]["items"] = {key: part.tolist() for key, part in parts.items() if part is not None}
    return content


def from_json(content: Any, where: str) -> Result:
    """The inverse of `to_json`.

    Raises:
        DataError: `content` is not what `to_json` writes; `where` and the figure are named.
    """
    if not isinstance(content, dict):
        raise DataError(f"{where}: no figures in it; remove it and evaluate again")
    return {name: _figure(entry, f"{where}: {name}") for name, entry in content.items()}


def read_outcome(out: Path, name: str, made_from: dict[str, Any] | None = None) -> Outcome | None:
    """A measure's outcome with its items; None if it is not there, damaged, or was made from something else."""
    try:
        content = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        if content["format"] != FORMAT or (made_from is not None and content["made_from"] != made_from):
            return None
        status, seconds = content["status"], float(content["seconds"])
        if status not in ("done", "absent", "failed"):
            return None
        return Outcome(status, from_json(content["figures"], str(out / f"{name}.json")), seconds, kept=True)
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None


def write_outcome(out: Path, name: str, outcome: Outcome, made_from: dict[str, Any]) -> None:
    """The whole file or nothing."""
    content = {
        "format": FORMAT,
        "measure": name,
        "status": outcome.status,
        "figures": to_json(outcome.result, with_items=True),
        "made_from": made_from,
        "seconds": outcome.seconds,
    }
    atomic_write(out / f"{name}.json", json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")


_KINDS: dict[str, Any] = {
    "value": (int, float), "low": (int, float), "high": (int, float), "p": (int, float), "n": int, "note": str,
}  # fmt: skip


def _figure(entry: Any, where: str) -> Figure | Absent:
    if isinstance(entry, dict) and set(entry) == {"absent"} and isinstance(entry["absent"], str):
        return Absent(entry["absent"])
    try:
        items = entry.get("items")
        plain = {key: value for key, value in entry.items() if key != "items"}
        if any(isinstance(value, bool) or not isinstance(value, _KINDS[key]) for key, value in plain.items()):
            raise TypeError("a value of another type")
        groups = np.array(items["groups"]) if items and "groups" in items else None
        arrays = Items(np.array(items["values"]), np.array(items["weights"]), groups) if items else None
        return Figure(**plain, items=arrays)
    except (AttributeError, KeyError, TypeError, NumericError) as error:
        raise DataError(f"{where}: not a figure; remove the file and evaluate again") from error
