"""The real vLLM behind the gateway: other clients than ours, and what an evaluation asks, compared with the folder."""

import json
import socket
import threading
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from transformers import AutoTokenizer

from prealign_cpt.evaluate import lm_harness
from prealign_cpt.evaluate.data import EvaluationData
from prealign_cpt.evaluate.sentences import embed_served
from prealign_cpt.evaluate.served import check_served, write
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.run.errors import DataError, UnavailableError
from prealign_cpt.serving import client
from prealign_cpt.serving.agreement import mean_vector
from prealign_cpt.serving.parity import CHECKS, run_checks
from prealign_cpt.serving.server import Server
from tests.conftest import START
from tests.evaluate.local_tasks import bits_per_byte, hits, write_tasks
from tests.serving.conftest import HEADERS, KEY, TEXTS, ask
from tests.serving.test_gateway import post, raw

pytestmark = pytest.mark.slow

USER: list[dict[str, Any]] = [{"role": "user", "content": "x"}]


def test_what_vllm_leaves_open_is_shut(server: Server) -> None:
    for path in ("/tokenize", "/invocations", "/metrics", "/version", "/ping", "/docs", "//v1/models", "/v1/models/"):
        assert ask(server.port, "GET", path)[0] == 404 and ask(server.port, "GET", path, headers={})[0] == 401
    assert ask(server.port, "GET", "/health", headers={})[0] == 200
    head = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: " + b"x" * 200_000
    assert raw(server.port, head)[9:12] in (b"400", b""), "a head without end is not kept"


def test_reasons_of_vllm_reach_the_client(server: Server) -> None:
    body = {"prompt": [0] * 128, "model": "tiny", "max_tokens": 5}
    status, answer = ask(server.port, "POST", "/v1/completions", body)
    assert status == 400 and "max_tokens must be at least 1" in answer["error"]["message"]
    for prompt in ("", [], [[]], ["x", ""], None, {"a": 1}):
        assert ask(server.port, "POST", "/v1/completions", {"prompt": prompt, "model": "tiny"})[0] == 400
    for field, value in {"logprobs": 1000, "temperature": 1e300, "top_k": -5, "seed": 2**70}.items():
        body = {"prompt": "x", "model": "tiny", field: value}
        assert ask(server.port, "POST", "/v1/completions", body)[0] == 400
    with pytest.raises(UnavailableError, match="nope"):
        client.complete(server.base_url, "nope", [0])
    assert ask(server.port, "POST", "/v1/embeddings", {"input": "x", "model": "tiny"})[0] == 404
    assert ask(server.port, "GET", "/health", headers={})[0] == 200


PART: dict[str, Any] = {"type": "text", "text": "x"}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ORDINARY: list[dict[str, Any]] = [
    {"messages": [{"role": "system", "content": "y"}, {"role": "user", "content": [PART, PART]}]},
    {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}, *USER]},
    {"messages": USER, "response_format": {"type": "text"}, "logit_bias": {"5": 1}, "store": False, "user": "me"},
    {"messages": USER, "metadata": {"a": "b"}, "parallel_tool_calls": True, "service_tier": "auto", "seed": 1},
    {"messages": USER, "n": 2, "stop": ["a", "b"], "top_p": 0.9, "logprobs": True, "top_logprobs": 3},
    {"messages": USER, "modalities": ["text"], "prediction": {"type": "content", "content": "x"}, "verbosity": "low"},
    {"messages": USER, "response_format": {"type": "json_object"}, "max_completion_tokens": 5},
]


@pytest.mark.parametrize("fields", ORDINARY)
def test_what_openai_s_client_sends(server: Server, fields: dict[str, Any]) -> None:
    with openai.OpenAI(base_url=server.base_url, api_key=KEY, max_retries=0) as ours:
        answer = ours.chat.completions.create(**({"model": "tiny", "max_tokens": 5} | fields))
        assert len(answer.choices) == fields.get("n", 1) and answer.choices[0].message.role == "assistant"


def test_openai_s_client_is_told_the_reason(server: Server) -> None:
    picture: list[Any] = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}]
    with openai.OpenAI(base_url=server.base_url, api_key=KEY, max_retries=0) as ours:
        with pytest.raises(openai.BadRequestError, match="a part of type 'image_url' is not accepted, only text"):
            ours.chat.completions.create(model="tiny", messages=[{"role": "user", "content": picture}])
        chunks = ours.completions.create(model="tiny", prompt="x", max_tokens=20, stream=True)
        assert len([chunk.choices[0].text for chunk in chunks]) > 10
        with pytest.raises(openai.AuthenticationError, match="the key is missing or wrong"):
            ours.with_options(api_key="x").models.list()


def test_a_hundred_clients_that_leave(server: Server) -> None:
    fields = {"model": "tiny", "prompt": [0], "stream": True, "max_tokens": 120, "n": 2, "ignore_eos": True}
    body = json.dumps(fields).encode()
    request = post(f"Content-Length: {len(body)}\r\n\r\n".encode()) + body

    def leave() -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(request)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")

    for _ in range(20):
        threads = [threading.Thread(target=leave) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert client.complete(server.base_url, "tiny", [0], max_tokens=4)


def test_the_checks_of_embeddings(embedder: Server, folder: Path) -> None:
    checks = dict(run_checks(embedder.base_url, folder, TEXTS, START, task="embed"))
    assert list(checks) == list(CHECKS["embed"]) and checks["identity"]["pinned"]
    assert checks["embeddings"]["vectors"] == 5 and checks["embeddings"]["max_embedding_difference"] <= 1e-5


def test_embeddings(embedder: Server, folder: Path) -> None:
    sequences = [[0, 5, 6], [7], list(range(100)), [0, 5, 6]]
    vectors_ND = client.embed(embedder.base_url, "tiny", sequences, size=64)
    assert vectors_ND.shape == (4, 64) and vectors_ND.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors_ND, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors_ND[0], vectors_ND[3], atol=1e-6)
    one_by_one = client.embed(embedder.base_url, "tiny", sequences, batch=1)
    np.testing.assert_allclose(vectors_ND, one_by_one, atol=1e-5)
    ids = AutoTokenizer.from_pretrained(folder).encode(TEXTS[0])
    with openai.OpenAI(base_url=embedder.base_url, api_key=KEY) as ours:
        of_text = ours.embeddings.create(model="tiny", input=TEXTS[0]).data[0].embedding
    np.testing.assert_allclose(of_text, client.embed(embedder.base_url, "tiny", [ids])[0], atol=1e-5)


def test_the_embedding_server_refuses(embedder: Server) -> None:
    with pytest.raises(DataError, match="128"):
        client.embed(embedder.base_url, "tiny", [[0] * 129])
    assert ask(embedder.port, "POST", "/v1/completions", {"prompt": "x", "model": "tiny"})[0] == 404
    assert httpx2.get(f"{embedder.base_url}/models", headers=HEADERS).status_code == 200


def test_the_canary_of_an_evaluation(server: Server, folder: Path) -> None:
    served = check_served(Subject(folder, url=server.base_url, key=KEY))
    assert served.length == 128 and served.difference <= 1e-5, "nats"


def test_a_text_ends_at_the_tokens_that_end_it_here(server: Server, folder: Path) -> None:
    subject = Subject(folder, url=server.base_url, key=KEY)
    prompts = [[0, *ids] for ids in subject.encode(TEXTS)]
    (ids,) = client.sample_ids(server.base_url, "tiny", prompts[0], max_tokens=12, temperature=0.0, n=1, seed=0)
    end = next(i for i in ids if i != ids[0])
    (text,) = client.complete_many(server.base_url, "tiny", prompts[:1], stop_token_ids=[end], max_tokens=12)
    (whole,) = client.complete_many(server.base_url, "tiny", prompts[:1], max_tokens=12)
    assert whole.startswith(text) and len(text) < len(whole), "the end is left out, and nothing comes after it"
    assert write(subject, TEXTS, 24) == write(Subject(folder), TEXTS, 24)


def test_lm_eval_gives_the_figures_of_a_plain_forward_pass(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bits per byte to 1e-4 of their value; the same questions are answered rightly."""
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    texts = [*TEXTS[:2], f"Before {START} after."]
    path = write_tasks(tmp_path / "tasks", texts)
    subject = Subject(folder, url=server.base_url, key=KEY)
    figures = lm_harness.measure(subject, EvaluationData(lm_eval_tasks=("own_bpb", "own_choice"), lm_eval_path=path))
    assert figures["own_bpb/bits_per_byte"].value == pytest.approx(bits_per_byte(subject, texts), rel=1e-4)
    assert list(figures["own_choice/acc"].items.values) == hits(subject)


def test_served_vectors_are_the_local_means(embedder: Server, folder: Path) -> None:
    """Every coordinate of the vectors, which are of length one, to 1e-5."""
    subject = Subject(folder, embeddings_url=embedder.base_url, key=KEY)
    rows = [[0, *ids] for ids in subject.encode(TEXTS)]
    expected = [mean_vector(subject.model, ids).numpy() for ids in rows]
    np.testing.assert_allclose(embed_served(subject, TEXTS), expected, atol=1e-5)
