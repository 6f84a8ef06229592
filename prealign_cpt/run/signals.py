"""Stopping on SIGTERM, SIGINT or SIGUSR1 without losing anything.

Outside `deferred()` a signal raises `StoppedError` where the program is: stage folders are written aside, so nothing
half done remains. Inside it (the training loop, which must save first, on all ranks together) it only sets a flag.

A second signal ends the process at once, as if nothing had been installed: a shell sees 128 + its number. Signals that
follow within a second are the same request, for a scheduler and the launcher may both deliver it.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from prealign_cpt.run.errors import BusyError

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

ECHO = 1.0
"""Seconds in which a signal counts as an echo of the first one."""


class StoppedError(BusyError):
    """The run was asked to stop; what is finished is kept, and the same command continues."""


_deferred = False
_requested: str | None = None
_since = 0.0


def install() -> None:
    """Take over the three signals, and on Linux ask the kernel for SIGTERM if the parent process dies."""
    for number in NUMBERS:
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
    """Signals only set the flag inside this block."""
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False


def ignore() -> None:
    """The run is ending and everything is saved: no signal, such as torchrun's when another rank has left, disturbs."""
    for number in NUMBERS:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_IGN)


def _handle(number: int, frame: FrameType | None) -> None:
    global _requested, _since
    if _requested is not None:
        if time.monotonic() - _since > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        return
    _requested, _since = signal.Signals(number).name, time.monotonic()
    if not _deferred:
        check()
