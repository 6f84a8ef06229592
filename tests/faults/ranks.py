"""Ranks that may die: forked from one warm process, so that a start costs a fraction of a second, not ten.

start(2, work, ..., faults="kill@step:rank=1") --> [Ended(exit code, value), ...]
"""

import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from prealign_cpt.run import faults, signals
from tests.conftest import RANKS, free_port


@dataclass(frozen=True)
class Ended:
    """How a rank ended."""

    code: int
    """Exit code; -9 if it was killed."""
    value: Any
    """What its work returned; None if it did not come to that."""
    error: str
    """Traceback of what it raised."""


class Ranks:
    """Processes with torchrun's environment that run `work(rank, size, *arguments)`."""

    def __init__(self, size: int, work: Callable[..., Any], *arguments: Any, fault: str = "") -> None:
        port = free_port()
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(size):
            mine, theirs = RANKS.Pipe(duplex=False)
            process = RANKS.Process(target=_rank, args=(rank, size, port, theirs, fault, work, arguments))
            process.start()
            theirs.close()
            self.pipes.append(mine)
            self.processes.append(process)

    def pids(self) -> list[int]:
        return [process.pid for process in self.processes if process.pid is not None]

    def end(self, seconds: float = 60.0, grace: float = 30.0) -> list[Ended]:
        """Wait for all of them; one that has not ended in time is killed, and its error says so.

        Args:
            seconds: for all.
            grace: that the others get when one has ended.
        """
        end = time.monotonic() + seconds
        values: list[tuple[Any, str]] = [(None, "")] * len(self.processes)
        waited: dict[Connection, int] = {pipe: rank for rank, pipe in enumerate(self.pipes)}
        while waited and time.monotonic() < end:
            for pipe in wait(list(waited), timeout=max(0.0, end - time.monotonic())):
                assert isinstance(pipe, Connection)
                rank = waited.pop(pipe)
                with suppress(EOFError):  # it was killed
                    values[rank] = pipe.recv()
                end = min(end, time.monotonic() + grace)
        found = []
        for process, (value, error) in zip(self.processes, values, strict=True):
            process.join(max(0.5, end - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
                error += "it was still there at the end"
            assert process.exitcode is not None
            found.append(Ended(process.exitcode, value, error))
        return found


def start(size: int, work: Callable[..., Any], *arguments: Any, fault: str = "", **limits: float) -> list[Ended]:
    """Run ranks to their end; `limits` are those of `Ranks.end`."""
    return Ranks(size, work, *arguments, fault=fault).end(**limits)


def values(ended: list[Ended]) -> list[Any]:
    """What ranks returned that all ended well."""
    for rank, one in enumerate(ended):
        assert one.code == 0 and not one.error, f"rank {rank} ended with {one.code}: {one.error}"
    return [one.value for one in ended]


def _rank(
    rank: int, size: int, port: int, pipe: Connection, fault: str, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in environment.items()} | {"MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    for number in signals.NUMBERS:
        signal.signal(number, signal.SIG_DFL)
    faults.arm(fault)
    try:
        pipe.send((work(rank, size, *arguments), ""))
    except BaseException:
        pipe.send((None, traceback.format_exc()))
        os._exit(1)
