"""Input-only code-switching: the worked example and the invariants of the rule."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign_cpt.data.codeswitch import IGNORED, Switcher
from prealign_cpt.data.pack import encode
from prealign_cpt.lexicon.pairs import Pair
from tests.conftest import ENGLISH, PAIRS, TARGET, make_tokenizer

TOKENIZER = make_tokenizer(ENGLISH * 4 + TARGET * 2)
LEXICON = [Pair(s, t) for s, t in PAIRS]
TEXT = " ".join(ENGLISH).replace("\n", " ")


def ids_of(text: str) -> np.ndarray:
    return next(iter(encode([text], TOKENIZER)))


class Worked(Switcher):
    """The switcher with a hand-made table: words [1] [2 22] [3], and 2-22 -> 901 902 903."""

    def __init__(self, ratio: float, labels: str = "input_only") -> None:
        self.ratio, self.labels = ratio, labels
        self._kind = np.zeros(1000, dtype=np.int8)
        self._kind[[1, 2, 3]] = 1
        self._kind[22] = 2
        self._apostrophe = np.zeros(1000, dtype=bool)
        self._table = {(2, 22): [np.array([901, 902, 903], dtype=np.int32)]}


def test_worked_example():
    done = Worked(1.0).switch(np.array([1, 2, 22, 3], dtype=np.int32), seed=0, epoch=0, document=0)
    assert done.inputs.tolist() == [1, 901, 902, 903, 3]
    assert done.labels.tolist() == [1, 2, IGNORED, IGNORED, 3]
    assert (done.words, done.chosen, done.switched) == (3, 3, 1)


def test_vanilla_labels_are_the_inputs():
    done = Worked(1.0, "vanilla").switch(np.array([1, 2, 22, 3], dtype=np.int32), 0, 0, 0)
    assert done.labels.tolist() == done.inputs.tolist() == [1, 901, 902, 903, 3]


def test_ratio_zero_changes_nothing():
    ids = ids_of(TEXT)
    done = Switcher(TOKENIZER, LEXICON, 0.0).switch(ids, 1, 2, 3)
    assert done.inputs.tolist() == done.labels.tolist() == ids.tolist()


def test_all_listed_words_are_switched_and_case_is_kept():
    done = Switcher(TOKENIZER, LEXICON, 1.0).switch(ids_of("Water in the river, the water. House"), 0, 0, 0)
    text = TOKENIZER.decode(done.inputs)
    assert text.replace("Gebäude", "Haus") == "Wasser in the Fluss, the Wasser. Haus"


def test_words_inside_words_and_before_apostrophes_stay():
    done = Switcher(TOKENIZER, LEXICON, 1.0).switch(ids_of("The bookshop of the king's dog"), 0, 0, 0)
    assert TOKENIZER.decode(done.inputs) == "The bookshop of the king's Hund"


@settings(max_examples=60, deadline=None)
@given(ratio=st.floats(0, 1), seed=st.integers(0, 2**31), epoch=st.integers(0, 50), document=st.integers(0, 10**6))
def test_invariants(ratio: float, seed: int, epoch: int, document: int):
    ids = ids_of(TEXT)
    switcher = Switcher(TOKENIZER, LEXICON, ratio)
    done = switcher.switch(ids, seed, epoch, document)
    assert len(done.inputs) == len(done.labels)
    again = Switcher(TOKENIZER, LEXICON, ratio).switch(ids, seed, epoch, document)
    assert again.inputs.tolist() == done.inputs.tolist() and again.labels.tolist() == done.labels.tolist()
    # Labels that are learned are tokens of the source, in the source's order, and never a substitute.
    learned = done.labels[done.labels != IGNORED].tolist()
    source = iter(ids.tolist())
    assert all(label in source for label in learned)
    # A switched word of n pieces keeps one label: what is missing are its n - 1 others.
    starts, ends = switcher.spans(ids)
    assert len(ids) - len(learned) <= int((ends - starts - 1).sum())
    assert done.switched <= done.chosen <= done.words == len(starts)


def test_source_is_recovered_when_spans_are_taken_back():
    ids = ids_of(TEXT)
    switcher = Switcher(TOKENIZER, LEXICON, 0.7)
    done = switcher.switch(ids, 5, 0, 9)
    assert done.switched > 5
    back: list[int] = []
    at = 0
    source = ids.tolist()
    starts = {int(s): int(e) for s, e in zip(*switcher.spans(ids), strict=True)}
    while at < len(done.inputs):
        place = len(back)
        if done.labels[at] == done.inputs[at] and (at + 1 == len(done.labels) or done.labels[at + 1] != IGNORED):
            back.append(int(done.inputs[at]))
            at += 1
            continue
        back += source[place : starts[place]]
        at += 1
        while at < len(done.labels) and done.labels[at] == IGNORED:
            at += 1
    assert back == source


def test_realised_ratio_is_within_the_binomial_interval():
    switcher = Switcher(TOKENIZER, LEXICON, 0.2)
    ids = ids_of(TEXT)
    runs = [switcher.switch(ids, 0, 0, document) for document in range(400)]
    words, chosen = sum(r.words for r in runs), sum(r.chosen for r in runs)
    assert abs(chosen / words - 0.2) < 4 * np.sqrt(0.2 * 0.8 / words)


def test_every_translation_is_used():
    switcher = Switcher(TOKENIZER, LEXICON, 1.0)
    seen = {TOKENIZER.decode(switcher.switch(ids_of("the house"), 0, 0, n).inputs) for n in range(40)}
    assert seen == {"the Haus", "the Gebäude"}


@pytest.mark.parametrize("text", ["", " ", "\n\n", "123, 456!"])
def test_text_without_words(text: str):
    ids = ids_of(text)
    done = Switcher(TOKENIZER, LEXICON, 1.0).switch(ids, 0, 0, 0)
    assert done.inputs.tolist() == ids.tolist() and done.words == 0
