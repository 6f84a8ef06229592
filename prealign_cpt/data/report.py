"""What the data stage says of its texts: what there is, and what the run will read of it.

counts of packed shards, mixture --data_report--> by kind (target, english), by source; said too
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prealign_cpt.data.mixture import Mixture, PackedText
from prealign_cpt.data.pack import Packed
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import DataError
from prealign_cpt.run.folder import say
from prealign_cpt.text.stage import text_report

LOOKED_AT = 1_000_000
"""Sequences at the beginning of the run that are looked at."""

MANY_TIMES = 4
"""Readings of a text behind which more of them hardly help (Muennighoff et al. 2023, arXiv 2305.16264)."""


@dataclass(frozen=True)
class _Read:
    """A packed text and what the run reads of it."""

    kind: str
    text: PackedText
    packed: Packed
    rows: list[int]
    passes: int
    """How often the text stands in its rows."""


def data_report(recipe: Recipe, packed: dict[str, Packed], mixture: Mixture, out: Path, num_old: int) -> dict[str, Any]:
    """The stage's report.

    Args:
        packed: by the names of the texts of `mixture`.
        out: where their shards are.
        num_old: ids from here on are new tokens.

    Raises:
        DataError: the English text has no words.
    """
    read = list(_read(recipe, packed, mixture))
    looked_at = sum(len(one.rows) for one in read)
    report: dict[str, Any] = {"sources": {}}
    for one in read:
        share = len(one.rows) / looked_at
        times = share * recipe.num_sequences * one.passes / one.packed.sequences
        told = {"share": round(share, 4), "times_read": round(times, 2)}
        report["sources"][one.text.name] = one.packed.counts | told
        say(
            f"data: {one.text.name}: {one.packed.documents:,} documents, {one.packed.sequences:,} sequences of "
            f"{one.packed.length}, {one.packed.counts['fill']:.1%} filled; {share:.1%} of the run, read {times:.1f} "
            "times"
        )
        if one.kind == "target" and times > MANY_TIMES:
            say(f"data: warning: {one.text.name} is read {times:.0f} times; give more text, or fewer train.steps")
    for kind, texts in mixture.texts.items():
        if texts:
            report[kind] = _of_kind(recipe, kind, [one for one in read if one.kind == kind])
    report["sequences_used"] = {
        kind: sum(len(one.rows) for one in read if one.kind == kind) for kind, texts in mixture.texts.items() if texts
    }
    report["new_tokens_labelled"] = len(set().union(*(_new(one, num_old) for one in read if one.kind == "target")))
    if "english" in report:
        words = sum((_words(one, out) for one in read if one.kind != "target"), np.zeros(2, dtype=np.int64))
        report["english"]["switched_share_used"] = round(float(words[1] / words[0]), 4) if words[0] else 0.0
    return report


def _read(recipe: Recipe, packed: dict[str, Packed], mixture: Mixture) -> Iterator[_Read]:
    used: dict[tuple[str, int], list[int]] = {}
    for n in range(min(recipe.num_sequences, LOOKED_AT)):
        kind, source, row = mixture.locate(n)
        used.setdefault((kind, source), []).append(row)
    for kind, texts in mixture.texts.items():
        reported = text_report(recipe, kind.partition("_")[0])["sources"] if texts else []
        for i, (text, source) in enumerate(zip(texts, reported, strict=True)):
            counts = packed[text.name]
            yield _Read(kind, text, counts, used.get((kind, i), []), counts.documents // source["documents"])


def _of_kind(recipe: Recipe, kind: str, read: list[_Read]) -> dict[str, float]:
    whole = sum((one.packed for one in read[1:]), read[0].packed)
    if kind == "english" and not whole.words:
        raise DataError("text.english: no words were found in it; is it English text?")
    counts = whole.counts
    if kind == "target":
        size = sum(
            one.passes * source["bytes"]
            for one, source in zip(read, text_report(recipe, "target")["sources"], strict=True)
        )
        counts["bytes_per_token"] = round(size / whole.tokens, 4)
    if kind == "english_plain" or (kind == "target" and not recipe.data.mixed_tokenization):
        return counts
    what = "respelled" if kind == "target" else "switched"
    share = round(whole.switched / whole.words, 4) if whole.words else 0.0
    return counts | {"words": whole.words, "chosen": whole.chosen, what: whole.switched, f"{what}_share": share}


def _new(one: _Read, num_old: int) -> set[int]:
    """New tokens among the labels that are read."""
    found: set[int] = set()
    for row in sorted(set(one.rows)):
        labels = one.text.row(row)[1]
        found.update(labels[labels >= num_old].tolist())
    return found


def _words(one: _Read, out: Path) -> Any:
    """Words in the rows that are read, and those of them that were replaced; int64 [2]."""
    counts = [np.load(path) for path in sorted((out / one.text.name).glob("*.words.npy"))]
    return np.concatenate(counts)[one.rows].sum(axis=0) if counts and one.rows else np.zeros(2, dtype=np.int64)
