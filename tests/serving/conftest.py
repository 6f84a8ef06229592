"""Tiny folders to serve, one real vLLM of each task for the whole session, and `prealign serve` over stand-ins."""

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prealign_cpt.export.folder import save_tokenizer
from prealign_cpt.serving.key import VARIABLE
from prealign_cpt.serving.server import Server
from tests.conftest import make_tokenizer

KEY = "k3y-of-thirty-two-characters-or-more"
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
ROWS = 403
TEXTS = ["Der Hund läuft durch den Wald.", "The dog runs through the forest.", "Größe — 漢字, не знаю 🐕\n\tx  y"]


def _tokenizer(lines: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with exactly ROWS tokens, so that every text round-trips."""
    tokenizer = make_tokenizer(lines, ROWS)
    tokenizer.chat_template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    assert len(tokenizer) == ROWS
    return tokenizer


@pytest.fixture(scope="session")
def make_folder() -> Callable[..., Path]:
    """make(path, seed=0, words="wort", rows=ROWS, **config): a random Llama with its tokenizer, saved to `path`."""

    def make(path: Path, *, seed: int = 0, words: str = "wort", rows: int = ROWS, **config: object) -> Path:
        torch.manual_seed(seed)
        settings = {
            "vocab_size": rows,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "initializer_range": 0.2,  # far from uniform, so that differences show
        }
        LlamaForCausalLM(LlamaConfig(**(settings | config))).save_pretrained(path)
        _tokenizer([*TEXTS, *(f"{words}{number} {words}er{number * 7}" for number in range(400))]).save_pretrained(path)
        return path

    return make


@pytest.fixture(scope="session")
def folder(make_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A servable folder. Copy it before changing it."""
    return make_folder(tmp_path_factory.mktemp("models") / "tiny")


def that_adds(folder: Path, token: str, out: Path) -> Path:
    """The folder with a tokenizer that puts `token` before a text."""
    shutil.copytree(folder, out)
    save_tokenizer(AutoTokenizer.from_pretrained(folder), token, Path("nowhere"), out)
    return out


@pytest.fixture(scope="session")
def _generating(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """In the end it is stopped with a request in flight."""
    with _vllm(folder, tmp_path_factory.mktemp("server") / "vllm.log") as running:
        yield running
        chunks: list[str] = []
        asking = threading.Thread(target=_stream, args=(running.base_url, chunks))
        asking.start()
        assert wait_until(lambda: len(chunks) > 3, 60), "vLLM answers until the end"
    asking.join(60)
    assert chunks[-1] == "data: [DONE]", "a request that ran was finished"
    assert sum('"text"' in chunk for chunk in chunks) >= 8


@pytest.fixture(scope="session")
def _embedding(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with _vllm(folder, tmp_path_factory.mktemp("embedder") / "vllm.log", task="embed") as running:
        yield running


@pytest.fixture
def server(_generating: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """vLLM serving `folder` for generation behind the gateway; clients find the key in the environment."""
    monkeypatch.setenv(VARIABLE, KEY)
    return _generating


@pytest.fixture
def embedder(_embedding: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The same for embeddings."""
    monkeypatch.setenv(VARIABLE, KEY)
    return _embedding


@contextlib.contextmanager
def _vllm(folder: Path, log: Path, **options: Any) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        settings = {"device": "cpu", "max_model_len": 128, "kv_cache_bytes": 2**25} | options
        with Server(folder, log=log, drain=30, key=KEY, **settings) as running:
            yield running
            process = running.process
    assert process is not None and process.returncode == 0, "SIGTERM ends vLLM without an error"
    with pytest.raises(ProcessLookupError):  # nobody of its group is left, once the killed ones are reaped
        for _ in range(50):
            os.killpg(process.pid, 0)
            time.sleep(0.1)


def _stream(base_url: str, chunks: list[str]) -> None:
    body = {"model": "tiny", "prompt": [0], "max_tokens": 120, "n": 8, "seed": 0, "ignore_eos": True, "stream": True}
    with httpx2.stream("POST", f"{base_url}/completions", json=body, headers=HEADERS, timeout=60) as answer:
        chunks.extend(line for line in answer.iter_lines() if line)


def ask(port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """One request, with the key unless `headers` say otherwise: status, and JSON or text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    content = body if isinstance(body, (bytes, type(None))) else json.dumps(body)
    connection.request(method, path, content, HEADERS if headers is None else headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    try:
        return answer.status, json.loads(text)
    except ValueError:
        return answer.status, text


def group(process: int) -> list[int]:
    """Living processes of a process group."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == process and state not in "ZX":
            members.append(int(stat.parent.name))
    return members


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


SERVE = """
import sys
from transformers import PreTrainedTokenizerFast
from prealign_cpt.serving import folder, server
folder._tokenizer = PreTrainedTokenizerFast.from_pretrained  # imports no torch, which takes most of the start
real = server.command
server.command = lambda *a, **b: [sys.executable, "-m", "tests.serving.stand_in", *real(*a, **b)[3:]]
from prealign_cpt.cli import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""


class Serving:
    """`prealign serve` as a process, with stand_in.py in place of vLLM."""

    def __init__(self, folder: Path, log: Path, *flags: str, **environment: str) -> None:
        self._output = log.with_suffix(".output")
        words = [sys.executable, "-c", SERVE, str(folder), "--device", "cpu", "--port", "0", "--log", str(log), *flags]
        clean = {name: value for name, value in os.environ.items() if name != VARIABLE}
        root = Path(__file__).parents[2]
        with self._output.open("wb") as file:
            self.process = subprocess.Popen(words, stderr=file, stdout=file, env=clean | environment, cwd=root)

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_ready(self, task: str = "generate") -> int:
        """The port, once the server of the task answers."""
        match = None

        def ready() -> bool:
            nonlocal match
            match = re.search(rf"\({task}\) answers.* at http://127.0.0.1:(\d+)/v1", self.output)
            return match is not None or self.process.poll() is not None

        assert wait_until(ready, 240) and match, self.output
        return int(match[1])


@contextlib.contextmanager
def serving(folder: Path, log: Path, *flags: str, **environment: str) -> Iterator[Serving]:
    """`prealign serve FOLDER --port 0 FLAGS` over stand-ins."""
    started = Serving(folder, log, *flags, **environment)
    try:
        yield started
    finally:
        started.process.terminate()  # the stand-ins, unlike vLLM, would outlive a killed parent
        started.process.wait(60)
