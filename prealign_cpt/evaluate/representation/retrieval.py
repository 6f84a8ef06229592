"""Word retrieval after a stage: does a held-out word's nearest target word translate it? One figure, at every layer.

    split lexicon --draw--> words without context --every layer--> vectors, centred per language --cosine--> P@1

`prealign eval` measures the same at length (words.py); this is what training watches. Each half of the held-out words
is judged at the layer that is best for the other half.
Shapes: S words that ask, C candidates, L+1 layers (embeddings, then every block), D hidden size.
"""

import random
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.evaluate.representation.cosine import centred, crossed, ranks
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.vectors import encode_words, vectors_of

Gold = dict[str, set[str]]
"""Words to their translations."""


@dataclass(frozen=True)
class Retrieval:
    """P@1: share of the English words whose nearest candidate is one of their translations."""

    p1: float
    words: int
    candidates: int
    layer: int
    """The best one for all held-out words; 0 is the embeddings."""
    seen_p1: float
    """Of words of training pairs, at that layer."""


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

    Raises:
        NumericError: a word's vector is not finite.
    """
    seen, held = (draw(translations(pairs), n, seed) for pairs, n in ((train, most_train), (heldout, most)))
    if not held or not seen:
        return None
    gold = seen | held
    sources, candidates = sorted(gold), sorted(set().union(*gold.values()))
    column = {word: c for c, word in enumerate(candidates)}
    right = [[column[word] for word in gold[source]] for source in sources]
    source_LSD, target_LCD = (
        vectors_of(model, encode_words(tokenizer, words), start_id) for words in (sources, candidates)
    )
    hits_LS = np.array(
        [ranks(centred(x) @ centred(y).T, right) == 0 for x, y in zip(source_LSD, target_LCD, strict=True)]
    )
    is_held_S = np.array([source in held for source in sources])
    held_LS, seen_LS = hits_LS[:, is_held_S], hits_LS[:, ~is_held_S]
    layer = int(held_LS.sum(axis=1).argmax())
    return Retrieval(
        p1=round(float(held_LS[crossed(held_LS), np.arange(held_LS.shape[1])].mean()), 4),
        words=int(is_held_S.sum()),
        candidates=len(candidates),
        layer=layer,
        seen_p1=round(float(seen_LS[layer].mean()), 4),
    )


def translations(pairs: list[Pair], flip: bool = False, identical: bool = False) -> Gold:
    """The translations of each word, in the order of the lexicon: of the pairs that are spelt alike, or of all others
    (those spelt alike would be found by looking).

    Args:
        flip: target words ask, English words answer.
    """
    gold: Gold = {}
    for pair in pairs:
        if (pair.source.casefold() == pair.target.casefold()) == identical:
            asks, answers = (pair.target, pair.source) if flip else (pair.source, pair.target)
            gold.setdefault(asks, set()).add(answers)
    return gold


def draw(gold: Gold, most: int, seed: int) -> Gold:
    """At most `most` of the words, in their order."""
    kept = set(random.Random(seed).sample(sorted(gold), min(most, len(gold))))
    return {word: answers for word, answers in gold.items() if word in kept}
