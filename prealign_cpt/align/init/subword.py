"""Subword means: a new token's row is the mean of the rows that the base tokenizer spells its text with."""

from transformers import PreTrainedTokenizerBase

from prealign_cpt.align.init.mixture import Mixture
from prealign_cpt.model.tokens import num_ids
from prealign_cpt.model.vectors import encode_pieces

UNDECODABLE = "\ufffd"
"""Stands in the text of a byte-level token that is a part of a character."""


def subword_mixture(
    texts: list[str], base_tokenizer: PreTrainedTokenizerBase, grown_tokenizer: PreTrainedTokenizerBase
) -> Mixture:
    """Equal weights for the pieces of each text; none for a text without pieces.

    Args:
        texts: the new tokens' texts, a leading space included where the token has one, in the order of their ids.
    """
    return Mixture.of([mean_weights(ids) for ids in old_pieces(texts, base_tokenizer, grown_tokenizer)])


def old_pieces(
    texts: list[str], base_tokenizer: PreTrainedTokenizerBase, grown_tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Old token ids that spell each new token, special ones left out; none for a text without pieces.

    Args:
        texts: as for `subword_mixture`.
    """
    encoded, first_new = encode_pieces(base_tokenizer, texts), num_ids(base_tokenizer)
    for m, text in enumerate(texts):
        if UNDECODABLE in text:
            encoded[m] = _byte_pieces(first_new + m, base_tokenizer, grown_tokenizer)
    special = set(base_tokenizer.all_special_ids)
    return [[i for i in ids if i not in special] for ids in encoded]


def mean_weights(ids: list[int]) -> dict[int, float]:
    """Equal weights that sum to 1; an id that stands twice counts twice."""
    weights: dict[int, float] = {}
    for i in ids:
        weights[i] = weights.get(i, 0.0) + 1.0 / len(ids)
    return weights


def _byte_pieces(new_id: int, base: PreTrainedTokenizerBase, grown: PreTrainedTokenizerBase) -> list[int]:
    """Pieces of a part of a character: its bytes cannot pass through text, so the merges get them as they are."""
    string = grown.convert_ids_to_tokens(new_id)
    return [piece.id for piece in base.backend_tokenizer.model.tokenize(string)] if string else []
