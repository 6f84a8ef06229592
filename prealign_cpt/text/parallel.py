"""Parallel text in two files: line n of one translates line n of the other.

a.en, a.de --parallel_lines--> (n, line, line beside it) --line_pairs--> those with text on both sides
"""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from unicodedata import normalize

from prealign_cpt.run.errors import DataError
from prealign_cpt.text.lines import read_lines


def line_pairs(english: Path, target: Path) -> Iterator[tuple[str, str]]:
    """Each line and the one beside it; pairs of which one is blank are left out.

    Raises:
        as `parallel_lines`.
    """
    return ((one, other) for _, one, other in parallel_lines(english, target) if one and other)


def parallel_lines(english: Path, target: Path) -> Iterator[tuple[int, str, str]]:
    """The number of each line, the line, and the one beside it: NFC, without spaces at their ends.

    Raises:
        DataError: one file is longer than the other, or not UTF-8.
        MissingInputError: a file is not there.
    """
    for one, other in zip_longest(read_lines(english, None), read_lines(target, None)):
        if one is None or other is None:
            short, long, (number, _) = (english, target, other) if one is None else (target, english, one)
            raise DataError(
                f"{short}: ends before line {number} of {long}; line n of one must translate line n of the other"
            )
        left, right = (normalize("NFC", text).strip() for _, text in (one, other))
        yield one[0], left, right
