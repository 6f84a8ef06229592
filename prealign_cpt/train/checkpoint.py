"""Checkpoints of a sharded run: written aside by all ranks, hashed, voted on, renamed; verified before they load.

    shards on the device --snapshot--> host memory
    cpt/.tmp-step-...-3f2a/  --write, hash--> vote of all ranks --> MANIFEST.json --rename--> cpt/step-0000000100/

    cpt/step-0000000100/   torch.distributed.checkpoint files + MANIFEST.json
    cpt/LATEST             name of the newest one, for people and scripts

A checkpoint can be read at another number of ranks.
"""

import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only

from prealign_cpt import __version__
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.world import World
from prealign_cpt.run.errors import DataError, PrealignError, RecipeError, StorageError
from prealign_cpt.run.faults import fault
from prealign_cpt.run.folder import changes, say
from prealign_cpt.run.manifest import atomic_write, extra_files, hashed, new_folder, read_manifest, verify
from prealign_cpt.train.stored import Planner, Reader

_NAME = re.compile(r"step-(\d{10})")
_REST = f".tmp-step-{'[0-9]' * 10}-{'[0-9a-f]' * 8}"


def save(
    folder: Path,
    step: int,
    module: LanguageModelLoss,
    optimizer: torch.optim.Optimizer,
    about: dict[str, Any],
    world: World,
) -> Path:
    """Write `folder/step-…` and wait for it; every rank calls this at the same step.

    Args:
        about: for the manifest; `inputs` in it decides whether a later run may resume from here.

    Raises:
        StorageError: writing failed on some rank, on all ranks together; earlier checkpoints are untouched.
    """
    return write(folder, step, snapshot(module, optimizer), about, world)


def snapshot(
    module: LanguageModelLoss, optimizer: torch.optim.Optimizer, host: dict[Any, torch.Tensor] | None = None
) -> dict[str, Any]:
    """A copy of this rank's shards in host memory, in the layout of the checkpoint.

    Args:
        host: tensors of an earlier copy, which are written over: asking the system for new memory takes longer than
            copying. It holds those of this copy afterwards.
    """
    model_state, optimizer_state = get_state_dict(module, optimizer)
    old = dict(host or {})
    copies: dict[Any, torch.Tensor] = {} if host is None else host
    copies.clear()

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        # Tied weights are one tensor under two names; empty shards have no address, so the whole shape belongs to it.
        key = (_local(tensor).data_ptr(), tensor.shape, tensor.dtype)
        if key not in copies:
            copies[key] = old[key] if key in old else tensor.detach().to("cpu", copy=True)
            if key in old:
                _local(copies[key]).copy_(_local(tensor.detach()))
        return copies[key]

    return dict(tree_map_only(torch.Tensor, copied, {"model": model_state, "optimizer": optimizer_state}))


def write(
    folder: Path, step: int, state: dict[str, Any], about: dict[str, Any], world: World, group: Any = None
) -> Path:
    """Publish a snapshot as `folder/step-…`; every rank calls this. See `save`."""
    target = folder / f"step-{step:010d}"
    manifest = {**about, "step": step, "world": world.size, "version": __version__, "torch": torch.__version__}
    files: dict[str, Any] = {}
    with ExitStack() as pending:  # holds the hidden folder, on rank 0
        aside = Path(on_rank_0(world, lambda: str(pending.enter_context(new_folder(target, manifest, files))), group))
        own, failure = _write_shard(aside, state, world, group)
        votes: list[Any] = [None] * world.size
        dist.all_gather_object(votes, (own, failure), group=group)
        if any(text is not None for _, text in votes):
            failures = [f"rank {rank}: {text}" for rank, (_, text) in enumerate(votes) if text]
            raise StorageError(f"{target}: saving failed: {'; '.join(failures[:3])}; check the disk")

        def publish() -> None:
            for hashes, _ in votes:
                files.update(hashes)
            pending.close()
            fault("save.after_rename")
            atomic_write(folder / "LATEST", target.name + "\n")
            fault("save.end")

        on_rank_0(world, publish, group)
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
        own = hashed(aside, sorted(aside.glob(f"__{world.rank}_*")))
        fault("save.after_hash")
        return own, None
    except CheckpointException as error:  # not an Exception; its own text has many lines
        return {}, str(error.failures[world.rank][0]) if world.rank in error.failures else ""
    except Exception as error:
        return {}, f"{type(error).__name__}: {error}"


def load(path: Path, module: LanguageModelLoss, optimizer: torch.optim.Optimizer) -> int:
    """Fill a sharded module and its optimizer from a verified checkpoint; return its step.

    Raises:
        DataError: it holds other tensors than these, or no optimizer state.
    """
    model_state, optimizer_state = get_state_dict(module, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    _read(state, path)
    set_state_dict(module, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return int(read_manifest(path)["about"]["step"])


def load_weights(path: Path, module: LanguageModelLoss) -> None:
    """Fill an ordinary, whole module from a verified checkpoint, in a process of its own without ranks.

    Raises:
        DataError: it holds other weights than these.
    """
    state = {"model": module.state_dict()}
    _read(state, path, part="model.", no_dist=True)
    module.load_state_dict(state["model"])


def _read(state: dict[str, Any], path: Path, part: str = "", no_dist: bool = False) -> None:
    try:
        dcp.load(state, storage_reader=Reader(path), planner=Planner(part), no_dist=no_dist)
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        if isinstance(cause, PrealignError):
            raise type(cause)(f"{path}: {cause}") from error
        raise DataError(f"{path}: cannot be read: {cause}; start again with --redo cpt") from error


def latest(folder: Path, inputs: dict[str, Any], accept: tuple[str, ...] = ()) -> Path | None:
    """The newest sound checkpoint of a run, verified; None if there is none. Rank 0 only.

    What a killed save left is removed, and LATEST is put right. A damaged checkpoint is renamed, so that the run can
    write that step again.

    Args:
        accept: inputs that may differ.

    Raises:
        RecipeError: the checkpoint was made from other inputs, which are named.
    """
    for rest in folder.glob(_REST):
        shutil.rmtree(rest)
    for path in reversed(_found(folder)):
        try:
            manifest = verify(path)
        except DataError as error:
            aside = path.with_name(f"damaged-{path.name}-{secrets.token_hex(4)}")
            path.rename(aside)
            say(f"cpt: {error} -- renamed to {aside.name}, an older checkpoint is tried")
            continue
        changed = changes(manifest["about"]["inputs"], inputs, accept)
        if changed:
            raise RecipeError(
                f"{path}: was made from other inputs ({', '.join(changed)}); start again with --redo cpt, "
                "or give the run another name"
            )
        for name in extra_files(path, manifest):
            say(f"cpt: {path / name}: no part of the checkpoint, not read")
        pointer = folder / "LATEST"
        if not pointer.is_file() or pointer.read_bytes() != f"{path.name}\n".encode():
            atomic_write(pointer, path.name + "\n")
        return path
    return None


def prune(folder: Path, keep: int, inputs: dict[str, Any]) -> None:
    """Remove a run's oldest checkpoints beyond the newest `keep`; nothing else in the folder is touched.

    Only those made from `inputs` are counted and removed. Also kept is the newest one that is not from a row of spikes.
    """
    own, healthy = [], []
    for path in _found(folder):
        try:
            about = read_manifest(path)["about"]
        except DataError:
            continue
        if about["inputs"] == inputs:
            own.append(path)
            if about.get("healthy", True):
                healthy.append(path)
    for path in own[:-keep]:
        if path not in healthy[-1:]:
            aside = folder / f".tmp-{path.name}-{secrets.token_hex(4)}"
            path.rename(aside)  # so that a kill while it is removed leaves no half checkpoint
            shutil.rmtree(aside)


def _found(folder: Path) -> list[Path]:
    """What is named like a checkpoint, the oldest step first; the clock and the files' times are not asked."""
    return sorted(p for p in folder.glob("step-*") if _NAME.fullmatch(p.name) and p.is_dir() and not p.is_symlink())


def check_space(folder: Path, module: LanguageModelLoss, optimizer: torch.optim.Optimizer, world: World) -> None:
    """Look whether two checkpoints fit on the disk, before any work is done; every rank calls this.

    Raises:
        StorageError: they do not.
    """
    tensors = [*module.parameters(), *(t for state in optimizer.state.values() for t in state.values())]
    local = [_local(t) for t in tensors if isinstance(t, torch.Tensor)]
    wanted = 2 * world.sum(sum(t.numel() * t.element_size() for t in local))
    free = shutil.disk_usage(folder).free
    if world.any(free < wanted):
        raise StorageError(
            f"{folder}: {free / 1e9:.2f} GB are free, and two checkpoints need {wanted / 1e9:.2f} GB; free some space, "
            "or choose another `out`"
        )


def on_rank_0(world: World, work: Callable[[], Any], group: Any = None) -> Any:
    """Run `work` on rank 0 and give every rank its result; an error there is raised on all ranks."""
    box: list[Any] = [None, None]
    if world.rank == 0:
        try:
            box = [work(), None]
        except Exception as error:  # handed to every rank, which raise it
            box = [None, error]
    dist.broadcast_object_list(box, src=0, group=group)
    if box[1] is not None:
        raise box[1]
    return box[0]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
