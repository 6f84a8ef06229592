"""What new tokens learn together: a linear map from the old tokens that spell a new one to a change of its input row.

    spellings of the new tokens, the base model's rows ─► x = [first; last; mean of all; 1]      fixed
    gradient of the new rows G ─► X'G, summed over the ranks ─► AdamW ─► step dC of the map ─► rows += X dC

In a short run most new tokens are read a few times, and a row alone learns from nothing else. Through the map it learns
from every token spelled alike: its gradient is preconditioned by XX'. A hypernetwork for tokenizer transfer (ZeTT,
arXiv 2405.07883, section 3) learns such a composition beforehand from many tokenizers; this one is linear and learns
along with the model. The map itself is never needed, only its steps, so nothing of it is left when training ends.
Shapes: V rows of the table, M new tokens, m of them on this rank, D hidden size, K = 3 D + 1 features.
"""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

Update = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""One optimizer step: (parameter, gradient, first moment, second moment), in place."""

MOMENTS = ("map_avg", "map_avg_sq")
"""Names of the map's moments [K, D] in the optimizer's state of a table; every rank holds them whole."""


def features(spellings: Sequence[Sequence[int]], old_rows_VD: Tensor) -> Tensor:
    """What the map is applied to, fp32 [number of tokens, K], on the table's device.

    Args:
        spellings: old token ids that the base tokenizer spells each new token with; a token may have none.
        old_rows_VD: [old tokens, D], as they were before training; they are scaled to a mean norm of 1.
    """
    rows_VD = old_rows_VD.float()
    flat = torch.tensor([i for ids in spellings for i in ids], dtype=torch.long, device=rows_VD.device)
    sizes = torch.tensor([len(ids) for ids in spellings], dtype=torch.long, device=rows_VD.device)
    ends = sizes.cumsum(0)
    mean_MD = F.embedding_bag(flat, rows_VD, ends - sizes, mode="mean")
    there = (sizes > 0)[:, None]
    if len(flat):
        last = len(flat) - 1
        first_MD = torch.where(there, rows_VD[flat[(ends - sizes).clamp(max=last)]], 0.0)
        last_MD = torch.where(there, rows_VD[flat[(ends - 1).clamp(0, last)]], 0.0)
    else:
        first_MD = last_MD = mean_MD
    norm = rows_VD.norm(dim=1).mean()
    return torch.cat([first_MD / norm, last_MD / norm, mean_MD / norm, torch.ones_like(mean_MD[:, :1])], dim=1)


def compose(table: Tensor, rows: Tensor, gradient: Tensor, x: Tensor, state: dict[str, Tensor], step: Update) -> None:
    """One step of the map, put into the new rows of this rank, in place. All ranks call it together.

    Args:
        table: the whole parameter, which knows how it is cut over the ranks.
        rows, gradient: of this rank's new tokens, fp32 [m, D].
        x: their features, fp32 [m, K].
        state: holds MOMENTS.
    """
    gradient_KD = x.T @ gradient
    if isinstance(table, DTensor):
        for axis, placement in enumerate(table.placements):
            if isinstance(placement, Shard):
                dist.all_reduce(gradient_KD, group=table.device_mesh.get_group(axis))
    change_KD = torch.zeros_like(gradient_KD)
    step(change_KD, gradient_KD, *(state[name] for name in MOMENTS))
    rows.addmm_(x, change_KD)


def step_flops(num_new: int, hidden: int) -> float:
    """Floating-point operations of the map in one optimizer step: two products of [M, K] with [M or K, D]."""
    return 4.0 * num_new * (3 * hidden + 1) * hidden
