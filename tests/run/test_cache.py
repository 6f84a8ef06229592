"""Downloads through a stand-in for pip: a package `pip` on PYTHONPATH that serves files from a folder."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from prealign_cpt.run.cache import cache_folder, download_wheel, extract_member
from prealign_cpt.run.errors import DataError, StorageError, UnavailableError

NAME = "thing-1.0-py3-none-any.whl"
CONTENT = b"the bytes of a wheel"
SHA256 = hashlib.sha256(CONTENT).hexdigest()

FAKE_PIP = """
import os, shutil, sys, time
arguments = sys.argv[1:]
with open(os.environ["FAKE_PIP_LOG"], "a") as log:
    print(*arguments, file=log)
if os.environ.get("FAKE_PIP_FAIL"):
    print("Looking in indexes", file=sys.stderr)
    print(os.environ["FAKE_PIP_FAIL"], file=sys.stderr)
    sys.exit(1)
folder = arguments[arguments.index("-d") + 1]
served = os.environ["FAKE_PIP_SERVES"]
target = os.path.join(folder, os.path.basename(served))
with open(target, "wb") as file:
    file.write(b"half")
    file.flush()
    time.sleep(float(os.environ.get("FAKE_PIP_SLEEP", "0")))
shutil.copy(served, target)
"""

CALL = f"from prealign_cpt.run.cache import download_wheel; download_wheel('thing', '1.0', {NAME!r}, {SHA256!r})"


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-in in place; return the log of its calls."""
    package = tmp_path / "python" / "pip"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(FAKE_PIP)
    served = tmp_path / "index" / NAME
    served.parent.mkdir()
    served.write_bytes(CONTENT)
    log = tmp_path / "pip.log"
    log.touch()
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("FAKE_PIP_LOG", str(log))
    monkeypatch.setenv("FAKE_PIP_SERVES", str(served))
    monkeypatch.setenv("PREALIGN_CACHE", str(tmp_path / "cache"))
    return log


def calls(log: Path) -> int:
    return len(log.read_text().splitlines())


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREALIGN_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.setenv("PREALIGN_CACHE", "")
    assert cache_folder() == tmp_path / "xdg" / "prealign_cpt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "prealign_cpt"


def test_download_once_then_from_cache(pip: Path) -> None:
    path = download_wheel("thing", "1.0", NAME, SHA256)
    assert path == cache_folder() / "downloads" / NAME and path.read_bytes() == CONTENT
    assert download_wheel("thing", "1.0", NAME, SHA256) == path
    (call,) = pip.read_text().splitlines()
    assert call.startswith("download --no-deps --only-binary=:all: ") and call.endswith(" thing==1.0")
    assert "index" not in call.replace(str(cache_folder()), "")


def test_damaged_copy_is_replaced(pip: Path) -> None:
    path = download_wheel("thing", "1.0", NAME, SHA256)
    path.write_bytes(CONTENT[:-1] + b"?")
    assert download_wheel("thing", "1.0", NAME, SHA256).read_bytes() == CONTENT
    assert calls(pip) == 2


def test_other_bytes_are_refused_and_not_kept(pip: Path) -> None:
    with pytest.raises(DataError, match=f"SHA-256 {SHA256}, {'0' * 64} is pinned; .*check pip's index"):
        download_wheel("thing", "1.0", NAME, "0" * 64)
    assert list((cache_folder() / "downloads").iterdir()) == []


def test_other_file_is_refused(pip: Path) -> None:
    with pytest.raises(DataError, match=f"other.whl is wanted, pip brought {NAME}"):
        download_wheel("thing", "1.0", "other.whl", SHA256)


def test_failure_shows_last_line_of_pip(pip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PIP_FAIL", "ERROR: No matching distribution found for thing==1.0")
    with pytest.raises(UnavailableError, match=r"^thing==1.0: pip .*: ERROR: No matching .*; check the network[^\n]*$"):
        download_wheel("thing", "1.0", NAME, SHA256)
    monkeypatch.setenv("FAKE_PIP_FAIL", "ERROR: [Errno 28] No space left on device")
    with pytest.raises(StorageError, match="free some space"):
        download_wheel("thing", "1.0", NAME, SHA256)
    assert list((cache_folder() / "downloads").iterdir()) == []


def test_cache_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PREALIGN_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="cannot write"):
        download_wheel("thing", "1.0", NAME, SHA256)


def test_two_processes_download_once(pip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PIP_SLEEP", "0.5")
    processes = [subprocess.Popen([sys.executable, "-c", CALL]) for _ in range(2)]
    assert [process.wait(30) for process in processes] == [0, 0]
    assert calls(pip) == 1


def test_killed_download_leaves_nothing_that_counts(pip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PIP_SLEEP", "60")
    process = subprocess.Popen([sys.executable, "-c", CALL], start_new_session=True)
    half = cache_folder() / "downloads" / f".tmp-{NAME}" / NAME
    deadline = time.monotonic() + 30
    while not half.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert half.exists() and not (cache_folder() / "downloads" / NAME).exists()
    monkeypatch.setenv("FAKE_PIP_SLEEP", "0")
    download_wheel("thing", "1.0", NAME, SHA256)
    assert [path.name for path in (cache_folder() / "downloads").iterdir()] == [NAME]


def test_extract_member(tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a/data.txt", "text")
    extract_member(wheel, "a/data.txt", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "text"
    with pytest.raises(DataError, match=r"no readable a/other\.txt"):
        extract_member(wheel, "a/other.txt", tmp_path / "out")
    wheel.write_bytes(b"not a zip archive")
    with pytest.raises(DataError, match="no readable"):
        extract_member(wheel, "a/data.txt", tmp_path / "out")
