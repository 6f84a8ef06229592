"""Held-out word pairs whose two words stand near each other in the training text.

held-out pairs --Pairs--> hashes of their words --find--> pairs of which both words stand within `WINDOW` words

The same words in wrong pairs are looked for too: so many meet by chance.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np

from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.text.grams import Known, Words, normal

WINDOW = 32
"""Words between two words of a document that stand near each other, at most."""


class Pairs:
    """Held-out pairs, without those that are spelt alike; after the pairs, as many wrong ones.

    Attributes:
        asked: pairs, in the order of their numbers.
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        spelt = {(normal(pair.source), normal(pair.target)) for pair in pairs}
        self.asked = sorted((source, target) for source, target in spelt if source and target and source != target)
        n = len(self.asked)
        wrong = [(source, self.asked[(i + n // 2) % n][1]) for i, (source, _) in enumerate(self.asked)]
        self._every = self.asked + [pair if pair not in spelt and pair[0] != pair[1] else ("", "") for pair in wrong]

    @cached_property
    def _words(self) -> dict[int, tuple[Known, list[list[tuple[int, int]]]]]:
        """By number of words: their hashes, and of each hash the pairs and the side."""
        owners: dict[int, dict[int, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        for number, pair in enumerate(self._every):
            for side, text in enumerate(pair):
                if text:
                    width = text.count(" ") + 1
                    owners[width][int(Words([text], [0]).grams(width)[0][0])].append((number, side))
        return {
            width: (Known(np.array(sorted(of), dtype=np.uint64)), [of[key] for key in sorted(of)])
            for width, of in owners.items()
        }

    def find(self, words: Words) -> Iterator[tuple[int, int]]:
        """(Number of a pair, document) wherever both of its words stand near each other; from `len(asked)` on the
        numbers are those of wrong pairs."""
        met = []
        for width, (known, owners) in self._words.items():
            hashes, first = words.grams(width)
            where, which = known.find(hashes)
            met += [(at, owner) for at, one in zip(first[where].tolist(), which.tolist(), strict=True)
                    for owner in owners[one]]  # fmt: skip
        last: dict[tuple[int, int], int] = {}
        for at, (number, side) in sorted(met):
            last[number, side] = at
            other = last.get((number, 1 - side), -WINDOW - 1)
            if at - other <= WINDOW and words.document[at] == words.document[other]:
                yield number, int(words.document[at])
