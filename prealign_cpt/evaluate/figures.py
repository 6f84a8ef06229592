"""What a measure gives: figures with 95 % intervals, or the reason why there is none; and their files.

    Figure(value, low, high, n)  <-->  OUT/MEASURE.json  {"value": ..., "low": ..., ...}  and OUT/MEASURE.npz, the items
    Absent(reason)               <-->                    {"absent": ...}

A figure made from items keeps them, so that two models can be compared item by item (statistics.py).
"""

import hashlib
import io
import json
import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prealign_cpt.run.errors import DataError, NumericError
from prealign_cpt.run.manifest import atomic_write, storage_error

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


def to_json(result: Result) -> dict[str, dict[str, Any]]:
    """A result as JSON; what is not known is left out."""
    return {
        name: {"absent": figure.reason}
        if isinstance(figure, Absent)
        else {key: value for key in _KINDS if (value := getattr(figure, key)) is not None and value != ""}
        for name, figure in result.items()
    }


def from_json(content: Any, where: str) -> Result:
    """The inverse of `to_json`, without the items.

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
        result = from_json(content["figures"], str(out / f"{name}.json"))
        status, seconds = content["status"], float(content["seconds"])
        if status not in ("done", "absent", "failed"):
            return None
        if content["items_sha256"]:
            data = (out / f"{name}.npz").read_bytes()
            if hashlib.sha256(data).hexdigest() != content["items_sha256"]:
                return None
            result = _with_items(result, data)
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None
    return Outcome(status, result, seconds, kept=True)


def write_outcome(out: Path, name: str, outcome: Outcome, made_from: dict[str, Any]) -> None:
    """Items first, then the file that names their hash: whatever is cut short is found out and done again."""
    arrays: dict[str, Any] = {}
    for figure, entry in outcome.result.items():
        if isinstance(entry, Figure) and entry.items is not None:
            parts = {key: getattr(entry.items, key) for key in ("values", "weights", "groups")}
            arrays |= {f"{figure}|{key}": part for key, part in parts.items() if part is not None}
    data = b""
    if arrays:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        data = buffer.getvalue()
        _write_bytes(out / f"{name}.npz", data)
    content = {
        "format": FORMAT,
        "measure": name,
        "status": outcome.status,
        "figures": to_json(outcome.result),
        "items_sha256": hashlib.sha256(data).hexdigest() if data else "",
        "made_from": made_from,
        "seconds": outcome.seconds,
    }
    atomic_write(out / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


_KINDS: dict[str, Any] = {
    "value": (int, float), "low": (int, float), "high": (int, float), "p": (int, float), "n": int, "note": str,
}  # fmt: skip


def _figure(entry: Any, where: str) -> Figure | Absent:
    if isinstance(entry, dict) and set(entry) == {"absent"} and isinstance(entry["absent"], str):
        return Absent(entry["absent"])
    if (
        not isinstance(entry, dict)
        or "value" not in entry
        or not set(entry) <= set(_KINDS)
        or not all(isinstance(value, _KINDS[key]) and not isinstance(value, bool) for key, value in entry.items())
        or not all(math.isfinite(value) for value in entry.values() if isinstance(value, float))
    ):
        raise DataError(f"{where}: not a figure; remove the file and evaluate again")
    return Figure(**entry)


def _write_bytes(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error(path, error) from error


def _with_items(result: Result, data: bytes) -> Result:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {
            name: replace(
                figure,
                items=Items(
                    arrays[f"{name}|values"],
                    arrays[f"{name}|weights"],
                    arrays[f"{name}|groups"] if f"{name}|groups" in arrays.files else None,
                ),
            )
            if isinstance(figure, Figure) and f"{name}|values" in arrays.files
            else figure
            for name, figure in result.items()
        }
