"""CLKA: the log-probabilities are the model's, and the figures are what they are defined to be."""

import json
from pathlib import Path

import pytest
import torch

from prealign_cpt.evaluate.transfer import clka
from prealign_cpt.evaluate.transfer.clka import score_facts
from prealign_cpt.evaluate.transfer.questions import Question, read_questions
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
    found = score_facts(None, tokenizer, asked, 0)
    groups = found["groups"]
    assert groups["english_only/english"] == {"accuracy": 1.0, "mrr": 1.0, "questions": 2}
    assert groups["english_only/clone"] == {"accuracy": 0.5, "mrr": round((1 + 1 / 3) / 2, 4), "questions": 2}
    assert groups["none/english"]["mrr"] == 0.25
    assert groups["none/clone"] == {"accuracy": 0.0, "mrr": 0.4, "questions": 1}, "four equal ones share their ranks"
    assert found["transfer"] == {"english_to_clone": 0.5, "clone_to_english": None}, "nothing was learned in the clone"
    assert found["chance"] == 0.25
    assert score_facts(None, tokenizer, asked[:2], 0)["transfer"]["english_to_clone"] is None


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
