"""Scripts of text: which there are, in what shares."""

from collections import Counter
from collections.abc import Iterable, Mapping

import regex

SCRIPTS = (
    *("Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya"),
    *("Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala", "Thai", "Lao", "Myanmar", "Khmer", "Tibetan", "Georgian"),
    *("Armenian", "Ethiopic", "Hangul", "Hiragana", "Katakana", "Han", "Thaana", "Tifinagh", "Mongolian", "Cherokee"),
    *("Nko", "Syriac", "Javanese", "Ol_Chiki"),
)
"""Unicode's names (UAX #24) of the scripts of living languages with text on the web; others are "other"."""

_LETTERS = regex.compile(
    "|".join(rf"(?P<{name}>\p{{Script={name}}}+)" for name in SCRIPTS) + r"|(?P<other>\p{L}+)", regex.VERSION1
)


def script_shares(texts: Iterable[str]) -> dict[str, float]:
    """The share of each script in the letters (and marks) of some texts, the greatest first; empty without letters."""
    counts: Counter[str] = Counter()
    for text in texts:
        for found in _LETTERS.finditer(text):
            counts[str(found.lastgroup)] += len(found.group())
    total = sum(counts.values())
    return {name: round(count / total, 4) for name, count in counts.most_common() if count / total >= 0.0005}


def main_script(shares: Mapping[str, float]) -> str:
    """The script with the greatest share; "no" without letters."""
    return max(shares, key=shares.__getitem__, default="no")
