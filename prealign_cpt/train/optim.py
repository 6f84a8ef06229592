"""The optimizer and its learning rates: AdamW in which new tokens' rows may move at a rate of their own.

    recipe + step --rates--> (lr, rows_lr) --set_rates--> AdamW.step() on the shards of this rank

New and old rows stand in one tensor (the embedding, and the head where it is not tied), cut by rows over the ranks.
Each shard is therefore updated as two slices, old rows and new rows, as if they were two parameters: each with its own
rate and its own count of updates. A rate of 0 leaves a slice and its moments bit by bit as they are.

Besides, the new rows of the embedding move together, by a map from the old tokens that spell theirs: composition.py.

Under "adamw8bit" the body's matrices keep their moments in 8 bits, by bitsandbytes' kernels (arXiv 2110.02861,
section 2); here the update runs on the local part, as bitsandbytes' own optimizers refuse sharded tensors (0.50.2:
"mixed torch.Tensor and DTensor"; issue 1633). torchao's (0.18) takes them, and a checkpoint of it opens on one rank;
but it updates whole parameters alone, so it would be a second optimizer beside this one, and it compiles its update,
for 12 to 38 s on a CPU. bitsandbytes quantizes blocks of 256 consecutive numbers, each with its largest absolute
value. Only matrices whose rows are whole blocks have such moments: shards are cut between rows, so no block is ever
cut, the scales are a matrix [rows, columns / 256] that is sharded like the parameter, and a checkpoint is exact at
any number of ranks.

Shapes: V rows, D hidden size.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
import torch.distributed.tensor
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw
from transformers import PreTrainedModel

from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.tables import SplitEmbedding, row_tables
from prealign_cpt.model.world import first_row, local_shard
from prealign_cpt.recipe.schema import Train
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.train import composition

BETAS = (0.9, 0.95)
EPSILON = 1e-8
LEAST = 0.1
"""Where the schedules end, as a share of the highest rate."""

BLOCK = 256
"""Numbers that share a scale in 8-bit moments."""
SMALLEST = 4096
"""Numbers of a parameter below which 8 bits save nothing; bitsandbytes' own limit."""


class AdamW(torch.optim.Optimizer):
    """AdamW with decoupled weight decay (arXiv 1711.05101, algorithm 2), a group being split at a row where it says so.

    Keys of a group besides torch's own: `split` (global row; rows from there on are new; None: all are old), `factor`
    (of the rate, but for new rows), `rows_lr` (rate of the new rows), `map_factor` (of that, for the map), `updates`
    and `rows_updates` (how often old and new rows were updated), `bits` (of the moments; 8 where a parameter allows
    it). The moments exist from the start, with the layout of the parameter, so that every checkpoint holds the same
    tensors.

    Args:
        features: of this rank's new tokens [m, K] by table, where a map moves its new rows too.
    """

    def __init__(self, groups: list[dict[str, Any]], features: dict[nn.Parameter, Tensor] | None = None) -> None:
        defaults: dict[str, Any] = {"lr": 0.0, "rows_lr": 0.0, "factor": 1.0, "weight_decay": 0.0, "split": None}
        super().__init__(groups, defaults | {"map_factor": 0.0, "bits": 32, "updates": 0, "rows_updates": 0})
        self._features = features or {}
        for group in self.param_groups:
            for p in group["params"]:
                if group["bits"] == 8 and _fits_8bit(p):
                    self.state[p] = _moments_8bit(p)
                else:
                    self.state[p] = {name: torch.zeros_like(p.detach()) for name in ("exp_avg", "exp_avg_sq")}
                if p in self._features:
                    shape = self._features[p].shape[1], p.shape[1]
                    self.state[p] |= {name: local_shard(p).new_zeros(shape) for name in composition.MOMENTS}
        self.register_load_state_dict_post_hook(_restore_8bit)

    def set_rates(self, lr: float, rows_lr: float) -> None:
        """Learning rates of the next update: of everything but the new rows, and of the new rows; 0 freezes."""
        for group in self.param_groups:
            group["lr"], group["rows_lr"] = lr * group["factor"], rows_lr

    @torch.no_grad()
    def mask_old_rows(self) -> None:
        """Zero the gradient of old rows, so that the gradient's norm counts new rows only."""
        for group in self.param_groups:
            if group["split"] is not None:
                for p in group["params"]:
                    local_shard(p.grad)[: old_rows(p, group["split"])] = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient and a rate above 0."""
        assert closure is None
        for group in self.param_groups:
            old, new, in_8bit = [], [], []
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = {name: local_shard(t) for name, t in self.state[p].items()}
                tensors = [local_shard(p), local_shard(p.grad), state["exp_avg"], state["exp_avg_sq"]]
                if "exp_avg_scale" in state:
                    in_8bit.append((tensors[0], tensors[1], state))
                    continue
                split = len(tensors[0]) if group["split"] is None else old_rows(p, group["split"])
                old.append([t[:split] for t in tensors])
                if group["split"] is not None:
                    new.append([t[split:] for t in tensors])
                    if p in self._features and group["rows_lr"] > 0:
                        self._move_together(p, new[-1][0], new[-1][1], group)
            if group["lr"] > 0 and (old or in_8bit):
                if old:
                    _update(old, group["lr"], group["weight_decay"], group["updates"])
                for parameter, gradient, state in in_8bit:
                    _update_8bit(parameter, gradient, state, group["lr"], group["weight_decay"], group["updates"])
                group["updates"] += 1
            if group["rows_lr"] > 0 and new:
                _update(new, group["rows_lr"], group["weight_decay"], group["rows_updates"])
                group["rows_updates"] += 1

    def _move_together(self, p: nn.Parameter, rows: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        def step(*tensors: Tensor) -> None:
            _update([list(tensors)], group["rows_lr"] * group["map_factor"], 0.0, group["rows_updates"])

        composition.compose(p, rows, gradient, self._features[p], self.state[p], step)


def make_optimizer(
    module: LanguageModelLoss,
    recipe: Train,
    first_new: int | None = None,
    spellings: Sequence[Sequence[int]] | None = None,
) -> AdamW:
    """AdamW; weight decay on matrices only. All ranks call it together, before the weights are those of a checkpoint.

    Args:
        first_new: id of the first new token; None where there are none.
        spellings: old token ids that spell each new token, if the new rows move together too.

    Raises:
        RecipeError: only new rows are to move at first, and there are none; or 8-bit moments are asked for and
            bitsandbytes is not there, or no matrix can have them.
    """
    if first_new is None and recipe.rows_steps > 0:
        raise RecipeError(
            f"train.rows_steps: {recipe.rows_steps} steps in which only new tokens' rows move, and there is no new "
            "token; set it to 0, or vocab.size above 0"
        )
    tables = row_tables(module.model)
    body = [p for p in module.parameters() if p.requires_grad and all(p is not table for table in tables)]
    matrices = [p for p in body if p.ndim >= 2]
    bits = 8 if recipe.optimizer == "adamw8bit" else 32
    if bits == 8:
        _check_8bit(matrices)
    features = None
    if first_new is not None and spellings and recipe.composition_lr:
        features = _features(module.model, first_new, spellings)
    # Rows of a table that is cut are new from the first on.
    split = 0 if first_new is not None and recipe.method != "full" else first_new
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": recipe.weight_decay, "bits": bits},
        {"params": [p for p in body if p.ndim < 2]},
        {
            "params": tables,
            "weight_decay": recipe.weight_decay,
            "split": split,
            "factor": (recipe.embeddings_lr or recipe.lr) / recipe.lr,
            "map_factor": recipe.composition_lr / (recipe.rows_lr or recipe.lr),
        },
    ]
    optimizer = AdamW([group for group in groups if group["params"]], features)
    optimizer.set_rates(recipe.lr, recipe.rows_lr or recipe.lr)
    return optimizer


def _features(model: PreTrainedModel, first_new: int, spellings: Sequence[Sequence[int]]) -> dict[nn.Parameter, Tensor]:
    """Features of this rank's new tokens, for the embedding alone: output rows that move by the map at the rate that
    suits input rows cost 0.15 bits per byte within ten steps (benchmarks/results/race.md)."""
    table, embedding = row_tables(model)[0], model.get_input_embeddings()
    split = first_new
    if isinstance(embedding, SplitEmbedding):
        embedding, split = embedding.old, 0
    rows = embedding.weight.detach()
    begin = max(0, first_row(table) - split)
    count = len(local_shard(table)) - old_rows(table, split)
    old_VD = (rows.full_tensor() if isinstance(rows, DTensor) else rows)[:first_new]
    return {table: composition.features(spellings[begin : begin + count], old_VD)}


def rates(step: int, recipe: Train) -> tuple[float, float]:
    """Learning rates of step 0, 1, ...: of the body (0 before it joins), and of the new rows.

    Old rows have the body's times `embeddings_lr / lr`.

    What joins after `rows_steps` has its own warm-up then, because Adam's first updates have the full size of the rate
    whatever the gradient; both rates end together.
    """
    rows = (recipe.rows_lr or recipe.lr) * rate_factor(step, recipe)
    if step < recipe.rows_steps:
        return 0.0, rows
    joined = dataclasses.replace(recipe, steps=recipe.steps - recipe.rows_steps)
    return recipe.lr * rate_factor(step - recipe.rows_steps, joined), rows


def rate_factor(step: int, recipe: Train) -> float:
    """The factor of the learning rate for step 0, 1, ...: in (0, 1], a tenth at the last step.

    "wsd" is warm-up, stable, decay in a line (arXiv 2404.06395, section 4); "cosine" falls right after the warm-up.
    """
    warmup = max(1, round(recipe.warmup * recipe.steps))
    decay = recipe.steps - warmup if recipe.schedule == "cosine" else round(recipe.decay * recipe.steps)
    if step < warmup:
        return (step + 1) / warmup
    if step < recipe.steps - decay:
        return 1.0
    done = (step + 1 - (recipe.steps - decay)) / decay
    if recipe.schedule == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return 1.0 - (1.0 - LEAST) * done


def old_rows(parameter: Tensor, split: int) -> int:
    """How many rows of this rank's shard lie before row `split` of the whole parameter; they are its first ones."""
    return min(max(split - first_row(parameter), 0), len(local_shard(parameter)))


def _update(slices: list[list[Tensor]], lr: float, weight_decay: float, updates: int) -> None:
    """torch's fused AdamW, one pass over memory; `slices`: (parameter, gradient, first moment, second moment) each."""
    parameters, gradients, first, second = (list(column) for column in zip(*slices, strict=True))
    # A count for each, since the kernel raises every one of them; made by one operator.
    counts = list(torch.full((len(parameters),), float(updates), device=parameters[0].device).unbind())
    adamw(
        parameters, gradients, first, second, [], counts, fused=True, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1],
        lr=lr, weight_decay=weight_decay, eps=EPSILON, maximize=False,
    )  # fmt: skip


def _check_8bit(matrices: list[Any]) -> None:
    """See whether 8-bit moments are possible.

    Raises:
        RecipeError: bitsandbytes is not there, or no matrix has rows of whole blocks.
    """
    try:
        _kernels()
    except ImportError as error:
        raise RecipeError(
            f"train.optimizer: 'adamw8bit' needs bitsandbytes, which cannot be imported ({error}); run "
            "pip install \"prealign-cpt[bnb]\", or take 'adamw'"
        ) from error
    if not any(_fits_8bit(p) for p in matrices):
        raise RecipeError(
            f"train.optimizer: 'adamw8bit' is for matrices whose rows are a multiple of {BLOCK} numbers, and this "
            "model has none of them; take 'adamw'"
        )


def _fits_8bit(parameter: Tensor) -> bool:
    """Whether a parameter can have 8-bit moments; the same at any number of ranks."""
    return parameter.ndim == 2 and parameter.shape[1] % BLOCK == 0 and parameter.numel() >= SMALLEST


def _moments_8bit(parameter: Tensor) -> dict[str, Tensor]:
    """Moments of zero: `exp_avg`, `exp_avg_sq` uint8 like the parameter; `exp_avg_scale`, `exp_avg_sq_scale` fp32."""
    shape = (parameter.shape[0], parameter.shape[1] // BLOCK)
    state = {}
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = torch.zeros_like(parameter.detach(), dtype=torch.uint8)
        if isinstance(parameter, DTensor):
            state[name + "_scale"] = torch.distributed.tensor.zeros(
                *shape, device_mesh=parameter.device_mesh, placements=parameter.placements
            )
        else:
            state[name + "_scale"] = torch.zeros(shape, device=parameter.device)
    return state


def _restore_8bit(optimizer: torch.optim.Optimizer) -> None:
    """After `load_state_dict`: torch gives all state the parameter's type, and 0 to 255 survive that."""
    for state in optimizer.state.values():
        if "exp_avg_scale" in state:
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = state[name].to(torch.uint8)


def _update_8bit(
    parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], lr: float, weight_decay: float, updates: int
) -> None:
    """One AdamW update of a local shard, in place; `state`: local parts of `_moments_8bit`."""
    if parameter.numel() == 0:
        return
    signed, unsigned = _codes(parameter.device)
    # "adam" decays weights apart from the gradient, so it is AdamW. beta3 and alpha belong to another optimizer.
    _kernels().optimizer_update_8bit_blockwise(
        "adam", gradient, parameter, state["exp_avg"], state["exp_avg_sq"], *BETAS, 0.0, 0.0, EPSILON, updates + 1, lr,
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
