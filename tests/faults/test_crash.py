"""The crash-consistency enumerator, the loss of power, and the bit-flip fuzz (rows 1-3, 16-18, 22, 28, 30).

A save (write, publish, LATEST, prune) is done again and again in forked processes; the k-th time its process is killed
right behind its k-th operation on the file system, and once more in the middle of it where it is a write. Whatever is
left, the checkpoint that was there before must be found, whole and unchanged, or the new one.
"""

import builtins
import io
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from prealign_cpt.model.world import World
from prealign_cpt.run.errors import DataError
from prealign_cpt.run.manifest import NAME, sha256, verify
from prealign_cpt.train import checkpoint
from prealign_cpt.verify import inspect
from tests.faults.ranks import start, values

INPUTS = {"align": "a", "data": "d"}
CALLS = ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "fsync", "truncate", "link")
FLIPS = 200


class Operations:
    """Counts what this process does to the file system; calls `then` after each operation.

    Covers the calls of `os` that change something, opening a file to write, and every write, flush and close of it.
    That is all there is: the shards are written by Python file objects too.
    """

    def __init__(self, then: Callable[["Operations", str], None], torn: Callable[["Operations"], bool]) -> None:
        self.count, self.then, self.torn = 0, then, torn
        self.unsynced: set[str] = set()
        self.names: list[str] = []

    def done(self, name: str) -> None:
        self.count += 1
        self.names.append(name)
        self.then(self, name)

    def install(self) -> None:
        for name in CALLS:
            setattr(os, name, self._counted(name, getattr(os, name)))
        real = io.open

        def opened(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            found = real(file, mode, *rest, **options)
            if isinstance(file, int) or not set(mode) & set("wxa+"):
                return found
            self.unsynced.add(str(file))
            self.done("open")
            return _Written(found, self, str(file))

        io.open = builtins.open = opened  # type: ignore[assignment]

    def _counted(self, name: str, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "fsync":
                self.unsynced.discard(os.readlink(f"/proc/self/fd/{arguments[0]}"))
            value = real(*arguments, **options)
            if name in ("rename", "replace"):
                old, new = (str(path) for path in arguments[:2])
                self.unsynced = {
                    new + path[len(old) :] if path == old or path.startswith(old + "/") else path
                    for path in self.unsynced
                }
            self.done(name)
            return value

        return call


class _Written:
    """A file that is written to; everything else is the file's own."""

    def __init__(self, file: Any, operations: Operations, path: str) -> None:
        self._file, self._operations, self._path = file, operations, path

    def write(self, data: Any) -> int:
        if self._operations.torn(self._operations):
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        size = self._file.write(data)
        self._operations.unsynced.add(self._path)
        self._operations.done("write")
        return int(size)

    def flush(self) -> None:
        self._file.flush()
        self._operations.done("flush")

    def close(self) -> None:
        if not self._file.closed:
            self._file.close()
            self._operations.done("close")

    def __enter__(self) -> "_Written":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _state(rank: int, step: int) -> dict[str, Any]:
    """A state with a part of each rank's own, as shards are."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    return {"model": {f"weight_{rank}": torch.randn(8, 8, generator=generator)}, "optimizer": {"updates": step}}


def _save(folder: Path, step: int, world: World) -> None:
    """All that a save does, in the order in which `Saver` does it."""
    path = checkpoint.write(folder, step, _state(world.rank, step), {"inputs": INPUTS}, world)

    def tidy() -> None:
        verify(path)
        checkpoint.prune(folder, 2, INPUTS)

    world.on_rank_0(tidy)


def _world(rank: int, size: int, store: Path) -> World:
    dist.init_process_group("gloo", store=dist.FileStore(str(store), size), rank=rank, world_size=size)
    return World(rank, size, torch.device("cpu"), dist.HashStore())


def _forked(size: int, store: Path, work: Callable[[World], None]) -> list[int]:
    """Run ranks as forks of this process; their exit codes. One that hangs is killed."""
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # gloo's lament about a peer that died
                work(_world(rank, size, store))
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(child)
    codes, end = [], time.monotonic() + 20
    for child in children:
        while (found := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() > end:
                os.kill(child, signal.SIGALRM)
            time.sleep(0.002)
        codes.append(os.waitstatus_to_exitcode(found[1]))
    return codes


def _digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _check(folder: Path, before: Path, what: str) -> int:
    """The invariants, after whatever happened to the save of step 3; the step that a new start would go on from."""
    published = (folder / "step-0000000003").exists()
    found = checkpoint.latest(folder, INPUTS)
    assert found is not None, what
    assert not list(folder.glob("damaged-*")), f"{what}: something half was published"
    assert found.name == ("step-0000000003" if published else "step-0000000002"), what
    assert verify(found)["about"]["step"] == (3 if published else 2), what
    assert _digests(folder / "step-0000000002") == _digests(before / "step-0000000002"), what
    if not published:
        assert _digests(folder / "step-0000000001") == _digests(before / "step-0000000001"), what
    assert (folder / "LATEST").read_text() == found.name + "\n", what
    assert not list(folder.glob(".tmp-step*")), what
    assert not [one for one in inspect(folder.parent) if one.damaged], what
    return 3 if published else 2


def _prepared(base: Path, size: int) -> Path:
    folder = base / f"before-{size}" / "train"
    folder.mkdir(parents=True)

    def twice(world: World) -> None:
        for step in (1, 2):
            _save(folder, step, world)

    assert _forked(size, base / f"store-{size}", twice) == [0] * size
    return folder


def _enumerate(rank: int, ranks: int, base: Path, size: int) -> dict[str, Any]:
    """Kill a save after each operation of each of its ranks. Done in a process in which no collective ever ran."""
    del os.environ["RANK"]
    before = _prepared(base, size)
    counts: dict[str, Any] = {"operations": [], "kills": 0, "torn_writes": 0, "from_2": 0, "from_3": 0}

    def attempt(victim: int, k: int, torn: bool) -> None:
        folder = base / "run" / "train"
        shutil.copytree(before, folder)

        def killed(world: World) -> None:
            if world.rank != victim:
                return _save(folder, 3, world)
            operations = Operations(
                then=lambda o, _: os.kill(os.getpid(), signal.SIGKILL) if o.count == k and not torn else None,
                torn=lambda o: torn and o.count + 1 == k,
            )
            operations.install()
            _save(folder, 3, world)
            (base / "names").write_text(json.dumps(operations.names))

        codes = _forked(size, base / f"store-{victim}-{k}-{torn}", killed)
        step = _check(folder, before, f"{size} rank(s), rank {victim}, operation {k}, torn {torn}: {codes}")
        shutil.rmtree(folder.parent)
        if k == 0:
            assert codes == [0] * size and step == 3
        else:
            assert codes[victim] == -signal.SIGKILL and -signal.SIGALRM not in codes, codes
            counts["torn_writes" if torn else "kills"] += 1
            counts[f"from_{step}"] += 1

    for victim in range(size):
        attempt(victim, 0, False)  # undisturbed
        names = json.loads((base / "names").read_text())
        counts["operations"].append(len(names))
        for k, name in enumerate(names, 1):
            attempt(victim, k, False)
            if name == "write" and size == 1:
                attempt(victim, k, True)
    return counts


def _lose_power(rank: int, ranks: int, base: Path) -> dict[str, Any]:
    """After each operation the disk as a loss of power may leave it: files that were not flushed to it are empty."""
    del os.environ["RANK"]
    before = _prepared(base, 1)
    folder = base / "run" / "train"
    shutil.copytree(before, folder)

    def work(world: World) -> None:
        real_open, real = io.open, {name: getattr(os, name) for name in CALLS}

        def image(operations: Operations, name: str) -> None:
            changed, changed_open = {name: getattr(os, name) for name in CALLS}, io.open
            io.open = builtins.open = real_open  # type: ignore[assignment]
            for name in CALLS:
                setattr(os, name, real[name])
            copy = base / f"image-{operations.count}"
            shutil.copytree(folder.parent, copy)
            for path in operations.unsynced:
                lost = copy / Path(path).relative_to(folder.parent)
                if lost.is_file():
                    os.truncate(lost, 0)
            io.open = builtins.open = changed_open  # type: ignore[assignment]
            for name in CALLS:
                setattr(os, name, changed[name])

        Operations(image, lambda _: False).install()
        _save(folder, 3, world)

    assert _forked(1, base / "store", work) == [0]
    images = sorted(base.glob("image-*"))
    for copy in images:
        _check(copy / "train", before, f"{copy.name} without what was not flushed")
    return {"images": len(images)}


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_a_save_that_is_killed_after_any_operation_loses_nothing(size: int, tmp_path: Path, capsys: Any) -> None:
    counts = values(start(1, _enumerate, tmp_path, size, seconds=280))[0]
    with capsys.disabled():
        print(f"\ncrash enumerator, {size} rank(s): {json.dumps(counts)}, nothing lost", flush=True)
    assert counts["kills"] == sum(counts["operations"]) > 60 and counts["torn_writes"] > (20 if size == 1 else -1)
    assert counts["from_2"] > 40 and counts["from_3"] > 10, "both sides of the rename were met"


@pytest.mark.slow
def test_a_loss_of_power_after_any_operation_loses_nothing(tmp_path: Path, capsys: Any) -> None:
    counts = values(start(1, _lose_power, tmp_path, seconds=120))[0]
    with capsys.disabled():
        print(f"\nloss of power, 1 rank: {json.dumps(counts)}, nothing lost", flush=True)
    assert counts["images"] > 40


def _flip_all(rank: int, ranks: int, base: Path) -> dict[str, Any]:
    del os.environ["RANK"]
    before = _prepared(base, 2)
    names = [path.name for path in sorted((before / "step-0000000002").iterdir())]
    draw = random.Random(0)
    counts = {"flips": 0, "detected": 0, "fallback_identical": 0, **dict.fromkeys(names, 0)}
    for n in range(FLIPS):
        folder = base / "flip" / "train"
        shutil.copytree(before, folder)
        name = names[n % len(names)]
        path = folder / "step-0000000002" / name
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        counts["flips"] += 1
        counts[name] += 1
        try:
            verify(path.parent)
        except DataError:
            counts["detected"] += 1
        damaged = [one for one in inspect(folder.parent) if one.damaged]
        found = checkpoint.latest(folder, INPUTS)
        same = found is not None and _digests(found) == _digests(before / "step-0000000001")
        counts["fallback_identical"] += same and len(damaged) == 1
        shutil.rmtree(folder.parent)
    return counts


@pytest.mark.slow
def test_every_flipped_bit_is_noticed(tmp_path: Path, capsys: Any) -> None:
    counts = values(start(1, _flip_all, tmp_path, seconds=120))[0]
    with capsys.disabled():
        print(f"\nbit flips: {json.dumps(counts)}", flush=True)
    assert counts["flips"] == counts["detected"] == counts["fallback_identical"] == FLIPS
    assert counts[NAME] >= FLIPS // 5 and counts[".metadata"] >= FLIPS // 5
