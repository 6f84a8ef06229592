"""What the options do to the lexicon and to the word order."""

import random
from collections import Counter

import pytest

from prealign_cpt.lab.clone.texts import count_words, make_lexicon, swap_words

WORDS = {f"w{i:02}": 100 - i for i in range(40)}


def test_words_are_counted_whatever_their_case():
    found = count_words(["The house. the House; Moses saw MOSES, don't 'tis café x1", "the ABC"])
    assert found == {"the": 3, "house": 2, "Moses": 2, "saw": 1, "ABC": 1}


def test_by_default_the_lexicon_is_perfect():
    pairs, counts = make_lexicon(WORDS, str.upper, 1.0, 0.0, 0.0, seed=1)
    assert [(pair.source, pair.target) for pair in pairs] == [(word, word.upper()) for word in WORDS]
    assert counts == {"words": 40, "listed": 40, "wrong": 0, "ambiguous": 0}


def test_share_keeps_the_most_frequent():
    pairs, _ = make_lexicon(WORDS, str.upper, 0.25, 0.0, 0.0, seed=1)
    assert [pair.source for pair in pairs] == list(WORDS)[:10]


def test_noise_swaps_the_words_of_listed_words():
    pairs, counts = make_lexicon(WORDS, str.upper, 1.0, 0.5, 0.0, seed=1)
    wrong = [pair for pair in pairs if pair.target != pair.source.upper()]
    assert len(wrong) == counts["wrong"] == 20 and len(pairs) == 40
    assert sorted(pair.target for pair in pairs) == sorted(word.upper() for word in WORDS)


def test_ambiguity_adds_a_wrong_second_translation():
    pairs, counts = make_lexicon(WORDS, str.upper, 1.0, 0.0, 0.25, seed=1)
    by_source: dict[str, list[str]] = {}
    for pair in pairs:
        by_source.setdefault(pair.source, []).append(pair.target)
    several = {source: targets for source, targets in by_source.items() if len(targets) > 1}
    assert len(several) == counts["ambiguous"] == 10
    assert all(targets[0] == source.upper() != targets[1] for source, targets in several.items())


def test_a_seed_decides():
    first, again, other = (make_lexicon(WORDS, str.upper, 1.0, 0.5, 0.5, seed)[0] for seed in (1, 1, 2))
    assert first == again != other


def test_swaps_keep_the_words_and_the_lines():
    text = "one two three four five, six\nseven eight nine."
    assert swap_words(text, 0.0, random.Random(0)) == text
    assert swap_words(text, 1.0, random.Random(0)) == "two one four three five, six\neight seven nine."
    long = " ".join(f"{a}{b}" for a in "abcdefghij" for b in "abcdefghij")
    swapped = swap_words(long, 0.2, random.Random(0))
    assert Counter(swapped.split()) == Counter(long.split())
    moved = sum(a != b for a, b in zip(long.split(), swapped.split(), strict=True))
    assert moved == pytest.approx(2 * 0.2 / 1.2 * 100, abs=16)
