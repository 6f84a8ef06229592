"""The data stage: text to packed training sequences.

    data/target.inputs.npy  data/english.inputs.npy  data/english.labels.npy  data/report.json

English is switched anew for every pass that the run will need, each pass packed behind the one before.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from prealign_cpt.data.batches import Mixture, PackedText
from prealign_cpt.data.codeswitch import Ids, Switched, Switcher
from prealign_cpt.data.pack import pack
from prealign_cpt.data.text import read_documents
from prealign_cpt.errors import DataError
from prealign_cpt.evaluate.scores import start_token_id
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.manifest import atomic_write
from prealign_cpt.recipe import Recipe

MOST_PASSES = 16
"""Passes over the English text that get switched words of their own; later ones repeat them."""


def build_data(recipe: Recipe, tokenizer_folder: Path, pairs: list[Pair], first_new: int, out: Path) -> None:
    """Fill `out` with packed text.

    Args:
        pairs: the training half of the lexicon.
        first_new: ids from here on are new tokens; how many of them ever are labels is reported.

    Raises:
        DataError: a text is too short to fill one sequence.
    """
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    start, length = start_token_id(tokenizer, recipe), recipe.data.sequence_length
    target = read_documents(recipe.paths(recipe.text.target))
    report: dict[str, Any] = {"target": pack(target, tokenizer, start, length, out / "target")}
    if recipe.data.english_share > 0:
        report["english"] = _pack_english(recipe, tokenizer, pairs, start, out)
    packed = {name: PackedText(out / name) for name in report}
    total = recipe.train.steps * recipe.train.sequences
    mixture = Mixture(packed["target"], packed.get("english"), recipe.data.english_share, recipe.seed)
    used = [mixture.locate(n) for n in range(total)]
    rows = sorted({row for name, row in used if name == "target"})
    labels = np.unique(packed["target"].labels[rows]) if rows else np.empty(0)
    report["new_tokens_labelled"] = int((labels >= first_new).sum())
    report["sequences_used"] = {name: sum(n == name for n, _ in used) for name in packed}
    atomic_write(out / "report.json", json.dumps(report, indent=1))


def _pack_english(recipe: Recipe, tokenizer: Any, pairs: list[Pair], start: int, out: Path) -> dict[str, Any]:
    switcher = Switcher(tokenizer, pairs, recipe.codeswitch.ratio, recipe.codeswitch.labels)
    documents = list(read_documents(recipe.paths(recipe.text.english)))
    bytes_per_pass = sum(len(document.encode()) for document in documents)
    wanted = math.ceil(recipe.train.steps * recipe.train.sequences * recipe.data.english_share)
    # A token is at least a byte, so this never promises more passes than the text can need.
    least_rows = max(1, bytes_per_pass // (6 * recipe.data.sequence_length))
    passes = min(MOST_PASSES, max(1, math.ceil(wanted / least_rows)))
    counts = pack(
        (document for _ in range(passes) for document in documents),
        tokenizer,
        start,
        recipe.data.sequence_length,
        out / "english",
        _by_pass(switcher, recipe.seed, len(documents)),
    )
    if not counts["words"]:
        raise DataError("text.english: no words were found in it; is it English text?")
    share = round(counts["switched"] / counts["words"], 4)
    return {**counts, "passes": passes, "switched_share": share}


def _by_pass(switcher: Switcher, seed: int, documents: int) -> Callable[[Ids, int], Switched]:
    """Document number `n` of the repeated text is document `n mod documents` of pass `n div documents`."""
    return lambda ids, n: switcher.switch(ids, seed, n // documents, n % documents)
