"""Check a Hugging Face folder, serve it with vLLM on this machine only, and leave nothing behind.

    folder --check_servable--> command --launcher--> vLLM (own process group) --/health--> ready at base_url
                                                            '--> log file, its last lines shown if vLLM dies

The processes that vLLM starts form one group. It ends with the `Server`: SIGTERM, a pause, then SIGKILL to whatever is
left of the group. If the process that holds the `Server` is killed itself, the kernel ends the group (Linux).
"""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Literal
from urllib.request import ProxyHandler, build_opener

from safetensors import SafetensorError, safe_open

from prealign_cpt import manifest
from prealign_cpt.errors import DataError, MissingInputError, RecipeError, UnavailableError
from prealign_cpt.serving import client
from prealign_cpt.serving.launcher import PARENT

Device = Literal["cpu", "cuda"]

EXECUTABLE = frozenset(
    {".py", ".pyc", ".pyd", ".so", ".dll"}
    | {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".keras", ".msgpack"}
)
"""Endings of code, and of weights whose loading may run code. None belongs into a folder that is served."""

READ_BY_VLLM = frozenset({".json", ".jinja", ".model", ".safetensors", ".txt"})

EMBEDDINGS = ("embed_tokens.weight", "wte.weight")
HEADS = ("lm_head.weight",)

CPU_HEAD_DIMS = frozenset({32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512})
"""What vLLM 0.32's attention for CPU computes. With another size the server starts, and dies at its first request."""

STOP_LIMIT = 30.0
"""Seconds for vLLM to stop by itself before it is killed: requests that run may end."""

STARTING_STOP_LIMIT = 2.0
"""The same while it starts: it has no requests yet, and does not listen to SIGTERM for most of that time."""


def model_name(folder: Path) -> str:
    """The name a folder is served under: its own, or the run's for the folder `export` of a run."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "export" else folder.name


def check_servable(folder: Path, device: Device | None = None) -> dict[str, int]:
    """Refuse a folder that would run code, answer garbage or bring the server down; start nothing.

    Checked: configuration, tokenizer and safetensors are there; no code (`auto_map`, Python files, pickles); input and
    output rows, `vocab_size` and `len(tokenizer)` are one number; special ids lie below it. If the folder has a
    manifest, every listed file has the listed hash, and no file that vLLM would read is missing from the list. With a
    device: vLLM can compute the model's attention there.

    Returns:
        `rows` (of the embedding) and `bytes` (of the weights).

    Raises:
        MissingInputError: no such folder, or a file is missing.
        DataError: anything else of the above.
    """
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder; give a Hugging Face folder such as runs/NAME/export")
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in EXECUTABLE:
            raise DataError(f"{path}: code or pickled weights are never served; export the model as safetensors")
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise MissingInputError(f"{folder / name}: missing; export the model with its fast tokenizer")
    # tokenizer.json is left out: there "auto_map" may be an ordinary piece of the vocabulary.
    configs = {path.name: _read_json(path) for path in sorted(folder.glob("*config*.json"))}
    if (folder / manifest.NAME).exists():
        _check_manifest(folder)
    shapes, size = _tensor_shapes(folder)
    rows = _check_rows(folder, configs["config.json"], shapes)
    for name in ("config.json", "generation_config.json"):
        _check_special_ids(folder / name, configs.get(name, {}), rows)
    if device == "cpu":
        _check_head_dim(folder / "config.json", configs["config.json"])
    return {"rows": rows, "bytes": size}


def _read_json(path: Path) -> dict[str, Any]:
    def refuse_code(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # At any depth: vLLM followed auto_map in nested configurations too (CVE-2025-66448).
        if any(key == "auto_map" for key, _ in pairs):
            raise DataError(f"{path}: auto_map names code to run; only models of transformers itself are served")
        return dict(pairs)

    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=refuse_code)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON: {error}; export the model again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object; export the model again")
    return content


def _check_manifest(folder: Path) -> None:
    listed = set(manifest.verify(folder)["files"]) | {manifest.NAME}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in READ_BY_VLLM and path.is_file() and str(path.relative_to(folder)) not in listed:
            raise DataError(f"{path}: not in the folder's manifest; remove the file or export the model again")


def _tensor_shapes(folder: Path) -> tuple[dict[str, list[int]], int]:
    """Shapes from the headers of all weight files, without reading the weights; and the files' bytes together."""
    index = folder / "model.safetensors.index.json"
    files = sorted(folder.glob("*.safetensors"))
    if index.exists():
        for name in sorted(set(_read_json(index).get("weight_map", {}).values())):
            if folder / name not in files:
                raise MissingInputError(f"{folder / name}: missing although {index.name} lists it; export again")
    if not files:
        raise MissingInputError(f"{folder}: no *.safetensors; export the model as safetensors")
    shapes: dict[str, list[int]] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: damaged: {error}; export the model again") from error
    return shapes, sum(path.stat().st_size for path in files)


def _check_rows(folder: Path, config: dict[str, Any], shapes: dict[str, list[int]]) -> int:
    """One number of rows everywhere; return it."""
    embeddings = {key: shape for key, shape in shapes.items() if key.endswith(EMBEDDINGS)}
    heads = {key: shape for key, shape in shapes.items() if key.endswith(HEADS)}
    if len(embeddings) != 1:
        raise DataError(f"{folder}: one embedding expected, found {sorted(embeddings) or 'none'}; unknown architecture")
    # vLLM fills a head that is missing with random values and serves on (vllm#53019).
    if not config.get("tie_word_embeddings", False) and not heads:
        raise DataError(f"{folder}: no lm_head.weight although the model is not tied; export it again")
    vocab_size = config.get("vocab_size")
    for key, shape in (embeddings | heads).items():
        if shape[0] != vocab_size:
            raise DataError(
                f"{folder}: {key} has {shape[0]} rows, config.json's vocab_size is {vocab_size}; export again"
            )
    (rows,) = {shape[0] for shape in embeddings.values()}
    num_tokens = len(_tokenizer(folder))
    if num_tokens != rows:
        # vLLM samples rows that have no token, and a log-probability request for one can end it.
        raise DataError(f"{folder}: {rows} rows but {num_tokens} tokens; export exactly one row for each token")
    return int(rows)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer  # takes seconds, and most refusals come before it

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # tokenizers raises bare Exception for a damaged file.
    except Exception as error:
        raise DataError(f"{folder}: the tokenizer does not load: {error}; export the model again") from error


def _check_special_ids(path: Path, config: dict[str, Any], rows: int) -> None:
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = config.get(key)
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not (isinstance(number, int) and 0 <= number < rows):
                raise DataError(f"{path}: {key} is {number!r}, which is not one of the {rows} rows; export again")


def _check_head_dim(path: Path, config: dict[str, Any]) -> None:
    head_dim = config.get("head_dim")
    if head_dim is None and config.get("num_attention_heads"):
        head_dim = config["hidden_size"] // config["num_attention_heads"]
    if head_dim is not None and head_dim not in CPU_HEAD_DIMS:
        known = ", ".join(map(str, sorted(CPU_HEAD_DIMS)))
        raise DataError(f"{path}: head_dim {head_dim}: vLLM on CPU computes only {known}; serve with device cuda")


def command(
    folder: Path,
    *,
    port: int,
    host: str = "127.0.0.1",
    device: Device = "cpu",
    served_model_name: str | None = None,
    max_model_len: int | None = None,
    kv_cache_bytes: int = 2**28,
) -> list[str]:
    """The command that serves `folder`. On CPU: fp32, nothing compiled, `kv_cache_bytes` for keys and values; on CUDA:
    bf16, and vLLM's own share of the memory. Without `max_model_len` the model's own limit holds.

    Raises:
        RecipeError: the host is not this machine.
    """
    if not client.is_loopback(host):
        raise RecipeError(
            f"host {host}: the server has no authentication (vLLM's API key leaves /invocations and others open), so "
            "it binds 127.0.0.1 only; put a reverse proxy with authentication in front. Binding other addresses comes "
            "with an authenticated front in a later release"
        )
    words = [sys.executable, "-m", "prealign_cpt.serving.launcher", "serve", str(folder)]
    words += ["--served-model-name", served_model_name or model_name(folder)]
    words += ["--host", host, "--port", str(port)]
    if device == "cpu":
        words += ["--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(kv_cache_bytes)]
    else:
        words += ["--dtype", "bfloat16"]
    if max_model_len is not None:
        words += ["--max-model-len", str(max_model_len)]
    # Without `--generation-config vllm` the folder's sampling defaults would change what a request asks for.
    words += ["--generation-config", "vllm", "--load-format", "safetensors", "--disable-fastapi-docs"]
    # Requests that run when the server is asked to stop get this many seconds.
    return [*words, "--shutdown-timeout", "5"]


def environment(device: Device) -> dict[str, str]:
    """This process's environment for vLLM: offline, without telemetry, without settings that would open or close it."""
    # --enforce-eager leaves some functions of vLLM to torch.compile: the first scored request would run a C++ compiler.
    eager = {"TORCHDYNAMO_DISABLE": "1"} if device == "cpu" else {}
    closed = {"VLLM_API_KEY", "VLLM_SERVER_DEV_MODE", "VLLM_CPU_KVCACHE_SPACE", "VLLM_PLUGINS"}
    return (
        {key: value for key, value in os.environ.items() if key not in closed}
        | eager
        | {
            "DO_NOT_TRACK": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # children then pass through the launcher too
            PARENT: str(os.getpid()),
        }
    )


class Server:
    """vLLM serving one folder for the length of a `with` block.

        with Server(folder, max_model_len=512) as server:
            complete(server.base_url, server.model, "Der Hund")

    Entering checks the folder, starts vLLM and waits until it answers. Enter it from a thread that lives as long as the
    server is needed (the kernel ends vLLM with that thread).

    Attributes:
        base_url: the OpenAI-compatible root, ending in /v1. Valid inside the block.
        model: the name to ask for.
        log: the file that receives everything vLLM prints. It is kept.
        start_seconds: from the command to the first healthy answer.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        device: Device = "cpu",
        served_model_name: str | None = None,
        max_model_len: int | None = None,
        kv_cache_bytes: int = 2**28,
        log: Path | None = None,
        start_limit: float = 300.0,
    ) -> None:
        """Keep the arguments; nothing is checked or started yet.

        Args:
            port: 0 takes a free one.
            log: overwritten; by default a new file among the system's temporary ones.
            start_limit: seconds until vLLM must answer.
        """
        self.folder = folder
        self.port = port
        self.host = host
        self.device: Device = device
        self.model = served_model_name or model_name(folder)
        self.max_model_len = max_model_len
        self.kv_cache_bytes = kv_cache_bytes
        self.log = log
        self.start_limit = start_limit
        self.start_seconds = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self._ready = False

    @property
    def base_url(self) -> str:
        return f"{self._root}/v1"

    @property
    def _root(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def __enter__(self) -> "Server":
        """Start vLLM and return when it answers.

        Raises:
            MissingInputError, DataError: the folder is not servable.
            RecipeError: the host is not this machine.
            UnavailableError: the port is in use, vLLM ended or did not answer in time. Nothing is left running.
        """
        words = self._command()  # refuses a host before the folder is hashed
        check_servable(self.folder, self.device)
        self.port = _claim_port(self.host, self.port)
        words = self._command()
        print(shlex.join(words), file=sys.stderr, flush=True)
        try:
            with self._open_log() as file:
                self.process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env=environment(self.device),
                    start_new_session=True,
                )
            self._wait_until_ready()
            self._check_identity()
            self._ready = True
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self) -> list[str]:
        return command(
            self.folder,
            port=self.port,
            host=self.host,
            device=self.device,
            served_model_name=self.model,
            max_model_len=self.max_model_len,
            kv_cache_bytes=self.kv_cache_bytes,
        )

    def _open_log(self) -> IO[bytes]:
        if self.log is None:
            descriptor, name = tempfile.mkstemp(prefix=f"prealign-serve-{self.port}-", suffix=".log")
            self.log = Path(name)
            return os.fdopen(descriptor, "wb")
        try:
            return self.log.open("wb")
        except OSError as error:
            raise manifest.storage_error(self.log, error) from error

    def check_alive(self) -> None:
        """Raise UnavailableError, with the log's last lines, if vLLM has ended."""
        assert self.process is not None
        # WNOWAIT leaves the dead process in place: its group's id cannot be given away before `stop`.
        if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            raise UnavailableError(f"vLLM ended; its log {self.log} ends:\n{self._tail(15)}")

    def _wait_until_ready(self) -> None:
        start = time.monotonic()
        shown = 0.0
        while not self._healthy():
            self.check_alive()
            self.start_seconds = time.monotonic() - start
            if self.start_seconds > self.start_limit:
                raise UnavailableError(
                    f"vLLM did not answer within {self.start_limit:.0f} s; give it more time or free the processor; "
                    f"its log {self.log} ends:\n{self._tail(15)}"
                )
            if self.start_seconds - shown >= 10:
                shown = self.start_seconds
                print(
                    f"vLLM starts: {shown:.0f} s of at most {self.start_limit:.0f} s (log: {self.log})",
                    file=sys.stderr,
                    flush=True,
                )
            time.sleep(0.5)
        self.start_seconds = time.monotonic() - start
        print(f"{self.model} answers at {self.base_url} after {self.start_seconds:.0f} s", file=sys.stderr, flush=True)

    def _healthy(self) -> bool:
        try:
            with build_opener(ProxyHandler({})).open(f"{self._root}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _check_identity(self) -> None:
        """vLLM binds with SO_REUSEPORT, so a second server could have taken the same port a moment before."""
        self.check_alive()
        found = client.models(self.base_url)
        if [(model["id"], model.get("root")) for model in found] != [(self.model, str(self.folder))]:
            raise UnavailableError(f"port {self.port}: another server answers there; choose another port")

    def stop(self) -> None:
        """End vLLM and everything it started; does nothing if none runs."""
        process = self.process
        if process is None:
            return
        # The leader is not reaped before the group got its last signal, so the group's id is still its own.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + (STOP_LIMIT if self._ready else STARTING_STOP_LIMIT)
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.process, self._ready = None, False

    def _tail(self, num_lines: int) -> str:
        assert self.log is not None
        with self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2**14))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(f"  {line[:300]}" for line in lines[-num_lines:])


def _claim_port(host: str, port: int) -> int:
    """Check that `port` can be bound, or find a free one for 0. It is free again on return, and so only likely free.

    Raises:
        UnavailableError: somebody listens there, or binding it is not allowed.
    """
    address = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just left is not "in use"
        try:
            probe.bind((address, port))
        except (OSError, OverflowError) as error:
            raise UnavailableError(
                f"port {port}: {getattr(error, 'strerror', None) or error}; choose another port, or 0 for a free one"
            ) from error
        return int(probe.getsockname()[1])


class _StopRequest(BaseException):
    """SIGTERM or SIGINT arrived."""


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[None]:
    """Raise _StopRequest at the first SIGTERM or SIGINT. Later ones are ignored: stopping is bounded by STOP_LIMIT."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise _StopRequest

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve(folder: Path, **arguments: Any) -> int:
    """Serve `folder` until SIGTERM or SIGINT; arguments as for `Server`. Call it from the main thread.

    Returns:
        0 after a stop that was asked for.

    Raises:
        UnavailableError: vLLM ended by itself; besides, what entering a `Server` raises.
    """
    try:
        with _stop_on_signals(), Server(folder, **arguments) as server:
            while True:
                server.check_alive()
                time.sleep(0.5)
    except _StopRequest:
        print("stopped", file=sys.stderr, flush=True)
        return 0
