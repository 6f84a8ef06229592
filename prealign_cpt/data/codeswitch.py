"""Code-switching: words of English text are replaced by translations, as a pure function of (seed, epoch, document).

Rule (PreAlign, arXiv 2407.16222, section 3.2, `labels="input_only"`): a word is chosen with probability `ratio`; if the
lexicon lists it, one of its translations replaces it in the *input*. Just before the span the label is the first token
of the original word, inside the span nothing is learned, after it all is as before:

    words    [1] [2 22] [3]     with 2-22 -> 901 902 903
    inputs    1  901 902 903  3
    labels    1    2  -100 -100  3      (labels[i] is what position i - 1 has to predict)

So the model reads the new language inside English, but is never asked to write it there.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from prealign_cpt.lexicon.pairs import Pair

IGNORED = -100
"""Label of a position that is not learned; torch's default `ignore_index`."""

OTHER, START, INSIDE = 0, 1, 2
"""What a token is to a word: no letters only; a space and letters; letters without a space."""

Ids = NDArray[np.int32]


@dataclass
class Switched:
    """A document after switching, `inputs` and `labels` of equal length, and what happened."""

    inputs: Ids
    labels: Ids
    words: int
    chosen: int
    switched: int


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
        labels: Literal["input_only", "vanilla"] = "input_only",
    ) -> None:
        self.ratio = ratio
        self.labels = labels
        texts = token_texts(tokenizer)
        self._kind = np.array([_kind(text) for text in texts], dtype=np.int8)
        self._apostrophe = np.array([text[:1] in ("'", "’") for text in texts])
        self._table = _table(tokenizer, pairs)

    def switch(self, ids: Ids, seed: int, epoch: int, document: int) -> Switched:
        """Switch one document.

        Args:
            ids: int32 [n], without special tokens.
            seed, epoch, document: the only source of randomness, so ranks, workers and restarts agree.
        """
        starts, ends = self.spans(ids)
        random = np.random.default_rng([seed, epoch, document])
        chosen = np.flatnonzero(random.random(len(starts)) < self.ratio)
        picks = random.random(len(starts))
        inputs, labels, done, switched = [], [], 0, 0
        for word in chosen:
            start, end = int(starts[word]), int(ends[word])
            choices = self._table.get(tuple(ids[start:end].tolist()))
            if choices is None:
                continue
            new = choices[int(picks[word] * len(choices))]
            kept = ids[done:start]
            inputs += [kept, new]
            labels += [kept, new if self.labels == "vanilla" else _first_only(ids[start], len(new))]
            done, switched = end, switched + 1
        inputs.append(ids[done:])
        labels.append(ids[done:])
        return Switched(np.concatenate(inputs), np.concatenate(labels), len(starts), len(chosen), switched)

    def spans(self, ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts and ends (exclusive) of the words of a document: runs of letters that no apostrophe follows."""
        kind = self._kind[ids]
        before = np.concatenate([[OTHER], kind[:-1]]) if len(ids) else kind
        is_start = (kind == START) | ((kind == INSIDE) & (before == OTHER))
        starts = np.flatnonzero(is_start)
        breaks = np.flatnonzero(is_start | (kind == OTHER))
        following = np.searchsorted(breaks, starts, side="right")
        ends = np.append(breaks, len(ids))[following]
        free = ~np.append(self._apostrophe[ids], False)[ends]
        return starts[free], ends[free]


def token_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text that each id adds after a letter: a leading space is seen in every tokenizer family."""
    first = tokenizer.encode("a", add_special_tokens=False)
    lead = len(tokenizer.decode(first))
    special = set(tokenizer.all_special_ids)
    rows = [[*first, i] for i in range(len(tokenizer))]
    texts = tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False)
    return ["" if i in special else text[lead:] for i, text in enumerate(texts)]


def _kind(text: str) -> int:
    if text.startswith(" "):
        return START if text[1:].isalpha() else OTHER
    return INSIDE if text.isalpha() else OTHER


def _first_only(first: int, length: int) -> Ids:
    labels = np.full(length, IGNORED, dtype=np.int32)
    labels[0] = first
    return labels


def _table(tokenizer: PreTrainedTokenizerBase, pairs: list[Pair]) -> dict[tuple[int, ...], list[Ids]]:
    """Token ids of every form of a listed word -> token ids of its translations in the same form."""
    sources, targets = [], []
    for pair in pairs:
        for form in (lambda word: word), _capitalised:
            for lead in (" ", "\n"):
                sources.append(lead + form(pair.source))
                targets.append(lead + form(pair.target))
    newline = tokenizer.encode("\n", add_special_tokens=False)
    table: dict[tuple[int, ...], list[Ids]] = {}
    for source, target in zip(_encode(tokenizer, sources), _encode(tokenizer, targets), strict=True):
        if source[: len(newline)] == newline and target[: len(newline)] == newline:
            source, target = source[len(newline) :], target[len(newline) :]
        if not source or not target or source == target:
            continue
        choices = table.setdefault(tuple(source), [])
        new = np.array(target, dtype=np.int32)
        if not any(np.array_equal(new, old) for old in choices):
            choices.append(new)
    return table


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [list(ids) for ids in encoded]


def _capitalised(word: str) -> str:
    return word[:1].upper() + word[1:]
