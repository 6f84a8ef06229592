"""Checkpoints of a sharded run: written aside by all ranks, hashed, renamed, pointed to; verified before they load.

    cpt/step-0000000100/   torch.distributed.checkpoint files + state.json + MANIFEST.json
    cpt/LATEST             name of the newest one

A checkpoint can be read at another number of ranks.
"""

import json
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

from prealign_cpt.errors import DataError, RecipeError, StorageError
from prealign_cpt.manifest import atomic_write, new_folder, read_manifest, verify
from prealign_cpt.run import say
from prealign_cpt.train.loss import LanguageModelLoss
from prealign_cpt.train.shard import World

_NAME = re.compile(r"step-(\d{10})")


def save(
    folder: Path,
    step: int,
    module: LanguageModelLoss,
    optimizer: torch.optim.Optimizer,
    about: dict[str, Any],
    world: World,
) -> Path:
    """Write `folder/step-…`; every rank calls this at the same step.

    Args:
        about: for the manifest; `inputs` in it decides whether a later run may resume from here.

    Raises:
        StorageError: writing failed on some rank, on all ranks together; earlier checkpoints are untouched.
    """
    target = folder / f"step-{step:010d}"
    model_state, optimizer_state = get_state_dict(module, optimizer)
    pending = ExitStack()
    manifest = {**about, "step": step, "world": world.size}
    aside = on_rank_0(world, lambda: str(pending.enter_context(new_folder(target, manifest))))
    failure: BaseException | None = None
    try:
        dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=aside)
    except CheckpointException as error:  # not an Exception; its own text has many lines
        failure = next(iter(error.failures.values()))[0]
    except Exception as error:  # every rank must reach the vote, whatever happened to it
        failure = error
    if world.any(failure is not None):
        with pending:
            raise StorageError(f"{target}: saving failed: {failure or 'on another rank'}; check the disk") from failure

    def publish() -> None:
        with pending:
            atomic_write(Path(aside) / "state.json", json.dumps({"step": step}))
        atomic_write(folder / "LATEST", target.name + "\n")

    on_rank_0(world, publish)
    return target


def load(path: Path, module: LanguageModelLoss, optimizer: torch.optim.Optimizer) -> int:
    """Fill a sharded module and its optimizer from a verified checkpoint; return its step."""
    model_state, optimizer_state = get_state_dict(module, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    dcp.load(state, checkpoint_id=path)
    set_state_dict(module, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return int(json.loads((path / "state.json").read_text())["step"])


def load_weights(path: Path, module: LanguageModelLoss) -> None:
    """Fill an ordinary, whole module from a verified checkpoint, in a process of its own without ranks."""
    state = {"model": module.state_dict()}
    dcp.load(state, checkpoint_id=path, no_dist=True)
    module.load_state_dict(state["model"])


def latest(folder: Path, inputs: dict[str, Any]) -> Path | None:
    """The newest sound checkpoint of a run, verified; None if there is none. Rank 0 only.

    What a killed save left is removed. A damaged checkpoint is renamed, so that the run can write that step again.

    Raises:
        RecipeError: the checkpoint was made from other inputs, which are named.
    """
    pointer = folder / "LATEST"
    named = pointer.read_text().strip() if pointer.is_file() else ""
    for rest in folder.glob(f".tmp-step-{'[0-9]' * 10}-{'[0-9a-f]' * 8}"):
        shutil.rmtree(rest)
    found = sorted((p for p in folder.glob("step-*") if _NAME.fullmatch(p.name)), reverse=True)
    found.sort(key=lambda p: p.name != named)
    for path in found:
        try:
            manifest = verify(path)
        except DataError as error:
            aside = path.with_name(f"damaged-{path.name}-{secrets.token_hex(4)}")
            path.rename(aside)
            say(f"cpt: {error} -- renamed to {aside.name}, an older checkpoint is tried")
            continue
        made_from = manifest["about"]["inputs"]
        changed = sorted(k for k in made_from.keys() | inputs.keys() if made_from.get(k) != inputs.get(k))
        if changed:
            raise RecipeError(
                f"{path}: was made from other inputs ({', '.join(changed)}); start again with --redo cpt, "
                "or give the run another name"
            )
        return path
    return None


def prune(folder: Path, keep: int) -> None:
    """Remove our oldest checkpoints beyond the newest `keep`; nothing else in the folder is touched."""
    found = sorted(p for p in folder.glob("step-*") if _NAME.fullmatch(p.name))
    for path in found[:-keep]:
        try:
            read_manifest(path)
        except DataError:
            continue
        shutil.rmtree(path)


def on_rank_0(world: World, work: Callable[[], Any]) -> Any:
    """Run `work` on rank 0 and give every rank its result; an error there is raised on all ranks."""
    box: list[Any] = [None, None]
    if world.rank == 0:
        try:
            box = [work(), None]
        except Exception as error:  # handed to every rank, which raise it
            box = [None, error]
    dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    return box[0]
