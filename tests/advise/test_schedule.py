"""Batch and steps by the length of the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign_cpt.advise.schedule import passes, schedule


@pytest.mark.parametrize(
    ("tokens", "length", "sequences", "times"),
    [(80_000, 256, 4, 4), (5_000_000, 1024, 16, 2), (10**9, 2048, 512, 1)],
)
def test_worked_examples(tokens: int, length: int, sequences: int, times: int):
    chosen = schedule(tokens, 0.25, 8192, {})
    assert (chosen["data.sequence_length"], chosen["train.sequences"]) == (length, sequences)
    assert passes(chosen, tokens, 0.25) == pytest.approx(times, rel=0.01)


@given(st.integers(1, 10**12), st.floats(0, 0.95), st.integers(8, 10**6))
def test_any_text_can_be_trained_on(tokens: int, share: float, longest: int):
    chosen = schedule(tokens, share, longest, {})
    assert all(value >= 1 for value in chosen.values())
    assert chosen["data.sequence_length"] <= longest
    assert chosen["train.eval_every"] <= chosen["train.steps"]
    assert chosen["train.sequences"] * chosen["data.sequence_length"] <= 2**21


def test_what_is_given_stays():
    chosen = schedule(80_000, 0.25, 8192, {"train.sequences": 8, "train.steps": 100})
    assert chosen["train.sequences"] == 8 and chosen["train.steps"] == 100
    assert chosen["train.eval_every"] == 10 and chosen["train.save_every"] == 20
