"""One vLLM process for a folder, which leaves nothing behind; and `prealign serve`, one or two of them until a signal.

    folder --check_servable--> command --launcher--> vLLM (own process group) --/health--> ready at base_url
                                                            '--> log file, its last lines shown if vLLM dies

Without a key vLLM listens on this machine only. With one, the gateway stands before its routes (gateway.py); vLLM gets
the key's SHA-256, never the key.

The processes that vLLM starts form one group. It ends with the `Server`: SIGTERM, which lets running requests end,
a pause, then SIGKILL to whatever is left of the group. If the process that holds the `Server` is killed itself, the
kernel ends the group (Linux).
"""

import contextlib
import hashlib
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from prealign_cpt.run import manifest, signals
from prealign_cpt.run.errors import RecipeError, UnavailableError
from prealign_cpt.serving.client import is_loopback
from prealign_cpt.serving.command import Options, Task, check_plugin, command, environment
from prealign_cpt.serving.folder import check_servable, model_digest, model_name, pinned_name
from prealign_cpt.serving.key import MIN_LENGTH, VARIABLE, read_key
from prealign_cpt.serving.launcher import GATEWAY

Tasks = Literal["generate", "embed", "both"]

DRAIN = 10
"""Seconds that requests which run get when the server is asked to stop."""

STOP_LIMIT = 25.0
"""Seconds beyond that for vLLM to stop by itself before it is killed."""

STARTING_STOP_LIMIT = 2.0
"""The same while it starts: it has no requests yet, and does not listen to SIGTERM for most of that time."""

PROGRESS_EVERY = 10.0
"""Seconds between two lines while it starts."""


class Server:
    """vLLM serving one folder for the length of a `with` block.

        with Server(folder, max_model_len=512) as server:
            complete(server.base_url, server.model, "Der Hund")

    Entering checks the folder, starts vLLM and waits until it answers. Enter it from a thread that lives as long as the
    server is needed (the kernel ends vLLM with that thread).

    Attributes:
        base_url: the OpenAI-compatible root, ending in /v1. Valid inside the block.
        model: the name to ask for.
        pinned: the same with the folder's digest; every other model refuses it.
        num_tokens: tokens that the model knows.
        max_model_len: longest sequence. Valid inside the block.
        log: the file that receives everything vLLM prints. It is kept.
        start_seconds: from the command to the first healthy answer.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        key: str | None = None,
        served_model_name: str | None = None,
        log: Path | None = None,
        start_limit: float = 300.0,
        drain: int = DRAIN,
        **options: Any,
    ) -> None:
        """Keep the arguments; nothing is started yet.

        Args:
            port: 0 takes a free one.
            host: any other than this machine needs a key.
            key: what clients must send; None leaves all routes of vLLM open.
            log: overwritten; by default a new file among the system's temporary ones.
            start_limit: seconds until vLLM must answer.
            drain: seconds that running requests get at the end.
            options: fields of `command.Options`.
        """
        self.folder = folder
        self.options = Options(**options)
        self.port = port
        self.host = host
        self.key = key
        self.model = served_model_name or model_name(folder)
        self.pinned = ""
        self.num_tokens = self.max_model_len = 0
        self.log = log
        self.start_limit = start_limit
        self.drain = drain
        self.start_seconds = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self._ready = False

    @property
    def base_url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/v1"

    def __enter__(self) -> "Server":
        """Start vLLM and return when it answers.

        Raises:
            MissingInputError, DataError: the folder is not servable.
            RecipeError: the host is not this machine and there is no key, or an option does not fit the folder.
            UnavailableError: the port is in use, vLLM ended or did not answer in time. Nothing is left running.
        """
        if self.key is None and not is_loopback(self.host):
            raise RecipeError(
                f"host {self.host}: other machines could use the model, so a key of at least {MIN_LENGTH} characters "
                f"is needed, in a file (--key-file, mode 0600) or in {VARIABLE}; or serve on 127.0.0.1"
            )
        check_plugin(self.options)
        self.num_tokens = check_servable(self.folder, self.options.device)["num_tokens"]
        self.pinned = pinned_name(self.model, model_digest(self.folder))
        self.port = claim_port(self.host, self.port)
        address: dict[str, Any] = {"host": self.host, "port": self.port, "gateway": self.key is not None}
        words = command(self.folder, self.options, [self.model, self.pinned], **address)
        words += ["--shutdown-timeout", str(self.drain)]
        settings = environment(self.options.device)
        if self.key is not None:
            digest = hashlib.sha256(self.key.encode()).hexdigest()
            settings[GATEWAY] = json.dumps({"key_sha256": digest, "num_tokens": self.num_tokens})
        _say(shlex.join(words))
        try:
            with self._open_log() as file:
                streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
                self.process = subprocess.Popen(words, env=settings, start_new_session=True, **streams)
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

    def _open_log(self) -> IO[bytes]:
        if self.log is None:
            descriptor, name = tempfile.mkstemp(
                prefix=f"prealign-serve-{self.model}-{self.options.task}-", suffix=".log"
            )
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
            if self.start_seconds - shown >= PROGRESS_EVERY:
                shown = self.start_seconds
                last = self._tail(1).strip()[:120]
                _say(f"vLLM starts: {shown:.0f} s of at most {self.start_limit:.0f} s (log: {self.log}): {last}")
            time.sleep(0.5)
        self.start_seconds = time.monotonic() - start

    def _healthy(self) -> bool:
        try:
            return self._get("health")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _get(self, path: str, key: str | None = None) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        request = urllib.request.Request(f"{self.base_url.removesuffix('/v1')}/{path}", headers=headers)
        # No proxy from the environment stands between this process and its server.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, b""

    def _check_identity(self) -> None:
        """Another server could have taken the port a moment before, and another vLLM might know no middleware."""
        self.check_alive()
        try:
            models = json.loads(self._get("v1/models", self.key)[1])["data"]
            names = {model["id"] for model in models}
            self.max_model_len = int(models[0].get("max_model_len") or 0)
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, IndexError):
            names = set()
        if names != {self.model, self.pinned}:
            raise UnavailableError(f"port {self.port}: another server answers there; choose another port")
        if self.key is not None and self._get("v1/models")[0] != 401:
            raise UnavailableError("vLLM answers without the key, so it is stopped; install vLLM 0.32")
        key, seconds = " with the key" if self.key else "", self.start_seconds
        _say(f"{self.model} ({self.options.task}) answers{key} at {self.base_url} after {seconds:.0f} s")

    def stop(self) -> None:
        """End vLLM and everything it started; does nothing if none runs."""
        process = self.process
        if process is None:
            return
        # The leader is not reaped before the group got its last signal, so the group's id is still its own.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + (self.drain + STOP_LIMIT if self._ready else STARTING_STOP_LIMIT)
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


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def claim_port(host: str, port: int) -> int:
    """Check that `port` can be bound, or find a free one for 0. It is free again on return, and so only likely free.

    Raises:
        UnavailableError: the host is unknown, somebody listens there, or binding it is not allowed.
    """
    try:
        flags = socket.AI_PASSIVE
        family, kind, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just left is not "in use"
            probe.bind(address)
            return int(probe.getsockname()[1])
    except (OSError, OverflowError, UnicodeError) as error:
        raise UnavailableError(
            f"host {host!r}, port {port}: {getattr(error, 'strerror', None) or error}; choose another, or port 0 for a "
            "free one"
        ) from error


def serve(
    folder: Path,
    *,
    task: Tasks = "generate",
    port: int = 8000,
    key_file: Path | None = None,
    log: Path | None = None,
    **arguments: Any,
) -> int:
    """Serve `folder` until a signal (run/signals.py), a second of which ends all at once.

    Args:
        task: both: two servers, embeddings at the next port.
        port: 0 takes a free one for each.
        key_file: holds the key; by default it comes from PREALIGN_API_KEY, if that is set.
        log: vLLM's output; with two servers, the embedding one's has `.embed` appended.
        arguments: of `Server`, and through it of `command.Options`.

    Returns:
        0 after a stop that was asked for.

    Raises:
        UnavailableError: vLLM ended by itself; besides, what entering a `Server` and `read_key` raise.
    """
    key = read_key(key_file)
    tasks: list[Task] = ["generate", "embed"] if task == "both" else [task]
    if len(tasks) == 2 and arguments.get("memory_share") is None:
        arguments["memory_share"] = 0.45  # of each GPU, which both use
    try:
        with contextlib.ExitStack() as stack:
            servers = []
            for number, each in enumerate(tasks):
                file = log.with_name(log.name + ".embed") if log and number else log
                server = Server(folder, task=each, log=file, key=key, port=port + number if port else 0, **arguments)
                servers.append(stack.enter_context(server))
            while True:
                for server in servers:
                    server.check_alive()
                time.sleep(0.5)
    except signals.StoppedError:
        _say("stopped")
        return 0
