"""The data stage: text to packed training sequences.

    data/target.inputs.npy  data/english.inputs.npy  data/english.labels.npy  data/report.json
    data/english_plain.inputs.npy     English that is not switched, for codeswitch.curriculum "falling"

What is drawn by chance (switched words, mixed tokenization) is drawn anew for every pass that the run will need, each
pass packed behind the one before; the text is tokenized once.
"""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from prealign_cpt.data.codeswitch import Respeller, Switched, Switcher
from prealign_cpt.data.mixture import Mixture, PackedText, falling
from prealign_cpt.data.pack import Packed, encode_many, pack
from prealign_cpt.data.word_spans import Documents
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.tokens import frame
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import DataError
from prealign_cpt.run.folder import say
from prealign_cpt.run.manifest import atomic_write
from prealign_cpt.text.stage import training_documents

MOST_PASSES = 16
"""Passes over a text that get chance of their own; later ones repeat them."""


def build_data(recipe: Recipe, base: Path, grown: Path, pairs: list[Pair], out: Path) -> None:
    """Fill `out` with packed text.

    Args:
        base, grown: folders of the base tokenizer and of the one grown from it.
        pairs: the training half of the lexicon.

    Raises:
        DataError: a text is too short to fill one sequence, or the English text has no words.
    """
    tokenizer = AutoTokenizer.from_pretrained(grown, local_files_only=True)
    base_tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    documents = _Counted(training_documents(recipe, "target"))
    packed = {"target": _pack_target(recipe, documents, tokenizer, base_tokenizer, out)}
    if recipe.data.english_share > 0:
        packed |= _pack_english(recipe, tokenizer, pairs, out)
    report: dict[str, Any] = {name: text.counts for name, text in packed.items()}
    for name, counts in report.items():
        say(
            f"data: {name}: {counts['documents']} documents, {counts['sequences']} sequences of "
            f"{recipe.data.sequence_length}, {counts['fill']:.1%} filled, {counts['dropped_tokens']} tokens left over"
        )
    passes = packed["target"].documents / documents.count
    report["target"]["bytes_per_token"] = round(documents.bytes * passes / packed["target"].tokens, 4)
    mixture = read_mixture(recipe, out)
    used: dict[str, list[int]] = {name: [] for name in packed}
    for n in range(_total(recipe)):
        name, row = mixture.locate(n)
        used[name].append(row)
    labels = np.unique(mixture.target.labels[sorted(set(used["target"]))])
    report["new_tokens_labelled"] = int((labels >= len(base_tokenizer)).sum())
    report["sequences_used"] = {name: len(rows) for name, rows in used.items()}
    if recipe.data.mixed_tokenization > 0:
        report["target"] |= _replaced(packed["target"], "respelled")
    if "english" in packed:
        report["english"] |= _replaced(packed["english"], "switched")
        replay = [name for name in packed if name != "target"]
        words = sum(int(packed[name].words_R[used[name]].sum()) for name in replay)
        switched = sum(int(packed[name].switched_R[used[name]].sum()) for name in replay)
        report["english"]["switched_share_used"] = round(switched / words, 4) if words else 0.0
    atomic_write(out / "report.json", json.dumps(report, indent=1))


def read_mixture(recipe: Recipe, folder: Path) -> Mixture:
    """The mixture of the texts that `build_data` has put into a folder."""
    replay = recipe.data.english_share > 0
    return Mixture(
        PackedText(folder / "target"),
        PackedText(folder / "english") if replay else None,
        recipe.data.english_share,
        recipe.seed,
        PackedText(folder / "english_plain") if replay and recipe.codeswitch.curriculum == "falling" else None,
        _total(recipe),
    )


class _Counted:
    """Documents, and how many there were and of how many bytes once they have been read."""

    def __init__(self, documents: Iterator[str]) -> None:
        self._documents, self.count, self.bytes = documents, 0, 0

    def __iter__(self) -> Iterator[str]:
        for document in self._documents:
            self.count += 1
            self.bytes += len(document.encode())
            yield document


def _pack_target(
    recipe: Recipe,
    documents: _Counted,
    tokenizer: PreTrainedTokenizerBase,
    base_tokenizer: PreTrainedTokenizerBase,
    out: Path,
) -> Packed:
    encoded = encode_many(documents, tokenizer, *frame(tokenizer, recipe))
    length, share = recipe.data.sequence_length, recipe.data.mixed_tokenization
    if share == 0:
        return pack(map(Switched.unchanged, encoded), length, out / "target")
    respeller = Respeller(tokenizer, base_tokenizer, share)
    needed = math.ceil(_total(recipe) * (1 - recipe.data.english_share))
    parts = (
        respeller.respell_many(documents, recipe.seed, epoch, first)
        for epoch, first, documents in _passes(list(encoded), needed, length)
    )
    return pack(parts, length, out / "target")


def _pack_english(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, pairs: list[Pair], out: Path
) -> dict[str, Packed]:
    documents = training_documents(recipe, "english")
    encoded = list(encode_many(documents, tokenizer, *frame(tokenizer, recipe)))
    switcher = Switcher(tokenizer, pairs, recipe.codeswitch.ratio, recipe.codeswitch.labels)
    length, needed = recipe.data.sequence_length, math.ceil(_total(recipe) * recipe.data.english_share)
    falls = recipe.codeswitch.curriculum == "falling"
    parts = (
        switcher.switch_many(documents, recipe.seed, epoch, first)
        for epoch, first, documents in _passes(encoded, falling(needed, needed) if falls else needed, length)
    )
    packed = {"english": pack(parts, length, out / "english", with_labels=True)}
    if not packed["english"].words:
        raise DataError("text.english: no words were found in it; is it English text?")
    if falls:
        plain = copy.copy(switcher)
        plain.ratio = 0.0
        parts = (plain.switch_many(documents, recipe.seed, 0, 0) for documents in encoded)
        packed["english_plain"] = pack(parts, length, out / "english_plain")
    return packed


def _total(recipe: Recipe) -> int:
    """Sequences of the whole run."""
    return recipe.train.steps * recipe.train.sequences


def _passes(encoded: list[Documents], needed: int, length: int) -> Iterator[tuple[int, int, Documents]]:
    """Pass, number of the first document, documents: as many passes as fill about `needed` rows of a length."""
    rows = max(1, sum(len(documents.ids) for documents in encoded) // length)
    for epoch in range(min(MOST_PASSES, max(1, math.ceil(needed / rows)))):
        first = 0
        for documents in encoded:
            yield epoch, first, documents
            first += len(documents)


def _replaced(text: Packed, what: str) -> dict[str, float]:
    """How many words were replaced, for the report."""
    return {
        "words": text.words,
        "chosen": text.chosen,
        what: text.switched,
        f"{what}_share": round(text.switched / text.words, 4) if text.words else 0.0,
    }
