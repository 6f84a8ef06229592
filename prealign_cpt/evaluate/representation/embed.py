"""A vector for each sentence: the mean of its tokens' hidden states, computed here or by an embeddings server.

    sentences --tokens, cut--> embed_local: every layer, start token left out (align/words.py)   [L+1, N, D]
                           `-> embed_served: as the server pools, start token in front           [N, D]

What a server says must be this model's mean: some of its vectors are compared with local ones.
Shapes: L+1 layers (embeddings, then every block), N sentences, D hidden size.
"""

import numpy as np
import torch
from torch import Tensor

from prealign_cpt.evaluate.representation.cosine import cosines
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.model.vectors import vectors_of
from prealign_cpt.run.errors import DataError
from prealign_cpt.serving import client
from prealign_cpt.serving.client import identify

MOST_TOKENS = 512
"""Of each sentence, so many tokens are read."""

CHECKED = 8
"""Served vectors that are compared with local ones."""

SAME_MODEL = 0.98
"""Least cosine of a served vector to the local one. bf16 keeps it above 0.999; another pooling or model does not."""


def embed_local(subject: Subject, texts: list[str]) -> Tensor:
    """Means over the tokens of each text at every layer, fp32 [L+1, N, D] on the CPU."""
    rows = [ids[:MOST_TOKENS] for ids in subject.encode(texts)]
    return vectors_of(subject.model, rows, subject.start_token_id)


def embed_served(subject: Subject, texts: list[str], check: bool = True) -> np.ndarray:
    """What the embeddings server makes of each text after the start token, float32 [N, D].

    Args:
        check: compare some of them with the local model.

    Raises:
        DataError: vectors are missing, of another size, not finite, or not this model's means.
        UnavailableError: no answer.
    """
    url, key = subject.embeddings_url, subject.key or None
    name, _, length = identify(url, subject.folder, key=key)
    rows = [[subject.start_token_id, *ids[: min(MOST_TOKENS, length - 2)]] for ids in subject.encode(texts)]
    found = client.embed(url, name, rows, size=int(subject.model.config.hidden_size), key=key)
    if check:
        _check_vectors(subject, rows, torch.from_numpy(found))
    return found


def _check_vectors(subject: Subject, rows: list[list[int]], served_ND: Tensor) -> None:
    """Compare some served vectors with the local model's mean over all tokens of the last layer."""
    places = sorted({round(i * (len(rows) - 1) / (CHECKED - 1)) for i in range(CHECKED)})
    local = []
    for i in places:
        row = torch.tensor([rows[i]], device=subject.device)
        with torch.no_grad():
            hidden = subject.model.base_model(input_ids=row, use_cache=False).last_hidden_state[0]
        local.append(hidden.float().cpu().mean(dim=0))
    similar = cosines(served_ND[places], torch.stack(local))
    for at, i in enumerate(places):
        if similar[at, at] < SAME_MODEL or similar[at].max() > similar[at, at] + 1e-6:
            raise DataError(
                f"{subject.embeddings_url}: its vector of sentence {i + 1} has cosine {float(similar[at, at]):.3f} to "
                f"the mean of {subject.folder}'s last layer, and {float(similar[at].max()):.3f} to that of another "
                "sentence; another model, another pooling or another order: serve this folder with pooling MEAN"
            )
