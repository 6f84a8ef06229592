"""The door between a network and vLLM: an allow-list, a key, bounds, and nothing else.

    client --key--> Front --check_body--> vLLM's Unix socket          generate: completions, chat
                      '-- 401 | 404 | 413 | 400 with the reason       embed: embeddings

vLLM's own key covers some of its routes only (vllm#58144), so vLLM is not reachable but through here. A path must be
one of ROUTES byte for byte: `//v1/completions`, `/v1/../invocations` and `%2e` are other paths. What is passed on is
the checked JSON, written anew, and no header of the client's. Answers are passed back as they come; when the client
leaves, the request to vLLM is closed, which ends its work.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import httpx2
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from prealign_cpt.serving.command import Task
from prealign_cpt.serving.limits import Limits, RefusedError, check_body, parse

ROUTES: dict[tuple[str, bytes], Task | None] = {
    ("GET", b"/health"): None,
    ("GET", b"/v1/models"): None,
    ("POST", b"/v1/completions"): "generate",
    ("POST", b"/v1/chat/completions"): "generate",
    ("POST", b"/v1/embeddings"): "embed",
}

BODY_SECONDS = 30.0
"""Until the whole body of a request must have come."""

ANSWER_SECONDS = 600.0
"""Without a byte from vLLM."""

UNREAD = frozenset({401, 404, 408, 413, 415})
"""Refused before the body was read: without an end of the connection it could go on for ever."""

MODEL_FIELDS = ("id", "object", "created", "owned_by", "max_model_len")
"""What /v1/models tells; vLLM would add the folder's path."""


def connect(uds: str) -> httpx2.AsyncClient:
    """A client for the vLLM behind a Unix socket."""
    # A connection for each request: one that vLLM closes while it idles would fail the next request.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx2.AsyncClient(
        transport=httpx2.AsyncHTTPTransport(verify=False, uds=uds, limits=limits),
        base_url="http://vllm",
        timeout=httpx2.Timeout(10.0, read=ANSWER_SECONDS),
        headers={"accept-encoding": "identity"},
    )


class Front:
    """An ASGI application.

    Args:
        key: what a client must send as `Authorization: Bearer KEY`.
        servers: the client of each task's vLLM.
    """

    def __init__(self, key: str, servers: Mapping[Task, httpx2.AsyncClient], limits: Limits) -> None:
        self._expected = hashlib.sha256(key.encode()).digest()
        self._servers = servers
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        try:
            answer = await self._answer(Request(scope, receive))
        except RefusedError as error:
            answer = _error(error.status, str(error))
        except ClientDisconnect:
            return
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> "Response | Relay":
        method, path = request.method, bytes(request.scope["raw_path"])
        if (method, path) == ("GET", b"/health"):
            return await self._health()
        # The key comes before everything else, so that nobody without it learns which paths there are.
        if not self._knows_key(request):
            raise RefusedError(401, "the key is missing or wrong")
        if (method, path) not in ROUTES:
            raise RefusedError(404, "no such route")
        task = ROUTES[method, path]
        if task is None:
            return await self._models()
        if task not in self._servers:
            raise RefusedError(404, f"this server does not run the task {task}")
        body = parse(await _read(request, self._limits.body_bytes))
        check_body(path.decode(), body, self._limits)
        return Relay(self._servers[task], path.decode(), _written(body))

    def _knows_key(self, request: Request) -> bool:
        values = request.headers.getlist("authorization")
        scheme, _, given = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        # Digests are of one length, so the time tells neither the key's length nor how much of it was right.
        digest = hashlib.sha256(given.strip().encode("latin-1")).digest()
        return hmac.compare_digest(digest, self._expected) and scheme.lower() == "bearer"

    async def _health(self) -> Response:
        for server in self._servers.values():
            try:
                healthy = (await server.get("/health", timeout=5)).status_code == 200
            except httpx2.TransportError:
                healthy = False
            if not healthy:
                return Response(status_code=503)
        return Response(status_code=200)

    async def _models(self) -> Response:
        try:
            found = (await next(iter(self._servers.values())).get("/v1/models", timeout=30)).json()["data"]
        except (httpx2.TransportError, ValueError, KeyError, TypeError) as error:
            raise RefusedError(502, "the model does not answer") from error
        data = [{name: model.get(name) for name in MODEL_FIELDS} for model in found]
        return JSONResponse({"object": "list", "data": data})


class Relay:
    """An ASGI response: a checked request's answer from vLLM, chunk by chunk."""

    def __init__(self, server: httpx2.AsyncClient, path: str, content: bytes) -> None:
        self._server = server
        self._path = path
        self._content = content
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        passing = asyncio.ensure_future(self._pass(scope, receive, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                await passing  # raises what it raised
        except asyncio.CancelledError:  # the time to drain is over, and this request still runs
            if not self._started:
                await _error(503, "the server is being stopped")(scope, receive, send)
        finally:
            for one in (passing, leaving):
                one.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await passing

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = {"content-type": "application/json"}
            async with self._server.stream("POST", self._path, content=self._content, headers=headers) as answer:
                if answer.status_code >= 500:
                    raise RefusedError(502, f"the model server failed (HTTP {answer.status_code}); see its log")
                kind = answer.headers.get("content-type", "application/json").encode()
                self._started = True
                start = {"status": answer.status_code, "headers": [(b"content-type", kind)]}
                await send({"type": "http.response.start", **start})
                async for chunk in answer.aiter_raw():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except (httpx2.TransportError, RefusedError) as error:
            # Once begun, an answer cannot become an error: the connection is closed, and the client sees it cut short.
            if not self._started:
                said = str(error) if isinstance(error, RefusedError) else "the model does not answer"
                await _error(502, said)(scope, receive, send)


def _written(body: dict[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise RefusedError(400, "the body holds half of a surrogate pair, which is no text") from error


async def _left(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(request: Request, most: int) -> bytes:
    """The body, of which never more than `most` bytes are kept."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedError(415, "content-type: application/json is expected")
    if "content-encoding" in request.headers:
        raise RefusedError(415, "content-encoding: none is accepted")
    length = request.headers.get("content-length")
    if length is not None and int(length) > most:  # the HTTP parser lets only digits through
        raise RefusedError(413, f"the body has {length} bytes, {most} are accepted")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise RefusedError(413, f"the body has more than {most} bytes")
    except TimeoutError as error:
        raise RefusedError(408, f"the body did not come within {BODY_SECONDS:.0f} s") from error
    return bytes(body)


def _error(status: int, message: str) -> JSONResponse:
    """In the form that OpenAI's clients read."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    if status in UNREAD:
        headers["connection"] = "close"
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status, headers)
