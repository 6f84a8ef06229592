"""How far output rows should be calibrated: `python benchmarks/calibration.py RECIPE [--KEY VALUE ...]`.

After `prealign prepare RECIPE`. From the static rows of the recipe: bits per byte of validation text for some
strengths. Prints one JSON object a line.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign_cpt.align.calibrate import calibrate
from prealign_cpt.align.initialize import first_rows, grow
from prealign_cpt.align.lexicon_rows import TextStatistics
from prealign_cpt.align.rows import write_rows
from prealign_cpt.lexicon.pairs import read_pairs
from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.bits import held_out, score
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.tokens import start_token_id
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.text.reader import read_documents

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def main(recipe_path: str, *flags: str) -> None:
    recipe = load_recipe(Path(recipe_path), list(flags))
    base = resolve_base(recipe.base.model)
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(recipe.run / "vocab")
    pairs = read_pairs(recipe.run / "lexicon" / "clean.tsv")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).eval()
    grow(model, recipe.align, len(new), len(old))
    statistics = TextStatistics(
        read_documents(recipe.paths(recipe.text.target)),
        read_documents(recipe.paths(recipe.text.english)),
    )
    rows, _ = first_rows(model, old, new, pairs, statistics, recipe)
    texts = statistics.target_text, statistics.english_text
    start = start_token_id(new, recipe)
    for strength in STRENGTHS:
        write_rows(model, len(old), rows)
        done = calibrate(model, old, new, *texts, strength, start, recipe.seed)
        bits = {
            f"{language}_bpb": round(score(LanguageModelLoss(model), prepared).bits_per_byte, 4)
            for language, prepared in held_out(recipe, "valid", new).items()
        }
        print(json.dumps({"init": recipe.align.init, "strength": strength, **bits, **done}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
