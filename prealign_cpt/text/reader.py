"""Text files to documents.

`.txt`: documents separated by blank lines, their lines kept. `.jsonl`: one object a line, the document under `text`.
Text is normalised to NFC, the form that the lexicon and the vocabulary use.
"""

import json
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from prealign_cpt.run.errors import DataError, MissingInputError


def read_documents(paths: Iterable[Path]) -> Iterator[str]:
    """The documents of some files, in order, without blank ones.

    Raises:
        MissingInputError: a file is not there, or is a folder.
        DataError: a file holds no text, is not UTF-8 (line and byte offset are named), is binary, or is JSON lines
            without a `text` string.
    """
    for path in paths:
        count = 0
        for document in _json_documents(path) if path.suffix == ".jsonl" else _plain_documents(path):
            count += 1
            yield unicodedata.normalize("NFC", document)
        if not count:
            raise DataError(f"{path}: no text in it; documents are separated by blank lines")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends, decoded strictly."""
    try:
        with path.open("rb") as file:
            offset = 0
            for number, raw in enumerate(file, start=1):
                raw_line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                if b"\0" in raw_line:
                    raise DataError(f"{path}:{number}: binary data (a NUL byte); expected UTF-8 text")
                try:
                    yield number, raw_line.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path}:{number}: not UTF-8 at byte {offset + error.start}; convert the file, e.g. with iconv"
                    ) from error
                offset += len(raw)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingInputError(
            f"{path}: no such text file; if the recipe says cache:…, bring it with `prealign fetch`"
        ) from error
    except PermissionError as error:
        raise MissingInputError(f"{path}: no permission to read this file") from error


def _plain_documents(path: Path) -> Iterator[str]:
    lines: list[str] = []
    for _, line in _lines(path):
        if line.strip():
            lines.append(line)
        elif lines:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)


def _json_documents(path: Path) -> Iterator[str]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f'{path}:{number}: not a JSON object with a "text" key') from error
        if not isinstance(text, str):
            raise DataError(f'{path}:{number}: "text" is {type(text).__name__}, expected a string')
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"{path}:{number}: a lone surrogate in the text; it is not valid Unicode") from error
        if text.strip():
            yield text
