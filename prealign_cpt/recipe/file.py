"""Recipes as files: TOML and flags to a `Recipe`, and back.

    launch/recipes/demo_de.toml + ["--train.steps", "10"]  -->  Recipe

Unknown keys, wrong types and impossible values raise `RecipeError` with the key's full path.
"""

import dataclasses
import difflib
import json
import math
import operator
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from prealign_cpt.recipe.schema import AUTO, Recipe
from prealign_cpt.run.errors import MissingInputError, RecipeError


def load_recipe(path: Path, flags: list[str] | None = None, auto: bool = False) -> Recipe:
    """Read a recipe and apply flags such as `--train.steps 10` or `--train.steps=10`.

    Args:
        auto: let what is left open pass, numbers as `AUTO`; for those who choose them.

    Raises:
        MissingInputError: no such file.
        RecipeError: not TOML, an unknown key, a wrong type, or a value out of its bounds; or a value is left open.
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
    if not auto and (left := left_open(recipe)):
        raise RecipeError(
            f"{', '.join(left)}: left open; `prealign run {path}` chooses, and recipe.toml of the run says what; "
            "here a value is needed, such as --vocab.size 0"
        )
    return recipe


def left_open(recipe: Recipe) -> list[str]:
    """Keys whose value is to be chosen before the run: those that are "auto", and `base.start_token` and `text.english`
    if they are empty."""
    values = {f"{name}.{key}": value for name, section in as_dict(recipe).items() if isinstance(section, dict)
              for key, value in section.items()}  # fmt: skip
    empty = ("base.start_token", "text.english")
    return [key for key, value in values.items() if value == AUTO or (key in empty and not value)]


def as_dict(value: Any) -> Any:
    """A recipe or one of its sections as plain JSON types, without `folder`."""
    if dataclasses.is_dataclass(value):
        return {f.name: as_dict(getattr(value, f.name)) for f in dataclasses.fields(value) if _given(f)}
    return list(value) if isinstance(value, tuple) else value


def as_toml(recipe: Recipe) -> str:
    """The recipe as TOML, defaults and flags included."""
    top, sections = "", ""
    for key, value in as_dict(recipe).items():
        if isinstance(value, dict):
            sections += f"\n[{key}]\n" + "".join(f"{k} = {toml_value(v)}\n" for k, v in value.items())
        else:
            top += f"{key} = {toml_value(value)}\n"
    return top + sections


def as_flags(changes: dict[str, Any]) -> list[str]:
    """Recipe keys and their values as flags of a command."""
    return [f"--{key}={json.dumps(value, ensure_ascii=False, default=str)}" for key, value in changes.items()]


def keys() -> list[str]:
    """Every key that a recipe or a flag may set, as dotted paths."""
    return list(_types(Recipe))


def _types(kind: Any, prefix: str = "") -> dict[str, Any]:
    """The type of every key."""
    types: dict[str, Any] = {}
    for f, hint in _fields(kind):
        key = prefix + f.name
        types |= _types(hint, f"{key}.") if dataclasses.is_dataclass(hint) else {key: hint}
    return types


def _given(f: "dataclasses.Field[Any]") -> bool:
    return bool(f.metadata.get("given", True))


def _fields(kind: Any) -> list[tuple["dataclasses.Field[Any]", Any]]:
    hints = typing.get_type_hints(kind)
    return [(f, hints[f.name]) for f in dataclasses.fields(kind) if _given(f)]


def toml_value(value: Any) -> str:
    """Of a boolean, number, string or list, as TOML: what JSON writes, which is TOML but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


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
    types = _types(Recipe)
    if key not in types:
        raise RecipeError(f"--{key}: unknown key{_closest(key, list(types))}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if types[key] is str and not isinstance(value, str):
        value = text
    *sections, name = key.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise RecipeError(f"{section}: expected a section [{section}], got {content!r}")
    content[name] = value


def _closest(key: str, known: list[str]) -> str:
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


def _value(kind: Any, value: Any, key: str, bounds: Mapping[str, Any]) -> Any:
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
    if bounds.get("auto") and value == "auto":
        return AUTO
    if type(value) is not kind:
        expected = _NAMES[kind] + (' or "auto"' if bounds.get("auto") else "")
        raise RecipeError(f"{key}: expected {expected}, got {value!r} ({type(value).__name__})")
    if kind is float and not math.isfinite(value):
        raise RecipeError(f"{key}: {value!r} is not a finite number")
    for name, holds, complaint in _BOUNDS:
        if bounds.get(name) is not None and not holds(value, bounds[name]):
            raise RecipeError(f"{key}: {value!r} is {complaint} {bounds[name]}")
    if kind is int and value % bounds.get("step", 1):
        raise RecipeError(f"{key}: {value!r} must be a multiple of {bounds['step']}")
    return value


_BOUNDS = (
    ("least", operator.ge, "too small, it must be at least"),
    ("above", operator.gt, "too small, it must be above"),
    ("most", operator.le, "too large, it may be at most"),
)
_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def _check_whole(recipe: Recipe) -> None:
    """What one key alone cannot tell."""
    if not recipe.name or set(recipe.name) & set("/\\\0\n") or recipe.name.startswith("."):
        raise RecipeError(f"name: {recipe.name!r} must be a plain folder name")
    if not recipe.text.target:
        raise RecipeError("text.target: empty; name at least one file, folder or pattern")
    text, evaluate = recipe.text, recipe.evaluate
    for key, value, other_key, other in (
        ("text.general_target", text.general_target, "text.general_english", text.general_english),
        ("text.parallel_target", text.parallel_target, "text.parallel_english", text.parallel_english),
        ("evaluate.transfer_train", evaluate.transfer_train, "evaluate.transfer_test", evaluate.transfer_test),
    ):
        if bool(value) != bool(other):
            raise RecipeError(f"{key}: needs {other_key} beside it, and the other way round")
    if recipe.vocab.size == AUTO and (recipe.vocab.tokenizer or recipe.align.rows):
        raise RecipeError('vocab.size: "auto" does not go with vocab.tokenizer or align.rows, which are of one size')
    align = recipe.align
    if (align.init == "file") != bool(align.rows):
        raise RecipeError('align.rows: names the rows of align.init "file", and belongs to it alone')
    if align.objective in ("infoxlm", "afp") and align.steps and align.weight and not recipe.text.parallel_target:
        raise RecipeError(f'align.objective: "{align.objective}" needs text.parallel_target and text.parallel_english')
    if "lexicon" in align.init and not recipe.lexicon.path:
        raise RecipeError(f'align.init: "{align.init}" needs lexicon.path')
    if AUTO != recipe.train.steps <= recipe.train.rows_steps:
        raise RecipeError(
            f"train.rows_steps: {recipe.train.rows_steps} leaves no step of {recipe.train.steps} to the body"
        )
    if recipe.train.warmup + recipe.train.decay > 1:
        raise RecipeError(
            f"train.decay: warmup {recipe.train.warmup} and decay {recipe.train.decay} are together more than 1"
        )
