"""The client takes good answers of a real server, and refuses bad ones of a fake one."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign_cpt.run.errors import DataError, UnavailableError
from prealign_cpt.serving import client, transport
from prealign_cpt.serving.server import Server


class Fake:
    """A server whose next answers are `answers`: (status, JSON value or raw bytes); the last one stays."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.requests: list[dict[str, Any]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                fake.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                status, value = fake.answers.pop(0) if len(fake.answers) > 1 else fake.answers[0]
                body = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PAUSE", 0.01)


@pytest.fixture
def fake() -> Iterator[Fake]:
    made = Fake()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def answer(values: list[float | None] | None, **more: Any) -> dict[str, Any]:
    logprobs = None if values is None else {"token_logprobs": values, "tokens": [], "top_logprobs": []}
    choice = {"index": 0, "text": "", "finish_reason": "length", "logprobs": logprobs}
    return {"id": "x", "object": "text_completion", "created": 0, "model": "m", "choices": [choice | more]}


def test_values_and_request(fake: Fake) -> None:
    fake.answers = [(200, answer([None, -1.0, -2.5]))]
    assert client.token_logprobs(fake.base_url, "m", [5, 6, 7]) == [-1.0, -2.5]
    (request,) = fake.requests
    assert request["prompt"] == [[5, 6, 7]] and request["echo"] is True and request["max_tokens"] == 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (answer(None), "came for none"),
        (answer([None, -1.0]), "came for 2"),
        (answer([None, -1.0, None]), "None at position 2"),
        (answer([None, -1.0, float("nan")]), "nan at position 2"),
        (answer([None, float("-inf"), -1.0]), "-inf at position 1"),
        (answer([-1.0, -1.0, -1.0]), "shifted by one"),
        (answer([None, -1.0, -1.0], prompt_token_ids=[0, 5, 6, 7]), "other ids"),
        (answer([None, -1.0, -1.0]) | {"choices": []}, "0 came"),
    ],
)
def test_refused_answers(fake: Fake, bad: dict[str, Any], message: str) -> None:
    fake.answers = [(200, bad)]
    with pytest.raises(DataError, match=message):
        client.token_logprobs(fake.base_url, "m", [5, 6, 7])


def test_retries_then_answers(fake: Fake) -> None:
    fake.answers = [(500, {}), (200, answer([None, -1.0]))]
    assert client.token_logprobs(fake.base_url, "m", [5, 6]) == [-1.0]
    assert len(fake.requests) == 2


def test_retries_are_bounded(fake: Fake) -> None:
    fake.answers = [(503, {"error": {"message": "engine is dead"}})]
    with pytest.raises(UnavailableError, match=r"after 5 attempts.*engine is dead"):
        client.token_logprobs(fake.base_url, "m", [5, 6])
    assert len(fake.requests) == client.RETRIES + 1


@pytest.mark.parametrize("body", [b'{"choices": [', b"<html>proxy</html>", b"[]", b'"text"', b"{}"])
def test_not_an_openai_answer(fake: Fake, body: bytes) -> None:
    fake.answers = [(200, body)]
    with pytest.raises((UnavailableError, DataError)):
        client.token_logprobs(fake.base_url, "m", [5, 6])


def test_refused_request_is_not_repeated(fake: Fake) -> None:
    fake.answers = [(400, {"error": {"message": "too\nlong"}})]
    with pytest.raises(DataError, match="too long"):
        client.token_logprobs(fake.base_url, "m", [5, 6])
    assert len(fake.requests) == 1


def test_nobody_there() -> None:
    with pytest.raises(UnavailableError, match="no usable answer"):
        client.models("http://127.0.0.1:1/v1")


def test_proxy_is_not_asked_for_loopback(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    fake.answers = [(200, answer([None, -1.0]))]
    assert client.token_logprobs(fake.base_url, "m", [5, 6]) == [-1.0]


def test_no_ids() -> None:
    with pytest.raises(ValueError, match="no ids"):
        client.token_logprobs("http://127.0.0.1:1/v1", "m", [])


@pytest.mark.slow
def test_completion(server: Server) -> None:
    text = client.complete(server.base_url, server.model, "Der Hund", max_tokens=8)
    assert text and text == client.complete(server.base_url, server.model, "Der Hund", max_tokens=8)
    assert client.complete(server.base_url, server.model, [0, 36, 281], max_tokens=8)


@pytest.mark.slow
def test_sampling_is_seeded(server: Server) -> None:
    arguments = {"max_tokens": 12, "temperature": 1.5, "n": 2, "seed": 3}
    samples = client.sample_ids(server.base_url, server.model, [0], **arguments)
    assert [len(ids) for ids in samples] == [12, 12]
    assert samples == client.sample_ids(server.base_url, server.model, [0], **arguments)


@pytest.mark.slow
def test_logprobs_equal_transformers(server: Server, folder: Path) -> None:
    ids = [0, *range(402, 300, -1)]
    served = client.token_logprobs(server.base_url, server.model, ids)
    row = torch.tensor([ids])
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(row).logits
    local = logits[:, :-1].log_softmax(-1).gather(-1, row[:, 1:, None]).flatten()
    assert len(served) == len(ids) - 1
    torch.testing.assert_close(torch.tensor(served), local, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_single_id_has_no_logprob(server: Server) -> None:
    assert client.token_logprobs(server.base_url, server.model, [7]) == []


@pytest.mark.slow
@pytest.mark.parametrize(("ids", "message"), [([0, 403], "out of vocabulary"), ([0] * 128, "128")])
def test_ids_the_server_refuses(server: Server, ids: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        client.token_logprobs(server.base_url, server.model, ids)
    assert client.token_logprobs(server.base_url, server.model, [0, 1]), "the server survives"


@pytest.mark.slow
def test_unknown_model(server: Server) -> None:
    with pytest.raises(UnavailableError, match="nope"):
        client.complete(server.base_url, "nope", "x")


@pytest.mark.slow
def test_many_at_once(server: Server) -> None:
    prompts = [[0, 36], [0, 281, 300, 12], [0]]
    texts = client.complete_many(server.base_url, server.model, prompts, max_tokens=8)
    assert texts == [client.complete(server.base_url, server.model, ids, max_tokens=8) for ids in prompts]
    single = [client.token_logprobs(server.base_url, server.model, ids) for ids in prompts]
    for left, right in zip(client.many_logprobs(server.base_url, server.model, prompts), single, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


@pytest.mark.slow
def test_tokens_and_canary(server: Server, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert client.tokenize(server.base_url, server.model, "Größe 🐕") == tokenizer.encode("Größe 🐕")
    assert client.check_echo(server.base_url, server.pinned, [0, 5, 6]) < 1e-5
    stopped = client.complete(server.base_url, server.model, [0], max_tokens=20, stop=["e", "a", "o", " "])
    assert not set("eao ") & set(stopped)
