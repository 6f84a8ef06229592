"""Static vectors of tokens from the company they keep: co-occurrences -> PPMI -> truncated SVD.

Levy, Goldberg & Dagan (TACL 2015) show that this, with a smoothed context distribution and the root of the singular
values, is on a par with skip-gram vectors, which the initializers in this folder were published with; and it needs no
further package and no training loop.
Shapes: N tokens that have a vector, K dimensions of the vectors, E co-occurrences that are not zero.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prealign_cpt.run.errors import DataError

WINDOW = 5
"""Tokens to each side that are context; one at distance d counts 1 / d."""

MIN_COUNT = 3
"""Rarer tokens get no vector."""

DIMENSIONS = 128

MIN_TOKENS = 10_000
"""Of running text; below that the vectors are noise."""

SMOOTHING = 0.75
"""Exponent of the context distribution: rare contexts are not overrated."""

POWER_ITERATIONS = 1


@dataclass(frozen=True)
class TokenVectors:
    """Vectors of the tokens that are frequent enough.

    Attributes:
        ids: int64 [N], ascending.
        vectors_NK: fp32 [N, K], of length 1.
        places: int64 [vocabulary], each id's place in `ids`, or -1.
    """

    ids: Tensor
    vectors_NK: Tensor  # noqa: N815
    places: Tensor


def train_vectors(documents: Iterable[NDArray[np.int32]], num_tokens: int, seed: int) -> TokenVectors:
    """Vectors of the tokens of some documents; equal input and seed give equal vectors.

    Args:
        documents: token ids; contexts do not cross their ends.
        num_tokens: size of the vocabulary.

    Raises:
        DataError: the text is too small.
    """
    ids, document = _concatenate(documents)
    frequent = np.flatnonzero(np.bincount(ids, minlength=num_tokens) >= MIN_COUNT)
    if len(ids) < MIN_TOKENS or len(frequent) < 2:
        raise DataError(
            f"{len(ids)} tokens are too few for token vectors, which need {MIN_TOKENS} or more; give more text, or "
            'choose align.init "subword" or "subword+lexicon"'
        )
    places = np.full(num_tokens, -1, dtype=np.int64)
    places[frequent] = np.arange(len(frequent))
    matrix = _ppmi(*_co_occurrences(places[ids], document, len(frequent)), len(frequent))
    vectors = _factors(matrix, min(DIMENSIONS, len(frequent) - 1), seed)
    return TokenVectors(torch.from_numpy(frequent), torch.nn.functional.normalize(vectors), torch.from_numpy(places))


def _concatenate(documents: Iterable[NDArray[np.int32]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """All ids end to end, and the number of the document that each comes from."""
    parts = list(documents)
    if not parts:
        return np.empty(0, np.int32), np.empty(0, np.int32)
    numbers = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
    return np.concatenate(parts), numbers


def _co_occurrences(
    places: NDArray[np.int64], document: NDArray[np.int32], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Words, contexts and counts of the co-occurrences, both directions of each, no pair twice."""
    keys, counts = [], []
    for distance in range(1, WINDOW + 1):
        left, right = places[:-distance], places[distance:]
        inside = (document[:-distance] == document[distance:]) & (left >= 0) & (right >= 0)
        left, right = left[inside], right[inside]
        found, times = np.unique(np.minimum(left, right) * size + np.maximum(left, right), return_counts=True)
        keys.append(found)
        counts.append(times / distance)
    found, at = np.unique(np.concatenate(keys), return_inverse=True)
    times = np.bincount(at, np.concatenate(counts), len(found)).astype(np.float64)
    low, high = found // size, found % size
    # A token beside itself is context in both directions, too, but stands once on the diagonal.
    times = np.where(low == high, 2 * times, times)
    other = low != high
    return (
        np.concatenate([low, high[other]]),
        np.concatenate([high, low[other]]),
        np.concatenate([times, times[other]]),
    )


def _ppmi(words: NDArray[np.int64], contexts: NDArray[np.int64], counts: NDArray[np.float64], size: int) -> Tensor:
    """Positive pointwise mutual information, sparse fp32 [N, N]."""
    totals = np.bincount(words, counts, size)
    smooth = totals**SMOOTHING
    values = np.log(counts / (totals[words] * smooth[contexts] / smooth.sum()))
    kept = values > 0
    indices = torch.from_numpy(np.stack([words[kept], contexts[kept]]))
    values_E = torch.from_numpy(values[kept].astype(np.float32))
    return torch.sparse_coo_tensor(indices, values_E, (size, size), check_invariants=False).coalesce()


def _factors(matrix: Tensor, rank: int, seed: int) -> Tensor:
    """Left singular vectors times the roots of the singular values, [N, K], by random projections.

    Halko, Martinsson & Tropp (SIAM Review 2011), algorithms 4.4 and 5.1. The matrix is not quite symmetric, since only
    contexts are smoothed.
    """
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        # Twice as fast as COO here.
        transposed, matrix = matrix.t().to_sparse_csr(), matrix.to_sparse_csr()
    wide = min(rank + 10, matrix.shape[0])
    basis = torch.linalg.qr(matrix @ torch.randn(matrix.shape[0], wide, generator=generator)).Q
    for _ in range(POWER_ITERATIONS):
        basis = torch.linalg.qr(transposed @ basis).Q
        basis = torch.linalg.qr(matrix @ basis).Q
    # The small side is decomposed through its Gram matrix: [wide, wide] instead of [wide, N].
    projected = transposed @ basis
    squares, left = torch.linalg.eigh(projected.T.double() @ projected.double())
    values = squares.clamp(min=0).sqrt().flip(0)[:rank]
    return basis @ (left.flip(1)[:, :rank] * values.sqrt()).float()
