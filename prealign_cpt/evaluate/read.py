"""The text formats of an evaluation: parallel sentences, labelled texts, prompts.

    a file of `english TAB target`, or a folder with one file a language --read_parallel--> [(English, target)]
    a file of `label TAB text`                                           --read_labelled--> [(label, text)]

Blank lines are skipped, but not in such a folder, where line n translates line n.
"""

import unicodedata
from pathlib import Path

from prealign_cpt.run.errors import DataError, MissingInputError
from prealign_cpt.text.reader import read_lines

Labelled = tuple[str, str]
"""Label and text."""


def read_parallel(path: Path, languages: tuple[str, str] | None) -> list[tuple[str, str]]:
    """(English, target) sentences, NFC, in the order of the file.

    Args:
        languages: for a folder, the names of its English file and of its target's, without their endings.

    Raises:
        DataError: a line without its counterpart, or an empty side; it is named. Or no line at all.
        MissingInputError: no such file.
    """
    found = _folder_pairs(path, languages) if languages and path.is_dir() else _tsv_pairs(path)
    if not found:
        raise DataError(f"{path}: no sentence pair in it; expected `english TAB target` lines")
    return found


def read_labelled(path: Path) -> list[Labelled]:
    """(label, text) of each line.

    Raises:
        DataError: a line has no tab, no label or no text; it is named.
        MissingInputError: the file is not there.
    """
    found = []
    for number, line in read_lines(path):
        if not line.strip():
            continue
        label, tab, text = line.partition("\t")
        if not tab or not label.strip() or not text.strip():
            raise DataError(f"{path}:{number}: expected `label TAB text`")
        found.append((label.strip(), text.strip()))
    return found


def read_prompts(path: Path) -> tuple[str, ...]:
    """One prompt a line, without blank lines."""
    return tuple(line for _, line in read_lines(path) if line.strip())


def _folder_pairs(folder: Path, languages: tuple[str, str]) -> list[tuple[str, str]]:
    english, target = (_sentences(_language_file(folder, name)) for name in languages)
    if len(english) != len(target):
        raise DataError(
            f"{folder}: {languages[0]} has {len(english)} lines, {languages[1]} {len(target)}; "
            "parallel files have as many lines"
        )
    return list(zip(english, target, strict=True))


def _tsv_pairs(path: Path) -> list[tuple[str, str]]:
    found = []
    for number, line in read_lines(path):
        if not line.strip():
            continue
        sides = [_clean(side) for side in line.split("\t")]
        if len(sides) != 2 or not all(sides):
            raise DataError(f"{path}:{number}: expected `english TAB target`, one tab and text on both sides")
        found.append((sides[0], sides[1]))
    return found


def _language_file(folder: Path, name: str) -> Path:
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name.split(".")[0] == name]
    if len(found) != 1:
        there = ", ".join(sorted({path.name.split(".")[0] for path in folder.iterdir() if path.is_file()})) or "no file"
        raise MissingInputError(f"{folder}: {len(found)} files for {name!r}; there are {there}; see --languages")
    return found[0]


def _sentences(path: Path) -> list[str]:
    found = []
    for number, line in read_lines(path):
        if not line.strip():
            raise DataError(f"{path}:{number}: a blank line; parallel files have a sentence in every line")
        found.append(_clean(line))
    return found


def _clean(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())
