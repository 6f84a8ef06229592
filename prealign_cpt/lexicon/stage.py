"""The lexicon stage: a dictionary in any known format to cleaned training and test pairs.

dictionary --read--> rows --clean--> pairs --split--> clean.tsv    pairs to train with
                            |                         heldout.tsv  pairs to test with
                            +-> dropped.tsv           report.json  counts

Several dictionaries, of a language each, are split together: a source that is held out is so in all of them.
clean.NAME.tsv and heldout.NAME.tsv then have what is of each.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import regex

from prealign_cpt.lexicon.clean import Dropped, clean
from prealign_cpt.lexicon.formats import open_dictionary
from prealign_cpt.lexicon.forms import add_forms
from prealign_cpt.lexicon.pairs import Pair, write_pairs
from prealign_cpt.run.errors import DataError, RecipeError, StorageError
from prealign_cpt.run.manifest import atomic_write

_TEXT_LIMIT = 200
"""Characters of a dropped row that are kept to recognise it by."""

_PUNCTUATION_AT_ENDS = regex.compile(r"^\p{P}+|\p{P}+$")


@dataclass(frozen=True)
class WordList:
    """A dictionary of English and one language."""

    path: Path
    language: str = ""
    name: str = "lexicon"
    """A plain file name, by which its part of several is called."""


def build_lexicon(
    lists: Sequence[WordList],
    format: str,
    heldout: float,
    seed: int,
    out: Path,
    max_per_source: int = 5,
    swapped: bool = False,
) -> dict[str, Any]:
    """Read, clean and split dictionaries; write the files into `out` and return the report.

    Args:
        format, swapped: of all of them, see `open_dictionary`.
        heldout: share of the source words to test with, see `split`.
        out: an empty folder of the caller, who publishes it.
        max_per_source: translations to keep for a source from each dictionary, the first ones.

    Raises:
        DataError, MissingInputError: the dictionary cannot be used; file and line are named.
        RecipeError: `format`, `heldout` or `max_per_source` has no meaning.
        StorageError: writing failed.
    """
    assert out.is_dir() and not any(out.iterdir()), f"{out} must be an empty folder"
    if max_per_source < 1:
        raise RecipeError(f"max_per_source is {max_per_source}; give 1 or more")
    several = len(lists) > 1
    read: dict[str, list[Pair]] = {}
    facts: dict[str, Any] = {}
    for one in lists:
        dropped = out / (f"dropped.{one.name}.tsv" if several else "dropped.tsv")
        read[one.name], found = read_dictionary(one.path, format, one.language, swapped, max_per_source, dropped)
        facts = {**facts, one.name: {**found, **describe(read[one.name])}} if several else found
    pairs = sorted(dict.fromkeys(chain(*read.values())), key=lambda pair: pair.source)
    train, test = split(pairs, heldout, seed)
    if not train:
        raise DataError(
            f"{lists[0].path}: holding out {heldout} leaves no training pair; give a larger lexicon or a smaller share"
        )
    report = {
        **({"lists": facts} if several else facts),
        "kept": len(pairs),
        **describe(pairs),
        "heldout": {
            "share_asked": heldout,
            "seed": seed,
            "pairs": len(test),
            "sources": len({pair.source.casefold() for pair in test}),
            "pairs_lost": len(pairs) - len(train) - len(test),
        },
        "train": describe(train),
    }
    write_pairs(out / "clean.tsv", train, "Training pairs: English, TAB, translation; the most usual first.")
    write_pairs(out / "heldout.tsv", test, "Held-out pairs; none of their words occurs in the training pairs.")
    for name, own in read.items() if several else ():
        for half, some in (("clean", train), ("heldout", test)):
            kept = set(own)
            write_pairs(out / f"{half}.{name}.tsv", [pair for pair in some if pair in kept], f"Those of {name}.")
    atomic_write(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return report


def no_lexicon(out: Path) -> None:
    """Fill `out` for a run that has no dictionary: two files without a pair."""
    write_pairs(out / "clean.tsv", [], "No dictionary was given.")
    write_pairs(out / "heldout.tsv", [], "No dictionary was given.")
    nothing = {"pairs": 0, "sources": 0}
    atomic_write(out / "report.json", json.dumps({"kept": 0, "train": nothing, "heldout": nothing}) + "\n")


def convert(
    path: Path, format: str, out_file: Path, language: str = "", swapped: bool = False, texts: Sequence[Path] = ()
) -> dict[str, Any]:
    """Rewrite a dictionary as a canonical lexicon file with all its translations; return the counts.

    Args:
        texts: in the target language; the word forms in them are added (forms.py), if any text is given.

    Raises:
        StorageError: `out_file` exists or cannot be written.
        DataError, MissingInputError, RecipeError: as in `build_lexicon`.
    """
    refuse_existing(out_file)
    pairs, facts = read_dictionary(path, format, language, swapped)
    if texts:
        pairs, added = add_forms(pairs, texts, language)
        facts |= added
    write_pairs(out_file, pairs, f"Bilingual lexicon: English, TAB, translation. Made from {path.name}.")
    return {**facts, **describe(pairs)}


def refuse_existing(out_file: Path) -> None:
    """No file that is there is written over."""
    if out_file.exists():
        raise StorageError(f"{out_file}: exists already and is never overwritten; move it away or choose another name")


def split(pairs: list[Pair], heldout: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Training pairs and held-out pairs, both in the order of `pairs`.

    No source word and no target word of a held-out pair occurs in a training pair, not even inside a longer entry or
    in other case: nothing that is trained with gives an answer away. Which pairs are held out depends on `seed` and on
    the set of pairs, not on their order.

    A held-out source takes all its pairs with it. It is drawn at random among the sources that are one word, whose
    translations are all one word, and none of which is spelt like the source. Training pairs that share a word with a
    held-out one are in neither list: they are lost. A source with more such pairs than pairs of its own is never
    drawn. (Whole connected components would lose nothing, but nearly all of a dictionary hangs together in one, and
    what is left beside it are rare words.)

    Args:
        heldout: share of the source words to hold out, at least 0 and below 1. Fewer are held out when too few qualify.
    """
    if not 0 <= heldout < 1:
        raise RecipeError(f"heldout is {heldout}; give the share of source words to hold out, from 0 to below 1")
    by_source: dict[str, set[int]] = defaultdict(set)
    by_word: dict[tuple[str, str], set[int]] = defaultdict(set)
    words_of: list[set[tuple[str, str]]] = []
    for number, pair in enumerate(pairs):
        by_source[pair.source.casefold()].add(number)
        words_of.append({(side, word) for side in ("source", "target") for word in _words(getattr(pair, side))})
        for key in words_of[-1]:
            by_word[key].add(number)

    held: set[int] = set()
    lost: set[int] = set()
    quota = int(heldout * len(by_source))
    for source in sorted(by_source, key=lambda source: hashlib.sha256(f"{seed}\t{source}".encode()).digest()):
        if not quota:
            break
        numbers = by_source[source]
        if numbers & lost or not all(_qualifies(pairs[number]) for number in numbers):
            continue
        sharing = [by_word[key] for number in numbers for key in words_of[number]]
        # Long lists are refused before they are joined: a function word has tens of thousands of pairs.
        if max(map(len, sharing)) > 2 * len(numbers):
            continue
        others = set().union(*sharing) - numbers
        if len(others) <= len(numbers):
            held |= numbers
            lost |= others - held
            quota -= 1
    train = [pair for number, pair in enumerate(pairs) if number not in held and number not in lost]
    return train, [pair for number, pair in enumerate(pairs) if number in held]


def _qualifies(pair: Pair) -> bool:
    source, target = pair.source.casefold(), pair.target.casefold()
    return " " not in source and " " not in target and source != target


def _words(text: str) -> set[str]:
    """The words of an entry for comparison: case-folded, without punctuation at their ends."""
    return {_PUNCTUATION_AT_ENDS.sub("", word) for word in text.casefold().split()}


def read_dictionary(
    path: Path,
    format: str,
    language: str,
    swapped: bool,
    max_per_source: int | None = None,
    dropped_file: Path | None = None,
) -> tuple[list[Pair], dict[str, Any]]:
    """Clean pairs by source in alphabetical order, the translations of a source in the order of the file; counts.

    Args:
        dropped_file: takes the rows that are left out, and why.

    Raises:
        DataError, MissingInputError, RecipeError: as in `build_lexicon`.
    """
    dictionary = open_dictionary(path, format, language, swapped)
    pairs, dropped = clean(dictionary.rows, str(path), dictionary.max_bad, max_per_source)
    if dropped_file:
        atomic_write(dropped_file, "".join(map(_dropped_line, dropped)))
    facts = {
        "format": dictionary.format,
        "rows": len(pairs) + len(dropped),
        "dropped": dict(Counter(drop.reason for drop in dropped).most_common()),
        "invisible_characters": dict(dictionary.invisible.most_common()),
    }
    return sorted(pairs, key=lambda pair: pair.source), facts


def describe(pairs: list[Pair]) -> dict[str, Any]:
    """Counts of a list."""
    translations = Counter(pair.source for pair in pairs)
    sources = max(1, len(translations))
    return {
        "pairs": len(pairs),
        "sources": len(translations),
        "targets": len({pair.target for pair in pairs}),
        "mean_translations": round(len(pairs) / sources, 4),
        "with_probability": sum(pair.probability is not None for pair in pairs),
        "several_translations": round(sum(number > 1 for number in translations.values()) / sources, 4),
        "multiword": round(sum(" " in pair.source or " " in pair.target for pair in pairs) / max(1, len(pairs)), 4),
    }


def _dropped_line(drop: Dropped) -> str:
    """One line whatever the text holds: what cannot be seen is written as an escape."""
    text = drop.text[:_TEXT_LIMIT].replace("\t", " | ")
    seen = "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in text)
    return f"{drop.line}\t{drop.reason}\t{seen}\n"
