"""Stopping on SIGTERM, SIGINT or SIGUSR1 without losing anything.

Outside `deferred()` a signal raises `StoppedError` where the program is: stage folders are written aside, so nothing
half done remains. Inside it (the training loop, which must save first, on all ranks together) it only sets a flag.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from prealign_cpt.errors import BusyError


class StoppedError(BusyError):
    """The run was asked to stop; what is finished is kept, and the same command continues."""


_deferred = False
_requested: str | None = None


def install() -> None:
    """Take over the three signals, and on Linux ask the kernel for SIGTERM if the parent process dies."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, _handle)
    if sys.platform == "linux" and "RANK" in os.environ:  # not `nohup prealign demo &`, which outlives its shell
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a killed launcher leaves no ranks behind


def requested() -> str | None:
    """The name of the signal that asked to stop, if one did."""
    return _requested


def check() -> None:
    """Raise `StoppedError` if a signal came while signals were deferred, or was swallowed by a library."""
    if _requested is not None:
        raise StoppedError(
            f"stopped by {_requested}; finished stages are kept, start the same command again to continue"
        )


@contextmanager
def deferred() -> Iterator[None]:
    """Signals only set the flag inside this block; a second one still ends the process at once."""
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False


def _handle(number: int, frame: FrameType | None) -> None:
    global _requested
    if _requested is not None and _deferred:
        sys.exit(128 + number)
    _requested = signal.Signals(number).name
    if not _deferred:
        check()
