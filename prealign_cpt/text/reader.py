"""Text files to lines and documents; only regular files are opened.

`.txt`: documents separated by blank lines, their lines kept. `.jsonl`: one object a line, the document under `text`.
Text is normalised to NFC, the form that the lexicon and the vocabulary use.
"""

import gzip
import json
import os
import stat
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from prealign_cpt.run.errors import DataError, MissingInputError

LINE_LIMIT = 64 * 1024
"""Bytes in a line, with its end. Lines of lexicons and of evaluation data have some hundreds."""


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


def read_lines(path: Path, limit: int | None = LINE_LIMIT) -> Iterator[tuple[int, str]]:
    """Number and text of each line of a UTF-8 file, without its end. A byte order mark at the start is dropped.

    Lines end at a line feed, of which one carriage return before it is part. Nothing else ends a line: the ten
    characters at which `str.splitlines` cuts occur inside words of real files. What gzip packed is unpacked.

    Args:
        limit: bytes in a line, so that memory stays bounded whatever the path names; None: any number.

    Raises:
        DataError: a line is not UTF-8 (line and offset of the first bad byte are named) or too long; the file is
            damaged.
        MissingInputError: the file is not there.
    """
    with open_unpacked(path) as file:
        offset, number = 0, 0
        while True:
            try:
                block = file.readline(-1 if limit is None else limit + 1)
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(f"{path}: damaged behind line {number}: {error}; get the file again") from error
            if not block:
                break
            number += 1
            if limit is not None and len(block) > limit:
                raise DataError(f"{path}:{number}: line longer than {limit} bytes; is this the right file?")
            if number == 1 and block.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DataError(f"{path}:1: UTF-16 (mark at byte offset 0); save the file as UTF-8")
            mark = b"\xef\xbb\xbf" if number == 1 and block.startswith(b"\xef\xbb\xbf") else b""
            try:
                text = block.removeprefix(mark).decode()
            except UnicodeDecodeError as error:
                place = offset + len(mark) + error.start
                raise DataError(
                    f"{path}:{number}: not UTF-8 at byte offset {place}; save the file as UTF-8, e.g. with iconv"
                ) from error
            offset += len(block)
            yield number, text.removesuffix("\n").removesuffix("\r")


@contextmanager
def open_unpacked(path: Path) -> Iterator[BinaryIO]:
    """Open a file as `open_regular` does; what is read of one that gzip packed is its content."""
    with open_regular(path) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if packed:
            with gzip.open(file) as content:
                yield cast(BinaryIO, content)
        else:
            yield file


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; never waits, as opening a FIFO would.

    Raises:
        MissingInputError: it is not there or may not be read.
        DataError: it is a directory, FIFO or device, or has no bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise MissingInputError(
            f"{path}: cannot be read: {error.strerror}; check the path, and bring what a recipe calls cache:… with "
            "`prealign fetch`"
        ) from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: the file is empty, there is no text in it")
    raise DataError(f"{path}: not a regular file; name the file itself")


def _document_lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in read_lines(path, limit=None):
        if "\0" in line:
            raise DataError(f"{path}:{number}: binary data (a NUL byte); expected UTF-8 text")
        yield number, line.rstrip("\r")


def _plain_documents(path: Path) -> Iterator[str]:
    lines: list[str] = []
    for _, line in _document_lines(path):
        if line.strip():
            lines.append(line)
        elif lines:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)


def _json_documents(path: Path) -> Iterator[str]:
    for number, line in _document_lines(path):
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
