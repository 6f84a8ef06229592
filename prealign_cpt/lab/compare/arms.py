"""The arms file: which variants of a recipe are compared, over which seeds, at which budget.

seeds = [0, 1, 2]
target_bytes = 1_000_000          # target text that each arm reads, alignment stage included
budget = "bytes"                  # or "flops": as many steps as fit into the reference's FLOPs
reference = "subword"             # the arm that the others are measured against
keep_checkpoints = true           # false: a finished run keeps its export, but not its training checkpoints

[all]                             # recipe keys of all arms, for flags and arms to overrule
train.lr = 1e-3

[[arm]]
name = "subword"
switching = false                 # a label for the tables; left out, the recipe tells
align.init = "subword"            # any key of the recipe, dotted or as a table
codeswitch.ratio = 0.0
"""

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prealign_cpt.recipe.file import keys, load_recipe
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import MissingInputError, PrealignError, RecipeError

OURS = ("out", "seed", "device", "language", "train.steps")
"""Recipe keys that an arm may not set: the comparison does, or they must be the same for all."""

DEFAULTS = {"evaluate.before_training": False}
"""What an arm has unless it or the command line says otherwise: its stages are not scored one by one."""


@dataclass(frozen=True)
class Arm:
    """One variant: its name, its label, and what it changes in the recipe, by dotted key."""

    name: str
    switching: bool | None
    changes: dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """An arms file."""

    path: Path
    seeds: tuple[int, ...]
    budget: Literal["bytes", "flops"]
    target_bytes: int
    reference: str
    keep_checkpoints: bool
    """False saves most of the disk; the stages behind training cannot be redone then."""
    changes: dict[str, Any]
    """What all arms change in the recipe, by dotted key."""
    arms: tuple[Arm, ...]


@dataclass(frozen=True)
class Job:
    """One arm of one recipe with one seed: an ordinary run."""

    recipe_path: Path
    base_name: str
    arm: Arm
    flags: list[str]
    recipe: Recipe
    """With the recipe's own number of steps; the budget decides how many there are."""

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.recipe.run

    @property
    def switching(self) -> bool:
        """Whether the arm's English text is switched: its label, or what its recipe says."""
        if self.arm.switching is not None:
            return self.arm.switching
        return self.recipe.codeswitch.ratio > 0 and self.recipe.data.english_share > 0


def read_grid(path: Path, target_bytes: int | None = None) -> Grid:
    """Read an arms file.

    Args:
        target_bytes: in place of the file's.

    Raises:
        MissingInputError: no such file.
        RecipeError: not TOML, or a key that is unknown, missing or of an impossible value; file and key are named.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise MissingInputError(f"{path}: no such arms file; give one with --arms") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from error
    known = ("seeds", "budget", "target_bytes", "reference", "keep_checkpoints", "all", "arm")
    for key in content:
        if key not in known:
            raise RecipeError(f"{path}: {key}: unknown key; known keys: {', '.join(known)}")
    seeds = content.get("seeds")
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and s >= 0 for s in seeds):
        raise RecipeError(f"{path}: seeds: expected a list of whole numbers such as [0, 1, 2], got {seeds!r}")
    if len(set(seeds)) != len(seeds):
        raise RecipeError(f"{path}: seeds: {seeds!r} names a seed twice")
    budget = content.get("budget", "bytes")
    if budget not in ("bytes", "flops"):
        raise RecipeError(f"{path}: budget: {budget!r} is not one of 'bytes', 'flops'")
    target_bytes = content.get("target_bytes") if target_bytes is None else target_bytes
    if type(target_bytes) is not int or target_bytes < 1:
        raise RecipeError(f"{path}: target_bytes: expected a whole number above 0, got {target_bytes!r}")
    keep = content.get("keep_checkpoints", True)
    if not isinstance(keep, bool):
        raise RecipeError(f"{path}: keep_checkpoints: expected true or false, got {keep!r}")
    shared = content.get("all", {})
    if not isinstance(shared, dict):
        raise RecipeError(f"{path}: all: expected a table [all] of recipe keys, got {shared!r}")
    tables = content.get("arm")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise RecipeError(f"{path}: arm: expected at least one table [[arm]]")
    arms = tuple(_arm(path, number, table) for number, table in enumerate(tables, start=1))
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"{path}: arm.name: {name!r} stands there twice")
    reference = content.get("reference", "subword")
    if reference not in names:
        raise RecipeError(f"{path}: reference: {reference!r} is not the name of an arm; they are {', '.join(names)}")
    return Grid(path, tuple(seeds), budget, target_bytes, reference, keep, _changes(path, "all", shared), arms)


def _arm(path: Path, number: int, table: dict[str, Any]) -> Arm:
    table = dict(table)
    name, switching = table.pop("name", None), table.pop("switching", None)
    if not isinstance(name, str) or not re.fullmatch(r"[\w+][\w.+-]*", name):
        raise RecipeError(f'{path}: arm {number}: name: expected a plain word such as "subword", got {name!r}')
    if switching is not None and not isinstance(switching, bool):
        raise RecipeError(f"{path}: arm {name}: switching: expected true or false, got {switching!r}")
    return Arm(name, switching, _changes(path, f"arm {name}", table))


def _changes(path: Path, where: str, table: dict[str, Any]) -> dict[str, Any]:
    changes = dict(_flat(table))
    for key in changes:
        if key in OURS:
            raise RecipeError(f"{path}: {where}: {key}: is not for an arm to set, the comparison does; remove it")
        if key not in keys():
            raise RecipeError(f"{path}: {where}: {key}: not a key of a recipe")
    return changes


def _flat(table: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found


def jobs(grid: Grid, recipe_path: Path, flags: list[str]) -> list[Job]:
    """Every arm and seed of a recipe, seed by seed, the reference first.

    Args:
        flags: recipe keys for all arms; they go before [all], and what an arm sets goes before them.

    Raises:
        RecipeError: an arm makes the recipe impossible; file, arm and key are named.
    """
    load_recipe(recipe_path, flags)  # what is wrong with a flag is not the arms file's fault
    flags = [*_as_flags(DEFAULTS | grid.changes), *flags]
    try:
        base = load_recipe(recipe_path, flags)
    except PrealignError as error:
        raise RecipeError(f"{grid.path}: all: {error}") from error
    ordered = sorted(grid.arms, key=lambda arm: arm.name != grid.reference)
    found = []
    for seed in grid.seeds:
        for arm in ordered:
            own: dict[str, Any] = {"name": f"{base.name}-{arm.name}-s{seed}", "seed": seed}
            all_flags = [*flags, *_as_flags(arm.changes | own)]
            try:
                recipe = load_recipe(recipe_path, all_flags)
            except PrealignError as error:
                raise RecipeError(f"{grid.path}: arm {arm.name}: {error}") from error
            found.append(Job(recipe_path, base.name, arm, all_flags, recipe))
    return found


def _as_flags(changes: dict[str, Any]) -> list[str]:
    return [f"--{key}={json.dumps(value, ensure_ascii=False, default=str)}" for key, value in changes.items()]
