"""Saving behind the training's back: one checkpoint at a time, verified before an older one goes.

step --snapshot--> host memory       the step waits for this, and for a save still under way
                       |  a thread, while training goes on
                       +--write--> train/step-…  --verify--> --prune-->
"""

import datetime
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.world import World
from prealign_cpt.run.errors import PrealignError, StorageError
from prealign_cpt.run.folder import KEPT, say
from prealign_cpt.run.manifest import storage_error
from prealign_cpt.train.checkpoint import damage, prune, snapshot, write

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
        """Start to save a step, as `write` does; return the seconds that training waited.

        Raises:
            StorageError: the save before this one failed, on some rank; all ranks raise.
        """
        return self._start(self.folder, step, lambda: snapshot(module, optimizer, self._host), about)

    def save_weights(self, step: int, module: LanguageModelLoss, dtype: torch.dtype, about: dict[str, Any]) -> float:
        """The same for a milestone: the weights that move, rounded to what training computes with."""
        return self._start(self.folder / KEPT, step, lambda: snapshot(module, None, dtype=dtype), about)

    @property
    def failed(self) -> bool:
        """Whether this rank knows that a save failed; `wait` then raises on all ranks."""
        return self._error is not None

    def wait(self) -> None:
        """Wait for the save that is under way.

        Raises:
            StorageError: it failed, on some rank; all ranks raise.
        """
        began = time.monotonic()
        self._join()
        self._stalls.append(time.monotonic() - began)

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

    def _start(self, folder: Path, step: int, taken: Callable[[], dict[str, Any]], about: dict[str, Any]) -> float:
        began = time.monotonic()
        self._join()
        thread = threading.Thread(target=self._save, args=(folder, step, taken(), about), name="save", daemon=True)
        self._thread = thread
        thread.start()
        self._stalls.append(time.monotonic() - began)
        return self._stalls[-1]

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error

    def _save(self, folder: Path, step: int, state: dict[str, Any], about: dict[str, Any]) -> None:
        try:
            began = time.monotonic()
            path = write(folder, step, state, about, self.world, self._group)
            self._seconds.append(time.monotonic() - began)
            damaged = damage(path, self.world, self._group)  # before anything older goes
            self.world.on_rank_0(lambda: self._tidy(damaged, about["inputs"]), self._group)
        except BaseException as error:  # raised by the training thread, on every rank
            self._error = error

    def _tidy(self, damaged: str, inputs: dict[str, Any]) -> None:
        if self._seconds[-1] > SLOW and max(self._seconds[:-1], default=0.0) <= SLOW:
            say(
                f"train: saving took {self._seconds[-1]:.0f} s, and a run that is asked to stop saves first: give it "
                "twice that time (torchrun --shutdown-timeout, a scheduler's grace time)"
            )
        if damaged:
            raise StorageError(f"{damaged} -- it was written a moment ago, so check the disk")
        try:
            prune(self.folder, self.keep, inputs)  # never what lies in `KEPT`
        except OSError as error:
            raise storage_error(self.folder, error) from error
