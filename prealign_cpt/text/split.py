"""Training text and held-out text: which document is which, and which training documents repeat a held-out one.

A document's side is decided by a hash of its content, so it does not change when files are added, renamed or put into
another order. As the text grows the shares are halved, and what is held out of more text is among what was held out of
less: a document moves from held-out to training text, never back.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

from prealign_cpt.run.errors import DataError
from prealign_cpt.text.grams import Hashes, Known, between, prefix_sums

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


def stretches_of(documents: Iterable[str]) -> Hashes:
    """The hashes of all stretches of some documents, each once, rising."""
    found = [stretches(document) for document in documents]
    return np.unique(np.concatenate([*found, np.empty(0, dtype=np.uint64)]))


class Repeated:
    """Tells how much of a document stands in held-out documents.

    Args:
        known: of these, `stretches_of`.
    """

    def __init__(self, known: Hashes) -> None:
        self._known = Known(known)

    def share(self, document: str) -> float:
        """The share of a document's stretches that stand in held-out documents."""
        own = stretches(document)
        return len(self._known.find(own)[0]) / len(own) if len(own) else 0.0


def stretches(document: str) -> Hashes:
    """A hash of every stretch of `STRETCH` bytes, uint64 [bytes - STRETCH + 1]; of a shorter document, one of all."""
    data = np.frombuffer(document.encode(), dtype=np.uint8)
    width = min(STRETCH, len(data))
    starts = np.arange(len(data) - width + 1)
    return between(prefix_sums(data), starts, starts + width)
