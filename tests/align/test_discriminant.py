"""What tells the places before a new token from all places before its first piece."""

import torch
from torch import Tensor

from prealign_cpt.align.discriminant import UNSEEN, discriminants
from prealign_cpt.align.states import NOTHING, States

PIECES = [[1, 5], [1, 6], [2, 5], []]
"""Two words that begin with 1, one that begins with 2, one without pieces."""


def _target(count: int, apart: float) -> States:
    """States before 1: to the left before word 0, to the right before word 1, in the middle before neither."""
    generator = torch.Generator().manual_seed(0)
    new = torch.tensor([0, 1, NOTHING, 2]).repeat(count)
    old = torch.tensor([1, 1, 1, 2]).repeat(count)
    hidden = torch.randn(len(new), 4, generator=generator)
    hidden[new == 0, 0] -= apart
    hidden[new == 1, 0] += apart
    return States(hidden, torch.zeros(len(new)), old, new)


def _logits(target: States) -> Tensor:
    return target.hidden_ND @ discriminants(target, PIECES).T


def test_words_with_one_first_piece_are_told_apart():
    target = _target(500, 1.0)
    logits = _logits(_target(500, 1.0))
    for word, other in ((0, 1), (1, 0)):
        before = target.next_new_N == word
        assert (logits[before, word] - logits[before, other]).mean() > 0.1
    assert logits[:, 2].abs().max() < 0.1, "nothing but word 2 follows piece 2"
    assert not logits[:, 3].any(), "no pieces, no places"


def test_few_occurrences_move_little():
    """The same means: n / (n + n0) of the move."""
    moved = []
    for repeats in (1, 60):
        states = _target(1, 3.0)
        parts = [
            t.repeat(repeats, *[1] * (t.ndim - 1)) for t in (states.hidden_ND, states.next_old_N, states.next_new_N)
        ]
        moved.append(discriminants(States(parts[0], torch.zeros(len(parts[0])), *parts[1:]), PIECES)[0].norm())
    few, many = 1 / (1 + UNSEEN), 60 / (60 + UNSEEN)
    # The covariance has a denominator of its own: 4 places and 2 old tokens, or 240.
    assert moved[0] / moved[1] < 2 * few / many
