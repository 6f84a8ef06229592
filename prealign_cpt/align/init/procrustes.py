"""An orthogonal map between two spaces, fitted on word pairs.

Shapes: P pairs, K and D dimensions of the two spaces.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class OrthogonalMap:
    """x -> center_D + scale * (x - center_K) rotation_KD."""

    center_K: Tensor  # noqa: N815
    rotation_KD: Tensor  # noqa: N815
    scale: float
    center_D: Tensor  # noqa: N815

    def __call__(self, x_NK: Tensor) -> Tensor:
        return self.center_D + self.scale * (x_NK - self.center_K) @ self.rotation_KD


def fit_map(x_PK: Tensor, y_PD: Tensor, weights_P: Tensor) -> OrthogonalMap:
    """The map with the least weighted squared error: orthogonal Procrustes (Schönemann 1966) with scale and centers.

    Between spaces of different size the rotation has orthonormal rows (K < D) or columns (K > D).
    """
    share = (weights_P / weights_P.sum())[:, None]
    center_x, center_y = (share * x_PK).sum(dim=0), (share * y_PD).sum(dim=0)
    x, y = x_PK - center_x, y_PD - center_y
    left, values, right = torch.linalg.svd((x.T @ (share * y)).double(), full_matrices=False)
    rotation = (left @ right).float()
    spread = (share * (x @ rotation).square()).sum()
    scale = float(values.sum()) / float(spread) if spread > 0 else 0.0
    return OrthogonalMap(center_x, rotation, scale, center_y)
