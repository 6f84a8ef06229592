"""`prealign serve` as a process: what it refuses, where it listens, and how it ends (rows 74, 75, 83, 84)."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.cli import main
from prealign_cpt.run.errors import DataError, MissingInputError, RecipeError, UnavailableError
from prealign_cpt.serving.key import VARIABLE
from tests.serving.conftest import KEY, Serving, children, group, serving, wait_until


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", ""])
def test_an_open_address_needs_a_key(host: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(folder), "--host", host, "--port", "0"]) == RecipeError.exit_code
    printed = capsys.readouterr().err
    assert "a key of at least 32 characters is needed" in printed and "launcher" not in printed


@pytest.mark.parametrize("words", [["--api-key", KEY], [f"--api-key={KEY}"], ["--key", KEY], [f"--key={KEY}"]])
def test_a_key_on_the_command_line(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(folder), *words]) == RecipeError.exit_code
    assert main(["check", "http://127.0.0.1:1/v1", "--model", str(folder), *words]) == RecipeError.exit_code
    captured = capsys.readouterr()
    assert "never stands on the command line" in captured.err and KEY not in captured.err + captured.out


def test_a_key_file_that_others_may_read(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(0o644)
    words = ["serve", str(folder), "--host", "0.0.0.0", "--key-file", str(tmp_path / "key")]
    assert main(words) == DataError.exit_code
    assert "mode 0644" in capsys.readouterr().err


def test_code_in_the_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "x.Y"}}))
    assert main(["serve", str(copy)]) == DataError.exit_code
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "modeling.py").write_text("")
    assert main(["serve", str(copy)]) == DataError.exit_code
    first, second = capsys.readouterr().err.splitlines()
    assert "auto_map" in first and "modeling.py" in second, "one line each, and no command was printed"


def test_quantization_on_a_cpu(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(folder), "--quantization", "bnb4"]) == RecipeError.exit_code
    assert "needs a GPU" in capsys.readouterr().err


def test_the_front_s_port_in_use(folder: Path, monkeypatch: pytest.MonkeyPatch, fronted: Serving) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    assert main(["serve", str(folder), "--port", str(fronted.port)]) == UnavailableError.exit_code


def test_an_unknown_host(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    assert main(["serve", str(folder), "--host", "no such host"]) == UnavailableError.exit_code


def test_the_script(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "serve/serve.py"
    words = [sys.executable, script, tmp_path / "nothing"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == MissingInputError.exit_code
    assert "no such folder" in done.stderr and "Traceback" not in done.stderr


def test_a_signal_ends_it_with_zero(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path) as made:
        made.wait_ready(r"answers at http://127.0.0.1:(\d+)/v1")
        (leader,) = children(made.process.pid)
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(30) == 0, made.output
        assert "stopped" in made.output and "Traceback" not in made.output and not group(leader)


def test_a_run_folder_brings_its_recipe(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs/demo"
    shutil.copytree(folder, run / "export")
    (run / "recipe.toml").write_text("[serve]\nmax_model_len = 96\n")
    with serving(run, tmp_path / "place", "--task", "both") as made:
        made.wait_ready(r"demo \(embed\) answers at http://127.0.0.1:(\d+)/v1")
        commands = [line for line in made.output.splitlines() if "launcher" in line or "stand_in" in line]
        assert len(commands) == 2 and all(" --max-model-len 96 " in line for line in commands)
        assert all(f"serve {run / 'export'} --served-model-name demo demo@" in line for line in commands)
        assert "--pooler-config" in commands[1] and "--pooler-config" not in commands[0]
        leaders = children(made.process.pid)
        made.process.send_signal(signal.SIGINT)
        assert made.process.wait(30) == 0 and len(leaders) == 2 and not any(map(group, leaders)), made.output


def stream(port: int, max_tokens: int, pieces: list[bytes]) -> None:
    """Ask for a stream and collect what comes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": max_tokens, "stream": True})
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", body, headers)
    answer = connection.getresponse()
    while piece := answer.read1():
        pieces.append(piece)


def test_sigterm_with_a_request_in_flight(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path, "--drain", "20", **{VARIABLE: KEY}) as made:
        port = made.wait_front()
        (leader,) = children(made.process.pid)
        sockets = made.output.partition("--uds ")[2].split()[0]
        pieces: list[bytes] = []
        asking = threading.Thread(target=stream, args=(port, 100, pieces))  # takes two seconds
        asking.start()
        assert wait_until(lambda: len(pieces) > 3, 20)
        made.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(ConnectionRefusedError):
            http.client.HTTPConnection("127.0.0.1", port, timeout=5).connect()
        asking.join(30)
        assert b"".join(pieces).endswith(b"data: [DONE]\n\n") and b"'99 '" in b"".join(pieces).replace(b'"', b"'")
        assert made.process.wait(30) == 0, made.output
        assert "Traceback" not in made.output and KEY not in made.output
        assert not group(leader) and not Path(sockets).parent.exists()


def test_the_drain_has_an_end(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path, "--drain", "1", **{VARIABLE: KEY}) as made:
        port = made.wait_front()
        (leader,) = children(made.process.pid)
        pieces: list[bytes] = []
        asking = threading.Thread(target=lambda: _ignoring(stream, port, 120, pieces))
        asking.start()
        assert wait_until(lambda: len(pieces) > 3, 20)
        clock = time.monotonic()
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(30) == 0, made.output
        assert time.monotonic() - clock < 10 and not group(leader)
        asking.join(30)
        assert b"[DONE]" not in b"".join(pieces), "an answer cut short does not look whole"
        assert "Traceback" not in made.output


def _ignoring(work: Callable[..., None], *arguments: object) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        work(*arguments)


@pytest.mark.parametrize("key", [{}, {VARIABLE: KEY}], ids=["without", "with"])
def test_a_vllm_that_dies_ends_it(folder: Path, tmp_path: Path, key: dict[str, str]) -> None:
    with serving(folder, tmp_path, **key) as made:
        made.wait_front() if key else made.wait_ready(r"answers at http://127.0.0.1:(\d+)/v1")
        (leader,) = children(made.process.pid)
        os.kill(leader, signal.SIGKILL)
        assert made.process.wait(30) == UnavailableError.exit_code
        assert "vLLM ended" in made.output and "Traceback" not in made.output
