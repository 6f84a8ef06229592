"""Dictionaries in any known format to rows, English first; the format is recognised by name and content.

    tsv         source TAB target, perhaps TAB probability            pairs.py
    muse        source, spaces or tabs, target                        pairs.py
    columns     three and more columns: languages, words, scores      columns.py
    dictd       NAME.index with NAME.dict or NAME.dict.dz             dictd.py
    wiktionary  JSON lines of wiktextract (kaikki.org)                wiktionary.py
    dix         bilingual dictionaries of Apertium, XML               dix.py

All but dictd may be packed by gzip, whatever they are called.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from prealign_cpt.lexicon.columns import read_columns
from prealign_cpt.lexicon.dictd import read_dictd
from prealign_cpt.lexicon.dix import read_dix
from prealign_cpt.lexicon.languages import LanguageChoice
from prealign_cpt.lexicon.pairs import INVISIBLE, Row, probability, read_muse, read_tsv
from prealign_cpt.lexicon.wiktionary import read_wiktionary
from prealign_cpt.run.errors import DataError, RecipeError
from prealign_cpt.text.lines import open_unpacked

Format = Literal["auto", "tsv", "muse", "columns", "dictd", "wiktionary", "dix"]
FORMATS = get_args(Format)

LOOKED_AT = 1 << 16
"""Bytes by which a format is recognised."""

Reader = Callable[[Path, LanguageChoice], Iterator[Row]]

_READERS: dict[str, tuple[Reader, float]] = {
    "tsv": (lambda path, _: read_tsv(path), 0.0),
    "muse": (lambda path, _: read_muse(path), 0.0),
    "columns": (read_columns, 1.0),
    "dictd": (lambda path, _: read_dictd(path), 1.0),
    "wiktionary": (read_wiktionary, 1.0),
    "dix": (lambda path, _: read_dix(path), 1.0),
}
"""Reader of each format, and the share of malformed rows that is borne: 1 where an owner could mend no fault."""

_ENDINGS = {"dictd": (".index", ".dict", ".dict.dz"), "dix": (".dix",), "wiktionary": (".jsonl", ".ndjson", ".json")}


@dataclass
class Dictionary:
    """A dictionary that is being read.

    Attributes:
        format: the one that was given or recognised.
        rows: to be read once, English first.
        max_bad: largest share of malformed rows that is borne.
        invisible: characters that cannot be seen, by code point ("U+200E"), counted while `rows` are read.
    """

    format: str
    rows: Iterator[Row]
    max_bad: float
    invisible: Counter[str]


def open_dictionary(path: Path, format: str = "auto", language: str = "", swapped: bool = False) -> Dictionary:
    """A dictionary, not yet read.

    Args:
        language: name or code of the target language, for formats that hold many; empty: the only one beside English.
        swapped: the target language stands first; the rows are turned.

    Raises:
        RecipeError: no such format.
        DataError, MissingInputError: the file cannot be read, now or while it is read.
    """
    if format not in FORMATS:
        raise RecipeError(f"lexicon format {format!r} is unknown; choose one of {', '.join(FORMATS)}")
    chosen = recognise(path) if format == "auto" else format
    reader, max_bad = _READERS[chosen]
    invisible: Counter[str] = Counter()
    rows = reader(path, LanguageChoice(language, path))
    return Dictionary(chosen, _turned_and_counted(rows, swapped, invisible), max_bad, invisible)


def recognise(path: Path) -> str:
    """The format of a file, by its name or else by its beginning."""
    name = path.name.lower().removesuffix(".gz")
    for format, endings in _ENDINGS.items():
        if name.endswith(endings):
            return format
    try:
        with open_unpacked(path) as file:
            start = file.read(LOOKED_AT)
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: damaged: {error}; get the file again") from error
    text = start.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    if text.startswith(("<?xml", "<!DOCTYPE", "<dictionary")):
        return "dix"
    if text.startswith("{"):
        return "wiktionary"
    # The last line may be cut in two.
    lines = [line.rstrip("\r").split("\t") for line in text.split("\n") if line and not line.startswith("#")]
    lines = lines[:-1] or lines
    widths = Counter(map(len, lines))
    if not lines or not widths.keys() - {1}:
        return "muse" if lines else "tsv"
    usual = widths.most_common(1)[0][0]
    if usual > 3 or (usual == 3 and not all(probability(fields[2]) for fields in lines if len(fields) == 3)):
        return "columns"
    return "tsv"


def _turned_and_counted(rows: Iterator[Row], swapped: bool, invisible: Counter[str]) -> Iterator[Row]:
    for row in rows:
        text = row.source + row.target
        if not text.isprintable():
            invisible.update(f"U+{ord(character):04X}" for character in INVISIBLE.findall(text))
        yield row._replace(source=row.target, target=row.source) if swapped and not row.fault else row
