"""A small OpenAI-compatible server that misbehaves on purpose, in this process.

    with Faulty("truncated", times=2) as server:      # the first two answers are damaged, then all is well
        client.token_logprobs(server.base_url, "tiny", [0, 1, 2])

Without a fault it is a consistent model: what it generates has the log-probabilities that echo gives, each list of ids
has its own unit vector, /v1/models names `names`. `requests` keeps (path, body) of everything that was asked.

Faults (`FAULTS`):
    error          HTTP 500
    refuses        HTTP 400
    slow           the answer comes after `seconds`
    dies           the server ends with this request, and stays away
    cut            the connection is closed in the middle of the body
    truncated      half of the JSON, well delivered
    html           a page, as from a proxy
    no_logprobs    completions without log-probabilities, as from servers that ignore echo
    shifted        echo log-probabilities one place too late
    missing        one choice or embedding too few
    reordered      the right vectors under each other's index
    unsorted       the right answers, in another order than their index (which is allowed)
    nan            not a number among the values
    empty_vectors  embeddings of no numbers
"""

import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import numpy as np

FAULTS = ("error", "refuses", "slow", "dies", "cut", "truncated", "html", "no_logprobs", "shifted", "missing")
FAULTS += ("reordered", "unsorted", "nan", "empty_vectors")


def score(before: list[int], number: int) -> float:
    """A log-probability that is a pure function of the ids."""
    digest = hashlib.sha256(repr((before, number)).encode()).digest()
    return -0.1 - digest[0] / 32


def vector(ids: list[int], size: int) -> list[float]:
    """A unit vector that is a pure function of the ids."""
    seed = int.from_bytes(hashlib.sha256(repr(ids).encode()).digest()[:4], "big")
    drawn = np.random.default_rng(seed).normal(size=size)
    return [float(value) for value in drawn / np.linalg.norm(drawn)]


class QuietServer(ThreadingHTTPServer):
    """One that does not print of a client who has left: what commands print is compared whole."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Faulty:
    """The server, for the length of a `with` block.

    Args:
        fault: one of FAULTS, or None.
        times: how many answers have it; None for all.
        after: good answers before the first bad one.
        names: served model names, such as ["tiny", "tiny@0123456789ab"].
        rows: ids are below it.
        size: of the embeddings.
        seconds: what "slow" waits.
        score, vector: the model.
    """

    def __init__(
        self,
        fault: str | None = None,
        *,
        times: int | None = None,
        after: int = 0,
        names: tuple[str, ...] = ("tiny",),
        rows: int = 403,
        size: int = 8,
        seconds: float = 1.0,
        score: Callable[[list[int], int], float] = score,
        vector: Callable[[list[int], int], list[float]] = vector,
    ) -> None:
        assert fault is None or fault in FAULTS, fault
        self.fault, self.times, self.after, self.seconds = fault, times, after, seconds
        self.names, self.rows, self.size = names, rows, size
        self.score, self.vector = score, vector
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self._lock = threading.Lock()
        self._server = QuietServer(("127.0.0.1", 0), self._handler())
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> "Faulty":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _current(self, path: str, body: dict[str, Any]) -> str | None:
        """The fault of this request."""
        with self._lock:
            number = len(self.requests) - self.after
            self.requests.append((path, body))
        return self.fault if number >= 0 and (self.times is None or number < self.times) else None

    def _answer(self, path: str, body: dict[str, Any], fault: str | None) -> tuple[int, dict[str, Any]]:
        if path == "/v1/models":
            data = [{"id": name, "object": "model", "max_model_len": 256} for name in self.names]
            return 200, {"object": "list", "data": data}
        if body.get("model") not in self.names:
            return 404, {"error": {"message": f"The model `{body.get('model')}` does not exist."}}
        if path == "/v1/embeddings":
            return 200, {"object": "list", "model": body["model"], "data": self._embeddings(body["input"], fault)}
        if path == "/v1/completions":
            return 200, {"id": "x", "object": "text_completion", "created": 0, "model": body["model"]} | {
                "choices": self._choices(body, fault)
            }
        return 404, {"error": {"message": "no such route"}}

    def _choices(self, body: dict[str, Any], fault: str | None) -> list[dict[str, Any]]:
        prompt = body["prompt"]
        if isinstance(prompt, str):
            prompt = list(prompt.encode())
        prompts = prompt if isinstance(prompt[0], list) else [prompt]
        choices: list[dict[str, Any]] = []
        for ids in prompts:
            written: list[int] = []
            for _ in range(body.get("max_tokens", 16)):
                written.append((31 * sum(ids + written) + len(written)) % self.rows)
            values: list[float | None] = [self.score(ids + written[:n], number) for n, number in enumerate(written)]
            if body.get("echo"):
                values = [None, *(self.score(ids[:n], ids[n]) for n in range(1, len(ids))), *values]
                if fault == "shifted":
                    values = [None, -1.0, *values[1:-1]][: len(values)]
            if fault == "nan" and len(values) > 1:
                values[-1] = float("nan")
            logprobs = {"token_logprobs": values, "tokens": [], "top_logprobs": [], "text_offset": []}
            has = body.get("logprobs") is not None and fault != "no_logprobs"
            choices.append(
                {
                    "index": len(choices),
                    "text": " ".join(map(str, written)),
                    "finish_reason": "length",
                    "logprobs": logprobs if has else None,
                    "prompt_token_ids": ids,
                    "token_ids": written,
                }
            )
        return self._spoil(choices, fault)

    def _embeddings(self, sequences: list[Any], fault: str | None) -> list[dict[str, Any]]:
        if not isinstance(sequences, list) or isinstance(sequences[0], int):
            sequences = [sequences]
        vectors = [
            self.vector(list(ids) if isinstance(ids, list) else list(ids.encode()), self.size) for ids in sequences
        ]
        if fault == "nan":
            vectors[-1][0] = float("nan")
        if fault == "empty_vectors":
            vectors = [[] for _ in vectors]
        if fault == "reordered":
            vectors.reverse()
        found = [{"index": n, "object": "embedding", "embedding": one} for n, one in enumerate(vectors)]
        return self._spoil(found, fault)

    @staticmethod
    def _spoil(entries: list[dict[str, Any]], fault: str | None) -> list[dict[str, Any]]:
        if fault == "missing":
            return entries[:-1]
        return entries[::-1] if fault == "unsorted" else entries

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._respond({})

            def do_POST(self) -> None:
                self._respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _respond(self, body: dict[str, Any]) -> None:
                fault = server._current(self.path, body)
                if fault == "slow":
                    time.sleep(server.seconds)
                if fault == "dies":
                    server._server.socket.close()
                    self.close_connection = True
                    return
                status, answer = server._answer(self.path, body, fault)
                kind, content = "application/json", json.dumps(answer).encode()
                if fault == "error":
                    status, content = 500, b'{"error": {"message": "engine is dead"}}'
                if fault == "refuses":
                    status, content = 400, b'{"error": {"message": "too\\nlong"}}'
                if fault == "html":
                    kind, content = "text/html", b"<html>proxy</html>"
                if fault == "truncated":
                    content = content[: len(content) // 2]
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
                if fault == "cut":
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        return Handler
