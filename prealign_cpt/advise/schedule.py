"""Sequence length, batch and steps, by the length of the text.

Small text is read in short sequences and small steps, several times: up to four passes are worth nearly as much as new
text (Muennighoff et al. 2023, arXiv 2305.16264). A long text is read once, in the steps of some hundred thousand tokens
that continual pretraining of billions of tokens uses.
"""

import math
from typing import Any

STEPS_A_PASS = 250
"""In a pass over the text, about, as long as the batch is between its bounds."""

LEAST_BATCH, LARGEST_BATCH = 1024, 2**20
"""Tokens of a step, over all ranks."""

LENGTHS = ((1_000_000, 256), (50_000_000, 1024), (math.inf, 2048))
"""Below so many target tokens, sequences of such a length."""

PASSES = ((1_000_000, 4), (10_000_000, 2), (math.inf, 1))
"""Below so many target tokens, so many passes."""


def schedule(target_tokens: int, english_share: float, longest: int, given: dict[str, int]) -> dict[str, Any]:
    """Values of `data.sequence_length`, `train.sequences`, `train.steps`, `train.eval_every`, `train.save_every`.

    Args:
        target_tokens: of the target training text, in the base's tokens.
        english_share: share of the sequences that are not target text.
        longest: positions that the model has.
        given: those that are not open; they are returned as they are, and the others fit to them.
    """
    length = given.get("data.sequence_length") or min(longest, _by(LENGTHS, target_tokens))
    batch = min(max(target_tokens / STEPS_A_PASS, LEAST_BATCH), LARGEST_BATCH)
    sequences = given.get("train.sequences") or 2 ** max(0, round(math.log2(batch / length)))
    tokens = _by(PASSES, target_tokens) * target_tokens / (1 - english_share)
    steps = given.get("train.steps") or max(1, round(tokens / (sequences * length)))
    return {
        "data.sequence_length": length,
        "train.sequences": sequences,
        "train.steps": steps,
        "train.eval_every": given.get("train.eval_every") or math.ceil(steps / 10),
        "train.save_every": given.get("train.save_every") or min(500, math.ceil(steps / 5)),
    }


def passes(chosen: dict[str, Any], target_tokens: int, english_share: float) -> float:
    """How often a run reads its target text."""
    tokens = chosen["train.steps"] * chosen["train.sequences"] * chosen["data.sequence_length"]
    return float(tokens * (1 - english_share) / target_tokens)


def _by(table: tuple[tuple[float, int], ...], size: int) -> int:
    return next(value for limit, value in table if size < limit)
