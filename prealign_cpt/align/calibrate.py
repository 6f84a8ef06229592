"""How often a new token is expected: output rows shifted until target text expects it as often as it stands there and
its first piece leads to it, and English text no more than before.

    target text in new tokens ─► frequency f_m; share k_m of the places where its first piece begins a token
    base model ─► mean probability of the first piece p_f ─► wanted: sqrt(f_m k_m p_f)
    states of target and English text ─► their means mu_t, mu_e, covariance C
    output row += a u + b v,   u, v = (C + ridge)^-1 mu_t, (C + ridge)^-1 mu_e

A static row tells what a token means and not how frequent it is. The text's own frequencies alone would be learned by
heart where there is little of it, so the base is asked too how often the first piece is expected. Hidden states of a
text have a large common part, so a step along it acts as a bias. Those of two languages are nearly parallel; the
whitened means tell them apart, as the directions of a linear discriminant do (Fisher 1936). a and b are solved for
each row, in rounds: a step moves the logarithm of a mean probability by about as many nats as the mean logit. The
method is this project's own.

Shapes: N places, D hidden size, M new tokens.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.align.discriminant import discriminants
from prealign_cpt.align.states import States, read_states
from prealign_cpt.data.pack import encode
from prealign_cpt.model.tokens import num_ids
from prealign_cpt.run.errors import DataError

TARGET_PLACES, ENGLISH_PLACES = 16_384, 3_000
"""Places of each text whose hidden states are looked at, by the discriminants; the frequencies look at the first"""
CALIBRATED = 4_000
"""of them."""

RIDGE = 0.1
"""What is added to the covariance's diagonal, in units of its mean."""

APART = 0.01
"""Two texts are told apart if their whitened means' Gram matrix has eigenvalues of this ratio (German and English in
SmolLM2: 0.11). Otherwise the frequencies alone are reached."""

ROUNDS, LARGEST_STEP = 4, 6.0
"""Rounds, and the nats that a mean probability is asked to move in one at most."""

ENGLISH = 1e-6
"""A new token's mean probability on English text, unless it was lower before."""

DISCOUNT, LEAST_COUNT = 0.5, 0.3
"""A count is lowered by the one, to the other at least (absolute discounting; Ney, Essen and Kneser 1994): what little
text has, other text of the language has more seldom."""

UNSEEN, LARGEST_SHARE = 2.0, 0.95
"""Occurrences of a first piece that are added to those in the text; the largest share of them that is one new token."""


@torch.no_grad()
def calibrate(
    model: PreTrainedModel,
    base_tokenizer: PreTrainedTokenizerBase,
    tokenizer: PreTrainedTokenizerBase,
    pieces: Sequence[Sequence[int]],
    target: Sequence[str],
    english: Sequence[str],
    strength: float,
    start_id: int,
    seed: int,
) -> dict[str, Any]:
    """Shift the output rows of the new tokens in place; with a tied head these are the input rows too.

    Rows of a head that is not tied are first moved by what tells their places apart (discriminant.py).

    Args:
        model: grown, with static rows; the body as in the base model.
        pieces: of each new token the old ids that spell it, perhaps none.
        target, english: documents of training text. Tokens are counted in all of `target`; the model reads
            TARGET_PLACES and ENGLISH_PLACES places or somewhat more.
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
    counts = counts_of(tokenizer, target)
    weight, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    whole, other = (
        read_states(model, base_tokenizer, tokenizer, documents, places, CALIBRATED, start_id, seed)
        for documents, places in ((target, TARGET_PLACES), (english, ENGLISH_PLACES))
    )
    text = whole.first(CALIBRATED)
    before_MD = weight[old:].detach().float().clone()
    rows_MD = before_MD if weight is table else before_MD + discriminants(whole, pieces)
    wanted_M = expected(text, weight[:old].detach().float(), pieces, counts)
    after_MD = before_MD + strength * (shifted(rows_MD, wanted_M, text, other) - before_MD)
    weight[old:] = after_MD.to(weight)
    mass, english_mass = (
        {"before": states.mass(before_MD), "after": states.mass(weight[old:].float())} for states in (text, other)
    )
    return {
        "target_bytes": whole.bytes,
        "tokens_forward": whole.tokens + other.tokens,
        "mass": {**mass, "text": int(counts[old:].sum()) / int(counts.sum())},
        "english_mass": english_mass,
    }


def expected(target: States, old_VD: Tensor, pieces: Sequence[Sequence[int]], counts: Tensor) -> Tensor:
    """Logarithm of the mean probability that each new token should have on target states, fp32 [M].

    The geometric mean of two estimates: how often the token stands in the text, which little text says badly; and how
    often the base expects its first piece, times the token's share of the places where that piece begins a token. Those
    places are counted in the new tokenization, as the states are of them: a letter that begins a token stands inside of
    others far more often. Where the base knows the language the second is better, where it does not the first
    (benchmarks/output_rows.py).

    Args:
        old_VD: fp32, the old tokens' output rows.
        counts: int64 [V + M], how often each token stands in the text in the new tokenization; a token without pieces
            is expected by its frequency alone.
    """
    old = len(old_VD)
    discounted_M = (counts[old:] - DISCOUNT).clamp(min=LEAST_COUNT)
    wanted_M = (discounted_M / counts.sum()).log().to(old_VD)
    spelled = [m for m, ids in enumerate(pieces) if ids]
    if spelled:
        first = torch.tensor([pieces[m][0] for m in spelled])
        begun_V = counts[:old].index_add(0, first, counts[old:][spelled])
        share = (discounted_M[spelled] / (begun_V[first] + UNSEEN)).clamp(max=LARGEST_SHARE)
        led_to = target.log_mean(old_VD[first], among_them=False) + share.log().to(old_VD)
        wanted_M[spelled] = (wanted_M[spelled] + led_to) / 2
    return wanted_M


def shifted(rows_MD: Tensor, wanted_M: Tensor, target: States, english: States) -> Tensor:
    """New tokens' output rows that are expected as is wanted on target states and hardly on English ones.

    Args:
        rows_MD: fp32 [M, D].
        wanted_M: fp32 [M], logarithms of mean probabilities.

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
        wanted_2M = torch.stack([wanted_M - target.log_mean(rows_MD), limit_M - english.log_mean(rows_MD)])
        rows_MD = rows_MD + (solve_22 @ wanted_2M.clamp(-LARGEST_STEP, LARGEST_STEP)).T @ directions_2D
    return rows_MD


def counts_of(tokenizer: PreTrainedTokenizerBase, documents: Iterable[str]) -> Tensor:
    """How often each token stands in the text, int64.

    Raises:
        DataError: there is no text.
    """
    counts = torch.zeros(num_ids(tokenizer), dtype=torch.long)
    for ids in encode(documents, tokenizer):
        counts += torch.bincount(torch.as_tensor(ids, dtype=torch.long), minlength=len(counts))
    if not counts.sum():
        raise DataError("text.target: holds no text to count the new tokens in; give more, or set align.calibrate to 0")
    return counts
