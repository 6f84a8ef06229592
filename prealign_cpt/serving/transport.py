"""One request to an OpenAI-compatible server: the key, the proxy, the attempts, and errors in this project's words.

What did not arrive whole (no connection, a timeout, 5xx, a damaged body) is asked for again, RETRIES times, with
growing pauses. What arrived whole and is wrong is the caller's to refuse: asking again would not mend it.
"""

import os
import time
from collections.abc import Callable
from functools import cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import openai

from prealign_cpt.run.errors import DataError, RecipeError, UnavailableError
from prealign_cpt.serving.key import VARIABLE

RETRIES = 4
"""Attempts after the first."""

TIMEOUT = 300.0
"""Seconds without a byte of the answer: long prompts take their time on a CPU."""

PAUSE, LONGEST_PAUSE = 0.5, 8.0
"""Seconds before the second attempt, doubled for each further one, and their bound."""


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
            raise UnavailableError(f"{base_url}: {_said(error)}; see {base_url}/models for what is served") from error
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
