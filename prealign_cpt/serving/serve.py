"""`prealign serve`: one or two vLLMs until a signal, and the front before them where a key is given.

    no key    127.0.0.1:PORT    vLLM (generate, or embed);   both: embed on PORT + 1
    a key     HOST:PORT         Front --Unix sockets--> vLLM generate and/or embed

At SIGTERM or SIGINT no new connection is taken, requests that run get `drain` seconds, then everything ends.
"""

import asyncio
import contextlib
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import uvicorn

from prealign_cpt.run.errors import RecipeError, UnavailableError
from prealign_cpt.serving.command import Task
from prealign_cpt.serving.front import Front, connect
from prealign_cpt.serving.key import MIN_LENGTH, VARIABLE, read_key
from prealign_cpt.serving.limits import Limits
from prealign_cpt.serving.server import DRAIN, Server
from prealign_cpt.serving.transport import is_loopback

Tasks = Literal["generate", "embed", "both"]

MAX_CONNECTIONS, MAX_HEADER_BYTES = 512, 16 * 2**10


def serve(
    folder: Path,
    *,
    task: Tasks = "generate",
    host: str = "127.0.0.1",
    port: int = 8000,
    key_file: Path | None = None,
    log: Path | None = None,
    drain: int = DRAIN,
    **arguments: Any,
) -> int:
    """Serve `folder` until SIGTERM or SIGINT. Call it from the main thread.

    Args:
        host: anything beyond this machine needs a key.
        port: 0 takes a free one.
        key_file: holds the key; by default it comes from PREALIGN_API_KEY, if that is set. With a key, the front stands
            before vLLM.
        log: vLLM's output; with two servers, the embedding one's has `.embed` appended.
        arguments: of `Server`, and through it of `command.Options`.

    Returns:
        0 after a stop that was asked for.

    Raises:
        RecipeError: an address beyond this machine without a key, or options that do not fit.
        UnavailableError: the port is taken, or vLLM did not start or ended by itself; besides, what entering a
            `Server` and `read_key` raise.
    """
    key = read_key(key_file)
    if key is None and not is_loopback(host):
        raise RecipeError(
            f"host {host}: other machines could use the model, so a key of at least {MIN_LENGTH} characters is needed, "
            f"in a file (--key-file, mode 0600) or in {VARIABLE}; or serve on 127.0.0.1"
        )
    tasks: list[Task] = ["generate", "embed"] if task == "both" else [task]
    if len(tasks) == 2:
        arguments.setdefault("memory_share", 0.45)  # of each GPU, which both use
    try:
        with _stop_on_signals(), contextlib.ExitStack() as stack:
            listener = stack.enter_context(listen(host, port)) if key is not None else None
            sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prealign-"))) if key else None
            servers: dict[Task, Server] = {}
            for number, each in enumerate(tasks):
                own_log = log.with_name(log.name + ".embed") if log and number else log
                where = {"uds": sockets / each} if sockets else {"host": host, "port": port + number if port else 0}
                server = Server(folder, task=each, log=own_log, drain=drain, **where, **arguments)
                servers[each] = stack.enter_context(server)
            if key is not None and listener is not None:
                run_front(key, servers, listener, drain)
            while True:
                for server in servers.values():
                    server.check_alive()
                time.sleep(0.5)
    except _StopRequest:
        print("stopped", file=sys.stderr, flush=True)
        return 0


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; nobody can connect before somebody listens.

    Raises:
        UnavailableError: the name is unknown, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UnavailableError(f"host {host}, port {port}: {error}; choose others") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        raise UnavailableError(f"host {host}, port {port}: {error.strerror}; choose others") from error
    return found


def run_front(key: str, servers: dict[Task, Server], listener: socket.socket, drain: int) -> None:
    """Answer at `listener` until a signal, which is raised again after running requests had `drain` seconds.

    Raises:
        UnavailableError: a server ended by itself.
    """
    first = next(iter(servers.values()))
    limits = Limits(rows=first.num_tokens, max_model_len=first.max_model_len)
    address = listener.getsockname()
    listener.listen()  # who connects from now on is kept until the front runs
    print(f"{first.model} answers with the key at {address[0]} port {address[1]}", file=sys.stderr, flush=True)
    asyncio.run(_run_front(key, servers, limits, listener, drain))
    for server in servers.values():
        server.check_alive()


async def _run_front(
    key: str, servers: dict[Task, Server], limits: Limits, listener: socket.socket, drain: int
) -> None:
    async def watch() -> None:
        try:
            for server in servers.values():
                server.check_alive()
        except UnavailableError:
            front.should_exit = True

    async with contextlib.AsyncExitStack() as stack:
        clients = {task: await stack.enter_async_context(connect(str(server.uds))) for task, server in servers.items()}
        front = uvicorn.Server(
            uvicorn.Config(
                Front(key, clients, limits),
                http="h11",  # the strictest parser
                ws="none",
                lifespan="off",
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=MAX_CONNECTIONS,
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                timeout_graceful_shutdown=drain,
                timeout_notify=1,
                callback_notify=watch,
            )
        )
        await front.serve(sockets=[listener])


class _StopRequest(BaseException):
    """SIGTERM or SIGINT arrived."""


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[None]:
    """Raise _StopRequest at the first SIGTERM or SIGINT. Later ones are ignored: stopping takes a bounded time."""

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
