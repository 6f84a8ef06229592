"""Two invented languages with the same sense: words on a ring, each mostly beside its neighbours.

`ENGLISH[i]` translates to `TARGET[i]`; every English word is one old token, every target word one new token.
"""

import random
from dataclasses import dataclass

import pytest
from transformers import PreTrainedTokenizerFast

from prealign_cpt.align.init import TextStatistics
from prealign_cpt.lexicon.pairs import Pair
from tests.conftest import make_tokenizer

NUM_WORDS = 48
ENGLISH = [a + b + c for a in "bdfg" for b in "aeio" for c in "klm"]
TARGET = [word[::-1].upper() for word in ENGLISH]


@dataclass
class Ring:
    base: PreTrainedTokenizerFast
    grown: PreTrainedTokenizerFast
    pairs: list[Pair]
    """Of every word but each fourth."""
    heldout: list[int]
    """Which words have no pair."""
    old_ids: list[int]
    """The English words' ids; the target words are the new tokens 0, 1, …"""

    def statistics(self, seed: int = 0) -> TextStatistics:
        return TextStatistics([documents(TARGET, 1)], [documents(ENGLISH, 2)], seed)


def documents(words: list[str], seed: int, number: int = 80, length: int = 200) -> list[str]:
    """Walks along the ring."""
    generator = random.Random(seed)
    texts = []
    for _ in range(number):
        at, walk = generator.randrange(len(words)), []
        for _ in range(length):
            at = (at + generator.choice([-2, -1, 1, 2])) % len(words)
            walk.append(words[at])
        texts.append(" " + " ".join(walk))
    return texts


@pytest.fixture(scope="session")
def ring() -> Ring:
    texts = [" " + " ".join(ENGLISH)]
    base, grown = make_tokenizer(texts * 4, 600), make_tokenizer(texts * 4, 600)
    grown.add_tokens([f" {word}" for word in TARGET])
    encoded = [base.encode(f" {word}", add_special_tokens=False) for word in ENGLISH]
    assert all(len(ids) == 1 for ids in encoded) and len(grown) == len(base) + NUM_WORDS
    heldout = list(range(0, NUM_WORDS, 4))
    pairs = [Pair(ENGLISH[i], TARGET[i]) for i in range(NUM_WORDS) if i not in heldout]
    return Ring(base, grown, pairs, heldout, [ids[0] for ids in encoded])


def ring_distance(a: int, b: int) -> int:
    return min((a - b) % NUM_WORDS, (b - a) % NUM_WORDS)
