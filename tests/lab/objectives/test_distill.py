"""A text in two tokenizations, the divergence against torch's, and the loss against the plain models'."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from prealign_cpt.align.language_model import WINDOW
from prealign_cpt.align.trainable import make_trainable, pack
from prealign_cpt.lab.objectives.distill import Distillation, divergence, two_readings
from tests.align.conftest import ALONE, NOTHING, START_ID, model_for, weights
from tests.conftest import TARGET


def reference(student, head, teacher, teacher_head):
    p, q = (teacher @ teacher_head.T).log_softmax(dim=-1), (student @ head.T).log_softmax(dim=-1)
    return F.kl_div(q, p, log_target=True, reduction="sum")


@pytest.mark.parametrize("chunk", [512, 4])
@pytest.mark.parametrize("moving_head", [True, False])
def test_the_divergence_and_its_gradient_are_torchs(monkeypatch: pytest.MonkeyPatch, chunk: int, moving_head: bool):
    monkeypatch.setattr("prealign_cpt.lab.objectives.distill.CHUNK", chunk)
    torch.manual_seed(0)
    teacher, teacher_head = torch.randn(11, 6), torch.randn(20, 6)
    found = []
    for function in divergence, reference:
        torch.manual_seed(1)
        student = torch.randn(11, 6, requires_grad=True)
        head = torch.randn(20, 6, requires_grad=moving_head)
        value = function(student, head, teacher, teacher_head)
        (3 * value).backward()
        found.append([value.detach(), student.grad, head.grad])
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert float(divergence(teacher, teacher_head, teacher, teacher_head)) == pytest.approx(0, abs=1e-5)


def test_both_tokenizations_have_read_the_same_text(grown, tokenizer, num_old: int):
    documents = [text * 3 for text in TARGET]
    texts = two_readings(documents, grown, tokenizer, 10**6, seed=0)
    assert max(len(reading.student) for reading in texts) <= WINDOW
    whole = 0
    for reading in texts:
        text = grown.decode(reading.student)
        assert text == tokenizer.decode(reading.teacher) and reading.bytes == len(text.encode())
        assert max(reading.teacher) < num_old <= max(reading.student)
        first = next(i for i, token in enumerate(reading.student) if token >= num_old)
        assert reading.places[0][1] >= first and reading.places[-1] == (
            len(reading.teacher) - 1,
            len(reading.student) - 1,
        )
        assert all(t < u and s < v for (t, s), (u, v) in pairwise(reading.places))
        for t, s in reading.places:
            assert grown.decode(reading.student[: s + 1]) == tokenizer.decode(reading.teacher[: t + 1])
        students = [grown.decode(reading.student[: s + 1]) for s in range(first, len(reading.student))]
        teachers = {tokenizer.decode(reading.teacher[: t + 1]) for t in range(len(reading.teacher))}
        shared = sum(text in teachers and not text.endswith("\ufffd") for text in students)
        assert len(reading.places) == shared, "and none is missed"
        whole += reading.bytes
    assert whole <= sum(len(text.encode()) for text in documents)


def test_characters_of_several_tokens(grown, tokenizer):
    """Characters that the tokenizer has only bytes for."""
    (reading,) = two_readings(["€ Haus 水 Wasser ö€"], grown, tokenizer, 1000, seed=0)
    assert len(reading.teacher) > len(reading.student)
    for t, s in reading.places:
        assert grown.decode(reading.student[: s + 1]) == tokenizer.decode(reading.teacher[: t + 1])
        assert "\ufffd" not in grown.decode(reading.student[: s + 1])


def test_text_without_a_new_token_teaches_nothing(grown, tokenizer):
    assert two_readings(["Nichts davon.", "a"], grown, tokenizer, 1000, seed=0) == []
    assert len(two_readings(TARGET * 9, grown, tokenizer, 60, seed=0)) < 40


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("trains", ["new_rows", "all"])
def test_the_loss_is_that_of_the_plain_models(grown, tokenizer, num_old: int, tied: bool, trains: str):
    model = model_for(grown, tied)
    texts = two_readings(TARGET, grown, tokenizer, 10**6, seed=0)[:3]
    trained = make_trainable(model, trains, START_ID, num_old)
    term = Distillation(trained, texts, 1, 4, 1.0, ALONE)
    with torch.no_grad():
        for step, reading in enumerate([*texts, texts[0]]):
            old, new = (
                model(torch.tensor([[START_ID, *ids]])).logits[0, 1:, :num_old].log_softmax(dim=-1)
                for ids in (reading.teacher, reading.student)
            )
            t, s = (torch.tensor(side) for side in zip(*reading.places, strict=True))
            expected = F.kl_div(new[s], old[t], log_target=True, reduction="sum") / len(reading.places)
            torch.testing.assert_close(term.loss(step), expected, atol=1e-5, rtol=1e-4)
    assert term.bytes == sum(reading.bytes for reading in [*texts, texts[0]])
    whole = Distillation(trained, texts, 10**3, 1, 1.0, ALONE)
    assert sum(len(reading.student) for reading in whole._steps[0]) >= 10**3


def test_the_teacher_does_not_move(grown, tokenizer, num_old: int):
    trained = make_trainable(model_for(grown, tied=False), "all", START_ID, num_old)
    texts = two_readings(TARGET, grown, tokenizer, 100, seed=0)
    term = Distillation(trained, texts, 100, 1, 1.0, ALONE)
    packed = pack([texts[0].teacher], START_ID)
    before, hidden, loss = term._taught(packed), trained.hidden(packed).detach(), float(term.loss(0).detach())
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter *= 1.5
    trained.place()
    assert torch.equal(term._taught(packed), before) and not torch.equal(trained.hidden(packed), hidden)
    assert float(term.loss(0).detach()) != loss


@pytest.mark.parametrize("trains", ["new_rows", "all"])
def test_it_lowers_its_divergence(grown, num_old: int, stage: Any, trains: str):
    """By input rows alone where only new rows move: then no output row of an untied model does, nor any English bit."""
    model = model_for(grown, tied=False)
    before = weights(model)
    only = (*NOTHING, "--align.objective", "distill", "--align.weight", "1", "--align.trains", trains)
    rate = "4e-2" if trains == "new_rows" else "2e-3"
    done, figures = stage(model, *only, "--align.steps", "25", "--align.lr", rate)
    assert figures[-1]["distill"] < 0.8 * figures[0]["distill"] and done["target_bytes"] > 0
    moved = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    if trains == "new_rows":
        assert moved == {"model.embed_tokens.weight"}
        assert torch.equal(model.get_input_embeddings().weight[:num_old], before["model.embed_tokens.weight"][:num_old])


def test_text_without_new_tokens_is_said(grown, recipe_file: Path, stage: Any, capsys: pytest.CaptureFixture[str]):
    (recipe_file.parent / "target.txt").write_text("Nichts davon.")
    done, _ = stage(model_for(grown), *NOTHING, "--align.objective", "distill", "--align.weight", "1")
    assert done["steps"] == 0 and done["reason"] == "no new token stands in the target text"
    assert "no distillation: no new token" in capsys.readouterr().out
