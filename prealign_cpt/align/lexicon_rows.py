"""Lexicon means: a new token that is a whole listed word gets the weighted mean of its translations' rows.

A translation's weight is that of a noisy channel, p(english) * p(target | english): its frequency in English text times
the pair's probability, or 1 / (number of translations) where the list gives none. So a common, unambiguous English word
counts most. A phrase on the English side is the mean over its pieces; one on the target side gives each of its words an
equal share, for words not listed themselves.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from prealign_cpt.align.mixture import Mixture
from prealign_cpt.lexicon.pairs import Pair, pair_weights
from prealign_cpt.model.vectors import encode_words
from prealign_cpt.run.errors import DataError
from prealign_cpt.text.scripts import is_unspaced

SAMPLE_BYTES = 8_000_000
"""Of each text, so much is read."""

_WORD, _LETTERS = re.compile(r"\w+"), re.compile(r"[^\W\d_]+")

Translations = dict[str, dict[str, float]]
"""Target word -> English word or phrase -> weight, not normalised."""


class TextStatistics:
    """Words of the training texts; nothing is read before it is needed, and each text once at most.

    Args:
        target, english: documents; iterated once.
    """

    def __init__(self, target: Iterable[str], english: Iterable[str]) -> None:
        self._target, self._english = target, english

    @cached_property
    def target_text(self) -> list[str]:
        return list(self._target)

    @cached_property
    def english_text(self) -> list[str]:
        return list(self._english)

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


@dataclass(frozen=True)
class Reach:
    """How many of the new tokens a lexicon says something of.

    Attributes:
        tokens: new tokens.
        words: those of them that are whole words.
        listed: those of these that are a target word or stand in a target phrase, in any case.
    """

    tokens: int
    words: int
    listed: int

    def warning(self) -> str:
        """What is to be said of a lexicon that reaches less than half; empty if it reaches more."""
        if 2 * self.listed >= self.tokens:
            return ""
        share = self.listed / max(1, self.tokens)
        return (
            f"warning: the lexicon reaches {self.listed:,} of the {self.tokens:,} new tokens ({share:.0%}), of which "
            f"{self.words:,} are whole words; the others learn nothing from it. A larger list, or one with word forms "
            "(prealign lexicon --forms), reaches more"
        )


def reach(texts: list[str], pairs: list[Pair]) -> Reach:
    """How far a lexicon reaches the new tokens with these texts, a leading space included where one has it."""
    words = [word.casefold() for text in texts if any(map(str.isalpha, word := _word(text)))]
    listed = {word.casefold() for pair in pairs for word in pair.target.split()}
    return Reach(len(texts), len(words), sum(word in listed for word in words))


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


def _tables(pairs: list[Pair], statistics: TextStatistics | None) -> list[Translations]:
    """Where a word is looked up, best first: whole entries as listed, whatever the case, then words of phrases."""
    share = pair_weights(pairs)
    frequency = {source: _frequency(source, statistics) for source in {pair.source for pair in pairs}}
    whole: Translations = defaultdict(lambda: defaultdict(float))
    parts: Translations = defaultdict(lambda: defaultdict(float))
    for pair in sorted(share):
        words = pair.target.split()
        for word in words:
            weight = share[pair] * frequency[pair.source]
            (whole if len(words) == 1 else parts)[word][pair.source] += weight / len(words)
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
