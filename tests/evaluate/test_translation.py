"""chrF++ is what its definition says, and the prompts what the model needs."""

from collections import Counter

import pytest

pytest.importorskip("sacrebleu")

from prealign_cpt.evaluate.translation import SHOTS, chrf, examples, prompt

HYPOTHESES = ["the cat sat on mat", "a dog ran home", "nothing", ""]
REFERENCES = ["the cat sat on the mat", "the dog ran home quickly", "they all went away", "he slept"]


def plain_chrf(hypotheses: list[str], references: list[str]) -> float:
    """chrF++ by its definition: F with beta 2 of precision and recall, each of n-gram counts summed over sentences and
    averaged over the orders (characters 1 to 6 without spaces, words 1 and 2) that both sides have."""
    precisions, recalls = [], []
    for kind, orders in (("characters", 6), ("words", 2)):
        for order in range(1, orders + 1):
            match = ours = theirs = 0
            for hypothesis, reference in zip(hypotheses, references, strict=True):
                counted = []
                for text in (hypothesis, reference):
                    units = text.split() if kind == "words" else list(text.replace(" ", ""))
                    counted.append(Counter(tuple(units[i : i + order]) for i in range(len(units) - order + 1)))
                match += sum((counted[0] & counted[1]).values())
                ours, theirs = ours + counted[0].total(), theirs + counted[1].total()
            if ours and theirs:
                precisions.append(match / ours)
                recalls.append(match / theirs)
    precision, recall = (sum(some) / len(some) for some in (precisions, recalls))
    return 100 * 5 * precision * recall / (4 * precision + recall)


def test_chrf_is_its_definition():
    found = chrf(HYPOTHESES, REFERENCES, seed=3, note="greedy")
    assert found.value == pytest.approx(plain_chrf(HYPOTHESES, REFERENCES), abs=1e-6)
    assert found.low < found.value < found.high and found.n == 4
    assert found.note.startswith("greedy; chrF++ nrefs:1|") and "nw:2" in found.note and "version:" in found.note
    assert chrf(HYPOTHESES, REFERENCES, seed=3) == chrf(HYPOTHESES, REFERENCES, seed=3)
    assert chrf(REFERENCES, REFERENCES).value == pytest.approx(100)
    nothing = chrf([""] * 4, REFERENCES)
    assert nothing.value == 0.0 and nothing.low is None, "no interval is made up"


def test_examples_are_never_scored():
    pairs = [(f"sentence {i} " + "x" * (50 - i), f"Satz {i}") for i in range(24)]
    shots, asked = examples(pairs)
    assert len(shots) == SHOTS and len(asked) == 20 and not set(shots) & set(asked)
    assert shots == pairs[20:], "the shortest of the last quarter"
    assert prompt(shots[:1], "the sea", ("English", "German")).endswith("\n\nEnglish: the sea\nGerman:")
    assert prompt([("a", "b")], "c", ("X", "Y")) == "X: a\nY: b\n\nX: c\nY:"
