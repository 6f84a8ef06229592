"""The language of a line: by its script, which is certain, or by py3langid, whose errors are counted on held-out text.

line --letters--> mostly of scripts that the text should not have: foreign, certainly
     --py3langid, probability of a half or more--> a code; else "unsure"; lines of few words are "short"
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import regex

from prealign_cpt.text.languages import Identifier, long_enough
from prealign_cpt.text.scripts import SCRIPTS, script_shares

SHORT, UNSURE, OTHER_SCRIPT = "short", "unsure", "other script"

SURE = 0.5
"""Least probability, among 140 languages, of a language that is believed. Below it names, lists and mixed lines are
taken for languages that nobody wrote."""

NO_LANGUAGE = "zxx"
"""What py3langid says of code, numbers and the like."""

MIN_SHARE = 0.05
"""A script with this share of the letters of held-out text belongs to the language (Japanese has three)."""

LEAST_LETTERS = 5
"""Of a line in another script; a single letter is a symbol."""

MOST_WRONG = 0.2
"""An identifier that is wrong more often is not asked: then only scripts are looked at."""

LINE_CHARACTERS = 1_000
"""Of a line, so many are looked at."""

MOST_LINES = 20_000
"""Held-out lines on which it is judged."""


@dataclass(frozen=True)
class Side:
    """What a text should be in."""

    own: tuple[str, ...]
    """Codes as `Language.short` has them; of parallel text both."""
    scripts: tuple[str, ...]
    other: str = ""
    """Code of the language that is looked for."""
    other_scripts: tuple[str, ...] = ()
    identified: bool = True
    """Whether the identifier is asked."""


class Judge:
    """Says what a line of some text is in: a code, `OTHER_SCRIPT`, `SHORT` or `UNSURE`."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self._identify = _identifier()
        self._own, self._other = (_letters(scripts) for scripts in (side.scripts, side.other_scripts))

    def __call__(self, line: str) -> str:
        line = line[:LINE_CHARACTERS]
        if self.foreign_script(line):
            if (code := self._identified(line)) not in (UNSURE, *self.side.own):
                return code
            theirs = self._other is not None and 2 * _count(self._other, line) > _count(_LETTER, line)
            return self.side.other if theirs else OTHER_SCRIPT
        if not long_enough(line):
            return SHORT
        if not self.side.identified:
            return self.side.own[0]
        return self._identified(line)

    def _identified(self, line: str) -> str:
        code, probability = self._identify.sure(line)
        return code if probability >= SURE and code != NO_LANGUAGE else UNSURE

    def foreign_script(self, line: str) -> bool:
        """Whether most letters of a line are of scripts that its text should not have."""
        if self._own is None or (line.isascii() and "Latin" in self.side.scripts):
            return False
        letters = _count(_LETTER, line)
        return letters >= LEAST_LETTERS and 2 * _count(self._own, line) < letters

    def is_foreign(self, label: str) -> bool:
        """Whether a label says that a line is in another language."""
        return label not in self.side.own and label not in (SHORT, UNSURE)


def scripts_of(texts: Iterable[str], beside: str = "") -> tuple[str, ...]:
    """The scripts of a language by some text; the script `beside`, as that of names, only if there is no other."""
    found = [name for name, share in script_shares(texts).items() if share >= MIN_SHARE and name in SCRIPTS]
    return tuple(name for name in found if name != beside) or tuple(found)


def checked(side: Side, texts: Iterable[str]) -> tuple[Side, dict[str, Any]]:
    """The side, with the identifier asked or not, and how it judges held-out lines: "lines" long enough, "wrong",
    "unsure", and "taken_for", the codes that it gave wrongly. No lines: the identifier is believed, unchecked."""
    judge = Judge(side)
    lines = [line for text in texts for line in text.split("\n") if long_enough(line)][:MOST_LINES]
    labels = Counter(judge(line) for line in lines if not judge.foreign_script(line))
    taken_for = {label: count for label, count in labels.most_common() if judge.is_foreign(label)}
    wrong = sum(taken_for.values())
    asked = set(side.own) <= _identifier().languages and wrong <= MOST_WRONG * labels.total()
    about = {"lines": labels.total(), "wrong": wrong, "unsure": labels[UNSURE], "taken_for": taken_for}
    return replace(side, identified=asked), {"asked": asked, **about}


_LETTER = regex.compile(r"\p{L}+")
_identifier = lru_cache(1)(Identifier)


def _letters(scripts: tuple[str, ...]) -> "regex.Pattern[str] | None":
    names = "".join(rf"\p{{Script={name}}}" for name in scripts)
    return regex.compile(rf"[\p{{L}}&&[{names}]]+", flags=regex.V1) if scripts else None


def _count(letters: "regex.Pattern[str]", line: str) -> int:
    return sum(map(len, letters.findall(line)))
