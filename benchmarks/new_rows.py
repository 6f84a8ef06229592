"""New rows before training, on validation text: `python benchmarks/new_rows.py RECIPE` after `prealign vocab RECIPE`.

Scores static rows for some mixtures and shrinkages, and the contrastive stage with and without target text in it.
Prints one line per arm and one JSON object at the end.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign_cpt.align.init import TextStatistics, old_tables, static_rows, write_rows
from prealign_cpt.align.stage import run_stage
from prealign_cpt.data.codeswitch import token_texts
from prealign_cpt.data.text import read_documents
from prealign_cpt.evaluate.scores import score_texts
from prealign_cpt.fetch import resolve_base
from prealign_cpt.lexicon.stage import read_pairs
from prealign_cpt.recipe_file import load_recipe
from prealign_cpt.vocab.rows import grow_rows

STATIC = [(0.0, 1.0), (0.0, 0.75), (0.0, 0.5), (0.3, 1.0)]
"""Lexicon weight and shrinkage."""

CONTRAST: list[dict[str, Any]] = [{"target_tokens": 0}, {"target_tokens": 512}, {"target_tokens": 512, "lr": 3e-4}]
"""Changes to the recipe's `align` section; all make 24 steps."""


def main(recipe_path: str, *flags: str) -> None:
    recipe = load_recipe(Path(recipe_path), list(flags))
    base = resolve_base(recipe.base.model)
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(recipe.run / "vocab")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).eval()
    pairs = read_pairs(recipe.run / "lexicon" / "clean.tsv")
    found = {"base": score_texts(model, old, recipe, ("valid",))["valid"]}
    grow_rows(model, len(new), len(old))
    ids, texts, tables = list(range(len(old), len(new))), token_texts(new)[len(old) :], old_tables(model, len(old))

    statistics = TextStatistics(
        [read_documents([path]) for path in recipe.paths(recipe.text.target)],
        [read_documents([path]) for path in recipe.paths(recipe.text.english)],
        recipe.seed,
    )

    def place(weight: float, shrink: float) -> None:
        align = dataclasses.replace(recipe.align, init="subword+lexicon", lexicon_weight=weight, shrink=shrink)
        write_rows(model, ids, static_rows(align, texts, old, new, pairs, *tables, statistics))

    def score(name: str) -> None:
        found[name] = score_texts(model, new, recipe, ("valid",))["valid"]
        print(name, found[name]["target_bpb"], found[name]["english_bpb"], flush=True)

    for weight, shrink in STATIC:
        place(weight, shrink)
        score(f"lexicon {weight}, shrink {shrink}")
    for changes in CONTRAST:
        place(recipe.align.lexicon_weight, recipe.align.shrink)
        align = dataclasses.replace(recipe.align, steps=24, **changes)
        run_stage(model, new, old, pairs, dataclasses.replace(recipe, align=align))
        score(f"contrastive, {changes}")
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
