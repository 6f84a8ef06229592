"""The mixed-language matrix: its figures, controls and intervals."""

import random
from pathlib import Path

import pytest

from prealign_cpt.evaluate import mixed_matrix
from prealign_cpt.evaluate.data import EvaluationData, NoDataError
from prealign_cpt.evaluate.figures import Figure
from prealign_cpt.evaluate.mixed_matrix import FAR, follow, read_examples
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.run.errors import DataError

FIRST = ["house", "river", "dog", "water", "king", "garden", "book", "sea"]
SECOND = ["night", "city", "moon", "road", "bread", "school", "brother", "trees"]


@pytest.fixture
def subject(base_folder: Path) -> Subject:
    return Subject(base_folder)


def labelled(path: Path, rows: list[tuple[str, ...]]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def inference(number: int, seed: int, mark: str) -> list[tuple[str, ...]]:
    """Both sentences from one list of words, or from two: a label that needs both sides."""
    draw = random.Random(seed)
    rows = []
    for i in range(number):
        a = draw.choice((FIRST, SECOND))
        b = a if i % 2 else SECOND if a is FIRST else FIRST
        premise, hypothesis = (draw.choices(words, k=4) for words in (a, b))
        sides = [" ".join(premise), " ".join(hypothesis)]
        target = [" ".join(mark + word for word in words) for words in (premise, hypothesis)] if mark else []
        rows.append(("same" if i % 2 else "other", *sides, *target))
    return rows


def test_the_mixed_matrix_on_labelled_pairs(subject: Subject, tmp_path: Path):
    train = labelled(tmp_path / "train.tsv", inference(300, 1, ""))
    test = labelled(tmp_path / "test.tsv", inference(120, 2, "~"))
    found = mixed_matrix.measure(subject, EvaluationData(nli_train=train, nli_test=test))
    cells = {cell: found["/".join(cell)] for cell in mixed_matrix.CELLS}
    assert all(isinstance(one, Figure) and one.n == 120 for one in cells.values())
    value = {cell: one.value for cell, one in cells.items() if isinstance(one, Figure)}
    assert value["english", "english"] > 0.75, "products of both sides show whether they are alike"
    assert abs(found["shuffled"].value - 0.5) < 0.2 and found["chance"].value == 0.5
    mixed = (value["english", "target"] + value["target", "english"]) / 2
    assert found["mixed_gap"].value == pytest.approx(value["english", "english"] - mixed)
    assert found == mixed_matrix.measure(subject, EvaluationData(nli_train=train, nli_test=test))


def test_the_mixed_matrix_on_parallel_text(subject: Subject, tmp_path: Path):
    """Topics change every dozen sentences: a sentence that follows shares words, one from elsewhere does not."""
    draw = random.Random(0)
    rows = []
    topics = [(FIRST + SECOND)[first : first + 2] for first in range(0, 16, 2)]
    for i in range(400):
        words = draw.choices(topics[i // 12 % 8], k=5)
        rows.append((" ".join(["the", *words]), " ".join(["der", *words])))
    found = mixed_matrix.measure(subject, EvaluationData(parallel=labelled(tmp_path / "pairs.tsv", rows)))
    english = found["english/english"]
    assert isinstance(english, Figure) and english.value > 0.65 and "does the sentence follow?" in english.note
    with pytest.raises(NoDataError):
        mixed_matrix.measure(subject, EvaluationData())
    with pytest.raises(DataError, match="40 are needed"):
        mixed_matrix.measure(subject, EvaluationData(parallel=labelled(tmp_path / "few.tsv", rows[:40])))


def test_examples_of_following():
    pairs = [(f"s{i}", f"t{i}") for i in range(30)]
    found = follow(pairs, 0)
    assert {one.label for one in found} == {"follows", "elsewhere"}
    for one in found:
        i, j = int(one.premise["english"][1:]), int(one.hypothesis["english"][1:])
        assert (j == i + 1) if one.label == "follows" else abs(j - i) >= FAR
        assert (one.premise["target"], one.hypothesis["target"]) == (f"t{i}", f"t{j}")


def test_a_damaged_line_is_named(tmp_path: Path):
    path = labelled(tmp_path / "nli.tsv", [("same", "a", "b"), ("same", "a")])
    with pytest.raises(DataError, match=r"nli.tsv:2: expected `label TAB premise TAB hypothesis`"):
        read_examples(path, 3)
