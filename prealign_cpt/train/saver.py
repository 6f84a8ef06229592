"""Checkpoints are written behind the training's back, one at a time, and old ones removed.

shards on the device --copy--> host memory        the step waits for this, and for a save that is still under way
                                  |  a thread, while training goes on
                               checkpoint.write, verify, prune
"""

import datetime
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.world import World
from prealign_cpt.run.errors import DataError, PrealignError, StorageError
from prealign_cpt.run.folder import say
from prealign_cpt.run.manifest import storage_error, verify
from prealign_cpt.train import checkpoint

SLOW = 15.0
"""Seconds that a save may take without a word: torchrun kills ranks 30 seconds after it asked them to stop."""


class Saver:
    """Saves a run's checkpoints behind the training's back, one at a time; removes old ones.

    Used as a context: leaving it waits for the save that is under way. Every rank calls the methods at the same steps.

    Args:
        folder: of the checkpoints.
        keep: newest checkpoints to keep.
    """

    def __init__(self, folder: Path, keep: int, world: World) -> None:
        self.folder, self.keep, self.world = folder, keep, world
        # Votes on a group of their own: on the steps' group they would mix with the collectives of training.
        self._group = dist.new_group(backend="gloo", timeout=datetime.timedelta(hours=1))
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._host: dict[Any, torch.Tensor] = {}
        self._stalls: list[float] = []
        self._seconds: list[float] = []

    def save(
        self, step: int, module: LanguageModelLoss, optimizer: torch.optim.Optimizer, about: dict[str, Any]
    ) -> float:
        """Start to save a step, as `checkpoint.save` does; return the seconds that training waited.

        Raises:
            StorageError: the save before this one failed, on some rank; all ranks raise.
        """
        began = time.monotonic()
        self._join()
        state = checkpoint.snapshot(module, optimizer, self._host)
        self._thread = threading.Thread(target=self._work, args=(step, state, about), name="save", daemon=True)
        self._thread.start()
        self._stalls.append(time.monotonic() - began)
        return self._stalls[-1]

    @property
    def failed(self) -> bool:
        """Whether this rank knows that a save failed; `wait` then raises on all ranks."""
        return self._error is not None

    def wait(self) -> float:
        """Wait for the save that is under way; return the seconds.

        Raises:
            StorageError: it failed, on some rank; all ranks raise.
        """
        began = time.monotonic()
        self._join()
        self._stalls.append(time.monotonic() - began)
        return self._stalls[-1]

    def figures(self) -> dict[str, float]:
        """Saves since the start of this process, seconds that training waited for them, and the longest save."""
        return {
            "saves": len(self._seconds),
            "stall_seconds": round(sum(self._stalls), 3),
            "largest_stall_seconds": round(max(self._stalls, default=0.0), 3),
            "longest_save_seconds": round(max(self._seconds, default=0.0), 3),
        }

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.wait()
        elif self._thread is not None:
            # What stops all ranks lets the save end; after a broken collective nobody knows whether the others live.
            self._thread.join(timeout=None if isinstance(error, PrealignError) else 10.0)
        if self._thread is None or not self._thread.is_alive():
            dist.destroy_process_group(self._group)

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error

    def _work(self, step: int, state: dict[str, Any], about: dict[str, Any]) -> None:
        try:
            began = time.monotonic()
            path = checkpoint.write(self.folder, step, state, about, self.world, self._group)
            self._seconds.append(time.monotonic() - began)
            checkpoint.on_rank_0(self.world, lambda: self._tidy(path, about["inputs"]), self._group)
        except BaseException as error:  # raised by the training thread, on every rank
            self._error = error

    def _tidy(self, path: Path, inputs: dict[str, Any]) -> None:
        if self._seconds[-1] > SLOW and max(self._seconds[:-1], default=0.0) <= SLOW:
            say(
                f"cpt: saving took {self._seconds[-1]:.0f} s, and a run that is asked to stop saves first: give it "
                "twice that time (torchrun --shutdown-timeout, a scheduler's grace time)"
            )
        try:
            verify(path)  # before anything older goes
            checkpoint.prune(self.folder, self.keep, inputs)
        except DataError as error:
            raise StorageError(f"{error} -- it was written a moment ago, so check the disk") from error
        except OSError as error:
            raise storage_error(self.folder, error) from error
