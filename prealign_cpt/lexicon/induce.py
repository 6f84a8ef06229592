"""A word list out of sentences and their translations, with probabilities (the lexicon of AlignLM, arXiv 2106.01732).

    lines n | n --words--> eflomal, both directions --links in both--> counts --> probabilities --> .tsv

Words are aligned by eflomal (Östling and Tiedemann 2016: Bayesian IBM 1, HMM and fertility by Gibbs sampling). A link
counts where both directions have it. With c(s, t) links between s and t, and n(s) and n(t) occurrences,

    p(t | s) = (c(s, t) - 1) / n(s)      p(s | t) = (c(s, t) - 1) / n(t)      probability = sqrt(p(t | s) p(s | t))

One link is taken off: what is linked once is chance more often than not. The geometric mean asks both words for each
other, and orders pairs better than either direction does (benchmarks/results/induced_lexicon.md). The sampler draws its
seed from the system, so two runs differ a little.
"""

import importlib.util
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prealign_cpt.lexicon.clean import clean
from prealign_cpt.lexicon.pairs import Row, write_pairs
from prealign_cpt.lexicon.stage import describe, refuse_existing
from prealign_cpt.lexicon.truecase import WORD, usual_spellings
from prealign_cpt.run.errors import DataError, MissingInputError
from prealign_cpt.text.parallel import line_pairs

MAX_WORDS = 200
"""Sentence pairs with a longer side are left out: paragraphs align badly and take quadratic time."""

Sentence = list[str]
Links = list[tuple[int, int]]
"""Places of words that translate each other."""


def induce(english: Path, target: Path, out_file: Path, least: float = 0.1) -> dict[str, Any]:
    """Make a lexicon file of parallel text; return the counts.

    Args:
        english, target: sentences, line n of one beside line n of the other.
        least: probability below which a pair is left out.

    Raises:
        StorageError: `out_file` exists or cannot be written.
        MissingInputError: a file, or eflomal, is not there.
        DataError: the files are not parallel text, or give no pair.
    """
    refuse_existing(out_file)
    require_aligner()
    sentences = list(line_pairs(english, target))
    sides = [[WORD.findall(pair[side]) for pair in sentences] for side in (0, 1)]
    kept = [n for n in range(len(sentences)) if all(0 < len(side[n]) <= MAX_WORDS for side in sides)]
    if not kept:
        raise DataError(f"{english}, {target}: no pair of sentences of 1 to {MAX_WORDS} words; is it parallel text?")
    words_e, words_t = ([[word.lower() for word in side[n]] for n in kept] for side in sides)
    chances = probabilities(words_e, words_t, align(words_e, words_t))
    spelled_e, spelled_t = (usual_spellings(sentences[n][side] for n in kept) for side in (0, 1))
    rows = [
        Row(number, spelled_e[source], spelled_t[word], "", round(chance, 4))
        for number, ((source, word), chance) in enumerate(ordered(chances), start=1)
        if chance >= max(least, 1e-4)
    ]
    if not rows:
        raise DataError(
            f"{english}, {target}: no pair of words reaches a probability of {least} in {len(kept)} sentences; give "
            "more text, and see that line n translates line n"
        )
    pairs, dropped = clean(rows, str(target), max_bad=1.0)
    write_pairs(
        out_file,
        pairs,
        f"Bilingual lexicon: English, TAB, translation, TAB, probability. Made of {english.name} and {target.name}.",
    )
    return {
        "sentences": len(kept),
        "left_out": len(sentences) - len(kept),
        "words": [sum(map(len, side)) for side in (words_e, words_t)],
        "dropped": dict(Counter(drop.reason for drop in dropped)),
        **describe(pairs),
    }


def require_aligner() -> None:
    """Raises MissingInputError with the remedy if eflomal is not installed."""
    if importlib.util.find_spec("eflomal") is None:
        raise MissingInputError(
            'the word aligner eflomal is not installed: pip install "prealign-cpt[induce]" (it is compiled then, which '
            "needs a C compiler)"
        )


def align(english: Sequence[Sentence], target: Sequence[Sentence]) -> Iterator[Links]:
    """The links of each sentence pair that both directions agree on."""
    from eflomal import Aligner

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("forward", "reverse")]
        Aligner().align(
            [" ".join(words) for words in english],
            [" ".join(words) for words in target],
            links_filename_fwd=str(files[0]),
            links_filename_rev=str(files[1]),
        )
        with files[0].open() as forward, files[1].open() as reverse:
            for one, other in zip(forward, reverse, strict=True):
                yield [_link(text) for text in sorted(set(one.split()) & set(other.split()))]


def probabilities(
    english: Iterable[Sentence], target: Iterable[Sentence], links: Iterable[Links]
) -> dict[tuple[str, str], float]:
    """Of each pair of words that is linked more than once, how much each translates the other (see above)."""
    linked: Counter[tuple[str, str]] = Counter()
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for source, words, pairs in zip(english, target, links, strict=True):
        counts[0].update(source)
        counts[1].update(words)
        linked.update((source[i], words[j]) for i, j in pairs)
    return {
        (source, word): (count - 1) / math.sqrt(counts[0][source] * counts[1][word])
        for (source, word), count in linked.items()
        if count > 1
    }


def ordered(chances: dict[tuple[str, str], float]) -> list[tuple[tuple[str, str], float]]:
    """By source, the most probable translation first."""
    return sorted(chances.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))


def _link(text: str) -> tuple[int, int]:
    i, _, j = text.partition("-")
    return int(i), int(j)
