"""Lexicon files of three formats as a stream of raw rows; nothing is judged here but what the bytes forbid.

    tsv, muse          file --lines--> Row
    dictd       NAME.index --offset, length--> NAME.dict[.dz] --entries (see dictd.py)--> Row

Memory stays bounded whatever the path names: only regular files are opened, and lines and entries have a size limit.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from prealign_cpt.run.errors import DataError, MissingInputError

LINE_LIMIT = 64 * 1024
"""Bytes in a line, with its end. Real lexicon lines have some hundreds; more means another kind of file."""

COLUMNS = "wrong number of columns"


class Row(NamedTuple):
    """One pair as the file has it."""

    line: int
    """Line number from 1, or number of the entry in a dictd database."""
    source: str
    target: str
    fault: str = ""
    """Why the reader could not make two columns of it; `source` then holds the text in question."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; never waits, as opening a FIFO would.

    Raises:
        MissingInputError: it is not there or may not be read.
        DataError: it is a directory, FIFO or device, or has no bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror}; check the path") from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: the file is empty; a lexicon has one pair a line")
    raise DataError(f"{path}: not a regular file; name the lexicon file itself")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line, without its end. A byte order mark at the start is dropped.

    Lines end at a line feed, of which one carriage return before it is part. Nothing else ends a line: the ten
    characters at which `str.splitlines` cuts occur inside words of real files.

    Raises:
        DataError: a line is not UTF-8 (line and offset of the first bad byte are named) or exceeds `LINE_LIMIT`.
        MissingInputError: the file is not there.
    """
    with open_regular(path) as file:
        offset, number = 0, 0
        while block := file.readline(LINE_LIMIT + 1):
            number += 1
            if len(block) > LINE_LIMIT:
                raise DataError(f"{path}:{number}: line longer than {LINE_LIMIT} bytes; this is not a lexicon")
            if number == 1 and block.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DataError(f"{path}:1: UTF-16 (mark at byte offset 0); save the file as UTF-8")
            try:
                text = block.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                # utf-8-sig counts positions after the mark it has dropped.
                mark = 3 if number == 1 and block.startswith(b"\xef\xbb\xbf") else 0
                place = offset + mark + error.start
                raise DataError(f"{path}:{number}: not UTF-8 at byte offset {place}; save the file as UTF-8") from error
            offset += len(block)
            yield number, text.removesuffix("\n").removesuffix("\r")


def read_tsv(path: Path) -> Iterator[Row]:
    """Rows of a canonical lexicon file; comments and lines without any character are passed over."""
    for number, line in read_lines(path):
        if line and not line.startswith("#"):
            fields = line.split("\t")
            yield Row(number, fields[0], fields[1]) if len(fields) == 2 else Row(number, line, "", COLUMNS)


def read_muse(path: Path) -> Iterator[Row]:
    """Rows of a MUSE dictionary: the first run of spaces and tabs ends the source, the rest is the target."""
    for number, line in read_lines(path):
        if line:
            fields = re.split(r"[ \t]+", line.strip(" \t"), maxsplit=1)
            yield Row(number, fields[0], fields[1]) if len(fields) == 2 else Row(number, line, "", COLUMNS)
