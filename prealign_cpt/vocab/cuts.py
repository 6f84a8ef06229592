r"""Words that a byte-level tokenizer cuts at their marks before any merge, and a pre-tokenizer that leaves them whole.

    " हिन्दी"  ─ base: \p{L}+ ───────────►  " ह" "िन" "्द" "ी"      no merge can ever join these
             ─ for Devanagari ───────►  " हिन्दी"

Patterns of the GPT-2, Llama 3 and Qwen kind take a run of letters, and vowel signs (Hindi, Thai) and vocalisation
(Arabic, Hebrew) are marks, not letters. In the changed pattern `\p{L}+` becomes

    (?: (?: \p{L}* [letters of the scripts] [marks, joiners]+ )+ \p{L}* | \p{L}+ )

whose first way needs a letter of these scripts with a mark behind it, and whose second is the base's own. So a text
that has no such letter, as English has none, is cut as before, whatever the rest of the pattern says.
"""

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import regex
from tokenizers import Tokenizer

from prealign_cpt.text.scripts import JOINERS, letters_of, marked_script

CUT_SHARE = 0.1
"""Of a script's words, so many must be cut before its pre-tokenizer is changed: llama.cpp reads no changed one. In
Arabic as it is mostly written (7 % cut) the change would save 1 % of the tokens, in Hindi (88 %) 25 to 40 %."""

SAMPLE = 1_000_000
"""Characters of text that are looked at."""

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What `ByteLevel` cuts by where it has a pattern of its own (`use_regex`)."""

_LETTERS = re.compile(r"\\p\{L\}\+")
_WORD = regex.compile(rf"\p{{L}}[\p{{L}}\p{{M}}{JOINERS}]*")
_MARKED = regex.compile(rf"(\p{{L}})[\p{{M}}{JOINERS}]")


@dataclass(frozen=True)
class Cuts:
    """Running words of a text, letters with their marks, and what becomes of them before any merge."""

    words: int
    cut: int
    """Words that have a border within."""
    parts: int
    """Parts of all words: fewer tokens than these cannot be, however many are added."""
    by_script: dict[str, tuple[int, int]]
    """Of each script whose letters carry marks: its words in the text, and those that are cut at a mark."""

    @property
    def scripts(self) -> list[str]:
        """Those of which so many words are cut that another pre-tokenizer pays."""
        return sorted(name for name, (words, cut) in self.by_script.items() if cut >= max(2, CUT_SHARE * words))


def measure_cuts(backend: Tokenizer, documents: Iterable[str]) -> Cuts:
    """Count the words that a tokenizer cuts, in the first `SAMPLE` characters of some documents."""
    words = cut = parts = left = 0
    of_script: Counter[str] = Counter()
    cut_of: Counter[str] = Counter()
    left = SAMPLE
    for document in documents:
        text = document[:left]
        left -= len(text)
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        borders = _borders(backend, text)
        for word in _WORD.finditer(text):
            script = marked_script(word[0][0])
            within = bisect_left(borders, word.end()) - bisect_right(borders, word.start())
            words, cut, parts = words + 1, cut + (within > 0), parts + within + 1
            of_script[script] += 1
            if within and any(marked_script(mark[1]) == script for mark in _MARKED.finditer(word[0])):
                cut_of[script] += 1
        if left <= 0:
            break
    return Cuts(words, cut, parts, {name: (of_script[name], cut_of[name]) for name in sorted(cut_of) if name})


def whole_words(content: dict[str, Any], scripts: Sequence[str]) -> dict[str, Any] | None:
    """The content of tokenizer.json with a pre-tokenizer that keeps words of these scripts whole.

    Returns:
        A copy, of which nothing but `pre_tokenizer` differs; None where it is not of a kind that is known here.
    """
    content = deepcopy(content)
    outer = content["pre_tokenizer"]
    stages: list[dict[str, Any]] = []
    changed = False
    for stage in outer.get("pretokenizers", [outer]):
        if stage["type"] == "ByteLevel" and stage.get("use_regex", True):
            # A space that is put before each part would stand before each part of the new pattern too.
            if stage["add_prefix_space"]:
                return None
            split = {"type": "Split", "pattern": {"Regex": GPT2}, "behavior": "Isolated", "invert": False}
            parts = [split, stage | {"use_regex": False}]
        else:
            parts = [stage]
        for part in parts:
            pattern = part.get("pattern", {}).get("Regex", "")
            if part["type"] == "Split" and _LETTERS.search(pattern):
                part["pattern"] = {"Regex": _LETTERS.sub(lambda _: run_of(scripts), pattern)}
                changed = True
        stages += parts
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": stages}
    return content if changed else None


def run_of(scripts: Sequence[str]) -> str:
    """The pattern of a run of letters in which letters of these scripts keep their marks."""
    letters = "".join(map(letters_of, scripts))
    return rf"(?:(?:\p{{L}}*[{letters}][\p{{M}}{JOINERS}]+)+\p{{L}}*|\p{{L}}+)"


def is_recut(old: Tokenizer, new: Tokenizer, document: str, scripts: Sequence[str]) -> bool:
    """Whether a document is cut otherwise than before; never one without a letter of the scripts that carries a mark.

    Raises:
        AssertionError: one is.
    """
    before, after = (tokenizer.pre_tokenizer.pre_tokenize_str(document) for tokenizer in (old, new))
    if before == after:
        return False
    marked = {marked_script(mark[1]) for mark in _MARKED.finditer(document)}
    assert not marked.isdisjoint(scripts), f"a text without marked letters of {scripts} is cut otherwise"
    return True


def _borders(backend: Tokenizer, text: str) -> list[int]:
    if backend.pre_tokenizer is None:
        return []
    return sorted({start for _, (start, _) in backend.pre_tokenizer.pre_tokenize_str(text)})
