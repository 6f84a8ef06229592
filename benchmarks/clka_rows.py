"""Where do facts of one language stop? `python benchmarks/clka_rows.py CLONE RUN...`, of finished English-Clone runs.

CLONE is the folder that `prealign clone --facts` wrote. Each run's export is asked the questions as it is, and with the
clone tokens' rows replaced by the English ones that they mirror: in the embedding, in the head, in both. With both, a
clone question is the English one in other letters and must be answered alike; a step on the way that brings the answers
back is where they were lost. Prints one JSON object a line.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

from prealign_cpt.evaluate.clka import answer_ranks
from prealign_cpt.evaluate.data import QUESTIONS, read_questions
from prealign_cpt.model.load import load_whole
from prealign_cpt.model.tokens import start_token_id
from prealign_cpt.recipe.file import load_recipe

REPLACED = {"nothing": (), "embedding": (0,), "head": (1,), "both": (0, 1)}


@torch.no_grad()
def main(clone: str, *runs: str) -> None:
    rows = [line.split("\t") for line in (Path(clone) / "tokens.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    new, original = zip(*((int(row[0]), int(row[1])) for row in rows if row[1]), strict=True)
    questions = read_questions(Path(clone) / QUESTIONS)
    for run in map(Path, runs):
        model, tokenizer = load_whole(run / "export").eval(), AutoTokenizer.from_pretrained(run / "export")
        start = start_token_id(tokenizer, load_recipe(run / "recipe.toml"))
        tables = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
        trained = [table.clone() for table in tables]
        for name, which in REPLACED.items():
            for number, (table, before) in enumerate(zip(tables, trained, strict=True)):
                table.copy_(before)
                if number in which:
                    table[list(new)] = before[list(original)]
            ranks = answer_ranks(model, tokenizer, questions, start)
            accuracy = {"/".join(key): round(some.count(0.0) / len(some), 4) for key, some in sorted(ranks.items())}
            print(json.dumps({"run": run.name, "replaced": name, **accuracy}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
