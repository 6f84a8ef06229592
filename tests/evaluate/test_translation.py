"""chrF++ is what its definition says, and the prompts what the model needs."""

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("sacrebleu")

from sacrebleu.metrics import CHRF

from prealign_cpt.evaluate.generation import SHOTS, chrf, examples, prompt

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
    found = chrf(HYPOTHESES, REFERENCES, "greedy")
    assert found.value == pytest.approx(plain_chrf(HYPOTHESES, REFERENCES), abs=1e-9) and found.n == 4
    assert found.note.startswith("greedy; ") and "chrF++ nrefs:1|" in found.note
    assert "nw:2" in found.note and "version:" in found.note
    assert chrf(REFERENCES, REFERENCES).value == pytest.approx(100)


def test_the_interval_is_that_of_resampled_sentences():
    """Percentiles of 200 draws are known to about a tenth of their distance."""
    hypotheses, references = HYPOTHESES[:3] * 4, REFERENCES[:3] * 4
    found = chrf(hypotheses, references)
    drawn = [
        CHRF(word_order=2).corpus_score([hypotheses[i] for i in rows], [[references[i] for i in rows]]).score
        for rows in np.random.default_rng(0).integers(12, size=(200, 12))
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.high - found.low == pytest.approx(high - low, rel=0.25)
    assert found.low < found.value < found.high and found.low == pytest.approx(low, abs=0.25 * (high - low))
    assert "bs:1000|seed:12345" in found.note and found == chrf(hypotheses, references)


def test_no_interval_is_made_up():
    nothing = chrf([""] * 4, REFERENCES)
    assert nothing.value == 0.0 and nothing.low is None
    nearly = chrf([HYPOTHESES[0], "", "", ""], REFERENCES)  # a third of the draws have no match
    assert nearly.value > 0 and nearly.low is nearly.high is None
    assert nearly.note.startswith("no interval, since nothing matches in some draws; chrF++ nrefs:1|case")
    assert "bs:" not in nearly.note


def test_examples_are_never_scored():
    pairs = [(f"sentence {i} " + "x" * (50 - i), f"Satz {i}") for i in range(24)]
    shots, asked = examples(pairs)
    assert len(shots) == SHOTS and len(asked) == 20 and not set(shots) & set(asked)
    assert shots == pairs[20:], "the shortest of the last quarter"
    assert prompt(shots[:1], "the sea", ("English", "German")).endswith("\n\nEnglish: the sea\nGerman:")
    assert prompt([("a", "b")], "c", ("X", "Y")) == "X: a\nY: b\n\nX: c\nY:"
