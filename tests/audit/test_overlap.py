"""Test lines in training text, beside sets of tuples of words."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign_cpt.audit.overlap import GRAM, LEAST_WORDS, MANY, MUCH, Sets
from prealign_cpt.text.grams import Words, normal

WORD = st.sampled_from(["a", "b", "c"])
LINES = st.lists(st.lists(WORD, min_size=1, max_size=14).map(" ".join), min_size=1, max_size=4)
DOCUMENTS = st.lists(LINES.map("\n".join), min_size=1, max_size=3)


def search(tests: Sets, documents: list[str]) -> tuple[dict[str, dict[str, object]], list[bool]]:
    lines = [(i, line) for i, text in enumerate(documents) for line in text.split("\n") if line.strip()]
    places = [np.full(len(tests.sought.hashes), -1) for _ in range(2)]
    found, repeats = tests.sought.find(
        Words([normal(line) for _, line in lines], [i for i, _ in lines]), np.array([i for i, _ in lines])
    )
    for which, of, is_line in found:
        places[is_line][which] = of
    return tests.figures(*places), repeats.tolist()


def grams(documents: list[str]) -> list[tuple[int, int, tuple[str, ...]]]:
    """Document, line in which it begins, words."""
    found = []
    for i, text in enumerate(documents):
        words = [(n, word) for n, line in enumerate(text.split("\n")) for word in line.split()]
        found += [
            (i, words[at][0], tuple(word for _, word in words[at : at + GRAM])) for at in range(len(words) - GRAM + 1)
        ]
    return found


@settings(deadline=None)
@given(DOCUMENTS, DOCUMENTS)
def test_as_sets_of_tuples_say(test: list[str], training: list[str]):
    tests = Sets()
    tests.add("t", test)
    figures, repeats = search(tests, training)
    seen, known = {gram for *_, gram in grams(training)}, {gram for *_, gram in grams(test)}
    asked_lines = {line for text in test for line in text.split("\n") if len(line.split()) >= LEAST_WORDS}
    training_lines = {line for text in training for line in text.split("\n")}
    expected = {"lines": 0, "whole": 0, "half": 0, "any": 0}
    for i, text in enumerate(test):
        for n, line in enumerate(text.split("\n")):
            own = [gram in seen for d, m, gram in grams(test) if (d, m) == (i, n)]
            if own or line in asked_lines:
                whole = line in asked_lines & training_lines
                half = whole or (any(own) and sum(own) >= MUCH * len(own))
                for key, true in (("lines", True), ("whole", whole), ("half", half), ("any", whole or any(own))):
                    expected[key] += true
    assert {key: figures["t"][key] for key in expected} == expected
    assert len(figures["t"]["places"]) == min(10, expected["half"])
    cut = []
    for i, text in enumerate(training):
        for n, line in enumerate(text.split("\n")):
            own = [gram in known for d, m, gram in grams(training) if (d, m) == (i, n)]
            cut.append(line in asked_lines or (any(own) and sum(own) >= min(MUCH * len(own), MANY)))
    assert repeats == cut


def test_line_ends_case_and_punctuation_do_not_hide_a_line():
    line = "In the beginning God created the heavens and the earth, and it was good."
    tests = Sets()
    tests.add("t", [line, "Nobody ever wrote these words in this order before today, I hope."])
    hidden = (
        "He read aloud: IN THE BEGINNING God created\nthe heavens and\nthe earth -- and it was good. Then he slept."
    )
    figures, _ = search(tests, ["Something else.", hidden])
    assert {key: figures["t"][key] for key in ("lines", "whole", "half", "any")} == {
        "lines": 2,
        "whole": 0,
        "half": 1,
        "any": 1,
    }
    assert figures["t"]["places"] == [{"line": line, "place": 1}]


def test_scripts_without_spaces():
    line = "古い家は川の近くにあります小さな犬が家の前で寝ています"
    tests = Sets()
    tests.add("t", [line])
    assert search(tests, [f"昨日、{line}と言った"])[0]["t"]["half"] == 1
    assert search(tests, ["昨日、古い家は川の近くと言った"])[0]["t"]["any"] == 0, (
        "fewer letters in a row than a gram has"
    )
