"""Who is near whom: cosines of vectors of two languages, CSLS, and the rank of a translation.

    x [N, D], y [M, D] --cosines | centred, product--> [N, M] --csls--> [N, M] --nearest | ranks--> [N]
    hits of every layer [L, N] --crossed--> the layer that judges each word [N]

Equal scores are no find, so vectors that collapsed into one point find nothing.
Shapes: N and M vectors, D numbers each, L layers.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prealign_cpt.run.errors import NumericError

NEIGHBOURS = 10
"""Of CSLS; MUSE's choice."""

TIE = 1e-6
"""Scores of centred vectors that differ by less are equal: they are computed in fp32."""


def cosines(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    """Cosine of each x with each y, fp64 [N, M]: a model's vectors lie close together, and in bf16 many of a thousand
    are equal. Zero vectors have cosine 0."""
    x, y = (
        some.double() / torch.linalg.vector_norm(some.double(), dim=1, keepdim=True).clamp(min=1e-300)
        for some in (x_ND, y_MD)
    )
    return x @ y.T


def centred(x_ND: Tensor) -> Tensor:
    """Vectors less their mean, of length 1, fp32; vectors that do not differ from their mean become 0.

    Raises:
        NumericError: a vector is not finite.
    """
    x = x_ND.double()
    if not x.isfinite().all():
        raise NumericError("a word's vector is not finite: the model's weights or its type are at fault")
    moved = x - x.mean(dim=0, keepdim=True)
    same = moved.norm(dim=1) < TIE * x.norm(dim=1)
    return F.normalize(moved, dim=1).masked_fill(same[:, None], 0.0).float()


def csls(cosine_NM: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """2 cos(x, y) - r(x) - r(y), where r is the mean cosine to the nearest `neighbours` of the other language (Conneau
    et al. 2018, arXiv 1710.04087, section 2.3). [N, M] like the cosines, which must be of all vectors of both sides."""
    near_N = cosine_NM.topk(min(neighbours, cosine_NM.shape[1]), dim=1).values.mean(dim=1)
    near_M = cosine_NM.topk(min(neighbours, cosine_NM.shape[0]), dim=0).values.mean(dim=0)
    return 2 * cosine_NM - near_N[:, None] - near_M[None, :]


def nearest(score_NM: Tensor) -> Tensor:
    """The place of the largest value of each row, int64 [N]; -1 where it is not the only one, which is no answer."""
    best, place = score_NM.max(dim=1)
    alone = (score_NM == best[:, None]).sum(dim=1) == 1
    return torch.where(alone, place, -1)


def ranks(score_NM: Tensor, gold: list[list[int]]) -> np.ndarray:
    """For each row the number of wrong candidates that score as high as its best right one, int64 [N]; 0: found."""
    found = []
    for row_M, right in zip(score_NM, gold, strict=True):
        best = row_M[right].max()
        found.append(int((row_M >= best - TIE).sum()) - int((row_M[right] >= best - TIE).sum()))
    return np.array(found)


def crossed(hits_LN: np.ndarray) -> np.ndarray:
    """For each word the layer that finds most of the words of the other half, int64 [N]; the halves take turns.

    So no word has a say in the layer that judges it. Words of the training half cannot choose: of rows that were copied
    from a lexicon they know the table itself best, where words that are not listed find nothing.

    Args:
        hits_LN: bool; whether a layer finds a word.
    """
    layers_N = np.empty(hits_LN.shape[1], dtype=np.int64)
    for half in (0, 1):
        layers_N[half::2] = hits_LN[:, 1 - half :: 2].sum(axis=1).argmax()
    return layers_N
