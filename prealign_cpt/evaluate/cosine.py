"""How near vectors of two languages are: cosines, and CSLS, which allows for vectors that are near to everything.

Shapes: N and M vectors, D numbers each.
"""

import torch
from torch import Tensor

NEIGHBOURS = 10
"""Of CSLS; MUSE's choice."""


def unit(x_ND: Tensor) -> Tensor:  # noqa: N803
    """Rows of length 1, fp64; rows of zeros stay."""
    x = x_ND.double()
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=1e-300)


def cosines(x_ND: Tensor, y_MD: Tensor) -> Tensor:  # noqa: N803
    """Cosine of each x with each y, fp64 [N, M]: a model's vectors lie close together, and in bf16 many of a thousand
    are equal. Zero vectors have cosine 0."""
    return unit(x_ND) @ unit(y_MD).T


def csls(cosine_NM: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:  # noqa: N803
    """2 cos(x, y) - r(x) - r(y), where r is the mean cosine to the nearest `neighbours` of the other language (Conneau
    et al. 2018, arXiv 1710.04087, section 2.3). [N, M] like the cosines, which must be of all vectors of both sides."""
    near_N = cosine_NM.topk(min(neighbours, cosine_NM.shape[1]), dim=1).values.mean(dim=1)  # noqa: N806
    near_M = cosine_NM.topk(min(neighbours, cosine_NM.shape[0]), dim=0).values.mean(dim=0)  # noqa: N806
    return 2 * cosine_NM - near_N[:, None] - near_M[None, :]
