"""The ranks of a run: the device of each, sums and votes over all of them, and which one failed first.

torchrun's environment --process_group--> World
error of this rank --> store of the ranks --first_failure--> error of the run, on every rank that still lives
"""

import datetime
import errno
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from prealign_cpt.run.errors import PrealignError, RecipeError
from prealign_cpt.run.manifest import storage_error
from prealign_cpt.run.signals import StoppedError

_CAUSE = "failure"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
_WAIT = 3.0
"""Seconds in which a rank that failed has said so."""


@dataclass(frozen=True)
class World:
    """This process among the others."""

    rank: int
    size: int
    device: torch.device
    store: dist.Store

    def sum(self, value: float) -> float:
        """Sum of a number over all ranks, on the CPU: it does not wait for the GPU."""
        tensor = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(tensor)
        return float(tensor)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.sum(float(flag)) > 0

    def gather(self, value: str, group: Any = None) -> list[str]:
        """A text of every rank, in their order. Not through the store, which dies with the launcher: a rank saves even
        then."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=group)
        return found

    def on_rank_0(self, function: Callable[[], Any], group: Any = None) -> Any:
        """Call a function on rank 0 and give every rank its result; an error there is raised on all ranks."""
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box = [function(), None]
            except Exception as error:  # handed to every rank, which raise it
                box = [None, error]
        dist.broadcast_object_list(box, src=0, group=group)
        if box[1] is not None:
            raise box[1]
        return box[0]


@contextmanager
def process_group(
    device: torch.device, timeout_minutes: float = 10, before: Callable[[], None] = lambda: None
) -> Iterator[World]:
    """Join the ranks that torchrun started; without torchrun, be the only one.

    Args:
        timeout_minutes: turns a rank that hangs into an error on the others.
        before: what rank 0 does before it joins; the others come to the group when it is done, however long it takes.
    """
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if "RANK" in os.environ:
        store, rank, size = next(dist.rendezvous("env://"))
    else:
        store, rank, size = dist.HashStore(), 0, 1
    if rank == 0:
        before()
        store.set("rank 0 joins", "yes")
    while not store.check(["rank 0 joins"]):  # if rank 0 fails instead, the launcher ends the others
        time.sleep(0.2)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore("group", store),
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(minutes=timeout_minutes),
    )
    try:
        yield World(rank, size, device, dist.PrefixStore("prealign", store))
    finally:
        dist.destroy_process_group()


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is a GPU; on a node each rank takes the GPU of its local rank.

    Raises:
        RecipeError: CUDA is asked for and not there, or there are more ranks than GPUs.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RecipeError("device: 'cuda' is asked for but torch sees no GPU; use --device cpu, or mend the driver")
    local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= gpus:
        raise RecipeError(
            f"device: rank {local_rank} of this node has no GPU of its own ({gpus} there); "
            f"start with --nproc-per-node {gpus}"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def local_shard(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; another tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def first_row(parameter: Tensor) -> int:
    """Which row of the whole parameter this rank's shard begins with."""
    first = 0
    if isinstance(parameter, DTensor):
        for axis, placement in enumerate(parameter.placements):
            if isinstance(placement, Shard):
                assert placement.dim == 0, "FSDP2 cuts by rows"
                each = math.ceil(len(parameter) / parameter.device_mesh.size(axis))
                first = each * parameter.device_mesh.get_local_rank(axis)
    return first


class RankError(PrealignError):
    """Another rank failed: its message, and its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def first_failure(error: BaseException, world: World) -> BaseException:
    """The error that a run failed of: this rank's own, or another's that this one follows from.

    What the others see of a failure, a broken connection or torchrun's SIGTERM, only follows from it. So a rank that
    has an error of its own tells the others. If a collective broke and nobody says why, the ranks that died or hang are
    named.
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
    except RuntimeError:  # the launcher or rank 0, which holds the store, is gone
        silent = [0] if broken else []
    if stopped or not silent:
        return error
    first_line = str(error).strip().partition("\n")[0]
    return RankError(f"rank {', '.join(map(str, silent))} died or does not answer; seen from here: {first_line}", 70)
