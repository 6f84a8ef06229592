"""Hold out part of a lexicon to test with, so that nothing in the training part gives its answers away."""

import hashlib
import unicodedata
from collections import defaultdict

from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.run.errors import RecipeError


def split(pairs: list[Pair], heldout: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Training pairs and held-out pairs, both in the order of `pairs`.

    No source word and no target word of a held-out pair occurs in a training pair, not even inside a longer entry or
    in other case. Which pairs are held out depends on `seed` and on the set of pairs, not on their order.

    A held-out source takes all its pairs with it. It is drawn at random among the sources that are one word, whose
    translations are all one word, and none of which is spelt like the source. Training pairs that share a word with a
    held-out one are in neither list: they are lost. A source with more such pairs than pairs of its own is never
    drawn. (Whole connected components would lose nothing, but nearly all of a dictionary hangs together in one, and
    what is left beside it are rare words.)

    Args:
        heldout: share of the source words to hold out, at least 0 and below 1. Fewer are held out when too few qualify.
    """
    if not 0 <= heldout < 1:
        raise RecipeError(f"heldout is {heldout}; give the share of source words to hold out, from 0 to below 1")
    by_source: dict[str, list[int]] = defaultdict(list)
    by_source_word: dict[str, list[int]] = defaultdict(list)
    by_target_word: dict[str, list[int]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        by_source[pair.source.casefold()].append(number)
        for word in _words(pair.source):
            by_source_word[word].append(number)
        for word in _words(pair.target):
            by_target_word[word].append(number)

    held: set[int] = set()
    lost: set[int] = set()
    quota = int(heldout * len(by_source))
    for source in sorted(by_source, key=lambda source: _rank(source, seed)):
        if not quota:
            break
        own = set(by_source[source])
        if own & lost or not all(_qualifies(pairs[number]) for number in own):
            continue
        sharing = [by_source_word[word] for number in own for word in _words(pairs[number].source)]
        sharing += [by_target_word[word] for number in own for word in _words(pairs[number].target)]
        # Long lists are refused before they are joined: a function word has tens of thousands of pairs.
        if max(map(len, sharing)) > 2 * len(own):
            continue
        others = set().union(*sharing) - own
        if len(others) <= len(own):
            held |= own
            lost |= others - held
            quota -= 1
    train = [pair for number, pair in enumerate(pairs) if number not in held and number not in lost]
    return train, [pair for number, pair in enumerate(pairs) if number in held]


def _rank(source: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\t{source}".encode()).digest()


def _qualifies(pair: Pair) -> bool:
    source, target = pair.source.casefold(), pair.target.casefold()
    return " " not in source and " " not in target and source != target


def _words(text: str) -> set[str]:
    """The words of an entry for comparison: case-folded, without punctuation at their ends."""
    return {_trimmed(word) for word in text.casefold().split()}


def _trimmed(word: str) -> str:
    start, end = 0, len(word)
    while start < end and unicodedata.category(word[start])[0] == "P":
        start += 1
    while end > start and unicodedata.category(word[end - 1])[0] == "P":
        end -= 1
    return word[start:end]
