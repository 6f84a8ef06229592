"""What the base model makes of the old pieces of each new token: the features of the map that all new rows share.

    old pieces ─► read behind the start token ─► states of three layers at the last one ─┐
               ─► rows of the first, of the last, mean of all ───────────────────────────┴► standardised ─► x, and a 1

Shapes: M new tokens, D hidden size, K = 6 D + 1 features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from prealign_cpt.align.trainable import Trainable, pack
from prealign_cpt.model.load import blocks
from prealign_cpt.train.composition import features

DEPTHS = (1 / 5, 2 / 5, 2 / 3)
"""Of the three layers, as shares of the body."""

BATCH = 2048
"""New tokens whose pieces are read at once."""


@torch.no_grad()
def piece_features(model: Trainable, pieces: Sequence[Sequence[int]]) -> Tensor:
    """Features of each new token, fp32 [M, K]; all but the last have mean 0 over the tokens, and a norm of about 2.

    Args:
        pieces: old ids that spell each new token; one that has none gets zeros and the 1.
    """
    spelled = [m for m, ids in enumerate(pieces) if ids]
    rows = model.model.get_input_embeddings().weight
    x = torch.zeros(len(pieces), 6 * rows.shape[1] + 1, device=rows.device)
    x[:, -1] = 1.0
    if not spelled:
        return x
    layers = [max(1, round(share * len(blocks(model.model)))) for share in DEPTHS]
    states = []
    for start in range(0, len(spelled), BATCH):
        some = [pieces[m] for m in spelled[start : start + BATCH]]
        packed = pack(some, model.start_id)
        last = [first + len(ids) - 1 for first, ids in zip(packed.first, some, strict=True)]
        found = model.run_to(model.model, layers, model.embed(packed.ids_BT.to(model.device)), packed)
        states.append(torch.cat([state[last].float() for state in found], dim=1))
    composed = features([pieces[m] for m in spelled], rows[: model.num_old])[:, :-1]
    known = torch.cat([torch.cat(states), composed], dim=1)
    known = (known - known.mean(dim=0)) / (known.std(dim=0, correction=0) + 1e-6)
    x[spelled, :-1] = known * (2 / known.shape[1] ** 0.5)
    return x
