"""One vLLM process for a folder, on this machine only; it leaves nothing behind.

    folder --check_servable--> command --launcher--> vLLM (own process group) --/health--> ready at base_url
                                                            '--> log file, its last lines shown if vLLM dies

The processes that vLLM starts form one group. It ends with the `Server`: SIGTERM, which lets running requests end,
a pause, then SIGKILL to whatever is left of the group. If the process that holds the `Server` is killed itself, the
kernel ends the group (Linux).
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import httpx2

from prealign_cpt.run import manifest
from prealign_cpt.run.errors import RecipeError, UnavailableError
from prealign_cpt.serving.command import Options, check_plugin, command, environment
from prealign_cpt.serving.folder import check_servable, model_digest, model_name, pinned_name
from prealign_cpt.serving.transport import is_loopback

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
        base_url: the OpenAI-compatible root, ending in /v1. Valid inside the block, and not for a Unix socket.
        model: the name to ask for.
        pinned: the same with the folder's digest; every other model refuses it.
        rows: tokens that the model knows.
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
        uds: Path | None = None,
        served_model_name: str | None = None,
        log: Path | None = None,
        start_limit: float = 300.0,
        drain: int = DRAIN,
        **options: Any,
    ) -> None:
        """Keep the arguments; nothing is started yet.

        Args:
            port: 0 takes a free one.
            uds: listen on this Unix socket instead of a port.
            log: overwritten; by default a new file among the system's temporary ones.
            start_limit: seconds until vLLM must answer.
            drain: seconds that running requests get at the end.
            options: fields of `command.Options`.
        """
        self.folder = folder
        self.options = Options(**options)
        self.port = port
        self.host = host
        self.uds = uds
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
        return f"{self._root}/v1"

    @property
    def _root(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def __enter__(self) -> "Server":
        """Start vLLM and return when it answers.

        Raises:
            MissingInputError, DataError: the folder is not servable.
            RecipeError: the host is not this machine, or an option does not fit the folder.
            UnavailableError: the port is in use, vLLM ended or did not answer in time. Nothing is left running.
        """
        if not is_loopback(self.host):
            raise RecipeError(f"host {self.host}: vLLM itself is never bound beyond this machine; use prealign serve")
        check_plugin(self.options)
        self.num_tokens = check_servable(self.folder, self.options.device)["num_tokens"]
        self.pinned = pinned_name(self.model, model_digest(self.folder))
        if self.uds is None:
            self.port = claim_port(self.host, self.port)
        words = command(
            self.folder, self.options, [self.model, self.pinned], port=self.port, host=self.host, uds=self.uds
        )
        words += ["--shutdown-timeout", str(self.drain)]
        print(shlex.join(words), file=sys.stderr, flush=True)
        try:
            with self._open_log() as file:
                self.process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env=environment(self.options.device),
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
                last = self._tail(1).strip()
                print(
                    f"vLLM starts: {shown:.0f} s of at most {self.start_limit:.0f} s (log: {self.log}): {last[:120]}",
                    file=sys.stderr,
                    flush=True,
                )
            time.sleep(0.5)
        self.start_seconds = time.monotonic() - start
        where = self.uds or self.base_url
        print(
            f"{self.model} ({self.options.task}) answers at {where} after {self.start_seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )

    def _healthy(self) -> bool:
        try:
            return self._get("/health").status_code == 200
        except httpx2.TransportError:
            return False

    def _get(self, path: str) -> httpx2.Response:
        # With a transport of its own the client asks no proxy.
        with httpx2.Client(
            transport=httpx2.HTTPTransport(verify=False, uds=str(self.uds) if self.uds else None)
        ) as client:
            return client.get(("http://vllm" if self.uds else self._root) + path, timeout=5)

    def _check_identity(self) -> None:
        """vLLM binds with SO_REUSEPORT, so a second server could have taken the same port a moment before."""
        self.check_alive()
        try:
            found = self._get("/v1/models").json()["data"]
            names = {model["id"]: model["root"] for model in found}
            self.max_model_len = int(found[0].get("max_model_len") or 0)
        except (httpx2.TransportError, ValueError, KeyError, TypeError, IndexError):
            names = {}
        if names != {self.model: str(self.folder), self.pinned: str(self.folder)}:
            raise UnavailableError(f"port {self.port}: another server answers there; choose another port")

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


def claim_port(host: str, port: int) -> int:
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
