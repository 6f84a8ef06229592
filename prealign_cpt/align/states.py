"""What the base model makes of text before each token: where a new token could be predicted.

    text ─┬─ old pieces ─► base model ─► last hidden states ──┐
          └─ new tokens ─► the places where they begin too ───┴─► States, and what follows in either tokenization

Shapes: N places, D hidden size, V old tokens, M new tokens.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.model.bits import windows
from prealign_cpt.model.tokens import encode_with_ends, num_ids
from prealign_cpt.model.vectors import chunks, pad_words

WINDOW, WINDOW_BYTES = 256, 1024
"""Old tokens that are read at once at most, from the beginning of a piece of text of so many bytes at most."""

BATCH_TOKENS = 2048
"""Padded tokens that run through the model together."""

CHUNK = 256
"""Places whose logits exist at once."""

NOTHING = -1
"""Stands for a new token where an old one follows."""


def _no_ids() -> Tensor:
    return torch.empty(0, dtype=torch.long)


@dataclass(frozen=True)
class States:
    """What the base makes of a text, at places where a token of both tokenizations begins.

    Attributes:
        hidden_ND: fp32 [N, D], last hidden states.
        old_N: fp32 [N], logarithm of the sum over old tokens of exp(logit); of the first places only, where no more
            were asked for.
        next_old_N: int64 [N], the old token that follows.
        next_new_N: int64 [N], the new token that follows, counted from 0, or NOTHING.
        bytes, tokens: of text read; of tokens run through the model, start tokens counted.
    """

    hidden_ND: Tensor  # noqa: N815
    old_N: Tensor  # noqa: N815
    next_old_N: Tensor = field(default_factory=_no_ids)  # noqa: N815
    next_new_N: Tensor = field(default_factory=_no_ids)  # noqa: N815
    bytes: int = 0
    tokens: int = 0

    def first(self, count: int) -> "States":
        """The first places, which are from all over the text."""
        return States(self.hidden_ND[:count], self.old_N[:count])

    def log_mean(self, rows_MD: Tensor, among_them: bool = True) -> Tensor:
        """Logarithm of some rows' mean probability over the places, fp32 [M]; finite also where it is tiny.

        Args:
            among_them: they are new tokens beside the old ones; else they are old ones.
        """
        parts = []
        for hidden, old in zip(self.hidden_ND.split(CHUNK), self.old_N.split(CHUNK), strict=True):
            logits = hidden @ rows_MD.T
            total = torch.logaddexp(old, logits.logsumexp(dim=1)) if among_them else old
            parts.append((logits - total[:, None]).logsumexp(dim=0))
        return torch.stack(parts).logsumexp(dim=0) - math.log(len(self.hidden_ND))

    def mass(self, rows_MD: Tensor) -> float:
        """Mean probability of all new tokens together."""
        return self.log_mean(rows_MD).exp().sum().item()


@torch.no_grad()
def read_states(
    model: PreTrainedModel,
    base_tokenizer: PreTrainedTokenizerBase,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    places: int,
    scored: int,
    start_id: int,
    seed: int,
) -> States:
    """States of a text in old pieces, from places all over it, `places` or somewhat more unless the text ends.

    Args:
        model: with the base's body and old rows.
        scored: how many places get their `old_N`.
        start_id: stands before everything that is read.
        seed: chooses what is read.
    """
    texts = windows(documents, WINDOW_BYTES, sum(len(document.encode()) for document in documents))
    random.Random(seed).shuffle(texts)
    read: list[list[int]] = []
    kept: list[list[int]] = []
    new: list[list[int]] = []
    old, count, size = num_ids(base_tokenizer), 0, 0
    for at in range(0, len(texts), 64):
        some = texts[at : at + 64]
        both = zip(some, encode_with_ends(base_tokenizer, some), encode_with_ends(tokenizer, some), strict=True)
        for text, (ids, ends), (grown, grown_ends) in both:
            if not ids or count >= places:
                continue
            # A character in several tokens ends with the last of them, and a token within one begins nowhere.
            follows = {end: place for place, end in enumerate([0, *ends[: WINDOW - 1]])}
            starts = enumerate(zip([0, *grown_ends[:-1]], grown_ends, strict=True))
            begins = [(follows[start], i) for i, (start, end) in starts if start < end and start in follows]
            read.append(ids[:WINDOW])
            kept.append([place for place, _ in begins])
            new.append([grown[i] - old if grown[i] >= old else NOTHING for _, i in begins])
            count += len(begins)
            size += len(text[: ends[min(WINDOW, len(ends)) - 1]].encode())
    hidden: list[Tensor] = [torch.empty(0)] * len(read)
    for group in chunks(read, BATCH_TOKENS):
        inputs, _ = pad_words([read[i] for i in group], start_id)
        states = model.base_model(inputs.to(model.device), use_cache=False).last_hidden_state
        for row, i in enumerate(group):
            hidden[i] = states[row, kept[i]].float()
    hidden_ND = torch.cat(hidden)
    head_VD = model.get_output_embeddings().weight[:old].float()
    return States(
        hidden_ND,
        torch.cat([(part @ head_VD.T).logsumexp(dim=1) for part in hidden_ND[:scored].split(CHUNK)]),
        torch.tensor([ids[place] for ids, places_ in zip(read, kept, strict=True) for place in places_]),
        torch.tensor([i for some_new in new for i in some_new]),
        size,
        sum(len(ids) + 1 for ids in read),
    )
