"""Word lists of three and more columns, such as exports of PanLex: which column is what shows in what stands in it.

    house   Haus    4                    source, target, score
    eng-000 house   deu-000 Haus    9    language and word of each side, score
    lang1   word1   lang2   word2        a header with these or like names is passed over

A column of nothing but numbers holds scores, the greater the better. Of the others there are two, the source's left of
the target's, or four, two of which hold nothing but codes of languages; then the English side is the source.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prealign_cpt.lexicon.languages import ENGLISH, LanguageChoice, short_code
from prealign_cpt.lexicon.pairs import COLUMNS, Row
from prealign_cpt.run.errors import DataError
from prealign_cpt.text.lines import read_lines

LOOKED_AT = 1000
"""Lines by which the columns are told apart."""

_CODE = re.compile(r"[a-z]{2,3}(?:[-_][A-Za-z0-9]{2,4})*")
_HEADER = re.compile(r"(?:source|target|src|trg|tgt|lang|word|expr|text|score|weight|quality|prob)\w*")


@dataclass(frozen=True)
class Layout:
    """Numbers of the columns; `languages` has one for each side or none, `score` is None without one."""

    width: int
    words: tuple[int, int]
    languages: tuple[int, int] | None
    score: int | None


def read_columns(path: Path, is_target: LanguageChoice) -> Iterator[Row]:
    """Rows by falling score, in the order of the file where scores are equal.

    Raises:
        DataError: the columns cannot be told apart, or as `LanguageChoice`.
    """
    lines = [
        (number, line, line.split("\t"))
        for number, line in read_lines(path)
        if line and not line.startswith("#") and not all(map(_HEADER.fullmatch, line.lower().split("\t")))
    ]
    layout = _layout([fields for _, _, fields in lines[:LOOKED_AT]], path)
    scored: list[tuple[float, Row]] = []
    for number, line, fields in lines:
        if len(fields) != layout.width:
            scored.append((0.0, Row(number, line, "", COLUMNS)))
            continue
        source, target = (fields[column] for column in layout.words)
        if layout.languages:
            codes = [fields[column] for column in layout.languages]
            is_english = [short_code(code) == ENGLISH for code in codes]
            if is_english[0] == is_english[1] or not is_target(codes[is_english[0]]):
                continue
            if is_english[1]:
                source, target = target, source
        score = _number(fields[layout.score]) if layout.score is not None else None
        scored.append((score or 0.0, Row(number, source, target)))
    if layout.languages:
        is_target.check()
    scored.sort(key=lambda item: -item[0])
    for _, row in scored:
        yield row


def _layout(sample: Sequence[Sequence[str]], path: Path) -> Layout:
    width = max((len(fields) for fields in sample), key=[len(fields) for fields in sample].count, default=0)
    columns = list(zip(*(fields for fields in sample if len(fields) == width), strict=True))
    scores = [n for n, column in enumerate(columns) if all(_number(value) is not None for value in column)]
    rest = [n for n in range(width) if n not in scores]
    score = scores[0] if len(scores) == 1 else None
    if len(rest) == 2 and len(scores) < 2:
        return Layout(width, (rest[0], rest[1]), None, score)
    if len(rest) == 4 and len(scores) < 2:
        for one, other in ((0, 2), (0, 1), (2, 3)):
            if all(map(_CODE.fullmatch, {*columns[rest[one]], *columns[rest[other]]})):
                words = [n for n in rest if n not in (rest[one], rest[other])]
                return Layout(width, (words[0], words[1]), (rest[one], rest[other]), score)
    raise DataError(
        f"{path}: {width} columns, {len(scores)} of them numbers, are not understood; cut out all but the two of "
        "words, the codes of their languages and one of numbers"
    )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
