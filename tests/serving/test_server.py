"""How one vLLM process starts and ends."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prealign_cpt.run.errors import RecipeError, UnavailableError
from prealign_cpt.serving import client
from prealign_cpt.serving import server as serving
from prealign_cpt.serving.key import VARIABLE
from prealign_cpt.serving.parity import CHECKS, run_checks
from prealign_cpt.serving.server import Server
from tests.conftest import START
from tests.serving.conftest import KEY, TEXTS, children, group, that_adds, wait_until


def pretend(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Run Python with these words instead of vLLM."""
    monkeypatch.setattr(serving, "command", lambda *_, **__: [sys.executable, *words])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", ""])
def test_an_open_address_needs_a_key(host: str, folder: Path) -> None:
    with pytest.raises(RecipeError, match="a key of at least 32 characters"), Server(folder, host=host):
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


def test_other_servers_on_the_port(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = ["other"]

    def other(folder: Path, options: Any, own: list[str], port: int, **_: object) -> list[str]:
        words = ["serve", "x", "--served-model-name", *(names or own), "--host", "127.0.0.1", "--port", str(port)]
        return [sys.executable, "-m", "tests.serving.stand_in", *words]

    monkeypatch.setattr(serving, "command", other)
    with pytest.raises(UnavailableError, match="another server"):
        Server(folder, log=tmp_path / "log").__enter__()
    names.clear()
    with pytest.raises(UnavailableError, match="answers without the key"):
        Server(folder, log=tmp_path / "log", key=KEY).__enter__()


@pytest.mark.slow
def test_running_server(server: Server) -> None:
    plain, pinned = client.models(server.base_url)
    assert (plain["id"], pinned["id"], plain["max_model_len"]) == ("tiny", server.pinned, 128)
    assert server.pinned.startswith("tiny@") and server.max_model_len == 128 and server.num_tokens == 403
    assert server.start_seconds > 0


@pytest.mark.slow
def test_the_script_of_a_killed_parent(folder: Path, tmp_path: Path) -> None:
    """Without a key, over a folder whose tokenizer adds the start token as an export's does; then it is killed."""
    adds = that_adds(folder, START, tmp_path / "adds")
    script, output = Path(__file__).parents[2] / "serve/serve.py", tmp_path / "output"
    words = [
        sys.executable,
        script,
        adds,
        "--device",
        "cpu",
        "--port",
        "0",
        "--max-model-len",
        "128",
        "--log",
        tmp_path / "log",
    ]
    clean = {name: value for name, value in os.environ.items() if name != VARIABLE} | {"OMP_NUM_THREADS": "1"}
    with output.open("wb") as file:
        process = subprocess.Popen(words, env=clean, stderr=file)
    try:
        assert wait_until(lambda: " answers at " in output.read_text() or process.poll() is not None, 300)
        base_url = output.read_text().partition(" answers at ")[2].split()[0]
        checks = dict(run_checks(base_url, adds, TEXTS, START))
        assert list(checks) == list(CHECKS["generate"]) and checks["start token"]["adds_start_token"]
        assert client.models(base_url)[0]["root"] == str(adds), "without a key vLLM is as it is"
        (leader,) = children(process.pid)
        assert len(group(leader)) >= 2, "vLLM's engine is in the group that will be ended"
        process.kill()
        process.wait(60)
        assert wait_until(lambda: not group(leader), 10)
    finally:
        process.kill()
        process.wait()
