"""One pass over some files of a text, in a worker process: what is counted, what is found, and the clean documents.

documents --blocks--> lines --judge, tokenizer--> lines and tokens by language, the most foreign documents
                            --overlap, pairs----> first place of each known hash (NAME.npz) and of each pair
                            --filter------------> NAME.jsonl, without duplicates removed; their signatures (NAME.npy)

A place is a number: `FILE` times the file's in the task, plus the document's in the file, from 0.
"""

import heapq
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from prealign_cpt.audit.duplicates import SHINGLE, mixed, signatures
from prealign_cpt.audit.judge import Judge, Side
from prealign_cpt.audit.overlap import Sought
from prealign_cpt.audit.pairs import Pairs
from prealign_cpt.text.grams import Words, normal
from prealign_cpt.text.sources import Entry

BLOCK = 200_000
"""Characters that are worked on at once."""

FILE = 1 << 30

MOST_FOREIGN, EXCERPT = 20, 160
"""Documents that are named, and characters of a line of them."""

REASONS = ("language", "test", "short", "long", "repetitive", "exact", "near")
"""Why a line (the first two) or a document is not in the clean copy."""

LEAST_WORDS, LONGEST_WORD = 5, 200
"""Words of a document that is no "short" one; bytes of a word that no "long" document has: keys, encoded data."""

MANY_GRAMS, LEAST_DIFFERENT = 50, 0.5
"""A document of so many 5-grams of which fewer are different is "repetitive"."""


@dataclass(frozen=True)
class Task:
    """What a worker is to read, and for what."""

    entry: Entry
    side: Side
    tokenizer: Path
    """Its `tokenizer.json`."""
    sought: Sought
    pairs: Pairs
    column: str = ""
    """Key of the clean documents; empty: none are written."""


def read(task: Task, prefix: Path) -> dict[str, Any]:
    """Read the files of a task; see the module's head. Returns "documents", "bytes", "languages" {label: [lines,
    tokens]}, "worst" [[of the language looked for, foreign tokens, place, label, excerpt], ...], "pairs" {number:
    place}, "removed" {reason: [lines or documents, bytes]}.

    Raises:
        as `read_documents`.
    """
    judge, tokenizer = Judge(task.side), _tokenizer(task.tokenizer)
    found = [np.full(len(task.sought.hashes), -1, dtype=np.int64) for _ in range(2)]
    languages: dict[str, list[int]] = {}
    worst: list[list[Any]] = []
    pairs: dict[int, int] = {}
    removed, removed_bytes, counts = Counter[str](), Counter[str](), Counter[str]()
    rows = [np.zeros((0, 15), dtype=np.uint64)]
    clean = prefix.with_suffix(".jsonl").open("w", encoding="utf-8") if task.column else None
    for places, documents in blocks(task.entry):
        split = [(i, line) for i, text in enumerate(documents) for line in text.split("\n") if line.strip()]
        of, lines = [i for i, _ in split], [line for _, line in split]
        words = Words([normal(line) for line in lines], of)
        labels = [judge(line) for line in lines]
        tokens = [len(encoded) for encoded in tokenizer.encode_batch_fast(lines, add_special_tokens=False)]
        for label, number in zip(labels, tokens, strict=True):
            count = languages.setdefault(label, [0, 0])
            count[0], count[1] = count[0] + 1, count[1] + number
        foreign = np.array([judge.is_foreign(label) for label in labels], dtype=bool)
        new = _worst(foreign, split, labels, tokens, places, task.side.other)
        worst = heapq.nlargest(MOST_FOREIGN, [*worst, *new])
        hits, repeats = task.sought.find(words, np.array(of))
        for which, documents_of, is_line in hits:
            new = found[is_line][which] < 0
            found[is_line][which[new][::-1]] = np.array(places)[documents_of[new][::-1]]  # the first one stays
        for number, document in task.pairs.find(words):
            pairs.setdefault(number, places[document])
        counts["documents"] += len(documents)
        counts["bytes"] += sum(len(text.encode()) for text in documents)
        if clean:
            kept = []
            for i, text, reasons in _filtered(documents, words, of, lines, foreign, repeats):
                for reason, size in reasons:
                    removed[reason] += 1
                    removed_bytes[reason] += size
                if text:
                    clean.write(json.dumps({task.column: text}, ensure_ascii=False) + "\n")
                    kept.append(i)
            rows.append(signatures(words, len(documents))[kept])
    np.savez(prefix.with_suffix(".npz"), grams=found[0], whole=found[1])
    if clean:
        clean.close()
        np.save(prefix.with_suffix(".npy"), np.concatenate(rows))
    by_reason = {reason: [removed[reason], removed_bytes[reason]] for reason in REASONS}
    return {**counts, "languages": languages, "worst": worst, "pairs": pairs, "removed": by_reason}


def blocks(entry: Entry) -> Iterator[tuple[list[int], list[str]]]:
    """The documents of an entry, many at once, with their places."""
    files = [
        replace(entry, files=(path,), others=entry.others[i : i + 1]) for i, path in enumerate(entry.files)
    ] or [entry]  # fmt: skip
    places: list[int] = []
    documents: list[str] = []
    size = 0
    for i, file in enumerate(files):
        for number, document in enumerate(file.documents()):
            places.append(i * FILE + number)
            documents.append(document)
            size += len(document)
            if size >= BLOCK:
                yield places, documents
                places, documents, size = [], [], 0
    if documents:
        yield places, documents


def _worst(
    foreign: NDArray[np.bool_], split: list[tuple[int, str]], labels: list[str], tokens: list[int], places: list[int],
    other: str,
) -> Iterator[list[Any]]:  # fmt: skip
    """The documents that have foreign lines, as `read` returns them."""
    sums: Counter[tuple[int, str]] = Counter()
    first: dict[tuple[int, str], str] = {}
    for at in np.flatnonzero(foreign).tolist():
        key = split[at][0], labels[at]
        sums[key] += tokens[at]
        first.setdefault(key, split[at][1][:EXCERPT])
    for (document, label), number in sums.items():
        yield [label == other, number, places[document], label, first[document, label]]


def _filtered(
    documents: list[str], words: Words, of: list[int], lines: list[str], foreign: NDArray[np.bool_],
    repeats: NDArray[np.bool_],
) -> Iterator[tuple[int, str, list[tuple[str, int]]]]:  # fmt: skip
    """The number of each document, what is left of it, and why how many bytes of it were left out."""
    cut = foreign | repeats
    number = len(documents)
    left = np.bincount(np.array(of), weights=np.where(cut, 0, words.counts), minlength=number)
    long = set(words.document[words.ends - words.starts > LONGEST_WORD].tolist())
    grams, first = words.grams(SHINGLE)
    many = np.bincount(words.document[first], minlength=number)
    _, at = np.unique(mixed(grams) + words.document[first].astype(np.uint64), return_index=True)
    different = np.bincount(words.document[first[at]], minlength=number)
    repetitive = (many >= MANY_GRAMS) & (different < LEAST_DIFFERENT * many)
    cuts: dict[int, list[tuple[str, int]]] = {}
    for line in np.flatnonzero(cut).tolist():
        reason = "language" if foreign[line] else "test"
        cuts.setdefault(of[line], []).append((reason, len(lines[line].encode())))
    flags = iter(cut.tolist())
    for i, text in enumerate(documents):
        kept = "\n".join(line for line in text.split("\n") if not line.strip() or not next(flags)).strip("\n")
        whole = "short" if left[i] < LEAST_WORDS else "long" if i in long else "repetitive" if repetitive[i] else ""
        reasons = cuts.get(i, [])
        if whole and kept.strip():
            reasons = [*reasons, (whole, len(kept.encode()))]
        yield i, "" if whole or not kept.strip() else kept, reasons


@lru_cache(1)
def _tokenizer(path: Path) -> Tokenizer:
    """Read without transformers, whose import takes longer than a small text."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True  # their spelling is text like any other
    return tokenizer
