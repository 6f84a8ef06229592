"""Zero-shot transfer: what the classifier sees is English alone."""

import random
from pathlib import Path

import pytest
import torch

from prealign_cpt.evaluate.read import read_labelled
from prealign_cpt.evaluate.transfer.zero_shot import classify, zero_shot_transfer
from prealign_cpt.model.load import grow_rows
from prealign_cpt.run.errors import DataError
from tests.conftest import make_model

TOPICS = {"water": "river water sea cold clear runs", "book": "book words reads beautiful night all"}


def sentences(number: int, seed: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    return [
        (label, " ".join(draw.choices(words.split(), k=5))) for label, words in TOPICS.items() for _ in range(number)
    ]


class Shifted:
    """A tokenizer whose ids all lie behind another's."""

    def __init__(self, tokenizer, by: int) -> None:
        self._tokenizer, self._by = tokenizer, by

    def __call__(self, texts: list[str], **options: object) -> dict[str, list[list[int]]]:
        """English as it is; a text that begins with "~" in shifted ids."""
        ids = self._tokenizer([text.lstrip("~") for text in texts], add_special_tokens=False)["input_ids"]
        return {
            "input_ids": [
                [i + self._by for i in row] if text.startswith("~") else row
                for text, row in zip(texts, ids, strict=True)
            ]
        }


def test_same_rows_transfer_and_mean_rows_do_not(tokenizer):
    size = len(tokenizer)
    english, target = sentences(60, 1), [(label, "~" + text) for label, text in sentences(40, 2)]
    same, mean = make_model(size), make_model(size)
    for model in (same, mean):
        grow_rows(model, 2 * size, num_old_tokens=size)
    with torch.no_grad():
        same.get_input_embeddings().weight[size:] = same.get_input_embeddings().weight[:size]
    shifted = Shifted(tokenizer, size)
    found, _ = zero_shot_transfer(same, shifted, english, target, 0, seed=0)
    assert found.acc_english > 0.95 and found.acc_target > 0.95 and abs(found.gap) < 0.05
    assert found.chance == 0.5 and abs(found.acc_shuffled - 0.5) < 0.35
    assert (found.english_texts, found.target_texts) == (120, 80)
    plain, _ = zero_shot_transfer(same, shifted, english, [(label, text[1:]) for label, text in target], 0, seed=0)
    assert plain.acc_target == found.acc_target, "clones with the same rows are the same texts"
    untaught, _ = zero_shot_transfer(mean, shifted, english, target, 0, seed=0)
    assert untaught.acc_english > 0.95 and untaught.acc_target < 0.75 and untaught.gap > 0.2


def test_the_layer_is_chosen_on_english_alone(tokenizer):
    """Other target labels change nothing but the accuracy on them."""
    model = make_model(len(tokenizer))
    english, target = sentences(30, 1), sentences(20, 2)
    turned = [({"water": "book", "book": "water"}[label], text) for label, text in target]
    right, wrong = (zero_shot_transfer(model, tokenizer, english, some, 0, seed=0)[0] for some in (target, turned))
    assert (right.layer, right.acc_english) == (wrong.layer, wrong.acc_english)
    assert right.acc_target == pytest.approx(1 - wrong.acc_target)


def test_the_classifier_finds_a_plane():
    points = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    answers = (points[:, 0] > 2 * points[:, 1]).long()
    predicted = classify(points[:150], answers[:150], points[150:], 2)
    assert (predicted == answers[150:]).float().mean() > 0.9


def test_what_cannot_be_used_is_named(tmp_path: Path, tokenizer):
    model = make_model(len(tokenizer))
    path = tmp_path / "transfer.tsv"
    path.write_text("a\tone text\nno tab\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"transfer\.tsv:2: expected `label TAB text`"):
        read_labelled(path)
    english = sentences(30, 1)
    with pytest.raises(DataError, match="at least two labels"):
        zero_shot_transfer(model, tokenizer, [("a", text) for _, text in english], english, 0, 0)
    with pytest.raises(DataError, match="10 texts each"):
        zero_shot_transfer(model, tokenizer, sentences(9, 1), english, 0, 0)
    with pytest.raises(DataError, match=r"\['other'\]"):
        zero_shot_transfer(model, tokenizer, english, [("other", "text")], 0, 0)
