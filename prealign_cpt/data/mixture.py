"""Index to sequences: which sequences a step reads is a pure function of the recipe and one integer.

Sequence `n` of the run is English or target by a fixed interleaving of the recipe's share, and of one source of its
side by another; its place in that text is a permutation of the epoch. English may be twofold, switched and plain, the
first giving way to the second. Ranks read `n + rank, n + rank + world, ...`, so any number of ranks reads the same
global batches, and the position of a run is the number of sequences consumed.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from math import floor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prealign_cpt.data.word_spans import GOLDEN, Ids

ROUNDS = 6
"""Of the permutation."""

OPEN_SHARDS = 256
"""Shards of a text that are mapped at a time: a process may have some thousand open files."""


class Sequences(Protocol):
    """What a training reads."""

    def documents(self, numbers: list[int], start_id: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, labels (-100 is not learned) and positions of sequences, int64 [len(numbers), T] each: positions
        restart at 0 where a document begins, at the latest with the row."""


class PackedText:
    """The rows that `pack` wrote, in shards that are mapped when they are read.

    Args:
        folder: of `SHARD.inputs.npy` and, where labels differ, `SHARD.labels.npy`, int32 [rows, sequence_length].
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._inputs = sorted(folder.glob("*.inputs.npy"))
        self._ends = list(accumulate(_num_rows(path) for path in self._inputs))
        self._open = lru_cache(OPEN_SHARDS)(_open)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, number: int) -> tuple[Ids, Ids]:
        """Inputs and labels, int32 [sequence_length]."""
        shard = bisect_right(self._ends, number)
        inputs, labels = self._open(self._inputs[shard])
        place = number - (self._ends[shard - 1] if shard else 0)
        return inputs[place], labels[place]


def _num_rows(path: Path) -> int:
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        return int(np.lib.format.read_array_header_1_0(file)[0][0])


def _open(path: Path) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    inputs = np.load(path, mmap_mode="r", allow_pickle=False)
    labels = path.with_name(path.name.replace(".inputs.", ".labels."))
    return inputs, np.load(labels, mmap_mode="r", allow_pickle=False) if labels.exists() else inputs


class Mixture:
    """Target text and English replay in fixed proportion, each of one source or of several, shuffled anew every epoch.

    Args:
        target: the sources of the target side.
        english: the replay, switched; empty only where `english_share` is 0.
        english_share: share of the sequences that are replay.
        plain: the replay, not switched, source by source. If given, the share of the replay that is switched falls in a
            line from 1 at the first sequence of the run to 0 at the last.
        total: sequences of the whole run; only `plain` asks for it.
        weights: of the sources of either side, by side; empty: by their rows.
    """

    def __init__(
        self,
        target: Sequence[PackedText],
        english: Sequence[PackedText],
        english_share: float,
        seed: int,
        plain: Sequence[PackedText] = (),
        total: int = 0,
        weights: dict[str, list[float]] | None = None,
    ) -> None:
        self.share, self.seed, self.replay = english_share, seed, floor(total * english_share)
        self.texts = {"target": target, "english": english, "english_plain": plain}
        given = weights or {}
        self._shares = {
            kind: _nested(given.get(kind.partition("_")[0]) or [len(text) for text in texts])
            for kind, texts in self.texts.items()
        }

    def locate(self, n: int) -> tuple[str, int, int]:
        """Kind ("target", "english" or "english_plain"), number of the source, and row of sequence `n` of the run,
        n >= 0."""
        replay = floor(n * self.share)
        if floor((n + 1) * self.share) == replay:
            return self._of("target", n - replay, 0)
        if not self.texts["english_plain"]:
            return self._of("english", replay, 0)
        switched = falling(replay, self.replay)
        if falling(replay + 1, self.replay) > switched:
            return self._of("english", switched, 0)
        # An order of its own: in the switched one's order the same few documents would come twice.
        return self._of("english_plain", replay - switched, 1)

    def _of(self, kind: str, k: int, order: int) -> tuple[str, int, int]:
        """The k-th sequence of a kind."""
        source, k = interleaved(k, self._shares[kind])
        epoch, place = divmod(k, len(self.texts[kind][source]))
        return kind, source, permuted(place, len(self.texts[kind][source]), self.seed, epoch, order)

    def rows(self, numbers: Iterable[int]) -> tuple[Tensor, Tensor]:
        """`inputs` and `labels`, int64 [len(numbers), sequence_length]."""
        found = []
        for n in numbers:
            kind, source, row = self.locate(n)
            found.append(self.texts[kind][source].row(row))
        inputs, labels = (torch.from_numpy(np.stack(one).astype(np.int64)) for one in zip(*found, strict=True))
        return inputs, labels

    def documents(self, numbers: list[int], start_id: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `Sequences` says; a row that begins inside a document is read as a text is, after the start token."""
        inputs, labels = self.rows(numbers)
        # The first token is the attention sink (2309.17453); a new token there, which the base has not learned to use
        # as one, gave gradients thirty times the usual.
        inputs[:, 0] = start_id
        return inputs, labels, positions(inputs, start_id)


def _nested(weights: Sequence[float]) -> list[float]:
    """Of each source, the part that it has of what those before it leave."""
    return [weight / sum(weights[i:]) for i, weight in enumerate(weights)]


def interleaved(k: int, shares: Sequence[float]) -> tuple[int, int]:
    """Which of some sources the k-th sequence comes from, and how many came from it before.

    The first source takes its share evenly spread, the second likewise of what is left, and so on; so at no point has
    any had more than the number of sources more or less than its part.

    Args:
        shares: of each source, of what those before it leave; the last is 1.
    """
    for source, share in enumerate(shares[:-1]):
        taken = floor(k * share)
        if floor((k + 1) * share) > taken:
            return source, taken
        k -= taken
    return len(shares) - 1, k


def falling(k: int, total: int) -> int:
    """How many of the first `k` of `total` sequences are switched when their share falls in a line from 1 to 0.

    The area under that line, k - k^2 / (2 total), rounded; so at no point more than half a sequence away from it.
    """
    k = min(k, total)
    return (2 * total * k - k * k + total) // (2 * total) if total else 0


def permuted(place: int, count: int, seed: int, epoch: int, order: int = 0) -> int:
    """A permutation of 0..count-1 for a seed and an epoch, one of several orders.

    A Feistel network over the next power of 4, walked until it comes back below `count` (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains", section 4): as good as drawn, and no list is kept.
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask, keys = (1 << half) - 1, _round_keys(seed, epoch, order)
    while True:
        left, right = place >> half, place & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        place = left << half | right
        if place < count:
            return place


@lru_cache(64)
def _round_keys(seed: int, epoch: int, order: int) -> tuple[int, ...]:
    drawn = np.random.default_rng([seed, epoch, order]).integers(2**64, size=ROUNDS, dtype=np.uint64)
    return tuple(drawn.tolist())


def _mixed(x: int) -> int:
    """SplitMix64 of one number, as `word_spans.mix` of many."""
    x = (x + GOLDEN) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def positions(inputs: Tensor, start_id: int) -> Tensor:
    """Position of each token in its document, int64 [B, T]: restarts at every start token, so that attention does.

    A row that begins inside a document counts from its own first token.
    """
    index = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs)
    starts = torch.where(inputs == start_id, index, torch.zeros_like(index))
    return index - starts.cummax(dim=1).values
