"""Code-switching written word by word from its definition: what the fast one has to equal.

Slow on purpose, and on purpose without any code of `prealign_cpt` but the constants of the rule.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

GOLDEN = 0x9E3779B97F4A7C15
WORD = 2**64


@dataclass
class Plain:
    """A switched document, and which words were there, chosen and replaced, as (start, end) of the source."""

    inputs: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    words: list[tuple[int, int]] = field(default_factory=list)
    chosen: list[tuple[int, int]] = field(default_factory=list)
    switched: list[tuple[int, int]] = field(default_factory=list)


def mixed(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORD
    return x ^ (x >> 31)


def draw(seed: int, epoch: int, document: int, word: int) -> int:
    key = 0
    for number in (seed, epoch, document):
        key = mixed((key + GOLDEN) % WORD ^ number)
    return mixed((key + (word + 1) * GOLDEN) % WORD)


def weighted(choices: Mapping[tuple[int, ...], float], number: int) -> tuple[int, ...]:
    """The choice in whose part of the weights a number below 2^32 falls."""
    if len(set(choices.values())) == 1:
        return list(choices)[number * len(choices) >> 32]
    point = number / 2**32 * sum(choices.values())
    *others, last = choices
    for choice in others:
        point -= choices[choice]
        if point < 0:
            return choice
    return last


def letters(text: str) -> bool:
    return bool(text) and all(
        unicodedata.category(c)[0] == "L" or unicodedata.category(c) in ("Mn", "Mc") for c in text
    )


def starts_word(text: str) -> bool:
    unspaced = unicodedata.name(text[:1] or " ", "").startswith(("CJK UNIFIED", "HIRAGANA", "THAI CHARACTER"))
    return letters(text[1:]) if text.startswith(" ") else letters(text) and unspaced and text[0].isalpha()


def goes_on(text: str) -> bool:
    return letters(text) and not starts_word(text)


def words_of(ids: Sequence[int], texts: Sequence[str]) -> list[tuple[int, int]]:
    words = []
    at = 0
    while at < len(ids):
        text = texts[ids[at]]
        end = at + 1
        if starts_word(text) or goes_on(text):
            while end < len(ids) and goes_on(texts[ids[end]]):
                end += 1
            if end == len(ids) or texts[ids[end]][:1] not in ("'", "’"):
                words.append((at, end))
        at = end
    return words


def switch(
    ids: Sequence[int],
    texts: Sequence[str],
    table: Mapping[tuple[int, ...], Mapping[tuple[int, ...], float]],
    ratio: float,
    labels: str,
    seed: int,
    epoch: int,
    document: int,
) -> Plain:
    """Switch one document whose token `i` adds the text `texts[i]`."""
    done = Plain(words=words_of(ids, texts))
    at = 0
    for number, (start, end) in enumerate(done.words):
        for i in ids[at:start]:
            done.inputs.append(i)
            done.labels.append(i)
            done.marks.append(0)
        at = end
        word = tuple(ids[start:end])
        random = draw(seed, epoch, document, number)
        is_chosen = (random >> 11) < round(ratio * 2**53)
        choices = table.get(word)
        if is_chosen:
            done.chosen.append((start, end))
        if is_chosen and choices:
            done.switched.append((start, end))
            new = weighted(choices, mixed(random ^ GOLDEN) >> 32)
            learned = list(new) if labels == "vanilla" else [word[0]] + [-100] * (len(new) - 1)
        else:
            new, learned = word, list(word)
        done.inputs += new
        done.labels += learned
        done.marks += [2 if is_chosen and choices else 1] + [0] * (len(new) - 1)
    done.inputs += ids[at:]
    done.labels += ids[at:]
    done.marks += [0] * (len(ids) - at)
    return done
