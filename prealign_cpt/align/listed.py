"""Where the lexicon's words stand in English token ids.

ids of a document ─► words (data/word_spans.py) ─► those that are listed, with the left of their sentence
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from prealign_cpt.data.word_spans import Documents, Words
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.tokens import token_texts
from prealign_cpt.model.vectors import encode_words

LEFT = 24
"""Most tokens of a sentence that are given before a word."""

Translation = tuple[str, tuple[int, ...]]
"""A translation and its token ids, as it stands inside a sentence."""


@dataclass(frozen=True)
class Listed:
    """A listed word in a document: its tokens are `ids[start:end]`.

    Attributes:
        source: as the lexicon spells it.
        context: where its sentence, or the last LEFT tokens of it, begins.
        before: name and span, counted from `context`, of each word between `context` and it. The name of a word that
            the lexicon does not have is its token ids.
    """

    source: str
    translations: tuple[Translation, ...]
    start: int
    end: int
    context: int
    before: tuple[tuple[str, tuple[int, int]], ...]


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
                found = (pair.target, tuple(target))
                if source and target and source != target and movable(target):
                    known = self._translations.setdefault(tuple(source), [])
                    if found not in known:
                        known.append(found)

    def find(self, ids: list[int]) -> Iterator[Listed]:
        """The listed words of a document, front to back."""
        if not ids:
            return
        array = np.array(ids, dtype=np.int32)
        found = self._words.find(Documents(array, np.array([0, len(array)])))
        starts, ends = found.starts, found.ends(found.starts)
        behind = np.where(self._ends_sentence[array], np.arange(1, len(array) + 1), 0)
        sentence = np.concatenate([[0], np.maximum.accumulate(behind)])
        spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
        for number, (start, end) in enumerate(spans):
            translations = self._translations.get(tuple(ids[start:end]))
            if not translations:
                continue
            context = max(int(sentence[start]), start - LEFT)
            before = []
            for s, e in reversed(spans[:number]):
                if s < context:
                    break
                key = tuple(ids[s:e])
                before.append((self._source.get(key, str(key)), (s - context, e - context)))
            yield Listed(self._source[tuple(ids[start:end])], tuple(translations), start, end, context, tuple(before))
