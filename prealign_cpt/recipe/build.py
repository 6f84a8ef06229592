"""What a parsed recipe holds, as the dataclasses of schema.py; all that is wrong with it, and what was meant.

    {"train": {"stepz": 10}}  -->  Train(steps=10), faults: train.stepz: unknown key; did you mean steps?

A value that is wrong is read as its default, so that the others are still looked at.
"""

import dataclasses
import difflib
import math
import operator
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from prealign_cpt.recipe.schema import AUTO, Recipe
from prealign_cpt.run.errors import RecipeError


class Faults:
    """What is wrong with a recipe, by key, in the order in which it was found."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    def add(self, key: str, complaint: str) -> None:
        self._found.append((key, complaint))

    def unknown(self, key: str, meant: list[str], otherwise: str) -> None:
        self.add(key, "unknown key; " + (f"did you mean {' or '.join(meant)}?" if meant else otherwise))

    def concern(self, key: str) -> bool:
        """Whether the key, or the section in which it stands, is among them."""
        return any(key == wrong or key.startswith(f"{wrong}.") for wrong, _ in self._found)

    def tell(self, path: Path) -> None:
        """Raises:
        RecipeError: there are any; a single one in a line, several with a line for each.
        """
        lines = list(dict.fromkeys(f"{key}: {complaint}" for key, complaint in self._found))
        if len(lines) == 1:
            raise RecipeError(lines[0])
        if lines:
            raise RecipeError("\n  ".join([f"{path}: {len(lines)} things are wrong:", *lines]))


def key_types(kind: Any = Recipe, prefix: str = "") -> dict[str, Any]:
    """The type of every key, by its dotted path."""
    types: dict[str, Any] = {}
    for f, hint in fields(kind):
        key = prefix + f.name
        types |= key_types(hint, f"{key}.") if dataclasses.is_dataclass(hint) else {key: hint}
    return types


def fields(kind: Any) -> list[tuple["dataclasses.Field[Any]", Any]]:
    """The fields that a recipe may give, and their types."""
    hints = typing.get_type_hints(kind)
    return [(f, hints[f.name]) for f in dataclasses.fields(kind) if f.metadata.get("given", True)]


def closest(key: str, known: list[str]) -> list[str]:
    """What was meant by an unknown key, as far as can be told: that name elsewhere, else what is spelled nearly so."""
    name = key.rpartition(".")[2]
    elsewhere = [other for other in key_types() if other.rpartition(".")[2] == name]
    return elsewhere or difflib.get_close_matches(key, known, n=1)


def build(kind: Any, content: dict[str, Any], prefix: str, faults: Faults) -> Any:
    """The dataclass; what is wrong or missing in `content` has its default or an empty value, and is among `faults`."""
    known = {f.name: (f, hint) for f, hint in fields(kind)}
    given = {key: value for key, value in content.items() if key in known}
    for key in [key for key in content if key not in known]:
        meant = closest(key, list(known))
        faults.unknown(f"{prefix}{key}", meant, f"known keys: {', '.join(known)}")
        if len(meant) == 1 and meant[0] in known:
            given.setdefault(meant[0], content[key])  # so that it is not said to be missing too
    values = {}
    for name, (f, hint) in known.items():
        needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if dataclasses.is_dataclass(hint) and (name in given or needed):
            values[name] = _section(hint, given.get(name, {}), prefix + name, faults)
        elif (table := table_of(hint)) and name in given:
            values[name] = _tables(table, given[name], prefix + name, faults)
        elif name in given:
            try:
                values[name] = _value(hint, given[name], f.metadata)
            except ValueError as error:
                faults.add(prefix + name, str(error))
        elif needed:
            faults.add(prefix + name, "missing; add it to the recipe")
        if needed and name not in values:
            values[name] = _nothing(hint)
    return kind(**values)


def table_of(hint: Any) -> Any:
    """Of a field that holds tables, [[text.source]], their dataclass; None of others."""
    arguments = typing.get_args(hint)
    return arguments[0] if arguments and dataclasses.is_dataclass(arguments[0]) else None


def _tables(kind: Any, content: Any, key: str, faults: Faults) -> tuple[Any, ...]:
    if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
        faults.add(key, f"expected tables [[{key}]], got {content!r}")
        return ()
    return tuple(build(kind, one, f"{key}[{i}].", faults) for i, one in enumerate(content))


def _section(kind: Any, content: Any, key: str, faults: Faults) -> Any:
    if isinstance(content, dict):
        return build(kind, content, f"{key}.", faults)
    faults.add(key, f"expected a section [{key}], got {content!r}")
    return build(kind, {}, f"{key}.", Faults())  # of a section that is none, no key is missing


def _nothing(kind: Any) -> Any:
    """In place of a value that is wrong and has no default."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Literal else (typing.get_origin(kind) or kind)()


def _value(kind: Any, value: Any, bounds: Mapping[str, Any]) -> Any:
    """The value as the recipe holds it.

    Raises:
        ValueError: of another type, or out of bounds.
    """
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(map(repr, choices))}")
        return value
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        choices = typing.get_args(inner)
        if not isinstance(value, list) or not all(type(v) is (str if choices else inner) for v in value):
            strings = f'a list of strings such as ["{choices[0] if choices else "a.txt"}"]'
            raise ValueError(
                f"expected {'a list of numbers such as [0, 4]' if inner is int else strings}, got {value!r}"
            )
        if choices and (strange := [v for v in value if v not in choices]):
            raise ValueError(f"{strange[0]!r} is not one of {', '.join(map(repr, choices))}")
        if inner is int and any(v < 0 for v in value):
            raise ValueError(f"{value!r} holds a number below 0")
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if bounds.get("auto") and value == "auto":
        return AUTO
    if type(value) is not kind:
        expected = _NAMES[kind] + (' or "auto"' if bounds.get("auto") else "")
        raise ValueError(f"expected {expected}, got {value!r} ({type(value).__name__})")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    for name, holds, complaint in _BOUNDS:
        if bounds.get(name) is not None and not holds(value, bounds[name]):
            raise ValueError(f"{value!r} is {complaint} {bounds[name]}")
    if kind is int and value % bounds.get("step", 1):
        raise ValueError(f"{value!r} must be a multiple of {bounds['step']}")
    return value


_BOUNDS = (
    ("least", operator.ge, "too small, it must be at least"),
    ("above", operator.gt, "too small, it must be above"),
    ("most", operator.le, "too large, it may be at most"),
)
_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
