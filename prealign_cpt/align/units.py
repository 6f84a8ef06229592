"""What is contrasted: batches of words, of words in sentences, or of sentences, as pure functions of a seed.

    word             house | Haus, Gebäude                            PreAlign (arXiv 2407.16222)
    word-in-context  They saw the [house] | They saw the [Haus]       VECO 2.0 (arXiv 2304.08205)
    sentence         The house is old. | Das Haus ist alt.            InfoXLM (2007.07834), AFP (2311.08089)

A causal model's vector of a word depends on nothing behind it, so a sentence ends with the word that is contrasted. The
other words of the English sentence come along as further negatives.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from prealign_cpt.align.listed import ListedWords
from prealign_cpt.align.text import WINDOW
from prealign_cpt.data.pack import encode
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.vectors import encode_words
from prealign_cpt.run.errors import DataError, MissingInputError

ENGLISH, TARGET = "e:", "t:"
"""Prefixes that keep `die` (English) and `die` (German) apart."""

OCCURRENCES = 8
"""Places in English text that are kept of each listed word."""

Graph = Mapping[str, set[str]]
"""Word -> words that are no negatives of it."""


@dataclass(frozen=True)
class Unit:
    """Something with a vector.

    Attributes:
        name: with the prefix of its language.
        ids: what the model reads, without the start token.
        span: start and end (exclusive) of the tokens that the vector is taken from.
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
    targets: dict[str, list[str]] = {}
    for pair in pairs:
        targets.setdefault(pair.source, []).append(pair.target)
    words = sorted({pair.target for pair in pairs})
    encoded = dict(zip(words, encode_words(tokenizer, words), strict=True))
    groups = []
    for source, ids in zip(targets, encode_words(tokenizer, list(targets)), strict=True):
        found = tuple(_whole(TARGET + t, encoded[t]) for t in targets[source] if encoded[t] and movable(encoded[t]))
        if found and ids:
            groups.append(Group(_whole(ENGLISH + source, ids), found))
    return groups


def context_groups(documents: Iterable[list[int]], listed: ListedWords, wanted: int, seed: int) -> list[list[Group]]:
    """For each listed word that the text has, the places where it stands, at most OCCURRENCES of them.

    Args:
        documents: token ids of English text; read until `wanted` places are found.
        listed: the words, with translations that can move.
    """
    places: dict[str, list[Group]] = {}
    chooser = random.Random(seed)
    count = 0
    for ids in documents:
        for word in listed.find(ids):
            if word.start == word.context or len(places.setdefault(word.source, [])) >= OCCURRENCES:
                continue
            target, new = word.translations[chooser.randrange(len(word.translations))]
            left = tuple(ids[word.context : word.start])
            end = word.end - word.context
            others = tuple((ENGLISH + name, span) for name, span in word.before)
            english = Unit(ENGLISH + word.source, tuple(ids[word.context : word.end]), (len(left), end), others)
            switched = Unit(TARGET + target, left + new, (len(left), len(left) + len(new)))
            places[word.source].append(Group(english, (switched,)))
            count += 1
        if count >= wanted:
            break
    return [places[word] for word in sorted(places) if places[word]]


def sentence_groups(
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    movable: Callable[[list[int]], bool],
    wanted: int,
    seed: int,
) -> list[Group]:
    """Sentence pairs taken at random whose target side is `movable`; sentences end after WINDOW tokens."""
    order = random.Random(seed).sample(pairs, len(pairs))
    sides = zip(
        order,
        encode((pair.source for pair in order), tokenizer),
        encode((pair.target for pair in order), tokenizer),
        strict=True,
    )
    groups = (
        Group(_whole(ENGLISH + pair.source, english.tolist()[:WINDOW]), (_whole(TARGET + pair.target, ids[:WINDOW]),))
        for pair, english, ids in ((pair, english, target.tolist()) for pair, english, target in sides)
        if len(english) and ids and movable(ids[:WINDOW])
    )
    return list(islice(groups, wanted))


def read_parallel(english: Path, target: Path) -> list[Pair]:
    """Sentence pairs from two files, line n beside line n; pairs with a blank side are left out.

    Raises:
        MissingInputError: a file is not there.
        DataError: the files have different numbers of lines, hold no pair, or are not UTF-8.
    """
    sides = []
    for path in (english, target):
        try:
            lines = path.read_bytes().decode("utf-8-sig").split("\n")
        except OSError as error:
            raise MissingInputError(f"{path}: no such file of parallel sentences (text.parallel_*)") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 at byte {error.start}; convert the file, e.g. with iconv") from error
        sides.append([" ".join(line.split()) for line in (lines[:-1] if lines[-1] == "" else lines)])
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"{english} has {len(sides[0])} lines and {target} has {len(sides[1])}; line n of one must translate line "
            "n of the other"
        )
    pairs = [Pair(source, translation) for source, translation in zip(*sides, strict=True) if source and translation]
    if not pairs:
        raise DataError(f"{english}, {target}: no pair of sentences in them")
    return pairs


def batches(items: list[list[Group]], size: int, steps: int, seed: int) -> list[list[Group]]:
    """For each step `size` different items at random (fewer if there are fewer), and of each one of its groups."""
    chooser = random.Random(seed)
    found = []
    for _ in range(steps):
        chosen = chooser.sample(items, min(size, len(items)))
        found.append([chooser.choice(groups) for groups in chosen])
    return found


def connections(pairs: Iterable[Pair]) -> dict[str, set[str]]:
    """Words that share an entry, and English words (or translations) that share a translation (or an English word)."""
    direct: dict[str, set[str]] = {}
    for pair in pairs:
        direct.setdefault(ENGLISH + pair.source, set()).add(TARGET + pair.target)
        direct.setdefault(TARGET + pair.target, set()).add(ENGLISH + pair.source)
    return {word: near.union(*(direct[other] for other in near)) for word, near in direct.items()}


def _whole(name: str, ids: list[int]) -> Unit:
    return Unit(name, tuple(ids), (0, len(ids)))
