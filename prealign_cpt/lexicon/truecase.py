"""Words of running text, and their true case: how they are spelled where no capital is called for."""

from collections import Counter, defaultdict
from collections.abc import Iterable

import regex

WORD = regex.compile(r"[\p{L}\p{M}]+(?:['’\u200c\u200d-][\p{L}\p{M}]+)*")
"""Letters with their marks; apostrophes, hyphens and joiners inside a word are part of it."""

_BREAK = regex.compile(r"[.!?:;\"“”„«»…।]")


def usual_spellings(sentences: Iterable[str]) -> dict[str, str]:
    """Lower-case word -> the spelling that it mostly has inside sentences (`house`, `Haus`, `God`); lower case if it
    stands only where capitals are usual."""
    inside: dict[str, Counter[str]] = defaultdict(Counter)
    first: dict[str, str] = {}
    for sentence in sentences:
        end = 0
        for match in WORD.finditer(sentence):
            word = match.group()
            first[word.lower()] = word.lower()
            if end and not _BREAK.search(sentence[end : match.start()]):
                inside[word.lower()][word] += 1
            end = match.end()
    return first | {lower: min(spelled, key=lambda word: (-spelled[word], word)) for lower, spelled in inside.items()}
