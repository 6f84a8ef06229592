"""Adam's moments in 8 bits, on the shards of this rank, by bitsandbytes' kernels (arXiv 2110.02861, section 2).

bitsandbytes quantizes blocks of 256 consecutive numbers, each with its largest absolute value. Its own optimizers do
not know sharded tensors (bitsandbytes issue 1633); here its update runs on the local part. Only matrices whose rows are
whole blocks have such moments: shards are cut between rows, so no block is ever cut, the scales are a matrix
[rows, columns / 256] that is sharded like the parameter, and a checkpoint is exact at any number of ranks.

State of a parameter: `exp_avg`, `exp_avg_sq` uint8 like the parameter; `exp_avg_scale`, `exp_avg_sq_scale` fp32.
"""

from functools import cache
from importlib import import_module
from typing import Any

import torch
import torch.distributed.tensor
from torch import Tensor
from torch.distributed.tensor import DTensor

from prealign_cpt.run.errors import RecipeError

BLOCK = 256
SMALLEST = 4096
"""Numbers of a parameter below which 8 bits save nothing; bitsandbytes' own limit."""


def check(matrices: list[Any]) -> None:
    """See whether 8-bit moments are possible.

    Raises:
        RecipeError: bitsandbytes is not there, or no matrix has rows of whole blocks.
    """
    try:
        _kernels()
    except ImportError as error:
        raise RecipeError(
            f"train.optimizer: 'adamw8bit' needs bitsandbytes, which cannot be imported ({error}); install it by "
            "pip install bitsandbytes, or take 'adamw'"
        ) from error
    if not any(fits(p) for p in matrices):
        raise RecipeError(
            f"train.optimizer: 'adamw8bit' is for matrices whose rows are a multiple of {BLOCK} numbers, and this "
            "model has none of them; take 'adamw'"
        )


def fits(parameter: Tensor) -> bool:
    """Whether a parameter can have 8-bit moments; the same at any number of ranks."""
    return parameter.ndim == 2 and parameter.shape[1] % BLOCK == 0 and parameter.numel() >= SMALLEST


def make(parameter: Tensor) -> dict[str, Tensor]:
    """Moments of zero."""
    state = {}
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = torch.zeros_like(parameter.detach(), dtype=torch.uint8)
        shape = (parameter.shape[0], parameter.shape[1] // BLOCK)
        if isinstance(parameter, DTensor):
            state[name + "_scale"] = torch.distributed.tensor.zeros(
                *shape, device_mesh=parameter.device_mesh, placements=parameter.placements
            )
        else:
            state[name + "_scale"] = torch.zeros(shape, device=parameter.device)
    return state


def is_packed(state: dict[str, Any]) -> bool:
    """Whether a parameter's moments are in 8 bits."""
    return "exp_avg_scale" in state


def restore(optimizer: torch.optim.Optimizer) -> None:
    """After `load_state_dict`: torch gives all state the parameter's type, and 0 to 255 survive that."""
    for state in optimizer.state.values():
        if is_packed(state):
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = state[name].to(torch.uint8)


def update(
    parameter: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    lr: float,
    weight_decay: float,
    updates: int,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """One AdamW update of a local shard, in place.

    Args:
        state: local parts of `make`.
        updates: how many there were before this one.
    """
    if parameter.numel() == 0:
        return
    kernels, (signed, unsigned) = _kernels(), _codes(parameter.device)
    # "adam" decays weights apart from the gradient, so it is AdamW. beta3 and alpha belong to another optimizer.
    kernels.optimizer_update_8bit_blockwise(
        "adam", gradient, parameter, state["exp_avg"], state["exp_avg_sq"], *betas, 0.0, 0.0, epsilon, updates + 1, lr,
        signed, unsigned, state["exp_avg_scale"].view(-1), state["exp_avg_sq_scale"].view(-1), weight_decay,
    )  # fmt: skip


def _kernels() -> Any:
    """Imported late: it takes seconds, and most runs need none of it."""
    return import_module("bitsandbytes.functional")


@cache
def _codes(device: torch.device) -> tuple[Tensor, Tensor]:
    """What the 256 values of a byte stand for, in the first moment and in the second, which has no sign."""
    create = _kernels().create_dynamic_map
    return create(signed=True).to(device), create(signed=False).to(device)
