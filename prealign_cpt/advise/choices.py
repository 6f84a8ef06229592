"""The open keys of a recipe, chosen once for a run: `RUN/choices.json`.

    recipe with open keys --> RUN/text --> start token, sequence length, batch, steps --> flags for every stage

A run that is started again takes what was chosen, so that its stages stay what they are; if the text or the base has
changed, it chooses anew, and the stages say what is different.
"""

import json
import os
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from prealign_cpt.advise.memory import load_to_measure
from prealign_cpt.advise.schedule import passes, schedule
from prealign_cpt.advise.start_token import start_tokens
from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.tokens import encode_plain
from prealign_cpt.recipe.file import as_flags, dotted, left_open, load_recipe
from prealign_cpt.recipe.schema import AUTO, Recipe
from prealign_cpt.run import launch
from prealign_cpt.run.digests import Digests
from prealign_cpt.run.folder import say
from prealign_cpt.run.manifest import atomic_write
from prealign_cpt.stages import of_recipe
from prealign_cpt.text.stage import held_out_documents, text_report, training_sample

NAME = "choices.json"

ONLY_TEXT = ("--skip", "lexicon,vocab,data,init")
"""Options of `prealign prepare` with which it makes the texts alone."""

SAMPLE, SAMPLE_BYTES = 200, 16_000_000
"""Documents by which the base's bytes a token are measured, evenly spread over so much text."""

MANY_TIMES = 4
"""Readings of the English text behind which it no longer stands for English at large."""

SCHEDULE = ("data.sequence_length", "train.sequences", "train.steps", "train.eval_every", "train.save_every")


def choose(path: Path, flags: list[str], default_english: Callable[[], dict[str, Any]]) -> list[str]:
    """The flags, and those that close what the recipe leaves open, but for `vocab.size`.

    Of several ranks the first one chooses; the others wait for what it has written.

    Args:
        default_english: brings English text, and gives the recipe keys that name it.

    Raises:
        what the text stage, `resolve_base` and `start_tokens` raise.
    """
    recipe = load_recipe(path, flags, auto=True)
    wanted = [key for key in left_open(recipe) if key != "vocab.size"]
    if not wanted:
        return flags
    made_from = _made_from(recipe, wanted)
    chosen = _read(recipe, made_from)
    while chosen is None and os.environ.get("RANK", "0") != "0":
        time.sleep(1)
        chosen = _read(recipe, made_from)
    if chosen is None:
        chosen = _chosen(path, flags, recipe, wanted, default_english)
        content = {"made_from": made_from, "chosen": chosen}
        atomic_write(recipe.run / NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return [*flags, *as_flags(chosen)]


def _chosen(
    path: Path, flags: list[str], recipe: Recipe, wanted: list[str], default_english: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    if "text.english" in wanted:
        chosen |= default_english()
    launch.start(["prepare", str(path), *flags, *as_flags(chosen), *ONLY_TEXT])
    recipe = load_recipe(path, [*flags, *as_flags(chosen)], auto=True)
    base = resolve_base(recipe.base.model)
    if "base.start_token" in wanted:
        chosen["base.start_token"] = _start_token(recipe, base)
    if set(wanted) & set(SCHEDULE):
        values = dotted(recipe)
        tokens = num_tokens(recipe, base, "target")
        longest = int(AutoConfig.from_pretrained(base, local_files_only=True).max_position_embeddings)
        given = {key: values[key] for key in SCHEDULE if values[key] != AUTO}
        fitted = schedule(tokens, recipe.data.english_share, longest, given)
        chosen |= {key: fitted[key] for key in SCHEDULE if key in wanted}
        share = recipe.data.english_share
        english = num_tokens(recipe, base, "english")
        times = passes(fitted, english, 1 - share)
        say(
            f"{fitted['train.steps']:,} steps of {fitted['train.sequences']} x {fitted['data.sequence_length']} tokens "
            f"read {tokens:,} target tokens {passes(fitted, tokens, share):.1f} times, beside {share:.0%} of "
            f"{english:,} English tokens, read {times:.1f} times"
        )
        if times > MANY_TIMES:
            say(f"warning: the same English is read {times:.0f} times; give more of it (text.english)")
    return chosen


def _start_token(recipe: Recipe, base: Path) -> str:
    model = load_to_measure(base)
    if model is None:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        token = str(tokenizer.bos_token or tokenizer.eos_token)
        say(f"base.start_token = {token!r}: the tokenizer's own; the base is too large to be loaded for measuring here")
        return token
    bits = start_tokens(model, base, held_out_documents(recipe, "valid", "english"))
    best = min(bits, key=bits.__getitem__)
    told = ", ".join(f"{token!r} {value:.3f}" for token, value in sorted(bits.items(), key=lambda item: item[1]))
    say(f"base.start_token = {best!r}: English bits per byte after each: {told}")
    return best


def num_tokens(recipe: Recipe, base: Path, side: str) -> int:
    """Tokens of a side's training text in the base's tokenization, start and end tokens included: estimated by the
    bytes a token of a sample."""
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    report = text_report(recipe, side)
    found = list(training_sample(recipe, side, SAMPLE_BYTES))
    sample = list(islice(found, 0, None, max(1, len(found) // SAMPLE)))
    counted = sum(len(ids) + 2 for ids in encode_plain(tokenizer, sample))
    return round(report["bytes"] * counted / sum(len(document.encode()) for document in sample))


def _made_from(recipe: Recipe, wanted: list[str]) -> dict[str, Any]:
    digests = Digests(recipe.run / "digests.json")
    content = of_recipe("text", recipe, digests) | of_recipe("vocab", recipe, digests)
    del content["vocab.size"]
    values = dotted(recipe)
    given = {key: values[key] for key in SCHEDULE} | {"data.english_share": recipe.data.english_share}
    return {"open": wanted, **content, **given}


def _read(recipe: Recipe, made_from: dict[str, Any]) -> dict[str, Any] | None:
    try:
        content = json.loads((recipe.run / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content["chosen"] if isinstance(content, dict) and content.get("made_from") == made_from else None
