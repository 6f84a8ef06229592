"""How hard the contrastive stage should pull: `python benchmarks/contrast_strength.py RECIPE`, after `prealign vocab`.

For some weights and learning rates, from the same static rows: the contrastive loss along 16 steps, bits per byte of
validation text before and after, and word retrieval. Prints one JSON object an arm; no target text is read.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign_cpt.align.init import old_tables, static_rows, write_rows
from prealign_cpt.align.stage import run_stage
from prealign_cpt.data.codeswitch import token_texts
from prealign_cpt.evaluate.retrieval import word_retrieval
from prealign_cpt.evaluate.scores import score_texts, start_token_id
from prealign_cpt.fetch import resolve_base
from prealign_cpt.lexicon.stage import read_pairs
from prealign_cpt.recipe_file import load_recipe
from prealign_cpt.vocab.rows import grow_rows

ARMS: list[dict[str, float]] = [
    {"weight": 0.1, "lr": 2e-3},
    {"weight": 1.0, "lr": 2e-3},
    {"weight": 1.0, "lr": 1e-2},
    {"weight": 5.0, "lr": 5e-3},
]


def main(recipe_path: str, *flags: str) -> None:
    recipe = load_recipe(Path(recipe_path), list(flags))
    base = resolve_base(recipe.base.model)
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(recipe.run / "vocab")
    pairs, heldout = (read_pairs(recipe.run / "lexicon" / f"{name}.tsv") for name in ("clean", "heldout"))
    for arm in ARMS:
        changes: dict[str, Any] = {"steps": 16, "words": 48, "target_tokens": 0, **arm}
        own = dataclasses.replace(recipe, align=dataclasses.replace(recipe.align, **changes))
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).eval()
        grow_rows(model, len(new), len(old))
        texts = token_texts(new)[len(old) :]
        rows = static_rows(own.align, texts, old, new, pairs, *old_tables(model, len(old)), None)
        write_rows(model, list(range(len(old), len(new))), rows)
        before = score_texts(model, new, own, ("valid",))["valid"]
        curve: list[dict[str, float]] = []
        run_stage(model, new, old, pairs, own, curve.append)
        after = score_texts(model, new, own, ("valid",))["valid"]
        found = word_retrieval(model, new, pairs, heldout, start_token_id(new, own), own.seed)
        figures = {
            **arm,
            "contrastive": [round(row["contrastive"], 3) for row in curve],
            "target_bpb": [before["target_bpb"], after["target_bpb"]],
            "english_bpb": [before["english_bpb"], after["english_bpb"]],
            "p1_heldout": found.p1 if found else None,
            "p1_seen": found.seen_p1 if found else None,
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
