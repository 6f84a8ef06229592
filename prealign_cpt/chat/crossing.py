"""Which conversation is the n-th, and in which languages: cross-lingual instruction tuning (AFP, arXiv 2311.08089).

    items, pairs, seed, n --conversation--> (user, What is the Nile?  Answer in German.) (assistant, Ein Fluss …)
                                            (user, Der Fluss ist lang.  Translate into English.) (assistant, …)

An instruction that is there in both languages is asked in either, and answered in the other with a probability; AFP's
is 0.5. The request for a language stands only where the answer is in another than the question, since without a request
one expects the question's. A translation pair is an instruction too, in either direction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

import numpy as np

from prealign_cpt.chat.instructions import Item, Messages
from prealign_cpt.data.mixture import permuted

ENGLISH = "English"


@dataclass(frozen=True)
class Conversations:
    """All conversations of a training, the n-th being a pure function of these fields and n."""

    items: Sequence[Item]
    pairs: Sequence[tuple[str, str]]
    """Sentences, English and target."""
    language: str
    """The target's name, in English."""
    cross: float
    """Probability that the answer to an item of both languages is in the other one."""
    translations: float
    """Share of translations, where there are items and pairs."""
    seed: int

    def __getitem__(self, n: int) -> Messages:
        """Conversation n >= 0; after all items (or pairs) have come they come again, in another order."""
        share = self.translations if self.items and self.pairs else float(not self.items)
        before = floor(n * share)
        of_target, is_cross = np.random.default_rng([self.seed, n]).random(2)
        if floor((n + 1) * share) > before:
            pair = self.pairs[self._place(before, len(self.pairs), 1)]
            source, goal = (1, 0) if of_target < 0.5 else (0, 1)
            return translation(pair[source], pair[goal], (ENGLISH, self.language)[goal])
        item = self.items[self._place(n - before, len(self.items), 0)]
        if item.english is None or item.target is None:
            found = item.english or item.target
            assert found is not None
            return found
        asked, other, name = (
            (item.target, item.english, ENGLISH) if of_target < 0.5 else (item.english, item.target, self.language)
        )
        return crossed(asked, name, other[-1][1]) if is_cross < self.cross else asked

    def _place(self, k: int, count: int, order: int) -> int:
        epoch, place = divmod(k, count)
        return permuted(place, count, self.seed, epoch, order)


def crossed(asked: Messages, name: str, answer: str = "") -> Messages:
    """A conversation whose last question asks for an answer in the language `name`, with that answer."""
    role, content = asked[-2]
    return (*asked[:-2], (role, f"{content}\n\nAnswer in {name}."), ("assistant", answer))


def translation(source: str, goal: str, name: str) -> Messages:
    """A sentence to be translated into the language `name`, and its translation."""
    return ("user", f"{source}\n\nTranslate into {name}."), ("assistant", goal)
