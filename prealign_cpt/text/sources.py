"""What a recipe names as text to the files behind it: files, folders, globs, datasets of a hub.

"corpus/"  "news-*.jsonl.gz"  "hf:owner/name"  --sources--> Source(files, unit)  --documents--> documents
"""

import glob
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prealign_cpt.run.errors import DataError, MissingInputError
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
class Source:
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

    def documents(self) -> Iterator[str]:
        """Its documents, in the order of its files.

        Raises:
            as `read_documents`.
        """
        if self.name.startswith(HUB):
            return read_hub(self.name.removeprefix(HUB), self.column)
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
        return files + (units[self.unit] if self.unit else f"documents in {self.column!r}") + rest


def sources(names: Iterable[tuple[str, Path]], column: str, unit: Unit | None) -> list[Source]:
    """The sources that a recipe names.

    Args:
        names: each entry as the recipe has it, and the path that it means.
        column, unit: as of `read_documents`; a unit that is None is guessed for each source.

    Raises:
        MissingInputError: nothing is there.
        DataError: a folder has no file that is read.
    """
    return [_source(name, path, column, unit) for name, path in names]


def _source(name: str, path: Path, column: str, unit: Unit | None) -> Source:
    if name.startswith(HUB):
        return Source(name, (), None, column)
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
    return Source(name, tuple(files), unit if plain else None, column, passed_over)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _common_unit(files: list[Path]) -> Unit:
    if len(files) >= MANY_FILES and sum(file.stat().st_size for file in files) <= SMALL_BYTES * len(files):
        return "file"
    units = Counter(guess_unit(file) for file in files[:20])
    return units.most_common(1)[0][0]
