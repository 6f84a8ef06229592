"""Text that a model writes, greedily: through its server where there is one, else here in batches.

    prompts [N] --start token + ids--> continuations [N]

Shapes: B prompts of a batch, T tokens.
"""

from collections.abc import Sequence

import torch
from tqdm import tqdm
from transformers import GenerationConfig

from prealign_cpt import signals
from prealign_cpt.errors import DataError
from prealign_cpt.evaluate.canary import check_served
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.serving import client

BATCH = 16


def write(
    subject: Subject, prompts: Sequence[str], max_tokens: int, stop: str | None = None, seed: int = 0, label: str = ""
) -> list[str]:
    """What the model writes after each prompt, in their order, up to `stop`, which is left out.

    Long prompts lose their beginning, so that `max_tokens` have room in the model's context.

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
                key=subject.key or None,
            )
        else:
            texts = _local(subject, some, max_tokens, stop)
        for i, text in zip(group, texts, strict=True):
            written[i] = text.split(stop)[0] if stop else text
    return written


@torch.no_grad()
def _local(subject: Subject, rows: list[list[int]], max_tokens: int, stop: str | None) -> list[str]:
    """Greedy continuations of rows of token ids, padded on the left."""
    length = max(map(len, rows))
    inputs_BT = torch.full((len(rows), length), subject.start_token_id)  # noqa: N806
    mask_BT = torch.zeros_like(inputs_BT)  # noqa: N806
    for b, ids in enumerate(rows):
        inputs_BT[b, length - len(ids) :] = torch.tensor(ids)
        mask_BT[b, length - len(ids) :] = 1
    tokenizer = subject.tokenizer
    ends = {tokenizer.eos_token_id, subject.start_token_id} - {None}
    # A configuration of its own: the folder's may sample, or forbid repetition.
    settings = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=sorted(ends),
        pad_token_id=subject.start_token_id,
        stop_strings=[stop] if stop else None,
    )
    output_BT = subject.model.generate(  # noqa: N806
        inputs_BT.to(subject.device),
        attention_mask=mask_BT.to(subject.device),
        generation_config=settings,
        **({"tokenizer": tokenizer} if stop else {}),
    )
    return [tokenizer.decode(row, skip_special_tokens=True) for row in output_BT[:, length:].tolist()]
