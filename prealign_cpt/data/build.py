"""The data stage: text to packed training sequences, shard by shard.

    text/train/SOURCE/SHARD.jsonl --a worker each--> data/SOURCE/SHARD.inputs.npy, .labels.npy, .words.npy (pack.py)
                                                     data/SOURCE.plain/: English that is not switched, for
                                                     codeswitch.curriculum "falling"
                                                     data/report.json

A packed shard is a pure function of the recipe and the text's shard. What is drawn by chance (switched words, mixed
tokenization) is drawn anew for every pass that the run will need, each pass packed behind the one before; the text is
tokenized once.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from prealign_cpt.data.codeswitch import Respeller, Switched, Switcher
from prealign_cpt.data.mixture import Mixture, PackedText, falling
from prealign_cpt.data.pack import Packed, encode_many, pack
from prealign_cpt.data.report import data_report
from prealign_cpt.data.word_spans import Documents
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.tokens import frame, num_ids
from prealign_cpt.recipe.schema import SIDES, Recipe
from prealign_cpt.run.errors import DataError
from prealign_cpt.run.manifest import atomic_write
from prealign_cpt.run.tasks import each, take, worth
from prealign_cpt.text.reader import read_documents
from prealign_cpt.text.stage import shard_path, text_report

MOST_PASSES = 16
"""Passes over a text that get chance of their own; later ones repeat them."""

ESTIMATED_BYTES = 4_000_000
"""Of a source, by which its tokens are estimated where it is longer."""


def build_data(
    recipe: Recipe, base: Path, grown: Path, pairs: list[Pair], out: Path, scratch: Path, workers: int
) -> None:
    """Fill `out` with packed text.

    Args:
        base, grown: folders of the base tokenizer and of the one grown from it.
        pairs: the training half of the lexicon.
        scratch: folder of what is done by task, which may be there from an earlier start.

    Raises:
        DataError: a text is too short to fill one sequence, or the English text has no words.
    """
    tasks = packing_tasks(recipe, base, grown, pairs)
    size = sum(task.text.stat().st_size for task in tasks.values())
    done = each(pack_shard, tasks, scratch, worth(workers, size), "data")
    packed: dict[str, Packed] = {}
    for name, counts in done.items():
        of_shard, text = Packed(**counts), name.partition("/")[0]
        packed[text] = packed[text] + of_shard if text in packed else of_shard
    for text, counts in packed.items():
        if not counts.sequences:
            raise DataError(
                f"{text}: {counts.tokens} tokens do not fill one sequence of {counts.length}; "
                "give more text or lower data.sequence_length"
            )
        (out / text).mkdir()
        for path in (scratch / text).glob("*.npy"):
            take(path, out / text / path.name)
    report = data_report(recipe, packed, read_mixture(recipe, out), out, num_ids(_tokenizer(base)))
    atomic_write(out / "report.json", json.dumps(report, indent=1))


def read_mixture(recipe: Recipe, folder: Path) -> Mixture:
    """The mixture of the texts that `build_data` has put into a folder."""
    target, english, plain = (
        [PackedText(folder / name) for name in _names(recipe, kind)] for kind in ("target", "english", "english_plain")
    )
    weights = {side: recipe.weights(side) for side in SIDES}
    return Mixture(target, english, recipe.data.english_share, recipe.seed, plain, recipe.num_sequences, weights)


@dataclass(frozen=True)
class PackingTask:
    """What a packed shard is made from."""

    recipe: Recipe
    base: Path
    grown: Path
    pairs: tuple[Pair, ...]
    kind: str
    """Of `Mixture.texts`."""
    text: Path
    first: int
    """Number of its first document on its side: which words are drawn depends on it."""
    passes: int


def packing_tasks(recipe: Recipe, base: Path, grown: Path, pairs: list[Pair]) -> dict[str, PackingTask]:
    """The shards that are to be packed, by the names of their files without suffix."""
    tasks = {}
    for kind in ("target", "english", "english_plain"):
        side, first = kind.partition("_")[0], 0
        names = _names(recipe, kind)
        sources = text_report(recipe, side)["sources"] if names else []
        rows = [_rows(recipe, source, _tokenizer(grown)) for source in sources]
        shares = recipe.weights(side) or [one / sum(rows) for one in rows]
        for name, source, expected, share in zip(names, sources, rows, shares, strict=True):
            passes = math.ceil(_drawn(recipe, kind) * share / expected)
            for shard, documents, _ in source["shards"]:
                tasks[f"{name}/{shard}"] = PackingTask(
                    *(recipe, base, grown, tuple(pairs), kind, shard_path(recipe, source["name"], shard), first),
                    passes=min(MOST_PASSES, max(1, passes)),
                )
                first += documents
    return tasks


def pack_shard(task: PackingTask, out: Path) -> dict[str, int]:
    """Pack a shard into `out`.inputs.npy and so on; the counts, as `Packed` takes them."""
    recipe, tokenizer = task.recipe, _tokenizer(task.grown)
    documents = read_documents([task.text], recipe.text.column)
    encoded = encode_many(documents, tokenizer, *frame(tokenizer, recipe))
    switch, seed = recipe.codeswitch, recipe.seed
    parts: Iterator[Switched]
    if task.kind == "target" and not recipe.data.mixed_tokenization:
        parts = map(Switched.unchanged, encoded)
    elif task.kind == "target":
        respeller = _respeller(task.base, task.grown, recipe.data.mixed_tokenization)
        parts = (respeller.respell_many(some, seed, epoch, first) for epoch, first, some in _passes(encoded, task))
    else:
        switcher = _switcher(task.grown, task.pairs, switch.ratio if task.kind == "english" else 0.0, switch.labels)
        parts = (switcher.switch_many(some, seed, epoch, first) for epoch, first, some in _passes(encoded, task))
    return vars(pack(parts, recipe.data.sequence_length, out, with_labels=task.kind == "english"))


_tokenizer = lru_cache(2)(lambda folder: AutoTokenizer.from_pretrained(folder, local_files_only=True))


@lru_cache(2)
def _switcher(grown: Path, pairs: tuple[Pair, ...], ratio: float, labels: Any) -> Switcher:
    return Switcher(_tokenizer(grown), list(pairs), ratio, labels)


@lru_cache(1)
def _respeller(base: Path, grown: Path, share: float) -> Respeller:
    return Respeller(_tokenizer(grown), _tokenizer(base), share)


def _names(recipe: Recipe, kind: str) -> list[str]:
    """Folders of the packed texts of a kind."""
    side, _, plain = kind.partition("_")
    if (side == "english" and not recipe.data.english_share) or (plain and recipe.codeswitch.curriculum != "falling"):
        return []
    return [source.name + (".plain" if plain else "") for source in recipe.sources(side)]


def _drawn(recipe: Recipe, kind: str) -> int:
    """Sequences of a kind that need chance of their own."""
    if kind == "target":
        return (
            math.ceil(recipe.num_sequences * (1 - recipe.data.english_share)) if recipe.data.mixed_tokenization else 1
        )
    replay = math.ceil(recipe.num_sequences * recipe.data.english_share)
    if recipe.codeswitch.curriculum == "falling":
        return falling(replay, replay) if kind == "english" else 1
    return replay


def _rows(recipe: Recipe, source: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> float:
    """Sequences that a source fills, 1 or more; of a long one, estimated by its beginning."""
    tokens, size = 0, 0
    for shard, _, _ in source["shards"]:
        documents = read_documents([shard_path(recipe, source["name"], shard)], recipe.text.column)
        while size < ESTIMATED_BYTES and (some := list(islice(documents, 256))):
            tokens += sum(len(one.ids) for one in encode_many(some, tokenizer, *frame(tokenizer, recipe)))
            size += sum(len(document.encode()) for document in some)
    return max(1, int(tokens * source["bytes"] / size) // recipe.data.sequence_length)


def _passes(encoded: Iterator[Documents], task: PackingTask) -> Iterator[tuple[int, int, Documents]]:
    """Pass, number of the first document, documents."""
    kept = list(encoded) if task.passes > 1 else encoded
    for epoch in range(task.passes):
        first = task.first
        for documents in kept:
            yield epoch, first, documents
            first += len(documents)
