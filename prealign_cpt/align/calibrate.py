"""How often a new token is expected at all: output rows shifted along the mean hidden state.

    target text in old pieces ─► base model ─► hidden states h_ND ─► their mean mu_D, new tokens' mean probabilities p_M
    target text in new tokens ─► relative frequencies f_M
    output row += strength * log(f / p) * mu / |mu|²

A static row tells what a token means and not how frequent it is. Hidden states of a text have a large common part mu,
so a step along it acts as a bias: it adds the same number to a token's logit at every position, more or less. The text
must be of the target language, since the common part of English states is another one.
Shapes: N positions, D hidden size, M new tokens.
"""

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.data.pack import encode
from prealign_cpt.model.tokens import num_ids
from prealign_cpt.run.errors import DataError

POSITIONS = 2048
"""Positions of target text whose hidden states are looked at."""

WINDOW = 128
"""Tokens of a document that are read at most."""

CHUNK = 256
"""Positions whose logits exist at once."""


@torch.no_grad()
def calibrate(
    model: PreTrainedModel,
    base_tokenizer: PreTrainedTokenizerBase,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    strength: float,
    start_id: int,
    seed: int,
) -> dict[str, Any]:
    """Shift the output rows of the new tokens in place; with a tied head these are the input rows too.

    Args:
        model: grown, with static rows; the body as in the base model.
        documents: of target training text. All are counted; the model reads POSITIONS tokens of them.
        strength: 1 makes the new tokens about as frequent, on average, as they are in the text; 0 does nothing.
        start_id: stands before every document.
        seed: chooses what the model reads.

    Returns:
        `target_bytes` and `tokens_forward` that the model has read, `mass` (mean probability of all new tokens
        together) `before` and `after`, and the new tokens' share of the `text`.

    Raises:
        DataError: there is no text.
    """
    old = num_ids(base_tokenizer)
    if not strength or num_ids(tokenizer) == old:
        return {"target_bytes": 0, "tokens_forward": 0}
    frequency_M = _frequencies(tokenizer, documents, old)
    hidden_ND, read = _hidden_states(model, base_tokenizer, documents, start_id, seed)
    weight = model.get_output_embeddings().weight
    head = weight.detach().float()
    expected_M = _log_mean_probabilities(hidden_ND, head)[old:]
    mu_D = hidden_ND.mean(dim=0)
    shift_M = strength * (frequency_M.to(expected_M).log() - expected_M)
    head[old:] += shift_M[:, None] * mu_D / mu_D.dot(mu_D)
    weight[old:] = head[old:].to(weight)
    return {
        **read,
        "mass": {
            "before": expected_M.exp().sum().item(),
            "after": _log_mean_probabilities(hidden_ND, head)[old:].exp().sum().item(),
            "text": frequency_M.sum().item(),
        },
    }


def _frequencies(tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], old: int) -> Tensor:
    """Relative frequency of each new token among all tokens of the text, fp32 [M]; half an occurrence is added, so
    none is 0."""
    counts = torch.zeros(num_ids(tokenizer), dtype=torch.long)
    for ids in encode(documents, tokenizer):
        counts += torch.bincount(torch.as_tensor(ids, dtype=torch.long), minlength=len(counts))
    if not counts.sum():
        raise DataError("text.target: holds no text to count the new tokens in; give more, or set align.calibrate to 0")
    return ((counts[old:] + 0.5) / counts.sum()).float()


def _hidden_states(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], start_id: int, seed: int
) -> tuple[Tensor, dict[str, int]]:
    """Last hidden states, fp32 [N, D], the start token's left out, of text in old pieces; and what was read."""
    order = random.Random(seed).sample(range(len(documents)), len(documents))
    states: list[Tensor] = []
    count = bytes_read = 0
    for ids in encode((documents[i] for i in order), tokenizer):
        start = [int(i) for i in ids[: min(WINDOW, POSITIONS - count)]]
        if start:
            inputs = torch.tensor([[start_id, *start]], device=model.device)
            states.append(model.base_model(inputs, use_cache=False).last_hidden_state[0, 1:].float())
            count += len(start)
            bytes_read += len(tokenizer.decode(start).encode())
        if count == POSITIONS:
            break
    return torch.cat(states), {"target_bytes": bytes_read, "tokens_forward": count + len(states)}


def _log_mean_probabilities(hidden_ND: Tensor, head_VD: Tensor) -> Tensor:
    """Logarithm of every token's mean probability over the positions, fp32 [V]; finite also where that is tiny."""
    parts = [torch.log_softmax(part @ head_VD.T, dim=-1).logsumexp(dim=0) for part in hidden_ND.split(CHUNK)]
    return torch.stack(parts).logsumexp(dim=0) - math.log(len(hidden_ND))
