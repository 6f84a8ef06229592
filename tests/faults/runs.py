"""A run small enough to be done a hundred times: a tiny model, a packed text, and `go`, which trains in a folder."""

import dataclasses
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from prealign_cpt.data.mixture import Mixture, PackedText
from prealign_cpt.model.bits import Batch
from prealign_cpt.model.world import World, first_failure, process_group
from prealign_cpt.recipe.schema import Train
from prealign_cpt.run import signals
from prealign_cpt.run.errors import PrealignError
from prealign_cpt.train.loop import train
from prealign_cpt.train.shard import sharded
from tests.conftest import make_model

REPOSITORY = Path(__file__).resolve().parents[2]

VOCAB = 67
"""Not divisible by 2 or 3 ranks."""
LENGTH = 16
ROWS = 16
"""Of the packed text: four steps are an epoch."""
INPUTS = {"align": "a", "data": "d"}
RECIPE = Train(
    steps=9, sequences=4, micro_batch=1, lr=1e-2, warmup=0.2, decay=0.5, precision="fp32", eval_every=50,
    save_every=2, keep=2,
)  # fmt: skip


def make_base(folder: Path) -> None:
    """Models (tied and untied) and a packed text for the runs of a folder."""
    for name, tied in (("tied", True), ("untied", False)):
        make_model(VOCAB, tied=tied).save_pretrained(folder / name)
    inputs = np.random.default_rng(5).integers(1, VOCAB, size=(ROWS, LENGTH)).astype(np.int32)
    inputs[:, 0] = 0
    np.save(folder / "text.inputs.npy", inputs)


class Watched(Mixture):
    """Notes the sequences that are read; may do something first, at the step that is given."""

    def __init__(self, folder: Path, act: Callable[[int], None]) -> None:
        super().__init__([PackedText(folder)], [], 0.0, seed=3)
        self.act = act
        self.read: list[tuple[int, str]] = []

    def rows(self, numbers: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        self.act(numbers[0] // RECIPE.sequences + 1)
        for number in numbers:
            content = super().rows([number])[0].numpy().tobytes()
            self.read.append((number, hashlib.sha256(content).hexdigest()))
        return super().rows(numbers)


def valid_batch() -> Batch:
    inputs = torch.randint(1, VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    return Batch(inputs, inputs.clone(), torch.arange(9).expand(2, 9).contiguous(), bytes=90, tokens=16)


def weights(module: torch.nn.Module) -> dict[str, Any]:
    whole = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in module.named_parameters()}
    return {name: value.detach().numpy().copy() for name, value in whole.items()}


def go(
    folder: Path,
    name: str,
    world: World,
    base: str = "tied",
    stop: int = 0,
    act: Callable[[int], None] | None = None,
    inputs: dict[str, Any] = INPUTS,
    accept: tuple[str, ...] = (),
    replicas: int = 1,
    **changed: Any,
) -> dict[str, Any]:
    """Train in the run folder `folder/name` from its newest checkpoint, with a fresh module; what came of it.

    Args:
        stop: the step in which the last rank gets SIGTERM.
        act: called with the step when its sequences are read.
        changed: keys of the recipe.
    """
    run = folder / name
    (run / "train").mkdir(parents=True, exist_ok=True)

    def before(step: int) -> None:
        if step == stop and world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if act is not None:
            act(step)

    module = sharded(folder / base, world, "fp32", replicas=replicas)
    mixture = Watched(folder, before)
    found: dict[str, Any] = {"error": "", "code": 0}
    try:
        recipe = dataclasses.replace(RECIPE, **changed)
        found["summary"] = train(
            module, mixture, {"target": [valid_batch()]}, recipe, 0, run / "train", inputs, world, accept=accept
        )
        found["weights"] = weights(module)
    except BaseException as error:
        began = time.monotonic()
        cause = first_failure(error, world)
        found |= {"error": f"{type(cause).__name__}: {cause}", "waited": time.monotonic() - began}
        found["code"] = cause.exit_code if isinstance(cause, PrealignError) else 70
    found["read"] = mixture.read
    signals._requested = None
    signals.install()
    return found


def alone(
    rank: int, size: int, folder: Path, runs: list[dict[str, Any]], seconds: float = 30.0
) -> list[dict[str, Any]]:
    """Several runs, one after the other, in one process group. A rank's work."""
    signals.install()
    with process_group(torch.device("cpu"), timeout_minutes=seconds / 60) as world:
        return [go(folder, world=world, **options) for options in runs]


def curve(run: Path) -> list[tuple[float, ...]]:
    """Step, loss, gradient norm and rate of each step; of a step that was repeated the last."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = {row["step"]: row for row in rows if row["step"]}
    return [(row["step"], row["loss"], row["grad_norm"], row["lr"]) for row in kept.values()]


def order(found: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """The sequences that all ranks have read, in the order of the run, each once."""
    return sorted({pair for one in found for pair in one["read"]})


def state(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "run_state.json").read_text()))


def steps(run: Path) -> list[int]:
    """Of a run folder, as its metrics have them."""
    path = run / "metrics.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.is_file() else []


def ranks_of(launcher: int) -> list[int]:
    """Its child processes, in the order of their start."""
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == launcher:
            children.append(int(path.parent.name))
    return sorted(children)
