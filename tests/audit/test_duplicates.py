"""Which documents repeat others, exactly and nearly."""

import random
from pathlib import Path

import numpy as np

from prealign_cpt.audit.duplicates import SHINGLE, minhash, repeated, signatures
from prealign_cpt.text.grams import Words, normal


def rows(documents: list[str]) -> np.ndarray:
    return signatures(Words([normal(text) for text in documents], range(len(documents))), len(documents))


def article(seed: int, number: int = 300) -> list[str]:
    return [f"w{random.Random(seed + i).randrange(10**6)}" for i in range(0, 1000 * number, 1000)]


def test_minima_agree_as_often_as_grams_are_shared():
    ours = article(1)
    for changed in (0, 3, 15, 40):
        other = ours.copy()
        for at in range(changed):
            other[7 * at] = f"changed{at}"
        words = Words([" ".join(ours), " ".join(other)], [0, 1])
        grams, first = words.grams(SHINGLE)
        one, two = (set(grams[words.document[first] == i].tolist()) for i in (0, 1))
        minima = minhash(grams, np.flatnonzero(np.diff(words.document[first], prepend=-1)))
        agree = float((minima[:, 0] == minima[:, 1]).mean())
        assert abs(agree - len(one & two) / len(one | two)) < 0.15, "112 draws: three standard deviations"


def test_the_first_one_stays(tmp_path: Path):
    ours = article(1)
    near = [*ours[:150], "another", *ours[151:]]
    texts = [
        "short one",
        " ".join(ours),
        "SHORT, one!",
        " ".join(near),
        " ".join(article(2)),
        " ".join(ours),
        "short two",
    ]
    np.save(tmp_path / "a.npy", rows(texts[:4]))
    np.save(tmp_path / "b.npy", rows(texts[4:]))
    exact, alike = repeated([tmp_path / "a.npy", tmp_path / "b.npy"])
    assert exact.tolist() == [False, False, True, False, False, True, False]
    assert alike.tolist() == [False, False, False, True, False, False, False]


def test_documents_that_share_a_third_are_not_taken_for_copies(tmp_path: Path):
    common = article(0, 150)
    np.save(tmp_path / "a.npy", rows([" ".join(common + article(seed, 150)) for seed in range(1, 41)]))
    assert sum(map(np.sum, repeated([tmp_path / "a.npy"]))) <= 2
