"""SHA-256 of files that is not computed twice: kept by path, size, time of the last change and inode.

    RUN/digests.json   {"/data/text.txt": [bytes, mtime in ns, inode, "sha256"], ...}

A text of many gigabytes is read for its digest once and not at every start. Who changes a file in place and sets its
time back is not noticed here; `prealign verify` reads every byte.
"""

import json
from contextlib import suppress
from pathlib import Path

from prealign_cpt.run.manifest import atomic_write, read_manifest, sha256


class Digests:
    """Digests of files, kept in a file of their own; a damaged or missing one is begun anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[int | str]] = {}
        self._changed = False
        self.load()

    def load(self) -> None:
        """Read what another process has written."""
        with suppress(OSError, ValueError, AttributeError, TypeError):
            content = json.loads(self._path.read_text(encoding="utf-8"))
            self._known |= {name: entry for name, entry in content.items() if len(entry) == 4}

    def sha256(self, path: Path) -> str:
        """Hex SHA-256 of a file's content."""
        identity = _identity(path)
        entry = self._known.get(str(path.resolve()))
        if entry is not None and entry[:3] == identity:
            return str(entry[3])
        value = sha256(path)
        self._put(path, [*identity, value])
        return value

    def add_folder(self, folder: Path) -> None:
        """Take over the digests of a folder that was published just now, from its manifest."""
        for name, entry in read_manifest(folder)["files"].items():
            self._put(folder / name, [*_identity(folder / name), entry["sha256"]])
        self.save()

    def save(self) -> None:
        """Write what is new.

        Raises:
            StorageError: it cannot be written.
        """
        if self._changed:
            atomic_write(self._path, json.dumps(self._known, indent=0))
            self._changed = False

    def _put(self, path: Path, entry: list[int | str]) -> None:
        self._known[str(path.resolve())] = entry
        self._changed = True


def _identity(path: Path) -> list[int | str]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]
