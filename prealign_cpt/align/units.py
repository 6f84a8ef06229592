"""What is contrasted: units and their translations, and batches of them, as pure functions of a seed.

    house | Haus, Gebäude                            words: PreAlign (arXiv 2407.16222)

A unit may also be a word inside a sentence, or a sentence; the laboratory makes those.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.vectors import encode_words

ENGLISH, TARGET = "e:", "t:"
"""Prefixes that keep `die` (English) and `die` (German) apart."""

Graph = Mapping[str, set[str]]
"""Word -> words that are no negatives of it."""


@dataclass(frozen=True)
class Unit:
    """Something with a vector.

    Attributes:
        name: with the prefix of its language.
        ids: what the model reads, without the start token.
        span: start and end (exclusive) of the tokens that the vector is the mean of.
        others: names and spans of further words in `ids`, which only serve as negatives.
    """

    name: str
    ids: tuple[int, ...]
    span: tuple[int, int]
    others: tuple[tuple[str, tuple[int, int]], ...] = ()


@dataclass(frozen=True)
class Group:
    """A unit and its translations."""

    english: Unit
    targets: tuple[Unit, ...]


def word_groups(
    tokenizer: PreTrainedTokenizerBase, pairs: list[Pair], movable: Callable[[list[int]], bool]
) -> list[Group]:
    """Lexicon entries with the translations whose ids are `movable`; entries without one are left out."""
    translations: dict[str, list[str]] = {}
    for pair in pairs:
        translations.setdefault(pair.source, []).append(pair.target)
    words = sorted({pair.target for pair in pairs})
    encoded = dict(zip(words, encode_words(tokenizer, words), strict=True))
    groups = []
    for source, ids in zip(translations, encode_words(tokenizer, list(translations)), strict=True):
        targets = tuple(
            whole(TARGET + word, encoded[word])
            for word in translations[source]
            if encoded[word] and movable(encoded[word])
        )
        if targets and ids:
            groups.append(Group(whole(ENGLISH + source, ids), targets))
    return groups


def whole(name: str, ids: list[int]) -> Unit:
    """A unit that is all that the model reads."""
    return Unit(name, tuple(ids), (0, len(ids)))


def batches(items: list[list[Group]], size: int, steps: int, seed: int) -> list[list[Group]]:
    """For each step `size` different items at random (fewer if there are fewer), and of each one of its groups."""
    chooser = random.Random(seed)
    drawn = []
    for _ in range(steps):
        chosen = chooser.sample(items, min(size, len(items)))
        drawn.append([chooser.choice(groups) for groups in chosen])
    return drawn


def connections(pairs: Iterable[Pair]) -> dict[str, set[str]]:
    """Words that share an entry, and English words (or translations) that share a translation (or an English word)."""
    direct: dict[str, set[str]] = {}
    for pair in pairs:
        direct.setdefault(ENGLISH + pair.source, set()).add(TARGET + pair.target)
        direct.setdefault(TARGET + pair.target, set()).add(ENGLISH + pair.source)
    return {word: near.union(*(direct[other] for other in near)) for word, near in direct.items()}
