"""Index to sequences: which sequences a step reads is a pure function of the recipe and one integer.

Sequence `n` of the run is English or target by a fixed interleaving of the recipe's share, and its place in that
text is a permutation of the epoch. English may be two texts, switched and plain, the first giving way to the second.
Ranks read `n + rank, n + rank + world, ...`, so any number of ranks reads the same global batches, and the position of
a run is the number of sequences consumed.
"""

from functools import cache
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
    """Target text and English replay in fixed proportion, each shuffled anew every epoch.

    Args:
        english: the replay, switched; None only where `english_share` is 0.
        english_share: share of the sequences that are replay.
        plain: the replay, not switched. If given, the share of the replay that is switched falls in a line from 1 at
            the first sequence of the run to 0 at the last.
        total: sequences of the whole run; only `plain` asks for it.
    """

    def __init__(
        self,
        target: PackedText,
        english: PackedText | None,
        english_share: float,
        seed: int,
        plain: PackedText | None = None,
        total: int = 0,
    ) -> None:
        self.target, self.english, self.share, self.seed = target, english, english_share, seed
        self.plain, self.replay = plain, floor(total * english_share)

    def locate(self, n: int) -> tuple[str, int]:
        """Text ("target", "english" or "english_plain") and row of sequence `n` of the run, n >= 0."""
        replay = floor(n * self.share)
        if floor((n + 1) * self.share) == replay:
            return "target", self._row(self.target, n - replay, 0)
        assert self.english is not None
        if self.plain is None:
            return "english", self._row(self.english, replay, 0)
        switched = falling(replay, self.replay)
        if falling(replay + 1, self.replay) > switched:
            return "english", self._row(self.english, switched, 0)
        # An order of its own: in the switched one's order the same few documents would come twice.
        return "english_plain", self._row(self.plain, replay - switched, 1)

    def _row(self, text: PackedText, k: int, order: int) -> int:
        epoch, place = divmod(k, len(text))
        return permuted(place, len(text), self.seed, epoch, order)

    def rows(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        """`inputs` and `labels`, int64 [len(numbers), sequence_length]."""
        inputs, labels = [], []
        for n in numbers:
            name, row = self.locate(n)
            text = {"target": self.target, "english": self.english, "english_plain": self.plain}[name]
            assert text is not None
            inputs.append(text.inputs[row])
            labels.append(text.labels[row])
        return torch.from_numpy(np.stack(inputs).astype(np.int64)), torch.from_numpy(np.stack(labels).astype(np.int64))


def falling(k: int, total: int) -> int:
    """How many of the first `k` of `total` sequences are switched when their share falls in a line from 1 to 0.

    The area under that line, k - k^2 / (2 total), rounded; so at no point more than half a sequence away from it.
    """
    k = min(k, total)
    return (2 * total * k - k * k + total) // (2 * total) if total else 0


def permuted(place: int, count: int, seed: int, epoch: int, order: int = 0) -> int:
    """A permutation of 0..count-1 for a seed and an epoch, one of several orders."""
    factor, shift = _affine(count, seed, epoch, order)
    return (factor * place + shift) % count


@cache
def _affine(count: int, seed: int, epoch: int, order: int) -> tuple[int, int]:
    random = np.random.default_rng([seed, epoch, order])
    factor = int(random.integers(count)) | 1
    while gcd(factor, count) != 1:
        factor += 2
    return factor, int(random.integers(count))


def positions(inputs: Tensor, start_id: int) -> Tensor:
    """Position of each token in its document, int64 [B, T]: restarts at every start token, so that attention does.

    A row that begins inside a document counts from its own first token.
    """
    index = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs)
    starts = torch.where(inputs == start_id, index, torch.zeros_like(index))
    return index - starts.cummax(dim=1).values
