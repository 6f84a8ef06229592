"""JSON and TOML files of a run, read so that every figure is a finite number or the reason why there is none."""

import json
import math
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.run.errors import DataError

Figure = float | Absent


@dataclass(frozen=True)
class Document:
    """A JSON or TOML file of a run, or a part of one, or the reason why there is none. Numbers in it are finite."""

    name: str
    content: dict[str, Any] | Absent
    text: str = ""
    """Of a recipe, as it stands in the file."""

    @property
    def reason(self) -> str:
        """Why there is none."""
        return self.content.reason if isinstance(self.content, Absent) else ""

    def at(self, *keys: str) -> Any:
        """The value under nested keys, or `Absent`. A reason that the file gives itself (`KEY_absent`) is kept."""
        value: Any = self.content
        for depth, key in enumerate(keys):
            if isinstance(value, Absent):
                return value
            if not isinstance(value, dict):
                return Absent(f"{self.name}: {'.'.join(keys[:depth])} has no keys")
            reason = value.get(f"{key}_absent", f"{self.name} has no {'.'.join(keys[: depth + 1])}")
            value = value.get(key)
            if value is None:
                return Absent(str(reason))
        return value

    def number(self, *keys: str) -> Figure:
        """The number under nested keys."""
        value = self.at(*keys)
        if isinstance(value, Absent) or is_number(value):
            return value  # type: ignore[no-any-return]
        return Absent(f"{self.name}: {'.'.join(keys)} is not a number")

    def words(self, *keys: str) -> str:
        """The text under nested keys; empty if there is none."""
        value = self.at(*keys)
        return value if isinstance(value, str) else ""

    def part(self, *keys: str) -> "Document":
        """The object under nested keys as a document of its own."""
        value, name = self.at(*keys), f"{self.name}: {'.'.join(keys)}" if keys else self.name
        return Document(name, value if isinstance(value, dict | Absent) else Absent(f"{name} has no keys"))

    def leaves(self) -> list[tuple[str, Any]]:
        """The plain values with their dotted keys, in their order; none where there is no document."""
        leaves: list[tuple[str, Any]] = []
        for key, value in ({} if isinstance(self.content, Absent) else self.content).items():
            inner = Document(self.name, value).leaves() if isinstance(value, dict) else None
            leaves += [(key, value)] if inner is None else [(f"{key}.{name}", leaf) for name, leaf in inner]
        return leaves


def read_document(run: Path, stage: str, file: str = "report.json", whose: str = "") -> Document:
    """A stage's JSON object; a file that is there but damaged raises `DataError`."""
    name, path = f"{whose}{stage}/{file}", run / stage / file
    if not path.is_file():
        reason = f"{name} is not there" if (run / stage).is_dir() else f"{whose}stage {stage} has not been done"
        return Document(name, Absent(reason))
    with reading(path):
        return Document(name, dict(loads(path.read_text(encoding="utf-8"))))


def read_recipe(run: Path) -> Document:
    """A run's recipe, with defaults and flags; a file that is there but damaged raises `DataError`."""
    path = run / "recipe.toml"
    if not path.is_file():
        return Document("recipe.toml", Absent("recipe.toml is not there"))
    with reading(path, "start the run again to have it written"):
        text = path.read_text(encoding="utf-8-sig")
        return Document("recipe.toml", tomllib.loads(text), text)


@contextmanager
def reading(path: Path, remedy: str = "") -> Iterator[None]:
    """Whatever goes wrong with a file's content is the file's fault: a `DataError` that names it and the remedy, by
    default to do the stage again whose folder holds it."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        remedy = remedy or f"do the stage {path.parent.name} again"
        raise DataError(f"{path}: damaged ({type(error).__name__}: {error}); {remedy}") from error


def loads(text: str) -> Any:
    """JSON with what is not finite read as null, so that no such number can reach a page."""
    finite = {math.inf: None, -math.inf: None}
    return json.loads(text, parse_constant=lambda _: None, parse_float=lambda x: finite.get(float(x), float(x)))


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number that fits a float: true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300
