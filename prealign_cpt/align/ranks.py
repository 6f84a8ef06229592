"""What the ranks of the training stage say to each other. Every rank holds the whole model and reads a part of each
batch; where there is one rank, nothing is sent.

    units of the batch ─ part ─► vectors of mine ─ gather ─► vectors of all ─► my share of the loss ─► sum of gradients

Shapes: L layers, U units, D hidden size.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from prealign_cpt.model.world import World

T = TypeVar("T")


def parts(items: Sequence[T], world: World) -> list[Sequence[T]]:
    """Items in runs of nearly equal length, one for each rank; end to end they are the items again."""
    return [items[len(items) * r // world.size : len(items) * (r + 1) // world.size] for r in range(world.size)]


def total(values: Tensor, world: World) -> Tensor:
    """Sum over ranks of a tensor without gradient."""
    values = values.detach()
    if world.size == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values


def gather(local_LUD: Tensor, counts: list[int], world: World) -> Tensor:
    """The vectors of all ranks, in rank order, [L, sum of counts, D].

    A gradient that any rank sends into them reaches the rank they come from: the backward pass sums over ranks. So all
    ranks must run it, also those that bring no vector.

    Args:
        counts: units of each rank.
    """
    if world.size == 1:
        return local_LUD
    if not local_LUD.requires_grad:
        local_LUD = local_LUD.detach().requires_grad_(True)
    return _Gather.apply(local_LUD, counts, world.rank)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, counts: list[int], rank: int) -> Tensor:
        ctx.counts, ctx.rank = counts, rank
        padded = local.new_zeros(local.shape[0], max(counts), local.shape[2])
        padded[:, : counts[rank]] = local
        received = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(received, padded)
        return torch.cat([part[:, :count] for part, count in zip(received, counts, strict=True)], dim=1)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        first = sum(ctx.counts[: ctx.rank])
        return gradient[:, first : first + ctx.counts[ctx.rank]], None, None


def sum_gradients(parameters: Iterable[nn.Parameter], world: World) -> None:
    """Replace each gradient by its sum over ranks; a rank without one counts as zero."""
    if world.size == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
