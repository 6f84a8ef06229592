"""Named points at which a test lets the program fail: killed, stopped, slowed down, or with an error of the disk.

    PREALIGN_FAULT="kill@save.after_shard:rank=1:count=2"        the second time that rank 1 comes there
    PREALIGN_FAULT="sleep=5@step,raise@save.after_hash:rank=0"   several, with commas between them

Actions: `kill` (SIGKILL), `stop` (SIGSTOP), `raise` (OSError, no space left on device), `sleep=SECONDS`. Without `rank`
every rank meets the fault, without `count` the first time. Where the variable is not set a point is one comparison.

Points: `stage.NAME` (a stage's folder is about to be filled), `step` (before a step of training), `eval` (before each
batch of an evaluation while training), `write` (before a small file is replaced), `publish` (a folder is complete, not
yet renamed), and in a save `save.begin`, `save.after_shard`, `save.after_hash`, `save.after_rename`, `save.end`.
"""

import errno
import os
import re
import signal
import time
from dataclasses import dataclass

from prealign_cpt.run.errors import RecipeError

VARIABLE = "PREALIGN_FAULT"

_FORM = re.compile(r"(kill|stop|raise|sleep=[\d.]+)@([a-z_.]+)((?::(?:rank|count)=\d+)*)")


@dataclass
class _Fault:
    action: str
    point: str
    rank: int | None
    left: int
    """How many passages are still to come before it happens; 0: it has happened."""


_faults: list[_Fault] | None = None


def arm(text: str) -> None:
    """Set the faults of this process, as the variable's value says; an empty text disarms.

    Raises:
        RecipeError: the text is not of the form above.
    """
    global _faults
    _faults = [_parse(part) for part in text.split(",")] if text else None


def fault(point: str) -> None:
    """A place where a test may let this process fail."""
    if _faults is not None:
        _meet(point)


def _parse(text: str) -> _Fault:
    form = _FORM.fullmatch(text)
    if form is None:
        raise RecipeError(f"{VARIABLE}: {text!r} is no fault; write ACTION@POINT[:rank=N][:count=N]")
    options = dict(part.split("=") for part in form[3].split(":")[1:])
    return _Fault(form[1], form[2], int(options["rank"]) if "rank" in options else None, int(options.get("count", 1)))


def _meet(point: str) -> None:
    rank = int(os.environ.get("RANK", "0"))
    for one in _faults or ():
        if one.point != point or one.rank not in (None, rank) or one.left == 0:
            continue
        one.left -= 1
        if one.left == 0:
            _happen(one.action)


def _happen(action: str) -> None:
    if action == "raise":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if action.startswith("sleep="):
        end = time.monotonic() + float(action.removeprefix("sleep="))
        while time.monotonic() < end:  # in short naps, so that a signal's handler may raise in between
            time.sleep(0.05)
    else:
        os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)


arm(os.environ.get(VARIABLE, ""))
