"""Input rows that the base model itself composes from a new token's old pieces: a ridge regression on its own tokens.

    base's own words, taken apart along their merges ─► features of the pieces ─┐
    their rows ─────────────────────────────────────────────────────────────────┴─► ridge regression
    new tokens' pieces ─► features ─► new rows

Features are what the base makes of the pieces behind the start token: the hidden states of some layers at the last
piece, and the rows of the first piece, the last one and the mean of all. No text is read. The regression is this
project's own; that the model's own tokens can teach a map from pieces to rows is also the idea of ZeTT (Minixhofer et
al., arXiv 2405.07883), which trains a network for it.

Shapes: K known tokens, M new tokens, D hidden size, V old tokens.
"""

import json
import random
import re
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.model.vectors import chunks, pad_words
from prealign_cpt.run.folder import say

KNOWN, LEAST_KNOWN = 8000, 500
"""Known tokens at most; with fewer than the other there is no regression."""

WORD = re.compile("[\u0120\u2581]?[A-Za-z]{3,}")
"""Tokens that are like words, in both families' vocabularies: letters, behind a space or not."""

PARTS, SHARES = (2, 3, 4, 5), (45, 30, 15, 10)
"""Numbers of parts that a known token is taken apart into, and how many of a hundred tokens."""

DEPTHS = tuple(layer / 30 for layer in (1, 2, 4, 6, 9, 12, 16, 20, 24, 28, 30))
"""Layers that are looked at, as shares of the depth."""

RIDGE = 30_000 / 8064
"""Strength per feature, where each feature has variance 1."""

BATCH_TOKENS = 4096


def composed_input_rows(
    model: PreTrainedModel,
    base_tokenizer: PreTrainedTokenizerBase,
    pieces: list[list[int]],
    input_VD: Tensor,
    start_id: int,
) -> tuple[Tensor | None, dict[str, int]]:
    """Input rows of the new tokens, fp32 [M, D] on the CPU; the same for equal arguments.

    Args:
        model: with the base's body and old rows.
        pieces: of each new token the old ids that spell it; one without pieces gets the mean of all rows.
        input_VD: fp32 [V, D] on the CPU, the old tokens' input rows.
        start_id: stands before the pieces.

    Returns:
        The rows, None if the base has too few tokens to learn from; `known_tokens` (how many it has learned from) and
        `tokens_forward` (run through the model).
    """
    known, ids = known_tokens(base_tokenizer)
    spelled = [m for m, parts in enumerate(pieces) if parts]
    new = [pieces[m] for m in spelled]
    if len(known) < LEAST_KNOWN or not new:
        say(f"align: {len(known)} of the base's own tokens are words, too few to compose rows; input rows are means")
        return None, {"known_tokens": 0, "tokens_forward": 0}
    kernel_KK, cross_MK, num_features = torch.zeros(len(known), len(known)), torch.zeros(len(new), len(known)), 0
    features = (_features(model, tokens, input_VD, start_id) for tokens in (known, new))
    for known_KD, new_MD in zip(*features, strict=True):
        mean, std = known_KD.mean(dim=0), known_KD.std(dim=0) + 1e-6
        scaled_KD = (known_KD - mean) / std
        kernel_KK += scaled_KD @ scaled_KD.T
        cross_MK += (new_MD - mean) / std @ scaled_KD.T
        num_features += known_KD.shape[1]
    # The dual form of ridge regression: features outnumber the tokens in all but the smallest models.
    kernel_KK.diagonal().add_(RIDGE * num_features)
    known_rows_KD = input_VD[ids]
    mean_D = known_rows_KD.mean(dim=0)
    weights_KD = torch.cholesky_solve((known_rows_KD - mean_D).double(), torch.linalg.cholesky(kernel_KK.double()))
    rows_MD = input_VD.mean(dim=0).repeat(len(pieces), 1)
    rows_MD[spelled] = cross_MK @ weights_KD.float() + mean_D
    tokens = sum(len(parts) + 1 for parts in known + new)
    return rows_MD, {"known_tokens": len(known), "tokens_forward": tokens}


def known_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[list[int]], Tensor]:
    """Word-like tokens taken apart along the tokenizer's merges: their parts' ids, and their own, int64 [K].

    Tokens and numbers of parts are drawn, alike at every call.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocab: dict[str, int] = model["vocab"]
    halves: dict[str, list[str]] = {}
    for merge in model["merges"]:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        halves.setdefault("".join(pair), list(pair))
    words = [token for token in halves if WORD.fullmatch(token)]
    draw = random.Random(0)
    draw.shuffle(words)
    words = words[:KNOWN]
    parts = []
    for word, number in zip(words, draw.choices(PARTS, SHARES, k=len(words)), strict=True):
        split = halves[word]
        while len(split) < number and (places := [i for i, part in enumerate(split) if part in halves]):
            place = draw.choice(places)
            split = [*split[:place], *halves[split[place]], *split[place + 1 :]]
        parts.append([vocab[part] for part in split])
    return parts, torch.tensor([vocab[word] for word in words], dtype=torch.long)


@torch.no_grad()
def _features(model: PreTrainedModel, pieces: list[list[int]], input_VD: Tensor, start_id: int) -> Iterator[Tensor]:
    """One block of features after the other, fp32 [tokens, D] each, on the CPU."""
    depth = model.config.num_hidden_layers
    layers = sorted({max(1, round(share * depth)) for share in DEPTHS})
    # In the model's own type: in fp32, that of 20,000 tokens would be 15 GB at hidden size 4,096.
    states = torch.empty(len(layers), len(pieces), input_VD.shape[1], dtype=model.dtype)
    for group in chunks(pieces, BATCH_TOKENS):
        inputs, mask = pad_words([pieces[i] for i in group], start_id)
        inputs = inputs.to(model.device)
        hidden = model.base_model(inputs, use_cache=False, output_hidden_states=True).hidden_states
        last = mask.sum(dim=1).to(model.device)
        rows = torch.arange(len(group), device=model.device)
        for block, layer in zip(states, layers, strict=True):
            block[group] = hidden[layer][rows, last].cpu()
    yield from (block.float() for block in states)
    yield input_VD[[parts[0] for parts in pieces]]
    yield input_VD[[parts[-1] for parts in pieces]]
    yield torch.stack([input_VD[parts].mean(dim=0) for parts in pieces])
