"""Distillation of the tokenization: the model as it was, reading a text in old pieces, teaches it in new tokens.

    loss = mean over positions of KL(teacher's next token || student's), both over the old vocabulary

The idea of token distillation: the meaning of a split word is built in the lower layers, not in the table. Under trains
"new_rows" only input rows of new tokens get a gradient: old output rows are all that the loss looks at.
Shapes: N positions, V old tokens, D hidden size.
"""

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedTokenizerBase

from prealign_cpt.align.language_model import WINDOW
from prealign_cpt.align.stage import Material, Term
from prealign_cpt.align.trainable import Packed, Trainable, pack
from prealign_cpt.model.tokens import num_ids
from prealign_cpt.model.world import World

TOKENS = 256
"""That the student reads in a step, over all ranks; the last text may go beyond."""

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


def distillation(material: Material) -> tuple[Term | None, dict[str, Any]]:
    """The term over the recipe's target text."""
    recipe = material.recipe
    wanted = recipe.align.steps * TOKENS
    texts = two_readings(material.target(), material.tokenizer, material.base_tokenizer, wanted, recipe.seed)
    if not texts:
        reason = "no new token stands in the target text"
        material.say(f"align: no distillation: {reason}")
        return None, {"reason": reason}
    term = Distillation(material.model, texts, TOKENS, recipe.align.steps, recipe.align.weight, material.world)
    return term, {"target_bytes": term.bytes}


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
        for text, new, old in zip(batch, _with_ends(grown, batch), _with_ends(base, batch), strict=True):
            for reading in _cut(text, new, old, num_ids(base)):
                texts.append(reading)
                count += len(reading.student)
            if count >= tokens:
                return texts
    return texts


class Distillation:
    """The term.

    Args:
        texts: at least one; read from front to back and then again.
        tokens: that the student reads in a step, over all ranks; the last text may go beyond.
    """

    name = "distill"

    def __init__(
        self, model: Trainable, texts: list[TwoReadings], tokens: int, steps: int, weight: float, world: World
    ) -> None:
        self.weight, self._model, self._world = weight, model, world
        # As long as only new rows move, the model by its old ones is what it was.
        whole = copy.deepcopy(model.model).requires_grad_(False) if model.english_moves else model.model
        self._teacher = whole
        self._teacher_head = whole.get_output_embeddings().weight.detach()[: model.num_old]
        self._steps: list[list[TwoReadings]] = []
        place = 0
        for _ in range(steps):
            chosen: list[TwoReadings] = []
            while sum(len(text.student) for text in chosen) < tokens:
                chosen.append(texts[place % len(texts)])
                place += 1
            self._steps.append(chosen)
        self.bytes = sum(text.bytes for step in self._steps for text in step)

    def loss(self, step: int) -> Tensor:
        """This rank's part of the loss of a step; the parts of all ranks add up to it."""
        mine = self._steps[step][self._world.rank :: self._world.size]
        count = sum(len(text.places) for text in self._steps[step])
        if not mine:
            return torch.zeros(())
        model = self._model
        teacher = pack([text.teacher for text in mine], model.start_id)
        student = pack([text.student for text in mine], model.start_id)
        old = [first + t for first, text in zip(teacher.first, mine, strict=True) for t, _ in text.places]
        new = [first + s for first, text in zip(student.first, mine, strict=True) for _, s in text.places]
        taught = self._taught(teacher)[old]
        return divergence(model.hidden(student)[new], model.head()[: model.num_old], taught, self._teacher_head) / count

    @torch.no_grad()
    def _taught(self, packed: Packed) -> Tensor:
        """Final hidden states of the teacher, [N, D]."""
        embedded = self._teacher.get_input_embeddings()(packed.ids_BT.to(self._model.device))
        return self._model.run(self._teacher, embedded, packed).last_hidden_state.flatten(0, 1)


def divergence(student_ND: Tensor, head_VD: Tensor, teacher_ND: Tensor, teacher_head_VD: Tensor) -> Tensor:
    """Sum over positions of KL(softmax(teacher) || softmax(student)) in nats, fp32; no gradient for the teacher."""
    total = torch.zeros((), device=student_ND.device)
    for student, teacher in zip(student_ND.split(CHUNK), teacher_ND.detach().split(CHUNK), strict=True):
        total = total + checkpoint(_divergence, student, head_VD, teacher, teacher_head_VD, use_reentrant=False)
    return total


def _divergence(student: Tensor, head: Tensor, teacher: Tensor, teacher_head: Tensor) -> Tensor:
    p = (teacher @ teacher_head.T).float().log_softmax(dim=-1)
    q = (student @ head.T).float().log_softmax(dim=-1)
    return (p.exp() * (p - q)).sum()


def _with_ends(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[tuple[list[int], list[int]]]:
    """Token ids of each text, and the character at which each token ends."""
    encoded = tokenizer(
        texts, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
    )
    return [
        (list(ids), [end for _, end in offsets])
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


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
