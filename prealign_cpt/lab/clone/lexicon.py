"""The clone's lexicon, perfect but for the knobs, and its word order.

    words of the text, most frequent first  --share--> kept --noise--> wrong targets --ambiguity--> second targets

A word stands in lower case if the text ever has it so, else as the text has it ("Moses").
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from prealign_cpt.lexicon.pairs import Pair

_WORD = re.compile(r"(?<![\w'’])[A-Za-z]+(?![\w'’])")
"""A whole word of ASCII letters. Beside an apostrophe it may be part of a contraction, which code-switching leaves."""

_NEIGHBOURS = re.compile(r"(?<!\S)([A-Za-z]+)( )(?=([A-Za-z]+)(?!\S))")
"""A word, a space and the next word, without punctuation at them."""


def count_words(documents: Iterable[str]) -> Counter[str]:
    """The word forms of some documents with how often they occur, forms that differ in case counted as one."""
    forms: Counter[str] = Counter()
    for document in documents:
        forms.update(_WORD.findall(document))
    by_lower: dict[str, Counter[str]] = {}
    for form, count in forms.items():
        by_lower.setdefault(form.lower(), Counter())[form] += count
    return Counter(
        {
            lower if lower in cases else max(cases, key=lambda form: (cases[form], form)): cases.total()
            for lower, cases in by_lower.items()
        }
    )


def make_lexicon(
    words: Mapping[str, int], clone: Callable[[str], str], share: float, noise: float, ambiguity: float, seed: int
) -> tuple[list[Pair], dict[str, int]]:
    """Pairs of each word and its clone, most frequent words first, and what the knobs did.

    Args:
        words: word -> how often it occurs.
        share: share of the words that is listed, the most frequent ones.
        noise: share of the listed words whose only translation is the clone of another of them.
        ambiguity: share of the listed words with a second translation behind the first, the clone of another word.
    """
    order = sorted(words, key=lambda word: (-words[word], word))
    kept = order[: max(1, round(share * len(order)))]
    target = {word: clone(word) for word in kept}
    draw = random.Random(f"lexicon {seed}")
    wrong = draw.sample(kept, round(noise * len(kept)))
    wrong = wrong if len(wrong) > 1 else []  # one word has nobody to change with
    target |= {word: clone(other) for word, other in zip(wrong, wrong[1:] + wrong[:1], strict=True)}
    second: dict[str, str] = {}
    for word in draw.sample(kept, round(ambiguity * len(kept))) if len(order) > 2 else []:
        other = draw.choice(order)
        while clone(other) in (target[word], clone(word)):
            other = draw.choice(order)
        second[word] = clone(other)
    pairs = []
    for word in kept:
        pairs.append(Pair(word, target[word]))
        if word in second:
            pairs.append(Pair(word, second[word]))
    counts = {"words": len(order), "listed": len(kept), "wrong": len(wrong), "ambiguous": len(second)}
    return pairs, counts


def swap_words(document: str, probability: float, draw: random.Random) -> str:
    """The document with words changed places with their right neighbours; no word moves twice.

    Args:
        probability: of each word, that it changes places with the next one. Words at punctuation or at the end of a
            line stay.
    """
    if not probability:
        return document
    parts, done = [], 0
    for match in _NEIGHBOURS.finditer(document):
        if match.start() < done or draw.random() >= probability:
            continue
        parts += [document[done : match.start()], match[3], match[2], match[1]]
        done = match.end(3)
    return "".join([*parts, document[done:]])
