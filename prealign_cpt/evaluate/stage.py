"""Temporary: replaced at the merge."""

import json
from pathlib import Path

import torch
from transformers import AutoTokenizer

from prealign_cpt.evaluate.scores import score_all, score_texts
from prealign_cpt.lexicon.stage import read_pairs
from prealign_cpt.model.load import load_whole
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.manifest import atomic_write


def build_eval(
    recipe: Recipe, base: Path, aligned: Path, export: Path, lexicon: Path, out: Path, device: torch.device
) -> None:
    models = {"trained": export}
    if recipe.evaluate.before_training:
        models = {"base": base} | ({"aligned": aligned} if recipe.vocab.size else {}) | models
    pairs, heldout = read_pairs(lexicon / "clean.tsv"), read_pairs(lexicon / "heldout.tsv")
    found = {}
    for name, folder in models.items():
        model = load_whole(folder, torch.bfloat16 if recipe.train.precision == "bf16" else torch.float32).to(device)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        found[name] = score_texts(model.eval(), tokenizer, recipe, ("valid",))
        found[name] |= score_all(model.eval(), tokenizer, recipe, pairs, heldout)
    atomic_write(out / "report.json", json.dumps({"models": found}, indent=1))
