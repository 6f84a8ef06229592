"""Work by task: in any number of processes, and on from where it was stopped."""

import os
import signal
from pathlib import Path

import pytest

from prealign_cpt.run.errors import DataError, StorageError
from prealign_cpt.run.tasks import each


def doubled(number: int, out: Path) -> int:
    if number == 13:
        raise DataError("13: not a lucky number")
    if number == 14:
        os.kill(os.getpid(), signal.SIGKILL)
    out.with_suffix(".txt").write_text(f"{number}\n" * 2)
    with (out.parent / "log").open("a") as file:
        file.write(f"{out.name}\n")
    return 2 * number


@pytest.mark.parametrize("workers", [1, 8])
def test_any_number_of_workers_does_the_same(tmp_path: Path, workers: int):
    assert each(doubled, {f"{k}": k for k in range(5)}, tmp_path, workers, "test") == {f"{k}": 2 * k for k in range(5)}
    assert [(tmp_path / f"{k}.txt").read_text() for k in range(5)] == [f"{k}\n{k}\n" for k in range(5)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_told_and_what_is_done_is_not_done_again(tmp_path: Path, workers: int):
    with pytest.raises(DataError, match="not a lucky number"):
        each(doubled, {"a": 1, "b": 13}, tmp_path, workers, "test")
    assert each(doubled, {"a": 1, "b": 2}, tmp_path, workers, "test") == {"a": 2, "b": 4}
    done = (tmp_path / "log").read_text().split()
    # Beside the one that failed, another process may have been ended before it could say that it was done.
    assert done.count("b") == 1 and done.count("a") in ((1,) if workers == 1 else (1, 2))


def test_a_killed_worker_is_told(tmp_path: Path):
    with pytest.raises(StorageError, match=r"a worker process was killed, .*--workers"):
        each(doubled, {"a": 1, "b": 14, "c": 14}, tmp_path, 2, "test")
    assert each(doubled, {"a": 1, "b": 2, "c": 3}, tmp_path, 1, "test") == {"a": 2, "b": 4, "c": 6}
