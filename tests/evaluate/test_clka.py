"""CLKA: the log-probabilities are the model's, and the figures are what they are defined to be."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prealign_cpt.evaluate import clka
from prealign_cpt.evaluate.data import GROUPS, EvaluationData, NoDataError, Question, read_questions
from prealign_cpt.evaluate.figures import Absent, Figure, Result
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.model.vectors import encode_words
from prealign_cpt.run.errors import DataError, MissingInputError
from tests.conftest import make_model

LINE = {
    "group": "both",
    "language": "english",
    "prompt": "The dog of the king is",
    "neutral": "The dog is",
    "candidates": ["old", "beautiful", "small"],
    "answer": "small",
}


def question(group: str, language: str, prompt: str, answer: str) -> Question:
    return Question(group, language, prompt, f"neutral {language}", ("a", "b", "c", "d"), answer)


def test_log_probabilities_are_those_of_the_whole_text(tokenizer):
    """Against one plain forward pass for each prompt and candidate."""
    model = make_model(len(tokenizer), tied=False)
    prompts = [("The dog of the king is", ("old", "beautiful", "small", "zebra")), ("My", ("water", "wa"))]
    found = clka._log_probabilities(model, tokenizer, prompts, 0, batch_tokens=64)
    lengths = set()
    for (prompt, candidates), values in zip(prompts, found, strict=True):
        fed = [0, *tokenizer.encode(prompt, add_special_tokens=False)]
        for ids, value in zip(encode_words(tokenizer, list(candidates)), values, strict=True):
            assert tokenizer.encode(f"{prompt} {tokenizer.decode(ids).strip()}") == [*fed[1:], *ids]
            with torch.no_grad():
                log_TV = model(torch.tensor([[*fed, *ids]])).logits[0].log_softmax(dim=-1)
            expected = sum(log_TV[len(fed) - 1 + at, number] for at, number in enumerate(ids))
            torch.testing.assert_close(value, expected, atol=1e-4, rtol=0)
            lengths.add(len(ids))
    assert len(lengths) > 2, "candidates of one token and of several"


def test_figures(monkeypatch, tokenizer):
    """Log-probabilities are given: after "knows X" the answer gains most, after others the neutral order remains."""
    gains = {"first": [0.0, 1.0, 2.0, 3.0], "second": [0.0, 0.0, 5.0, 0.0], "same": [0.0] * 4}
    prior = torch.tensor([9.0, 0.0, 0.0, 0.0])  # without the correction every answer would be "a"

    def given(model, tokenizer, prompts, start_id, batch_tokens):
        return [prior + torch.tensor(gains.get(prompt, [0.0] * 4)) for prompt, _ in prompts]

    monkeypatch.setattr(clka, "_log_probabilities", given)
    asked = [
        question("english_only", "english", "second", "c"),
        question("english_only", "english", "first", "d"),
        question("english_only", "clone", "second", "c"),
        question("english_only", "clone", "first", "b"),
        question("none", "english", "first", "a"),
        question("none", "clone", "same", "a"),
        question("clone_only", "english", "second", "a"),
        question("clone_only", "clone", "same", "a"),
    ]

    def figures(some: list[Question]) -> Result:
        return clka.figures_of(clka.answer_ranks(None, tokenizer, some, 0), 0.25, 0)

    found = figures(asked)
    value = {name: figure.value for name, figure in found.items() if isinstance(figure, Figure)}
    assert (value["accuracy/english_only/english"], value["mrr/english_only/english"]) == (1.0, 1.0)
    assert value["accuracy/english_only/clone"] == 0.5 and found["accuracy/english_only/clone"].n == 2
    assert value["mrr/english_only/clone"] == pytest.approx((1 + 1 / 3) / 2)
    assert value["mrr/none/english"] == 0.25 and value["chance"] == 0.25
    assert (value["accuracy/none/clone"], value["mrr/none/clone"]) == (0.0, 0.4), "four equal ones share their ranks"
    assert value["transfer/english_to_clone"] == 0.5
    assert "nothing can cross" in found["transfer/clone_to_english"].reason, "nothing was learned in the clone"
    assert "no questions of" in figures(asked[:2])["transfer/english_to_clone"].reason


def test_transfer_and_its_interval():
    known, half, nothing = np.ones(40, bool), np.arange(40) % 2 == 0, np.zeros(40, bool)
    found = clka.transfer([known, half, nothing, nothing], 0)
    assert isinstance(found, Figure) and found.value == 0.5 and 0.3 < found.low < 0.5 < found.high < 0.7
    assert clka.transfer([known, known, nothing, nothing], 0).value == 1.0
    assert isinstance(clka.transfer([nothing, known, nothing, nothing], 0), Absent), "nothing was learned"
    unsure = clka.transfer([np.arange(40) == 0, half, nothing, nothing], 0)
    assert unsure.low is None and "no interval" in unsure.note


@pytest.mark.parametrize(("ranks", "p"), [([0.0] * 3, 1 / 64), ([0.0, 2.0, 2.0], 1 - 27 / 64), ([2.0] * 3, 1.0)])
def test_facts_stated_nowhere_must_be_at_chance(ranks: list[float], p: float):
    leak = clka.figures_of({("none", "english"): ranks}, 0.25, 0)["leak/english"]
    assert leak.value == pytest.approx(p) and ("LEAK" in leak.note) == (p < clka.LEAK)


def test_asked_of_a_model(base_folder: Path, tmp_path: Path):
    lines = [LINE | {"group": group, "language": side} for group in GROUPS for side in ("english", "clone")]
    (tmp_path / "clka.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = clka.measure(Subject(base_folder), EvaluationData(facts=tmp_path))
    assert {f"{kind}/{group}/english" for kind in ("accuracy", "mrr") for group in GROUPS} < set(found)
    assert found["chance"].value == pytest.approx(1 / 3) and found["leak/english"].n == 1
    with pytest.raises(NoDataError, match="--facts"):
        clka.measure(Subject(base_folder), EvaluationData())


def test_what_is_no_question_is_named(tmp_path: Path):
    path = tmp_path / "clka.jsonl"
    path.write_text(json.dumps(LINE) + "\n\n" + json.dumps(LINE) + "\n", encoding="utf-8")
    assert len(read_questions(path)) == 2
    for change, message in (
        ({"answer": "new"}, "one of at least two"),
        ({"candidates": ["small", "small"]}, "one of at least two"),
        ({"candidates": "small"}, "list of strings"),
        ({"prompt": 5}, "not text"),
        ({"group": "all"}, "'all'"),
        ({"language": "German"}, "'German'"),
    ):
        path.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE | change), encoding="utf-8")
        with pytest.raises(DataError, match=rf"clka\.jsonl:2: .*{message}"):
            read_questions(path)
    for content in ("[1]", "{", '{"group": "both"}'):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=r"clka\.jsonl:1: not a question"):
            read_questions(path)
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="no questions"):
        read_questions(path)
    with pytest.raises(MissingInputError):
        read_questions(tmp_path / "absent")
