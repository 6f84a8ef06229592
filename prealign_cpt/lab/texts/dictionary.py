"""A lexicon out of Debian's packages of FreeDict, for the languages that lexicons/ has no list of.

dictd databases --read_dictd--> rows --single words, by frequency in the text--> clean --> lexicon.tsv
"""

from collections import Counter
from pathlib import Path

import regex

from prealign_cpt.lexicon.clean import clean
from prealign_cpt.lexicon.dictd import read_dictd
from prealign_cpt.lexicon.pairs import Row, write_pairs
from prealign_cpt.run.errors import DataError

DICTIONARIES = {
    "el": [("dict-freedict-eng-ell", False), ("dict-freedict-ell-eng", True)],  # the first lacks "with" and "work"
    "hi": [("dict-freedict-eng-hin", False)],
}
"""Packages, and whether English is the target of their dictionary."""

MAX_TRANSLATIONS = 5


def write_lexicon(dictionaries: list[tuple[str, bool]], packages: Path, text: Path, out: Path) -> None:
    """Write the single words, English first: of each the five translations that are most frequent in `text`.

    A dictionary whose target is English is inverted. What explains a rare word then seems to translate ("sharp-headed"
    would be a word for "with"), so of such a dictionary only words that stand in `text` are taken.

    Args:
        dictionaries: as in `DICTIONARIES`; each package is unpacked in `packages`.
        text: in the target language.

    Raises:
        DataError: a package without a database, or as `read_dictd` and `clean`.
    """
    counts = Counter(regex.findall(r"[\p{L}\p{M}]+", text.read_text(encoding="utf-8").lower()))
    rows: list[Row] = []
    for name, is_inverted in dictionaries:
        index = next((packages / name).glob("usr/share/dictd/*.index"), None)
        if index is None:
            raise DataError(f"{name}: holds no dictionary; the package changed since this was written")
        for row in read_dictd(index):
            if len(row.source.split()) != 1 or len(row.target.split()) != 1:
                continue
            if not is_inverted:
                rows.append(row)
            elif row.source.lower() in counts:
                rows.append(row._replace(source=row.target, target=row.source))
    rows.sort(key=lambda row: -counts[row.target.lower()])
    pairs, _ = clean(rows, str(out), max_bad=1.0, max_per_source=MAX_TRANSLATIONS)
    pairs.sort(key=lambda pair: pair.source)
    names = ", ".join(name for name, _ in dictionaries)
    write_pairs(out, pairs, f"English, TAB, translation. Made from the Debian packages {names}.")
