"""Lexicon pairs whose both sides have vectors: what a map between two spaces is fitted on.

Shapes: P anchors, K dimensions of the vectors, V old tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prealign_cpt.align.init.lexicon import ambiguity
from prealign_cpt.align.init.mixture import Mixture
from prealign_cpt.align.init.subword import mean_weights
from prealign_cpt.align.init.vectors import TokenVectors
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.vectors import encode_words
from prealign_cpt.run.errors import DataError

MIN_ANCHORS = 10


@dataclass(frozen=True)
class Anchors:
    """Pairs in token ids, [P] each.

    Attributes:
        sources, targets: old ids of the English side, grown ids of the target side; none is empty.
        weights: fp32 [P], 1 / (number of translations of the English side).
    """

    sources: list[list[int]]
    targets: list[list[int]]
    weights: Tensor


def find_anchors(
    pairs: list[Pair],
    base_tokenizer: PreTrainedTokenizerBase,
    grown_tokenizer: PreTrainedTokenizerBase,
    target: TokenVectors,
    english: TokenVectors | None = None,
) -> Anchors:
    """The pairs of which every token has a vector: on the target side, and on the English one if it has vectors.

    Raises:
        DataError: there are fewer than `MIN_ANCHORS`.
    """
    own = ambiguity(pairs)
    kept = sorted(set(pairs))
    sources = encode_words(base_tokenizer, [pair.source for pair in kept])
    targets = encode_words(grown_tokenizer, [pair.target for pair in kept])
    usable = [
        (source, goal, own[pair.source])
        for pair, source, goal in zip(kept, sources, targets, strict=True)
        if _known(goal, target) and (source if english is None else _known(source, english))
    ]
    if len(usable) < MIN_ANCHORS:
        raise DataError(
            f"lexicon: {len(usable)} of {len(kept)} pairs consist of tokens that the text shows often enough, and "
            f"a map needs {MIN_ANCHORS} or more; give a larger lexicon or more text, or choose another align.init"
        )
    return Anchors([s for s, _, _ in usable], [t for _, t, _ in usable], torch.tensor([w for _, _, w in usable]))


def mean_vectors(encoded: list[list[int]], vectors: TokenVectors) -> Tensor:
    """The mean over each word's tokens, of length 1, [P, K]."""
    places = [vectors.places[torch.tensor(ids)].tolist() for ids in encoded]
    return torch.nn.functional.normalize(mean_rows(places, vectors.vectors_NK))


def mean_rows(encoded: list[list[int]], table: Tensor) -> Tensor:
    """The mean over each word's rows of a table."""
    return Mixture.of([mean_weights(ids) for ids in encoded]).times(table)


def _known(ids: list[int], vectors: TokenVectors) -> bool:
    return bool(ids) and bool((vectors.places[torch.tensor(ids)] >= 0).all())
