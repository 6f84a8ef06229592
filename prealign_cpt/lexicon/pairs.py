"""Bilingual lexicons: the record of a pair, its canonical text, and the files it is kept in or read from.

A lexicon file (".tsv") is UTF-8. Lines end in one line feed and nothing else ends a line. A line that begins with `#`
is a comment; every other line is one pair, `source TAB target`. Both sides are canonical (see `canonical`). A source
with several translations takes several lines, the most usual translation first.

    tsv, muse, dictd (dictd.py) --readers--> Row --clean.py--> Pair --write_pairs--> .tsv --read_pairs--> Pair

The readers judge nothing but what the bytes forbid.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from prealign_cpt.run.errors import DataError
from prealign_cpt.run.manifest import atomic_write
from prealign_cpt.text.reader import read_lines

COLUMNS = "wrong number of columns"

_JOINERS = "\u200c\u200d"
"""ZWNJ and ZWJ: invisible, but Persian and the Indic scripts spell words with them."""

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True, order=True)
class Pair:
    """A word or short phrase of the source language (English) and one translation of it."""

    source: str
    target: str


class Row(NamedTuple):
    """One pair as a file has it."""

    line: int
    """Line number from 1, or number of the entry in a dictd database."""
    source: str
    target: str
    fault: str = ""
    """Why the reader could not make two columns of it; `source` then holds the text in question."""


def fault(text: str) -> str | None:
    """Why `text` cannot be part of a lexicon whatever is done to it, or None.

    Refused are characters that change or hide text without being seen: controls (NUL, tab, vertical tab, ...), line and
    paragraph separators, writing direction marks, zero-width characters except the joiners, and lone surrogates.
    """
    if text.isprintable():
        return None
    for character in text:
        category = unicodedata.category(character)
        if character in _BIDI:
            return "bidirectional control"
        if category == "Cs":
            return "lone surrogate"
        if category in ("Cc", "Zl", "Zp"):
            return "control character"
        if category == "Cf" and character not in _JOINERS:
            return "invisible character"
    return None


def canonical(text: str) -> str:
    """NFC, with every run of white space made one space and none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def write_pairs(path: Path, pairs: Iterable[Pair], header: str) -> None:
    """Write a lexicon file, complete or not at all; every line of `header` becomes a comment.

    Raises:
        ValueError: a side is empty or not canonical, or a source begins with `#` and would read back as a comment.
        StorageError: the file cannot be written.
    """
    lines = [f"# {line}".rstrip() for line in header.split("\n")] if header else []
    for pair in pairs:
        for side in (pair.source, pair.target):
            if not side or fault(side) or canonical(side) != side:
                raise ValueError(f"not in canonical form: {side!r}")
        if pair.source.startswith("#"):
            raise ValueError(f"begins like a comment: {pair.source!r}")
        lines.append(f"{pair.source}\t{pair.target}")
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
        pairs.append(Pair(row.source, row.target))
    return pairs


def read_tsv(path: Path) -> Iterator[Row]:
    """Rows of a lexicon file, canonical or not; comments and lines without any character are passed over."""
    for number, line in read_lines(path):
        if line and not line.startswith("#"):
            yield _row(number, line, line.split("\t"))


def read_muse(path: Path) -> Iterator[Row]:
    """Rows of a MUSE dictionary: the first run of spaces and tabs ends the source, the rest is the target."""
    for number, line in read_lines(path):
        if line:
            yield _row(number, line, re.split(r"[ \t]+", line.strip(" \t"), maxsplit=1))


def _row(number: int, line: str, fields: list[str]) -> Row:
    return Row(number, *fields) if len(fields) == 2 else Row(number, line, "", COLUMNS)
