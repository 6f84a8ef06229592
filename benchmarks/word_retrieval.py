"""Word retrieval of finished runs, measured anew: `python benchmarks/word_retrieval.py RUN...`.

For runs whose own figure was measured by an older rule: the split lexicon and the export of a run are enough. Prints
one JSON object a run; the fields are those of `Retrieval` (prealign_cpt/evaluate/representation/retrieval.py).
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from transformers import AutoTokenizer

from prealign_cpt.evaluate.representation.retrieval import word_retrieval
from prealign_cpt.lexicon.pairs import read_pairs
from prealign_cpt.model.load import load_whole
from prealign_cpt.model.tokens import start_token_id
from prealign_cpt.recipe.file import load_recipe


def main(*runs: str) -> None:
    for run in map(Path, runs):
        recipe = load_recipe(run / "recipe.toml")
        model, tokenizer = load_whole(run / "export").eval(), AutoTokenizer.from_pretrained(run / "export")
        train, heldout = (read_pairs(run / "lexicon" / f"{name}.tsv") for name in ("clean", "heldout"))
        found = word_retrieval(model, tokenizer, train, heldout, start_token_id(tokenizer, recipe), recipe.seed)
        print(json.dumps({"run": run.name, **(asdict(found) if found else {})}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
