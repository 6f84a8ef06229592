"""Ranks that are killed, hang, raise or are stopped in the middle of something (rows 1-5, 8-10, 12, 22, 23).

Every fault is met by a run of its own, of two ranks, after the save at step 2; afterwards all of them go on in one
start and must end with the weights and the curve of a run that met none.
"""

import errno
import os
import re
import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prealign_cpt.model.world import World, process_group
from prealign_cpt.run import signals
from prealign_cpt.run.manifest import verify
from prealign_cpt.train import loop
from prealign_cpt.train.metrics import Log
from prealign_cpt.verify import inspect
from tests.faults.ranks import Ended, Ranks, start, values
from tests.faults.runs import alone, curve, go, make_base

pytestmark = pytest.mark.slow

KILLED, ENDED = -signal.SIGKILL, 0
SILENT = "rank 1 died or does not answer"
FAULTS: dict[str, tuple[str, list[int], set[int], str]] = {
    "killed in a save": ("kill@save.after_shard:rank=1:count=2", [ENDED, KILLED], {2}, SILENT),
    "killed before the rename": ("kill@publish:rank=0:count=2", [KILLED, ENDED], {2}, ""),
    "killed before LATEST": ("kill@save.after_rename:rank=0:count=2", [KILLED, ENDED], {2, 4}, ""),
    "killed in a step": ("kill@step:rank=1:count=4", [ENDED, KILLED], {2}, SILENT),
    "hangs": ("stop@step:rank=1:count=4", [ENDED, KILLED], {2}, SILENT),
    "disk full in a save": (
        "raise@save.after_shard:rank=1:count=2", [ENDED, ENDED], {2},
        "StorageError: .*step-0000000004: saving failed: rank 1: OSError: .*No space left on device; check the disk",
    ),
    "raises": ("", [ENDED, ENDED], {2}, "RankError: rank 1: LookupError: the text of step 4 is gone"),
}  # fmt: skip
"""Name to: the fault, how the ranks end, the checkpoints that are sound then, and what a rank that lives says."""

SURVIVED = {
    "small disk": ({2}, 74, "StorageError: .*step-0000000004: saving failed: rank 1: .*File too large"),
    "metrics": ({2}, 74, "StorageError: .*metrics.jsonl: cannot write: No space left on device"),
    "asked while evaluating": ({2, 3}, 75, "StoppedError: stopped by .* after step 3, saved at step 3"),
}
"""The same for faults that all processes survive: sound checkpoints, exit code, message."""


def _wait_for(path: Path) -> None:
    """A save is written behind the training's back; here the fault must come after it."""
    end = time.monotonic() + 20
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.01)


def _one(rank: int, size: int, folder: Path, name: str) -> dict[str, Any]:
    def act(step: int) -> None:
        if step == 3:
            _wait_for(folder / name / "train" / "LATEST")
        if name == "raises" and rank == 1 and step == 4:
            raise LookupError("the text of step 4 is gone")

    seconds = 10.0 if name == "hangs" else 60.0
    return alone(rank, size, folder, [{"name": name, "act": act}], seconds=seconds)[0]


def _survives(rank: int, size: int, folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    signals.install()
    real_fault, real_write = loop.fault, Log.write

    def small(step: int) -> None:
        if step == 3:
            _wait_for(folder / "small disk" / "train" / "LATEST")
        if rank == 1 and step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    def asked(point: str) -> None:
        if point == "eval" and rank == 1 and len(list((folder / "asked while evaluating").rglob("LATEST"))):
            os.kill(os.getpid(), signal.SIGTERM)

    def full(log: Log, figures: dict[str, Any]) -> None:
        if figures["step"] == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(log.path))
        real_write(log, figures)

    def forget(world: World) -> None:
        """A real run ends with its first failure; here the next one begins in the same process group."""
        world.any(False)
        if rank == 0:
            world.store.delete_key("failure")
        world.any(False)

    with process_group(torch.device("cpu"), timeout_minutes=0.5) as world:
        found["small disk"] = go(folder, "small disk", world, act=small)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        forget(world)
        loop.fault = asked
        name = "asked while evaluating"
        latest = folder / name / "train" / "LATEST"
        wait = lambda step: _wait_for(latest) if step == 3 else None  # noqa: E731
        found[name] = go(folder, name, world, act=wait, eval_every=3)
        loop.fault = real_fault
        forget(world)
        if rank == 0:
            Log.write = full  # type: ignore[method-assign]
        latest = folder / "metrics" / "train" / "LATEST"
        found["metrics"] = go(folder, "metrics", world, act=wait)
    return found


def _sound(run: Path) -> set[int]:
    """Steps with a checkpoint that verifies."""
    steps = [path for path in (run / "train").glob("step-*") if verify(path)]
    return {int(path.name.removeprefix("step-")) for path in steps}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("death")
    make_base(folder)
    return folder


@pytest.fixture(scope="module")
def ended(folder: Path) -> dict[str, tuple[list[Ended], set[int]]]:
    """How the ranks ended that did not all live on, and the checkpoints that were sound then."""
    found = {}
    begun = {
        name: Ranks(2, _one, folder, name, fault=fault) for name, (fault, *_, text) in FAULTS.items() if text == SILENT
    }  # side by side: one waits in vain for the other most of the time
    for name, (fault, *_) in FAULTS.items():
        ranks = begun.get(name) or Ranks(2, _one, folder, name, fault=fault)
        found[name] = ranks.end(60, grace=0.5 if name == "hangs" else 30), _sound(folder / name)
    return found


@pytest.fixture(scope="module")
def survived(folder: Path) -> dict[str, tuple[list[dict[str, Any]], set[int]]]:
    of_ranks = values(start(2, _survives, folder))
    return {name: ([rank[name] for rank in of_ranks], _sound(folder / name)) for name in SURVIVED}


@pytest.fixture(scope="module")
def resumed(folder: Path, ended: Any, survived: Any) -> dict[str, dict[str, Any]]:
    """Every run again, in one start, and one that never met a fault; what rank 0 brought back."""
    names = [*FAULTS, *SURVIVED, "undisturbed"]
    jobs = [{"name": name} | ({"eval_every": 3} if "evaluating" in name else {}) for name in names]
    return dict(zip(names, values(start(2, alone, folder, jobs, seconds=120))[0], strict=True))


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_half_is_published_and_the_others_end_and_say_why(ended: dict[str, Any], name: str) -> None:
    _, codes, sound, text = FAULTS[name]
    ranks, found = ended[name]
    assert [one.code for one in ranks] == codes, ranks
    assert found == sound
    for rank, one in enumerate(ranks):
        if one.code == ENDED:
            assert "still there" not in one.error
            if rank == 0:
                assert re.search(text, one.value["error"]), one.value["error"]
                assert one.value["code"] == (74 if "Storage" in text else 70)


@pytest.mark.parametrize("name", SURVIVED)
def test_an_error_stops_both_ranks_with_its_exit_code(survived: dict[str, Any], name: str) -> None:
    sound, code, text = SURVIVED[name]
    ranks, found = survived[name]
    assert found == sound
    for one in ranks[: 1 if name == "metrics" else 2]:  # rank 0 took the store with it when it could not write
        assert re.search(text, one["error"]) and one["code"] == code, one["error"]


@pytest.mark.parametrize("name", [*FAULTS, *SURVIVED])
def test_the_run_goes_on_and_ends_as_if_nothing_had_happened(
    folder: Path, resumed: dict[str, dict[str, Any]], name: str
) -> None:
    found, straight = resumed[name], resumed["undisturbed"]
    assert not found["error"], found["error"]
    assert curve(folder / name) == curve(folder / "undisturbed")
    for key, value in straight["weights"].items():
        assert np.array_equal(found["weights"][key], value), key
    assert not list((folder / name).rglob(".tmp-*"))
    assert not [finding for finding in inspect(folder / name) if finding.damaged]
    assert _sound(folder / name) == {8, 9}
    assert (folder / name / "train" / "LATEST").read_text() == "step-0000000009\n"
