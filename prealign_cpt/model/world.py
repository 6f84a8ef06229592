"""The ranks of a run: this process among the others.

torchrun's environment --process_group--> World: rank, size, device, and sums and votes over all ranks
"""

import datetime
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


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
