"""Training text and held-out text: which document is which, and which training documents repeat a held-out one.

A document's side is decided by a hash of its content, so it does not change when files are added, renamed or put into
another order. As the text grows the shares are halved, and what is held out of more text is among what was held out of
less: a document moves from held-out to training text, never back.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from prealign_cpt.run.errors import DataError

SHARE = 0.05
"""Of the bytes, at most, for each held-out text."""

ENOUGH_BYTES = 100_000
"""Of a held-out text: the share is halved as long as so many are left. Evaluation reads 24,000 by default."""

LEAST_BYTES = 20_000
"""Of a text that is to be split."""

STRETCH = 32
"""Bytes of the stretches that two documents are compared by."""

REPEATED = 0.5
"""A training document of whose stretches so many stand in held-out text is left out."""

MAYBE_BITS = 24
"""First bits of a stretch's hash that are looked up before the hash is searched for."""

_SHIFT = np.uint64(64 - MAYBE_BITS)

_FACTOR = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_INVERSE = pow(_FACTOR, -1, 2**64)


def share_of(num_bytes: int, path: str) -> float:
    """The share of each held-out text, for a text of so many bytes.

    Raises:
        DataError: there is too little text to split.
    """
    if num_bytes < LEAST_BYTES:
        raise DataError(
            f"{path}: {num_bytes:,} bytes are too few to hold text out of them; give {LEAST_BYTES:,} or more, or name "
            "held-out texts (text.valid_target, text.test_target, ...)"
        )
    share = SHARE
    while share * num_bytes / 2 >= ENOUGH_BYTES:
        share /= 2
    return share


def place(document: str) -> float:
    """Where a document stands between 0 and 1: uniform, and a function of its content alone."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:7]) / 2**56


def side_of(document: str, share: float, names: Iterable[str]) -> str:
    """ "train", or the name of the held-out text that a document belongs to.

    Args:
        names: of "valid" and "test", those to be split off.
    """
    at = place(document)
    for name, start in (("valid", 0.0), ("test", 0.5)):
        if name in names and start <= at < start + share:
            return name
    return "train"


def stretches_of(documents: Iterable[str]) -> NDArray[np.uint64]:
    """The hashes of all stretches of some documents, each once, rising."""
    found = [stretches(document) for document in documents]
    return np.unique(np.concatenate([*found, np.empty(0, dtype=np.uint64)]))


class Repeated:
    """Tells how much of a document stands in held-out documents.

    Args:
        known: of these, `stretches_of`.
    """

    def __init__(self, known: NDArray[np.uint64]) -> None:
        self._known = known
        self._maybe = np.zeros(1 << MAYBE_BITS, dtype=bool)
        self._maybe[known >> _SHIFT] = True

    def share(self, document: str) -> float:
        """The share of a document's stretches that stand in held-out documents."""
        own = stretches(document)
        if not len(own) or not len(self._known):
            return 0.0
        maybe = own[self._maybe[own >> _SHIFT]]  # nearly all are told apart by their first bits, without a search
        at = np.minimum(np.searchsorted(self._known, maybe), len(self._known) - 1)
        return float((self._known[at] == maybe).sum() / len(own))


def stretches(document: str) -> NDArray[np.uint64]:
    """A hash of every stretch of `STRETCH` bytes, uint64 [bytes - STRETCH + 1]; of a shorter document, one of all.

    A polynomial hash modulo 2^64, from prefix sums: the stretch that begins at byte i is
    (P[i + STRETCH] - P[i]) * factor^(-i), with P the sum of byte k times factor^k.
    """
    data = np.frombuffer(document.encode(), dtype=np.uint8).astype(np.uint64) + np.uint64(1)
    width = min(STRETCH, len(data))
    count = len(data) - width + 1
    sums = np.zeros(len(data) + 1, dtype=np.uint64)
    np.cumsum(data * _powers(_FACTOR, len(data)), out=sums[1:])
    return (sums[width:] - sums[:count]) * _powers(_INVERSE, count)


def _powers(factor: int, count: int) -> NDArray[np.uint64]:
    powers = np.full(count, factor, dtype=np.uint64)
    powers[:1] = 1
    return np.cumprod(powers)
