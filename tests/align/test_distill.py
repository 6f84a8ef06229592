"""Lessons of the two distillations, and the divergence against torch's."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from prealign_cpt.align import distill
from prealign_cpt.align.distill import Distillation, divergence, switch_lessons, tokenization_lessons
from prealign_cpt.align.listed import ListedWords
from prealign_cpt.align.text import WINDOW
from prealign_cpt.align.trainable import NewRows
from prealign_cpt.lexicon.pairs import Pair
from tests.align.conftest import LEXICON, START_ID, encoded, model_for
from tests.conftest import ENGLISH, TARGET


def reference(student, head, teacher, teacher_head):
    p, q = (teacher @ teacher_head.T).log_softmax(dim=-1), (student @ head.T).log_softmax(dim=-1)
    return F.kl_div(q, p, log_target=True, reduction="sum")


@pytest.mark.parametrize("chunk", [512, 4])
@pytest.mark.parametrize("moving_head", [True, False])
def test_the_divergence_and_its_gradient_are_torchs(monkeypatch: pytest.MonkeyPatch, chunk: int, moving_head: bool):
    monkeypatch.setattr(distill, "CHUNK", chunk)
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
    lessons = tokenization_lessons(documents, grown, tokenizer, 10**6, seed=0)
    assert max(len(lesson.student) for lesson in lessons) <= WINDOW
    whole = 0
    for lesson in lessons:
        text = grown.decode(lesson.student)
        assert text == tokenizer.decode(lesson.teacher) and lesson.bytes == len(text.encode())
        assert max(lesson.teacher) < num_old <= max(lesson.student)
        first = next(i for i, token in enumerate(lesson.student) if token >= num_old)
        assert lesson.at[0][1] >= first and lesson.at[-1] == (len(lesson.teacher) - 1, len(lesson.student) - 1)
        assert all(t < u and s < v for (t, s), (u, v) in pairwise(lesson.at))
        for t, s in lesson.at:
            assert grown.decode(lesson.student[: s + 1]) == tokenizer.decode(lesson.teacher[: t + 1])
        students = [grown.decode(lesson.student[: s + 1]) for s in range(first, len(lesson.student))]
        teachers = {tokenizer.decode(lesson.teacher[: t + 1]) for t in range(len(lesson.teacher))}
        shared = sum(text in teachers and not text.endswith("\ufffd") for text in students)
        assert len(lesson.at) == shared, "and none is missed"
        whole += lesson.bytes
    assert whole <= sum(len(text.encode()) for text in documents)


def test_characters_of_several_tokens(grown, tokenizer):
    """Characters that the tokenizer has only bytes for."""
    (lesson,) = tokenization_lessons(["€ Haus 水 Wasser ö€"], grown, tokenizer, 1000, seed=0)
    assert len(lesson.teacher) > len(lesson.student)
    for t, s in lesson.at:
        assert grown.decode(lesson.student[: s + 1]) == tokenizer.decode(lesson.teacher[: t + 1])
        assert "\ufffd" not in grown.decode(lesson.student[: s + 1])


def test_text_without_a_new_token_teaches_nothing(grown, tokenizer):
    assert tokenization_lessons(["Nichts davon.", "a"], grown, tokenizer, 1000, seed=0) == []
    assert len(tokenization_lessons(TARGET * 9, grown, tokenizer, 60, seed=0)) < 40


def test_switched_text_is_the_original_around_the_words(grown, num_old: int):
    listed = ListedWords(grown, LEXICON, lambda ids: any(i >= num_old for i in ids))
    documents = [ids * 3 for ids in encoded(grown, ENGLISH)]
    lessons = switch_lessons(documents, listed, num_old, 10**6, seed=0)
    assert lessons == switch_lessons(documents, listed, num_old, 10**6, seed=0) != []
    for lesson in lessons:
        assert len(lesson.teacher) <= WINDOW and max(lesson.teacher) < num_old <= max(lesson.student)
        (t, s), rest = lesson.at[0], lesson.at[1:]
        replaced = [s]
        for u, v in rest:
            if u == t + 1 and v == s + 1 and lesson.teacher[u] == lesson.student[v]:
                pass  # an original token behind the first replacement
            else:
                replaced.append(v)
            assert u > t and v > s
            t, s = u, v
        assert (t, s) == (len(lesson.teacher) - 1, len(lesson.student) - 1)
        assert any(lesson.student[v] >= num_old for v in replaced)
        first = next(i for i, (a, b) in enumerate(zip(lesson.teacher, lesson.student, strict=False)) if a != b)
        assert lesson.at[0][1] >= first and lesson.teacher[:first] == lesson.student[:first]
    assert switch_lessons(encoded(grown, ["Nothing here."]), listed, num_old, 100, seed=0) == []


def test_one_switched_word_by_hand(grown, num_old: int):
    listed = ListedWords(grown, [Pair("moonlight", "Wasser")], lambda ids: True)
    before, word, after = encoded(grown, ["The cold", " moonlight", " is clear"])
    assert len(word) > 1
    (lesson,) = switch_lessons([[*before, *word, *after]], listed, num_old, 10, seed=0)
    assert lesson.teacher == [*before, *word, *after] and lesson.student == [*before, num_old + 2, *after]
    n, w = len(before), len(word)
    assert lesson.at == [(n + w - 1 + i, n + i) for i in range(len(after) + 1)]


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_that_of_the_plain_models(grown, tokenizer, num_old: int, tied: bool):
    model = model_for(grown, tied)
    lessons = tokenization_lessons(TARGET, grown, tokenizer, 10**6, seed=0)[:3]
    term = Distillation("distill", NewRows(model, START_ID, num_old), lessons, 1, 4, 1.0)
    with torch.no_grad():
        for step, lesson in enumerate([*lessons, lessons[0]]):
            old, new = (
                model(torch.tensor([[START_ID, *ids]])).logits[0, 1:, :num_old].log_softmax(dim=-1)
                for ids in (lesson.teacher, lesson.student)
            )
            t, s = (torch.tensor(side) for side in zip(*lesson.at, strict=True))
            expected = F.kl_div(new[s], old[t], log_target=True, reduction="sum") / len(lesson.at)
            torch.testing.assert_close(term.loss(step), expected, atol=1e-5, rtol=1e-4)
    assert term.bytes == sum(lesson.bytes for lesson in [*lessons, lessons[0]])
    whole = Distillation("distill", NewRows(model, START_ID, num_old), lessons, 10**3, 1, 1.0)
    assert sum(len(lesson.student) for lesson in whole._steps[0]) >= 10**3
