"""Recipes as files: TOML and flags to a `Recipe`, and back.

    launch/recipes/demo_de.toml + ["--train.steps", "10"]  -->  Recipe

Unknown keys, wrong types and impossible values raise `RecipeError` with the key's full path: one error that names all
of them.
"""

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prealign_cpt.recipe.build import Faults, build, closest, fields, key_types
from prealign_cpt.recipe.schema import AUTO, SIDES, Recipe, Source
from prealign_cpt.run.errors import MissingInputError, RecipeError

PLAIN_NAME = re.compile(r"[\w-]+", re.ASCII)


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
        raise MissingInputError(f"{path}: no such recipe; `prealign init` writes one") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from error
    faults = Faults()
    for key, text in _pairs(flags or [], faults):
        _set(content, key, text, faults)
    recipe = dataclasses.replace(build(Recipe, content, "", faults), folder=path.parent)
    for keys_of_fault, complaint in _check_whole(recipe):
        if not any(faults.concern(key) for key in keys_of_fault):
            faults.add(keys_of_fault[0], complaint)
    if not auto:
        for key in left_open(recipe):
            if not faults.concern(key):
                faults.add(key, f"left open; `prealign run {path}` chooses, here a value is needed")
    faults.tell(path)
    return recipe


def recipe_of(path: Path, flags: list[str] | None = None, auto: bool = False) -> Recipe:
    """The recipe of a run folder, which may have been moved; or of a recipe's file. Otherwise as `load_recipe`.

    Raises:
        MissingInputError: the folder is no run's, or nothing of it is done.
    """
    if not path.is_dir():
        return load_recipe(path, flags, auto)
    if not (path / "recipe.toml").is_file():
        raise MissingInputError(f"{path}: no recipe.toml in it; name the folder of a run, or its recipe")
    run = path.resolve()
    return dataclasses.replace(load_recipe(path / "recipe.toml", flags, auto), out=str(run.parent), name=run.name)


def left_open(recipe: Recipe) -> list[str]:
    """Keys whose value is to be chosen before the run: those that are "auto", and `base.start_token` and `text.english`
    if they are empty."""
    empty = ["base.start_token", *([] if recipe.sources("english") else ["text.english"])]
    return [key for key, value in dotted(recipe).items() if value == AUTO or (key in empty and not value)]


def dotted(recipe: Recipe) -> dict[str, Any]:
    """The values of the recipe's sections by their dotted keys."""
    sections = ((name, section) for name, section in as_dict(recipe).items() if isinstance(section, dict))
    return {f"{name}.{key}": value for name, section in sections for key, value in section.items()}


def as_dict(value: Any) -> Any:
    """A recipe or one of its sections as plain JSON types, without `folder`."""
    if dataclasses.is_dataclass(value):
        return {f.name: as_dict(getattr(value, f.name)) for f, _ in fields(type(value))}
    return [as_dict(one) for one in value] if isinstance(value, tuple) else value


def as_toml(recipe: Recipe) -> str:
    """The recipe as TOML, defaults and flags included."""
    top, sections = "", ""
    for key, value in as_dict(recipe).items():
        if isinstance(value, dict):
            tables = {k: v for k, v in value.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
            sections += f"\n[{key}]\n" + _lines({k: v for k, v in value.items() if k not in tables})
            sections += "".join(f"\n[[{key}.{k}]]\n{_lines(one)}" for k, v in tables.items() for one in v)
        else:
            top += f"{key} = {toml(value)}\n"
    return top + sections


def anywhere(recipe: Recipe) -> Recipe:
    """The same recipe with absolute paths, so that it means the same files wherever it is read."""

    def absolute(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(absolute, value))
        if isinstance(value, Source):
            paths = {key: absolute(getattr(value, key)) for key in ("target", "english", "lexicon")}
            return dataclasses.replace(value, **paths)
        return value if not value or value.startswith(("cache:", "hf:")) else str(recipe.path(value).absolute())

    paths = {
        "text": [key.name for key in dataclasses.fields(recipe.text) if key.name not in ("document", "column")],
        "lexicon": ["path"],
        "vocab": ["tokenizer"],
        "align": ["rows"],
        "evaluate": ["clka", "transfer_train", "transfer_test"],
        "chat": ["instructions", "instructions_target", "template"],
    }
    sections: dict[str, Any] = {}
    for name, names in paths.items():
        section = getattr(recipe, name)
        sections[name] = dataclasses.replace(section, **{key: absolute(getattr(section, key)) for key in names})
    model = Path(recipe.base.model).expanduser()
    if len(model.parts) > 1 and model.is_dir():
        sections["base"] = dataclasses.replace(recipe.base, model=str(model.absolute()))
    return dataclasses.replace(recipe, out=str(Path(recipe.out).absolute()), **sections)


def _lines(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {toml(value)}\n" for key, value in values.items())


def as_flags(changes: dict[str, Any]) -> list[str]:
    """Recipe keys and their values as flags of a command."""
    return [f"--{key}={json.dumps(value, ensure_ascii=False, default=str)}" for key, value in changes.items()]


def keys() -> list[str]:
    """Every key that a recipe or a flag may set, as dotted paths."""
    return list(key_types())


def toml(value: Any) -> str:
    """Of a boolean, number, string or list: what JSON writes, which is TOML but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _pairs(flags: list[str], faults: Faults) -> list[tuple[str, str]]:
    pairs, rest = [], list(flags)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            faults.add(repr(flag), "expected a flag such as --train.steps 10")
            continue
        key, equals, text = flag[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                faults.add(f"--{key}", "a value is missing")
                continue
            text = rest.pop(0)
        pairs.append((key, text))
    return pairs


def _set(content: dict[str, Any], key: str, text: str, faults: Faults) -> None:
    """Put a flag's text into the parsed TOML, read as TOML if it can be (numbers, lists), else as a string."""
    types = key_types()
    if key not in types:
        faults.unknown(f"--{key}", closest(key, list(types)), "-h lists all keys")
        return
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
            return  # reading the section says so
    content[name] = value


def _check_whole(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], str]]:
    """What one key alone cannot tell: the keys that it concerns, the first of which is to blame, and the complaint."""
    if not recipe.name or set(recipe.name) & set("/\\\0\n") or recipe.name.startswith("."):
        yield ("name",), f"{recipe.name!r} must be a plain folder name"
    if not recipe.sources("target"):
        yield ("text.target",), "missing; name at least one file, folder or pattern"
    yield from _check_sources(recipe)
    for section, pair in (
        (recipe.text, ("text.general_target", "text.general_english")),
        (recipe.text, ("text.parallel_target", "text.parallel_english")),
        (recipe.evaluate, ("evaluate.transfer_train", "evaluate.transfer_test")),
    ):
        one, other = (getattr(section, key.partition(".")[2]) for key in pair)
        if bool(one) != bool(other):
            yield pair, f"needs {pair[1]} beside it, and the other way round"
    if recipe.vocab.size == AUTO and (recipe.vocab.tokenizer or recipe.align.rows):
        yield ("vocab.size",), '"auto" does not go with vocab.tokenizer or align.rows, which are of one size'
    align, train = recipe.align, recipe.train
    if (align.init == "file") != bool(align.rows):
        yield ("align.rows", "align.init"), 'names the rows of align.init "file", and belongs to it alone'
    if align.objective in ("infoxlm", "afp") and align.steps and align.weight and not recipe.text.parallel_target:
        keys_of_fault = ("align.objective", "align.steps", "align.weight", "text.parallel_target")
        yield keys_of_fault, f'"{align.objective}" needs text.parallel_target and text.parallel_english'
    if "lexicon" in align.init and not recipe.word_lists():
        yield ("align.init", "lexicon.path"), f'"{align.init}" needs lexicon.path'
    if AUTO != train.steps <= train.rows_steps:
        yield (
            ("train.rows_steps", "train.steps"),
            f"{train.rows_steps} leaves no step of {train.steps} to the body",
        )
    if train.method == "rows" and recipe.vocab.size in (0, AUTO):
        complaint = '"rows" moves new tokens\' rows alone, so it needs a vocab.size above 0, not "auto"'
        yield ("train.method", "vocab.size"), complaint
    if train.method != "full" and train.embeddings_lr:
        yield (
            ("train.embeddings_lr", "train.method"),
            f'old tokens\' rows stay where they are under train.method "{train.method}"; set it to 0, or take "full"',
        )
    if train.method != "full" and train.optimizer == "adamw8bit":
        yield (
            ("train.optimizer", "train.method"),
            f'"adamw8bit" belongs to train.method "full"; what moves under "{train.method}" is small; take "adamw"',
        )
    if train.warmup + train.decay > 1:
        yield (
            ("train.decay", "train.warmup"),
            f"warmup {train.warmup} and decay {train.decay} are together more than 1",
        )


def _check_sources(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], str]]:
    names = [source.name for side in SIDES for source in recipe.sources(side)]
    for i, source in enumerate(recipe.text.source):
        key = f"text.source[{i}]"
        if not PLAIN_NAME.fullmatch(source.name):
            yield (f"{key}.name",), f"{source.name!r} must be a plain file name: letters, digits, - and _"
        elif names.count(source.name) > 1:
            yield (f"{key}.name",), f"another text is called {source.name!r} too; choose another name"
        if not source.target and not source.english:
            yield (key,), "names no text; give it target or english, or both for parallel text"
        elif not source.target and (source.language or source.lexicon):
            yield (key,), "language and lexicon belong to a source with target text"
    for side in SIDES:
        weights = {source.name: source.weight for source in recipe.sources(side)}
        if any(weights.values()) and not all(weights.values()):
            without = ", ".join(name for name, weight in weights.items() if not weight)
            told = f" (the list text.{side} has none: make it a source)" if not weights.get(side, 1.0) else ""
            yield ("text.source",), f"of the {side} side {without} has no weight, others have{told}"
