"""Other units in the contrastive loss: words in sentences, and sentences.

    veco           They saw the [house] | They saw the [Haus]        VECO 2.0 (arXiv 2304.08205)
    infoxlm, afp   The house is old. | Das Haus ist alt.             InfoXLM (2007.07834), AFP (2311.08089)

A causal model's vector of a word depends on nothing behind it, so a sentence ends with the word that is contrasted. The
other words of the English sentence come along as further negatives.
Shapes: L layers, U units, D hidden size.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prealign_cpt.align.contrast import Contrast, Member
from prealign_cpt.align.language_model import WINDOW
from prealign_cpt.align.stage import Material, Term
from prealign_cpt.align.units import ENGLISH, TARGET, Group, Unit, whole
from prealign_cpt.data.pack import encode
from prealign_cpt.data.word_spans import Documents, Words
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.tokens import token_texts
from prealign_cpt.model.vectors import encode_words
from prealign_cpt.text.parallel import line_pairs

LEFT = 24
"""Most tokens of a sentence that are given before a word."""

OCCURRENCES = 8
"""Places in English text that are kept of each listed word."""

QUEUE = 512
"""Sentences of earlier batches that InfoXLM keeps as negatives."""


def veco(material: Material) -> tuple[Term | None, dict[str, Any]]:
    """Listed words in English text against their translations in their place."""
    align = material.recipe.align
    listed = ListedWords(material.tokenizer, material.pairs, material.movable)
    groups = context_groups(material.english(), listed, align.steps * align.words, material.recipe.seed)
    nothing = "no translation can move, or none of their words stands in the English text"
    return material.contrast(groups, material.pairs, nothing)


def infoxlm(material: Material) -> tuple[Term | None, dict[str, Any]]:
    """Sentences and their translations; a vector is the mean over the sentence."""
    return _sentences(material, Queue)


def afp(material: Material) -> tuple[Term | None, dict[str, Any]]:
    """Sentences and their translations in one direction; a vector is that of the last token."""
    return _sentences(material, OneDirection, last_token=True)


class OneDirection(Contrast):
    """Only English units are anchors."""

    def is_anchor(self, member: Member) -> bool:
        return member.group is not None and member.is_english


class Queue(Contrast):
    """Units of earlier batches, at most QUEUE, are negatives too."""

    _earlier: Tensor | None = None
    _names: tuple[str, ...] = ()

    def candidates(self, batch: list[Member], vectors_LUD: Tensor) -> tuple[list[str], Tensor]:
        earlier = vectors_LUD.detach()[:, :0] if self._earlier is None else self._earlier
        names = list(self._names)
        units = [i for i, member in enumerate(batch) if member.group is not None]
        self._earlier = torch.cat([earlier, vectors_LUD.detach()[:, units]], dim=1)[:, -QUEUE:]
        self._names = (*self._names, *(batch[i].name for i in units))[-QUEUE:]
        return names, torch.cat([vectors_LUD, earlier], dim=1)


Translation = tuple[str, tuple[int, ...]]
"""A translation and its token ids, as it stands inside a sentence."""


class ListedWords:
    """Finds words of the lexicon, as they are spelled there and capitalised (translations then are too).

    Args:
        tokenizer: the grown one.
        movable: which translations to give, by their token ids; words without one are not given.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, pairs: list[Pair], movable: Callable[[list[int]], bool]
    ) -> None:
        texts = token_texts(tokenizer)
        self._words = Words(texts)
        self._ends_sentence = np.array([text.rstrip(" ")[-1:] in (".", "!", "?", "\n") for text in texts])
        self._source: dict[tuple[int, ...], str] = {}
        self._translations: dict[tuple[int, ...], list[Translation]] = {}
        for form in (lambda word: word), (lambda word: word[:1].upper() + word[1:]):
            sources = encode_words(tokenizer, [form(pair.source) for pair in pairs])
            targets = encode_words(tokenizer, [form(pair.target) for pair in pairs])
            for pair, source, target in zip(pairs, sources, targets, strict=True):
                self._source.setdefault(tuple(source), pair.source)
                translation = (pair.target, tuple(target))
                if source and target and source != target and movable(target):
                    known = self._translations.setdefault(tuple(source), [])
                    if translation not in known:
                        known.append(translation)

    def find(self, ids: list[int]) -> Iterator[tuple[Unit, list[Translation]]]:
        """The listed words of a document, front to back, each behind the left of its sentence (at most LEFT tokens).

        The sentence's other words are the unit's `others`, named as the lexicon spells them, or by their token ids.
        """
        if not ids:
            return
        array = np.array(ids, dtype=np.int32)
        words = self._words.find(Documents(array, np.array([0, len(array)])))
        behind = np.where(self._ends_sentence[array], np.arange(1, len(array) + 1), 0)
        sentence = np.concatenate([[0], np.maximum.accumulate(behind)])
        spans = list(zip(words.starts.tolist(), words.ends(words.starts).tolist(), strict=True))
        for number, (start, end) in enumerate(spans):
            word = tuple(ids[start:end])
            if word not in self._translations:
                continue
            first = max(int(sentence[start]), start - LEFT)
            others = []
            for s, e in reversed(spans[:number]):
                if s < first:
                    break
                other = tuple(ids[s:e])
                others.append((ENGLISH + self._source.get(other, str(other)), (s - first, e - first)))
            span = (start - first, end - first)
            unit = Unit(ENGLISH + self._source[word], tuple(ids[first:end]), span, tuple(others))
            yield unit, self._translations[word]


def context_groups(documents: Iterable[list[int]], listed: ListedWords, wanted: int, seed: int) -> list[list[Group]]:
    """For each listed word that the text has, the places where it stands, at most OCCURRENCES of them.

    Args:
        documents: token ids of English text; read until `wanted` places are found.
    """
    places: dict[str, list[Group]] = {}
    chooser = random.Random(seed)
    count = 0
    for ids in documents:
        for unit, translations in listed.find(ids):
            start = unit.span[0]
            if start == 0 or len(places.setdefault(unit.name, [])) >= OCCURRENCES:
                continue
            target, new = translations[chooser.randrange(len(translations))]
            switched = Unit(TARGET + target, unit.ids[:start] + new, (start, start + len(new)))
            places[unit.name].append(Group(unit, (switched,)))
            count += 1
        if count >= wanted:
            break
    return [places[name] for name in sorted(places) if places[name]]


def _sentences(
    material: Material, kind: type[Contrast], last_token: bool = False
) -> tuple[Term | None, dict[str, Any]]:
    recipe = material.recipe
    files = (recipe.path(recipe.text.parallel_english), recipe.path(recipe.text.parallel_target))
    pairs = [Pair(*pair) for pair in line_pairs(*files)]
    wanted = recipe.align.steps * recipe.align.words
    groups = sentence_groups(material.tokenizer, pairs, material.movable, wanted, recipe.seed)
    if last_token:
        groups = [Group(_last(group.english), tuple(map(_last, group.targets))) for group in groups]
    nothing = "no parallel sentence contains a new token"
    term, facts = material.contrast([[group] for group in groups], pairs, nothing, kind)
    if isinstance(term, Contrast):
        facts["target_bytes"] = sum(
            len(unit.name.encode()) - len(TARGET) for batch in term.batches for group in batch for unit in group.targets
        )
    return term, facts


def _last(unit: Unit) -> Unit:
    return replace(unit, span=(len(unit.ids) - 1, len(unit.ids)))


def sentence_groups(
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    movable: Callable[[list[int]], bool],
    wanted: int,
    seed: int,
) -> list[Group]:
    """Sentence pairs taken at random whose target side is `movable`; sentences end after WINDOW tokens."""
    order = random.Random(seed).sample(pairs, len(pairs))
    sides = (encode([getattr(pair, side) for pair in order], tokenizer) for side in ("source", "target"))
    encoded = zip(order, *([ids.tolist()[:WINDOW] for ids in side] for side in sides), strict=True)
    groups = (
        Group(whole(ENGLISH + pair.source, english), (whole(TARGET + pair.target, target),))
        for pair, english, target in encoded
        if english and target and movable(target)
    )
    return list(islice(groups, wanted))
