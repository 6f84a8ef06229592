"""Text in the form in which it is compared, and hashes of stretches of it.

"Der Hund, 2 Katzen."  --normal-->  "der hund 2 katzen"        "图书馆 in Rom"  --normal-->  "图 书 馆 in rom"
normal lines  --Words-->  a hash of every line, of every n words in a row      hashes  --Known.find-->  which are known

Shapes: B bytes, W words, L lines.
"""

from collections.abc import Sequence

import numpy as np
import regex
from numpy.typing import NDArray

from prealign_cpt.text.scripts import JOINERS, apart

Hashes = NDArray[np.uint64]

MAYBE_BITS = 8
"""So many bits more than the number of known hashes needs, and 24 at most, are looked up first: by them nearly all
unknown hashes are told."""

_FACTOR = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_INVERSE = pow(_FACTOR, -1, 2**64)
_BETWEEN = regex.compile(r"[^\p{L}\p{M}\p{N}]+")
_JOINERS = str.maketrans("", "", JOINERS)


def normal(text: str) -> str:
    """The words of a text (letters, marks, digits) without case, a space between them; letters of scripts that put no
    space between words are words of their own. Joiners, which some write and some do not, are left out."""
    return _BETWEEN.sub(" ", apart(text.casefold().translate(_JOINERS))).strip()


class Words:
    """The words of some lines.

    Args:
        lines: as `normal` returns them, L; those without words count too.
        documents: the document of each line, [L], not falling.

    Attributes:
        counts: words of each line, int64 [L].
        line, document: of each word, int64 [W].
    """

    def __init__(self, lines: Sequence[str], documents: Sequence[int]) -> None:
        self.counts = np.array([line.count(" ") + 1 if line else 0 for line in lines], dtype=np.int64)
        self.line = np.repeat(np.arange(len(lines)), self.counts)
        self.document = np.asarray(documents, dtype=np.int64)[self.line]
        data = np.frombuffer("".join(f"{line} " for line in lines if line).encode(), dtype=np.uint8)
        self.ends = np.flatnonzero(data == ord(" "))
        self.starts = np.concatenate([[0], self.ends + 1])[: len(self.ends)]
        self._sums = prefix_sums(data)

    def hashes(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> Hashes:
        """The hash of the words from each first to each last one."""
        return between(self._sums, self.starts[first], self.ends[last])

    def grams(self, width: int) -> tuple[Hashes, NDArray[np.int64]]:
        """The hash of every `width` words in a row of one document, and the number of the first of them."""
        count = max(0, len(self.starts) - width + 1)
        first = np.flatnonzero(self.document[:count] == self.document[width - 1 :])
        return self.hashes(first, first + width - 1), first

    def whole(self, part: NDArray[np.int64]) -> tuple[Hashes, NDArray[np.int64]]:
        """The hash of every line or document that has words, and its number.

        Args:
            part: `line` or `document`.
        """
        first = np.flatnonzero(np.diff(part, prepend=-1))
        return self.hashes(first, np.append(first[1:], len(part))[: len(first)] - 1), part[first]


class Known:
    """Tells which of many hashes are among some that are known.

    Args:
        hashes: each once, rising.
    """

    def __init__(self, hashes: Hashes) -> None:
        self._known = hashes
        bits = min(24, len(hashes).bit_length() + MAYBE_BITS)
        self._shift, self._maybe = np.uint64(64 - bits), np.zeros(1 << bits, dtype=bool)
        self._maybe[hashes >> self._shift] = True

    def find(self, own: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where known hashes stand in `own`, and which ones of the known they are."""
        maybe = np.flatnonzero(self._maybe[own >> self._shift])
        if not len(maybe):
            return maybe, maybe
        at = np.minimum(np.searchsorted(self._known, own[maybe]), len(self._known) - 1)
        same = self._known[at] == own[maybe]
        return maybe[same], at[same]


def prefix_sums(data: NDArray[np.uint8]) -> Hashes:
    """P[i], the sum modulo 2^64 of byte k, plus 1, times factor^k over all k < i; [B + 1]."""
    sums = np.zeros(len(data) + 1, dtype=np.uint64)
    np.cumsum((data.astype(np.uint64) + np.uint64(1)) * _powers(_FACTOR, len(data)), out=sums[1:])
    return sums


def between(sums: Hashes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Hashes:
    """A polynomial hash modulo 2^64 of the bytes from each start to before each end, which is a function of these bytes
    alone: (P[end] - P[start]) * factor^(-start)."""
    return (sums[ends] - sums[starts]) * _powers(_INVERSE, len(sums))[starts]


def _powers(factor: int, count: int) -> Hashes:
    powers = np.full(count, factor, dtype=np.uint64)
    powers[:1] = 1
    return np.cumprod(powers)
