"""The folders of checkpoints: written by all ranks, complete or not at all, found again, and removed when old.

shards on the device --snapshot--> host memory
train/.tmp-step-…/  --write, hash--> vote of all ranks --> MANIFEST.json --rename--> train/step-…  --latest--> verified

saver.py does it behind the training's back; stored.py reads the tensors.

train/step-0000000100/        torch.distributed.checkpoint files + MANIFEST.json
train/LATEST                  name of the newest one, for people and scripts
train/kept/step-0000000008/   a milestone (`train.save_at`): weights alone, never removed; nothing resumes from it
"""

import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.utils._pytree import tree_map_only

from prealign_cpt import __version__
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.world import World, local_shard
from prealign_cpt.run.errors import DataError, RecipeError, StorageError
from prealign_cpt.run.faults import fault
from prealign_cpt.run.folder import KEPT, changes, say
from prealign_cpt.run.manifest import (
    atomic_write,
    extra_files,
    hashed,
    new_folder,
    read_manifest,
    verify,
)
from prealign_cpt.train.stored import stored_state

_NAME = re.compile(r"step-(\d{10})")
_KILLED = f".tmp-step-{'[0-9]' * 10}-{'[0-9a-f]' * 8}"
"""Pattern of the folders that a killed save leaves."""


def snapshot(
    module: LanguageModelLoss,
    optimizer: torch.optim.Optimizer | None,
    host: dict[Any, torch.Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """A copy of this rank's shards in host memory, in the layout of the checkpoint.

    Args:
        optimizer: None for the weights alone.
        host: tensors of an earlier copy, which are written over: asking the system for new memory takes longer than
            copying. It holds those of this copy afterwards.
        dtype: what the tensors are rounded to; None: nothing.
    """
    old = dict(host or {})
    copies: dict[Any, torch.Tensor] = {} if host is None else host
    copies.clear()

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        # Tied weights are one tensor under two names; empty shards have no address, so the whole shape belongs to it.
        key = (local_shard(tensor).data_ptr(), tensor.shape, tensor.dtype)
        if key not in copies:
            copies[key] = old[key] if key in old else tensor.detach().to("cpu", dtype, copy=True)
            if key in old:
                local_shard(copies[key]).copy_(local_shard(tensor.detach()))
        return copies[key]

    return dict(tree_map_only(torch.Tensor, copied, stored_state(module, optimizer)))


def write(
    folder: Path, step: int, state: dict[str, Any], about: dict[str, Any], world: World, group: Any = None
) -> Path:
    """Publish a snapshot as `folder/step-…`; every rank calls this at the same step. LATEST points to it if training
    can go on from it.

    Args:
        about: for the manifest; `inputs` in it decides whether a later run may resume from here.

    Raises:
        StorageError: writing failed on some rank, on all ranks together; earlier checkpoints are untouched.
    """
    target = folder / f"step-{step:010d}"
    manifest = {**about, "step": step, "world": world.size, "version": __version__, "torch": torch.__version__}
    files: dict[str, Any] = {}
    with ExitStack() as pending:  # holds the hidden folder, on rank 0
        aside = Path(world.on_rank_0(lambda: str(pending.enter_context(new_folder(target, manifest, files))), group))
        votes: list[Any] = [None] * world.size
        dist.all_gather_object(votes, _write_shard(aside, state, world, group), group=group)
        failures = [f"rank {rank}: {text}" for rank, (_, text) in enumerate(votes) if text]
        if any(text is not None for _, text in votes):
            raise StorageError(f"{target}: saving failed: {'; '.join(failures[:3])}; check the disk")

        def publish() -> None:
            for hashes, _ in votes:
                files.update(hashes)
            pending.close()
            fault("save.after_rename")
            if "optimizer" in state:
                atomic_write(folder / "LATEST", target.name + "\n")
            fault("save.end")

        world.on_rank_0(publish, group)
    return target


def _write_shard(
    aside: Path, state: dict[str, Any], world: World, group: Any
) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Write what this rank holds; the hashes of its files, and what went wrong ("": elsewhere; None: nothing).

    Nothing is raised, because every rank must reach the vote.
    """
    try:
        fault("save.begin")
        dcp.save(state, storage_writer=dcp.FileSystemWriter(aside), process_group=group)
        fault("save.after_shard")
        hashes = hashed(aside, sorted(aside.glob(f"__{world.rank}_*")))
        fault("save.after_hash")
        return hashes, None
    except CheckpointException as error:  # not an Exception; its own text has many lines
        return {}, str(error.failures[world.rank][0]) if world.rank in error.failures else ""
    except Exception as error:
        return {}, f"{type(error).__name__}: {error}"


def latest(
    folder: Path, inputs: dict[str, Any], accept: tuple[str, ...] = (), world: World | None = None
) -> Path | None:
    """The newest sound checkpoint of a run, verified; None if there is none.

    What a killed save left is removed, and LATEST is put right. A damaged checkpoint is renamed, so that the run can
    write that step again.

    Args:
        accept: inputs that may differ.
        world: the ranks that share out the files to verify; every one of them calls this. None: this process alone.

    Raises:
        RecipeError: the checkpoint was made from other inputs, which are named.
    """

    def once(work: Callable[..., Any], *arguments: Any) -> Any:
        return world.on_rank_0(partial(work, *arguments)) if world else work(*arguments)

    while True:
        path: Path | None = once(_newest, folder)
        if path is None:
            return None
        fault_there = damage(path, world)
        if not fault_there:
            once(_take, path, inputs, accept)
            return path
        once(_set_aside, path, fault_there)


def milestones(folder: Path, inputs: dict[str, Any], accept: tuple[str, ...] = ()) -> set[int]:
    """The steps whose milestones are there. One process calls this, before anything is trained.

    Args:
        folder: of the checkpoints.
        accept: inputs that may differ.

    Raises:
        RecipeError: one was made from other inputs, which are named.
        DataError: a manifest is damaged.
    """
    _newest(folder / KEPT)  # removes what a killed save left
    paths = _checkpoints(folder / KEPT)
    for path in paths:
        _check_inputs(path, read_manifest(path), inputs, accept)
    return {step_of(path) for path in paths}


def kept(run: Path) -> dict[int, Path]:
    """What there is of each step of a run, by steps: its checkpoint, else its milestone."""
    folder = run / "train"
    return dict(sorted((step_of(path), path) for path in [*_checkpoints(folder / KEPT), *_checkpoints(folder)]))


def step_of(path: Path) -> int:
    """The step of a checkpoint or milestone."""
    return int(path.name.removeprefix("step-"))


def _newest(folder: Path) -> Path | None:
    for left in folder.glob(_KILLED):
        shutil.rmtree(left)
    return next(reversed(_checkpoints(folder)), None)


def damage(path: Path, world: World | None = None, group: Any = None) -> str:
    """What is wrong with a checkpoint's files, "" if nothing is. The ranks share out the reading.

    Args:
        group: of the ranks that call this; None: of all.
    """
    try:
        verify(path, share=(world.rank, world.size) if world else (0, 1))
        mine = ""
    except DataError as error:
        mine = str(error)
    return next(filter(None, world.gather(mine, group)), "") if world else mine


def _set_aside(path: Path, why: str) -> None:
    aside = path.with_name(f"damaged-{path.name}-{secrets.token_hex(4)}")
    path.rename(aside)
    say(f"train: {why} -- renamed to {aside.name}, an older checkpoint is tried")


def _take(path: Path, inputs: dict[str, Any], accept: tuple[str, ...]) -> None:
    manifest = read_manifest(path)
    _check_inputs(path, manifest, inputs, accept)
    for name in extra_files(path, manifest):
        say(f"train: {path / name}: no part of the checkpoint, not read")
    pointer = path.parent / "LATEST"
    if not pointer.is_file() or pointer.read_bytes() != f"{path.name}\n".encode():
        atomic_write(pointer, path.name + "\n")


def _check_inputs(path: Path, manifest: dict[str, Any], inputs: dict[str, Any], accept: tuple[str, ...]) -> None:
    if changed := changes(manifest["about"]["inputs"], inputs, accept):
        raise RecipeError(
            f"{path}: was made from other inputs ({', '.join(changed)}); start again with --redo train, "
            "or give the run another name"
        )


def prune(folder: Path, keep: int, inputs: dict[str, Any]) -> None:
    """Remove a run's oldest checkpoints beyond the newest `keep`; nothing else in the folder is touched.

    Only those made from `inputs` are counted and removed. Also kept is the newest one that is not from a row of spikes.
    """
    made_alike, healthy = [], []
    for path in _checkpoints(folder):
        try:
            about = read_manifest(path)["about"]
        except DataError:
            continue
        if about["inputs"] == inputs:
            made_alike.append(path)
            if about.get("healthy", True):
                healthy.append(path)
    for path in made_alike[:-keep]:
        if path not in healthy[-1:]:
            aside = folder / f".tmp-{path.name}-{secrets.token_hex(4)}"
            path.rename(aside)  # so that a kill while it is removed leaves no half checkpoint
            shutil.rmtree(aside)


def _checkpoints(folder: Path) -> list[Path]:
    """What is named like a checkpoint, the oldest step first; the clock and the files' times are not asked."""
    return sorted(p for p in folder.glob("step-*") if _NAME.fullmatch(p.name) and p.is_dir() and not p.is_symlink())


def check_space(
    folder: Path,
    module: LanguageModelLoss,
    optimizer: torch.optim.Optimizer,
    world: World,
    num_milestones: int = 0,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Look whether two checkpoints and the milestones to come fit on the disk, before any work is done; every rank
    calls this.

    Args:
        dtype: of the milestones.

    Raises:
        StorageError: they do not.
    """
    moving = [local_shard(p) for p in module.parameters() if p.requires_grad]
    moments = [local_shard(t) for s in optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor)]
    needed = 2 * world.sum(sum(t.numel() * t.element_size() for t in moving + moments))
    needed += num_milestones * dtype.itemsize * world.sum(sum(t.numel() for t in moving))
    free = shutil.disk_usage(folder).free
    if world.any(free < needed):
        more = f" and {num_milestones} milestones" if num_milestones else ""
        raise StorageError(
            f"{folder}: {free / 1e9:.2f} GB are free, and two checkpoints{more} need {needed / 1e9:.2f} GB; free some "
            "space, or choose another `out`"
        )
