"""The gateway before a stand-in for vLLM: routes, key, bounds, streams, slow clients."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from prealign_cpt.run.errors import RecipeError
from prealign_cpt.serving import client, gateway
from prealign_cpt.serving.gateway import REFUSED_FIELDS, Connection, Gateway, RefusedError, check_body
from prealign_cpt.serving.key import VARIABLE
from prealign_cpt.serving.launcher import GATEWAY
from tests.serving.conftest import HEADERS, KEY, ask, wait_until
from tests.serving.stand_in import Application

COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module", autouse=True)
def _settings() -> Iterator[None]:
    settings = {"key_sha256": hashlib.sha256(KEY.encode()).hexdigest(), "num_tokens": 403}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(GATEWAY, json.dumps(settings))
        yield


@pytest.fixture(scope="module")
def served(_settings: None) -> Iterator[SimpleNamespace]:
    """`port` of a gateway in this process, and the `application` behind it."""
    application = Application(["tiny", "tiny@0123456789ab"], "/secret/folder")
    config = uvicorn.Config(Gateway(application), http=Connection, port=0, log_level="critical", timeout_keep_alive=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    assert wait_until(lambda: server.started, 20)
    yield SimpleNamespace(port=server.servers[0].sockets[0].getsockname()[1], application=application)
    server.should_exit = True
    thread.join(30)


def raw(port: int, content: bytes) -> bytes:
    """What the server says to these bytes, until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(content)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while received := connection.recv(65536):
                answer += received
        return answer


def post(lines: bytes) -> bytes:
    return f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode() + lines


@pytest.mark.parametrize(("path", "field"), [(COMPLETIONS, "prompt"), ("/v1/embeddings", "input")])
def test_what_is_passed_on(served: SimpleNamespace, path: str, field: str) -> None:
    body = {field: "Größe 🐕", "model": "tiny", "store": True, "unknown": {"a": [1]}}
    status, answer = ask(served.port, "POST", path + "?api-key=x", body, HEADERS | {"X-Other": "1"})
    assert status == 200 and answer["path"] == path and answer["body"] == body
    assert set(answer["headers"]) == {"content-type", "content-length"}, "vLLM never sees the key"


def test_models_and_health(served: SimpleNamespace) -> None:
    models = client.models(f"http://127.0.0.1:{served.port}/v1", key=KEY)
    assert [model["id"] for model in models] == served.application.names and models[0]["max_model_len"] == 128
    assert "secret" not in str(models), "a folder's path is nobody's business"
    assert ask(served.port, "GET", "/health", headers={}) == (200, b"")


WRONG = ["", "Bearer", "Bearer ", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", f"Bearer {KEY.upper()}", f"Basic {KEY}", KEY]
WRONG += [f"Bearer {'x' * 8000}", "Bearer \xe4\xf6\xfc" + KEY, f"Bearer {KEY} {KEY}"]


@pytest.mark.parametrize("value", [None, *WRONG])
@pytest.mark.parametrize("path", ["/v1/models", "/invocations"])
def test_a_wrong_key(served: SimpleNamespace, value: str | None, path: str) -> None:
    status, answer = ask(served.port, "GET", path, headers={} if value is None else {"Authorization": value})
    assert status == 401 and answer["error"]["message"] == "the key is missing or wrong", "on every path the same"


def test_two_keys_are_none(served: SimpleNamespace) -> None:
    line = f"Authorization: Bearer {KEY}\r\n".encode()
    request = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    assert raw(served.port, request + line + b"\r\n").startswith(b"HTTP/1.1 200")
    assert raw(served.port, request + line + b"Authorization: Bearer x\r\n\r\n").startswith(b"HTTP/1.1 401")


def test_the_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr(hmac, "compare_digest", compare)
    made = Gateway(Application([], ""))
    for given in ("Bearer " + KEY, "Bearer x", "", "Basic " + KEY):
        assert made._knows_key([(b"authorization", given.encode())]) == (given == "Bearer " + KEY)
    assert len(compared) == 4 and all(len(left) == len(right) == 32 for left, right in compared)


def test_the_client_s_key(served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{served.port}/v1"
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(RecipeError, match=f"the key is refused; give the server's key in {VARIABLE}"):
        client.models(url)
    monkeypatch.setenv(VARIABLE, KEY)
    assert client.models(url)


OTHER_PATHS = """
/ /invocations /pooling /tokenize /detokenize /metrics /docs /openapi.json /version /v1 /v1/ /v1/models/ /health/ /ping
/v1/models/tiny /v1/responses /v1/load_lora_adapter /server_info //v1/models /v1//models /v1/../invocations *
/v1/models/../../metrics /./v1/models /V1/models /v1/%6dodels /%76%31/models /v1%2fmodels /v1/%2e%2e/metrics
/v1/models%00 /v1/models;x http://127.0.0.1/metrics /v1\\models
"""


@pytest.mark.parametrize("path", OTHER_PATHS.split())
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_other_route(served: SimpleNamespace, method: str, path: str) -> None:
    line = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n".encode()
    answer = raw(served.port, line + f"Authorization: Bearer {KEY}\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1] in (b"404", b"400"), answer
    answer = raw(served.port, line + b"\r\n")
    assert answer.split(b" ", 2)[1] in (b"401", b"400"), answer


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/models"), ("GET", COMPLETIONS), ("POST", "/health")])
@pytest.mark.parametrize("other", ["", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "get"])
def test_no_other_method(served: SimpleNamespace, method: str, path: str, other: str) -> None:
    assert ask(served.port, other or method, path)[0] == 404


def test_no_websocket(served: SimpleNamespace) -> None:
    handshake = {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version": "13"}
    headers = HEADERS | {"Connection": "Upgrade", "Upgrade": "websocket"} | handshake
    assert ask(served.port, "GET", "/v1/models", headers=headers)[0] == 403


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no JSON"),
        (b'{"prompt": "\xff"}', "no JSON"),
        (b'{"prompt": "\\ud800"}', "no JSON"),
        (b'{"prompt": NaN}', "no JSON"),
        (b'{"n": ' + b"9" * 5000 + b"}", "no JSON"),
        (b"[" * 100_000, "nested"),
        (b'{"messages": ' + b"[" * 900 + b"]" * 900 + b"}", ""),
        (b"[]", "no JSON object"),
        (b'{"prompt": "x", "n": 1, "n": 1000}', "at most 256 sequences"),
    ],
)
def test_bad_requests_have_a_reason(served: SimpleNamespace, content: bytes, message: str) -> None:
    status, answer = ask(served.port, "POST", COMPLETIONS, content)
    assert (status == 400 and message in answer["error"]["message"]) or not message
    assert ask(served.port, "POST", COMPLETIONS, {"prompt": "x"})[0] == 200, "the server stays up"


USER = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "Der Hund", "max_tokens": 5, "logprobs": None, "suffix": None, "metadata": {"a": "b"}},
        {"prompt": ["a", "b"], "n": 128},
        {"prompt": [0, 402], "echo": True, "return_token_ids": True, "logit_bias": {"402": -100}},
        {"prompt": [[0], [1, 2]], "stop_token_ids": [1], "kv_transfer_params": None, "documents": []},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}, *USER]},
        {"messages": USER, "response_format": {"type": "text"}, "parallel_tool_calls": True, "tools": [{}]},
        {"input": [[1, 2], [3]], "encoding_format": "base64"},
        {"input": ["x"] * 2048, "logit_bias": [1]},
        {"input": USER},
    ],
)
def test_accepted(body: dict[str, Any]) -> None:
    check_body(body, 403)


def parts(**part: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        *(({name: "x"}, f"{name}: this field is not accepted") for name in sorted(REFUSED_FIELDS)),
        ({"prompt": "x", "n": 257}, "at most 256"),
        ({"prompt": "x", "n": "5"}, "an integer"),
        ({"prompt": "x", "n": True}, "an integer"),
        ({"prompt": ["x"] * 64, "n": 5}, "at most 256"),
        ({"input": ["x"] * 2049}, "2048 inputs"),
        ({"prompt": [403]}, "prompt: '403' is no id from 0 to 402"),
        ({"prompt": [1, -1]}, "'-1' is no id"),
        ({"prompt": [[1], [2, 10**30]]}, "no id"),
        ({"prompt": [1, 2.0]}, "'2.0' is no id"),
        ({"prompt": [1, True]}, "'True' is no id"),
        ({"prompt": [1, "999"]}, "'999' is no id"),
        ({"prompt": [["999"]]}, "'999' is no id"),
        ({"prompt": [["x"], "y"]}, "'x' is no id"),
        ({"prompt": [[[1]]]}, "no id"),
        ({"input": [[1, "999"]]}, "input: '999' is no id"),
        ({"stop_token_ids": ["999"]}, "stop_token_ids: '999'"),
        ({"allowed_token_ids": [403]}, "allowed_token_ids: '403'"),
        ({"logit_bias": {"403": 1}}, "logit_bias: '403'"),
        ({"logit_bias": {"x": 1}}, "logit_bias: 'x'"),
        ({"messages": parts(type="image_url", image_url={"url": "http://x"})}, "a part of type 'image_url'"),
        ({"messages": parts(image_url="http://x")}, "a part of type 'None'"),
        ({"messages": parts(type="input_audio", input_audio={})}, "'input_audio'"),
        ({"messages": parts(type="file", file={})}, "'file'"),
        ({"messages": [parts(type="video_url")]}, "'video_url'"),
        ({"messages": [{"role": "user", "content": [["x"]]}]}, "'None'"),
        ({"input": parts(type="image_embeds")}, "'image_embeds'"),
    ],
)
def test_refused(body: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message) as caught:
        check_body(body, 403)
    assert caught.value.status == 400


def test_a_body_beyond_the_bound(served: SimpleNamespace) -> None:
    answer = raw(served.port, post(b"Content-Length: 104857600\r\n\r\n{"))
    assert answer.startswith(b"HTTP/1.1 413") and b"4194304 bytes" in answer, "refused before it is sent"
    sent = 0
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(post(b"Transfer-Encoding: chunked\r\n\r\n"))
        with contextlib.suppress(OSError):
            while sent < 100 * 2**20:
                connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                sent += 65536
    assert sent < 20 * 2**20, "without a length it is cut off at the bound, give or take the buffers"


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 2\r\nTransfer-Encoding: xchunked\r\n\r\n{}",
        b"Content-Length: 4\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x00",
        b"X: " + b"x" * 200_000 + b"\r\n\r\n",
    ],
)
def test_framing(served: SimpleNamespace, lines: bytes) -> None:
    answer = raw(served.port, post(lines))
    assert answer == b"" or answer.split(b" ", 2)[1] in (b"400", b"501"), answer
    assert ask(served.port, "GET", "/v1/models")[0] == 200


def test_idle_and_slow_clients_cost_their_own_connection(
    served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "HEAD_SECONDS", 3.0)
    monkeypatch.setattr(gateway, "BODY_SECONDS", 1.0)
    with contextlib.ExitStack() as stack:
        connect = lambda: stack.enter_context(socket.create_connection(("127.0.0.1", served.port), 20))  # noqa: E731
        idle = [connect() for _ in range(520)]
        slow_head, second, slow_body = connect(), connect(), connect()
        slow_head.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nA")
        second.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert second.recv(1000).startswith(b"HTTP/1.1 200")
        second.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nA")  # a slow head again, on a connection that was used
        slow_body.sendall(post(b"Content-Length: 100\r\n\r\n{"))
        assert ask(served.port, "POST", COMPLETIONS, {"prompt": "x"})[0] == 200, "who has the key gets in"
        assert slow_body.recv(1000).startswith(b"HTTP/1.1 408")
        slow_head.sendall(b"a")
        assert slow_head.recv(1) == second.recv(1) == idle[0].recv(1) == idle[-1].recv(1) == b"", "closed in the end"


def test_a_stream_comes_bit_by_bit(served: SimpleNamespace) -> None:
    request = json.dumps({"prompt": "x", "stream": True, "max_tokens": 20}).encode()
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(post(f"Connection: close\r\nContent-Length: {len(request)}\r\n\r\n".encode()) + request)
        received = [connection.recv(65536)]
        while received[-1]:
            received.append(connection.recv(65536))
    assert b"".join(received).count(b"data: ") == 21 and len(received) > 10, "not held back until the end"


def test_fifty_clients_that_leave(served: SimpleNamespace) -> None:
    events, files = served.application.events, len(os.listdir("/proc/self/fd"))
    events.clear()
    body = json.dumps({"prompt": "x", "stream": True, "max_tokens": 128}).encode()
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
            connection.sendall(post(f"Content-Length: {len(body)}\r\n\r\n".encode()) + body)
            assert connection.recv(100)
    assert wait_until(lambda: events.count("left by client") == 50, 10), "vLLM is told each time"
    assert wait_until(lambda: len(os.listdir("/proc/self/fd")) <= files + 2, 10), "no connection is left open"


@pytest.mark.parametrize("fault", ["error", "raises"])
def test_failures_stay_inside(served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(served.application, "fault", fault)
    status, answer = ask(served.port, "POST", COMPLETIONS, {"prompt": "x"})
    assert status == 502 and answer["error"]["message"] == "the model server failed; see its log"


def test_a_broken_stream_looks_broken(served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.application, "fault", "breaks")
    body = b'{"stream": true}'
    answer = raw(served.port, post(f"Content-Length: {len(body)}\r\n\r\n".encode()) + body)
    assert answer.count(b"data: ") == 1 and not answer.endswith(b"0\r\n\r\n") and b"secret" not in answer
