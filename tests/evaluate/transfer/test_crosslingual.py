"""Transfer, CLKA and the mixed-language matrix as measures: their figures, controls and intervals."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from prealign_cpt.evaluate.figures import Absent, Figure
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.transfer import clka, mixed_matrix, zero_shot
from prealign_cpt.evaluate.transfer.clka import score_facts
from prealign_cpt.evaluate.transfer.mixed_matrix import FAR, follow, read_examples
from prealign_cpt.evaluate.work import NoDataError, Work
from prealign_cpt.run.errors import DataError
from tests.evaluate.transfer.test_zero_shot import sentences

FIRST = ["house", "river", "dog", "water", "king", "garden", "book", "sea"]
SECOND = ["night", "city", "moon", "road", "bread", "school", "brother", "trees"]


@pytest.fixture
def subject(base_folder: Path) -> Subject:
    return Subject(base_folder)


def labelled(path: Path, rows: list[tuple[str, ...]]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_transfer(subject: Subject, tmp_path: Path):
    train = labelled(tmp_path / "train.tsv", sentences(60, 1))
    test = labelled(tmp_path / "test.tsv", [(label, f"der {text}") for label, text in sentences(40, 2)])
    found = zero_shot.measure(subject, Work(classes_train=train, classes_test=test))
    target, shuffled, english = found["acc_target"], found["acc_shuffled"], found["acc_english"]
    assert isinstance(target, Figure) and isinstance(shuffled, Figure) and isinstance(english, Figure)
    assert target.value > 0.9 and target.n == 80 and target.items is not None
    assert found["gap"].value == pytest.approx(english.value - target.value)
    assert found["relative"].value == pytest.approx(target.value / english.value)
    assert found["chance"].value == 0.5 and abs(shuffled.value - 0.5) < 0.35
    with pytest.raises(NoDataError):
        zero_shot.measure(subject, Work())


def question(group: str, language: str, answer: str) -> dict[str, object]:
    return {
        "group": group,
        "language": language,
        "prompt": f"The {group} of {answer} is",
        "neutral": "The one is",
        "candidates": ["old", "cold", "long", "clear"],
        "answer": answer,
    }


def test_clka_has_the_figures_of_score_facts(subject: Subject, tmp_path: Path):
    groups = ("english_only", "clone_only", "none")
    asked = [
        question(g, language, answer)
        for g in groups
        for language in ("english", "clone")
        for answer in ("old", "cold", "long")
    ]
    (tmp_path / "clka.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    found = clka.measure(subject, Work(facts=tmp_path))
    questions = clka.read_questions(tmp_path / "clka.jsonl")
    expected = score_facts(subject.model, subject.tokenizer, questions, subject.start_token_id)
    for group, own in expected["groups"].items():
        assert found[f"accuracy/{group}"].value == pytest.approx(own["accuracy"], abs=1e-4)
        assert found[f"mrr/{group}"].value == pytest.approx(own["mrr"], abs=1e-4)
    assert found["chance"].value == 0.25 and found["leak/english"].n == 3
    for way, value in expected["transfer"].items():
        one = found[f"transfer/{way}"]
        assert isinstance(one, Absent) if value is None else one.value == pytest.approx(value, abs=1e-3)
    with pytest.raises(NoDataError, match="--facts"):
        clka.measure(subject, Work())


def test_transfer_of_facts_and_its_interval():
    known, half, nothing = np.ones(40, bool), np.arange(40) % 2 == 0, np.zeros(40, bool)
    found = clka.transfer([known, half, nothing, nothing], 0)
    assert isinstance(found, Figure) and found.value == 0.5 and 0.3 < found.low < 0.5 < found.high < 0.7
    assert clka.transfer([known, known, nothing, nothing], 0).value == 1.0
    assert isinstance(clka.transfer([nothing, known, nothing, nothing], 0), Absent), "nothing was learned"
    unsure = clka.transfer([np.arange(40) == 0, half, nothing, nothing], 0)
    assert unsure.low is None and "no interval" in unsure.note


def test_facts_stated_nowhere_must_be_at_chance():
    assert clka.at_least(0, 10, 0.25) == 1.0
    assert clka.at_least(1, 2, 0.5) == pytest.approx(0.75) and clka.at_least(2, 2, 0.5) == 0.25
    assert clka.at_least(10, 20, 0.05) < clka.LEAK < clka.at_least(2, 20, 0.05)


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
    found = mixed_matrix.measure(subject, Work(nli_train=train, nli_test=test))
    cells = {cell: found["/".join(cell)] for cell in mixed_matrix.CELLS}
    assert all(isinstance(one, Figure) and one.n == 120 for one in cells.values())
    value = {cell: one.value for cell, one in cells.items() if isinstance(one, Figure)}
    assert value["english", "english"] > 0.75, "products of both sides show whether they are alike"
    assert abs(found["shuffled"].value - 0.5) < 0.2 and found["chance"].value == 0.5
    mixed = (value["english", "target"] + value["target", "english"]) / 2
    assert found["mixed_gap"].value == pytest.approx(value["english", "english"] - mixed)
    assert found == mixed_matrix.measure(subject, Work(nli_train=train, nli_test=test))


def test_the_mixed_matrix_on_parallel_text(subject: Subject, tmp_path: Path):
    """Topics change every dozen sentences: a sentence that follows shares words, one from elsewhere does not."""
    draw = random.Random(0)
    rows = []
    topics = [(FIRST + SECOND)[first : first + 2] for first in range(0, 16, 2)]
    for i in range(400):
        words = draw.choices(topics[i // 12 % 8], k=5)
        rows.append((" ".join(["the", *words]), " ".join(["der", *words])))
    found = mixed_matrix.measure(subject, Work(parallel=labelled(tmp_path / "pairs.tsv", rows)))
    english = found["english/english"]
    assert isinstance(english, Figure) and english.value > 0.65 and "does the sentence follow?" in english.note
    with pytest.raises(NoDataError):
        mixed_matrix.measure(subject, Work())
    with pytest.raises(DataError, match="40 are needed"):
        mixed_matrix.measure(subject, Work(parallel=labelled(tmp_path / "few.tsv", rows[:40])))


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
