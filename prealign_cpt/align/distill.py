"""Two distillations: the model as it was, on text that it knows how to read, teaches the same text with new tokens.

    original tokenization   teacher  old pieces of a text            student  its new tokens
    switching               teacher  an English text                 student  the same with words translated

    loss = mean over positions of KL(teacher's next token || student's), both over the old vocabulary

The first is the idea of token distillation (the meaning of a split word is built in the lower layers, not in the
table), the second PreAlign's code-switching (arXiv 2407.16222, section 3.2) turned into a loss of its own. Under
trains "new_rows" only input rows of new tokens get a gradient: old output rows are all that the loss looks at.
Shapes: N positions, V old tokens, D hidden size.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import PreTrainedTokenizerBase

from prealign_cpt.align.listed import ListedWords
from prealign_cpt.align.ranks import rank_and_size
from prealign_cpt.align.text import WINDOW
from prealign_cpt.align.trainable import Trainable, pack
from prealign_cpt.model.tokens import num_ids
from prealign_cpt.model.world import World

CHUNK = 512
"""Positions whose logits exist at once, twice: the teacher's and the student's."""

SWITCHED = 0.3
"""Share of the listed words of an English text that are replaced; at least one is."""


@dataclass(frozen=True)
class Lesson:
    """One text read in two ways, start token left out.

    Attributes:
        teacher, student: token ids; the teacher's are old ones.
        at: places (in teacher, in student) after which both have read the same, behind the first difference.
        bytes: of target text, UTF-8; 0 for English.
    """

    teacher: list[int]
    student: list[int]
    at: list[tuple[int, int]]
    bytes: int


def tokenization_lessons(
    documents: list[str],
    grown: PreTrainedTokenizerBase,
    base: PreTrainedTokenizerBase,
    tokens: int,
    seed: int,
) -> list[Lesson]:
    """Lessons from target text in random order until the student reads `tokens`, or the text ends.

    A lesson is at most WINDOW student tokens of one document; pieces without a new token are left out. Positions are
    those where both tokenizations end at the same character.
    """
    lessons: list[Lesson] = []
    count = 0
    first_new = num_ids(base)
    order = random.Random(seed).sample(range(len(documents)), len(documents))
    for i in range(0, len(order), 32):
        texts = [documents[k] for k in order[i : i + 32]]
        for text, new, old in zip(texts, _with_ends(grown, texts), _with_ends(base, texts), strict=True):
            for lesson in _pieces(text, new, old, first_new):
                lessons.append(lesson)
                count += len(lesson.student)
            if count >= tokens:
                return lessons
    return lessons


def switch_lessons(
    documents: Iterable[list[int]], listed: ListedWords, num_old: int, tokens: int, seed: int
) -> list[Lesson]:
    """Lessons from English text, front to back, until the student reads `tokens`, or the text ends.

    A lesson is at most WINDOW tokens of one document before its words are switched; pieces without a listed word are
    left out.
    """
    chooser = random.Random(seed)
    lessons: list[Lesson] = []
    count = 0
    for ids in documents:
        found = list(listed.find(ids))
        for first in range(0, len(ids), WINDOW):
            last = min(first + WINDOW, len(ids))
            words = [w for w in found if first < w.start and w.end < last]
            if not words or any(i >= num_old for i in ids[first:last]):
                continue
            chosen = chooser.sample(words, max(1, round(SWITCHED * len(words))))
            student: list[int] = []
            at: list[tuple[int, int]] = []
            done = first
            for word in sorted(chosen, key=lambda w: w.start):
                _copy(ids, done, word.start, first, student, at)
                student += chooser.choice(word.translations)[1]
                at.append((word.end - 1 - first, len(student) - 1))
                done = word.end
            _copy(ids, done, last, first, student, at)
            lessons.append(Lesson(ids[first:last], student, at, 0))
            count += len(student)
        if count >= tokens:
            break
    return lessons


class Distillation:
    """A term of the stage.

    Args:
        lessons: at least one; read from front to back and then again.
        tokens: that the student reads in a step, over all ranks; the last lesson may go beyond.
    """

    def __init__(
        self,
        name: str,
        model: Trainable,
        lessons: list[Lesson],
        tokens: int,
        steps: int,
        weight: float,
        world: World | None = None,
    ) -> None:
        self.name, self.weight, self._model, self._world = name, weight, model, world
        self._steps: list[list[Lesson]] = []
        place = 0
        for _ in range(steps):
            chosen: list[Lesson] = []
            while sum(len(lesson.student) for lesson in chosen) < tokens:
                chosen.append(lessons[place % len(lessons)])
                place += 1
            self._steps.append(chosen)
        self.bytes = sum(lesson.bytes for step in self._steps for lesson in step)

    def loss(self, step: int) -> Tensor:
        """This rank's part of the loss of a step; the parts of all ranks add up to it."""
        rank, size = rank_and_size(self._world)
        mine = self._steps[step][rank::size]
        count = sum(len(lesson.at) for lesson in self._steps[step])
        if not mine:
            return torch.zeros(())
        model = self._model
        teacher = pack([lesson.teacher for lesson in mine], model.start_id)
        student = pack([lesson.student for lesson in mine], model.start_id)
        old = [first + t for first, lesson in zip(teacher.first, mine, strict=True) for t, _ in lesson.at]
        new = [first + s for first, lesson in zip(student.first, mine, strict=True) for _, s in lesson.at]
        taught = model.original(teacher)[old]
        learned = model.hidden(student.ids_BT, student.tokens)[new]
        return divergence(learned, model.head()[: model.num_old], taught, model.original_head()) / count


def divergence(student_ND: Tensor, head_VD: Tensor, teacher_ND: Tensor, teacher_head_VD: Tensor) -> Tensor:
    """Sum over positions of KL(softmax(teacher) || softmax(student)) in nats, fp32; no gradient for the teacher.

    Logits exist for CHUNK positions at once, and the gradient is taken along with the value, so they are never
    computed twice.
    """
    return _Divergence.apply(student_ND, head_VD, teacher_ND.detach(), teacher_head_VD.detach())


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, head: Tensor, teacher: Tensor, teacher_head: Tensor) -> Tensor:
        value = torch.zeros((), device=student.device)
        for_hidden = torch.empty_like(student)
        for_head = torch.zeros_like(head, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for i in range(0, len(student), CHUNK):
            part = slice(i, i + CHUNK)
            p = (teacher[part] @ teacher_head.T).float().log_softmax(dim=-1)
            q = (student[part] @ head.T).float().log_softmax(dim=-1)
            value += (p.exp() * (p - q)).sum()
            logits_gradient = (q.exp() - p.exp()).to(head.dtype)
            for_hidden[part] = logits_gradient @ head
            if for_head is not None:
                for_head += logits_gradient.T @ student[part]
        ctx.save_for_backward(for_hidden, torch.empty(0) if for_head is None else for_head.to(head.dtype))
        return value

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        for_hidden, for_head = ctx.saved_tensors
        scale = gradients[0]
        head = for_head * scale.to(for_head.dtype) if ctx.needs_input_grad[1] else None
        return for_hidden * scale.to(for_hidden.dtype), head, None, None


def _copy(ids: list[int], start: int, end: int, first: int, student: list[int], at: list[tuple[int, int]]) -> None:
    """Append `ids[start:end]` to the student; once something was replaced, its places are to be learned."""
    for i in range(start, end):
        student.append(ids[i])
        if at:
            at.append((i - first, len(student) - 1))


def _with_ends(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[tuple[list[int], list[int]]]:
    """Token ids of each text, and the character at which each token ends."""
    found = tokenizer(
        texts, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
    )
    return [
        (list(ids), [end for _, end in offsets])
        for ids, offsets in zip(found["input_ids"], found["offset_mapping"], strict=True)
    ]


def _pieces(
    text: str, new: tuple[list[int], list[int]], old: tuple[list[int], list[int]], num_old: int
) -> Iterable[Lesson]:
    """Cut a document where both tokenizations end together; a character in several tokens ends with the last."""
    new_at = {end: i for i, end in enumerate(new[1])}
    old_at = {end: i for i, end in enumerate(old[1])}
    shared = [(end, old_at[end], new_at[end]) for end in sorted(new_at.keys() & old_at.keys())]
    start = (0, 0, 0)  # character, teacher's token, student's token
    piece: list[tuple[int, int, int]] = []
    for point in [*shared, None]:
        if piece and (point is None or point[2] + 1 - start[2] > WINDOW):
            end, t, s = piece[-1]
            student = new[0][start[2] : s + 1]
            first = next((i for i, token in enumerate(student) if token >= num_old), None)
            if first is not None:
                at = [(t - start[1], s - start[2]) for _, t, s in piece if s - start[2] >= first]
                size = len(text[start[0] : end].encode())
                yield Lesson(old[0][start[1] : t + 1], student, at, size)
            start = (end, t + 1, s + 1)
            piece = []
        if point is not None:
            piece.append(point)
