"""Work cut into tasks, on all cores, that goes on where it was stopped.

    tasks by name --worker processes--> files of each in one folder, then NAME.json with its result: done, never again

A task is a pure function of its argument, so how many workers there are, on how many machines, decides nothing.
"""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from prealign_cpt.run.errors import StorageError
from prealign_cpt.run.manifest import atomic_write

Argument = TypeVar("Argument")


BYTES_A_WORKER = 20_000_000
"""Of text, for which a process of its own is worth the ten seconds that it takes to begin."""


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def worth(workers: int, num_bytes: int) -> int:
    """How many of some workers to take for so much text."""
    return max(1, min(workers, num_bytes // BYTES_A_WORKER))


def each(
    function: Callable[[Argument, Path], Any],
    tasks: Mapping[str, Argument],
    folder: Path,
    workers: int,
    what: str,
) -> dict[str, Any]:
    """Do what is not done yet; the results of all tasks, in their order.

    Args:
        function: of a module, since other processes import it. It is given the argument of a task and the path, without
            suffix, of the files that it may write; it returns something JSON-serialisable.
        tasks: their arguments by name, which may stand in folders ("web/00003").
        folder: for files and results; made if it is not there.
        workers: processes; with one, or one task, all is done in this one.
        what: what is counted, for the person who watches.

    Raises:
        StorageError: a worker was killed, mostly for want of memory.
        what `function` raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left = {name: argument for name, argument in tasks.items() if not _result(folder, name).is_file()}
    with tqdm(total=len(tasks), initial=len(tasks) - len(left), desc=what, unit="task", disable=None) as bar:
        if min(workers, len(left)) <= 1:
            for name, argument in left.items():
                _do(function, argument, folder, name)
                bar.update()
        else:
            _in_processes(function, left, folder, min(workers, len(left)), bar)
    return {name: json.loads(_result(folder, name).read_text(encoding="utf-8")) for name in tasks}


def take(path: Path, to: Path) -> None:
    """Give a file that a task has written another name too, without a copy where the file system can. It also stays
    where it is: until the stage is published it may be asked for again."""
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)


def _in_processes(
    function: Callable[[Argument, Path], Any], tasks: Mapping[str, Argument], folder: Path, workers: int, bar: Any
) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin) as pool:
        waiting = {pool.submit(_do, function, argument, folder, name) for name, argument in tasks.items()}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    bar.update()
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():  # who would else end their tasks first
                child.terminate()
            if isinstance(error, BrokenProcessPool):
                raise StorageError(
                    "a worker process was killed, mostly for want of memory; start again with fewer --workers: what is "
                    "done stays done"
                ) from error
            raise


def _begin() -> None:
    """In a worker: Ctrl-C is for the parent, who ends it; and one thread, since there is a process for each core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _do(function: Callable[[Argument, Path], Any], argument: Argument, folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    result = function(argument, folder / name)
    atomic_write(_result(folder, name), json.dumps(result))


def _result(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
