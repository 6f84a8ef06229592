"""New rows as weighted means of old rows: a sparse matrix, its product with a table, and subword means.

Shapes: M new tokens, V old tokens, N weights that are not zero, D hidden size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prealign_cpt.model.tokens import num_ids
from prealign_cpt.model.vectors import encode_pieces

UNDECODABLE = "\ufffd"
"""Stands in the text of a byte-level token that is a part of a character."""


@dataclass(frozen=True)
class Mixture:
    """Weights of old rows in new rows, a sparse [M, V]; a row's weights sum to 1, or it has none.

    Attributes:
        size: M.
        rows_N, ids_N: int64, which new token and which old one; a pair that stands twice counts with the sum.
        weights_N: fp32, above 0.
    """

    size: int
    rows_N: Tensor  # noqa: N815
    ids_N: Tensor  # noqa: N815
    weights_N: Tensor  # noqa: N815

    @classmethod
    def of(cls, weights: list[dict[int, float]]) -> "Mixture":
        """From one dictionary per new token, old id -> weight."""
        rows = [m for m, row in enumerate(weights) for _ in row]
        ids = [i for row in weights for i in row]
        values = [w for row in weights for w in row.values()]
        return cls(
            len(weights),
            torch.tensor(rows, dtype=torch.int64),
            torch.tensor(ids, dtype=torch.int64),
            torch.tensor(values, dtype=torch.float32),
        )

    @property
    def covered_M(self) -> Tensor:  # noqa: N802
        """bool [M]: the rows that have weights."""
        covered = torch.zeros(self.size, dtype=torch.bool)
        covered[self.rows_N] = True
        return covered

    def over(self, other: "Mixture", share: float = 1.0) -> "Mixture":
        """`share` of this mixture and the rest of `other` where this one has weights; `other` alone elsewhere.

        Where `other` has none, this one counts whole.
        """
        mine_M = torch.where(other.covered_M, share, 1.0)
        theirs_M = torch.where(self.covered_M, 1.0 - share, 1.0)
        weights = torch.cat([self.weights_N * mine_M[self.rows_N], other.weights_N * theirs_M[other.rows_N]])
        keep = weights > 0
        return Mixture(
            self.size,
            torch.cat([self.rows_N, other.rows_N])[keep],
            torch.cat([self.ids_N, other.ids_N])[keep],
            weights[keep],
        )

    def times(self, table_VD: Tensor) -> Tensor:
        """The new rows, fp32 [M, D]; a row without weights is the mean of the table."""
        indices = torch.stack([self.rows_N, self.ids_N])
        shape = (self.size, len(table_VD))
        sparse = torch.sparse_coo_tensor(indices, self.weights_N, shape, check_invariants=False)
        rows_MD = torch.sparse.mm(sparse, table_VD)
        rows_MD[~self.covered_M] = table_VD.mean(dim=0)
        return rows_MD


def mean_weights(ids: list[int]) -> dict[int, float]:
    """Equal weights that sum to 1; an id that stands twice counts twice."""
    weights: dict[int, float] = {}
    for i in ids:
        weights[i] = weights.get(i, 0.0) + 1.0 / len(ids)
    return weights


def subword_mixture(pieces: list[list[int]]) -> Mixture:
    """Equal weights for the old pieces of each new token; none for a token without pieces."""
    return Mixture.of([mean_weights(ids) for ids in pieces])


def first_piece_mixture(pieces: list[list[int]], share: float) -> Mixture:
    """`share` for the first old piece of each new token, which is what a model predicts where the token stands, and the
    rest for all pieces alike; none for a token without pieces."""
    return Mixture.of([{ids[0]: 1.0} if ids else {} for ids in pieces]).over(subword_mixture(pieces), share)


def old_pieces(
    texts: list[str], base_tokenizer: PreTrainedTokenizerBase, grown_tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Old token ids that spell each new token, special ones left out; none for a text without pieces.

    Args:
        texts: the new tokens' texts, a leading space included where the token has one, in the order of their ids.
    """
    if not texts:
        return []
    encoded, first_new = encode_pieces(base_tokenizer, texts), num_ids(base_tokenizer)
    for m, text in enumerate(texts):
        if UNDECODABLE in text:
            encoded[m] = _byte_pieces(first_new + m, base_tokenizer, grown_tokenizer)
    special = set(base_tokenizer.all_special_ids)
    return [[i for i in ids if i not in special] for ids in encoded]


def _byte_pieces(new_id: int, base: PreTrainedTokenizerBase, grown: PreTrainedTokenizerBase) -> list[int]:
    """Pieces of a part of a character: its bytes cannot pass through text, so the merges get them as they are."""
    string = grown.convert_ids_to_tokens(new_id)
    return [piece.id for piece in base.backend_tokenizer.model.tokenize(string)] if string else []
