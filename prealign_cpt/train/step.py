"""One step of training: forward and backward passes over the step's sequences, and an update unless it is a spike.

    sequences of this rank -> micro-batches -> summed loss / targets of all ranks -> gradient norm -> update | skip

A step whose gradient is far larger than those before it makes no update: skipping the batches of a loss spike instead
of learning from them is the remedy of PaLM (arXiv 2204.02311, section 5.1).
"""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from prealign_cpt.data.mixture import Sequences
from prealign_cpt.model.loss import IGNORED, LanguageModelLoss, document_borders
from prealign_cpt.model.tables import row_tables
from prealign_cpt.model.world import World
from prealign_cpt.recipe.schema import Train
from prealign_cpt.run.errors import NumericError
from prealign_cpt.train.optim import AdamW, rates

FACTOR = 10.0
"""A gradient norm above so many times the running median is a spike."""

LEAST = 16
"""Norms that are known before the first judgement."""

WINDOW = 64
"""Newest norms that are remembered."""

MOST = 5
"""Skipped steps in a row at which training stops."""


@dataclass(frozen=True)
class StepResult:
    """What a step came to, over all ranks."""

    loss: float
    """Mean over the targets, nats."""
    norm: float
    """Of the gradient, before clipping; only of what may move."""
    tokens: int
    """Read."""
    targets: int
    """Learned."""
    skipped: bool
    """No update was made, because the gradient was a spike."""


def train_step(
    module: LanguageModelLoss,
    optimizer: AdamW,
    mixture: Sequences,
    step: int,
    recipe: Train,
    start_id: int,
    world: World,
    guard: "SpikeGuard",
) -> StepResult:
    """One update, or none if the gradient is a spike.

    Raises:
        NumericError: loss or gradient is not finite, or there were too many spikes in a row; no update was made.
    """
    assert isinstance(module, FSDPModule)
    rows_only = step < recipe.rows_steps
    first = step * recipe.sequences
    mine = list(range(first + world.rank, first + recipe.sequences, world.size))
    # Ranks without a sequence left read one more without labels, so that all make the same collective calls.
    count = math.ceil(math.ceil(recipe.sequences / world.size) / recipe.micro_batch)
    inputs, labels, places = mixture.documents(mine or [first], start_id)
    if not mine:
        labels = torch.full_like(labels, IGNORED)
    targets = int(world.sum(int((labels[:, 1:] != IGNORED).sum())))
    total = torch.zeros((), dtype=torch.float64, device=world.device)  # read once, so that nothing waits for the GPU
    for i, (x, y, place) in enumerate(_micro_batches(inputs, labels, places, recipe.micro_batch, count)):
        # Each pass scatters its gradients, so that a rank holds those of its own shard alone; sums over replicas wait
        # for the last. Where a rank holds all parameters there is nothing to scatter before that.
        module.set_requires_gradient_sync(i == count - 1 or world.size > recipe.replicas)
        module.set_requires_all_reduce(i == count - 1)
        x, y, place, borders = (_on(world.device, t) for t in (x, y, place, document_borders(place)))
        loss = module(x, y, place, borders=borders) / targets
        # With `inputs` autograd forms no gradient of any other weight; after the forward pass the tables are whole.
        loss.backward(inputs=row_tables(module.model) if rows_only else None)
        total += loss.detach()
    if rows_only:
        optimizer.mask_old_rows()
    norm = nn.utils.clip_grad_norm_(module.parameters(), recipe.clip)
    norm_value = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    loss_value = world.sum(float(total))
    if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
        raise NumericError(
            f"step {step + 1}: loss {loss_value}, gradient norm {norm_value}; no update was made. Continue from the "
            "last checkpoint with a lower train.lr under another name, or look at the sequences of this step"
        )
    skipped = guard.skips(norm_value, step + 1)
    if not skipped:
        optimizer.set_rates(*rates(step, recipe))
        optimizer.step()
    optimizer.zero_grad()
    return StepResult(loss_value, norm_value, recipe.sequences * inputs.shape[1], targets, skipped)


def _micro_batches(
    inputs: Tensor, labels: Tensor, places: Tensor, size: int, count: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Exactly `count` micro-batches; where the sequences run out, one without labels."""
    for i in range(count):
        x, y, place = (one[i * size : (i + 1) * size] for one in (inputs, labels, places))
        yield (x, y, place) if len(x) else (inputs[:1], torch.full_like(labels[:1], IGNORED), places[:1])


def _on(device: torch.device, tensor: Tensor) -> Tensor:
    """A copy on the device; to a GPU it is queued behind the work there, and nothing waits for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class SpikeGuard:
    """The norms of the newest updates. Every rank keeps the same ones, so all ranks decide alike.

    Args:
        state: `state()` of an earlier guard; without it nothing is known yet.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.norms: list[float] = list(state["norms"]) if state else []
        self.in_a_row: int = state["in_a_row"] if state else 0

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to decide as this one would; JSON keeps it exactly."""
        return {"norms": self.norms, "in_a_row": self.in_a_row}

    def skips(self, norm: float, step: int) -> bool:
        """Whether a step must not update; a norm that is accepted is remembered.

        Args:
            norm: of the gradient before clipping, finite.
            step: for the message; the first is 1.

        Raises:
            NumericError: this is the fifth spike in a row, so it is no accident of one batch.
        """
        median = statistics.median(self.norms) if len(self.norms) >= LEAST else None
        if median is None or norm <= FACTOR * median:
            self.norms = [*self.norms, norm][-WINDOW:]
            self.in_a_row = 0
            return False
        self.in_a_row += 1
        if self.in_a_row >= MOST:
            raise NumericError(
                f"step {step}: gradient norm {norm:.3g}, more than {FACTOR:g} times the median {median:.3g} of the "
                f"steps before, for the {MOST}th step in a row; none of them made an update. Start again under another "
                "name with a lower train.lr or a longer train.warmup, or look at the training text from this step on"
            )
        return True
