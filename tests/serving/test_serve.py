"""`prealign serve` as a process: what it refuses, where it listens, and how it ends."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx2
import pytest

from prealign_cpt.cli import main
from prealign_cpt.run.errors import DataError, MissingInputError, RecipeError, UnavailableError
from prealign_cpt.serving.key import VARIABLE
from tests.serving.conftest import HEADERS, KEY, ask, children, group, serving, wait_until


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


def test_an_unknown_host(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    assert main(["serve", str(folder), "--host", "no such host"]) == UnavailableError.exit_code


def test_the_script(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "serve/serve.py"
    words = [sys.executable, script, tmp_path / "nothing"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == MissingInputError.exit_code
    assert "no such folder" in done.stderr and "Traceback" not in done.stderr


def test_a_run_folder_brings_its_recipe(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs/demo"
    shutil.copytree(folder, run / "export")
    (run / "recipe.toml").write_text("[serve]\nmax_model_len = 96\n")
    with serving(run, tmp_path / "log", "--task", "both") as made:
        made.wait_ready("embed")
        commands = [line for line in made.output.splitlines() if "stand_in" in line]
        assert len(commands) == 2 and all(" --max-model-len 96 " in line for line in commands)
        assert all(f"serve {run / 'export'} --served-model-name demo demo@" in line for line in commands)
        assert "--pooler-config" in commands[1] and "--pooler-config" not in commands[0]
        leaders = children(made.process.pid)
        made.process.send_signal(signal.SIGINT)
        assert made.process.wait(30) == 0 and len(leaders) == 2 and not any(map(group, leaders)), made.output
        assert "stopped" in made.output and "Traceback" not in made.output


def test_sigterm_with_a_request_in_flight(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path / "log", "--drain", "20", "--host", "0.0.0.0", **{VARIABLE: KEY}) as made:
        port = made.wait_ready()
        assert ask(port, "GET", "/v1/models", headers={})[0] == 401
        (leader,) = children(made.process.pid)
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                assert KEY.encode() not in (process / "cmdline").read_bytes()
        assert KEY.encode() not in Path(f"/proc/{leader}/environ").read_bytes(), "vLLM gets a digest"
        chunks: list[str] = []
        asking = threading.Thread(target=stream, args=(port, chunks))  # takes two seconds
        asking.start()
        assert wait_until(lambda: len(chunks) > 3, 20)
        made.process.send_signal(signal.SIGTERM)
        asking.join(30)
        assert chunks[-1] == "data: [DONE]" and len(chunks) == 101
        assert made.process.wait(30) == 0, made.output
        assert "Traceback" not in made.output and KEY not in made.output and not group(leader)


def stream(port: int, chunks: list[str]) -> None:
    body = {"model": "tiny", "prompt": "x", "max_tokens": 100, "stream": True}
    url = f"http://127.0.0.1:{port}/v1/completions"
    with httpx2.stream("POST", url, json=body, headers=HEADERS, timeout=30) as answer:
        chunks.extend(line for line in answer.iter_lines() if line)


def test_a_vllm_that_dies_ends_it(folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path / "log") as made:
        made.wait_ready()
        (leader,) = children(made.process.pid)
        os.kill(leader, signal.SIGKILL)
        assert made.process.wait(30) == UnavailableError.exit_code
        assert "vLLM ended" in made.output and "Traceback" not in made.output
