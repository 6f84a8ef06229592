"""Scripts of text, by Unicode's own names: what letters are, which script a letter is of, which go without spaces, and
in what shares scripts stand in a text.

"हिन्दी"  ─► Devanagari; a word is letters with their marks      "図書館"  ─► Han; no space divides words
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache

import regex

UNSPACED = ("Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan", "Javanese",
            "Balinese", "Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet")  # fmt: skip
"""Scripts that put no space between words. Tibetan puts a mark between syllables, and none between words."""

MARKED = ("Latin", "Cyrillic", "Greek", "Hebrew", "Arabic", "Syriac", "Thaana", "Nko", "Devanagari", "Bengali",
          "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala", "Thai", "Lao",
          "Tibetan", "Myanmar", "Khmer", "Ethiopic", "Mongolian", "Javanese", "Balinese", "Sundanese", "Tai_Tham",
          "Meetei_Mayek", "Ol_Chiki", "Chakma", "Adlam", "Hiragana", "Katakana", "Hangul", "Armenian", "Georgian",
          "Tagalog", "Buginese", "Cham", "Limbu", "Lepcha", "Rejang", "Saurashtra", "Kayah_Li")  # fmt: skip
"""Scripts whose letters may carry combining marks."""

SCRIPTS = tuple(dict.fromkeys((*MARKED, *UNSPACED, "Tifinagh", "Cherokee")))
"""Those whose shares are told; letters of others are "other"."""

JOINERS = "\u200c\u200d"
"""ZWNJ and ZWJ: no letters, but they stand within words of Indic scripts and of Persian."""

_LETTERS = regex.compile(rf"[{JOINERS}]*(?:[\p{{L}}\p{{Mn}}\p{{Mc}}--[\ufe00-\ufe0f]][{JOINERS}]*)+", flags=regex.V1)
_UNSPACED = regex.compile(r"(?=\p{L})[" + "".join(rf"\p{{Script={name}}}" for name in UNSPACED) + "ー]")
_UNSPACED_UNITS = regex.compile(_UNSPACED.pattern + r"\p{M}*")
_RUNS = regex.compile(
    "|".join(rf"(?P<{name}>\p{{Script={name}}}+)" for name in SCRIPTS) + r"|(?P<other>\p{L}+)", flags=regex.V1
)


def script_shares(texts: Iterable[str]) -> dict[str, float]:
    """The share of each script in the letters (and marks) of some texts, the greatest first; empty without letters."""
    counts: Counter[str] = Counter()
    for text in texts:
        for found in _RUNS.finditer(text):
            counts[str(found.lastgroup)] += len(found.group())
    total = sum(counts.values())
    return {name: round(count / total, 4) for name, count in counts.most_common() if count / total >= 0.0005}


def main_script(shares: Mapping[str, float]) -> str:
    """The script with the greatest share; "no" without letters."""
    return max(shares, key=shares.__getitem__, default="no")


def is_letters(text: str) -> bool:
    """Whether a text is letters and their marks, with joiners or without, and nothing else. It may begin within a word,
    so with a mark; the marks of emoji (variation selectors, keycaps) are none of a word."""
    return _LETTERS.fullmatch(text) is not None


def is_unspaced(text: str) -> bool:
    """Whether a text begins with a letter of a script that puts no space before a word."""
    return _UNSPACED.match(text) is not None


def apart(text: str) -> str:
    """A text with spaces around each letter, with its marks, of the scripts that put none between words."""
    return text if text.isascii() else _UNSPACED_UNITS.sub(r" \g<0> ", text)


def in_running_text(word: str) -> str:
    """A word as it stands within a sentence: behind a space, or bare where its script has none."""
    return word if is_unspaced(word) else f" {word}"


def unspaced_share(text: str) -> float:
    """Share of a text's letters that are of scripts without spaces; 0 without letters."""
    letters = "".join(regex.findall(r"\p{L}+", text))
    return len(_UNSPACED.findall(letters)) / len(letters) if letters else 0.0


@cache
def marked_script(letter: str) -> str:
    """The script of `MARKED` that a letter is of; empty for all others."""
    return next((name for name in MARKED if regex.match(rf"\p{{Script={name}}}", letter)), "")


@cache
def letters_of(script: str) -> str:
    """The letters of a script as the inside of a bracket in a regular expression: ranges, each letter as itself, so
    that every engine reads them and none by another version of Unicode."""
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x20000)]))  # beyond are ideographs
    runs = regex.findall(rf"[\p{{Script={script}}}&&\p{{L}}]+", every, flags=regex.V1)
    return "".join(run if len(run) < 3 else f"{run[0]}-{run[-1]}" for run in runs)
