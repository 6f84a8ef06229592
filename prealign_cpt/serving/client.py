"""Ask a served model, and take only answers that can be trusted.

    models(url)                                          what is served
    complete(url, model, prompt, max_tokens=...)         one text
    complete_many(url, model, prompts, max_tokens=...)   texts, in the order of the prompts
    answers(url, model, prompts, n=..., max_tokens=...)  the same, several for each, and why they ended
    sample_ids(url, model, ids, n=...)                   continuations as token ids
    tokenize(url, model, text)                           the server's own token ids of a text
    token_logprobs(url, model, ids)                      log-probability of each id but the first
    many_logprobs(url, model, sequences)                 the same for several sequences in one request
    check_echo(url, model, ids)                          canary: are those log-probabilities where they belong?
    embed(url, model, sequences, size=...)               [N, D] float32

`base_url` is the OpenAI-compatible root, such as "http://127.0.0.1:8000/v1". Each function takes `key`, the server's
API key; None takes PREALIGN_API_KEY from the environment. What does not arrive is asked for again, a bounded number of
times (transport.py); what is still missing, incomplete or not finite raises. Nothing is scored as zero.

Scoring sends token ids, never text: for text vLLM adds special tokens by default, which shifts every log-probability.

Raised by all:
    UnavailableError: no whole answer, or the server has no such model.
    RecipeError: the key is refused.
    DataError: the server refuses the request, or its answer is not what was asked for.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from prealign_cpt.run.errors import DataError
from prealign_cpt.serving.transport import RETRIES, TIMEOUT, ask, is_loopback

__all__ = ["RETRIES", "TIMEOUT", "answers", "check_echo", "complete", "complete_many", "embed", "is_loopback"]
__all__ += ["many_logprobs", "models", "sample_ids", "token_logprobs", "tokenize"]

Ids = Sequence[int]

CANARY_LENGTH, CANARY_TOLERANCE = 6, 0.3
"""Tokens that the canary generates, and the largest difference in nats between both ways to get a log-probability.
In bf16 the two ways round differently, by up to 0.1; log-probabilities of neighbouring tokens lie further apart."""

WITH_IDS = {"return_token_ids": True, "ignore_eos": True}
REMEDY = "its echo log-probabilities cannot be used; serve the folder with vLLM 0.32"


def models(base_url: str, *, key: str | None = None) -> list[dict[str, Any]]:
    """What the server offers, as in `/v1/models`: `id`, and from vLLM `max_model_len` and maybe `root`, the folder."""
    answer = ask(base_url, lambda client: client.models.list(), key)
    return [model.model_dump() for model in answer.data or []]


def complete(
    base_url: str,
    model: str,
    prompt: str | list[int],
    *,
    max_tokens: int = 64,
    temperature: float = 0.0,
    seed: int | None = None,
    stop: list[str] | None = None,
    key: str | None = None,
) -> str:
    """The text that the model writes after `prompt` (text, or token ids that are taken as they are)."""
    options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "stop": stop}
    return str(_complete(base_url, model, prompt, 1, key, **options)[0].text)


def complete_many(base_url: str, model: str, prompts: Sequence[Ids], **options: Any) -> list[str]:
    """One text for each prompt; options are those of `answers`."""
    return [text for text, _ in answers(base_url, model, prompts, **options)]


def answers(
    base_url: str,
    model: str,
    prompts: Sequence[Ids],
    *,
    n: int = 1,
    max_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float | None = None,
    seed: int | None = None,
    stop: list[str] | None = None,
    stop_token_ids: list[int] | None = None,
    key: str | None = None,
) -> list[tuple[str, str]]:
    """`n` texts for each prompt, in one request: vLLM computes them together. The front takes at most 64 prompts.

    Args:
        stop_token_ids: end a text beside the server's own end token, and are left out of it.

    Returns:
        Each text, and why it ended: "stop" at an end token or a stop string, "length" at `max_tokens`.
    """
    if not prompts:
        return []
    options = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed, "stop": stop, "n": n}
    extra = {"stop_token_ids": stop_token_ids} if stop_token_ids else None
    rows = [list(ids) for ids in prompts]
    given = {name: value for name, value in options.items() if name not in ("top_p", "n") or value not in (None, 1)}
    found = _complete(base_url, model, rows, n * len(rows), key, **given, extra_body=extra)
    return [(str(choice.text), str(choice.finish_reason)) for choice in found]


def sample_ids(
    base_url: str,
    model: str,
    ids: Ids,
    *,
    max_tokens: int,
    temperature: float,
    n: int,
    seed: int,
    key: str | None = None,
) -> list[list[int]]:
    """`n` continuations of `ids` as token ids, each of exactly `max_tokens` (the end token does not stop them)."""
    options = {"max_tokens": max_tokens, "temperature": temperature, "n": n, "seed": seed}
    choices = _complete(base_url, model, list(ids), n, key, **options, extra_body=WITH_IDS)
    found = [_ids(choice.model_dump().get("token_ids"), base_url) for choice in choices]
    for tokens in found:
        if len(tokens) != max_tokens:
            raise DataError(f"{base_url}: {max_tokens} tokens were asked for, {len(tokens)} came; use vLLM 0.32")
    return found


def tokenize(base_url: str, model: str, text: str, *, special: bool = False, key: str | None = None) -> list[int]:
    """The ids that the server makes of `text`, with `special` as for a client that says nothing about special tokens,
    otherwise without them. It must fit into the server's context."""
    extra = {"return_token_ids": True} | ({} if special else {"add_special_tokens": False})
    choice = _complete(base_url, model, text, 1, key, max_tokens=1, temperature=0.0, extra_body=extra)[0]
    return _ids(choice.model_dump().get("prompt_token_ids"), base_url)


def token_logprobs(base_url: str, model: str, ids: Ids, *, key: str | None = None) -> list[float]:
    """Log-probability of each id given all before it: `len(ids) - 1` values, none for the first id.

    `ids` is scored as it is: put the start token in front yourself. vLLM takes at most `max_model_len - 1` ids.
    """
    return many_logprobs(base_url, model, [ids], key=key)[0]


def many_logprobs(base_url: str, model: str, sequences: Sequence[Ids], *, key: str | None = None) -> list[list[float]]:
    """`token_logprobs` of each sequence, in one request. The front takes at most 64 sequences."""
    if not all(sequences):
        raise ValueError("many_logprobs: no ids")
    if not sequences:
        return []
    rows = [list(ids) for ids in sequences]
    options = {"max_tokens": 0, "echo": True, "logprobs": 0, "temperature": 0.0}
    choices = _complete(base_url, model, rows, len(rows), key, **options, extra_body={"return_token_ids": True})
    return [_echoed(choice, ids, base_url) for choice, ids in zip(choices, rows, strict=True)]


def _echoed(choice: Any, ids: Ids, base_url: str) -> list[float]:
    # Some servers accept echo and logprobs and ignore them (llama.cpp#27174), which would give chance scores.
    values = None if choice.logprobs is None else choice.logprobs.token_logprobs
    if values is None or len(values) != len(ids):
        count = "none" if values is None else len(values)
        raise DataError(f"{base_url}: {len(ids)} ids were sent, log-probabilities came for {count}: {REMEDY}")
    scored = choice.model_dump().get("prompt_token_ids")
    if scored is not None and scored != list(ids):
        raise DataError(f"{base_url}: the server scored other ids than were sent ({len(scored)} of them): {REMEDY}")
    if values[0] is not None:
        raise DataError(
            f"{base_url}: the first id has a log-probability, so the answer may be shifted by one: {REMEDY}"
        )
    for position, value in enumerate(values[1:], start=1):
        if value is None or not math.isfinite(value):
            raise DataError(
                f"{base_url}: log-probability {value} at position {position} (id {ids[position]}): {REMEDY}"
            )
    return [float(value) for value in values[1:]]


def check_echo(base_url: str, model: str, ids: Ids, *, key: str | None = None) -> float:
    """Canary: the model continues `ids`, then scores what it wrote. Both must give each token one log-probability.

    It finds a server that shifts its echo by one, or scores another model than it samples, without a local model.

    Returns:
        the largest difference in nats (about 1e-6 in fp32, up to 0.1 in bf16).
    """
    options = {"max_tokens": CANARY_LENGTH, "temperature": 0.0, "logprobs": 0}
    (choice,) = _complete(base_url, model, list(ids), 1, key, **options, extra_body=WITH_IDS)
    written = _ids(choice.model_dump().get("token_ids"), base_url)
    values = None if choice.logprobs is None else choice.logprobs.token_logprobs
    if not written or values is None or len(values) != len(written) or None in values:
        raise DataError(f"{base_url}: what the model writes comes without log-probabilities: {REMEDY}")
    echoed = token_logprobs(base_url, model, [*ids, *written], key=key)[len(ids) - 1 :]
    difference = max(abs(left - right) for left, right in zip(values, echoed, strict=True))
    if not difference <= CANARY_TOLERANCE:
        raise DataError(
            f"{base_url}: echo gives other log-probabilities than generation for the same tokens (by {difference:.3g} "
            f"nats); they are shifted, or another model computed them: {REMEDY}"
        )
    return difference


def embed(
    base_url: str,
    model: str,
    sequences: Sequence[Ids],
    *,
    size: int | None = None,
    batch: int = 32,
    key: str | None = None,
) -> np.ndarray:
    """One vector for each sequence of token ids, in their order: [N, D], float32. The server says how it pools.

    Args:
        size: D that the model must have; None takes what comes, the same for all.
        batch: sequences in one request.
    """
    if not sequences:
        raise ValueError("embed: no sequences")
    vectors: list[np.ndarray] = []
    for start in range(0, len(sequences), batch):
        for vector in _embed_batch(base_url, model, sequences[start : start + batch], key):
            size = size or len(vector)
            if vector.shape != (size,):
                raise DataError(f"{base_url}: embedding {len(vectors)} is {vector.shape}, ({size},) is expected")
            if not (np.isfinite(vector).all() and vector.any()):
                raise DataError(
                    f"{base_url}: embedding {len(vectors)} is zero or not finite; the served model is damaged"
                )
            vectors.append(vector)
    return np.stack(vectors)


def _embed_batch(base_url: str, model: str, sequences: Sequence[Ids], key: str | None) -> list[np.ndarray]:
    inputs = [list(ids) for ids in sequences]
    answer = ask(base_url, lambda client: client.embeddings.create(model=model, input=inputs), key)
    found = _in_order(answer.data, len(inputs), "embeddings", base_url)
    return [np.asarray(entry.embedding, dtype=np.float32) for entry in found]


def _complete(base_url: str, model: str, prompt: Any, count: int, key: str | None, **options: Any) -> list[Any]:
    """The `count` choices of one request, in the order of what was asked."""
    answer = ask(base_url, lambda client: client.completions.create(model=model, prompt=prompt, **options), key)
    return _in_order(answer.choices, count, "choices", base_url)


def _in_order(entries: list[Any] | None, count: int, what: str, base_url: str) -> list[Any]:
    """The entries by their index, which the answer's list need not keep; each of them once."""
    try:
        found = sorted(entries or [], key=lambda entry: entry.index)
    except (AttributeError, TypeError) as error:
        raise DataError(f"{base_url}: {what} came without an index; serve the folder with vLLM 0.32") from error
    if [entry.index for entry in found] != list(range(count)):
        raise DataError(
            f"{base_url}: {count} {what} were asked for, {len(found)} came, with other indices than 0 to {count - 1}"
            if len(found) == count
            else f"{base_url}: {count} {what} were asked for, {len(found)} came"
        )
    return found


def _ids(found: Any, base_url: str) -> list[int]:
    if not isinstance(found, list):
        raise DataError(f"{base_url}: the answer lacks token ids; serve the folder with vLLM 0.32")
    return found
