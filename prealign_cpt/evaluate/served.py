"""What a served model says, believed only after a canary; and text that a model writes, served or here.

    ids --served, echo--> log-probabilities [T]  ~=  those of the local model [T]                     check_served
    prompts [N] --start token + ids--> greedy continuations [N]                                       write

Servers exist that ignore `echo`, shift its values by one, put a token in front, or serve another model under the same
name; all of them give figures that look sound. serving/client.py refuses an answer of the wrong form, the comparison
here one with the wrong values.
Shapes: B prompts of a batch, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from tqdm import tqdm
from transformers import GenerationConfig

from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.model.load import load_whole
from prealign_cpt.run import signals
from prealign_cpt.run.errors import DataError
from prealign_cpt.serving import client
from prealign_cpt.serving.agreement import Values, agreement, logprobs
from prealign_cpt.serving.client import identify

TEXT = "The old house stands near the river, and the water is cold."
LAST_ROWS = 3
"""Ids from the end of the vocabulary, where an extension puts its new tokens, come after the text."""

TOLERANCE = 1e-2
"""Nats for one token, for a server in fp32; of one in bf16 the rounding is measured."""

BATCH = 16
"""Prompts that are continued together."""

REPLACEMENT = "\ufffd"
"""What stands for bytes that are no whole character."""


@dataclass(frozen=True)
class Served:
    """A server that has passed."""

    name: str
    """To ask for."""
    length: int
    """Ids that it takes at most, with what it generates."""
    difference: float
    """Largest difference of a log-probability to the local model's, in nats."""


def check_served(subject: Subject) -> Served:
    """Compare the model at `subject.url` with the local one.

    Raises:
        DataError: the values are absent, shifted, of another model or of other tokens; the message says which.
        UnavailableError: no answer.
    """
    name, _, length = identify(subject.url, subject.folder, key=subject.key or None)
    ids = canary_ids(subject)
    (scored,) = client.many_logprobs(subject.url, name, [ids], key=subject.key or None)
    local = [logprobs(subject.model, ids)]
    served = [torch.tensor(scored, dtype=torch.float64)]
    found = agreement(served, local, lambda: _in_both_types(subject, ids, local), TOLERANCE)
    if not found.holds:
        raise DataError(
            f"{subject.url}: log-probabilities differ from {subject.folder}'s by {found.excess:.3g} nats, on average "
            f"by {found.mean:.3g}; {found.bound:.3g} and {found.mean_bound:.3g} are what bf16 explains: the server "
            "holds another model, or moves its values by one token; serve this folder with `prealign serve`"
        )
    return Served(name, length, found.difference)


def canary_ids(subject: Subject) -> list[int]:
    """Start token, a sentence, and the last rows of the vocabulary."""
    rows = subject.model.get_input_embeddings().weight.shape[0]
    return [subject.start_token_id, *subject.encode([TEXT])[0], *range(max(0, rows - LAST_ROWS), rows)]


def write(
    subject: Subject, prompts: Sequence[str], max_tokens: int, stop: str | None = None, seed: int = 0, label: str = ""
) -> list[str]:
    """What the model writes after each prompt, greedily and in their order, up to `stop`, which is left out, or to the
    end.

    Locally and served the same tokens end a text (`end_ids`). Long prompts lose their beginning, so that `max_tokens`
    have room in the model's context.

    Args:
        label: for the progress bar.

    Raises:
        DataError, UnavailableError: the server's, and if it holds another model (see `check_served`).
    """
    served = check_served(subject) if subject.url else None
    room = int(getattr(subject.model.config, "max_position_embeddings", 2048)) - max_tokens - 1
    if served:
        room = min(room, served.length - max_tokens - 1)
    if room < 1:
        raise DataError(
            f"{subject.url or subject.folder}: the context is too short for {max_tokens} tokens and a prompt"
        )
    rows = [[subject.start_token_id, *ids[-room:]] for ids in subject.encode(prompts)]
    # Rows of like length share a batch; greedy answers do not depend on the order.
    ends = end_ids(subject)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    written = [""] * len(rows)
    for first in tqdm(range(0, len(order), BATCH), desc=label, disable=not label, leave=False):
        signals.check()
        group = order[first : first + BATCH]
        some = [rows[i] for i in group]
        if served:
            texts = client.complete_many(
                subject.url,
                served.name,
                some,
                max_tokens=max_tokens,
                seed=seed,
                stop=[stop] if stop else None,
                stop_token_ids=ends,
                key=subject.key or None,
            )
        else:
            texts = write_here(subject, some, max_tokens, stop, ends)
        for i, text in zip(group, texts, strict=True):
            # A stream of text, as servers make it, holds back a character whose bytes are not all there.
            written[i] = (text.split(stop)[0] if stop else text).rstrip(REPLACEMENT)
    return written


def end_ids(subject: Subject) -> list[int]:
    """Ids that end a text: the end tokens of the tokenizer, the configuration and the generation configuration, and
    the start token, after which another document would begin. A server would know the first of them only."""
    model = subject.model
    found = {subject.start_token_id}
    for source in (subject.tokenizer, model.config, model.generation_config):
        ids: list[int] | int | None = getattr(source, "eos_token_id", None)
        found |= set(ids) if isinstance(ids, list) else set() if ids is None else {ids}
    return sorted(found)


@torch.no_grad()
def write_here(
    subject: Subject, rows: list[list[int]], max_tokens: int, stop: str | None, ends: list[int]
) -> list[str]:
    """Greedy continuations of rows of token ids by the local model, padded on the left, up to one of `ends`."""
    length = max(map(len, rows))
    inputs_BT = torch.full((len(rows), length), subject.start_token_id)
    mask_BT = torch.zeros_like(inputs_BT)
    for b, ids in enumerate(rows):
        inputs_BT[b, length - len(ids) :] = torch.tensor(ids)
        mask_BT[b, length - len(ids) :] = 1
    tokenizer = subject.tokenizer
    # A configuration of its own: the folder's may sample, or forbid repetition.
    settings = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=subject.start_token_id,
        stop_strings=[stop] if stop else None,
    )
    output_BT = subject.model.generate(
        inputs_BT.to(subject.device),
        attention_mask=mask_BT.to(subject.device),
        generation_config=settings,
        **({"tokenizer": tokenizer} if stop else {}),
    )
    texts = []
    for ids, row in zip(rows, output_BT[:, length:].tolist(), strict=True):
        # Decoded behind its prompt: alone, a SentencePiece tokenizer would drop the space that it begins with.
        both = [ids, [*ids, *takewhile(lambda i: i not in ends, row)]]
        before, text = tokenizer.batch_decode(both, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        texts.append(text[len(before) :])
    return texts


def _in_both_types(subject: Subject, ids: list[int], local: Values) -> tuple[Values, Values]:
    """The local model's values in bf16, in which many servers compute, and in fp32."""
    exact = subject.dtype == torch.float32
    model = load_whole(subject.folder, torch.bfloat16 if exact else torch.float32).to(subject.device).eval()
    other = [logprobs(model, ids)]
    return (other, local) if exact else (local, other)
