"""Random numbers that are a pure function of (seed, epoch, document, word), for many documents at once.

A counter-based generator: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) in uint64 arrays. Every document has a key,
and the draw of its word `w` is the mixed value of `key + (w + 1) * GOLDEN`. So a draw depends neither on the documents
beside it nor on the order in which they are read.
"""

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0x9E3779B97F4A7C15
"""2^64 / golden ratio, odd: SplitMix64's step."""

Draws = NDArray[np.uint64]


def mix(x: Draws) -> Draws:
    """SplitMix64's finalizer, in place: a bijection of 64-bit words in which every input bit moves every output bit."""
    shifted = x >> 30
    x ^= shifted
    x *= 0xBF58476D1CE4E5B9
    np.right_shift(x, 27, out=shifted)
    x ^= shifted
    x *= 0x94D049BB133111EB
    np.right_shift(x, 31, out=shifted)
    x ^= shifted
    return x


def keys(seed: int, epoch: int, first: int, count: int) -> Draws:
    """Keys of the documents `first`, `first + 1`, ..., uint64 [count]."""
    key = np.zeros(1, dtype=np.uint64)
    for number in (seed, epoch):
        key = mix((key + GOLDEN) ^ np.uint64(number % 2**64))
    return mix((key + GOLDEN) ^ np.arange(first, first + count).astype(np.uint64))


def draws(keys_D: Draws, counts_D: NDArray[np.int64]) -> Draws:
    """One draw per word, uniform on 64 bits, uint64 [sum of counts]: words 0, 1, ... of each document in turn."""
    before = (np.cumsum(counts_D) - counts_D).astype(np.uint64)
    x = np.arange(1, int(counts_D.sum()) + 1, dtype=np.uint64)
    x *= GOLDEN
    x += np.repeat(keys_D - before * GOLDEN, counts_D)
    return mix(x)


def happens(x: Draws, probability: float) -> NDArray[np.bool_]:
    """True with a probability, which is rounded to a multiple of 2^-53."""
    return (x >> 11) < round(probability * 2**53)


def pick(x: Draws, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number below each count, uniform to 2^-32 of it, independent of what `happens` says of the same draw."""
    return ((mix(x ^ np.uint64(GOLDEN)) >> 32) * counts.astype(np.uint64) >> 32).astype(np.int64)
