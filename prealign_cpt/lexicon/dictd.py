r"""Translations out of the databases of the DICT server (`NAME.index` with `NAME.dict` or `NAME.dict.dz`).

The index has `word TAB offset TAB length`, numbers in base 64, which cut the database into entries. An entry is text
made for the eye, in one of two layouts:

    FreeDict, WikDict                        Mueller
    house //haʊs// <n>                       house
    1. дом, здание <masc>                       1. _n. [haʊs]
    a place to live in        <- gloss             1) дом; жилище; to keep house вести хозяйство
    2. семья                                       2) семья, род
          "example" - пример                    2. _v. предоставлять жилище

FreeDict gives one sense a line: the first line below the headword and every numbered one. What else stands there is
gloss, example, note or cross-reference. Mueller indents everything and wraps its lines; a number begins a sense.
"""

import gzip
import re
import string
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prealign_cpt.lexicon.pairs import Row
from prealign_cpt.run.errors import DataError
from prealign_cpt.text.lines import open_regular, read_lines

ENTRY_LIMIT = 1 << 20
"""Bytes in an entry."""

DATABASE_LIMIT = 1 << 29
"""Bytes of a database when unpacked, all in memory; the largest FreeDict has 80 MB."""

UNCLEAR = "abbreviation, slash or quotation"

_DIGITS = {c: i for i, c in enumerate(string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/")}

# In this order: a pronunciation may hold brackets, and brackets hold commas.
_ASIDES = [
    re.compile(pattern)
    for pattern in (
        r"//[^/\n]*//", r"(?<=\s)/[^/\n]+/(?=[\s)]|$)", r"<[^<>]*>", r"\[[^\[\]]*\]", r"\([^()]*\)", r"\{[^{}]*\}"
    )
]  # fmt: skip
_NUMBER = re.compile(r"^\d{1,2}[.)]\s*")
_MUELLER_SENSE = re.compile(r"(?:^|\s)\d{1,2}[.)]")
_MUELLER_SUBSENSE = re.compile(r"(?:^|\s)[а-я]\)")
_MUELLER_LABEL = re.compile(r"_[\w-]+\.?")
_GLOSS_NUMBER = re.compile(r"\s\d{1,2}\.$")  # WikDict joins senses of one translation: "talo 2." heads two glosses
_CROSS_REFERENCE = re.compile(r"^(?:see|note|synonyms?|antonyms?)\s*:", re.IGNORECASE)
_STRESS = re.compile(r"(?<=[аеёиоуыэюяъіїєАЕЁИОУЫЭЮЯЪІЇЄ])\u0301")
_LATIN = re.compile(r"[A-Za-z\u00aa\u00ba\u00c0-\u02af\u1e00-\u1eff]")
_PLACEHOLDER = re.compile(r"(?:etw|jdn?|jdm|jds|jmdn?|jmdm|jmds|sth|sb|sbs?|smb|smth|\w+-л)\.?")
_UNCLEAR = re.compile(r"[/.…=\"„“”«»|~*_()\[\]{}<>]|\betw\b|-л\b")


def read_dictd(path: Path) -> Iterator[Row]:
    """Rows of a dictd database, one for each translation, the translations of a headword by falling weight.

    The format knows no usage counts, so the weight is what the editors wrote: the bytes of the entries in which a
    translation stands, once for each sense. Common senses have the longer entries (examples, references), and a common
    translation stands in several senses. Equal weights keep the order of the database.

    Args:
        path: the `.index` or the `.dict`/`.dict.dz`; the other lies beside it.

    Raises:
        MissingInputError: one of the two files is missing.
        DataError: the index or the database is damaged, does not belong to the other, is too large or not UTF-8.
    """
    index, database = _files(path)
    rows: list[Row] = []
    weights: Counter[tuple[str, str]] = Counter()
    for number, entry in _entries(index, database):
        for row in _rows(number, entry):
            rows.append(row)
            weights[row.source, row.target] += len(entry)
    rows.sort(key=lambda row: -weights[row.source, row.target])
    yield from rows


def _files(path: Path) -> tuple[Path, Path]:
    for ending in (".index", ".dict.dz", ".dict"):
        if path.name.endswith(ending):
            stem = path.name.removesuffix(ending)
            packed, plain = path.with_name(f"{stem}.dict.dz"), path.with_name(f"{stem}.dict")
            database = plain if ending == ".dict" or (ending == ".index" and not packed.exists()) else packed
            return path.with_name(f"{stem}.index"), database
    raise DataError(f"{path}: a dictd database is named by its NAME.index or NAME.dict.dz")


def _entries(index: Path, database: Path) -> Iterator[tuple[int, str]]:
    """Number (in the order of the database) and text of every entry."""
    spans = _spans(index)
    end = max((start + length for start, length in spans), default=0)
    with open_regular(database) as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            with gzip.open(raw) if packed else raw as file:
                content = file.read(end)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{database}: damaged before byte {end}: {error}; get the file again") from error
    if len(content) < end:
        raise DataError(f"{database}: ends before byte {end}, where {index.name} has an entry")
    for number, (start, length) in enumerate(spans, start=1):
        if number > 1 and start < sum(spans[number - 2]):
            raise DataError(f"{index}: entries overlap at byte {start} of {database.name}; get the file again")
        try:
            yield number, content[start : start + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{database}: entry {number} is not UTF-8 at byte offset {start + error.start}; "
                "use an edition of the dictionary in UTF-8"
            ) from error


def _spans(index: Path) -> list[tuple[int, int]]:
    """Start and length of every entry, by start; words that share an entry count once."""
    spans = set()
    for number, line in read_lines(index):
        fields = line.split("\t")
        if len(fields) < 3:
            raise DataError(f"{index}:{number}: {len(fields)} columns, 3 expected; is this a dictd index?")
        if fields[0].startswith(("00database", "00-database")):
            continue
        try:
            start, length = _number(fields[1]), _number(fields[2])
        except KeyError as error:
            raise DataError(f"{index}:{number}: not a base 64 number; is this a dictd index?") from error
        if length > ENTRY_LIMIT or start + length > DATABASE_LIMIT:
            raise DataError(
                f"{index}:{number}: entry of {length} bytes at {start} exceeds the limits "
                f"({ENTRY_LIMIT} an entry, {DATABASE_LIMIT} in all); is this a dictd index?"
            )
        if length:
            spans.add((start, length))
    return sorted(spans)


def _number(digits: str) -> int:
    value = 0
    for digit in digits[:12]:  # twelve digits are far beyond every limit already
        value = value * 64 + _DIGITS[digit]
    return value


def _rows(number: int, entry: str) -> Iterator[Row]:
    head, *body = entry.rstrip("\n").split("\n")
    source = _plain(head).strip()
    body = [line for line in body if line.strip()]
    if not source or not body:
        return
    senses = _mueller(body) if body[0].startswith("  ") else _freedict(body)
    for sense in senses:
        for target in _translations(sense):
            left, right = _bare(source), _bare(target)
            unclear = _UNCLEAR.search(left) or _UNCLEAR.search(right) or not left or not right
            yield Row(number, f"{source} = {target}", "", UNCLEAR) if unclear else Row(number, left, right)


def _freedict(body: list[str]) -> Iterator[str]:
    for position, line in enumerate(body):
        text = _plain(line).strip()
        marked = _NUMBER.match(text)
        # One space may remain of a label; two and more mark examples and notes.
        if not line.startswith("  ") and (marked or position == 0) and not _CROSS_REFERENCE.match(text):
            yield _GLOSS_NUMBER.sub("", text[marked.end() :] if marked else text)


def _mueller(body: list[str]) -> list[str]:
    text = _MUELLER_LABEL.sub(" ", _plain(" ".join(line.strip() for line in body)))
    return [_MUELLER_SUBSENSE.sub("; ", sense) for sense in _MUELLER_SENSE.split(text)]


def _translations(sense: str) -> list[str]:
    """The translations in a sense whose asides are gone.

    Where Latin letters and another script meet, the first Latin letter begins an English example: the sense ends before
    it, and a piece that runs into it ("от fight") is not a translation.
    """
    latin = _LATIN.search(sense)
    if latin and any(character.isalpha() and not _LATIN.match(character) for character in sense):
        return re.split(r"[,;]", sense[: latin.start()])[:-1]
    return re.split(r"[,;]", sense)


def _plain(text: str) -> str:
    """`text` without pronunciations, tags, bracketed remarks (one inside another, too) and Cyrillic stress marks."""
    for _ in range(2):
        for aside in _ASIDES:
            text = aside.sub(" ", text)
    return _STRESS.sub("", text)


def _bare(phrase: str) -> str:
    """`phrase` in single spaces, without what stands for an object ("etw.", "sb.") and the quotes at its ends."""
    words = phrase.split()
    for end in (0, -1):
        while words and _PLACEHOLDER.fullmatch(words[end]):
            words.pop(end)
    bare = " ".join(words)
    return bare[1:-1] if len(bare) > 2 and bare[0] == bare[-1] == "'" else bare
