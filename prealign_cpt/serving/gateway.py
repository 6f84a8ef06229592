"""What stands before vLLM's routes where a key is needed: vLLM loads `Gateway` as its `--middleware`.

    client --> Connection (closed if slow) --> Gateway --key, route, bounds--> vLLM's own routes
                                                '-- 401 | 404 | 408 | 413 | 400 with the reason

vLLM's own key covers some of its routes only (vllm#58144). Here a path must be one of ROUTES byte for byte:
`//v1/completions`, `/v1/../invocations` and `%2e` are other paths. vLLM validates requests itself; refused before it is
only what would load something, run a program of the client's, or cost more than one request should. vLLM gets the
checked JSON, written anew, and no header of the client's. Settings come in the environment variable GATEWAY, as JSON:
`key_sha256` (hex digest; the key itself never reaches this process) and `num_tokens`.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import os
from typing import Any

import h11
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from prealign_cpt.serving.launcher import GATEWAY

HEALTH, MODELS = ("GET", b"/health"), ("GET", b"/v1/models")
POSTS = {("POST", f"/v1/{path}".encode()) for path in ("completions", "chat/completions", "embeddings")}
ROUTES = {HEALTH, MODELS} | POSTS

HEAD_SECONDS, BODY_SECONDS = 15.0, 30.0
"""Until the whole head of a request must have come, and after it the whole body."""

BODY_BYTES = 4 * 2**20
SEQUENCES, INPUTS = 256, 2048
"""Prompts times n, and texts to embed, in one request."""

REFUSED_FIELDS = frozenset(
    {"prompt_embeds", "documents", "media_io_kwargs", "mm_processor_kwargs", "mm_payload"}  # load data
    | {"kv_transfer_params", "ec_transfer_params", "vllm_xargs"}  # steer caches and plugins
    | {"chat_template", "structured_outputs"}  # templates and grammars of the client's
)
TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking"})
ID_FIELDS = ("stop_token_ids", "allowed_token_ids", "logprob_token_ids")
FAILED = "the model server failed; see its log"
MODEL_FIELDS = ("id", "object", "created", "owned_by", "max_model_len")
"""What /v1/models tells; vLLM would add the folder's path."""


class RefusedError(Exception):
    """A request that is not passed on."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Gateway:
    """ASGI middleware: a request that holds the key and is within bounds goes on to `app`."""

    def __init__(self, app: ASGIApp) -> None:
        settings = json.loads(os.environ[GATEWAY])
        self.app = app
        self._expected: bytes = bytes.fromhex(settings["key_sha256"])
        self._num_tokens: int = settings["num_tokens"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            try:
                await self._answer(scope, receive, send)
            except RefusedError as error:
                await _error(error.status, str(error))(scope, receive, send)
            except ClientDisconnect:
                pass

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = (scope["method"], bytes(scope["raw_path"]))
        if route != HEALTH:
            # The key comes before everything else, so that nobody without it learns which paths there are.
            if not self._knows_key(scope["headers"]):
                raise RefusedError(401, "the key is missing or wrong")
            if route not in ROUTES:
                raise RefusedError(404, "no such route")
        content = await self._content(Request(scope, receive)) if route in POSTS else b""
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        messages: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        started = False
        held = b""

        async def forward(message: Message) -> None:
            """Send on, but nothing of vLLM's failures, and of the models only what is MODEL_FIELDS."""
            nonlocal started, held
            if message["type"] == "http.response.start" and message["status"] >= 500:
                raise RefusedError(503 if message["status"] == 503 else 502, FAILED)
            if route == MODELS:
                held += message.get("body", b"")
            else:
                started = True
                await send(message)

        try:
            await self.app({**scope, "headers": headers}, replay, forward)
        except RefusedError:
            raise
        except Exception as error:
            if started:  # it cannot become an error any more: the connection is closed, and looks cut short
                raise
            logging.getLogger("uvicorn.error").exception(FAILED)
            raise RefusedError(502, FAILED) from error
        if route == MODELS:
            data = [{name: model.get(name) for name in MODEL_FIELDS} for model in json.loads(held)["data"]]
            await JSONResponse({"object": "list", "data": data})(scope, receive, send)

    def _knows_key(self, headers: list[tuple[bytes, bytes]]) -> bool:
        values = [value for name, value in headers if name == b"authorization"]
        scheme, _, given = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
        # Digests are of one length, so the time tells neither the key's length nor how much of it was right.
        digest = hashlib.sha256(given.strip()).digest()
        return hmac.compare_digest(digest, self._expected) and scheme.lower() == b"bearer"

    async def _content(self, request: Request) -> bytes:
        """The checked body, written anew."""
        raw = bytearray()
        size = int(request.headers.get("content-length", 0))
        try:
            async with asyncio.timeout(BODY_SECONDS):
                chunks = request.stream()
                while size <= BODY_BYTES and (chunk := await anext(chunks, b"")):
                    raw += chunk
                    size = max(size, len(raw))
        except TimeoutError as error:
            raise RefusedError(408, f"the body did not come within {BODY_SECONDS:.0f} s") from error
        if size > BODY_BYTES:
            raise RefusedError(413, f"the body has more than {BODY_BYTES} bytes")
        try:
            body = json.loads(raw.decode())
            check_body(body, self._num_tokens)
            return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            raise RefusedError(400, "the body is no JSON in UTF-8, or is nested too deeply") from error


def check_body(body: Any, num_tokens: int) -> None:
    """Refuse what a request may not ask for.

    Raises:
        RefusedError: 400, with the field and the reason.
    """
    if not isinstance(body, dict):
        raise RefusedError(400, "the body is no JSON object")
    for name in REFUSED_FIELDS & body.keys():
        if body[name]:
            raise RefusedError(400, f"{name}: this field is not accepted here")
    prompts, inputs = _rows(body.get("prompt")), _rows(body.get("input"))
    n = 1 if body.get("n") is None else body["n"]
    if type(n) is not int or n * len(prompts) > SEQUENCES or len(inputs) > INPUTS:
        raise RefusedError(400, f"at most {SEQUENCES} sequences (prompts times n, an integer) and {INPUTS} inputs")
    bias = body.get("logit_bias")
    bias = [int(key) if key.isdecimal() else key for key in bias] if isinstance(bias, dict) else None
    rows = {"prompt": prompts, "input": inputs, "logit_bias": [bias]} | {name: [body.get(name)] for name in ID_FIELDS}
    # A list is of ids, all of them integers: vLLM would take "5" for 5.
    for name, ids in ((name, ids) for name, values in rows.items() for ids in values if isinstance(ids, list)):
        for number in ids:
            if not (type(number) is int and 0 <= number < num_tokens):
                raise RefusedError(400, f"{name}: {str(number)[:20]!r} is no id from 0 to {num_tokens - 1}")
    _check_parts([body.get("messages"), body.get("input")])


def _rows(value: Any) -> list[Any]:
    """The texts, messages or lists of ids in a prompt or input that may be one or many."""
    return value if isinstance(value, list) and value and not isinstance(value[0], int) else [value]


def _check_parts(messages: Any) -> None:
    """Contents of messages, also in lists of conversations, are texts."""
    for message in messages if isinstance(messages, list) else []:
        parts = message.get("content") if isinstance(message, dict) else None
        for part in parts if isinstance(parts, list) else []:
            kind = part.get("type") if isinstance(part, dict) else "text" if isinstance(part, str) else None
            if not isinstance(kind, str) or kind not in TEXT_PARTS:
                raise RefusedError(400, f"messages: a part of type {str(kind)[:40]!r} is not accepted, only text")
        _check_parts(message)


def _error(status: int, message: str) -> JSONResponse:
    """In the form that OpenAI's clients read. Its connection ends: what is left of a body might come for ever."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    headers = {"connection": "close"} | ({"www-authenticate": "Bearer"} if status == 401 else {})
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status, headers)


class Connection(H11Protocol):
    """uvicorn's connection by its strictest parser; it ends if a request's head does not come within HEAD_SECONDS."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif self.conn.their_state is h11.IDLE and self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)
