"""What a recipe names as text to the files behind it: files, folders, globs, datasets of a hub.

"corpus/"  "news-*.jsonl.gz"  "hf:owner/name"  --entries--> Entry(files, unit)  --documents--> documents
                                                            Entry --groups--> Entries of some files each
"a.en" beside "a.de"                           --parallel--> Entry(files, others)  --documents--> sentence, translation
"""

import glob
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

from prealign_cpt.run.errors import DataError, MissingInputError
from prealign_cpt.text.parallel import line_pairs
from prealign_cpt.text.reader import (
    JSON_LINES,
    NO_TEXT,
    SEPARATED,
    TABLES,
    Unit,
    guess_unit,
    kind_of,
    read_documents,
    read_hub,
)

HUB = "hf:"
"""Begins the id of a dataset, so that no misspelt path is ever looked for on a hub."""

MANY_FILES, SMALL_BYTES = 10, 100_000
"""Plain files of a folder are a document each if there are so many, and they are so small on average."""


@dataclass(frozen=True)
class Entry:
    """One entry of a recipe's list of texts."""

    name: str
    """As the recipe has it."""
    files: tuple[Path, ...]
    """Sorted; empty for a dataset of a hub."""
    unit: Unit | None
    """Of its plain files; None if it has none."""
    column: str
    passed_over: tuple[str, ...] = ()
    """Kinds of files in a folder that are not read, with how many there are."""
    others: tuple[Path, ...] = ()
    """Of parallel text, the translation of each file, line by line."""

    def groups(self, least_bytes: int) -> list["Entry"]:
        """The entry in parts of consecutive files, each of so many bytes or more but for the last."""
        parts: list[list[int]] = [[]]
        size = 0
        for i, path in enumerate(self.files):
            if size >= least_bytes:
                parts.append([])
                size = 0
            parts[-1].append(i)
            size += path.stat().st_size
        pick = [
            (tuple(self.files[i] for i in part), tuple(self.others[i] for i in part if self.others)) for part in parts
        ]
        return [replace(self, files=files, others=others) for files, others in pick]

    def documents(self) -> Iterator[str]:
        """Its documents, in the order of its files.

        Raises:
            as `read_documents`.
        """
        if self.name.startswith(HUB):
            return read_hub(self.name.removeprefix(HUB), self.column)
        if self.others:
            return _translations(self.files, self.others)
        return read_documents(self.files, self.column, self.unit)

    def told(self) -> str:
        """How it is read, for the person who watches."""
        files = f"{len(self.files):,} files, " if len(self.files) > 1 else ""
        units = {
            "file": "one document a file",
            "line": "one document a line",
            "paragraph": "blank lines part documents",
        }
        rest = f"; passed over: {', '.join(self.passed_over)}" if self.passed_over else ""
        if self.others:
            return files + "a sentence and its translation are a document"
        return files + (units[self.unit] if self.unit else f"documents in {self.column!r}") + rest


def entries(names: Iterable[tuple[str, Path]], column: str, unit: Unit | None) -> list[Entry]:
    """The entries that a recipe names.

    Args:
        names: each entry as the recipe has it, and the path that it means.
        column, unit: as of `read_documents`; a unit that is None is guessed for each entry.

    Raises:
        MissingInputError: nothing is there.
        DataError: a folder has no file that is read.
    """
    return [_entry(name, path, column, unit) for name, path in names]


def parallel(english: list[Entry], target: list[Entry]) -> list[Entry]:
    """Parallel text, of the entries of both languages.

    Raises:
        DataError: they have not equally many files, or not plain ones.
    """
    files, others = ([path for entry in side for path in entry.files] for side in (english, target))
    name = " beside ".join(", ".join(entry.name for entry in side) for side in (english, target))
    if len(files) != len(others) or not files:
        raise DataError(
            f"{name}: {len(files)} English files and {len(others)} in the new language; parallel text has a file of "
            "one beside each of the other"
        )
    if strange := [path for path in files + others if kind_of(path) in (*JSON_LINES, *SEPARATED, *TABLES)]:
        raise DataError(f"{strange[0]}: parallel text is read from plain files, line n beside line n")
    return [Entry(name, tuple(files), None, "", others=tuple(others))]


def _translations(files: Iterable[Path], others: Iterable[Path]) -> Iterator[str]:
    """A line and its translation, or the other way round, by a hash of both."""
    for english, target in zip(files, others, strict=True):
        for pair in line_pairs(english, target):
            yield "\n".join(pair if crc32("\n".join(pair).encode()) % 2 else reversed(pair))


def _entry(name: str, path: Path, column: str, unit: Unit | None) -> Entry:
    if name.startswith(HUB):
        return Entry(name, (), None, column)
    passed_over: tuple[str, ...] = ()
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file.relative_to(path)))
        files = [file for file in found if kind_of(file) not in NO_TEXT]
        left = Counter(kind_of(file) for file in found if kind_of(file) in NO_TEXT)
        passed_over = tuple(f"{count} {kind}" for kind, count in sorted(left.items()))
        if not files:
            raise DataError(
                f"{path}: no text file in this folder" + (f", only {', '.join(passed_over)}" if left else "")
            )
    elif path.exists():
        files = [path]
    elif not glob.has_magic(str(path)):
        raise MissingInputError(
            f"{path}: no such file or folder; check the path, and bring what a recipe calls cache:… with "
            "`prealign fetch`"
        )
    else:
        files = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
        if not files:
            raise MissingInputError(f"{path}: no file is called like this; check the pattern")
    plain = [file for file in files if kind_of(file) not in (*JSON_LINES, *SEPARATED, *TABLES)]
    if plain and unit is None:
        unit = _common_unit(plain)
    return Entry(name, tuple(files), unit if plain else None, column, passed_over)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _common_unit(files: list[Path]) -> Unit:
    if len(files) >= MANY_FILES and sum(file.stat().st_size for file in files) <= SMALL_BYTES * len(files):
        return "file"
    units = Counter(guess_unit(file) for file in files[:20])
    return units.most_common(1)[0][0]
