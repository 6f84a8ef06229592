"""The training loop: steps, evaluation, checkpoints, metrics.

    data/ (packed) + align/ (model) --FSDP2--> cpt/step-…/, cpt/summary.json, metrics.jsonl

One step: the ranks share out the step's sequences, sum their losses, divide by the number of targets of the whole step,
clip, update. The position of a run is the step; everything else follows from it.
"""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from prealign_cpt import signals
from prealign_cpt.data.batches import Mixture, positions
from prealign_cpt.errors import NumericError
from prealign_cpt.evaluate.bits import Batch, Score
from prealign_cpt.recipe import Train
from prealign_cpt.run import StageClock, peak_mb, say
from prealign_cpt.train import checkpoint
from prealign_cpt.train.loss import LanguageModelLoss
from prealign_cpt.train.shard import World


def train(
    module: LanguageModelLoss,
    mixture: Mixture,
    valid: dict[str, list[Batch]],
    recipe: Train,
    start_id: int,
    folder: Path,
    inputs: dict[str, Any],
    world: World,
) -> dict[str, Any]:
    """Train to the last step, from the newest checkpoint if there is one; return the summary.

    Args:
        module: sharded; changed in place.
        valid: held-out batches by name ("target", "english").
        folder: the run's `cpt` folder; metrics go to the file beside it.
        inputs: what the run is made from; a checkpoint of other inputs is refused.

    Raises:
        NumericError: loss or gradient is not finite; no rank has made that update.
        StoppedError: a signal asked to stop; a checkpoint was saved.
    """
    clock = StageClock()
    optimizer = make_optimizer(module, recipe)
    newest = checkpoint.on_rank_0(world, lambda: checkpoint.latest(folder, inputs))
    step = checkpoint.load(newest, module, optimizer) if newest else 0
    if newest and world.rank == 0:
        say(f"cpt: continues after step {step}")
    log = Log(folder.parent / "metrics.jsonl", active=world.rank == 0)
    bar = tqdm(total=recipe.steps, initial=step, desc="cpt", unit="step", disable=None if world.rank == 0 else True)
    saved = step
    with signals.deferred():
        if step == 0:
            log.write({"step": 0, "tokens": 0, "valid": evaluate(module, valid, world)})
        while step < recipe.steps:
            began = time.monotonic()
            rate = recipe.lr * schedule(step, recipe)
            loss, norm, tokens = train_step(module, optimizer, mixture, step, rate, recipe, start_id, world)
            step += 1
            seconds = time.monotonic() - began
            figures = {"step": step, "tokens": step * tokens, "loss": loss, "lr": rate, "grad_norm": norm}
            figures |= {"tokens_per_second": tokens / seconds, "seconds": seconds}
            bar.update()
            bar.set_postfix_str(f"loss {loss:.3f}, {tokens / seconds:,.0f} tokens/s")
            stop = world.any(signals.requested() is not None)
            if not stop and (step % recipe.eval_every == 0 or step == recipe.steps):
                figures["valid"] = evaluate(module, valid, world)
            log.write(figures)
            if stop or step % recipe.save_every == 0 or step == recipe.steps:
                about = {"inputs": inputs, "loss": loss, "grad_norm": norm}
                checkpoint.save(folder, step, module, optimizer, about, world)
                saved = step
                if world.rank == 0:
                    checkpoint.prune(folder, recipe.keep)
            if stop and step < recipe.steps:
                raise signals.StoppedError(
                    f"stopped by {signals.requested() or 'a signal to another rank'} after step {step}, "
                    f"saved at step {saved}; the same command continues"
                )
    bar.close()
    probe = {name: token_nats(module, batches[0], world) for name, batches in valid.items()}
    return {**_summary(log, clock, world), "probe": probe}


def make_optimizer(module: nn.Module, recipe: Train) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices only."""
    matrices = [p for p in module.parameters() if p.ndim >= 2]
    vectors = [p for p in module.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), foreach=True)


def schedule(step: int, recipe: Train) -> float:
    """Warm-up, stable, decay: the factor of the learning rate for step 0, 1, ...; it ends at a tenth."""
    warmup = max(1, round(recipe.warmup * recipe.steps))
    decay = round(recipe.decay * recipe.steps)
    if step < warmup:
        return (step + 1) / warmup
    if step < recipe.steps - decay:
        return 1.0
    return 1.0 - 0.9 * (step + 1 - (recipe.steps - decay)) / decay


def train_step(
    module: LanguageModelLoss,
    optimizer: torch.optim.Optimizer,
    mixture: Mixture,
    step: int,
    rate: float,
    recipe: Train,
    start_id: int,
    world: World,
) -> tuple[float, float, int]:
    """One update; mean loss in nats per target, gradient norm before clipping, tokens read by all ranks."""
    first = step * recipe.sequences
    mine = list(range(first + world.rank, first + recipe.sequences, world.size))
    # Ranks without a sequence left read one more without labels, so that all make the same collective calls.
    each = math.ceil(math.ceil(recipe.sequences / world.size) / recipe.micro_batch)
    inputs, labels = mixture.rows(mine or [first])
    if not mine:
        labels = torch.full_like(labels, -100)
    targets = world.sum(int((labels[:, 1:] != -100).sum()))
    total = 0.0
    for i, (x, y) in enumerate(_micro_batches(inputs, labels, recipe.micro_batch, each)):
        assert isinstance(module, FSDPModule)
        module.set_requires_gradient_sync(i == each - 1)
        loss = module(x.to(world.device), y.to(world.device), positions(x, start_id).to(world.device)) / targets
        loss.backward()
        total += float(loss.detach())
    norm = nn.utils.clip_grad_norm_(module.parameters(), recipe.clip)
    norm_value = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    loss_value = world.sum(total)
    if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
        raise NumericError(
            f"step {step + 1}: loss {loss_value}, gradient norm {norm_value}; no update was made. Continue from the "
            "last checkpoint with a lower train.lr under another name, or look at the sequences of this step"
        )
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return loss_value, norm_value, recipe.sequences * inputs.shape[1]


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
    """Bits per byte of each held-out text, the batches shared out over the ranks."""
    module.eval()
    result = {}
    for name, batches in valid.items():
        mine = Score(0.0, 0, 0)
        for i in range(0, len(batches), world.size):
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


class Log:
    """`metrics.jsonl`: one JSON object per step; a step that was repeated after a restart stands there twice."""

    def __init__(self, path: Path, active: bool) -> None:
        self.path, self.active = path, active
        if active and path.exists() and not path.read_bytes().endswith(b"\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def write(self, figures: dict[str, Any]) -> None:
        """Append a line, and say the evaluations aloud."""
        if not self.active:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
        if "valid" in figures:
            v = figures["valid"]
            speed = f", {figures['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in figures else ""
            say(f"cpt: step {figures['step']}: " + ", ".join(f"{k} {x:.3f}" for k, x in v.items()) + speed)

    def rows(self) -> list[dict[str, Any]]:
        """All lines but those that a kill tore."""
        found = []
        for line in self.path.read_text(encoding="utf-8").split("\n"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found


def _summary(log: Log, clock: StageClock, world: World) -> dict[str, Any]:
    peak = world.sum(peak_mb())
    summary: dict[str, Any] = {}
    if world.rank == 0:
        rows = {row["step"]: row for row in log.rows()}
        steps = [row for row in rows.values() if "seconds" in row]
        summary = {
            "seconds": round(sum(row["seconds"] for row in steps), 1),
            "wall_seconds_last_start": clock.figures()["seconds"],
            "peak_mb": round(peak, 1),
            "ranks": world.size,
            "tokens": max(row["tokens"] for row in rows.values()),
            "tokens_per_second": round(sorted(row["tokens_per_second"] for row in steps)[len(steps) // 2], 1),
        }
    return summary
