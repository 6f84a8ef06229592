"""The front before the real vLLM, and the real embedding server (rows 77, 80, 84 once more, without stand-ins).

And what an evaluation asks of both, compared with the folder's own model.
"""

import asyncio
import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import uvicorn
from transformers import AutoTokenizer

from prealign_cpt.evaluate import lm_harness
from prealign_cpt.evaluate.data import EvaluationData
from prealign_cpt.evaluate.sentences import embed_served
from prealign_cpt.evaluate.served import check_served, write
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.run.errors import DataError, UnavailableError
from prealign_cpt.serving import client
from prealign_cpt.serving.front import Front, connect
from prealign_cpt.serving.limits import Limits
from prealign_cpt.serving.parity import RUNGS, climb
from prealign_cpt.serving.reference import mean_vector
from prealign_cpt.serving.server import Server
from tests.conftest import START
from tests.evaluate.local_tasks import bits_per_byte, hits, write_tasks
from tests.serving.conftest import KEY, TEXTS, wait_until
from tests.serving.test_front import ask, post

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def fronting(make_clients: Callable[[], dict[Any, httpx2.AsyncClient]], server: Server) -> Iterator[str]:
    """The front in a thread; yields the OpenAI-compatible root."""
    listener = socket.create_server(("127.0.0.1", 0))
    limits = Limits(rows=server.num_tokens, max_model_len=server.max_model_len)
    running: list[uvicorn.Server] = []

    async def run() -> None:
        config = uvicorn.Config(Front(KEY, make_clients(), limits), http="h11", ws="none", lifespan="off")
        running.append(uvicorn.Server(config))
        await running[0].serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert wait_until(lambda: bool(running) and running[0].started, 20)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        running[0].should_exit = True
        thread.join(30)
        listener.close()


@pytest.fixture(scope="module")
def front(server: Server) -> Iterator[str]:
    root = server.base_url.removesuffix("/v1")
    with fronting(lambda: {"generate": httpx2.AsyncClient(base_url=root, timeout=60, trust_env=False)}, server) as url:
        yield url


@pytest.fixture(scope="module")
def embedding_front(embedder: Server) -> Iterator[str]:
    with fronting(lambda: {"embed": connect(str(embedder.uds))}, embedder) as url:
        yield url


def port(url: str) -> int:
    return int(url.split(":")[2].partition("/")[0])


def metric(server: Server, name: str) -> float:
    text = httpx2.get(server.base_url.removesuffix("/v1") + "/metrics", trust_env=False).text
    return sum(float(value) for value in re.findall(rf"^vllm:{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE))


def test_the_ladder_through_the_front(front: str, folder: Path) -> None:
    rungs = dict(climb(front, folder, TEXTS, START, key=KEY))
    assert list(rungs) == list(RUNGS["generate"]) and rungs["identity"]["pinned"]
    assert rungs["log-probabilities"]["max_logprob_difference"] <= 1e-5


def test_what_vllm_leaves_open_is_shut(front: str, server: Server) -> None:
    for path in ("/tokenize", "/invocations", "/metrics", "/version"):
        direct = ask(server.port, "GET", path, headers={})[0]
        assert direct != 404, f"{path} is a route of vLLM (else leave it out here)"
        assert ask(port(front), "GET", path)[0] == 404 and ask(port(front), "GET", path, headers={})[0] == 401


def test_reasons_of_vllm_reach_the_client(front: str, server: Server) -> None:
    status, found = ask(port(front), "POST", "/v1/completions", {"prompt": [0] * 128, "model": "tiny", "max_tokens": 5})
    assert status == 400 and "max_tokens must be at least 1" in found["error"]["message"]
    with pytest.raises(UnavailableError, match="nope"):
        client.complete(front, "nope", [0], key=KEY)
    assert ask(port(front), "POST", "/v1/embeddings", {"input": "x", "model": "tiny"})[0] == 404


def test_a_stream_and_a_chat(front: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    body = {"model": "tiny", "prompt": [0], "max_tokens": 20, "stream": True, "ignore_eos": True}
    with httpx2.stream("POST", f"{front}/completions", json=body, headers=headers, trust_env=False) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and len(lines) > 10
    status, found = ask(
        port(front), "POST", "/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    )
    assert status == 400 and "chat template" in found["error"]["message"], "this folder has none, and vLLM says so"


def test_a_hundred_clients_that_leave(front: str, server: Server) -> None:
    body = json.dumps(
        {"model": "tiny", "prompt": [0], "stream": True, "max_tokens": 120, "n": 2, "ignore_eos": True}
    ).encode()
    request = post(f"Content-Length: {len(body)}\r\n\r\n".encode()) + body

    def leave() -> None:
        with socket.create_connection(("127.0.0.1", port(front)), timeout=60) as connection:
            connection.sendall(request)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")

    for _ in range(20):
        threads = [threading.Thread(target=leave) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wait_until(lambda: metric(server, "num_requests_running") + metric(server, "num_requests_waiting") == 0, 20)
    assert metric(server, "request_success_total") > 0
    assert client.complete(front, "tiny", [0], max_tokens=4, key=KEY)


def test_the_embedding_ladder(embedding_front: str, folder: Path) -> None:
    rungs = dict(climb(embedding_front, folder, TEXTS, START, task="embed", key=KEY))
    assert list(rungs) == list(RUNGS["embed"]) and rungs["identity"]["pinned"]
    assert rungs["embeddings"]["vectors"] == 5 and rungs["embeddings"]["max_embedding_difference"] <= 1e-5


def test_embeddings(embedding_front: str, folder: Path) -> None:
    sequences = [[0, 5, 6], [7], list(range(100)), [0, 5, 6]]
    found = client.embed(embedding_front, "tiny", sequences, size=64, key=KEY)
    assert found.shape == (4, 64) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found[0], found[3], atol=1e-6)
    one_by_one = client.embed(embedding_front, "tiny", sequences, batch=1, key=KEY)
    np.testing.assert_allclose(found, one_by_one, atol=1e-5)
    ids = AutoTokenizer.from_pretrained(folder).encode(TEXTS[0])
    status, text = ask(port(embedding_front), "POST", "/v1/embeddings", {"input": TEXTS[0], "model": "tiny"})
    vectors = client.embed(embedding_front, "tiny", [ids], key=KEY)
    assert status == 200
    np.testing.assert_allclose(text["data"][0]["embedding"], vectors[0], atol=1e-5)


def test_the_embedding_server_refuses(embedding_front: str) -> None:
    with pytest.raises(DataError, match="128"):
        client.embed(embedding_front, "tiny", [[0] * 129], key=KEY)
    assert ask(port(embedding_front), "POST", "/v1/completions", {"prompt": "x", "model": "tiny"})[0] == 404


def test_the_canary_of_an_evaluation(front: str, folder: Path) -> None:
    found = check_served(Subject(folder, url=front, key=KEY))
    assert found.length == 128 and found.difference <= 1e-5, "nats"


def test_a_text_ends_at_the_tokens_that_end_it_here(front: str, folder: Path) -> None:
    subject = Subject(folder, url=front, key=KEY)
    prompts = [[0, *ids] for ids in subject.encode(TEXTS)]
    (ids,) = client.sample_ids(front, "tiny", prompts[0], max_tokens=12, temperature=0.0, n=1, seed=0, key=KEY)
    end = next(i for i in ids if i != ids[0])
    ask = {"max_tokens": 12, "key": KEY}
    (text,) = client.complete_many(front, "tiny", prompts[:1], stop_token_ids=[end], **ask)
    (whole,) = client.complete_many(front, "tiny", prompts[:1], **ask)
    assert whole.startswith(text) and len(text) < len(whole), "the end is left out, and nothing comes after it"
    assert write(subject, TEXTS, 24) == write(Subject(folder), TEXTS, 24)


def test_lm_eval_gives_the_figures_of_a_plain_forward_pass(
    front: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bits per byte to 1e-4 of their value; the same questions are answered rightly."""
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    texts = [*TEXTS[:2], f"Before {START} after."]
    path = write_tasks(tmp_path / "tasks", texts)
    subject = Subject(folder, url=front, key=KEY)
    found = lm_harness.measure(subject, EvaluationData(lm_eval_tasks=("own_bpb", "own_choice"), lm_eval_path=path))
    assert found["own_bpb/bits_per_byte"].value == pytest.approx(bits_per_byte(subject, texts), rel=1e-4)
    assert list(found["own_choice/acc"].items.values) == hits(subject)


def test_served_vectors_are_the_local_means(embedding_front: str, folder: Path) -> None:
    """Every coordinate of the vectors, which are of length one, to 1e-5."""
    subject = Subject(folder, embeddings_url=embedding_front, key=KEY)
    found = embed_served(subject, TEXTS)
    rows = [[0, *ids] for ids in subject.encode(TEXTS)]
    np.testing.assert_allclose(found, [mean_vector(subject.model, ids).numpy() for ids in rows], atol=1e-5)
