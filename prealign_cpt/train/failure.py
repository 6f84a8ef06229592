"""Which rank failed first. What the others see, a broken connection or torchrun's SIGTERM, only follows from it.

error of this rank --> store of the ranks --> error of the run, on every rank that still lives
"""

import errno
import json
import time
from pathlib import Path

import torch.distributed as dist

from prealign_cpt.model.world import World
from prealign_cpt.run.errors import PrealignError
from prealign_cpt.run.manifest import storage_error
from prealign_cpt.run.signals import StoppedError

_CAUSE = "failure"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
_WAIT = 3.0
"""Seconds in which a rank that failed has said so."""


class RankError(PrealignError):
    """Another rank failed: its message, and its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def first_failure(error: BaseException, world: World) -> BaseException:
    """The error that a run failed of: this rank's own, or another's that this one follows from.

    A rank that has an error of its own tells the others. If a collective broke and nobody says why, the ranks that
    died or hang are named.
    """
    if isinstance(error, OSError) and error.errno in _DISK:
        error = storage_error(Path(error.filename or "."), error)
    stopped = isinstance(error, StoppedError)
    broken = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
    try:
        world.store.set(f"left {world.rank}", "yes")
        if not stopped and not broken:
            if not world.store.check([_CAUSE]):
                code = error.exit_code if isinstance(error, PrealignError) else 70
                text = str(error) if isinstance(error, PrealignError) else f"{type(error).__name__}: {error}"
                world.store.set(_CAUSE, json.dumps([f"rank {world.rank}: {text}", code]))
            return error
        end = time.monotonic() + (_WAIT if broken else 0.0)
        while not world.store.check([_CAUSE]) and time.monotonic() < end:
            time.sleep(0.1)
        if world.store.check([_CAUSE]):
            return RankError(*json.loads(world.store.get(_CAUSE)))
        silent = [rank for rank in range(world.size) if not world.store.check([f"left {rank}"])]
    except RuntimeError:  # the launcher, which holds the store, is gone
        return error
    if stopped or not silent:
        return error
    first_line = str(error).strip().partition("\n")[0]
    return RankError(f"rank {', '.join(map(str, silent))} died or does not answer; seen from here: {first_line}", 70)
