"""Distillation of the tokenization: the model as it was, reading a text in old pieces, teaches it in new tokens.

    text ─┬─ old pieces ─► first third of the blocks, as they were ─► teacher ─┐
          └─ new tokens ─► the same blocks, with what moves ────────► student ─┴► mean of ((student - teacher) / s)²

The states are compared where both tokenizations end together, from the first new token on; s is the teacher's standard
deviation in each dimension. What a split word means is built in the lower layers, not in the table, so no later block
runs: a third of what whole models take (after Dobler, Elliott and de Melo 2025, arXiv 2505.20133, who compare the last
states). Or, at `align.distill_to` "logits", behind the whole model and over the old vocabulary:

    KL(teacher's next token || student's)

Under trains "new_rows" only input rows of new tokens get a gradient.
Shapes: N positions, V old tokens, D hidden size.
"""

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.align.ranks import total
from prealign_cpt.align.trainable import Packed, Trainable, pack
from prealign_cpt.model.load import blocks
from prealign_cpt.model.tokens import encode_with_ends, num_ids
from prealign_cpt.model.world import World

DEPTH = 1 / 3
"""Share of the blocks that run where states are compared."""

WINDOW = 256
"""Most tokens of the student in one text."""

CHUNK = 512
"""Positions whose logits exist at once, twice: the teacher's and the student's; the backward pass makes them anew."""


@dataclass(frozen=True)
class TwoReadings:
    """One text in two tokenizations, start token left out.

    Attributes:
        teacher, student: token ids; the teacher's are old ones.
        places: (in teacher, in student) after which both have read the same, from the first new token on.
        bytes: of the text, UTF-8.
    """

    teacher: list[int]
    student: list[int]
    places: list[tuple[int, int]]
    bytes: int


def two_readings(
    documents: list[str], grown: PreTrainedTokenizerBase, base: PreTrainedTokenizerBase, tokens: int, seed: int
) -> list[TwoReadings]:
    """Pieces of target text in random order until the student reads `tokens`, or the text ends.

    A piece is at most WINDOW student tokens of one document; those without a new token are left out. Places are those
    where both tokenizations end at the same character.
    """
    texts: list[TwoReadings] = []
    count = 0
    order = random.Random(seed).sample(range(len(documents)), len(documents))
    for i in range(0, len(order), 32):
        batch = [documents[k] for k in order[i : i + 32]]
        for text, new, old in zip(batch, encode_with_ends(grown, batch), encode_with_ends(base, batch), strict=True):
            for reading in _cut(text, new, old, num_ids(base)):
                texts.append(reading)
                count += len(reading.student)
            if count >= tokens:
                return texts
    return texts


class Distillation:
    """The term.

    Args:
        texts: at least one. One reading of them is spread over the steps; they are read again only where there are
            fewer of them than steps.
        most: student tokens in a step, over all ranks, on average.
        to: "states" or "logits".

    Attributes:
        tokens: student tokens in a step, over all ranks, on average.
        bytes: UTF-8 bytes of what is read in all steps.
    """

    name = "distill"

    def __init__(
        self, model: Trainable, texts: list[TwoReadings], most: int, steps: int, weight: float, to: str, world: World
    ) -> None:
        self.weight, self._model, self._world = weight, model, world
        # As long as only new rows move, the model by its old ones is what it was.
        self._teacher = copy.deepcopy(model.model).requires_grad_(False) if model.english_moves else model.model
        self.tokens = min(float(most), sum(len(text.student) for text in texts) / steps)
        self._steps = _spread(texts, self.tokens, steps)
        self.bytes = sum(text.bytes for step in self._steps for text in step)
        self._depth = None if to == "logits" else max(1, round(DEPTH * len(blocks(model.model))))
        self._deviation_D = self._deviations() if self._depth else torch.ones(0)

    def loss(self, step: int) -> Tensor:
        """This rank's part of the loss of a step; the parts of all ranks add up to it."""
        mine = self._steps[step][self._world.rank :: self._world.size]
        count = sum(len(text.places) for text in self._steps[step])
        model = self._model
        packed = pack([text.student for text in mine], model.start_id)
        new = [first + s for first, text in zip(packed.first, mine, strict=True) for _, s in text.places]
        student = self._run(model.model, model.embed(packed.ids_BT.to(model.device)), packed)[new]
        teacher = self._taught(mine)
        if self._depth:
            return ((student.float() - teacher.float()) / self._deviation_D).square().mean(dim=1).sum() / count
        old_head = self._teacher.get_output_embeddings().weight.detach()[: model.num_old]
        return divergence(student, model.head()[: model.num_old], teacher, old_head) / count

    @torch.no_grad()
    def _taught(self, texts: list[TwoReadings]) -> Tensor:
        """The teacher's states at the places of some texts, [N, D]."""
        packed = pack([text.teacher for text in texts], self._model.start_id)
        old = [first + t for first, text in zip(packed.first, texts, strict=True) for t, _ in text.places]
        embedded = self._teacher.get_input_embeddings()(packed.ids_BT.to(self._model.device))
        return self._run(self._teacher, embedded, packed)[old]

    def _run(self, model: PreTrainedModel, embedded_BTD: Tensor, packed: Packed) -> Tensor:
        """The states that are compared, of all positions."""
        if self._depth:
            return self._model.run_to(model, [self._depth], embedded_BTD, packed)[0]
        return self._model.run(model, embedded_BTD, packed).last_hidden_state.flatten(0, 1)

    def _deviations(self) -> Tensor:
        """Standard deviation of the teacher's states in the first step, fp32 [D]; alike on all ranks."""
        mine = self._steps[0][self._world.rank :: self._world.size]
        width, device = self._model.model.get_input_embeddings().weight.shape[1], self._model.device
        wide = {"dtype": torch.float64, "device": device}
        states = self._taught(mine).double()
        sums = torch.stack([states.sum(dim=0), states.square().sum(dim=0), torch.full((width,), len(states), **wide)])
        first, second, count = total(sums, self._world)
        # A dimension in which the states hardly differ must not rule.
        return ((second / count - (first / count).square()).clamp(min=0).sqrt() + 1e-3).float()


def _spread(texts: list[TwoReadings], tokens: float, steps: int) -> list[list[TwoReadings]]:
    """From front to back, and again if need be, `tokens` a step on average; each step has a text."""
    spread: list[list[TwoReadings]] = []
    place = read = 0
    for step in range(steps):
        chosen: list[TwoReadings] = []
        while not chosen or read + len(texts[place % len(texts)].student) / 2 < tokens * (step + 1):
            chosen.append(texts[place % len(texts)])
            read += len(chosen[-1].student)
            place += 1
        spread.append(chosen)
    return spread


def divergence(student_ND: Tensor, head_VD: Tensor, teacher_ND: Tensor, teacher_head_VD: Tensor) -> Tensor:
    """Sum over positions of KL(softmax(teacher) || softmax(student)) in nats, fp32; no gradient for the teacher."""
    nats = torch.zeros((), device=student_ND.device)
    for student, teacher in zip(student_ND.split(CHUNK), teacher_ND.detach().split(CHUNK), strict=True):
        nats = nats + checkpoint(_divergence, student, head_VD, teacher, teacher_head_VD, use_reentrant=False)
    return nats


def _divergence(student: Tensor, head: Tensor, teacher: Tensor, teacher_head: Tensor) -> Tensor:
    p = (teacher @ teacher_head.T).float().log_softmax(dim=-1)
    q = (student @ head.T).float().log_softmax(dim=-1)
    return (p.exp() * (p - q)).sum()


def _cut(
    text: str, new: tuple[list[int], list[int]], old: tuple[list[int], list[int]], num_old: int
) -> Iterator[TwoReadings]:
    """Cut a document where both tokenizations end together; a character in several tokens ends with the last."""
    new_ends = {end: i for i, end in enumerate(new[1])}
    old_ends = {end: i for i, end in enumerate(old[1])}
    shared = [(end, old_ends[end], new_ends[end]) for end in sorted(new_ends.keys() & old_ends.keys())]
    start = (0, 0, 0)  # character, teacher's token, student's token
    piece: list[tuple[int, int, int]] = []
    for point in [*shared, None]:
        if piece and (point is None or point[2] + 1 - start[2] > WINDOW):
            end, t, s = piece[-1]
            student = new[0][start[2] : s + 1]
            first = next((i for i, token in enumerate(student) if token >= num_old), None)
            if first is not None:
                places = [(t - start[1], s - start[2]) for _, t, s in piece if s - start[2] >= first]
                size = len(text[start[0] : end].encode())
                yield TwoReadings(old[0][start[1] : t + 1], student, places, size)
            start = (end, t + 1, s + 1)
            piece = []
        if point is not None:
            piece.append(point)
