"""Language confusion: is a text that was begun in one language continued in that language? (LPR, WPR)

    completions --lines of some length--> identifier --> passed | failed | unknown

The line-level and word-level pass rates are those of Marchisio et al. 2024 (arXiv 2406.20052), with one change: there a
model that writes nothing, or lines too short to judge, scores 100 %. Here such a completion is "unknown", which is not
passed. The identifier is py3langid, restricted to the two languages; where they are written in different scripts, the
script must agree too. It cannot see a third language in the same script, nor nonsense, so its rates are an upper bound.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from prealign_cpt.text import languages
from prealign_cpt.text.languages import CONTENT_WORDS, FUNCTION_WORDS, long_enough

MIN_PROBABILITY = 0.7
"""Below it the identifier's answer is "unknown". On lines of 30 characters it then says unknown for about 1 %."""

MIN_SCRIPT_SHARE = 0.05
"""A script with this share of the letters of held-out text belongs to the language (Japanese has three)."""

LINE_CHARACTERS = 160
"""Held-out lines are cut here when the identifier itself is judged, to be about as long as what models write."""

PASSED, FAILED, UNKNOWN = "passed", "failed", "unknown"


@lru_cache(maxsize=4096)
def script_of(character: str) -> str:
    """The first word of a letter's Unicode name ("LATIN", "CYRILLIC"); empty for what is no letter."""
    return unicodedata.name(character, "").split(" ")[0] if character.isalpha() else ""


def main_script(texts: Iterable[str]) -> str:
    """The script of most letters; empty if there are none."""
    counts = _counts(texts)
    return counts.most_common(1)[0][0] if counts else ""


class Identifier:
    """Says which of two languages a line is in: "target", "english" or "unknown".

    Args:
        code: ISO 639-1 code of the target language, such as "de"; "" if none is known: then only the script is looked
            at.
        target, english: held-out text, which shows the scripts and, in `errors`, how often this identifier is wrong.

    Raises:
        ValueError: the two languages share their script and py3langid does not know the code.
    """

    def __init__(self, code: str, target: Sequence[str], english: Sequence[str]) -> None:
        self._english = {main_script(english)}
        self.by_script = main_script(target) not in self._english
        self.target_scripts = _scripts(target) - self._english if self.by_script else self._english
        self._identify = languages.Identifier()
        known = code != "en" and code in self._identify.languages
        if not known and not self.by_script:
            raise ValueError(
                f"py3langid does not know the language {code!r}, and its script is that of English; it knows "
                + " ".join(sorted(self._identify.languages))
            )
        if known:
            self._identify.only("en", code)
        self._names = {code: "target", "en": "english"} if known else {}

    def __call__(self, line: str) -> str:
        """The language of one line."""
        found = {self._by_script(line)} if self.by_script else set()
        if self._names:
            label, probability = self._identify.sure(line)
            found.add(self._names[label] if probability >= MIN_PROBABILITY else "unknown")
        return found.pop() if len(found) == 1 else "unknown"

    def _by_script(self, line: str) -> str:
        counts = Counter(script_of(character) for character in line)
        target, english = (sum(counts[script] for script in some) for some in (self.target_scripts, self._english))
        return "unknown" if target == english else "target" if target > english else "english"

    def errors(self, texts: Iterable[str], language: str) -> tuple[int, int]:
        """How many lines of text in a known language it does not recognise, and how many it was shown."""
        lines = [line[:LINE_CHARACTERS] for text in texts for line in text.split("\n") if long_enough(line)]
        return sum(self(line) != language for line in lines), len(lines)


def judge(completion: str, language: str, identify: Identifier) -> str:
    """`passed` if every line that is long enough is in the language, `unknown` if there is no such line."""
    lines = [line for line in completion.split("\n") if long_enough(line)]
    if not lines:
        return UNKNOWN
    found = {identify(line) for line in lines}
    if found == {language}:
        return PASSED
    return UNKNOWN if found <= {language, "unknown"} else FAILED


@dataclass(frozen=True)
class Rates:
    """What became of the completions in one language."""

    verdicts: tuple[str, ...]
    """Of each completion: passed, failed, unknown."""
    clean: tuple[bool, ...] | None
    """Of each passed one, whether it has no word of the other language; None where one script writes both."""

    @property
    def lpr(self) -> float:
        """Line-level pass rate: passed / all."""
        return self.verdicts.count(PASSED) / len(self.verdicts)

    @property
    def coverage(self) -> float:
        """Share that could be judged."""
        return 1 - self.verdicts.count(UNKNOWN) / len(self.verdicts)


def rate(completions: Sequence[str], language: str, identify: Identifier, english_words: frozenset[str]) -> Rates:
    """Judge completions that should be in `language` ("target" or "english").

    Args:
        english_words: lower-case words; see `english_vocabulary`.
    """
    verdicts = tuple(judge(text, language, identify) for text in completions)
    clean = None
    if identify.by_script:
        passed = [text for text, verdict in zip(completions, verdicts, strict=True) if verdict == PASSED]
        if language == "target":
            clean = tuple(not has_english_word(text, english_words) for text in passed)
        else:
            clean = tuple(not identify.target_scripts & {script_of(c) for c in text} for text in passed)
    return Rates(verdicts, clean)


def english_vocabulary(texts: Iterable[str]) -> frozenset[str]:
    """Lower-case English words of more than three letters: those of some text, and common ones."""
    words = Counter(word for text in texts for word in re.findall(r"[a-z]{4,}", text))
    return frozenset(words) | {word for word in FUNCTION_WORDS | CONTENT_WORDS if len(word) > 3}


def has_english_word(text: str, english_words: frozenset[str]) -> bool:
    """Whether a text has a lower-case English word of more than three letters (names are written with a capital)."""
    return any(word in english_words for word in re.findall(r"\b[a-z]{4,}\b", text))


def _scripts(texts: Iterable[str]) -> set[str]:
    counts = _counts(texts)
    return {script for script, count in counts.items() if count >= MIN_SCRIPT_SHARE * counts.total()}


def _counts(texts: Iterable[str]) -> Counter[str]:
    """Letters by script."""
    counts = Counter(script_of(character) for text in texts for character in text)
    del counts[""]
    return counts
