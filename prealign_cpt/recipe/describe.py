"""Every key of a recipe with its type, bounds, default and docstring: for -h, and for docs/recipe.md.

    schema.py --typing, ast--> sections of Keys --help_text--> the end of `prealign COMMAND -h`

Docstrings of fields are no part of a class at run time, so they are read from the source.
"""

import ast
import dataclasses
import textwrap
import typing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from prealign_cpt.recipe import schema
from prealign_cpt.recipe.build import fields, table_of
from prealign_cpt.recipe.file import toml
from prealign_cpt.recipe.schema import AUTO, Recipe


@dataclass(frozen=True)
class Key:
    """What there is to say about a key."""

    name: str
    """Dotted."""
    kind: str
    """In words, with its bounds."""
    default: str
    """As TOML; empty where the key must be given."""
    text: str
    """Its docstring, in one line."""


def sections() -> dict[str, tuple[str, list[Key]]]:
    """By section, "" for the keys above all: what it holds, and its keys in the order of the schema."""
    nested = [(f.name, hint) for f, hint in fields(Recipe) if dataclasses.is_dataclass(hint)]
    found = {}
    for name, kind in [("", Recipe), *nested]:
        found[name] = (_line(kind.__doc__), _keys(kind, name))
        tables = [(f"{name}.{f.name}", table) for f, hint in fields(kind) if (table := table_of(hint))]
        found |= {key: (_line(table.__doc__), _keys(table, key)) for key, table in tables}
    return found


def heading(section: str) -> str:
    """As it stands in TOML: a section, or one of several tables."""
    return f"[[{section}]]" if "." in section else f"[{section}]"


def help_text(width: int) -> str:
    """The keys as the end of a command's help, in lines of at most `width` characters."""
    lines = ["", "keys of the recipe, each of them also a flag; values as in TOML (lists in brackets and quotes):"]
    for section, (about, found) in sections().items():
        lines += ["", f"{heading(section)} {about}" if section else "above all sections"]
        for key in found:
            flag = "" if section.count(".") else "--"
            lines.append(
                f"  {flag}{key.name}  {key.kind}; {f'default {key.default}' if key.default else 'must be given'}"
            )
            lines += textwrap.wrap(key.text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines) + "\n"


def _keys(kind: Any, section: str) -> list[Key]:
    texts, prefix = _docstrings()[kind.__name__], f"{section}." if section else ""
    return [_key(f, hint, prefix, texts) for f, hint in fields(kind) if not dataclasses.is_dataclass(hint)]


def _key(f: "dataclasses.Field[Any]", hint: Any, prefix: str, texts: dict[str, str]) -> Key:
    default: Any = f.default
    if f.default_factory is not dataclasses.MISSING:
        default = f.default_factory()
    needed = default is dataclasses.MISSING
    bounds = f.metadata
    if default == AUTO and bounds.get("auto"):
        default = "auto"
    kind = _kind(hint) + (' or "auto"' if bounds.get("auto") else "")
    for name, words in (("least", "at least"), ("above", "above"), ("most", "at most")):
        if bounds.get(name) is not None:
            kind += f", {words} {bounds[name]:g}"
    if bounds.get("step", 1) > 1:
        kind += f", a multiple of {bounds['step']}"
    return Key(prefix + f.name, kind, "" if needed else toml(default), texts.get(f.name, ""))


def _kind(hint: Any) -> str:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return " | ".join(map(toml, arguments))
    if typing.get_origin(hint) is tuple:
        inner = arguments[0]
        if dataclasses.is_dataclass(inner):
            return "tables"
        return f"list of {_kind(inner)}" + ("" if typing.get_args(inner) else "s")
    return {int: "whole number", float: "number", str: "string", bool: "true | false"}[hint]


@cache
def _docstrings() -> dict[str, dict[str, str]]:
    """Docstrings by class and field. One below `transfer_train` and `transfer_test` is of both: fields without any that
    begin with the same word."""
    tree = ast.parse(Path(schema.__file__).read_text(encoding="utf-8"))
    found: dict[str, dict[str, str]] = {}
    for kind in tree.body:
        if not isinstance(kind, ast.ClassDef):
            continue
        texts, names = found.setdefault(kind.name, {}), [""]
        for node in kind.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.append(node.target.id)
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                word = names[-1].partition("_")[0]
                texts |= {name: _line(str(node.value.value)) for name in names if name.partition("_")[0] == word}
                names = [""]
    return found


def _line(text: str | None) -> str:
    return " ".join((text or "").split())
