"""The front as a process before stand-ins: routes, key, bounds, streams (rows 75, 76, 77, 84)."""

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from prealign_cpt.run.errors import RecipeError
from prealign_cpt.serving import client
from prealign_cpt.serving.front import ROUTES, Front, connect
from prealign_cpt.serving.key import VARIABLE
from prealign_cpt.serving.limits import FIELDS, REQUIRED, Limits
from tests.serving.conftest import KEY, Serving, serving, wait_until

HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


def ask(port: int, method: str, path: str, body: Any = None, headers: dict[str, str] = HEADERS) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    content = body if isinstance(body, (bytes, type(None))) else json.dumps(body)
    connection.request(method, path, content, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    try:
        return answer.status, json.loads(text)
    except ValueError:
        return answer.status, text


def raw(port: int, content: bytes) -> bytes:
    """What the server says to these bytes, until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(content)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                answer += piece
        return answer


def test_each_route_that_takes_a_body_has_its_fields() -> None:
    posts = {path.decode() for method, path in ROUTES if method == "POST"}
    assert posts == set(FIELDS) == set(REQUIRED)


def test_what_is_passed_on(fronted: Serving) -> None:
    for path, task in (("/v1/completions", "generate"), ("/v1/embeddings", "embed")):
        field = "prompt" if task == "generate" else "input"
        status, found = ask(fronted.port, "POST", path + "?api-key=x", {field: "Größe 🐕", "model": "tiny"})
        assert status == 200 and found["path"] == path and found["body"] == {field: "Größe 🐕", "model": "tiny"}
        assert "authorization" not in found["headers"], "vLLM never sees the key"


def test_models_and_health(fronted: Serving) -> None:
    found = client.models(f"http://127.0.0.1:{fronted.port}/v1", key=KEY)
    assert [model["id"].partition("@")[0] for model in found] == ["tiny", "tiny"] and found[0]["max_model_len"] == 128
    assert all("root" not in model for model in found), "a folder's path is nobody's business"
    assert ask(fronted.port, "GET", "/health", headers={}) == (200, b"")


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}x",
        f"Bearer {KEY.upper()}",
        f"Basic {KEY}",
        KEY,
        f"Bearer {'x' * 8000}",
        "Bearer \xe4\xf6\xfc" + KEY,
        f"Bearer {KEY} {KEY}",
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/invocations"])
def test_a_wrong_key(fronted: Serving, value: str | None, path: str) -> None:
    status, found = ask(fronted.port, "GET", path, headers={} if value is None else {"Authorization": value})
    assert status == 401 and found["error"]["message"] == "the key is missing or wrong", "on every path the same"


def test_two_keys_are_none(fronted: Serving) -> None:
    line = b"Authorization: Bearer " + KEY.encode() + b"\r\n"
    request = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    assert raw(fronted.port, request + line + b"\r\n").startswith(b"HTTP/1.1 200")
    assert raw(fronted.port, request + line + b"Authorization: Bearer x\r\n\r\n").startswith(b"HTTP/1.1 401")


def test_a_header_beyond_all_bounds(fronted: Serving) -> None:
    answer = raw(fronted.port, b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"x" * 200_000)
    assert answer.startswith(b"HTTP/1.1 400") or answer == b""
    assert ask(fronted.port, "GET", "/v1/models")[0] == 200


def test_the_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import hmac

    from starlette.requests import Request

    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr(hmac, "compare_digest", compare)
    front = Front(KEY, {}, Limits(rows=1, max_model_len=1))
    for given in ("Bearer " + KEY, "Bearer x", "", "Basic " + KEY):
        scope = {"type": "http", "headers": [(b"authorization", given.encode())]}
        assert front._knows_key(Request(scope)) == (given == "Bearer " + KEY)
    assert len(compared) == 4 and all(len(left) == len(right) == 32 for left, right in compared)


OTHER_PATHS = """
/ /invocations /pooling /tokenize /detokenize /metrics /docs /openapi.json /version /v1 /v1/ /v1/models/ /health/ /ping
/v1/models/tiny /v1/responses /v1/load_lora_adapter /server_info //v1/models /v1//models /v1/../invocations *
/v1/models/../../metrics /./v1/models /V1/models /v1/%6dodels /%76%31/models /v1%2fmodels /v1/%2e%2e/metrics
/v1/models%00 /v1/models;x http://127.0.0.1/metrics /v1\\models
"""


@pytest.mark.parametrize("path", OTHER_PATHS.split())
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_other_route(fronted: Serving, method: str, path: str) -> None:
    line = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n".encode()
    answer = raw(fronted.port, line + f"Authorization: Bearer {KEY}\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1] in (b"404", b"400"), answer
    answer = raw(fronted.port, line + b"\r\n")
    assert answer.split(b" ", 2)[1] in (b"401", b"400"), answer


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/models"), ("GET", "/v1/completions"), ("POST", "/health")])
@pytest.mark.parametrize("other", ["", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "get"])
def test_no_other_method(fronted: Serving, method: str, path: str, other: str) -> None:
    assert ask(fronted.port, other or method, path)[0] == 404


def test_no_upgrade(fronted: Serving) -> None:
    headers = HEADERS | {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x"}
    assert ask(fronted.port, "GET", "/v1/realtime", headers=headers)[0] == 404


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "not JSON"),
        (b'{"prompt": "\xff"}', 400, "not UTF-8"),
        (b'{"prompt": "\\ud800"}', 400, "surrogate"),
        (b"[" * 100_000, 400, "nested"),
        (b'{"prompt": "x", "max_tokens": 1000000000}', 400, "max_tokens: an integer from 0 to 128"),
        (b'{"prompt": "x", "n": 1000}', 400, "n: an integer from 1 to 16"),
        (b'{"prompt": "x", "logprobs": 1000000}', 400, "logprobs: an integer from 0 to 20"),
        (b'{"prompt": [403]}', 400, "403 at position 0 is no id from 0 to 402"),
        (b'{"prompt": [-1]}', 400, "-1 at position 0"),
        (b'{"prompt": ""}', 400, "not empty"),
        (b'{"prompt": "x", "chat_template": "{{ x }}"}', 400, "not accepted here"),
    ],
)
def test_bad_requests_have_a_reason(fronted: Serving, content: bytes, status: int, message: str) -> None:
    found = ask(fronted.port, "POST", "/v1/completions", content)
    assert found[0] == status and message in found[1]["error"]["message"]
    assert ask(fronted.port, "POST", "/v1/completions", {"prompt": "x"})[0] == 200, "the server stays up"


def post(lines: bytes) -> bytes:
    start = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return start + b"Authorization: Bearer " + KEY.encode() + b"\r\n" + lines


def test_a_body_of_100_mb(fronted: Serving) -> None:
    answer = raw(fronted.port, post(b"Content-Length: 104857600\r\n\r\n{"))
    assert answer.startswith(b"HTTP/1.1 413") and b"4194304 are accepted" in answer, "refused before it is sent"
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with socket.create_connection(("127.0.0.1", fronted.port), timeout=30) as connection:
        connection.sendall(post(b"Transfer-Encoding: chunked\r\n\r\n"))
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 100 * 2**20:
                connection.sendall(chunk)
                sent += 65536
    assert sent < 20 * 2**20, "without a length it is cut off at the bound, give or take the buffers"
    assert ask(fronted.port, "GET", "/v1/models")[0] == 200


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", b"400"),
        (b"Content-Length: -1\r\n\r\n", b"400"),
        (b"Content-Length: 2\r\nTransfer-Encoding: xchunked\r\n\r\n{}", b"501"),
        (b"Content-Length: 2\r\nContent-Encoding: gzip\r\n\r\n{}", b"415"),
        (b"Content-Length: 2\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n{}", b"415"),
    ],
)
def test_framing(fronted: Serving, lines: bytes, status: bytes) -> None:
    request = post(lines).replace(
        b"Content-Type: application/json\r\n", b"" if b"text/plain" in lines else b"Content-Type: application/json\r\n"
    )
    request = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    assert raw(fronted.port, request).split(b" ", 2)[1] in (status, b"400", b"501")


def test_a_body_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from prealign_cpt.serving import front as module

    monkeypatch.setattr(module, "BODY_SECONDS", 0.1)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", b"Bearer " + KEY.encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "raw_path": b"/v1/completions"}
    front = Front(KEY, {"generate": connect("/nowhere")}, Limits(rows=1, max_model_len=1))
    asyncio.run(front(scope | {"headers": headers, "query_string": b""}, receive, send))
    assert sent[0]["status"] == 408


def test_a_stream_comes_piece_by_piece(fronted: Serving) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fronted.port, timeout=30)
    connection.request(
        "POST", "/v1/completions", json.dumps({"prompt": "x", "stream": True, "max_tokens": 50}), HEADERS
    )
    answer = connection.getresponse()
    assert answer.getheader("content-type", "").startswith("text/event-stream")
    clock, times, pieces = time.monotonic(), [], []
    while piece := answer.read1():
        times.append(time.monotonic() - clock)
        pieces.append(piece)
    assert b"".join(pieces).count(b"data: ") == 51 and times[-1] - times[0] > 0.5, "not held back until the end"


def files(fronted: Serving) -> int:
    return len(os.listdir(f"/proc/{fronted.process.pid}/fd"))


def test_a_hundred_clients_that_leave(fronted: Serving) -> None:
    before, log = files(fronted), fronted.log
    began, left = (log.read_text().count(word) for word in ("began", "left by client"))
    body = json.dumps({"prompt": "x", "stream": True, "max_tokens": 128}).encode()
    request = post(f"Content-Length: {len(body)}\r\n\r\n".encode()) + body

    def leave() -> None:
        with socket.create_connection(("127.0.0.1", fronted.port), timeout=30) as connection:
            connection.sendall(request)
            assert connection.recv(100)

    for _ in range(10):
        threads = [threading.Thread(target=leave) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wait_until(lambda: log.read_text().count("left by client") - left == 100, 10), "vLLM is told each time"
    assert log.read_text().count("began") - began == 100
    assert wait_until(lambda: files(fronted) <= before + 2, 10), "no connection is left open"


def test_a_vllm_that_fails(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path, **{VARIABLE: KEY, "STAND_IN_FAULT": "error"}) as made:
        port = made.wait_front()
        status, found = ask(port, "POST", "/v1/completions", {"prompt": "x"})
        assert status == 502 and "/private/x" not in str(found), "what vLLM says of itself stays inside"
        status, found = ask(port, "POST", "/v1/embeddings", {"input": "x"})
        assert status == 404 and "does not run the task embed" in found["error"]["message"]


def test_the_client_s_key(fronted: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{fronted.port}/v1"
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(RecipeError, match=f"the key is refused; give the server's key in {VARIABLE}"):
        client.models(url)
    monkeypatch.setenv(VARIABLE, KEY)
    assert client.models(url)


def test_the_key_is_in_no_command_line_and_no_log(fronted: Serving) -> None:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        assert KEY.encode() not in words
    assert KEY not in fronted.output and KEY not in fronted.log.read_text()


def test_everybody_at_once(fronted: Serving) -> None:
    statuses: list[int] = []
    ask_one = lambda: statuses.append(ask(fronted.port, "POST", "/v1/completions", {"prompt": "x"})[0])  # noqa: E731
    threads = [threading.Thread(target=ask_one) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 40
