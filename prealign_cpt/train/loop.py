"""The training loop: steps, evaluation, checkpoints, metrics.

    data/ (packed) + align/ (model) --FSDP2--> cpt/step-…/, cpt/summary.json, metrics.jsonl

One step: the ranks share out the step's sequences, sum their losses, divide by the number of targets of the whole step,
clip, update. The position of a run is the step; everything else follows from it, but for the newest gradient norms,
which stand in the checkpoint.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from prealign_cpt.data.batches import Mixture, positions
from prealign_cpt.model.attention import document_borders
from prealign_cpt.model.bits import Batch, Score
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.world import World
from prealign_cpt.recipe.schema import Train
from prealign_cpt.run import signals
from prealign_cpt.run.errors import NumericError
from prealign_cpt.run.faults import fault
from prealign_cpt.run.folder import StageClock, say
from prealign_cpt.run.manifest import read_manifest
from prealign_cpt.train import checkpoint
from prealign_cpt.train.accept import check_accepted
from prealign_cpt.train.metrics import Log, summarize
from prealign_cpt.train.optim import AdamW, make_optimizer, rates, row_tables
from prealign_cpt.train.saver import Saver
from prealign_cpt.train.spikes import SpikeGuard


def train(
    module: LanguageModelLoss,
    mixture: Mixture,
    valid: dict[str, list[Batch]],
    recipe: Train,
    start_id: int,
    folder: Path,
    inputs: dict[str, Any],
    world: World,
    first_new: int | None = None,
    pieces: Sequence[Sequence[int]] | None = None,
    accept: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Train to the last step, from the newest checkpoint if there is one; return the summary.

    Args:
        module: sharded; changed in place.
        valid: held-out batches by name ("target", "english").
        folder: the run's `cpt` folder; metrics go to the file beside it.
        inputs: what the run is made from; a checkpoint of other inputs is refused.
        first_new: id of the first new token; None where there are none.
        pieces: old token ids that spell each new token, for `train.composition_lr`.
        accept: inputs that may differ from the checkpoint's, if the steps so far would have been the same.

    Raises:
        NumericError: loss or gradient is not finite, or too large again and again; no rank has made that update.
        RecipeError: only new rows are to move at first, and there are none; or the inputs are not the checkpoint's.
        StorageError: a checkpoint could not be written, or there is no room for two.
        StoppedError: a signal asked to stop; a checkpoint was saved.
    """
    clock = StageClock()
    optimizer = make_optimizer(module, recipe, first_new, pieces)
    checkpoint.check_space(folder, module, optimizer, world)
    newest = checkpoint.on_rank_0(world, lambda: checkpoint.latest(folder, inputs, accept))
    step = checkpoint.load(newest, module, optimizer) if newest else 0
    before: dict[str, Any] = read_manifest(newest)["about"] if newest else {"inputs": inputs}
    check_accepted(before["inputs"], inputs, recipe, step)
    guard = SpikeGuard(before.get("spikes"))
    if newest and world.rank == 0:
        say(f"cpt: continues after step {step}")
    log = Log(folder.parent / "metrics.jsonl", active=world.rank == 0)
    bar = tqdm(total=recipe.steps, initial=step, desc="cpt", unit="step", disable=None if world.rank == 0 else True)
    stall = 0.0
    with signals.deferred(), Saver(folder, recipe.keep, world) as saver:
        due = before.get("due") if newest else {"step": 0, "tokens": 0}
        scores = evaluate(module, valid, world) if due else {}
        if world.any(signals.requested() is not None):
            signals.ignore()
            raise signals.StoppedError(f"{_why()} before step {step + 1}; the same command continues")
        if due:
            log.write(due | {"valid": scores})
        while step < recipe.steps:
            fault("step")
            began = time.monotonic()
            if step == recipe.rows_steps:
                guard = SpikeGuard()  # from here on the gradient is that of all parameters
            done = train_step(module, optimizer, mixture, step, recipe, start_id, world, guard)
            lr, rows_lr = rates(step, recipe)
            step += 1
            seconds = time.monotonic() - began
            figures: dict[str, Any] = {"step": step, "tokens": step * done.tokens, "targets": done.targets}
            figures |= {"loss": done.loss, "lr": lr, "rows_lr": rows_lr, "grad_norm": done.norm}
            figures |= {"skipped": int(done.skipped)}
            figures |= {"tokens_per_second": done.tokens / seconds, "seconds": seconds, "save_stall": stall}
            stall = 0.0
            bar.update()
            bar.set_postfix_str(f"loss {done.loss:.3f}, {done.tokens / seconds:,.0f} tokens/s")
            if done.skipped and world.rank == 0:
                say(
                    f"cpt: step {step}: gradient norm {done.norm:.3g} is a spike; the step made no update "
                    f"(sequences {(step - 1) * recipe.sequences} to {step * recipe.sequences - 1})"
                )
            stop = world.any(signals.requested() is not None or saver.failed)
            due = figures if step % recipe.eval_every == 0 or step == recipe.steps else None
            scores = evaluate(module, valid, world) if due and not stop else {}
            stop = stop or world.any(signals.requested() is not None)  # it came in the evaluation
            if due and not stop:
                figures, due = figures | {"valid": scores}, None
            log.write(figures)
            if stop or step % recipe.save_every == 0 or step == recipe.steps:
                about = {"inputs": inputs, "loss": done.loss, "grad_norm": done.norm, "spikes": guard.state()}
                about |= {"healthy": not done.skipped, "due": due}
                stall = saver.save(step, module, optimizer, about)
            if stop and step < recipe.steps:
                saver.wait()
                signals.ignore()
                world.any(False)  # torchrun signals the others when one rank has left: none leaves before all ignore it
                raise signals.StoppedError(
                    f"{_why()} after step {step}, saved at step {step}; the same command continues"
                )
    bar.close()
    probe = {
        "nats": {name: token_nats(module, batches[0], world) for name, batches in valid.items()},
        "device": world.device.type,
        "threads": torch.get_num_threads(),
    }
    return {**summarize(log, clock, world), "save": saver.figures(), "probe": probe}


def _why() -> str:
    return f"stopped by {signals.requested() or 'a signal to another rank'}"


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
    mixture: Mixture,
    step: int,
    recipe: Train,
    start_id: int,
    world: World,
    guard: SpikeGuard,
) -> StepResult:
    """One update, or none if the gradient is a spike.

    Raises:
        NumericError: loss or gradient is not finite, or there were too many spikes in a row; no update was made.
    """
    rows_only = step < recipe.rows_steps
    first = step * recipe.sequences
    mine = list(range(first + world.rank, first + recipe.sequences, world.size))
    # Ranks without a sequence left read one more without labels, so that all make the same collective calls.
    each = math.ceil(math.ceil(recipe.sequences / world.size) / recipe.micro_batch)
    inputs, labels = mixture.rows(mine or [first])
    if not mine:
        labels = torch.full_like(labels, -100)
    targets = int(world.sum(int((labels[:, 1:] != -100).sum())))
    total = torch.zeros((), dtype=torch.float64, device=world.device)  # read once, so that nothing waits for the GPU
    for i, (x, y) in enumerate(_micro_batches(inputs, labels, recipe.micro_batch, each)):
        assert isinstance(module, FSDPModule)
        module.set_requires_gradient_sync(i == each - 1)
        place = positions(x, start_id)
        batch = [_on(world.device, t) for t in (x, y, place, document_borders(place))]
        loss = module(*batch[:3], borders=batch[3]) / targets
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


def _on(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the device; to a GPU it is queued behind the work there, and nothing waits for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _micro_batches(
    inputs: torch.Tensor, labels: torch.Tensor, size: int, count: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Exactly `count` micro-batches; where the sequences run out, one without labels."""
    for i in range(count):
        x, y = inputs[i * size : (i + 1) * size], labels[i * size : (i + 1) * size]
        if len(x) == 0:
            x, y = inputs[:1], torch.full_like(labels[:1], -100)
        yield x, y


@torch.no_grad()
def evaluate(module: LanguageModelLoss, valid: dict[str, list[Batch]], world: World) -> dict[str, float]:
    """Bits per byte of each held-out text, the batches shared out over the ranks; {} if a signal asks to stop."""
    module.eval()
    result = {}
    for name, batches in valid.items():
        mine = Score(0.0, 0, 0)
        for i in range(0, len(batches), world.size):
            fault("eval")
            if world.any(signals.requested() is not None):
                module.train()
                return {}
            place = i + world.rank
            batch = batches[min(place, len(batches) - 1)]
            nats = module(*(x.to(world.device) for x in (batch.inputs, batch.labels, batch.positions)))
            if place < len(batches):
                mine = mine + Score(float(nats), batch.bytes, batch.tokens)
        total = Score(world.sum(mine.nats), int(world.sum(mine.bytes)), int(world.sum(mine.tokens)))
        result[f"{name}_bpb"] = round(total.bits_per_byte, 4)
    module.train()
    return result


@torch.no_grad()
def token_nats(module: LanguageModelLoss, batch: Batch, world: World) -> list[float]:
    """Negative log-likelihood of every token of a batch, for comparison with the exported model."""
    module.eval()
    nats = module(*(x.to(world.device) for x in (batch.inputs, batch.labels, batch.positions)), each=True)
    module.train()
    return [round(x, 6) for x in nats.float().cpu().tolist()]
