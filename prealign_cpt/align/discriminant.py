"""What tells the places before a new token from all places before its first piece.

    base model's states of target text ─► their mean before each new token mu_m, before its first piece mu_f
                                       ─► covariance of the states around the mean of their old piece C
    output row += share n / (n + n0) (C + ridge)^-1 (mu_m - mu_f)

Words that begin with the same piece begin with like output rows. Were states normally distributed around their token's
mean, this is what their logits differ by (linear discriminant analysis, Fisher 1936). It needs means only, so it learns
from a few occurrences (benchmarks/output_rows.py). The method is this project's own.

Shapes: N places, D hidden size, M new tokens, F old tokens that follow somewhere.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from prealign_cpt.align.states import NOTHING, States

RIDGE, SHARE, UNSEEN = 2.0, 0.5, 30.0
"""What is added to the covariance's diagonal, in units of its mean; how much of the difference is taken; n0. Chosen for
German and Greek together; values nearby do as well."""


def discriminants(target: States, pieces: Sequence[Sequence[int]]) -> Tensor:
    """What to add to the output rows of the new tokens, fp32 [M, D]; 0 for one that the states do not know.

    Args:
        pieces: of each new token the old ids that spell it, perhaps none.
    """
    hidden_ND, size = target.hidden_ND, len(pieces)
    firsts, old_N = target.next_old_N.to(hidden_ND.device).unique(return_inverse=True)
    first_FD, _ = _means(hidden_ND, old_N, len(firsts))
    around_ND = hidden_ND - first_FD[old_N]
    covariance_DD = (around_ND.T @ around_ND).double() / max(1, len(hidden_ND) - len(firsts))
    covariance_DD.diagonal().add_(RIDGE * covariance_DD.diagonal().mean() + 1e-12)
    new_N = target.next_new_N.to(hidden_ND.device)
    new = new_N != NOTHING
    mean_MD, count_M = _means(hidden_ND[new], new_N[new], size)
    place = {int(token): i for i, token in enumerate(firsts)}
    known = [m for m, ids in enumerate(pieces) if ids and count_M[m] and ids[0] in place]
    moved_MD = torch.zeros(size, hidden_ND.shape[1], device=hidden_ND.device)
    if known:
        difference = mean_MD[known] - first_FD[[place[pieces[m][0]] for m in known]]
        shrunk = difference * (SHARE * count_M[known] / (count_M[known] + UNSEEN))[:, None]
        moved_MD[known] = torch.linalg.solve(covariance_DD, shrunk.double().T).T.float()
    return moved_MD


def _means(values_ND: Tensor, groups_N: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean of each group and its size, fp32 [count, D] and [count]; 0 for one without values."""
    sizes = torch.bincount(groups_N, minlength=count).to(values_ND)
    sums = values_ND.new_zeros(count, values_ND.shape[1]).index_add_(0, groups_N, values_ND)
    return sums / sizes.clamp(min=1)[:, None], sizes
