"""JSON and TOML files of a run, read so that every figure is a finite number or the reason why there is none."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.run.errors import DataError

Figure = float | Absent


@dataclass(frozen=True)
class Document:
    """A JSON or TOML file of a run, or the reason why there is none. Numbers in it are finite."""

    name: str
    content: dict[str, Any] | Absent

    def at(self, *keys: str) -> Any:
        """The value under nested keys, or `Absent`. A reason that the file gives itself (`KEY_absent`) is kept."""
        value: Any = self.content
        for depth, key in enumerate(keys):
            if isinstance(value, Absent):
                return value
            path = ".".join(keys[: depth + 1])
            if not isinstance(value, dict):
                return Absent(f"{self.name}: {'.'.join(keys[:depth])} has no keys")
            reason = value.get(f"{key}_absent")
            value = value.get(key)
            if value is None:
                return Absent(reason if isinstance(reason, str) else f"{self.name} has no {path}")
        return value

    def number(self, *keys: str) -> Figure:
        """The number under nested keys."""
        value = self.at(*keys)
        if isinstance(value, Absent) or is_number(value):
            return value  # type: ignore[no-any-return]
        return Absent(f"{self.name}: {'.'.join(keys)} is not a number")


def read_document(run: Path, stage: str, file: str, whose: str = "") -> Document:
    """A stage's JSON object.

    Raises:
        DataError: the file is there but damaged.
    """
    name = f"{whose}{stage}/{file}"
    path = run / stage / file
    if not path.is_file():
        if (run / stage).is_dir():
            return Document(name, Absent(f"{name} is not there"))
        return Document(name, Absent(f"{whose}stage {stage} has not been done"))
    try:
        content = loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); do the stage {stage} again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object; do the stage {stage} again")
    return Document(name, content)


def loads(text: str) -> Any:
    """JSON with what is not finite read as null, so that no such number can reach a page."""
    return json.loads(text, parse_constant=lambda _: None, parse_float=_finite)


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number that fits a float: true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def flat(content: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested dictionaries with dotted keys, in their order."""
    leaves: list[tuple[str, Any]] = []
    for key, value in content.items():
        leaves += flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return leaves
