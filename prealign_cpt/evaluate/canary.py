"""Is the served model this one, and do its log-probabilities mean what they should? Asked before anything is scored.

    ids --served, echo--> log-probabilities [T]  ~=  those of the local model [T]

Servers exist that ignore `echo`, shift its values by one, put a token in front, or serve another model under the same
name; all of them give figures that look sound. The request is the one that the evaluation harness makes.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.model.load import load_whole
from prealign_cpt.run.errors import DataError
from prealign_cpt.serving.client import ask, identify

TEXT = "The old house stands near the river, and the water is cold."
LAST_ROWS = 3
"""Ids from the end of the vocabulary, where an extension puts its new tokens, come after the text."""

TOLERANCE = 1e-2
"""Nats for one token, for a server in fp32."""

ROUNDING_FACTOR = 4
"""A server in bf16 may differ by so many times what bf16 changes in the local model."""


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
    answer = ask(
        subject.url,
        lambda openai: openai.completions.create(
            model=name, prompt=[ids], max_tokens=1, echo=True, logprobs=1, temperature=0.0, seed=1234
        ),
        subject.key or None,
    )
    choices = answer.choices or []
    logprobs = choices[0].logprobs if len(choices) == 1 else None
    values = None if logprobs is None else logprobs.token_logprobs
    local = logprobs_of(subject.model, ids)
    difference = compare(values, local, subject.url)
    if difference > TOLERANCE:
        bound = max(TOLERANCE, ROUNDING_FACTOR * _rounding(subject, ids))
        if difference > bound:
            raise DataError(
                f"{subject.url}: log-probabilities differ from {subject.folder}'s by {difference:.3g} nats; "
                f"{bound:.3g} is what bf16 explains: the server holds another model; serve this folder"
            )
    return Served(name, length, difference)


def canary_ids(subject: Subject) -> list[int]:
    """Start token, a sentence, and the last rows of the vocabulary."""
    rows = subject.model.get_input_embeddings().weight.shape[0]
    text = subject.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    return [subject.start_token_id, *text, *range(max(0, rows - LAST_ROWS), rows)]


def compare(values: list[Any] | None, local: list[float], where: str) -> float:
    """Largest absolute difference of served values to the local ones.

    Args:
        values: as the server gave them: one for each of the T ids, the first None, and one for the generated token.
        local: of each id but the first, [T - 1].

    Raises:
        DataError: values are missing, not finite, or those of other positions.
    """
    num_ids = len(local) + 1
    remedy = "its scores would be wrong; serve the folder with `prealign serve`"
    if values is None:
        raise DataError(f"{where}: answers without log-probabilities: {remedy}")
    if len(values) == 1:
        raise DataError(f"{where}: gives log-probabilities for the generated token alone, it ignores `echo`: {remedy}")
    if len(values) == num_ids + 2:
        raise DataError(
            f"{where}: one more token was scored than was sent, so it puts a start token in front: {remedy}"
        )
    if len(values) != num_ids + 1:
        raise DataError(f"{where}: {num_ids} ids were sent and one asked for, {len(values)} values came: {remedy}")
    scored = values[1:num_ids]
    if not all(isinstance(value, float | int) and math.isfinite(value) for value in scored):
        raise DataError(f"{where}: a log-probability of the prompt is missing or not finite: {remedy}")
    difference = _largest(scored, local)
    if difference > TOLERANCE:
        # The first value belongs to no token; a server that gives one there has usually moved all of them.
        for shifted, meant in ((values[:num_ids], local), (scored[1:], local)):
            pairs = list(zip(shifted, meant, strict=False))
            if None not in shifted and len(pairs) > 2 and _largest(*map(list, zip(*pairs, strict=True))) <= TOLERANCE:
                raise DataError(f"{where}: log-probabilities are shifted by one token: {remedy}")
    return difference


@torch.no_grad()
def logprobs_of(model: PreTrainedModel, ids: list[int]) -> list[float]:
    """Log-probability of each id but the first under a local model, fp32."""
    row = torch.tensor([ids], device=model.get_input_embeddings().weight.device)
    logits = model(input_ids=row, use_cache=False).logits[0, :-1].float()
    found: list[float] = logits.log_softmax(dim=-1).gather(1, row[0, 1:, None])[:, 0].tolist()
    return found


def _rounding(subject: Subject, ids: list[int]) -> float:
    """How far bf16 moves this model's values: the largest difference between it and fp32."""
    other = torch.bfloat16 if subject.dtype == torch.float32 else torch.float32
    model = load_whole(subject.folder, other).to(subject.device).eval()
    return _largest(logprobs_of(subject.model, ids), logprobs_of(model, ids))


def _largest(left: list[float], right: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(left, right, strict=True))
