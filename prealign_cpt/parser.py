"""What the parsers of all commands share: keys of the recipe as flags and in -h, near misses, errors in one line."""

import argparse
import difflib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from prealign_cpt.run.errors import RecipeError


class Parser(argparse.ArgumentParser):
    """argparse's, whose errors are `RecipeError` and whose help ends with the keys where the command takes them."""

    takes_keys = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)  # `--seed 3` is a key, and no short form of --seeds
        self.set_defaults(parser=self)

    def add_recipe(self) -> None:
        """The recipe, whose keys are flags."""
        self.add_argument("recipe", type=Path, metavar="RECIPE", help="TOML file, as the keys below describe it")
        self.takes_keys = True

    def add_run(self) -> None:
        """The recipe, and how a run that was begun goes on."""
        self.add_recipe()
        self.add_argument("--redo", metavar="STAGE", help="set a stage and those behind it aside, and make them anew")
        self.add_argument("--accept", type=names, default=(), metavar="KEYS", help="go on although these have changed")
        self.add_argument("--reuse", type=Path, metavar="RUNS", help="folder of runs: take stages made from the same")
        self.add_argument("--workers", type=int, default=0, help="processes that read and pack text; 0: one a core")
        self.add_argument("--skip", type=names, default=(), metavar="STAGES", help="that prepare is to leave out")

    def format_help(self) -> str:
        if not self.takes_keys:
            return super().format_help()
        from prealign_cpt.recipe.describe import help_text

        return super().format_help() + help_text(shutil.get_terminal_size().columns - 2)

    def error(self, message: str) -> NoReturn:
        raise RecipeError(f"{message}; see {self.prog} -h")

    def check(self, flags: list[str]) -> None:
        """Look at what is left of a command line when this parser has taken what it knows.

        Raises:
            RecipeError: something that is meant for this parser, or for nobody; keys of the recipe are left to
                `load_recipe`.
        """
        from prealign_cpt.recipe.file import keys

        own = [name.lstrip("-") for name in self._option_string_actions]
        for name in [flag[2:].partition("=")[0] for flag in flags if flag.startswith("--")]:
            if not (self.takes_keys and name in keys()) and (meant := closest(name, own)):
                self.error(f"--{name}: unknown option; did you mean --{meant}?")
        if flags and not self.takes_keys:
            self.error(f"{flags[0]}: unknown option of `{self.prog}`")


def parse(parser: Parser, arguments: list[str]) -> argparse.Namespace:
    """The options, and in `flags` the keys of the recipe as they were given, wherever they stand."""
    keys, rest = _apart(arguments)
    options, more = parser.parse_known_args(rest)
    options.flags = [*keys, *more]
    options.parser.check(options.flags)
    return options


def _apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Keys in a section, with their values, and the rest: argparse would take a value for a recipe."""
    keys, rest, left = [], [], list(arguments)
    while left:
        word = left.pop(0)
        name, equals, _ = word.partition("=")
        if not (name.startswith("--") and "." in name):
            rest.append(word)
            continue
        keys.append(word)
        if not equals and left and not left[0].startswith("--") and left[0] != "-h":
            keys.append(left.pop(0))
    return keys, rest


def closest(name: str, known: Sequence[str]) -> str | None:
    """What was meant by a name that nobody knows."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.75)), None)


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    return tuple(int(number) for number in text.split(","))


def share_of(text: str) -> tuple[int, int]:
    """ "3/16": one of some shares, counted from 0."""
    one, _, of = text.partition("/")
    if not 0 <= int(one) < int(of):
        raise ValueError
    return int(one), int(of)
