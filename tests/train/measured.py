"""The most bytes of tensors that a rank holds in a training step, as torch's allocator counts them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from prealign_cpt.data.mixture import Mixture, PackedText
from prealign_cpt.model.world import process_group
from prealign_cpt.recipe.schema import Train
from prealign_cpt.train.optim import make_optimizer
from prealign_cpt.train.shard import sharded
from prealign_cpt.train.step import SpikeGuard, train_step


def peak(rank: int, size: int, folder: Path, options: dict[str, Any]) -> int:
    """Bytes at the peak of two steps of two micro-batches each, from the loading of the model on.

    Args:
        folder: of the model; `text.inputs.npy` lies in it.
        options: keys of the training section.
    """
    recipe = Train(
        steps=2, sequences=2 * size * options.get("micro_batch", 1), lr=1e-3, warmup=0.0, decay=0.0, eval_every=9,
        save_every=9, **options,
    )  # fmt: skip
    with process_group(torch.device("cpu"), timeout_minutes=2) as world:
        text = Mixture([PackedText(folder)], [], 0.0, seed=3)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
            module = sharded(folder, world, recipe.precision, recipe.checkpoint_activations)
            optimizer = make_optimizer(module, recipe)
            for step in range(2):
                train_step(module, optimizer, text, step, recipe, 0, world, SpikeGuard())
        events = measured.profiler.kineto_results.events()
        sizes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return int(np.cumsum([n for _, n in sorted(sizes, key=lambda one: one[0])]).max())


def write(folder: Path, model: Any, length: int, rows: int = 64) -> Path:
    """A model's folder with a text of random tokens."""
    model.save_pretrained(folder)
    inputs = np.random.default_rng(5).integers(1, model.config.vocab_size, size=(rows, length)).astype(np.int32)
    inputs[:, 0] = 0
    np.save(folder / "text.inputs.npy", inputs)
    return folder
