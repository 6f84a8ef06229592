"""Word forms of running text attached to a list that has their lemmas: what is said of `Haus` is said of `Hauses` too.

    words of the text --simplemma--> lemmas --listed?--> pairs of the lemma, its weight shared among the forms

A form that is not listed takes the English words of its lemma, or else those of listed forms of the same lemma
(`gingen` those of `ging`). The weight of a pair (`pair_weights`) is divided among its target and the new forms by how
often the text has each, so that the forms of a word together weigh what it weighed alone; every pair has a probability
then.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from prealign_cpt.lexicon.languages import language_named
from prealign_cpt.lexicon.pairs import Pair, pair_weights
from prealign_cpt.lexicon.truecase import WORD, usual_spellings
from prealign_cpt.run.errors import MissingInputError, RecipeError
from prealign_cpt.text.reader import read_documents

_LEMMATIZED_AS = {"bs": "hbs", "hr": "hbs", "sr": "hbs", "no": "nb"}
"""Codes that simplemma knows by another name."""

_SMALLEST = 1e-4


def add_forms(pairs: list[Pair], texts: Sequence[Path], language: str) -> tuple[list[Pair], dict[str, Any]]:
    """The list with the forms that the texts have, by source, the most probable translation first; and counts.

    Args:
        texts: in the target language.
        language: name or code.

    Returns:
        The pairs, and `forms` (words that are new in the list) and `covered` (share of the texts' words that are
        listed, before and after; case is ignored).

    Raises:
        RecipeError: there are no lemmas for the language.
        MissingInputError: simplemma, or a text, is not there.
    """
    lemma_of = _lemmatizer(language)
    documents = list(read_documents(texts))
    counts = Counter(word.lower() for document in documents for word in WORD.findall(document))
    spelled = usual_spellings(documents)
    by_target: dict[str, list[Pair]] = defaultdict(list)
    by_lemma: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if " " not in pair.target:
            by_target[pair.target.lower()].append(pair)
            by_lemma[lemma_of(pair.target)].append(pair)
    forms: dict[Pair, list[str]] = defaultdict(list)
    for word in sorted(counts.keys() - by_target.keys()):
        lemma = lemma_of(spelled[word])
        for pair in by_target.get(lemma) or by_lemma.get(lemma) or ():
            forms[pair].append(word)
    shared = [
        found for pair, weight in pair_weights(pairs).items() for found in _share(pair, weight, forms, counts, spelled)
    ]
    shared.sort(key=lambda pair: (pair.source, -(pair.probability or 0.0)))
    new = {word for words in forms.values() for word in words}
    before = sum(count for word, count in counts.items() if word in by_target)
    after = before + sum(counts[word] for word in new)
    return shared, {"forms": len(new), "covered": [round(n / max(1, counts.total()), 4) for n in (before, after)]}


def _share(
    pair: Pair, weight: float, forms: dict[Pair, list[str]], counts: Counter[str], spelled: dict[str, str]
) -> list[Pair]:
    """A pair and those of its target's forms; each one's part is how often it occurs, one more than counted."""
    words = forms.get(pair, [])
    times = [1 + counts[word] for word in (pair.target.lower(), *words)]
    parts = [max(_SMALLEST, round(weight * n / sum(times), 4)) for n in times]
    targets = [pair.target, *(spelled[word] for word in words)]
    return [Pair(pair.source, target, part) for target, part in zip(targets, parts, strict=True)]


def _lemmatizer(language: str) -> Any:
    """A function from a word to its lemma in lower case."""
    try:
        from simplemma import lemmatize
        from simplemma.strategies.dictionaries.dictionary_factory import SUPPORTED_LANGUAGES
    except ImportError as error:
        raise MissingInputError('simplemma is not installed: pip install "prealign-cpt[lemmas]"') from error
    short = language_named(language).short
    code = _LEMMATIZED_AS.get(short, short)
    if code not in SUPPORTED_LANGUAGES:
        raise RecipeError(
            f"--language {language!r}: no lemmas are known; name one of {', '.join(sorted(SUPPORTED_LANGUAGES))}"
        )
    return lru_cache(maxsize=None)(lambda word: lemmatize(word, lang=code).lower())
