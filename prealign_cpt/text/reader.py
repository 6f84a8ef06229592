"""Text files to documents.

    .txt and the like       plain text: a document is a paragraph between blank lines, a line, or the whole file
    .jsonl .ndjson          one object a line, the document under a key
    .csv .tsv               the document in a column
    .json .parquet .arrow   the same, by Hugging Face `datasets`

Each may be packed (.gz, .xz, .bz2, .zst). Text is normalised to NFC, the form that the lexicon and the vocabulary use,
and a very long document is cut into several, so that nothing behind has to hold or tokenize a book at once.
"""

import csv
import json
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from prealign_cpt.run.errors import DataError, MissingInputError
from prealign_cpt.text.lines import open_regular, read_lines

Unit = Literal["file", "line", "paragraph"]

LONGEST = 50_000
"""Characters of a document; a longer one is cut, at a line end where there is one, else at a space."""

TABLES = {".json": "json", ".parquet": "parquet", ".arrow": "arrow"}
"""Builders of `datasets`, by the end of the name."""

SEPARATED = {".csv": ",", ".tsv": "\t"}
"""Between the fields of a line, of which the first names the columns."""

JSON_LINES = (".jsonl", ".ndjson")
PACKED = (".gz", ".xz", ".bz2", ".zst")
"""Ends of the names of packed files, which their first bytes tell too."""

MARKUP = (".html", ".htm", ".xml", ".rtf", ".ipynb", ".py", ".svg")
BINARY = (
    *(".pdf", ".doc", ".docx", ".odt", ".epub", ".xls", ".xlsx", ".ods"),
    *(".zip", ".tar", ".tgz", ".7z", ".rar", ".sqlite", ".db", ".pkl", ".npy", ".npz", ".pt", ".bin", ".safetensors"),
    *(".png", ".jpg", ".jpeg", ".gif", ".mp3", ".wav", ".mp4"),
)
NO_TEXT = frozenset((*MARKUP, *BINARY))
"""Ends of names whose content is no plain text, whatever its bytes: markup would be learned as language."""

GUESS_LINES = 5_000
"""Lines at the beginning of a file by which its unit is guessed."""


def kind_of(path: Path) -> str:
    """The end of a name in small letters, without the compression: ".jsonl" of a.JSONL.gz."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def read_documents(paths: Iterable[Path], column: str = "text", unit: Unit | None = None) -> Iterator[str]:
    """The documents of some files, in order, without blank ones, none longer than `LONGEST` characters.

    Args:
        column: key of a JSON object, or column of a table, that holds the document.
        unit: what a document is in a plain file; None: guessed for each, by `guess_unit`.

    Raises:
        MissingInputError: a file is not there, or is a folder.
        DataError: a file holds no text, is not UTF-8 (line and byte offset are named), is binary or of a kind that is
            not read, or has no such column.
    """
    for path in paths:
        yield from _prepared(_documents(path, column, unit), str(path))


def read_hub(name: str, column: str) -> Iterator[str]:
    """The documents of a dataset of the hub, by its id, likewise.

    Raises:
        MissingInputError: there is no such dataset, or the hub cannot be reached.
        DataError: it has no such column, or no text.
    """
    yield from _prepared(_table_documents("", name, column), name)


def _prepared(documents: Iterator[str], name: str) -> Iterator[str]:
    count = 0
    for document in documents:
        if document.strip():
            count += 1
            yield from cut(unicodedata.normalize("NFC", document))
    if not count:
        raise DataError(f"{name}: no text in it")


def cut(document: str, longest: int = LONGEST) -> Iterator[str]:
    """A document in parts of at most `longest` characters, in linear time: at the last line end of the second half of
    a part, else at its last space, else anywhere."""
    start = 0
    while len(document) - start > longest:
        middle, end = start + longest // 2, start + longest
        for border in ("\n", " "):
            if (found := document.rfind(border, middle, end)) != -1:
                end = found + 1
                break
        if part := document[start:end].strip("\n"):
            yield part
        start = end
    if part := document[start:].strip("\n") if start else document:
        yield part


def guess_unit(path: Path) -> Unit:
    """What a document seems to be in a plain file.

    Paragraphs where blank lines part them; but lines where hardly any line is blank and lines are as long as sentences;
    the file where it is one block of short lines.
    """
    lines = [line for _, line in islice(_text_lines(path), GUESS_LINES)]
    full = [line for line in lines if line.strip()]
    paragraphs = sum(1 for a, b in zip(["", *lines], lines, strict=False) if b.strip() and not a.strip())
    if paragraphs > 1 and len(full) <= 100 * paragraphs:
        return "paragraph"
    return "line" if len(full) > 1 and sum(map(len, full)) >= 80 * len(full) else "file"


def _documents(path: Path, column: str, unit: Unit | None) -> Iterator[str]:
    kind = kind_of(path)
    if kind in NO_TEXT:
        raise DataError(f"{path}: {kind} is not read; save it as plain text (.txt), .jsonl, .csv or .parquet")
    if kind in JSON_LINES:
        return _json_documents(path, column)
    if kind in SEPARATED:
        return _separated_documents(path, SEPARATED[kind], column)
    if kind in TABLES:
        open_regular(path).close()
        return _table_documents(TABLES[kind], path, column)
    return _plain_documents(path, unit or guess_unit(path))


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in read_lines(path, limit=None):
        if "\0" in line:
            raise DataError(f"{path}:{number}: binary data (a NUL byte); expected UTF-8 text")
        if number == 1 and _is_json(line):
            raise DataError(f"{path}:1: this is JSON, not plain text; let the file's name end in .jsonl")
        yield number, line.rstrip("\r")


def _is_json(line: str) -> bool:
    if not line.lstrip().startswith(("{", '["', "[{")):
        return False
    try:
        return isinstance(json.loads(line), dict | list)
    except ValueError:
        return line.strip() == "[{"


def _plain_documents(path: Path, unit: Unit) -> Iterator[str]:
    """Documents; a long one comes in parts while it is read."""
    lines: list[str] = []
    size = 0
    for _, line in _text_lines(path):
        ends = unit == "line" or (unit == "paragraph" and not line.strip())
        if line.strip() or (lines and not ends):
            lines.append(line)
            size += len(line) + 1
        if lines and (ends or size > LONGEST):
            yield "\n".join(lines)
            lines, size = [], 0
    if lines:
        yield "\n".join(lines).rstrip("\n")


def _json_documents(path: Path, column: str) -> Iterator[str]:
    for number, line in read_lines(path, limit=None):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[column]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f'{path}:{number}: not a JSON object with a "{column}" key; see text.column') from error
        if not isinstance(text, str):
            raise DataError(f'{path}:{number}: "{column}" is {type(text).__name__}, expected a string')
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"{path}:{number}: a lone surrogate in the text; it is not valid Unicode") from error
        yield text


def _separated_documents(path: Path, separator: str, column: str) -> Iterator[str]:
    csv.field_size_limit(2**31 - 1)
    rows = csv.reader((line + "\n" for _, line in read_lines(path, limit=None)), delimiter=separator)
    names = next(rows, [])
    if column not in names:
        raise DataError(f"{path}:1: no column {column!r}; it has {', '.join(map(repr, names))}; see text.column")
    place = names.index(column)
    for row in rows:
        if row and len(row) != len(names):
            raise DataError(f"{path}:{rows.line_num}: {len(row)} fields, but {len(names)} columns; is a quote missing?")
        if row:
            yield row[place]


def _table_documents(builder: str, path: Path | str, column: str) -> Iterator[str]:
    """A column of a table, as a stream.

    Args:
        builder: of `datasets` ("json", "parquet", ...) for a file; "" for the id of a dataset on the hub.

    Raises:
        DataError: no such column, or a row of it is no text; or `datasets` cannot read it.
        MissingInputError: there is no such dataset, or the hub cannot be reached.
    """
    import datasets

    try:
        if builder:
            rows = datasets.load_dataset(builder, data_files=str(path), split="train", streaming=True)
        else:
            rows = datasets.load_dataset(str(path), split="train", streaming=True)
        iterator = iter(rows)
        first = next(iterator, None)
    except Exception as error:  # whatever a library of many formats raises
        kind = DataError if builder else MissingInputError
        raise kind(f"{path}: cannot be read: {type(error).__name__}: {_one_line(error)}") from error
    if first is None:
        return
    if column not in first:
        raise DataError(f"{path}: no column {column!r}; it has {', '.join(map(repr, first))}; see text.column")
    number = 1
    row: dict[str, object] | None = first
    while row is not None:
        text = row[column]
        if not isinstance(text, str | None):
            raise DataError(f"{path}: row {number}: {column!r} is {type(text).__name__}, expected text")
        yield text or ""
        number += 1
        try:
            row = next(iterator, None)
        except Exception as error:
            raise DataError(f"{path}: row {number}: cannot be read: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
