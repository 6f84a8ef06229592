"""Code-switching: words of English text are replaced by translations, as a pure function of (seed, epoch, document).

Rule (PreAlign, arXiv 2407.16222, section 3.2, `labels="input_only"`): a word is chosen with probability `ratio`; if the
lexicon lists it, one of its translations replaces it in the *input*. Just before the span the label is the first token
of the original word, inside the span nothing is learned, after it all is as before:

    words    [1] [2 22] [3]     with 2-22 -> 901 902 903
    inputs    1  901 902 903  3
    labels    1    2  -100 -100  3      (labels[i] is what position i - 1 has to predict)

So the model reads the new language inside English, but is never asked to write it there.

Under `labels="soft"` (AlignLM, arXiv 2106.01732, for a decoder) the arrays are the same; the loss then gives a part of
the target probability to `inputs[i]`, which differs from `labels[i]` only where a switched word begins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from prealign_cpt.data import chance
from prealign_cpt.data.spans import SpanTable
from prealign_cpt.data.words import Documents, Ids, Places, Splice, Words, ragged
from prealign_cpt.data.words import token_texts as token_texts
from prealign_cpt.lexicon.pairs import Pair

IGNORED = -100
"""Label of a position that is not learned; torch's default `ignore_index`."""

Table = Mapping[tuple[int, ...], Sequence[tuple[int, ...]]]
"""Token ids of a word -> token ids of each of its translations."""


@dataclass(frozen=True)
class Switched:
    """Documents with some words replaced.

    Args:
        inputs, labels: int32 [N].
        borders: int64 [D+1]; document `d` is `inputs[borders[d] : borders[d + 1]]`.
        marks: uint8 [N]; 1 where a word begins, 2 where a replaced one does.
        words, chosen, switched: how many there were, how many the ratio chose, how many of those were replaced.
    """

    inputs: Ids
    labels: Ids
    borders: Places
    marks: NDArray[np.uint8]
    words: int = 0
    chosen: int = 0
    switched: int = 0

    @classmethod
    def unchanged(cls, documents: Documents) -> "Switched":
        """Documents as they are, their words not looked for."""
        ids = documents.ids
        return cls(ids, ids, documents.borders, np.zeros(len(ids), dtype=np.uint8))


class Switcher:
    """Switches documents of token ids. Built once for a tokenizer and a lexicon.

    Args:
        tokenizer: the grown tokenizer.
        pairs: English to target. A word is found in the forms `house`, `House` (then the translation is capitalised
            too), after a space or at the start of a line. Words before an apostrophe are left alone.
        ratio: probability that a word is chosen, before the lexicon is asked.
        labels: see `Codeswitch.labels` of the recipe.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        pairs: list[Pair],
        ratio: float,
        labels: Literal["input_only", "vanilla", "soft"] = "input_only",
    ) -> None:
        self._prepare(token_texts(tokenizer), token_table(tokenizer, pairs), ratio, labels)

    def _prepare(self, texts: Sequence[str], table: Table, ratio: float, labels: str) -> None:
        self.ratio, self.labels = ratio, labels
        self.words = Words(texts)
        self._sources = SpanTable(table, len(texts))
        self._num_choices = np.array([len(choices) for choices in table.values()], dtype=np.int64)
        self._first_choice = np.cumsum(self._num_choices) - self._num_choices
        choices = [choice for group in table.values() for choice in group]
        self._lengths = np.array([len(choice) for choice in choices], dtype=np.int64)
        self._offsets = np.cumsum(self._lengths) - self._lengths
        self._tokens = np.array([i for choice in choices for i in choice], dtype=np.int32)

    def switch(self, ids: Ids, seed: int, epoch: int, document: int) -> Switched:
        """Switch one document.

        Args:
            ids: int32 [N].
            seed, epoch, document: the only source of randomness, so ranks, workers and restarts agree.
        """
        return self.switch_many(Documents(ids, np.array([0, len(ids)])), seed, epoch, document)

    def switch_many(self, documents: Documents, seed: int, epoch: int, first: int) -> Switched:
        """Switch documents number `first`, `first + 1`, ...: the same as one by one, in far less time."""
        ids, found = documents.ids, self.words.find(documents)
        draws = chance.draws(chance.keys(seed, epoch, first, len(documents)), found.counts)
        chosen = np.flatnonzero(chance.happens(draws, self.ratio))
        listed, ends, words = self._sources.find(ids, found.starts[chosen], found.goes_on)
        replaced = chosen[listed]
        starts = found.starts[replaced]
        choice = self._first_choice[words] + chance.pick(draws[replaced], self._num_choices[words])
        lengths = self._lengths[choice]

        splice = Splice(len(ids), starts, ends, lengths)
        inputs = splice.apply(ids, self._tokens[ragged(self._offsets[choice], lengths)])
        labels = inputs.copy()
        if self.labels != "vanilla":
            labels[splice.inserted] = IGNORED
            labels[splice.at] = ids[starts]
        borders, marks = splice.moved(documents.borders), splice.marks(found.starts)
        return Switched(inputs, labels, borders, marks, len(found.starts), len(chosen), len(replaced))

    def spans(self, ids: Ids) -> tuple[Places, Places]:
        """Starts and ends (exclusive) of the words of a document: runs of letters that no apostrophe follows."""
        found = self.words.find(Documents(ids, np.array([0, len(ids)])))
        return found.starts, found.ends(found.starts)


def token_table(tokenizer: PreTrainedTokenizerBase, pairs: list[Pair]) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """Token ids of every form of a listed word -> token ids of its translations in that form, in the order given."""
    sources, targets = [], []
    for pair in pairs:
        for form in (lambda word: word), _capitalised:
            for lead in (" ", "\n"):
                sources.append(lead + form(pair.source))
                targets.append(lead + form(pair.target))
    newline = tuple(tokenizer.encode("\n", add_special_tokens=False))
    table: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for source, target in zip(_encode(tokenizer, sources), _encode(tokenizer, targets), strict=True):
        if source[: len(newline)] == newline and target[: len(newline)] == newline:
            source, target = source[len(newline) :], target[len(newline) :]
        if not source or not target or source == target:
            continue
        choices = table.setdefault(source, [])
        if target not in choices:
            choices.append(target)
    return table


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[tuple[int, ...]]:
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [tuple(ids) for ids in encoded]


def _capitalised(word: str) -> str:
    return word[:1].upper() + word[1:]
