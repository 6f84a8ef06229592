"""Lines of UTF-8 text files, packed or not; only regular files are opened.

path --open_regular--> bytes --open_unpacked--> content --read_lines--> (number, text)
"""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from prealign_cpt.run.errors import DataError, MissingInputError

LINE_LIMIT = 64 * 1024
"""Bytes in a line, with its end. Lines of lexicons and of evaluation data have some hundreds."""

MAGIC = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
"""Compressions by the first bytes, as fsspec calls them."""


def read_lines(path: Path, limit: int | None = LINE_LIMIT) -> Iterator[tuple[int, str]]:
    """Number and text of each line of a UTF-8 file, without its end. A byte order mark at the start is dropped.

    Lines end at a line feed, of which one carriage return before it is part. Nothing else ends a line: the ten
    characters at which `str.splitlines` cuts occur inside words of real files. Packed files are unpacked.

    Args:
        limit: bytes in a line, so that memory stays bounded whatever the path names; None: any number.

    Raises:
        DataError: a line is not UTF-8 (line and offset of the first bad byte are named) or too long; the file is
            damaged.
        MissingInputError: the file is not there.
    """
    with open_unpacked(path) as file:
        offset, number = 0, 0
        while block := _read_line(file, -1 if limit is None else limit + 1, path, number):
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
    """Open a file as `open_regular` does; of one that is packed (its first bytes say so) the content is read."""
    with open_regular(path) as file:
        first = file.read(max(map(len, MAGIC)))
        file.seek(0)
        packing = next((name for magic, name in MAGIC.items() if first.startswith(magic)), None)
        if packing is None:
            yield file
            return
        from fsspec.compression import compr

        with io.BufferedReader(compr[packing](file, mode="rb")) as content:
            yield content


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


def _read_line(file: BinaryIO, size: int, path: Path, number: int) -> bytes:
    try:
        return file.readline(size)
    except Exception as error:  # each decompressor has its own
        raise DataError(f"{path}: damaged behind line {number}: {error}; get the file again") from error
