"""Input-only code-switching: the worked example, the invariants of the rule, and the plain implementation of it."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign_cpt.data.codeswitch import Switched, Switcher, token_table
from prealign_cpt.data.pack import encode
from prealign_cpt.data.word_spans import Documents, document_keys, word_draws
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.loss import IGNORED
from prealign_cpt.model.tokens import token_texts
from tests.conftest import ENGLISH, PAIRS, TARGET, make_tokenizer
from tests.data.plain_switching import draw, switch

TOKENIZER = make_tokenizer(ENGLISH * 4 + TARGET * 2)
LEXICON = [Pair(s, t) for s, t in PAIRS]
TEXT = " ".join(ENGLISH).replace("\n", " ")
TEXTS = token_texts(TOKENIZER)
TABLE = token_table(TOKENIZER, LEXICON)


def ids_of(text: str) -> np.ndarray:
    return next(iter(encode([text], TOKENIZER)))


def joined(documents: list[np.ndarray]) -> Documents:
    ids = np.concatenate([*documents, np.empty(0, np.int32)]).astype(np.int32)
    return Documents(ids, np.cumsum([0, *map(len, documents)]))


def parts(done: Switched) -> list[tuple[list[int], list[int], list[int]]]:
    cuts = [slice(a, b) for a, b in pairwise(done.borders)]
    return [(done.inputs[c].tolist(), done.labels[c].tolist(), done.marks[c].tolist()) for c in cuts]


def word_borders(switcher: Switcher, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends (exclusive) of the words of a document."""
    spans = switcher.words.find(Documents.of(ids))
    return spans.starts, spans.ends(spans.starts)


class Worked(Switcher):
    """The switcher with hand-made tokens and table: words [1] [2 22] [3], and 2-22 -> 901 902 903."""

    def __init__(self, ratio: float, labels: str = "input_only") -> None:
        texts = ["."] * 1000
        texts[1], texts[2], texts[3], texts[22] = " a", " b", " c", "d"
        self._prepare(texts, {(2, 22): {(901, 902, 903): 1.0}}, ratio, labels)


@pytest.mark.parametrize("labels", ["input_only", "soft"])
def test_worked_example(labels: str):
    done = Worked(1.0, labels).switch(np.array([1, 2, 22, 3], dtype=np.int32), seed=0, epoch=0, document=0)
    assert done.inputs.tolist() == [1, 901, 902, 903, 3]
    assert done.labels.tolist() == [1, 2, IGNORED, IGNORED, 3]
    assert done.marks.tolist() == [1, 2, 0, 0, 1]
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
    starts, ends = word_borders(switcher, ids)
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
    starts = {int(s): int(e) for s, e in zip(*word_borders(switcher, ids), strict=True)}
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


def test_translations_are_drawn_by_their_probabilities():
    pairs = [Pair("house", "Haus", 0.6), Pair("house", "Gebäude", 0.2)]
    switcher = Switcher(TOKENIZER, pairs, 1.0)
    seen = [TOKENIZER.decode(switcher.switch(ids_of("the house"), 0, 0, n).inputs) for n in range(2000)]
    assert abs(seen.count("the Haus") / len(seen) - 0.75) < 5 * np.sqrt(0.75 * 0.25 / len(seen))
    assert seen.count("the Haus") + seen.count("the Gebäude") == len(seen)


def test_equal_probabilities_change_no_choice():
    equal = [Pair(pair.source, pair.target, 0.25) for pair in LEXICON]
    one, other = (Switcher(TOKENIZER, pairs, 0.9).switch(ids_of(TEXT), 3, 1, 4) for pairs in (LEXICON, equal))
    assert one.inputs.tolist() == other.inputs.tolist()


def test_every_translation_is_used():
    switcher = Switcher(TOKENIZER, LEXICON, 1.0)
    seen = {TOKENIZER.decode(switcher.switch(ids_of("the house"), 0, 0, n).inputs) for n in range(40)}
    assert seen == {"the Haus", "the Gebäude"}


@pytest.mark.parametrize("text", ["", " ", "\n\n", "123, 456!"])
def test_text_without_words(text: str):
    ids = ids_of(text)
    done = Switcher(TOKENIZER, LEXICON, 1.0).switch(ids, 0, 0, 0)
    assert done.inputs.tolist() == ids.tolist() and done.words == 0


ANY_TEXTS = [
    "",
    " ",
    ".",
    "'",
    "'s",
    "’",
    " '",
    "b2",
    " 7",
    "\n",
    " a",
    " b",
    "a",
    "e",
    "xyz",
    "日",
    " कि",
    "ि",
    "กา",
    "า",
    "ี",
]
ANY_IDS = st.lists(st.integers(0, len(ANY_TEXTS) - 1) | st.integers(10, len(ANY_TEXTS) - 1), max_size=40)
ANY_WORD = st.tuples(
    st.integers(10, len(ANY_TEXTS) - 1), st.lists(st.integers(12, len(ANY_TEXTS) - 1), max_size=3)
).map(lambda word: (word[0], *word[1]))
ANY_SPAN = st.lists(st.integers(0, len(ANY_TEXTS) - 1), min_size=1, max_size=5).map(tuple)
ANY_WEIGHT = st.sampled_from([1.0, 1.0, 0.5, 0.3, 0.001])
ANY_CHOICES = st.dictionaries(ANY_SPAN, ANY_WEIGHT, min_size=1, max_size=3)


class Made(Switcher):
    """A switcher over texts and a table that were made up."""

    def __init__(self, table: dict[tuple[int, ...], list[tuple[int, ...]]], ratio: float, labels: str) -> None:
        self._prepare(ANY_TEXTS, table, ratio, labels)


@settings(max_examples=200, deadline=None)
@given(
    documents=st.lists(ANY_IDS, max_size=6),
    table=st.dictionaries(ANY_WORD | ANY_SPAN, ANY_CHOICES, max_size=30),
    ratio=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    labels=st.sampled_from(["input_only", "vanilla", "soft"]),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**40),
    first=st.integers(0, 2**40),
)
def test_equal_to_the_plain_one_on_random_tokens(documents, table, ratio, labels, seed, epoch, first):
    switcher = Made(table, ratio, labels)
    arrays = [np.array(ids, dtype=np.int32) for ids in documents]
    done = switcher.switch_many(joined(arrays), seed, epoch, first)
    plain = [switch(ids, ANY_TEXTS, table, ratio, labels, seed, epoch, first + n) for n, ids in enumerate(documents)]
    assert parts(done) == [(p.inputs, p.labels, p.marks) for p in plain]
    assert done.words == sum(len(p.words) for p in plain)
    assert done.chosen == sum(len(p.chosen) for p in plain)
    assert done.switched == sum(len(p.switched) for p in plain)
    for ids, one in zip(arrays, plain, strict=True):
        assert [(int(s), int(e)) for s, e in zip(*word_borders(switcher, ids), strict=True)] == one.words


@pytest.mark.parametrize("ratio", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("labels", ["input_only", "vanilla"])
def test_equal_to_the_plain_one_on_real_text(ratio: float, labels: str):
    texts = [*ENGLISH, "", "The king's dog. 'Tis the dog’s water", *(e.upper() for e in ENGLISH), "Water", *TARGET]
    documents = [ids_of(text) for text in texts]
    done = Switcher(TOKENIZER, LEXICON, ratio, labels).switch_many(joined(documents), 11, 2, 70)
    plain = [switch(ids.tolist(), TEXTS, TABLE, ratio, labels, 11, 2, 70 + n) for n, ids in enumerate(documents)]
    assert parts(done) == [(p.inputs, p.labels, p.marks) for p in plain]
    assert done.switched == sum(len(p.switched) for p in plain)
    assert ratio < 0.5 or done.switched > 5


@settings(max_examples=25, deadline=None)
@given(cuts=st.sets(st.integers(1, 39)), seed=st.integers(0, 2**31))
def test_batches_do_not_matter(cuts: set[int], seed: int):
    switcher = Switcher(TOKENIZER, LEXICON, 0.5)
    documents = [ids_of(text) for text in ENGLISH * 8]
    alone = [parts(switcher.switch(ids, seed, 1, n))[0] for n, ids in enumerate(documents)]
    borders = [0, *sorted(cuts), 40]
    together = [
        part for a, b in pairwise(borders) for part in parts(switcher.switch_many(joined(documents[a:b]), seed, 1, a))
    ]
    assert together == alone
    assert any(alone[n] != alone[n + 5] for n in range(35)), "the same text is switched otherwise elsewhere"


def test_words_do_not_reach_over_borders():
    whole, pair = ids_of("water"), [ids_of("wat"), ids_of("er")]
    switcher = Switcher(TOKENIZER, LEXICON, 1.0)
    assert switcher.switch(whole, 0, 0, 0).switched == 1
    assert switcher.switch_many(joined(pair), 0, 0, 0).switched == 0
    apostrophe = [ids_of("the water"), ids_of("'s")]
    assert switcher.switch_many(joined(apostrophe), 0, 0, 0).switched == 1


def test_supervised_positions():
    """Invariant (d): all tokens but the further ones of switched words are labels, and no inserted token is."""
    ids = ids_of(TEXT).tolist()
    plain = switch(ids, TEXTS, TABLE, 0.7, "input_only", 5, 0, 9)
    done = Switcher(TOKENIZER, LEXICON, 0.7).switch(np.array(ids, dtype=np.int32), 5, 0, 9)
    lost = sum(end - start - 1 for start, end in plain.switched)
    assert lost > 0 and int((done.labels != IGNORED).sum()) == len(ids) - lost
    spoken = np.flatnonzero(done.marks == 2)
    assert [int(i) for i in done.labels[spoken]] == [ids[start] for start, _ in plain.switched]


def test_draws_are_the_documented_ones():
    keys = document_keys(7, 3, 20, 4)
    counts = np.array([3, 0, 2, 4])
    expected = [draw(7, 3, 20 + n, word) for n, count in enumerate(counts) for word in range(count)]
    assert word_draws(keys, counts).tolist() == expected
    assert word_draws(document_keys(2**64 + 7, 3, 20, 4), counts).tolist() == expected
