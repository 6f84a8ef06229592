"""Static rows for new tokens: weighted means of the base model's rows.

    new token text --base tokenizer--> old pieces ----------> mean row  \\
    new token text --lexicon--> English words --pieces-----> mean row  / mixed --> input row; shrunk --> output row

Shapes: V old tokens, M new tokens, D hidden size.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prealign_cpt.align.words import encode_pieces, encode_words
from prealign_cpt.lexicon.pairs import Pair

Weights = dict[int, float]
"""Old token id -> weight; the weights of a row sum to 1, and an empty one means the mean of all old rows."""


@dataclass(frozen=True)
class StaticRows:
    """Rows of the new tokens, in the order of their ids.

    Attributes:
        input_MD: fp32 [M, D].
        output_MD: fp32 [M, D], shrunk; the same tensor as `input_MD` when the head is tied.
        provenance: for each new token "subword", "lexicon" (mixed with subwords), "mean" or "fallback".
    """

    input_MD: Tensor  # noqa: N815
    output_MD: Tensor  # noqa: N815
    provenance: list[str]


def static_rows(
    init: Literal["mean", "subword", "subword+lexicon"],
    texts: list[str],
    base_tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    input_VD: Tensor,  # noqa: N803
    output_VD: Tensor | None,  # noqa: N803
    lexicon_weight: float,
    shrink: float,
) -> StaticRows:
    """Rows for new tokens with the given texts.

    Args:
        texts: the decoded new tokens, a leading space included where the token has one.
        input_VD, output_VD: fp32 [V, D], the rows of tokens that exist; `output_VD` None for a tied head.
        lexicon_weight: share of the lexicon's mean in a row whose token is a whole listed word.
        shrink: output rows are mean + shrink * (row - mean). A tied model has only one row, so the shrunk one is used.
    """
    weights, provenance = _weights(init, texts, base_tokenizer, pairs, lexicon_weight)
    input_rows = _combine(weights, input_VD)
    mean = (input_VD if output_VD is None else output_VD).mean(dim=0)
    if output_VD is None:
        tied = mean + shrink * (input_rows - mean)
        return StaticRows(tied, tied, provenance)
    output_rows = _combine(weights, output_VD)
    return StaticRows(input_rows, mean + shrink * (output_rows - mean), provenance)


def _weights(
    init: str, texts: list[str], tokenizer: PreTrainedTokenizerBase, pairs: list[Pair], lexicon_weight: float
) -> tuple[list[Weights], list[str]]:
    if init == "mean":
        return [{} for _ in texts], ["mean"] * len(texts)
    encoded = encode_pieces(tokenizer, texts) if texts else []
    listed = _lexicon_weights(tokenizer, pairs) if init == "subword+lexicon" else {}
    weights, provenance = [], []
    for text, ids in zip(texts, encoded, strict=True):
        subword = _mean_of([ids])
        word = text[1:] if text.startswith(" ") else ""
        translated = listed.get(word) or listed.get(word.lower()) or {}
        if translated:
            mixed = {i: (1 - lexicon_weight) * w for i, w in subword.items()}
            for i, w in translated.items():
                mixed[i] = mixed.get(i, 0.0) + lexicon_weight * w
            weights.append(mixed)
            provenance.append("lexicon")
        else:
            weights.append(subword)
            provenance.append("subword" if subword else "fallback")
    return weights, provenance


def _lexicon_weights(tokenizer: PreTrainedTokenizerBase, pairs: list[Pair]) -> dict[str, Weights]:
    """Single-word target -> mean over its English words of the mean over their pieces."""
    sources = sorted({pair.source for pair in pairs})
    pieces = dict(zip(sources, encode_words(tokenizer, sources), strict=True))
    groups: dict[str, list[list[int]]] = {}
    for pair in pairs:
        if " " not in pair.target:
            for form in {pair.target, pair.target.lower()}:
                groups.setdefault(form, []).append(pieces[pair.source])
    return {word: _mean_of(encoded) for word, encoded in groups.items()}


def _mean_of(groups: list[list[int]]) -> Weights:
    """Mean over groups of the mean over each group's ids."""
    groups = [ids for ids in groups if ids]
    weights: Counter[int] = Counter()
    for ids in groups:
        for i in ids:
            weights[i] += 1.0 / (len(ids) * len(groups))  # type: ignore[assignment]
    return dict(weights)


def _combine(weights: list[Weights], table_VD: Tensor) -> Tensor:  # noqa: N803
    """Sparse [M, V] times dense [V, D]: seconds where a loop over tokens takes a minute."""
    mean = table_VD.mean(dim=0)
    rows = [(m, i, w) for m, row in enumerate(weights) for i, w in row.items()]
    out = mean.repeat(len(weights), 1)
    if not rows:
        return out
    indices = torch.tensor([[m for m, _, _ in rows], [i for _, i, _ in rows]])
    values = torch.tensor([w for _, _, w in rows], dtype=table_VD.dtype)
    sparse = torch.sparse_coo_tensor(indices, values, (len(weights), len(table_VD)), check_invariants=False)
    filled = torch.tensor([m for m, row in enumerate(weights) if row])
    out[filled] = torch.sparse.mm(sparse, table_VD)[filled]
    return out
