"""Tiny folders to serve, one real vLLM of each task for the whole session, and `prealign serve` over stand-ins."""

import contextlib
import os
import re
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
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prealign_cpt.serving.key import VARIABLE
from prealign_cpt.serving.server import Server
from tests.conftest import make_tokenizer

ROWS = 403
TEXTS = ["Der Hund läuft durch den Wald.", "The dog runs through the forest.", "Größe — 漢字, не знаю 🐕\n\tx  y"]


def _tokenizer(lines: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with exactly ROWS tokens, so that every text round-trips."""
    tokenizer = make_tokenizer(lines, ROWS)
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


@pytest.fixture(scope="session")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """vLLM serving `folder` for generation. In the end it is stopped with a request in flight (row 84)."""
    with _vllm(folder, tmp_path_factory.mktemp("server") / "vllm.log") as running:
        yield running
        body = {"model": running.model, "prompt": [0], "max_tokens": 120, "n": 8, "seed": 0, "ignore_eos": True}
        pieces: list[str] = []
        asking = threading.Thread(target=_stream, args=(running.base_url, body, pieces))
        asking.start()
        assert wait_until(lambda: len(pieces) > 3, 60), "vLLM answers until the end"
    asking.join(60)
    assert pieces[-1] == "data: [DONE]", "a request that ran was finished"
    assert sum('"text"' in piece for piece in pieces) >= 8


@pytest.fixture(scope="session")
def embedder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """vLLM serving `folder` for embeddings, on a Unix socket."""
    place = tmp_path_factory.mktemp("embedder")
    with _vllm(folder, place / "vllm.log", task="embed", uds=place / "socket") as running:
        yield running


@contextlib.contextmanager
def _vllm(folder: Path, log: Path, **options: Any) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with Server(folder, max_model_len=128, kv_cache_bytes=2**25, log=log, drain=30, **options) as running:
            yield running
            process = running.process
    assert process is not None and process.returncode == 0, "SIGTERM ends vLLM without an error"
    with pytest.raises(ProcessLookupError):  # nobody of its group is left, once the killed ones are reaped
        for _ in range(50):
            os.killpg(process.pid, 0)
            time.sleep(0.1)


def _stream(base_url: str, body: dict[str, Any], pieces: list[str]) -> None:
    with httpx2.stream("POST", f"{base_url}/completions", json=body | {"stream": True}, timeout=60) as answer:
        for line in answer.iter_lines():
            if line:
                pieces.append(line)


def group(process: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == process and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


KEY = "k3y-of-thirty-two-characters-or-more"

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
    """`prealign serve` as a process, with stand_in.py in place of vLLM.

    Attributes:
        port: where the front answers, once somebody has waited for it.
        log: of the (first) stand-in.
    """

    def __init__(self, folder: Path, place: Path, *flags: str, **environment: str) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.log = place / "log"
        self.port = 0
        self._output = place / "output"
        words = [sys.executable, "-c", SERVE, str(folder), "--port", "0", "--log", str(self.log), *flags]
        clean = {name: value for name, value in os.environ.items() if name != VARIABLE}
        root = Path(__file__).parents[2]
        with self._output.open("wb") as file:
            self.process = subprocess.Popen(words, stderr=file, stdout=file, env=clean | environment, cwd=root)

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_ready(self, pattern: str) -> int:
        """Wait for a line; the number in it."""
        found = None

        def ready() -> bool:
            nonlocal found
            found = re.search(pattern, self.output)
            return found is not None or self.process.poll() is not None

        assert wait_until(ready, 240) and found, self.output
        return int(found[1])

    def wait_front(self) -> int:
        return self.wait_ready(r"answers with the key at \S+ port (\d+)")

    def end(self) -> None:
        """Stop it, if a test has not; the stand-ins, unlike vLLM, would outlive a killed parent."""
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def serving(folder: Path, place: Path, *flags: str, **environment: str) -> Iterator[Serving]:
    """`prealign serve FOLDER --port 0 FLAGS` over stand-ins."""
    made = Serving(folder, place, *flags, **environment)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(scope="session")
def fronted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Generation and embedding behind the front with KEY."""
    place = tmp_path_factory.mktemp("fronted")
    with serving(folder, place, "--task", "both", **{VARIABLE: KEY}) as made:
        made.port = made.wait_front()
        yield made
