"""Text that a model writes, greedily: through its server where there is one, else here in batches.

    prompts [N] --start token + ids--> continuations [N]

Shapes: B prompts of a batch, T tokens.
"""

from collections.abc import Sequence
from itertools import takewhile

import torch
from tqdm import tqdm
from transformers import GenerationConfig

from prealign_cpt.evaluate.canary import check_served
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.run import signals
from prealign_cpt.run.errors import DataError
from prealign_cpt.serving import client

BATCH = 16

REPLACEMENT = "\ufffd"
"""What stands for bytes that are no whole character."""


def write(
    subject: Subject, prompts: Sequence[str], max_tokens: int, stop: str | None = None, seed: int = 0, label: str = ""
) -> list[str]:
    """What the model writes after each prompt, in their order, up to `stop`, which is left out, or to the end.

    Locally and served the same tokens end a text (`end_ids`). Long prompts lose their beginning, so that `max_tokens`
    have room in the model's context.

    Args:
        label: for the progress bar.

    Raises:
        DataError, UnavailableError: the server's, and if it holds another model (see `check_served`).
    """
    served = check_served(subject) if subject.url else None
    encoded = subject.tokenizer(list(prompts), add_special_tokens=False, split_special_tokens=True, verbose=False)
    room = int(getattr(subject.model.config, "max_position_embeddings", 2048)) - max_tokens - 1
    if served:
        room = min(room, served.length - max_tokens - 1)
    if room < 1:
        raise DataError(
            f"{subject.url or subject.folder}: the context is too short for {max_tokens} tokens and a prompt"
        )
    rows = [[subject.start_token_id, *ids[-room:]] for ids in encoded["input_ids"]]
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
            texts = _local(subject, some, max_tokens, stop, ends)
        for i, text in zip(group, texts, strict=True):
            # A stream of text, as servers make it, holds back a character whose bytes are not all there.
            written[i] = (text.split(stop)[0] if stop else text).rstrip(REPLACEMENT)
    return written


def end_ids(subject: Subject) -> list[int]:
    """Ids that end a text: the end tokens of the tokenizer, the configuration and the generation configuration, and
    the start token, after which another document would begin. A server would know the first of them only."""
    model = subject.model
    found = {subject.start_token_id}
    for one in (subject.tokenizer, model.config, model.generation_config):
        ids: list[int] | int | None = getattr(one, "eos_token_id", None)
        found |= set(ids) if isinstance(ids, list) else set() if ids is None else {ids}
    return sorted(found)


@torch.no_grad()
def _local(subject: Subject, rows: list[list[int]], max_tokens: int, stop: str | None, ends: list[int]) -> list[str]:
    """Greedy continuations of rows of token ids, padded on the left."""
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
    found = []
    for ids, row in zip(rows, output_BT[:, length:].tolist(), strict=True):
        # Decoded behind its prompt: alone, a SentencePiece tokenizer would drop the space that it begins with.
        both = [ids, [*ids, *takewhile(lambda i: i not in ends, row)]]
        before, text = tokenizer.batch_decode(both, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        found.append(text[len(before) :])
    return found
