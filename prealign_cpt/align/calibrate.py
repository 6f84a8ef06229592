"""How often a new token is expected: output rows shifted until target text expects it as often as it occurs there, and
English text no more than before.

    target and English text in old pieces ─► base model ─► last hidden states, their means mu_t, mu_e, covariance C
    target text in new tokens ─► relative frequencies f_M
    output row += a u + b v,   u, v = (C + ridge)^-1 mu_t, (C + ridge)^-1 mu_e

A static row tells what a token means and not how frequent it is. Hidden states of a text have a large common part, so a
step along it acts as a bias. Those of two languages are nearly parallel; the whitened means tell them apart, as the
directions of a linear discriminant do (Fisher 1936). a and b are solved for each row, in rounds: a step moves the
logarithm of a mean probability by about as many nats as the mean logit. The method is this project's own.

Shapes: N positions, D hidden size, M new tokens.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.data.pack import encode
from prealign_cpt.model.bits import windows
from prealign_cpt.model.tokens import num_ids
from prealign_cpt.run.errors import DataError

TARGET_POSITIONS, ENGLISH_POSITIONS = 4000, 3000
"""Positions of each text whose hidden states are looked at."""

WINDOW, WINDOW_BYTES = 128, 1024
"""Tokens that are read at once at most, from the beginning of a piece of text of so many bytes at most."""

CHUNK = 256
"""Positions whose logits exist at once."""

RIDGE = 0.1
"""What is added to the covariance's diagonal, in units of its mean."""

APART = 0.01
"""Two texts are told apart if their whitened means' Gram matrix has eigenvalues of this ratio (German and English in
SmolLM2: 0.11; two samples of one text: 0.001). Otherwise the frequencies alone are reached."""

ROUNDS, LARGEST_STEP = 4, 6.0
"""Rounds, and the nats that a mean probability is asked to move in one at most."""

ENGLISH = 1e-6
"""A new token's mean probability on English text, unless it was lower before."""

DISCOUNT, LEAST_COUNT = 0.5, 0.3
"""A count is lowered by the one, to the other at least (absolute discounting; Ney, Essen and Kneser 1994): what little
text has, other text of the language has more seldom."""


@torch.no_grad()
def calibrate(
    model: PreTrainedModel,
    base_tokenizer: PreTrainedTokenizerBase,
    tokenizer: PreTrainedTokenizerBase,
    target: Sequence[str],
    english: Sequence[str],
    strength: float,
    start_id: int,
    seed: int,
) -> dict[str, Any]:
    """Shift the output rows of the new tokens in place; with a tied head these are the input rows too.

    Args:
        model: grown, with static rows; the body as in the base model.
        target, english: documents of training text. New tokens are counted in all of `target`; the model reads
            TARGET_POSITIONS and ENGLISH_POSITIONS tokens.
        strength: share of the whole shift that is made; 0 does nothing.
        start_id: stands before everything that is read.
        seed: chooses what the model reads.

    Returns:
        `target_bytes` and `tokens_forward` that the model has read, `mass` (mean probability of all new tokens
        together on target states) `before` and `after`, and the new tokens' share of the `text`; `english_mass`
        `before` and `after`.

    Raises:
        DataError: there is no text.
    """
    old = num_ids(base_tokenizer)
    if not strength or num_ids(tokenizer) == old:
        return {"target_bytes": 0, "tokens_forward": 0}
    frequency_M = frequencies(tokenizer, target, old)
    weight = model.get_output_embeddings().weight
    states = [
        _states(model, base_tokenizer, documents, positions, start_id, seed, weight[:old].float())
        for documents, positions in ((target, TARGET_POSITIONS), (english, ENGLISH_POSITIONS))
    ]
    before_MD = weight[old:].detach().float().clone()
    after_MD = before_MD + strength * (shifted(before_MD, frequency_M.to(before_MD), *states) - before_MD)
    weight[old:] = after_MD.to(weight)
    mass, english_mass = ({"before": text.mass(before_MD), "after": text.mass(weight[old:].float())} for text in states)
    return {
        "target_bytes": states[0].bytes,
        "tokens_forward": sum(text.tokens for text in states),
        "mass": {**mass, "text": frequency_M.sum().item()},
        "english_mass": english_mass,
    }


@dataclass(frozen=True)
class States:
    """What the base makes of a text.

    Attributes:
        hidden_ND: fp32 [N, D], last hidden states, the start token's left out.
        old_N: fp32 [N], logarithm of the sum over old tokens of exp(logit).
        bytes, tokens: of text read; of tokens run through the model, start tokens counted.
    """

    hidden_ND: Tensor  # noqa: N815
    old_N: Tensor  # noqa: N815
    bytes: int = 0
    tokens: int = 0

    def log_mean(self, rows_MD: Tensor) -> Tensor:
        """Logarithm of each new token's mean probability over the positions, fp32 [M]; finite also where it is tiny."""
        parts = []
        for hidden, old in zip(self.hidden_ND.split(CHUNK), self.old_N.split(CHUNK), strict=True):
            logits = hidden @ rows_MD.T
            parts.append((logits - torch.logaddexp(old, logits.logsumexp(dim=1))[:, None]).logsumexp(dim=0))
        return torch.stack(parts).logsumexp(dim=0) - math.log(len(self.hidden_ND))

    def mass(self, rows_MD: Tensor) -> float:
        """Mean probability of all new tokens together."""
        return self.log_mean(rows_MD).exp().sum().item()


def shifted(rows_MD: Tensor, frequency_M: Tensor, target: States, english: States) -> Tensor:
    """New tokens' output rows that are expected at their frequencies on target states and hardly on English ones.

    Args:
        rows_MD: fp32 [M, D].
        frequency_M: fp32 [M], above 0.

    Returns:
        fp32 [M, D]; each differs from the row it was by a combination of the same two directions.
    """
    means_2D = torch.stack([text.hidden_ND.mean(dim=0) for text in (target, english)]).double()
    centred = [text.hidden_ND - mean for text, mean in zip((target, english), means_2D.float(), strict=True)]
    covariance_DD = sum(part.T @ part for part in centred).double() / sum(map(len, centred))
    covariance_DD.diagonal().add_(RIDGE * covariance_DD.diagonal().mean())
    directions_2D = torch.linalg.solve(covariance_DD, means_2D.T).T
    gram_22 = means_2D @ directions_2D.T
    least, largest = torch.linalg.eigvalsh(gram_22).tolist()
    sides = 2 if least > APART * largest else 1
    solve_22 = torch.zeros_like(gram_22)
    solve_22[:sides, :sides] = torch.linalg.inv(gram_22[:sides, :sides])
    solve_22, directions_2D = solve_22.float(), directions_2D.float()
    limit_M = english.log_mean(rows_MD).clamp(max=math.log(ENGLISH))
    for _ in range(ROUNDS):
        wanted_2M = torch.stack(
            [frequency_M.log() - target.log_mean(rows_MD), limit_M - english.log_mean(rows_MD)]
        ).clamp(-LARGEST_STEP, LARGEST_STEP)
        rows_MD = rows_MD + (solve_22 @ wanted_2M).T @ directions_2D
    return rows_MD


def frequencies(tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], old: int) -> Tensor:
    """Relative frequency of each new token among all tokens of the text, discounted and never 0; fp32 [M].

    Raises:
        DataError: there is no text.
    """
    counts = torch.zeros(num_ids(tokenizer), dtype=torch.long)
    for ids in encode(documents, tokenizer):
        counts += torch.bincount(torch.as_tensor(ids, dtype=torch.long), minlength=len(counts))
    if not counts.sum():
        raise DataError("text.target: holds no text to count the new tokens in; give more, or set align.calibrate to 0")
    return (counts[old:] - DISCOUNT).clamp(min=LEAST_COUNT) / counts.sum()


def _states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    positions: int,
    start_id: int,
    seed: int,
    old_head_VD: Tensor,
) -> States:
    """States of text in old pieces, from places all over it."""
    texts = windows(documents, WINDOW_BYTES, sum(len(document.encode()) for document in documents))
    random.Random(seed).shuffle(texts)
    hidden: list[Tensor] = []
    count = bytes_read = 0
    for ids in encode(texts, tokenizer):
        start = [int(i) for i in ids[: min(WINDOW, positions - count)]]
        if start:
            inputs = torch.tensor([[start_id, *start]], device=model.device)
            hidden.append(model.base_model(inputs, use_cache=False).last_hidden_state[0, 1:].float())
            count += len(start)
            bytes_read += len(tokenizer.decode(start).encode())
        if count == positions:
            break
    hidden_ND = torch.cat(hidden)
    old_N = torch.cat([(part @ old_head_VD.T).logsumexp(dim=1) for part in hidden_ND.split(CHUNK)])
    return States(hidden_ND, old_N, bytes_read, count + len(hidden))
