"""What is refused before anything starts, and how a server starts and ends."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest
from safetensors.torch import load_file, save_file

from prealign_cpt import manifest
from prealign_cpt.errors import DataError, MissingInputError, RecipeError, UnavailableError
from prealign_cpt.serving import client
from prealign_cpt.serving import server as serving
from prealign_cpt.serving.server import Server, check_servable, command, environment, model_name


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A folder to damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


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


def test_good_folder(folder: Path) -> None:
    assert check_servable(folder, "cpu")["rows"] == 403


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such folder"):
        check_servable(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(MissingInputError, match=r"missing|safetensors"):
        check_servable(copy)


@pytest.mark.parametrize("name", ["modeling_x.py", "sub/x.py", "pytorch_model.bin", "training_args.PT", "state.pkl"])
def test_code_and_pickles(copy: Path, name: str) -> None:
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_bytes(b"")
    with pytest.raises(DataError, match="never served"):
        check_servable(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("value", [{"auto_map": {}}, {"vision_config": [{"auto_map": {"AutoConfig": "x--y"}}]}])
def test_auto_map(copy: Path, name: str, value: dict[str, object]) -> None:
    edit(copy / name, **value)
    with pytest.raises(DataError, match="auto_map"):
        check_servable(copy)


def test_extra_rows(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="448 rows but 403 tokens"):
        check_servable(make_folder(tmp_path / "padded", rows=448))


def test_rows_differ_from_config(copy: Path) -> None:
    edit(copy / "config.json", vocab_size=404)
    with pytest.raises(DataError, match=r"has 403 rows, config.json's vocab_size is 404"):
        check_servable(copy)


def test_missing_head(copy: Path) -> None:
    edit(copy / "config.json", tie_word_embeddings=False)
    with pytest.raises(DataError, match="no lm_head"):
        check_servable(copy)


def test_head_rows(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"][:-1].clone()
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"lm_head.weight has 402 rows"):
        check_servable(copy)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_special_id_beyond_rows(copy: Path, name: str) -> None:
    edit(copy / name, eos_token_id=[0, 403])
    with pytest.raises(DataError, match="eos_token_id is 403"):
        check_servable(copy)


def test_damaged_weights(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(DataError, match="damaged"):
        check_servable(copy)


def test_missing_shard(copy: Path) -> None:
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    with pytest.raises(MissingInputError, match="model-2"):
        check_servable(copy)


def test_damaged_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="tokenizer does not load"):
        check_servable(copy)


def test_head_dim_that_would_end_the_cpu_server(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    made = make_folder(tmp_path / "small", num_attention_heads=4)
    check_servable(made, "cuda")
    with pytest.raises(DataError, match="head_dim 16"):
        check_servable(made, "cpu")


def test_manifest(folder: Path, tmp_path: Path) -> None:
    with manifest.new_folder(tmp_path / "export", {}) as new:
        shutil.copytree(folder, new, dirs_exist_ok=True)
    check_servable(tmp_path / "export")
    with (tmp_path / "export/model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    with pytest.raises(DataError, match=r"model.safetensors: damaged"):
        check_servable(tmp_path / "export")


def test_file_beside_the_manifest(folder: Path, tmp_path: Path) -> None:
    with manifest.new_folder(tmp_path / "export", {}) as new:
        shutil.copytree(folder, new, dirs_exist_ok=True)
    shutil.copy(folder / "model.safetensors", tmp_path / "export/model-2.safetensors")
    with pytest.raises(DataError, match="not in the folder's manifest"):
        check_servable(tmp_path / "export")


def test_model_name(tmp_path: Path) -> None:
    assert model_name(tmp_path / "runs/demo/export") == "demo"
    assert model_name(tmp_path / "smollm2") == "smollm2"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", ""])
def test_only_loopback(host: str, folder: Path) -> None:
    with pytest.raises(RecipeError, match="reverse proxy"):
        command(folder, port=1, host=host)
    with pytest.raises(RecipeError, match="reverse proxy"), Server(folder, host=host):
        pass


def test_command_by_device(folder: Path) -> None:
    cpu = command(folder, port=1, max_model_len=64)
    assert {"float32", "--enforce-eager", "--kv-cache-memory-bytes", "64"} <= set(cpu)
    cuda = command(folder, port=1, device="cuda")
    assert "bfloat16" in cuda and not {"--enforce-eager", "--kv-cache-memory-bytes", "--max-model-len"} & set(cuda)
    assert "--trust-remote-code" not in cpu + cuda


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = environment("cpu")
    assert found["HF_HUB_OFFLINE"] == found["VLLM_NO_USAGE_STATS"] == found["DO_NOT_TRACK"] == "1"
    assert found["OMP_NUM_THREADS"] == "3" and "VLLM_SERVER_DEV_MODE" not in found
    assert found["TORCHDYNAMO_DISABLE"] == "1" and "TORCHDYNAMO_DISABLE" not in environment("cuda")


def test_port_in_use(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"port {port}: "), Server(folder, port=port):
            pass


def pretend(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Run Python code instead of vLLM."""
    monkeypatch.setattr(serving, "command", lambda folder, **_: [sys.executable, "-c", code])


def test_death_while_starting(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "print('first'); raise SystemExit('no memory left')")
    with pytest.raises(UnavailableError, match=r"(?s)log .*first.*no memory left"):
        Server(folder, log=tmp_path / "log").__enter__()


def test_start_limit_leaves_no_process(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It ignores SIGTERM and has a child: both must be gone.
    code = (
        "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(os.getpid(), flush=True); time.sleep(600)"
    )
    pretend(monkeypatch, code)
    monkeypatch.setattr(serving, "STARTING_STOP_LIMIT", 0.5)
    log = tmp_path / "log"
    with pytest.raises(UnavailableError, match="did not answer within 3 s"):
        Server(folder, log=log, start_limit=3).__enter__()
    assert wait_until(lambda: not group(int(log.read_text())), 5)


def test_log_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="cannot write"):
        Server(folder, log=tmp_path).__enter__()


def test_command_line_shows_one_line(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "serve/serve.py"
    done = subprocess.run([sys.executable, script, tmp_path / "nothing"], capture_output=True, text=True)
    assert done.returncode == MissingInputError.exit_code
    assert "no such folder" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_running_server(server: Server, folder: Path) -> None:
    with urlopen(server.base_url.removesuffix("/v1") + "/health", timeout=10) as answer:
        assert answer.status == 200
    (model,) = client.models(server.base_url)
    assert (model["id"], model["root"], model["max_model_len"]) == ("tiny", str(folder), 128)
    assert server.start_seconds > 0


STAND_IN = """
import json, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"object": "list", "data": [{"id": "tiny", "root": ROOT}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
HTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
"""
"""Answers as vLLM does while it starts."""

SERVE = """
import sys
from pathlib import Path
from prealign_cpt.serving import server
code = sys.argv[2]
server.command = lambda folder, port, **_: [sys.executable, "-c", f"PORT = {port}; ROOT = {str(folder)!r}\\n" + code]
sys.exit(server.serve(Path(sys.argv[1]), log=Path(sys.argv[3])))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_serving_with_zero(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", SERVE, folder, STAND_IN, tmp_path / "log"], stderr=file)
    try:
        assert wait_until(lambda: "answers at" in output.read_text(), 60), output.read_text()
        (leader,) = children(process.pid)
        process.send_signal(number)
        assert process.wait(30) == 0, output.read_text()
        assert "stopped" in output.read_text() and not group(leader)
    finally:
        process.kill()
        process.wait()


def test_another_server_on_the_port(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(folder: Path, port: int, **_: object) -> list[str]:
        return [sys.executable, "-c", f"PORT = {port}; ROOT = '/other'\n{STAND_IN}"]

    monkeypatch.setattr(serving, "command", other)
    with pytest.raises(UnavailableError, match="another server"):
        Server(folder, log=tmp_path / "log").__enter__()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_of_vllm_is_left(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    """The command line is ended as soon as vLLM has spawned its engine; killed, it cannot clean up itself."""
    script = Path(__file__).parents[2] / "serve/serve.py"
    log = tmp_path / "log"
    words = [sys.executable, script, folder, "--port", "0", "--max-model-len", "128", "--log", log]
    process = subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: log.exists() and "EngineCore" in log.read_text(errors="replace"), 300)
        (leader,) = children(process.pid)
        assert len(group(leader)) >= 2, "vLLM's engine is in the group that will be ended"
        process.send_signal(number)
        assert process.wait(60) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        assert wait_until(lambda: not group(leader), 10)
    finally:
        process.kill()
        process.wait()
