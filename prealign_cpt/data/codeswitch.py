"""Words of a text replaced at random, as a pure function of (seed, epoch, document, word).

*Code-switching* of English (PreAlign, arXiv 2407.16222, section 3.2, `labels="input_only"`): a word is chosen with
probability `ratio`; if the lexicon lists it, one of its translations replaces it in the *input*, drawn by their
probabilities where the lexicon gives them. Just before the span the label is the first token of the original word,
inside the span nothing is learned, after it all is as before:

    words    [1] [2 22] [3]     with 2-22 -> 901 902 903
    inputs    1  901 902 903  3
    labels    1    2  -100 -100  3      (labels[i] is what position i - 1 has to predict)

So the model reads the new language inside English, but is never asked to write it there. Under `labels="soft"`
(AlignLM, arXiv 2106.01732, for a decoder) the arrays are the same; the loss then gives a part of the target probability
to `inputs[i]`, which differs from `labels[i]` only where a switched word begins. Over many draws each translation gets
the part that its probability is of those of all.

*Mixed tokenization* of target text: some words are spelled in the base tokenizer's tokens instead of the new ones, so
that both are seen in the same places. Labels are the inputs.

    grown      [Das] [ Wasser] [ ist]           new token: " Wasser"
    respelled  [Das] [ W] [asser] [ ist]        with a probability per word
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from prealign_cpt.data.word_spans import (
    Documents,
    Draws,
    Ids,
    Places,
    SpanTable,
    Splice,
    Words,
    WordSpans,
    document_keys,
    happens,
    pick,
    ragged,
    shares,
    word_draws,
)
from prealign_cpt.lexicon.pairs import Pair, pair_weights
from prealign_cpt.model.loss import IGNORED
from prealign_cpt.model.tokens import encode_plain, is_byte_token, num_ids, token_texts
from prealign_cpt.text.scripts import is_unspaced

Table = Mapping[tuple[int, ...], Mapping[tuple[int, ...], float]]
"""Token ids of a word -> token ids of each of its translations -> weight in the choice."""


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
        self._shares = shares(list(group.values()) for group in table.values())
        choices = [choice for group in table.values() for choice in group]
        self._lengths = np.array([len(choice) for choice in choices], dtype=np.int64)
        self._offsets = np.cumsum(self._lengths) - self._lengths
        self._tokens = np.array([i for choice in choices for i in choice], dtype=np.int32)

    def switch(self, ids: Ids, seed: int, epoch: int, document: int) -> Switched:
        """Switch one document, int32 [N]."""
        return self.switch_many(Documents.of(ids), seed, epoch, document)

    def switch_many(self, documents: Documents, seed: int, epoch: int, first: int) -> Switched:
        """Switch documents number `first`, `first + 1`, ...: the same as one by one, in far less time.

        Args:
            seed, epoch, first: the only source of randomness, so ranks, workers and restarts agree.
        """
        spans, draws, chosen = _choose(self.words, documents, seed, epoch, first, self.ratio)
        listed, ends, words = self._sources.find(documents.ids, spans.starts[chosen], spans.goes_on)
        replaced = chosen[listed]
        starts = spans.starts[replaced]
        choice = pick(draws[replaced], words, self._shares)
        lengths = self._lengths[choice]
        tokens = self._tokens[ragged(self._offsets[choice], lengths)]
        splice, switched = _replace(documents, spans, len(chosen), starts, ends, lengths, tokens)
        if self.labels == "vanilla":
            return switched
        labels = switched.inputs.copy()
        labels[splice.inserted] = IGNORED
        labels[splice.at] = documents.ids[starts]
        return dataclasses.replace(switched, labels=labels)


class Respeller:
    """Respells words of documents of token ids.

    Args:
        grown: the tokenizer of the ids; its ids from `num_ids(base)` on are the new tokens.
        base: the tokenizer that `grown` was grown from.
        probability: that a word is chosen; of the chosen words those that hold a new token are respelled.
    """

    def __init__(self, grown: PreTrainedTokenizerBase, base: PreTrainedTokenizerBase, probability: float) -> None:
        self._grown, self._base, self.probability = grown, base, probability
        self._words, self._first_new = Words(token_texts(grown)), num_ids(base)
        self._letter = grown.encode("a", add_special_tokens=False)
        old, new = (tokenizer.backend_tokenizer.pre_tokenizer for tokenizer in (base, grown))
        self._same_cut = old is None or old.__getstate__() == new.__getstate__()
        self._known: dict[tuple[int, ...], Ids] = {}

    def respell(self, ids: Ids, seed: int, epoch: int, document: int) -> Ids:
        """One document, int32; it decodes to the same text as before."""
        return self.respell_many(Documents.of(ids), seed, epoch, document).inputs

    def respell_many(self, documents: Documents, seed: int, epoch: int, first: int) -> Switched:
        """Documents number `first`, `first + 1`, ...; `switched` counts the respelled words."""
        ids = documents.ids
        spans, _, chosen = _choose(self._words, documents, seed, epoch, first, self.probability)
        starts = spans.starts[chosen]
        ends = spans.ends(starts)
        new_before = np.concatenate([[0], np.cumsum(ids >= self._first_new)])
        holds_new = new_before[ends] > new_before[starts]
        starts, ends = starts[holds_new], ends[holds_new]
        spellings = [self._spelling(tuple(ids[s:e].tolist())) for s, e in zip(starts, ends, strict=True)]
        lengths = np.array([len(spelling) for spelling in spellings], dtype=np.int64)
        tokens = np.concatenate([*spellings, np.empty(0, dtype=np.int32)])
        return _replace(documents, spans, len(chosen), starts, ends, lengths, tokens)[1]

    def _spelling(self, word: tuple[int, ...]) -> Ids:
        """The base tokenizer's spelling of a word, or the word itself where that would not decode alike."""
        if word not in self._known:
            # Straight to the merges: encoding the text would let the tokenizer put a space before it (SentencePiece).
            merges = self._base.backend_tokenizer.model
            spelling: list[int] = []
            for is_byte, run in groupby(word, key=self._is_byte):
                tokens = list(run)
                spelling += (
                    tokens if is_byte else [token.id for part in self._cut(tokens) for token in merges.tokenize(part)]
                )
            alike = self._text(spelling) == self._text(list(word))
            self._known[word] = np.array(spelling if alike else word, dtype=np.int32)
        return self._known[word]

    def _cut(self, tokens: list[int]) -> list[str]:
        """The word in the letters of the vocabulary, in parts where the base alone cuts it before its merges."""
        if self._same_cut:
            return ["".join(self._grown.convert_ids_to_tokens(tokens))]
        word = self._text(tokens).removeprefix(self._text([]))
        return [part for part, _ in self._base.backend_tokenizer.pre_tokenizer.pre_tokenize_str(word)]

    def _is_byte(self, i: int) -> bool:
        """A byte of a character that the base has no token for (SentencePiece); no merge reaches over it."""
        return i < self._first_new and is_byte_token(self._grown.convert_ids_to_tokens(i))

    def _text(self, ids: list[int]) -> str:
        return str(self._grown.decode([*self._letter, *ids], clean_up_tokenization_spaces=False))


def _choose(
    words: Words, documents: Documents, seed: int, epoch: int, first: int, probability: float
) -> tuple[WordSpans, Draws, Places]:
    """The words of documents, a draw for each, and the numbers of those that are chosen."""
    spans = words.find(documents)
    draws = word_draws(document_keys(seed, epoch, first, len(documents)), spans.counts)
    return spans, draws, np.flatnonzero(happens(draws, probability))


def _replace(
    documents: Documents, spans: WordSpans, num_chosen: int, starts: Places, ends: Places, lengths: Places, tokens: Ids
) -> tuple[Splice, Switched]:
    """Put `tokens`, `lengths` of them each, into the place of the words from `starts` to `ends`; labels are inputs."""
    splice = Splice(len(documents.ids), starts, ends, lengths)
    inputs = splice.apply(documents.ids, tokens)
    borders, marks = splice.moved(documents.borders), splice.marks(spans.starts)
    return splice, Switched(inputs, inputs, borders, marks, len(spans.starts), num_chosen, len(starts))


def token_table(
    tokenizer: PreTrainedTokenizerBase, pairs: list[Pair]
) -> dict[tuple[int, ...], dict[tuple[int, ...], float]]:
    """Token ids of every form of a listed word -> token ids of its translations in that form, in the order given, with
    their weights (`pair_weights`).

    A translation is spelled as in running text: with a space in front where the word has one, unless it is of a script
    that puts none between words.
    """
    sources, targets, weights = [], [], []
    # Without probabilities all forms that are spelled alike count alike, whatever word they come from.
    known = any(pair.probability for pair in pairs)
    weight_of = pair_weights(pairs) if known else dict.fromkeys(pairs, 1.0)
    for pair in pairs:
        for form in (lambda word: word), _capitalised:
            for lead in (" ", "\n"):
                sources.append(lead + form(pair.source))
                targets.append(("\n" if is_unspaced(pair.target) else lead) + form(pair.target))
                weights.append(weight_of[pair])
    newline = tokenizer.encode("\n", add_special_tokens=False)
    table: dict[tuple[int, ...], dict[tuple[int, ...], float]] = {}
    encoded = zip(encode_plain(tokenizer, sources), encode_plain(tokenizer, targets), weights, strict=True)
    for (source, target, weight), lead in zip(encoded, cycle((" ", "\n"))):
        behind_line = target[: len(newline)] == newline
        if behind_line and (lead == " " or source[: len(newline)] == newline):
            source, target = source[0 if lead == " " else len(newline) :], target[len(newline) :]
        if not source or not target or source == target:
            continue
        table.setdefault(tuple(source), {}).setdefault(tuple(target), weight)
    return table


def _capitalised(word: str) -> str:
    return word[:1].upper() + word[1:]
