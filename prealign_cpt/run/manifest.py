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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prealign_cpt.run.errors import DataError, StorageError
from prealign_cpt.run.faults import fault

FORMAT = 2
"""Version of the manifest. A reader refuses a version it does not know; it knows 1, which had no `digest`."""

NAME = "MANIFEST.json"

THREADS = min(8, len(os.sched_getaffinity(0)))
"""Files that are hashed at once; hashing holds no lock of the interpreter."""


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
        fault("write")
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
def new_folder(target: Path, about: dict[str, Any], files: dict[str, Any] | None = None) -> Iterator[Path]:
    """Yield a folder to fill; publish it as `target` when the block ends without an error.

    Args:
        target: must not exist; its parent must.
        about: JSON-serialisable facts for the manifest (inputs, recipe, versions). The caller may add to it inside the
            block; it is read when the block ends.
        files: `hashed` of files that others wrote and flushed to disk; read when the block ends. The rest is hashed
            and flushed here.

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
        known = files or {}
        own = [path for path in folder.rglob("*") if path.is_file() and str(path.relative_to(folder)) not in known]
        for path in own:
            _sync_file(path)
        listed = dict(sorted((known | hashed(folder, own)).items()))
        atomic_write(folder / NAME, _text({"format": FORMAT, "about": about, "files": listed}))
        fault("publish")
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


def hashed(folder: Path, paths: list[Path]) -> dict[str, dict[str, Any]]:
    """Name below the folder to `bytes` and `sha256`, of files in it."""
    with ThreadPoolExecutor(THREADS) as pool:
        hashes = pool.map(sha256, paths)
        return {
            str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": value}
            for path, value in zip(paths, hashes, strict=True)
        }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a published folder, itself as it was written.

    Raises:
        DataError: it is missing or damaged, or of a format this version does not know.
    """
    path = folder / NAME
    damaged = f"{path}: missing or damaged manifest; remove {folder} and run the stage again"
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        version = content["format"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(damaged) from error
    if version not in (1, FORMAT):
        raise DataError(f"{path}: format {version} is unknown, this version reads 1 and {FORMAT}; use a later release")
    if not (isinstance(content.get("about"), dict) and isinstance(content.get("files"), dict)):
        raise DataError(damaged)
    if version == FORMAT and text != _text({key: content[key] for key in ("format", "about", "files")}):
        raise DataError(damaged)
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in content["files"]):
        raise DataError(f"{path}: names a file outside of {folder}; do not use this folder")
    return dict(content)


def folder_digest(folder: Path) -> str:
    """SHA-256 over names and digests of a published folder's files: what a stage made, not when or from what.

    Raises:
        DataError: the manifest is missing or damaged.
    """
    return digest(read_manifest(folder)["files"])


def verify(folder: Path, digest_of: Callable[[Path], str] = sha256, share: tuple[int, int] = (0, 1)) -> dict[str, Any]:
    """Check every file of a published folder against its manifest (size, then SHA-256); return the manifest.

    Args:
        digest_of: how to come by a file's SHA-256; by default its bytes are read.
        share: (i, n): the contents of every n-th file only, from the i-th on; sizes of all.

    Raises:
        DataError: a file is missing, or its size or hash differs; the file is named.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: missing although the manifest lists it; remove {folder} and run the stage again")
        if path.stat().st_size != expected.get("bytes"):
            raise DataError(
                f"{path}: damaged ({path.stat().st_size} bytes, {expected.get('bytes')} expected); "
                f"remove {folder} and run the stage again"
            )
    mine = list(manifest["files"].items())[share[0] :: share[1]]
    with ThreadPoolExecutor(THREADS) as pool:
        digests = list(pool.map(digest_of, [folder / name for name, _ in mine]))
    for (name, expected), value in zip(mine, digests, strict=True):
        if value != expected.get("sha256"):
            raise DataError(f"{folder / name}: damaged (other content); remove {folder} and run the stage again")
    return manifest


def extra_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Files in a published folder that its manifest does not list."""
    there = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in there if name != NAME and name not in manifest["files"])


def _text(content: dict[str, Any]) -> str:
    """A manifest as it is written: with a digest of the rest, so that not one byte of it can change unnoticed."""
    content = json.loads(json.dumps(content))  # as a reader will see it: keys are strings, tuples are lists
    return json.dumps(content | {"digest": digest(content)}, indent=1, ensure_ascii=False)


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
