"""What the tests of training have in common: a text of random tokens, and weights as they are over all ranks."""

from pathlib import Path

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from prealign_cpt.data.mixture import Mixture, PackedText

VOCAB, LENGTH = 67, 16


def full(tensor: torch.Tensor) -> np.ndarray:
    """A copy of a tensor, whole wherever its shards lie; numpy has no bf16."""
    whole = (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()
    return (whole.float() if whole.dtype == torch.bfloat16 else whole).numpy().copy()


def weights(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Copies of all parameters by name; every rank calls this."""
    return {name: full(parameter) for name, parameter in module.named_parameters()}


def write_text(folder: Path, rows: int, starts: tuple[int, ...] = (0, 9)) -> None:
    """Random tokens, packed: at the columns `starts` documents begin."""
    inputs = np.random.default_rng(5).integers(1, VOCAB, size=(rows, LENGTH)).astype(np.int32)
    inputs[:, list(starts)] = 0
    np.save(folder / "text.inputs.npy", inputs)


def mixture(folder: Path) -> Mixture:
    """The batches of that text."""
    return Mixture(PackedText(folder / "text"), None, 0.0, seed=3)
