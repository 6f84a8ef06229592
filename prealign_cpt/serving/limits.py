"""What a request to the front may ask for. Everything that is not listed here is refused, with the reason.

    bytes --parse--> JSON object --check_body(path, ...)--> the same object, safe to pass on

vLLM knows many more fields; those that load something (prompt_embeds, images by address), run a compiler of grammars or
templates (structured output, chat_template), or steer its caches (kv_transfer_params) have no place here.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 6
MAX_STOPS, MAX_STOP_LENGTH = 16, 256


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds for one request."""

    rows: int
    """Ids are below it."""
    max_model_len: int
    """Longest sequence, and most tokens to write."""
    body_bytes: int = 4 * 2**20
    prompts: int = 64
    n: int = 16
    sequences: int = 256
    """Prompts times n."""
    logprobs: int = 20
    messages: int = 256


class RefusedError(Exception):
    """A request that is not passed on."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def parse(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        RefusedError: 400; not UTF-8, not JSON, nested too deeply, a number beyond what a double holds, not an object.
    """
    try:
        body = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise RefusedError(400, f"the body is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise RefusedError(400, f"the body is nested more than {MAX_DEPTH} deep") from error
    except ValueError as error:
        raise RefusedError(400, f"the body is not JSON: {str(error)[:200]}") from error
    if not isinstance(body, dict):
        raise RefusedError(400, "the body is not a JSON object")
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        level = [one for value in level for one in (value.values() if isinstance(value, dict) else value)]
        level = [one for one in level if isinstance(one, (dict, list))]
        if not level:
            return body
    raise RefusedError(400, f"the body is nested more than {MAX_DEPTH} deep")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def check_body(path: str, body: dict[str, Any], limits: Limits) -> None:
    """Refuse a request of `path` that is not within `limits`.

    Raises:
        RefusedError: 400 with the field and its bounds.
    """
    checks = COMMON | FIELDS[path]
    for name, value in body.items():
        if name not in checks:
            raise RefusedError(400, f"{name[:60]!r}: this field is not accepted here")
        if value is not None:
            checks[name](name, value, limits)
    for name in REQUIRED[path]:
        if body.get(name) is None:
            raise RefusedError(400, f"{name}: missing")
    prompt = body.get("prompt")
    count = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    if count * (body.get("n") or 1) > limits.sequences:
        raise RefusedError(400, f"prompts times n: at most {limits.sequences} sequences in one request")


Check = Callable[[str, Any, Limits], None]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(least: int, most: Callable[[Limits], int]) -> Check:
    def check(name: str, value: Any, limits: Limits) -> None:
        if not (_is_int(value) and least <= value <= most(limits)):
            raise RefusedError(400, f"{name}: an integer from {least} to {most(limits)} is expected")

    return check


def _number(least: float, most: float) -> Check:
    def check(name: str, value: Any, limits: Limits) -> None:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (good and math.isfinite(value) and least <= value <= most):
            raise RefusedError(400, f"{name}: a number from {least:g} to {most:g} is expected")

    return check


def _boolean(name: str, value: Any, limits: Limits) -> None:
    if not isinstance(value, bool):
        raise RefusedError(400, f"{name}: true or false is expected")


def _text(most: int) -> Check:
    def check(name: str, value: Any, limits: Limits) -> None:
        if not (isinstance(value, str) and len(value) <= most):
            raise RefusedError(400, f"{name}: a text of at most {most} characters is expected")

    return check


def _one_of(*known: str) -> Check:
    def check(name: str, value: Any, limits: Limits) -> None:
        if value not in known:
            raise RefusedError(400, f"{name}: {' or '.join(known)} is expected")

    return check


def _stop(name: str, value: Any, limits: Limits) -> None:
    stops = [value] if isinstance(value, str) else value
    if not (isinstance(stops, list) and len(stops) <= MAX_STOPS):
        raise RefusedError(400, f"{name}: a text or at most {MAX_STOPS} texts are expected")
    for one in stops:
        _text(MAX_STOP_LENGTH)(name, one, limits)


def _stream_options(name: str, value: Any, limits: Limits) -> None:
    if not (isinstance(value, dict) and value.keys() <= {"include_usage"}):
        raise RefusedError(400, f"{name}: only include_usage is accepted")


def _ids(name: str, ids: list[Any], limits: Limits) -> None:
    if len(ids) > limits.max_model_len:
        raise RefusedError(400, f"{name}: {len(ids)} ids, at most {limits.max_model_len} fit into the model")
    for position, number in enumerate(ids):
        if not (_is_int(number) and 0 <= number < limits.rows):
            raise RefusedError(
                400, f"{name}: {str(number)[:20]} at position {position} is no id from 0 to {limits.rows - 1}"
            )


def _prompt(name: str, value: Any, limits: Limits) -> None:
    """A text, texts, ids, or lists of ids; none of them empty."""
    if isinstance(value, list) and value and _is_int(value[0]):
        _ids(name, value, limits)
        return
    prompts = [value] if isinstance(value, str) else value
    if not (isinstance(prompts, list) and 1 <= len(prompts) <= limits.prompts):
        raise RefusedError(400, f"{name}: text, ids, or a list of 1 to {limits.prompts} of them is expected")
    kind = type(prompts[0])
    for one in prompts:
        if type(one) is not kind or kind not in (str, list) or not one:
            raise RefusedError(400, f"{name}: texts or lists of ids, of one kind and not empty, are expected")
        if kind is list:
            _ids(name, one, limits)


def _stop_ids(name: str, value: Any, limits: Limits) -> None:
    if not (isinstance(value, list) and len(value) <= MAX_STOPS):
        raise RefusedError(400, f"{name}: at most {MAX_STOPS} ids are expected")
    _ids(name, value, limits)


def _messages(name: str, value: Any, limits: Limits) -> None:
    if not (isinstance(value, list) and 1 <= len(value) <= limits.messages):
        raise RefusedError(400, f"{name}: 1 to {limits.messages} messages are expected")
    for one in value:
        fields = one.keys() if isinstance(one, dict) else set()
        if fields - {"name"} != {"role", "content"} or not all(isinstance(one[field], str) for field in fields):
            raise RefusedError(400, f"{name}: each message has a role and a content, both text")


COMMON: dict[str, Check] = {"model": _text(300), "user": _text(300)}

SAMPLING: dict[str, Check] = {
    "stream": _boolean,
    "stream_options": _stream_options,
    "max_tokens": _integer(0, lambda limits: limits.max_model_len),
    "min_tokens": _integer(0, lambda limits: limits.max_model_len),
    "n": _integer(1, lambda limits: limits.n),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "min_p": _number(0, 1),
    "top_k": _integer(-1, lambda limits: limits.rows),
    "frequency_penalty": _number(-2, 2),
    "presence_penalty": _number(-2, 2),
    "repetition_penalty": _number(0.01, 10),
    "seed": _integer(-(2**63), lambda limits: 2**63 - 1),
    "stop": _stop,
    "stop_token_ids": _stop_ids,
    "ignore_eos": _boolean,
    "skip_special_tokens": _boolean,
    "include_stop_str_in_output": _boolean,
    "add_special_tokens": _boolean,
    "return_token_ids": _boolean,
}

FIELDS: dict[str, dict[str, Check]] = {
    "/v1/completions": SAMPLING
    | {
        "prompt": _prompt,
        "echo": _boolean,
        "logprobs": _integer(0, lambda limits: limits.logprobs),
        "prompt_logprobs": _integer(0, lambda limits: limits.logprobs),
    },
    "/v1/chat/completions": SAMPLING
    | {
        "messages": _messages,
        "max_completion_tokens": _integer(0, lambda limits: limits.max_model_len),
        "logprobs": _boolean,
        "top_logprobs": _integer(0, lambda limits: limits.logprobs),
        "add_generation_prompt": _boolean,
        "continue_final_message": _boolean,
    },
    "/v1/embeddings": {
        "input": _prompt,
        "encoding_format": _one_of("float", "base64"),
        "dimensions": _integer(1, lambda limits: 2**16),
        "add_special_tokens": _boolean,
    },
}
"""What each route accepts beside COMMON; null counts as not given."""

REQUIRED = {"/v1/completions": ("prompt",), "/v1/chat/completions": ("messages",), "/v1/embeddings": ("input",)}
