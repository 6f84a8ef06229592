"""The variants file: which variants of a recipe are compared, over which seeds, at which budget.

seeds = [0, 1, 2]
target_bytes = 1_000_000          # target text that the training reads: equal text
budget = "bytes"                  # "flops": as many steps as fit into the reference's FLOPs; ["bytes", "flops"]: both
reference = "base"                # the variant that the others are measured against
keep_checkpoints = true           # false: a finished run keeps its export, but not its training checkpoints

[all]                             # recipe keys of all variants, for flags and variants to overrule
train.lr = 1e-3

[[variant]]
name = "subword"
align.init = "subword"            # any key of the recipe, dotted or as a table
codeswitch.ratio = 0.0

The base with its own tokens stands in every comparison: where no variant has vocab.size = 0, "base" is added.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prealign_cpt.recipe.file import as_flags, keys, load_recipe
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import MissingInputError, PrealignError, RecipeError

CONTROLLED_KEYS = ("out", "seed", "device", "language", "train.steps")
"""Recipe keys that a variant may not set: the comparison does, or they must be the same for all."""

BUDGETS = ("bytes", "flops")

PLAIN: dict[str, Any] = {
    "align.steps": 0,
    "align.max_english_increase": 1.0,
    "codeswitch.ratio": 0.0,
    "train.composition_lr": 0.0,
}
"""No contrastive stage, switching and composition map. Plain rows cost English something at first, so they may."""

BASE: dict[str, Any] = {"vocab.size": 0, **PLAIN}
"""The base with its own tokens: not extended, trained on the same text."""

SUBWORD: dict[str, Any] = {"align.init": "subword", "align.calibrate": 0.0, **PLAIN}
"""Plain subword-mean rows."""


@dataclass(frozen=True)
class Grid:
    """A variants file."""

    path: Path
    seeds: tuple[int, ...]
    budgets: tuple[Literal["bytes", "flops"], ...]
    target_bytes: int
    reference: str
    keep_checkpoints: bool
    """False saves most of the disk; the stages behind training cannot be redone then."""
    changes: dict[str, Any]
    """What all variants change in the recipe, by dotted key."""
    variants: dict[str, dict[str, Any]]
    """What each changes, by its name."""


@dataclass(frozen=True)
class RunSpec:
    """One variant of one recipe with one seed at one budget: an ordinary run."""

    recipe_path: Path
    recipe_name: str
    variant: str
    budget: Literal["bytes", "flops"]
    flags: list[str]
    recipe: Recipe
    """With the recipe's own number of steps; the budget decides how many there are."""

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.recipe.run

    @property
    def switching(self) -> bool:
        """Whether the variant's English text is switched."""
        return self.recipe.codeswitch.ratio > 0 and self.recipe.data.english_share > 0


def read_grid(path: Path, target_bytes: int | None = None) -> Grid:
    """Read a variants file.

    Args:
        target_bytes: in place of the file's.

    Raises:
        MissingInputError: no such file.
        RecipeError: not TOML, or a key that is unknown, missing or of an impossible value; file and key are named.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise MissingInputError(f"{path}: no such variants file; give one with --variants") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from error
    if target_bytes is not None:
        content["target_bytes"] = target_bytes
    defaults: dict[str, Any] = {"budget": "bytes", "reference": "base", "keep_checkpoints": True, "all": {}}
    named = "reference" in content
    content = defaults | content
    budgets = content["budget"] if isinstance(content["budget"], list) else [content["budget"]]
    wrong = {
        "seeds": (not _are_seeds(content.get("seeds")), "different whole numbers such as [0, 1, 2]"),
        "budget": (sorted(map(str, budgets)) not in [["bytes"], ["flops"], [*BUDGETS]], "'bytes', 'flops' or both"),
        "target_bytes": (not _is_count(content.get("target_bytes"), 1), "a whole number above 0"),
        "keep_checkpoints": (not isinstance(content["keep_checkpoints"], bool), "true or false"),
        "reference": (not isinstance(content["reference"], str), "the name of a variant"),
        "all": (not isinstance(content["all"], dict), "a table [all] of recipe keys"),
        "variant": (not _are_tables(content.get("variant")), "at least one table [[variant]]"),
    }
    for key in content:
        if key not in wrong:
            raise RecipeError(f"{path}: {key}: unknown key; known keys: {', '.join(wrong)}")
    for key, (is_wrong, expected) in wrong.items():
        if is_wrong:
            raise RecipeError(f"{path}: {key}: expected {expected}, got {content.get(key)!r}")

    variants: dict[str, dict[str, Any]] = {}
    for number, table in enumerate(content["variant"], start=1):
        name = table.pop("name", None)
        if not isinstance(name, str) or not re.fullmatch(r"[\w+][\w.+-]*", name):
            raise RecipeError(f'{path}: variant {number}: name: expected a plain word such as "subword", got {name!r}')
        if name in variants:
            raise RecipeError(f"{path}: variant.name: {name!r} stands there twice; rename one")
        variants[name] = _changes(path, f"variant {name}", table)
    if not any(changes.get("vocab.size") == 0 for changes in variants.values()):
        if "base" in variants:
            raise RecipeError(f"{path}: variant base: needs vocab.size = 0, or another name")
        variants["base"] = BASE
    if not named:
        content["reference"] = next(name for name, changes in variants.items() if changes.get("vocab.size") == 0)
    if content["reference"] not in variants:
        raise RecipeError(f"{path}: reference: {content['reference']!r} is no variant; they are {', '.join(variants)}")
    return Grid(
        path=path,
        seeds=tuple(content["seeds"]),
        changes=_changes(path, "all", content["all"]),
        variants=variants,
        budgets=tuple(budgets),
        **{key: content[key] for key in ("target_bytes", "reference", "keep_checkpoints")},
    )


def _is_count(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _are_seeds(value: Any) -> bool:
    return (
        isinstance(value, list) and 0 < len(value) == len(set(map(repr, value))) and all(_is_count(v, 0) for v in value)
    )


def _are_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(table, dict) for table in value)


def _changes(path: Path, where: str, table: dict[str, Any]) -> dict[str, Any]:
    changes = _flat(table)
    for key in changes:
        if key in CONTROLLED_KEYS:
            raise RecipeError(f"{path}: {where}: {key}: is not for a variant to set, the comparison does; remove it")
        if key not in keys():
            raise RecipeError(f"{path}: {where}: {key}: not a key of a recipe")
    return changes


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def run_specs(grid: Grid, recipe_path: Path, flags: list[str]) -> list[RunSpec]:
    """Every variant, seed and budget of a recipe, seed by seed, the reference first, budgets innermost.

    Runs of a second budget have its name behind theirs; what was scored before training is not scored again for them.

    Args:
        flags: recipe keys for all variants; they go before [all], and what a variant sets goes before them.

    Raises:
        RecipeError: a variant makes the recipe impossible; file, variant and key are named.
    """
    load_recipe(recipe_path, flags)  # what is wrong with a flag is not the variants file's fault
    flags = [*as_flags(grid.changes), *flags]
    try:
        name = load_recipe(recipe_path, flags).name
    except PrealignError as error:
        raise RecipeError(f"{grid.path}: all: {error}") from error
    specs = []
    for seed in grid.seeds:
        for variant in sorted(grid.variants, key=lambda variant: variant != grid.reference):
            for number, budget in enumerate(grid.budgets):
                second = {"evaluate.before_training": False} if number else {}
                own = {"name": f"{name}-{variant}-s{seed}" + (f"-{budget}" if number else ""), "seed": seed}
                all_flags = [*flags, *as_flags(grid.variants[variant] | second | own)]
                try:
                    recipe = load_recipe(recipe_path, all_flags)
                except PrealignError as error:
                    raise RecipeError(f"{grid.path}: variant {variant}: {error}") from error
                specs.append(RunSpec(recipe_path, name, variant, budget, all_flags, recipe))
    return specs
