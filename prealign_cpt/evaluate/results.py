"""What became of a measure, and its files: OUT/MEASURE.json, and OUT/MEASURE.npz with the items behind its figures.

    Outcome --write_outcome--> files --read_outcome--> Outcome, or None

None: the files are not there, are damaged, or were made from something else.
"""

import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prealign_cpt.evaluate.figures import Figure, Items, Result, from_json, to_json
from prealign_cpt.run.errors import DataError
from prealign_cpt.run.manifest import atomic_write, storage_error

FORMAT = 1
"""Version of the result files; another one is done again."""


@dataclass(frozen=True)
class Outcome:
    """What became of one measure."""

    status: Literal["done", "absent", "failed"]
    """"absent": there was nothing to measure with. "failed": there was, and it did not work."""
    result: Result
    seconds: float
    kept: bool
    """Whether it was there from before."""


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
    for figure, one in outcome.result.items():
        if isinstance(one, Figure) and one.items is not None:
            arrays |= {f"{figure}|values": one.items.values, f"{figure}|weights": one.items.weights}
    hashed = ""
    if arrays:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        data = buffer.getvalue()
        hashed = hashlib.sha256(data).hexdigest()
        _write_bytes(out / f"{name}.npz", data)
    content = {
        "format": FORMAT,
        "measure": name,
        "status": outcome.status,
        "figures": to_json(outcome.result),
        "items_sha256": hashed,
        "made_from": made_from,
        "seconds": outcome.seconds,
    }
    atomic_write(out / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


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
        names = {key.removesuffix("|values") for key in arrays.files if key.endswith("|values")}
        return {
            name: Figure(one.value, one.low, one.high, one.n, one.note, _items(arrays, name))
            if name in names and isinstance(one, Figure)
            else one
            for name, one in result.items()
        }


def _items(arrays: Any, name: str) -> Items:
    return Items(arrays[f"{name}|values"], arrays[f"{name}|weights"])
