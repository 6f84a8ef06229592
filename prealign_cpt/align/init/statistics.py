"""What an initializer may want to know about the text, counted when it is first asked for.

target documents ──► (bounded) ──► token vectors
English documents ─► (bounded) ──► token vectors, word counts
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from prealign_cpt.align.init.vectors import TokenVectors, train_vectors
from prealign_cpt.data.pack import encode
from prealign_cpt.model.tokens import num_ids
from prealign_cpt.run.errors import DataError

MAX_BYTES = 8_000_000
"""Of each text, so many UTF-8 bytes are read at most, from the beginnings of its files."""

_WORD = re.compile(r"[^\W\d_]+")


class TextStatistics:
    """Statistics of the training texts; nothing is read before it is needed, and each text once at most.

    Args:
        target, english: the documents of each file; iterated once.
        seed: of the token vectors.
        max_bytes: bound on what is read of each text; its files share it equally.
    """

    def __init__(
        self,
        target: Sequence[Iterable[str]],
        english: Sequence[Iterable[str]],
        seed: int = 0,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._target, self._english, self._seed, self._max_bytes = target, english, seed, max_bytes

    @cached_property
    def target_text(self) -> list[str]:
        return _beginning(self._target, self._max_bytes)

    @cached_property
    def english_text(self) -> list[str]:
        return _beginning(self._english, self._max_bytes)

    @cached_property
    def english_words(self) -> Counter[str]:
        """How often each word stands in the English text, in each of its spellings."""
        counts: Counter[str] = Counter()
        for document in self.english_text:
            counts.update(_WORD.findall(document))
        return counts

    def english_count(self, word: str) -> int:
        """Occurrences of a word in the English text: as it is, capitalised or in capitals."""
        return sum(self.english_words[spelling] for spelling in _spellings(word))

    def usual_spelling(self, words: str) -> str:
        """The same words, each in the case it mostly has in the English text; as they are where it has none."""
        return " ".join(max(_spellings(word), key=self.english_words.__getitem__) for word in words.split(" "))

    def target_vectors(self, tokenizer: PreTrainedTokenizerBase) -> TokenVectors:
        """Vectors of the target text's tokens.

        Raises:
            DataError: the text is too small.
        """
        return self._vectors("target", self.target_text, tokenizer)

    def english_vectors(self, tokenizer: PreTrainedTokenizerBase) -> TokenVectors:
        """Vectors of the English text's tokens.

        Raises:
            DataError: the text is too small.
        """
        return self._vectors("english", self.english_text, tokenizer)

    def _vectors(self, name: str, text: list[str], tokenizer: PreTrainedTokenizerBase) -> TokenVectors:
        try:
            return train_vectors(encode(text, tokenizer), num_ids(tokenizer), self._seed)
        except DataError as error:
            raise DataError(f"text.{name}: {error}") from error


def _spellings(word: str) -> list[str]:
    """A word as it is, capitalised and in capitals, without repetition."""
    return list(dict.fromkeys([word, word[:1].upper() + word[1:], word.upper()]))


def _beginning(files: Sequence[Iterable[str]], max_bytes: int) -> list[str]:
    """The beginning of each file; what a short file leaves over goes to those behind it."""
    kept, left = [], max_bytes
    for number, documents in enumerate(files):
        stop = left - left // (len(files) - number)
        for document in documents:
            kept.append(document)
            left -= len(document.encode("utf-8"))
            if left <= stop:
                break
    return kept
