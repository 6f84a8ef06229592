"""Held-out pairs whose words stand near each other."""

import pickle

from prealign_cpt.audit.pairs import WINDOW, Pairs
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.text.grams import Words, normal

PAIRS = [
    Pair("house", "Haus"),
    Pair("ice cream", "Eis"),
    Pair("radio", "Radio"),
    Pair("library", "图书馆"),
    Pair("sea", "Meer"),
]


def found(documents: list[str], pairs: list[Pair] = PAIRS) -> set[tuple[str, int]]:
    """Source words of true pairs that are found, and where; "wrong" for wrong ones."""
    sought = pickle.loads(pickle.dumps(Pairs(pairs)))
    words = Words([normal(text) for text in documents], range(len(documents)))
    return {
        (sought.asked[number][0] if number < len(sought.asked) else "wrong", document)
        for number, document in sought.find(words)
    }


def test_words_and_phrases_near_each_other():
    assert found(["A house is a Haus.", "Haus Meer", "We eat ice-cream, in German: Eis.", "图书馆 is library"]) >= {
        *(("house", 0), ("ice cream", 2), ("library", 3)),
    }
    assert not {("house", 1), ("sea", 1)} & found(["house", "Haus", "sea"]), "in documents of their own"
    assert found(["radio Radio"]) == set(), "spelt alike: what else should stand there?"


def test_the_window():
    near, far = (f"sea {'x ' * n}Meer" for n in (WINDOW - 1, WINDOW))
    assert found([near]) == {("sea", 0)} and found([far]) == set()
    assert found([f"Meer {'x ' * 99}sea {'x ' * 3}Meer"]) == {("sea", 0)}, "the nearest ones count"


def test_wrong_pairs_meet_by_chance():
    pairs = [Pair("house", "Haus"), Pair("sea", "Meer"), Pair("dog", "Hund"), Pair("king", "König")]
    everything = " ".join(word for pair in pairs for word in (pair.source, pair.target))
    assert {name for name, _ in found([everything], pairs)} == {"house", "sea", "dog", "king", "wrong"}
    assert found(["the house, das Haus"], pairs) == {("house", 0)}
    assert Pairs([]).asked == [] and list(Pairs([]).find(Words(["a"], [0]))) == []
