"""Ask a served model, and take only answers that can be trusted.

`base_url` is the OpenAI-compatible root, such as "http://127.0.0.1:8000/v1"; `key` is the server's API key, None takes
PREALIGN_API_KEY from the environment. What does not arrive whole (no connection, a timeout, 5xx, a damaged body) is
asked for again, RETRIES times; what is then missing, incomplete or not finite raises. Nothing is scored as zero.
Scoring sends token ids, never text: for text vLLM adds special tokens by default, which shifts every log-probability.

Raised by all:
    UnavailableError: no whole answer, or the server has no such model.
    RecipeError: the key is refused.
    DataError: the server refuses the request, or its answer is not what was asked for.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import openai

from prealign_cpt.run.errors import DataError, RecipeError, UnavailableError
from prealign_cpt.serving.folder import PINNED, model_digest, pinned_name
from prealign_cpt.serving.key import VARIABLE

Ids = Sequence[int]

RETRIES = 4
"""Attempts after the first."""

TIMEOUT = 300.0
"""Seconds without a byte of the answer: long prompts take their time on a CPU."""

PAUSE, LONGEST_PAUSE = 0.5, 8.0
"""Seconds before the second attempt, doubled for each further one, and their bound."""

CANARY_LENGTH, HOT = 16, 1.5
"""Tokens that the canary generates, and the temperature: hot, their log-probabilities lie nats apart."""

REMEDY = "its echo log-probabilities cannot be used; serve the folder with vLLM 0.32"


def models(base_url: str, *, key: str | None = None) -> list[dict[str, Any]]:
    """What the server offers, as in `/v1/models`: `id`, and from vLLM `max_model_len` and maybe `root`, the folder."""
    answer = ask(base_url, lambda client: client.models.list(), key)
    return [model.model_dump() for model in answer.data or []]


def identify(base_url: str, folder: Path, *, key: str | None = None) -> tuple[str, bool, int]:
    """Whether the server's model is `folder`'s, by the digest in the pinned name that `prealign serve` gives.

    Returns:
        the name to ask for, which no other model answers to if it is pinned; whether it is; the longest sequence.

    Raises:
        DataError: the server holds another model, or several and none with a digest.
    """
    names = {str(model["id"]): model for model in models(base_url, key=key)}
    own = pinned_name("", model_digest(folder))
    pinned = [name for name in names if PINNED.fullmatch(name)]
    mine = [name for name in pinned or names if name.endswith(own) or not pinned]
    if pinned and not mine:
        raise DataError(
            f"{base_url}: serves {', '.join(sorted(names))}, but the folder {folder} has the digest {own[1:]}; "
            "another model stands behind this address: serve this folder, or name the one that is served"
        )
    if len(mine) != 1:
        raise DataError(f"{base_url}: serves {len(names)} models, parity is checked for one; serve the folder alone")
    return mine[0], bool(pinned), int(names[mine[0]].get("max_model_len") or 2**31)


def answers(
    base_url: str,
    model: str,
    prompts: Sequence[str | Ids],
    *,
    n: int = 1,
    max_tokens: int = 64,
    temperature: float = 0.0,
    stop_token_ids: list[int] | None = None,
    key: str | None = None,
    **options: Any,
) -> list[tuple[str, str]]:
    """`n` texts for each prompt, in one request: vLLM computes them together. The gateway takes 256 of them.

    Args:
        prompts: token ids, which are taken as they are, or texts.
        stop_token_ids: end a text beside the server's own end token, and are left out of it.
        options: `top_p`, `seed`, `stop` and other fields of the openai package.

    Returns:
        Each text, and why it ended: "stop" at an end token or a stop string, "length" at `max_tokens`.
    """
    if not prompts:
        return []
    rows = [prompt if isinstance(prompt, str) else list(prompt) for prompt in prompts]
    if stop_token_ids:
        options["extra_body"] = {"stop_token_ids": stop_token_ids}
    options |= {"max_tokens": max_tokens, "temperature": temperature, "n": n}
    choices = _complete(base_url, model, rows, n * len(rows), key, **options)
    return [(str(choice.text), str(choice.finish_reason)) for choice in choices]


def complete(base_url: str, model: str, prompt: str | Ids, **options: Any) -> str:
    """The text that the model writes after `prompt`; options are those of `answers`."""
    return answers(base_url, model, [prompt], **options)[0][0]


def complete_many(base_url: str, model: str, prompts: Sequence[str | Ids], **options: Any) -> list[str]:
    """One text for each prompt; options are those of `answers`."""
    return [text for text, _ in answers(base_url, model, prompts, **options)]


def sample_ids(
    base_url: str, model: str, ids: Ids, *, n: int, max_tokens: int, key: str | None = None, **options: Any
) -> list[list[int]]:
    """`n` continuations of `ids` as token ids, each of exactly `max_tokens` (the end token does not stop them);
    `options` as for `answers`."""
    choices = _sample(base_url, model, ids, n, key, max_tokens=max_tokens, **options)
    return [_ids(choice, "token_ids", base_url, max_tokens) for choice in choices]


def tokenize(base_url: str, model: str, text: str, *, special: bool = False, key: str | None = None) -> list[int]:
    """The ids that the server makes of `text`, with `special` as for a client that says nothing about special tokens,
    otherwise without them. It must fit into the server's context."""
    extra = {"return_token_ids": True} | ({} if special else {"add_special_tokens": False})
    (choice,) = _complete(base_url, model, text, 1, key, max_tokens=1, temperature=0.0, extra_body=extra)
    return _ids(choice, "prompt_token_ids", base_url)


def token_logprobs(base_url: str, model: str, ids: Ids, *, key: str | None = None) -> list[float]:
    """`many_logprobs` of one sequence."""
    return many_logprobs(base_url, model, [ids], key=key)[0]


def many_logprobs(base_url: str, model: str, sequences: Sequence[Ids], *, key: str | None = None) -> list[list[float]]:
    """Log-probability of each id given all before it: `len(ids) - 1` values a sequence, none for the first id.

    Sequences are scored as they are, in one request: put the start token in front yourself. vLLM takes at most
    `max_model_len - 1` ids, the gateway 256 sequences.
    """
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
        raise DataError(f"{base_url}: the first id has a log-probability, so all may be shifted by one: {REMEDY}")
    for position, value in enumerate(values[1:], start=1):
        if value is None or not math.isfinite(value):
            raise DataError(
                f"{base_url}: log-probability {value} at position {position} (id {ids[position]}): {REMEDY}"
            )
    return [float(value) for value in values[1:]]


def check_echo(base_url: str, model: str, ids: Ids, *, key: str | None = None) -> float:
    """Canary: the model continues `ids`, then scores what it wrote. Both must give each token one log-probability.

    It finds a server that shifts its echo by one, or scores another model than it samples, without a local model. A
    shift would make the difference as large as that of neighbouring log-probabilities: half of it, on average, is far
    beyond any rounding.

    Returns:
        the largest difference in nats (about 1e-6 in fp32, up to 0.1 in bf16).
    """
    options = {"max_tokens": CANARY_LENGTH, "temperature": HOT, "seed": 0, "logprobs": 0}
    (choice,) = _sample(base_url, model, ids, 1, key, **options)
    written = _ids(choice, "token_ids", base_url)
    values = None if choice.logprobs is None else choice.logprobs.token_logprobs
    if not written or values is None or len(values) != len(written) or None in values:
        raise DataError(f"{base_url}: what the model writes comes without log-probabilities: {REMEDY}")
    echoed = token_logprobs(base_url, model, [*ids, *written], key=key)[len(ids) - 1 :]
    differences = np.abs(np.subtract(values, echoed))
    if not differences.mean() <= np.abs(np.diff(values)).mean() / 2:
        raise DataError(
            f"{base_url}: echo gives other log-probabilities than generation for the same tokens (by "
            f"{differences.mean():.3g} nats); they are shifted, or another model computed them: {REMEDY}"
        )
    return float(differences.max())


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
    rows = [list(ids) for ids in sequences]
    answer = ask(base_url, lambda client: client.embeddings.create(model=model, input=rows), key)
    entries = _in_order(answer.data, len(rows), "embeddings", base_url)
    return [np.asarray(entry.embedding, dtype=np.float32) for entry in entries]


def _sample(base_url: str, model: str, ids: Ids, n: int, key: str | None, **options: Any) -> list[Any]:
    extra = {"return_token_ids": True, "ignore_eos": True}
    return _complete(base_url, model, list(ids), n, key, n=n, extra_body=extra, **options)


def _complete(base_url: str, model: str, prompt: Any, count: int, key: str | None, **options: Any) -> list[Any]:
    """The `count` choices of one request, in the order of what was asked."""
    answer = ask(base_url, lambda client: client.completions.create(model=model, prompt=prompt, **options), key)
    return _in_order(answer.choices, count, "choices", base_url)


def _in_order(entries: list[Any] | None, count: int, what: str, base_url: str) -> list[Any]:
    """The entries by their index, which the answer's list need not keep; each of them once."""
    by_index = {getattr(entry, "index", None): entry for entry in entries or []}
    if len(entries or []) != count or set(by_index) != set(range(count)):
        raise DataError(
            f"{base_url}: {count} {what} were asked for, {len(entries or [])} came, with the indices "
            f"{[*by_index][:8]}; serve the folder with vLLM 0.32"
        )
    return [by_index[index] for index in range(count)]


def _ids(choice: Any, field: str, base_url: str, count: int | None = None) -> list[int]:
    ids = choice.model_dump().get(field)
    if not isinstance(ids, list) or count not in (None, len(ids)):
        raise DataError(f"{base_url}: {count or 'some'} token ids were asked for, {ids} came; use vLLM 0.32")
    return ids


def is_loopback(host: str) -> bool:
    """Whether the host's name or address means this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def ask(base_url: str, request: Callable[[openai.OpenAI], Any], key: str | None = None) -> Any:
    """What `request` gets from the server, a typed answer of the openai package.

    Args:
        base_url: the OpenAI-compatible root, such as "http://127.0.0.1:8000/v1".
        key: None takes the one in the environment, if any.

    Raises:
        UnavailableError: no whole answer after all attempts, or no such model or route.
        RecipeError: the server wants another key.
        DataError: the server refuses the request.
    """
    for attempt in range(RETRIES + 1):
        try:
            answer = request(_client(base_url, key or os.environ.get(VARIABLE, ""), TIMEOUT))
        except openai.NotFoundError as error:
            remedy = f"see {base_url}/models for what is served"
            if not base_url.rstrip("/").endswith("/v1"):
                remedy = f"is {base_url.rstrip('/')}/v1 meant?"
            raise UnavailableError(f"{base_url}: {_said(error)}; {remedy}") from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise RecipeError(f"{base_url}: the key is refused; give the server's key in {VARIABLE}") from error
        except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
            fault: Exception = error
            said = _said(error)
        except openai.APIStatusError as error:
            raise DataError(f"{base_url}: the server refuses the request: {_said(error)}") from error
        except (openai.APIError, ValueError, TypeError, AttributeError) as error:  # what a damaged body causes
            fault, said = error, f"the answer is not that of an OpenAI-compatible server: {error}"
        else:
            # The client does not check what it parsed: a page of HTML comes back as a string.
            if isinstance(answer, openai.BaseModel):
                return answer
            fault, said = ValueError("not an object"), "the answer is not that of an OpenAI-compatible server"
        if attempt < RETRIES:
            time.sleep(min(LONGEST_PAUSE, PAUSE * 2**attempt))
    raise UnavailableError(
        f"{base_url}: no usable answer after {RETRIES + 1} attempts: {said}; check the address and the server's log"
    ) from fault


def _said(error: openai.APIError) -> str:
    """The server's own words, on one line; the cause of a broken connection."""
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    cause = f" ({error.__cause__})" if isinstance(error, openai.APIConnectionError) and error.__cause__ else ""
    return " ".join(str(message or error.message).split()) + cause


@cache
def _client(base_url: str, key: str, timeout: float) -> openai.OpenAI:
    # A proxy from the environment must not stand between this process and its own machine.
    local = is_loopback(urlsplit(base_url).hostname or "")
    return openai.OpenAI(
        base_url=base_url,
        api_key=key or "none",
        max_retries=0,
        timeout=timeout,
        http_client=openai.DefaultHttpxClient(trust_env=not local),
    )
