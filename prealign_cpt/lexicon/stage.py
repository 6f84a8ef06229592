"""The lexicon stage: a dictionary in any known format to cleaned training and test pairs.

dictionary --read--> rows --clean--> pairs --split--> clean.tsv    pairs to train with
                            |                         heldout.tsv  pairs to test with
                            +-> dropped.tsv           report.json  counts
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prealign_cpt.lexicon.clean import Dropped, clean
from prealign_cpt.lexicon.dictd import read_dictd
from prealign_cpt.lexicon.pairs import Pair, canonical, fault, write_pairs
from prealign_cpt.lexicon.read import Row, read_muse, read_tsv
from prealign_cpt.lexicon.split import split
from prealign_cpt.run.errors import DataError, RecipeError, StorageError
from prealign_cpt.run.manifest import atomic_write

FORMATS: dict[str, tuple[Callable[[Path], Iterator[Row]], float]] = {
    "tsv": (read_tsv, 0.0),
    "muse": (read_muse, 0.0),
    "dictd": (read_dictd, 1.0),
}
"""Reader of each format, and the share of malformed rows that is borne: dictd has no fault that an owner could mend."""

_TEXT_LIMIT = 200
"""Characters of a dropped row that are kept to recognise it by."""


def build_lexicon(
    path: Path, format: str, heldout: float, seed: int, out: Path, max_per_source: int = 5
) -> dict[str, Any]:
    """Read, clean and split a dictionary; write the four files into `out` and return the report.

    Args:
        heldout: share of the source words to test with, see `split`.
        out: an empty folder of the caller, who publishes it.
        max_per_source: translations to keep for a source, the first ones.

    Raises:
        DataError, MissingInputError: the dictionary cannot be used; file and line are named.
        RecipeError: `format`, `heldout` or `max_per_source` has no meaning.
        StorageError: writing failed.
    """
    assert out.is_dir() and not any(out.iterdir()), f"{out} must be an empty folder"
    if max_per_source < 1:
        raise RecipeError(f"max_per_source is {max_per_source}; give 1 or more")
    pairs, dropped = _read(path, format, max_per_source)
    train, test = split(pairs, heldout, seed)
    if not train:
        raise DataError(
            f"{path}: holding out {heldout} leaves no training pair; give a larger lexicon or a smaller share"
        )
    report = {
        "format": format,
        "rows": len(pairs) + len(dropped),
        "kept": len(pairs),
        "dropped": dict(Counter(drop.reason for drop in dropped).most_common()),
        **_describe(pairs),
        "heldout": {
            "share_asked": heldout,
            "seed": seed,
            "pairs": len(test),
            "sources": len({pair.source.casefold() for pair in test}),
            "pairs_lost": len(pairs) - len(train) - len(test),
        },
        "train": _describe(train),
    }
    write_pairs(out / "clean.tsv", train, "Training pairs: English, TAB, translation; the most usual first.")
    write_pairs(out / "heldout.tsv", test, "Held-out pairs; none of their words occurs in the training pairs.")
    atomic_write(out / "dropped.tsv", "".join(map(_dropped_line, dropped)))
    atomic_write(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return report


def convert(path: Path, format: str, out_file: Path) -> dict[str, Any]:
    """Rewrite a dictionary as a canonical lexicon file with all its translations; return the counts.

    Raises:
        StorageError: `out_file` exists or cannot be written.
        DataError, MissingInputError, RecipeError: as in `build_lexicon`.
    """
    if out_file.exists():
        raise StorageError(f"{out_file}: exists already and is never overwritten; move it away or choose another name")
    pairs, dropped = _read(path, format, None)
    write_pairs(out_file, pairs, f"Bilingual lexicon: English, TAB, translation. Made from {path.name}.")
    reasons = Counter(drop.reason for drop in dropped)
    return {"rows": len(pairs) + len(dropped), "dropped": dict(reasons.most_common()), **_describe(pairs)}


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a canonical lexicon file as they stand, nothing dropped; the inverse of `write_pairs`.

    Raises:
        DataError: a line is not what `write_pairs` writes.
        MissingInputError: the file is not there.
    """
    pairs = []
    for row in read_tsv(path):
        for side in (row.source, row.target):
            reason = row.fault or fault(side) or ("empty side" if not side else "")
            if reason or canonical(side) != side:
                raise DataError(
                    f"{path}:{row.line}: {reason or 'not canonical'}; pass the file through `prealign lexicon`"
                )
        pairs.append(Pair(row.source, row.target))
    return pairs


def _read(path: Path, format: str, max_per_source: int | None) -> tuple[list[Pair], list[Dropped]]:
    """Clean pairs by source in alphabetical order, the translations of a source in the order of the file."""
    if format not in FORMATS:
        raise RecipeError(f"lexicon format {format!r} is unknown; choose one of {', '.join(FORMATS)}")
    reader, max_bad = FORMATS[format]
    pairs, dropped = clean(reader(path), str(path), max_bad, max_per_source)
    return sorted(pairs, key=lambda pair: pair.source), dropped


def _describe(pairs: list[Pair]) -> dict[str, Any]:
    translations = Counter(pair.source for pair in pairs)
    sources = max(1, len(translations))
    return {
        "pairs": len(pairs),
        "sources": len(translations),
        "targets": len({pair.target for pair in pairs}),
        "mean_translations": round(len(pairs) / sources, 4),
        "several_translations": round(sum(number > 1 for number in translations.values()) / sources, 4),
        "multiword": round(sum(" " in pair.source or " " in pair.target for pair in pairs) / max(1, len(pairs)), 4),
    }


def _dropped_line(drop: Dropped) -> str:
    """One line whatever the text holds: what cannot be seen is written as an escape."""
    text = drop.text[:_TEXT_LIMIT].replace("\t", " | ")
    seen = "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in text)
    return f"{drop.line}\t{drop.reason}\t{seen}\n"
