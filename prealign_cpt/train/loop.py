"""The training loop: steps, evaluation, checkpoints, metrics.

    data/ (packed) + align/ (model) --FSDP2--> train/step-…/, train/summary.json, metrics.jsonl

The ranks share out the sequences of a step (step.py). The position of a run is the step; everything else follows from
it, but for the newest gradient norms, which stand in the checkpoint.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from prealign_cpt.data.mixture import Sequences
from prealign_cpt.model.bits import Batch, Score
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.world import World
from prealign_cpt.recipe.schema import Train
from prealign_cpt.run import signals
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.run.faults import fault
from prealign_cpt.run.folder import ACCEPTABLE, StageClock, changes, say
from prealign_cpt.run.manifest import read_manifest
from prealign_cpt.train import checkpoint, stored
from prealign_cpt.train.adapters import COMPUTED
from prealign_cpt.train.metrics import Log, summarize
from prealign_cpt.train.optim import make_optimizer, rates
from prealign_cpt.train.progress import Progress
from prealign_cpt.train.saver import Saver
from prealign_cpt.train.step import SpikeGuard, train_step
from prealign_cpt.train.trackers import Trackers

PROBE_ROWS = 8
"""Windows of each held-out text that a checkpoint keeps the nats of; the shortest ones stand first."""


def train(
    module: LanguageModelLoss,
    mixture: Sequences,
    valid: dict[str, list[Batch]],
    recipe: Train,
    start_id: int,
    folder: Path,
    inputs: dict[str, Any],
    world: World,
    first_new: int | None = None,
    spellings: Sequence[Sequence[int]] | None = None,
    accept: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Train to the last step, from the newest checkpoint if there is one; return the summary.

    Args:
        module: sharded; changed in place.
        valid: held-out batches by name ("target", "english").
        folder: the run's `train` folder; metrics go to the file beside it.
        inputs: what the run is made from; a checkpoint of other inputs is refused.
        first_new: id of the first new token; None where there are none.
        spellings: old token ids that spell each new token, for `train.composition_lr`.
        accept: inputs that may differ from the checkpoint's, if the steps so far would have been the same.

    Raises:
        NumericError: loss or gradient is not finite, or too large again and again; no rank has made that update.
        RecipeError: only new rows are to move at first, and there are none; or the inputs are not the checkpoint's.
        StorageError: a checkpoint could not be written, or there is no room for two.
        StoppedError: a signal asked to stop; a checkpoint was saved.
    """
    clock = StageClock()
    optimizer = make_optimizer(module, recipe, first_new, spellings)
    dtype, milestones = COMPUTED[recipe.precision], sum(map(recipe.is_milestone, range(recipe.steps)))
    checkpoint.check_space(folder, module, optimizer, world, milestones, dtype)
    newest = checkpoint.latest(folder, inputs, accept, world)
    step = stored.load(newest, module, optimizer) if newest else 0
    before: dict[str, Any] = read_manifest(newest)["about"] if newest else {"inputs": inputs}
    check_accepted(before["inputs"], inputs, recipe, step)
    kept = world.on_rank_0(lambda: checkpoint.milestones(folder, inputs, accept))
    guard = SpikeGuard(before.get("spikes"))
    if newest and world.rank == 0:
        say(f"train: continues after step {step}")
    due = before.get("due") if newest else {"step": 0, "tokens": 0}  # a line that lacks its evaluation
    names = recipe.log if world.rank == 0 and step < recipe.steps else ()
    trackers = Trackers(names, folder, due["step"] if due else step + 1, inputs)
    log = Log(folder.parent / "metrics.jsonl", active=world.rank == 0, trackers=trackers)
    progress = Progress(recipe.steps, step, active=world.rank == 0)
    stall = 0.0
    with signals.deferred(), Saver(folder, recipe.keep, world) as saver, trackers:
        scores = evaluate(module, valid, world) if due else {}
        if world.any(signals.requested() is not None):
            signals.ignore()
            raise signals.StoppedError(f"{_why()} before step {step + 1}; the same command continues")
        if due:
            log.write(due | {"valid": scores})
        while step < recipe.steps:
            # At the beginning of the next step, so that a run that was stopped here catches up on it.
            if recipe.is_milestone(step) and step not in kept:
                told = {"inputs": inputs, "dtype": recipe.precision, "probe": probe(module, valid, world, PROBE_ROWS)}
                stall += saver.save_weights(step, module, dtype, told)
            fault("step")
            began = time.monotonic()
            if step == recipe.rows_steps:
                guard = SpikeGuard()  # from here on the gradient is that of all parameters
            done = train_step(module, optimizer, mixture, step, recipe, start_id, world, guard)
            lr, rows_lr = rates(step, recipe)
            step += 1
            seconds = time.monotonic() - began
            figures: dict[str, Any] = {
                "step": step, "tokens": step * done.tokens, "targets": done.targets, "loss": done.loss, "lr": lr,
                "rows_lr": rows_lr, "grad_norm": done.norm, "skipped": int(done.skipped),
                "tokens_per_second": done.tokens / seconds, "seconds": seconds, "save_stall": stall,
            }  # fmt: skip
            stall = 0.0
            progress.update(step, done.loss, done.tokens / seconds)
            if done.skipped and world.rank == 0:
                say(
                    f"train: step {step}: gradient norm {done.norm:.3g} is a spike; the step made no update "
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
                about |= {"healthy": not done.skipped, "due": due, "probe": probe(module, valid, world, PROBE_ROWS)}
                stall = saver.save(step, module, optimizer, about)
            if stop and step < recipe.steps:
                saver.wait()
                signals.ignore()
                world.any(False)  # torchrun signals the others when one rank has left: none leaves before all ignore it
                raise signals.StoppedError(
                    f"{_why()} after step {step}, saved at step {step}; the same command continues"
                )
    progress.close()
    return {**summarize(log, clock, world), "save": saver.figures(), "probe": probe(module, valid, world)}


def _why() -> str:
    return f"stopped by {signals.requested() or 'a signal to another rank'}"


def check_accepted(made_from: dict[str, Any], inputs: dict[str, Any], recipe: Train, done: int) -> None:
    """Whether a started run may go on under a changed recipe: only if every step done so far would have been the same.

    That holds for the length of a run as long as the learning rate has not begun to fall: `--train.steps 2000 --accept
    train.steps` makes a run of 1000 steps longer that stands at step 600 of a warm-up-stable-decay schedule without
    warm-up. The warm-up is a share of the steps, so it has to change with them.

    Args:
        made_from, inputs: of the checkpoint, and of the recipe of now.
        done: how many steps the checkpoint has.

    Raises:
        RecipeError: a step would have been another; it is named.
    """
    changed = [key for key in ACCEPTABLE if made_from.get(key) != inputs.get(key)]
    if not changed:
        return
    told = ", ".join(changes({k: made_from.get(k) for k in changed}, {k: inputs.get(k) for k in changed}))
    remedy = "start again with --redo train, or give the run another name"
    if "train.steps" in changed and inputs.get("codeswitch.curriculum") == "falling":
        raise RecipeError(f'--accept: {told}: codeswitch.curriculum "falling" spreads over all steps; {remedy}')
    if recipe.steps < done:
        raise RecipeError(f"--accept: {told}: the run has done {done} steps already; {remedy}")
    old = dataclasses.replace(recipe, **{key.removeprefix("train."): made_from[key] for key in changed})
    for step in range(done):
        if rates(step, old) != rates(step, recipe):
            raise RecipeError(
                f"--accept: {told}: step {step + 1} of the {done} that are done would have had another learning rate "
                f"(warm-up and decay are shares of train.steps); {remedy}"
            )


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
            nats = module(*batch.tensors(world.device))
            if place < len(batches):
                mine = mine + Score(float(nats), batch.bytes, batch.tokens)
        total = Score(world.sum(mine.nats), int(world.sum(mine.bytes)), int(world.sum(mine.tokens)))
        result[f"{name}_bpb"] = round(total.bits_per_byte, 4)
    module.train()
    return result


def probe(
    module: LanguageModelLoss, valid: dict[str, list[Batch]], world: World, rows: int | None = None
) -> dict[str, Any]:
    """What an exported folder is compared with: the nats of every token of the first batch of each held-out text, or of
    some rows of it, and how they were computed."""
    return {
        "nats": {name: token_nats(module, batches[0].first(rows), world) for name, batches in valid.items()},
        "device": world.device.type,
        "threads": torch.get_num_threads(),
        "rows": rows,
    }


@torch.no_grad()
def token_nats(module: LanguageModelLoss, batch: Batch, world: World) -> list[float]:
    """Negative log-likelihood of every token of a batch, for comparison with the exported model."""
    module.eval()
    nats = module(*batch.tensors(world.device), each=True)
    module.train()
    return [round(x, 6) for x in nats.float().cpu().tolist()]
