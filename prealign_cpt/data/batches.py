"""Index to batch: which sequences a step reads is a pure function of the recipe and one integer.

Sequence `n` of the run is English or target by a fixed interleaving of the recipe's share, and its place in that
text is a permutation of the epoch. Ranks read `n + rank, n + rank + world, ...`, so any number of ranks reads the same
global batches, and the position of a run is the number of sequences consumed.
"""

from math import floor, gcd
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class PackedText:
    """The memory-mapped rows that `pack` wrote.

    Args:
        path: without suffix, such as `data/english`.
    """

    def __init__(self, path: Path) -> None:
        self.inputs = np.load(path.with_name(path.name + ".inputs.npy"), mmap_mode="r", allow_pickle=False)
        labels = path.with_name(path.name + ".labels.npy")
        self.labels = np.load(labels, mmap_mode="r", allow_pickle=False) if labels.exists() else self.inputs

    def __len__(self) -> int:
        return len(self.inputs)


class Mixture:
    """Target text and English replay in fixed proportion, each shuffled anew every epoch."""

    def __init__(self, target: PackedText, english: PackedText | None, english_share: float, seed: int) -> None:
        self.target, self.english, self.share, self.seed = target, english, english_share, seed

    def locate(self, n: int) -> tuple[str, int]:
        """Text ("target" or "english") and row of sequence `n` of the run, n >= 0."""
        english_before = floor(n * self.share)
        is_english = floor((n + 1) * self.share) > english_before
        text = self.english if is_english else self.target
        assert text is not None
        k = english_before if is_english else n - english_before
        epoch, place = divmod(k, len(text))
        return ("english" if is_english else "target"), permuted(place, len(text), self.seed, epoch)

    def rows(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        """`inputs` and `labels`, int64 [len(numbers), sequence_length]."""
        inputs, labels = [], []
        for n in numbers:
            name, row = self.locate(n)
            text = self.target if name == "target" else self.english
            assert text is not None
            inputs.append(text.inputs[row])
            labels.append(text.labels[row])
        return torch.from_numpy(np.stack(inputs).astype(np.int64)), torch.from_numpy(np.stack(labels).astype(np.int64))


def permuted(place: int, count: int, seed: int, epoch: int) -> int:
    """An affine permutation of 0..count-1 for a seed and an epoch."""
    random = np.random.default_rng([seed, epoch])
    factor = int(random.integers(count)) | 1
    while gcd(factor, count) != 1:
        factor += 2
    return (factor * place + int(random.integers(count))) % count


def positions(inputs: Tensor, start_id: int) -> Tensor:
    """Position of each token in its document, int64 [B, T]: restarts at every start token, so that attention does.

    A row that begins inside a document counts from its own first token.
    """
    index = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs)
    starts = torch.where(inputs == start_id, index, torch.zeros_like(index))
    return index - starts.cummax(dim=1).values
