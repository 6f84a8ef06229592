"""Lexicon means: a new token that is a whole listed word gets the weighted mean of its translations' rows.

A translation's weight is that of a noisy channel, p(english) * p(target | english): its frequency in English text times
1 / (number of its translations). So a common, unambiguous English word counts most. A phrase on the English side is the
mean over its pieces; one on the target side gives each of its words an equal share, for words not listed themselves.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from prealign_cpt.align.mixture import Mixture
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.vectors import encode_words
from prealign_cpt.run.errors import DataError
from prealign_cpt.text.scripts import is_unspaced

MAX_BYTES = 8_000_000
"""Of each text, so many UTF-8 bytes are read at most, from the beginnings of its files."""

_WORD, _LETTERS = re.compile(r"\w+"), re.compile(r"[^\W\d_]+")

Translations = dict[str, dict[str, float]]
"""Target word -> English word or phrase -> weight, not normalised."""


class TextStatistics:
    """Words of the training texts; nothing is read before it is needed, and each text once at most.

    Args:
        target, english: the documents of each file; iterated once.
        max_bytes: bound on what is read of each text; its files share it equally.
    """

    def __init__(
        self, target: Sequence[Iterable[str]], english: Sequence[Iterable[str]], max_bytes: int = MAX_BYTES
    ) -> None:
        self._target, self._english, self._max_bytes = target, english, max_bytes

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
            counts.update(_LETTERS.findall(document))
        return counts

    def english_count(self, word: str) -> int:
        """Occurrences of a word in the English text: as it is, capitalised or in capitals."""
        return sum(self.english_words[spelling] for spelling in _spellings(word))

    def usual_spelling(self, words: str) -> str:
        """The same words, each in the case it mostly has in the English text; as they are where it has none."""
        return " ".join(max(_spellings(word), key=self.english_words.__getitem__) for word in words.split(" "))


def lexicon_mixture(
    texts: list[str],
    base_tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    statistics: TextStatistics | None = None,
) -> Mixture:
    """Weights of English pieces in the new tokens that are listed words; none for the others.

    A word is found as it is listed, else in another case; then the English word takes the token's case (" Und" from
    und/and gets " And"). With statistics an English word is spelled as the text mostly spells it ("Aaron").

    Raises:
        DataError: the lexicon is empty or of another language.
    """
    check_lexicon(pairs, statistics)
    tables = _tables(pairs, statistics)
    translations = [_look_up(_word(text), tables, statistics) for text in texts]
    sources = sorted({source for weights in translations for source in weights})
    pieces = dict(zip(sources, encode_words(base_tokenizer, sources), strict=True))
    return Mixture.of([_piece_weights(weights, pieces) for weights in translations])


def check_lexicon(pairs: list[Pair], statistics: TextStatistics | None) -> None:
    """Refuse a lexicon that is empty or whose target side is not the language of the target text.

    Raises:
        DataError: no pairs, or not one target word occurs in the text. Words alike in both languages prove nothing.
    """
    if not pairs:
        raise DataError("lexicon: no pairs to make rows from; give a larger lexicon, or choose another align.init")
    if statistics is None:
        return
    targets = {pair.target.lower() for pair in pairs if pair.target.lower() != pair.source.lower()}
    for document in statistics.target_text:
        lowered = document.lower()
        if not targets.isdisjoint(_WORD.findall(lowered)):
            return
    # Words of a script without spaces, or with marks that no run of letters holds, are looked for as they are.
    text = "\n".join(statistics.target_text)[:1_000_000].lower()
    if not any(target in text for target in targets):
        raise DataError(
            f"lexicon: none of its {len(targets)} target words occurs in the target text; its second column is not the "
            "language of text.target, or the columns are the wrong way round"
        )


def ambiguity(pairs: list[Pair]) -> dict[str, float]:
    """English word -> 1 / (number of its translations)."""
    counts = Counter(pair.source for pair in set(pairs))
    return {source: 1.0 / count for source, count in counts.items()}


def _tables(pairs: list[Pair], statistics: TextStatistics | None) -> list[Translations]:
    """Where a word is looked up, best first: whole entries as listed, whatever the case, then words of phrases."""
    weights = {source: w * _frequency(source, statistics) for source, w in ambiguity(pairs).items()}
    whole: Translations = defaultdict(lambda: defaultdict(float))
    parts: Translations = defaultdict(lambda: defaultdict(float))
    for pair in sorted(set(pairs)):
        words = pair.target.split()
        for word in words:
            (whole if len(words) == 1 else parts)[word][pair.source] += weights[pair.source] / len(words)
    return [whole, _folded(whole), parts, _folded(parts)]


def _folded(table: Translations) -> Translations:
    folded: Translations = defaultdict(lambda: defaultdict(float))
    for word, translated in table.items():
        for source, weight in translated.items():
            folded[word.casefold()][source] += weight
    return folded


def _frequency(source: str, statistics: TextStatistics | None) -> float:
    """Occurrences of a word in the English text, one more than counted; of a phrase those of its rarest word."""
    if statistics is None:
        return 1.0
    return 1.0 + min((statistics.english_count(word) for word in source.split()), default=0)


def _look_up(word: str, tables: list[Translations], statistics: TextStatistics | None) -> dict[str, float]:
    """English words in the spelling whose rows are wanted -> weights; empty if the word is not listed."""
    if not word:
        return {}
    for table, key in zip(tables, (word, word.casefold()) * 2, strict=True):
        if key in table:
            in_case = _case_of(word) if key != word else str
            spelled: dict[str, float] = defaultdict(float)
            for source, weight in table[key].items():
                usual = statistics.usual_spelling(source) if statistics else source
                spelled[in_case(usual)] += weight
            return spelled
    return {}


def _case_of(word: str) -> Callable[[str], str]:
    if len(word) > 1 and word.isupper():
        return str.upper
    return (lambda text: text[:1].upper() + text[1:]) if word[:1].isupper() else str


def _word(text: str) -> str:
    """The word that a token is, or nothing: it stands behind a space, or in a script that needs none."""
    if text.startswith(" "):
        return text[1:]
    return text if is_unspaced(text) else ""


def _piece_weights(translated: dict[str, float], pieces: dict[str, list[int]]) -> dict[int, float]:
    usable = {source: weight for source, weight in translated.items() if pieces[source]}
    total = sum(usable.values())
    weights: dict[int, float] = defaultdict(float)
    for source, weight in usable.items():
        for i in pieces[source]:
            weights[i] += weight / (total * len(pieces[source]))
    return weights


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
