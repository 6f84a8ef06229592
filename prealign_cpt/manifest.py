"""Folders that are either complete and verifiable or not there at all.

Every stage writes its output through `new_folder`: into a hidden folder beside the target, hashed, described by a
`MANIFEST.json`, flushed to disk, then renamed. A process that dies at any moment leaves the target absent; the hidden
rest is swept by the next `new_folder` for the same target.

    .tmp-align-3f2a/  --write, hash, fsync-->  .tmp-align-3f2a/MANIFEST.json  --rename-->  align/
"""

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prealign_cpt.errors import DataError, StorageError

FORMAT = 1
"""Version of the manifest. A reader refuses a version it does not know."""

NAME = "MANIFEST.json"


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hex SHA-256 of a JSON-serialisable value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def atomic_write(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8) so that a reader sees the old content or the new, never a part.

    Raises:
        StorageError: the disk is full or the folder is not writable; the old file is left as it was.
    """
    temporary = path.with_name(f".tmp-{path.name}-{secrets.token_hex(4)}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise storage_error(path, error) from error
        raise


def storage_error(path: Path, error: OSError) -> StorageError:
    """The message for an operating-system error while writing `path`."""
    remedy = "free some space and start again" if error.errno == errno.ENOSPC else "check the path and its permissions"
    return StorageError(f"{path}: cannot write: {error.strerror or error}; {remedy}")


@contextmanager
def new_folder(target: Path, about: dict[str, Any]) -> Iterator[Path]:
    """Yield a folder to fill; publish it as `target` when the block ends without an error.

    Args:
        target: must not exist; its parent must.
        about: JSON-serialisable facts for the manifest (inputs, recipe, versions). The caller may add to it inside the
            block; it is read when the block ends.

    Raises:
        StorageError: `target` exists, or writing failed. Nothing is left at `target`.
    """
    if target.exists():
        raise StorageError(f"{target}: exists already and is never overwritten; move it away or choose another name")
    for rest in target.parent.glob(f".tmp-{glob.escape(target.name)}-{'[0-9a-f]' * 8}"):
        shutil.rmtree(rest)
    folder = target.with_name(f".tmp-{target.name}-{secrets.token_hex(4)}")
    try:
        folder.mkdir(parents=True)
        yield folder
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in files:
            _sync_file(path)
        content = {
            "format": FORMAT,
            "about": about,
            "files": {
                str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files
            },
        }
        atomic_write(folder / NAME, json.dumps(content, indent=1, ensure_ascii=False))
        os.rename(folder, target)
        _sync_folder(target.parent)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        number = re.search(r"\(os error (\d+)\)", str(error))  # tokenizers and safetensors write in Rust
        if number and not isinstance(error, OSError):
            raise storage_error(target, OSError(int(number[1]), os.strerror(int(number[1])))) from error
        if isinstance(error, OSError) and _is_about(error, folder, target):
            raise storage_error(target, error) from error
        raise


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a published folder.

    Raises:
        DataError: it is missing, not JSON, or of a format this version does not know.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format"]
        complete = version != FORMAT or (isinstance(content["about"], dict) and isinstance(content["files"], dict))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: missing or damaged manifest; remove {folder} and run the stage again") from error
    if not complete:
        raise DataError(f"{path}: damaged manifest; remove {folder} and run the stage again")
    if version != FORMAT:
        raise DataError(f"{path}: format {version} is unknown, this version reads {FORMAT}; use a matching release")
    return dict(content)


def verify(folder: Path) -> dict[str, Any]:
    """Check every file of a published folder against its manifest (size, then SHA-256); return the manifest.

    Raises:
        DataError: a file is missing, or its size or hash differs; the file is named.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: missing although the manifest lists it; remove {folder} and run the stage again")
        size = path.stat().st_size
        if size != expected["bytes"] or sha256(path) != expected["sha256"]:
            raise DataError(
                f"{path}: damaged ({size} bytes, {expected['bytes']} expected, or other content); "
                f"remove {folder} and run the stage again"
            )
    return manifest


def _is_about(error: OSError, folder: Path, target: Path) -> bool:
    """Whether an error comes from writing the folder, not from something that the block read."""
    if error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
    return str(error.filename) == str(target) or str(error.filename).startswith(str(folder))


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
