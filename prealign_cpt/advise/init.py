"""`prealign init`: files in a new language in, a commented recipe that runs out.

DIR/recipe.toml   every choice with what it rests on
RUN/text, RUN/choices.json   what was made on the way, which the run takes over
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prealign_cpt.advise.choices import choose
from prealign_cpt.advise.fertility import Fertility, fertilities
from prealign_cpt.advise.memory import fits, load_to_measure, machine, shape_of
from prealign_cpt.advise.script import advice, look
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.lexicon.stage import read_dictionary
from prealign_cpt.model.base import from_wrapper, resolve_base
from prealign_cpt.recipe.file import load_recipe, toml
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import RecipeError, StorageError
from prealign_cpt.run.folder import say
from prealign_cpt.run.manifest import atomic_write
from prealign_cpt.text.languages import language_of
from prealign_cpt.text.stage import held_out_documents, text_report

NAME = "recipe.toml"

LITTLE_BYTES = 1_000_000
"""Target text for which short trials would cost about as much as the run that they decide on."""

SELDOM = 5
"""A new token that the text shows less often than this learns little of its own."""

HALF_SAVED = 0.5
"""A share of the tokens behind which whole words were ahead of the base's own tokens on little text too, from start to
end: in Hindi (benchmarks/results/race.md) and Bengali. Not in Japanese, whose new tokens are no words."""

LETTERS, FAST_ROWS = 1.2, 5
"""Characters a token of the base below which it reads letter by letter; how many times the body's rate new rows then
learn at, since what they are made from says little. Measured in Hindi (benchmarks/results/race.md)."""

FEW_SAVED = 0.1
"""A share of the tokens that is hardly worth new rows."""


def init(
    folder: Path,
    base: str,
    language: str,
    named: dict[str, Any],
    default_english: Callable[[], dict[str, Any]],
) -> Path:
    """Look at the files, and write the recipe; its path.

    Args:
        folder: takes the recipe; its name is the run's.
        base, language: as the recipe has them.
        named: "text" and "english", lists of paths as a recipe has them, relative to the current folder; "lexicon".
        default_english: as of `choose`.

    Raises:
        StorageError: there is a recipe already.
        RecipeError: no such language.
        what the text stage, `resolve_base` and the reader of the word list raise.
    """
    path = folder / NAME
    if path.exists():
        raise StorageError(f"{path}: exists already and is never overwritten; choose another folder")
    known = language_of(language)
    if not known.short:
        raise RecipeError(f'--language {language!r}: no language is called so; give a BCP 47 code such as "sw"')
    values: dict[str, Any] = {
        "name": folder.resolve().name,
        "language": known.name,
        "base.model": _model(base),
        "text.target": [_relative(one, folder) for one in named["text"]],
    }
    if named["english"]:
        values["text.english"] = [_relative(one, folder) for one in named["english"]]
    if named["lexicon"]:
        values["lexicon.path"] = _relative(named["lexicon"], folder)
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{NAME}"
    source = _source(*(_relative(one, folder) for one in named["parallel"])) if named.get("parallel") else ""
    atomic_write(draft, "".join(f"{key} = {toml(value)}\n" for key, value in values.items()) + source)
    try:
        chosen = choose(draft, [], default_english)
        recipe = load_recipe(draft, chosen, auto=True)
        text = _written(recipe, resolve_base(recipe.base.model), known.short, source)
    finally:
        draft.unlink()
    atomic_write(path, text)
    say(f"init: wrote {path}; look it over, then: prealign run {path}")
    return path


def _source(english: str, target: str) -> str:
    """Parallel text as one more source."""
    lines = {"name": "parallel", "english": [english], "target": [target]}
    return (
        "\n[[text.source]]  # a sentence and its translation are a document; give all sources a weight, or none\n"
        + (_section(lines))
    )


def _written(recipe: Recipe, base: Path, code: str, source: str) -> str:
    """The recipe with its comments.

    Args:
        source: the table of parallel text, if there is some.
    """
    model = load_to_measure(base)
    target, english = (
        look(model, base, recipe.base.start_token, held_out_documents(recipe, "valid", side))
        for side in ("target", "english")
    )
    told = advice(target, english, _pairs(recipe))
    found = fertilities(recipe, base)
    size, reason = proposed(found, text_report(recipe, "target")["bytes"])
    keys, memory = fits(shape_of(base), machine())
    chosen, taken = recipe.train, from_wrapper(base)
    rate, why = rows_rate(found[0], size, chosen.lr)
    rows = f"rows_lr = {rate}  # {why}\n" if rate else ""
    lines = [f"base.model: {taken}" if taken else "", *told, f"vocab.size = {toml(size)}: {reason}"]
    lines += [f"train.rows_lr = {rate}: {why}" if rate else "", memory]
    for line in filter(None, lines):
        say(f"init: {line}")
    train = {"steps": chosen.steps, "sequences": chosen.sequences, "eval_every": chosen.eval_every}
    train |= {"save_every": chosen.save_every}
    extra = {key.removeprefix("train."): value for key, value in keys.items()}
    held = {
        f"{name}_{side}": getattr(recipe.text, f"{name}_{side}")
        for side in ("target", "english")
        for name in ("valid", "test")
        if getattr(recipe.text, f"{name}_{side}")
    }
    text: dict[str, Any] = {"target": list(recipe.text.target), "english": list(recipe.text.english), **held}
    lexicon = f"\n[lexicon]\npath = {toml(recipe.lexicon.path)}\n" if recipe.lexicon.path else _NO_LEXICON
    return f"""# Written by `prealign init`. Every other key has a default: `prealign run -h` lists them all.
name = {toml(recipe.name)}
language = {toml(recipe.language)}  # {code}

# {_lines(told)}

[base]
model = {toml(recipe.base.model)}{f"  # {taken}" if taken else ""}
start_token = {toml(recipe.base.start_token)}  # the best of those that were measured on held-out English

[text]  # held-out text is split off by document, unless it is named
{_section(text)}{source}{lexicon}
[vocab]
# {_table(found)}
# {reason}
size = {toml(size)}

[data]
sequence_length = {recipe.data.sequence_length}
english_share = {recipe.data.english_share}  # of the sequences: what keeps the base's English

[train]  # {memory}
{_section({**train, **extra})}{rows}"""


_NO_LEXICON = """
# [lexicon]  no word list: no word is switched, no contrast is trained, and word retrieval is not measured
# path = "words.tsv"  # English TAB translation; `prealign lexicon -h` reads other forms
"""


def proposed(found: list[Fertility], num_bytes: int) -> tuple[int | str, str]:
    """A number of new tokens for target text of so many bytes, or "auto"; and why."""
    largest = max((size for size in found[1:] if size.seen >= SELDOM), key=lambda s: s.new_tokens, default=None)
    if largest is None:
        return 0, f"too little text: half of the new tokens would be seen less than {SELDOM} times"
    saved = 1 - largest.share
    if saved < FEW_SAVED:
        return 0, f"{largest.new_tokens:,} new tokens would save {saved:.0%} of the tokens, hardly worth their rows"
    if num_bytes < LITTLE_BYTES:
        if largest.words and saved >= HALF_SAVED:
            return largest.new_tokens, f"{largest.new_tokens:,} new words save {saved:.0%} of the tokens"
        return 0, (
            f"{largest.new_tokens:,} new tokens would save {saved:.0%} of the tokens, but with little text the model "
            f'learns more in its old ones (docs/method.md); "auto" lets short trials decide'
        )
    return "auto", (
        f'"auto": short trials decide before the run; {largest.new_tokens:,} would save {saved:.0%} of the tokens, and '
        "0 is among them"
    )


def rows_rate(base: Fertility, size: int | str, lr: float) -> tuple[float, str]:
    """The rate of the new rows and why, 0 where they learn at the body's.

    Args:
        base: of the base's own tokens.
    """
    characters = base.characters / max(1, base.tokens)
    if size == 0 or characters >= LETTERS:
        return 0.0, ""
    return float(
        f"{FAST_ROWS * lr:.3g}"
    ), f"the base reads {characters:.2f} characters a token, so new rows have the most to learn"


def _table(found: list[Fertility]) -> str:
    rows = [f"{'new tokens':>10}  tokens of the base's  each seen (median)"]
    rows += [f"{size.new_tokens:>10,}  {size.share:>19.0%}  {size.seen:>18,.0f}" for size in found]
    return _lines(rows)


def _lines(rows: list[str]) -> str:
    return "\n# ".join(rows)


def _section(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {toml(value)}\n" for key, value in values.items())


def _pairs(recipe: Recipe) -> list[Pair]:
    """The pairs of the recipe's word list, cleaned."""
    listed = recipe.lexicon
    if not listed.path:
        return []
    return read_dictionary(recipe.path(listed.path), listed.format, recipe.language, listed.swapped)[0]


def _relative(named: str, folder: Path) -> str:
    """A path of the current folder as the recipe's folder has it."""
    if named.startswith(("cache:", "hf:", "/", "~")):
        return named
    return os.path.relpath(named, folder)


def _model(base: str) -> str:
    path = Path(base).expanduser()
    return str(path.absolute()) if len(path.parts) > 1 and path.is_dir() else base
