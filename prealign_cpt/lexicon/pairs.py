"""The record of a bilingual lexicon, its canonical text and the file it is kept in.

A lexicon file (".tsv") is UTF-8. Lines end in one line feed and nothing else ends a line. A line that begins with `#`
is a comment; every other line is one pair, `source TAB target`. Both sides are canonical (see `canonical`). A source
with several translations takes several lines, the most usual translation first.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prealign_cpt.run.manifest import atomic_write

_JOINERS = "\u200c\u200d"
"""ZWNJ and ZWJ: invisible, but Persian and the Indic scripts spell words with them."""

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True, order=True)
class Pair:
    """A word or short phrase of the source language (English) and one translation of it."""

    source: str
    target: str


def fault(text: str) -> str | None:
    """Why `text` cannot be part of a lexicon whatever is done to it, or None.

    Refused are characters that change or hide text without being seen: controls (NUL, tab, vertical tab, ...), line and
    paragraph separators, writing direction marks, zero-width characters except the joiners, and lone surrogates.
    """
    if text.isprintable():
        return None
    for character in text:
        if character in _BIDI:
            return "bidirectional control"
        category = unicodedata.category(character)
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
