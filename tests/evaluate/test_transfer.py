"""Zero-shot transfer: what the classifier sees is English alone."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prealign_cpt.evaluate.data import EvaluationData, Labelled, NoDataError, read_labelled
from prealign_cpt.evaluate.figures import Figure
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.transfer import classify, measure
from prealign_cpt.model.load import grow_rows
from prealign_cpt.run.errors import DataError
from tests.conftest import make_model

TOPICS = {"water": "river water sea cold clear runs", "book": "book words reads beautiful night all"}


def sentences(number: int, seed: int) -> list[Labelled]:
    draw = random.Random(seed)
    return [
        (label, " ".join(draw.choices(words.split(), k=5))) for label, words in TOPICS.items() for _ in range(number)
    ]


@pytest.fixture
def transferred(tmp_path: Path) -> Any:
    """The values of the measure's figures for a subject and labelled texts."""

    def run(subject: Any, english: list[Labelled], target: list[Labelled]) -> dict[str, float]:
        for name, rows in (("english", english), ("target", target)):
            (tmp_path / f"{name}.tsv").write_text("".join(f"{label}\t{text}\n" for label, text in rows))
        data = EvaluationData(classes_train=tmp_path / "english.tsv", classes_test=tmp_path / "target.tsv")
        return {name: figure.value for name, figure in measure(subject, data).items() if isinstance(figure, Figure)}

    return run


def shifted(tokenizer: Any, model: Any) -> Any:
    """A subject that writes a text that begins with "~" in ids behind all others."""

    def encode(texts: list[str]) -> list[list[int]]:
        rows = tokenizer([text.lstrip("~") for text in texts], add_special_tokens=False)["input_ids"]
        return [[i + len(tokenizer) * text.startswith("~") for i in row] for text, row in zip(texts, rows, strict=True)]

    return SimpleNamespace(model=model, encode=encode, start_token_id=0)


def test_same_rows_transfer_and_mean_rows_do_not(tokenizer, transferred):
    size = len(tokenizer)
    english, target = sentences(60, 1), [(label, "~" + text) for label, text in sentences(40, 2)]
    same, mean = make_model(size), make_model(size)
    for model in (same, mean):
        grow_rows(model, 2 * size, num_old_tokens=size)
    with torch.no_grad():
        same.get_input_embeddings().weight[size:] = same.get_input_embeddings().weight[:size]
    found = transferred(shifted(tokenizer, same), english, target)
    assert found["acc_english"] > 0.95 and found["acc_target"] > 0.95 and abs(found["gap"]) < 0.05
    assert found["gap"] == pytest.approx(found["acc_english"] - found["acc_target"])
    assert found["relative"] == pytest.approx(found["acc_target"] / found["acc_english"])
    assert found["chance"] == 0.5 and abs(found["acc_shuffled"] - 0.5) < 0.35
    plain = transferred(shifted(tokenizer, same), english, [(label, text[1:]) for label, text in target])
    assert plain["acc_target"] == found["acc_target"], "clones with the same rows are the same texts"
    untaught = transferred(shifted(tokenizer, mean), english, target)
    assert untaught["acc_english"] > 0.95 and untaught["acc_target"] < 0.75 and untaught["gap"] > 0.2


def test_the_layer_is_chosen_on_english_alone(base_folder: Path, transferred):
    """Other target labels change nothing but the accuracy on them."""
    english, target = sentences(30, 1), sentences(20, 2)
    turned = [({"water": "book", "book": "water"}[label], text) for label, text in target]
    right, wrong = (transferred(Subject(base_folder), english, some) for some in (target, turned))
    assert (right["layer"], right["acc_english"]) == (wrong["layer"], wrong["acc_english"])
    assert right["acc_target"] == pytest.approx(1 - wrong["acc_target"])


def test_the_classifier_finds_a_plane():
    points = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    answers = (points[:, 0] > 2 * points[:, 1]).long()
    predicted = classify(points[:150], answers[:150], points[150:], 2)
    assert (predicted == answers[150:]).float().mean() > 0.9


def test_what_cannot_be_used_is_named(tmp_path: Path, base_folder: Path, transferred):
    subject, english = Subject(base_folder), sentences(30, 1)
    path = tmp_path / "transfer.tsv"
    path.write_text("a\tone text\nno tab\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"transfer\.tsv:2: expected `label TAB text`"):
        read_labelled(path)
    with pytest.raises(NoDataError):
        measure(subject, EvaluationData())
    for train, test, message in (
        ([("a", text) for _, text in english], english, "at least two labels"),
        (sentences(9, 1), english, "10 texts each"),
        (english, [("other", "text")], r"\['other'\]"),
    ):
        with pytest.raises(DataError, match=message):
            transferred(subject, train, test)
