"""Recipes as files: TOML and flags to a `Recipe`, and back.

    launch/recipes/demo_de.toml + ["--train.steps", "10"]  -->  Recipe

Unknown keys, wrong types and impossible values raise `RecipeError` with the key's full path.
"""

import dataclasses
import json
import math
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal

from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import MissingInputError, RecipeError


def load_recipe(path: Path, flags: list[str] | None = None) -> Recipe:
    """Read a recipe and apply flags such as `--train.steps 10` or `--train.steps=10`.

    Raises:
        MissingInputError: no such file.
        RecipeError: not TOML, an unknown key, a wrong type, or a value out of its bounds.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise MissingInputError(f"{path}: no such recipe; the ones that ship lie in launch/recipes/") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from error
    for key, text in _pairs(flags or []):
        _set(content, key, text)
    recipe = _build(Recipe, content, "")
    recipe = dataclasses.replace(recipe, folder=path.parent)
    _check_whole(recipe)
    return recipe


def as_dict(value: Any) -> Any:
    """A recipe or one of its sections as plain JSON types, without `folder`."""
    if dataclasses.is_dataclass(value):
        return {f.name: as_dict(getattr(value, f.name)) for f in dataclasses.fields(value) if _given(f)}
    return list(value) if isinstance(value, tuple) else value


def as_toml(recipe: Recipe) -> str:
    """The recipe as TOML, defaults and flags included."""
    top, sections = [], []
    for key, value in as_dict(recipe).items():
        if isinstance(value, dict):
            sections.append("\n".join([f"\n[{key}]", *(f"{k} = {_toml(v)}" for k, v in value.items())]))
        else:
            top.append(f"{key} = {_toml(value)}")
    return "\n".join(top + sections) + "\n"


def keys(kind: type = Recipe, prefix: str = "") -> list[str]:
    """Every key that a recipe or a flag may set, as dotted paths."""
    found: list[str] = []
    for f, kind_of_field in _fields(kind):
        inner = (
            keys(typing.cast(type, kind_of_field), f"{prefix}{f.name}.")
            if dataclasses.is_dataclass(kind_of_field)
            else None
        )
        found += inner if inner is not None else [prefix + f.name]
    return found


def _given(f: "dataclasses.Field[Any]") -> bool:
    return bool(f.metadata.get("given", True))


def _fields(kind: Any) -> list[tuple["dataclasses.Field[Any]", Any]]:
    hints = typing.get_type_hints(kind)
    return [(f, hints[f.name]) for f in dataclasses.fields(kind) if _given(f)]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return repr(value)


def _pairs(flags: list[str]) -> list[tuple[str, str]]:
    pairs, rest = [], list(flags)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise RecipeError(f"{flag!r}: expected a flag such as --train.steps 10")
        key, equals, text = flag[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise RecipeError(f"--{key}: a value is missing")
            text = rest.pop(0)
        pairs.append((key, text))
    return pairs


def _set(content: dict[str, Any], key: str, text: str) -> None:
    """Put a flag's text into the parsed TOML, read as TOML if it can be (numbers, lists), else as a string."""
    if key not in keys():
        raise RecipeError(f"--{key}: unknown key{_closest(key, keys())}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if _kind(key) is str and not isinstance(value, str):
        value = text
    *sections, name = key.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise RecipeError(f"{section}: expected a section [{section}], got {content!r}")
    content[name] = value


def _kind(key: str) -> Any:
    kind: Any = Recipe
    for name in key.split("."):
        kind = typing.get_type_hints(kind)[name]
    return kind


def _closest(key: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known keys: {', '.join(known)}"


def _build(kind: Any, content: dict[str, Any], prefix: str) -> Any:
    known = {f.name: (f, hint) for f, hint in _fields(kind)}
    values = {}
    for key, value in content.items():
        if key not in known:
            raise RecipeError(f"{prefix}{key}: unknown key{_closest(key, list(known))}")
        values[key] = _value(known[key][1], value, prefix + key, known[key][0].metadata)
    for name, (f, _) in known.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise RecipeError(f"{prefix}{name}: missing; add it to the recipe")
    return kind(**values)


def _value(kind: Any, value: Any, key: str, bounds: "types.MappingProxyType[Any, Any]") -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise RecipeError(f"{key}: expected a section [{key}], got {value!r}")
        return _build(kind, value, key + ".")
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise RecipeError(f"{key}: {value!r} is not one of {', '.join(map(repr, choices))}")
        return value
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        if not isinstance(value, list) or not all(type(v) is inner for v in value):
            example = 'a list of strings such as ["a.txt"]' if inner is str else "a list of numbers such as [0, 4]"
            raise RecipeError(f"{key}: expected {example}, got {value!r}")
        if inner is int and any(v < 0 for v in value):
            raise RecipeError(f"{key}: {value!r} holds a number below 0")
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise RecipeError(f"{key}: expected {_NAMES[kind]}, got {value!r} ({type(value).__name__})")
    if kind is float and not math.isfinite(value):
        raise RecipeError(f"{key}: {value!r} is not a finite number")
    least, above, most = bounds.get("least"), bounds.get("above"), bounds.get("most")
    if least is not None and not value >= least:
        raise RecipeError(f"{key}: {value!r} is too small, it must be at least {least}")
    if above is not None and not value > above:
        raise RecipeError(f"{key}: {value!r} is too small, it must be above {above}")
    if most is not None and not value <= most:
        raise RecipeError(f"{key}: {value!r} is too large, it may be at most {most}")
    if kind is int and value % bounds.get("step", 1):
        raise RecipeError(f"{key}: {value!r} must be a multiple of {bounds['step']}")
    return value


_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def _check_whole(recipe: Recipe) -> None:
    """What one key alone cannot tell."""
    if not recipe.name or set(recipe.name) & set("/\\\0\n") or recipe.name.startswith("."):
        raise RecipeError(f"name: {recipe.name!r} must be a plain folder name")
    for key in ("target", "english"):
        if not getattr(recipe.text, key):
            raise RecipeError(f"text.{key}: empty; name at least one file")
    if bool(recipe.text.general_target) != bool(recipe.text.general_english):
        raise RecipeError("text.general_target: needs text.general_english beside it, and the other way round")
    if bool(recipe.text.parallel_target) != bool(recipe.text.parallel_english):
        raise RecipeError("text.parallel_target: needs text.parallel_english beside it, and the other way round")
    if bool(recipe.evaluate.transfer_train) != bool(recipe.evaluate.transfer_test):
        raise RecipeError("evaluate.transfer_train: needs evaluate.transfer_test beside it, and the other way round")
    align = recipe.align
    if (align.init == "file") != bool(align.rows):
        raise RecipeError('align.rows: names the rows of align.init "file", and belongs to it alone')
    if align.objective in ("infoxlm", "afp") and align.steps and align.weight and not recipe.text.parallel_target:
        raise RecipeError(f'align.objective: "{align.objective}" needs text.parallel_target and text.parallel_english')
    if recipe.train.rows_steps >= recipe.train.steps:
        raise RecipeError(
            f"train.rows_steps: {recipe.train.rows_steps} leaves no step of {recipe.train.steps} to the body"
        )
    if recipe.train.warmup + recipe.train.decay > 1:
        raise RecipeError(
            f"train.decay: warmup {recipe.train.warmup} and decay {recipe.train.decay} are together more than 1"
        )
