"""Bilingual lexicons: the record of a pair, its canonical text, and the files it is kept in or read from.

A lexicon file (".tsv") is UTF-8. Lines end in one line feed and nothing else ends a line. A line that begins with `#`
is a comment; every other line is one pair, `source TAB target`, or `source TAB target TAB probability`. Both sides are
canonical (see `canonical`). A source with several translations takes several lines, the most usual translation first.

    formats (formats.py) --readers--> Row --clean.py--> Pair --write_pairs--> .tsv --read_pairs--> Pair

The readers judge nothing but what the bytes forbid.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import regex

from prealign_cpt.run.errors import DataError
from prealign_cpt.run.manifest import atomic_write
from prealign_cpt.text.lines import read_lines

COLUMNS = "wrong number of columns"

NO_PROBABILITY = "the third column is no probability"

INVISIBLE = regex.compile(
    r"(?V1)[\p{Cf}--[\u200c\u200d\u180e]]|(?<![[\p{L}\p{M}]--[\p{Latin}\p{Greek}\p{Cyrillic}]])[\u200c\u200d\u180e]"
)
"""Characters that a text can lose: marks of writing direction and of byte order, soft hyphens, zero-width spaces.

The joiners ZWNJ and ZWJ and the Mongolian vowel separator are invisible too, but spell words behind a letter or a mark
of the scripts that have them (Persian, the Indic scripts).
"""


@dataclass(frozen=True, order=True)
class Pair:
    """A word or short phrase of the source language (English) and one translation of it."""

    source: str
    target: str
    probability: float | None = field(default=None, compare=False)
    """Above 0, at most 1; the greater, the more a translation is that of the source. None: not known."""


class Row(NamedTuple):
    """One pair as a file has it."""

    line: int
    """Line number from 1, or number of the entry in a dictd database."""
    source: str
    target: str
    fault: str = ""
    """Why the reader could not make a pair of it; `source` then holds the text in question."""
    probability: float | None = None


def fault(text: str) -> str | None:
    """Why `text` cannot be part of a lexicon whatever is done to it, or None.

    Refused are controls (NUL, tab, vertical tab, ...), line and paragraph separators, and lone surrogates.
    """
    if text.isprintable():
        return None
    for character in text:
        category = unicodedata.category(character)
        if category == "Cs":
            return "lone surrogate"
        if category in ("Cc", "Zl", "Zp"):
            return "control character"
    return None


def canonical(text: str) -> str:
    """NFC without invisible characters, with every run of white space made one space and none at the ends."""
    return " ".join(unicodedata.normalize("NFC", _visible(text)).split())


def _visible(text: str) -> str:
    return text if text.isprintable() else INVISIBLE.sub("", text)


def pair_weights(pairs: Iterable[Pair]) -> dict[Pair, float]:
    """What each pair counts among those of its source: its probability, or 1 / (number of translations) without one."""
    distinct = list(dict.fromkeys(pairs))
    counts = Counter(pair.source for pair in distinct)
    return {pair: pair.probability or 1.0 / counts[pair.source] for pair in distinct}


def write_pairs(path: Path, pairs: Iterable[Pair], header: str) -> None:
    """Write a lexicon file, complete or not at all; every line of `header` becomes a comment.

    Raises:
        ValueError: a side is empty or not canonical, a probability is none, or a source begins with `#` and would read
            back as a comment.
        StorageError: the file cannot be written.
    """
    lines = [f"# {line}".rstrip() for line in header.split("\n")] if header else []
    for pair in pairs:
        for side in (pair.source, pair.target):
            if not side or fault(side) or canonical(side) != side:
                raise ValueError(f"not in canonical form: {side!r}")
        if pair.source.startswith("#"):
            raise ValueError(f"begins like a comment: {pair.source!r}")
        if pair.probability is not None and not 0 < pair.probability <= 1:
            raise ValueError(f"no probability: {pair.probability}")
        third = "" if pair.probability is None else f"\t{float(pair.probability)!r}"
        lines.append(f"{pair.source}\t{pair.target}{third}")
    atomic_write(path, "".join(f"{line}\n" for line in lines))


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a canonical lexicon file as they stand, nothing dropped; the inverse of `write_pairs`.

    Raises:
        DataError: a line is not what `write_pairs` writes.
        MissingInputError: the file is not there.
    """
    pairs = []
    for row in read_tsv(path):
        for side in (row.source, row.target):
            reason = row.fault or fault(side) or ("empty side" if not side else "")
            if reason or canonical(side) != side:
                raise DataError(
                    f"{path}:{row.line}: {reason or 'not canonical'}; pass the file through `prealign lexicon`"
                )
        pairs.append(Pair(row.source, row.target, row.probability))
    return pairs


def read_tsv(path: Path) -> Iterator[Row]:
    """Rows of a lexicon file, canonical or not; comments and lines without any character are passed over."""
    for number, line in read_lines(path):
        if line and not line.startswith("#"):
            fields = line.split("\t")
            if len(fields) != 3:
                yield _row(number, line, fields)
            elif (chance := probability(fields[2])) is None:
                yield Row(number, line, "", NO_PROBABILITY)
            else:
                yield Row(number, fields[0], fields[1], "", chance)


def read_muse(path: Path) -> Iterator[Row]:
    """Rows of a MUSE dictionary: the first run of spaces and tabs ends the source, the rest is the target."""
    for number, line in read_lines(path):
        if line:
            yield _row(number, line, re.split(r"[ \t]+", line.strip(" \t"), maxsplit=1))


def probability(text: str) -> float | None:
    """The number, if it is one above 0 and at most 1."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value <= 1 else None


def _row(number: int, line: str, fields: list[str]) -> Row:
    return Row(number, fields[0], fields[1]) if len(fields) == 2 else Row(number, line, "", COLUMNS)
