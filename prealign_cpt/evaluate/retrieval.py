"""Word retrieval (bilingual lexicon induction): does a word's nearest target word translate it?

Words stand without context (align/words.py); vectors are centred per language and compared by cosine at every layer.
The layer that is reported is the best one on a sample of *training* pairs, so nothing is chosen on held-out words.
"""

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.align.words import encode_words, vectors_of
from prealign_cpt.lexicon.pairs import Pair


@dataclass(frozen=True)
class Retrieval:
    """P@1: share of the English words whose nearest candidate is one of their translations."""

    p1: float
    words: int
    candidates: int
    layer: int
    seen_p1: float


def word_retrieval(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: list[Pair],
    heldout: list[Pair],
    start_id: int,
    seed: int,
    most: int = 400,
    most_train: int = 150,
) -> Retrieval | None:
    """Retrieval on held-out pairs among the translations of held-out and sampled training words.

    Args:
        train, heldout: the two halves of the split lexicon.
        most, most_train: held-out and training English words taken.

    Returns:
        None if one half holds no pair of different spelling: there is nothing to measure.
    """
    chosen_train, chosen_heldout = _sample(train, seed, most_train), _sample(heldout, seed, most)
    gold = chosen_train | chosen_heldout
    if not chosen_heldout or not chosen_train:
        return None
    sources = sorted(gold)
    candidates = sorted({target for targets in gold.values() for target in targets})
    source_vectors = _centred(vectors_of(model, encode_words(tokenizer, sources), start_id))
    target_vectors = _centred(vectors_of(model, encode_words(tokenizer, candidates), start_id))
    nearest = (source_vectors @ target_vectors.transpose(1, 2)).argmax(dim=-1)  # [L+1, W]
    hit = torch.tensor(
        [[candidates[int(j)] in gold[s] for s, j in zip(sources, row, strict=True)] for row in nearest]
    ).float()
    is_heldout = torch.tensor([s in chosen_heldout for s in sources])
    layer = int(hit[:, ~is_heldout].mean(dim=1).argmax())
    return Retrieval(
        p1=round(float(hit[layer, is_heldout].mean()), 4),
        words=int(is_heldout.sum()),
        candidates=len(candidates),
        layer=layer,
        seen_p1=round(float(hit[layer, ~is_heldout].mean()), 4),
    )


def _sample(pairs: list[Pair], seed: int, most: int) -> dict[str, set[str]]:
    """English words to their translations; identical spellings are left out, they would be found by looking."""
    gold: dict[str, set[str]] = {}
    for pair in pairs:
        if pair.source.lower() != pair.target.lower():
            gold.setdefault(pair.source, set()).add(pair.target)
    kept = random.Random(seed).sample(sorted(gold), min(most, len(gold)))
    return {source: gold[source] for source in kept}


def _centred(vectors: Tensor) -> Tensor:
    return F.normalize(vectors - vectors.mean(dim=1, keepdim=True), dim=-1)
