"""Ask a served model, and take only answers that can be trusted.

`base_url` is the OpenAI-compatible root, such as "http://127.0.0.1:8000/v1". Connection errors, timeouts and 5xx
answers are tried again (`RETRIES` times, with growing pauses); what is still wrong then raises. Nothing is scored as
zero.

Scoring sends token ids, never text: for text vLLM adds special tokens by default, which shifts every log-probability.
"""

import math
from functools import cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import openai

from prealign_cpt.errors import DataError, UnavailableError

RETRIES = 4
"""Attempts after the first; the pauses grow from half a second to eight."""

TIMEOUT = 300.0
"""Seconds for one answer: long prompts take their time on a CPU."""


def is_loopback(host: str) -> bool:
    """Whether the host's name or address means this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def models(base_url: str) -> list[dict[str, Any]]:
    """What the server offers, as in `/v1/models`: `id`, and from vLLM `root` (the folder) and `max_model_len`.

    Raises:
        UnavailableError: no answer.
    """
    answer = _ask(base_url, lambda client: client.models.list())
    return [model.model_dump() for model in answer.data or []]


def complete(
    base_url: str,
    model: str,
    prompt: str | list[int],
    *,
    max_tokens: int = 64,
    temperature: float = 0.0,
    seed: int | None = None,
) -> str:
    """The text that the model writes after `prompt` (text, or token ids that are taken as they are).

    Raises:
        UnavailableError: no answer, or the server has no such model.
        DataError: the server refuses the request.
    """
    answer = _ask(
        base_url,
        lambda client: client.completions.create(
            model=model, prompt=prompt, max_tokens=max_tokens, temperature=temperature, seed=seed
        ),
    )
    return str(_choices(answer, 1, base_url)[0].text)


def sample_ids(
    base_url: str, model: str, ids: list[int], *, max_tokens: int, temperature: float, n: int, seed: int
) -> list[list[int]]:
    """`n` continuations of `ids` as token ids, each of exactly `max_tokens` (the end token does not stop them).

    Raises:
        UnavailableError: no answer, or the server has no such model.
        DataError: the server refuses the request, or answers without token ids.
    """
    answer = _ask(
        base_url,
        lambda client: client.completions.create(
            model=model,
            prompt=ids,
            max_tokens=max_tokens,
            temperature=temperature,
            n=n,
            seed=seed,
            extra_body={"return_token_ids": True, "ignore_eos": True},
        ),
    )
    found = [choice.model_dump().get("token_ids") for choice in _choices(answer, n, base_url)]
    if any(tokens is None or len(tokens) != max_tokens for tokens in found):
        raise DataError(f"{base_url}: the answer lacks token_ids; serve the folder with vLLM 0.32")
    return found


def token_logprobs(base_url: str, model: str, ids: list[int]) -> list[float]:
    """Log-probability of each id given all before it: `len(ids) - 1` values, none for the first id.

    `ids` is scored as it is: put the start token in front yourself. vLLM takes at most `max_model_len - 1` ids.

    Raises:
        UnavailableError: no answer, or the server has no such model.
        DataError: the server refuses the ids, or its answer is not one finite number for each id but the first.
    """
    if not ids:
        raise ValueError("token_logprobs: no ids")
    answer = _ask(
        base_url,
        lambda client: client.completions.create(
            model=model,
            prompt=ids,
            max_tokens=0,
            echo=True,
            logprobs=0,
            temperature=0.0,
            extra_body={"return_token_ids": True},
        ),
    )
    choice = _choices(answer, 1, base_url)[0]
    remedy = "its echo log-probabilities cannot be used; serve the folder with vLLM 0.32"
    # Some servers accept echo and logprobs and ignore them (llama.cpp#27174), which would give chance scores.
    values = None if choice.logprobs is None else choice.logprobs.token_logprobs
    if values is None or len(values) != len(ids):
        count = "none" if values is None else len(values)
        raise DataError(f"{base_url}: {len(ids)} ids were sent, log-probabilities came for {count}: {remedy}")
    scored = choice.model_dump().get("prompt_token_ids")
    if scored is not None and scored != ids:
        raise DataError(f"{base_url}: the server scored other ids than were sent ({len(scored)} of them): {remedy}")
    if values[0] is not None:
        raise DataError(
            f"{base_url}: the first id has a log-probability, so the answer may be shifted by one: {remedy}"
        )
    for position, value in enumerate(values[1:], start=1):
        if value is None or not math.isfinite(value):
            raise DataError(
                f"{base_url}: log-probability {value} at position {position} (id {ids[position]}): {remedy}"
            )
    return [float(value) for value in values[1:]]


def _choices(answer: Any, count: int, base_url: str) -> list[Any]:
    """The choices in the order of their index, which the answer's list need not keep."""
    choices = sorted(answer.choices or [], key=lambda choice: choice.index)
    if [choice.index for choice in choices] != list(range(count)):
        raise DataError(f"{base_url}: {count} choices were asked for, {len(choices)} came")
    return choices


def _ask(base_url: str, request: Any) -> Any:
    """Send a request and turn openai's errors into this project's."""
    try:
        answer = request(_client(base_url))
    except openai.NotFoundError as error:
        raise UnavailableError(f"{base_url}: {_said(error)}; see {base_url}/models for what is served") from error
    except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
        raise UnavailableError(f"{base_url}: no usable answer after {RETRIES + 1} attempts: {_said(error)}") from error
    except openai.APIStatusError as error:
        raise DataError(f"{base_url}: the server refuses the request: {_said(error)}") from error
    except (openai.APIError, ValueError) as error:  # the client passes on the ValueError of a damaged body
        raise UnavailableError(f"{base_url}: the answer is not that of an OpenAI-compatible server: {error}") from error
    # The client does not check what it parsed: a page of HTML comes back as a string.
    if not isinstance(answer, openai.BaseModel):
        raise UnavailableError(f"{base_url}: the answer is not that of an OpenAI-compatible server; check the address")
    return answer


def _said(error: openai.APIError) -> str:
    """The server's own words, on one line."""
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(message or error.message).split())


@cache
def _client(base_url: str) -> openai.OpenAI:
    # A proxy from the environment must not stand between this process and its own machine.
    local = is_loopback(urlsplit(base_url).hostname or "")
    return openai.OpenAI(
        base_url=base_url,
        api_key="none",
        max_retries=RETRIES,
        timeout=TIMEOUT,
        http_client=openai.DefaultHttpxClient(trust_env=not local),
    )
