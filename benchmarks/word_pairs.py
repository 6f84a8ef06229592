"""Do translations keep together in training? `python benchmarks/word_pairs.py RUN...`, of finished English-Clone runs.

For each run, right after the alignment stage (`align`) and after continual pretraining (`export`), and for each layer:
the mean cosine of held-out pairs of the run's lexicon, that of training pairs, that of words which are no pair, and the
share of held-out words whose translation is the nearest of all (P@1, cosine). Vectors are centred for each language.
Prints one JSON object a line.
"""

import json
import random
import sys
import tomllib
from collections import Counter
from pathlib import Path

import torch
from transformers import AutoTokenizer

from prealign_cpt.evaluate.cosine import centred, nearest
from prealign_cpt.lexicon.pairs import read_pairs
from prealign_cpt.model.load import load_whole
from prealign_cpt.model.vectors import encode_words, vectors_of

PAIRS = 300
"""Of each half; words with one translation only, so that each has one right answer."""


def drawn(path: Path) -> list[tuple[str, str]]:
    pairs = [(pair.source, pair.target) for pair in read_pairs(path)]
    sources, targets = (Counter(pair[side] for pair in pairs) for side in (0, 1))
    alone = [pair for pair in pairs if sources[pair[0]] == targets[pair[1]] == 1]
    return random.Random(0).sample(alone, min(PAIRS, len(alone)))


@torch.no_grad()
def measure(run: Path, stage: str, halves: dict[str, list[tuple[str, str]]]) -> None:
    model, tokenizer = load_whole(run / stage).eval(), AutoTokenizer.from_pretrained(run / stage)
    start = tokenizer.convert_tokens_to_ids(tomllib.loads((run / "recipe.toml").read_text())["base"]["start_token"])
    words = [list(side) for side in zip(*(pair for pairs in halves.values() for pair in pairs), strict=True)]
    vectors = [vectors_of(model, encode_words(tokenizer, side), start, 4096) for side in words]
    held = len(halves["heldout"])
    for layer, (english_WD, target_WD) in enumerate(zip(*vectors, strict=True)):
        cosine = centred(english_WD) @ centred(target_WD).T
        pairs, right = cosine.diagonal(), nearest(cosine) == torch.arange(len(cosine))
        figures = {
            "heldout": pairs[:held].mean(),
            "seen": pairs[held:].mean(),
            "others": (cosine.sum() - pairs.sum()) / (cosine.numel() - len(pairs)),
            "p1_heldout": right[:held].float().mean(),
            "p1_seen": right[held:].float().mean(),
        }
        values = {name: round(float(value), 4) for name, value in figures.items()}
        print(json.dumps({"run": run.name, "stage": stage, "layer": layer, **values}), flush=True)


def main(*runs: str) -> None:
    for run in map(Path, runs):
        halves = {"heldout": drawn(run / "lexicon" / "heldout.tsv"), "seen": drawn(run / "lexicon" / "clean.tsv")}
        for stage in ("align", "export"):
            measure(run, stage, halves)


if __name__ == "__main__":
    main(*sys.argv[1:])
