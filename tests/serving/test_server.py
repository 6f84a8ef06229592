"""How one vLLM process starts and ends."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from prealign_cpt.run.errors import RecipeError, UnavailableError
from prealign_cpt.serving import client
from prealign_cpt.serving import server as serving
from prealign_cpt.serving.server import Server
from tests.serving.conftest import children, group, wait_until


def pretend(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Run Python with these words instead of vLLM."""
    monkeypatch.setattr(serving, "command", lambda *_, **__: [sys.executable, *words])


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., list[str]] = serving.command
    monkeypatch.setattr(
        serving, "command", lambda *a, **b: [sys.executable, "-m", "tests.serving.stand_in", *real(*a, **b)[3:]]
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", ""])
def test_vllm_itself_never_leaves_the_machine(host: str, folder: Path) -> None:
    with pytest.raises(RecipeError, match="never bound beyond this machine"), Server(folder, host=host):
        pass


def test_unknown_option(folder: Path) -> None:
    with pytest.raises(TypeError, match="trust_remote_code"):
        Server(folder, trust_remote_code=True)


def test_port_in_use(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"port {port}: "), Server(folder, port=port):
            pass


def test_death_while_starting(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "-c", "print('first'); raise SystemExit('no memory left')")
    with pytest.raises(UnavailableError, match=r"(?s)log .*first.*no memory left"):
        Server(folder, log=tmp_path / "log").__enter__()


def test_start_limit_leaves_no_process(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It ignores SIGTERM and has a child: both must be gone.
    code = (
        "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(os.getpid(), flush=True); time.sleep(600)"
    )
    pretend(monkeypatch, "-c", code)
    monkeypatch.setattr(serving, "STARTING_STOP_LIMIT", 0.5)
    log = tmp_path / "log"
    with pytest.raises(UnavailableError, match="did not answer within 3 s"):
        Server(folder, log=log, start_limit=3).__enter__()
    assert wait_until(lambda: not group(int(log.read_text())), 5)


def test_log_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="cannot write"):
        Server(folder, log=tmp_path).__enter__()


def test_progress_while_it_starts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, "-c", "print('Loading weights: 50%', flush=True); import time; time.sleep(60)")
    monkeypatch.setattr(serving, "PROGRESS_EVERY", 1.0)
    monkeypatch.setattr(serving, "STARTING_STOP_LIMIT", 0.5)
    with pytest.raises(UnavailableError):
        Server(folder, log=tmp_path / "log", start_limit=3).__enter__()
    printed = capsys.readouterr().err
    assert "-c" in printed.splitlines()[0], "the command comes first"
    assert "vLLM starts: 1 s of at most 3 s" in printed and "Loading weights: 50%" in printed


def test_on_a_unix_socket(folder: Path, tmp_path: Path, stand_in: None) -> None:
    with Server(folder, uds=tmp_path / "socket", log=tmp_path / "log") as server:
        assert server.max_model_len == 128 and server.num_tokens == 403 and server.pinned.startswith("tiny@")
        process = server.process
    assert process is not None and process.returncode == 0


def test_another_server_on_the_port(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(folder: Path, options: Any, names: list[str], port: int, **_: object) -> list[str]:
        words = ["serve", "/other", "--served-model-name", *names, "--host", "127.0.0.1", "--port", str(port)]
        return [sys.executable, "-m", "tests.serving.stand_in", *words]

    monkeypatch.setattr(serving, "command", other)
    with pytest.raises(UnavailableError, match="another server"):
        Server(folder, log=tmp_path / "log").__enter__()


@pytest.mark.slow
def test_running_server(server: Server, folder: Path) -> None:
    with urlopen(server.base_url.removesuffix("/v1") + "/health", timeout=10) as answer:
        assert answer.status == 200
    plain, pinned = client.models(server.base_url)
    assert (plain["id"], plain["root"], plain["max_model_len"]) == ("tiny", str(folder), 128)
    assert pinned["id"] == server.pinned and pinned["id"].startswith("tiny@") and server.max_model_len == 128
    assert server.start_seconds > 0


@pytest.mark.slow
def test_no_process_of_vllm_is_left(folder: Path, tmp_path: Path) -> None:
    """The command line is killed as soon as vLLM has spawned its engine: it cannot clean up itself."""
    script = Path(__file__).parents[2] / "serve/serve.py"
    log = tmp_path / "log"
    words = [sys.executable, script, folder, "--port", "0", "--max-model-len", "128", "--log", log]
    process = subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: log.exists() and "EngineCore" in log.read_text(errors="replace"), 300)
        (leader,) = children(process.pid)
        assert len(group(leader)) >= 2, "vLLM's engine is in the group that will be ended"
        process.kill()
        process.wait(60)
        assert wait_until(lambda: not group(leader), 10)
    finally:
        process.kill()
        process.wait()
