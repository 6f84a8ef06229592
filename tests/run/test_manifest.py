"""Folders that are complete or absent: full disks, killed processes, damaged files."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prealign_cpt.run import manifest
from prealign_cpt.run.errors import DataError, StorageError
from prealign_cpt.run.manifest import NAME, atomic_write, digest, new_folder, verify


def publish(target: Path, **files: str) -> Path:
    with new_folder(target, {"stage": target.name}) as folder:
        (folder / "sub").mkdir()
        for name, text in {"a": "first", "b": "second", **files}.items():
            (folder / f"{name}.txt").write_text(text)
        (folder / "sub" / "c.txt").write_text("third")
    return target


def full(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def denied(*arguments: Any) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_write_replaces(tmp_path: Path):
    path = tmp_path / "state.json"
    atomic_write(path, "old")
    atomic_write(path, "neü\n")
    assert path.read_bytes() == "neü\n".encode()
    assert names(tmp_path) == ["state.json"]


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize(("fault", "remedy"), [(full, "free some space"), (denied, "permissions")])
def test_atomic_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, fault: Callable[..., None], remedy: str
):
    path = tmp_path / "state.json"
    path.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fault)
        with pytest.raises(StorageError, match=remedy) as caught:
            atomic_write(path, "new")
    assert caught.value.exit_code == 74 and str(path) in str(caught.value)
    assert path.read_text() == "old" and names(tmp_path) == ["state.json"]


def test_atomic_write_into_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(StorageError, match="No such file"):
        atomic_write(tmp_path / "absent" / "state.json", "new")


def test_a_published_folder_is_whole(tmp_path: Path):
    target = tmp_path / "align"
    about: dict[str, Any] = {"stage": "align"}
    with new_folder(target, about) as folder:
        assert folder.parent == tmp_path and folder.name.startswith(".tmp-align-")
        (folder / "a.txt").write_text("first")
        assert not target.exists()
        about["seconds"] = 3
    assert names(tmp_path) == ["align"] and names(target) == [NAME, "a.txt"]
    content = json.loads((target / NAME).read_text())
    assert content["format"] == 2 and content["about"] == {"stage": "align", "seconds": 3}
    assert content["files"] == {"a.txt": {"bytes": 5, "sha256": manifest.sha256(target / "a.txt")}}


def test_verify_returns_the_manifest(tmp_path: Path):
    found = verify(publish(tmp_path / "data"))
    assert sorted(found["files"]) == ["a.txt", "b.txt", "sub/c.txt"]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_inside_leaves_nothing(tmp_path: Path, fault: type[BaseException]):
    with pytest.raises(fault), new_folder(tmp_path / "data", {}) as folder:
        (folder / "a.txt").write_text("first")
        raise fault("stop")
    assert names(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "rename", "replace"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str):
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StorageError, match="free some space"):
            publish(tmp_path / "data")
    assert names(tmp_path) == []


def test_a_full_disk_inside_the_block(tmp_path: Path):
    with pytest.raises(StorageError, match="free some space"), new_folder(tmp_path / "data", {}):
        full()
    assert names(tmp_path) == []


def test_an_existing_target_is_refused_and_kept(tmp_path: Path):
    target = publish(tmp_path / "data")
    with pytest.raises(StorageError, match="never overwritten"), new_folder(target, {}) as folder:
        (folder / "a.txt").write_text("other")
    verify(target)
    assert names(tmp_path) == ["data"]


def test_a_target_that_appears_meanwhile_is_kept(tmp_path: Path):
    target = tmp_path / "data"
    with pytest.raises(StorageError), new_folder(target, {}):
        publish(target)
    verify(target)
    assert names(tmp_path) == ["data"]


def test_leftovers_are_swept(tmp_path: Path):
    for name in (".tmp-data-0001abcd", ".tmp-other-0001abcd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half.bin").write_bytes(b"0" * 10)
    publish(tmp_path / "data")
    assert names(tmp_path) == [".tmp-other-0001abcd", "data"]


def test_another_targets_work_is_not_swept(tmp_path: Path):
    with new_folder(tmp_path / "bible-de", {}) as folder:
        (folder / "a.txt").write_text("first")
        publish(tmp_path / "bible")
        assert folder.is_dir()


KILLED = """
import sys, time
from pathlib import Path
from prealign_cpt.run import manifest
moment, target = sys.argv[1], Path(sys.argv[2])
def wait(*arguments):
    print("ready", flush=True)
    time.sleep(60)
if moment != "inside":
    setattr(manifest.os, moment, wait)
with manifest.new_folder(target, {}) as folder:
    (folder / "a.txt").write_text("first")
    if moment == "inside":
        wait()
"""


@pytest.mark.parametrize("moment", ["inside", "fsync", "replace", "rename"])
def test_a_killed_process_leaves_no_target(tmp_path: Path, moment: str):
    target = tmp_path / "data"
    command = [sys.executable, "-c", KILLED, moment, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=10) == -signal.SIGKILL
    assert not target.exists() and len(names(tmp_path)) == 1
    publish(target)
    verify(target)
    assert names(tmp_path) == ["data"]


def flip(target: Path) -> None:
    path = target / "sub" / "c.txt"
    content = bytearray(path.read_bytes())
    content[2] ^= 1
    path.write_bytes(content)


def edit(target: Path, old: str, new: str) -> None:
    text = (target / NAME).read_text()
    assert old in text
    (target / NAME).write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip, ["c.txt", "damaged"]),
        (lambda target: (target / "b.txt").write_text("secon"), ["b.txt", "5 bytes, 6 expected"]),
        (lambda target: (target / "b.txt").unlink(), ["b.txt", "missing"]),
        (lambda target: (target / NAME).unlink(), [NAME, "missing or damaged"]),
        (lambda target: (target / NAME).write_text("{"), [NAME, "missing or damaged"]),
        (lambda target: (target / NAME).write_text("[1]"), [NAME, "missing or damaged"]),
        (lambda target: (target / NAME).write_bytes(b"\xff{}"), [NAME, "missing or damaged"]),
        (lambda target: (target / NAME).write_text('{"files": {}}'), [NAME, "missing or damaged"]),
        (lambda target: (target / NAME).write_text('{"format": 3}'), ["format 3", "this version reads 1 and 2"]),
        (lambda target: (target / NAME).write_text('{"format": "1"}'), ["format 1", "unknown"]),
        (lambda target: (target / NAME).write_text((target / NAME).read_text() + "\n"), [NAME, "damaged manifest"]),
        (lambda target: edit(target, '"stage": "data"', '"stage": "date"'), [NAME, "damaged manifest"]),
        (lambda target: edit(target, '"bytes": 5', '"bytes": 4'), [NAME, "damaged manifest"]),
    ],
)
def test_verify_finds(tmp_path: Path, damage: Callable[[Path], Any], words: list[str]):
    target = publish(tmp_path / "data")
    damage(target)
    with pytest.raises(DataError) as caught:
        verify(target)
    assert caught.value.exit_code == 65
    for word in [str(target), *words]:
        assert word in str(caught.value)


def test_a_manifest_without_its_list(tmp_path: Path):
    target = publish(tmp_path / "data")
    (target / NAME).write_text('{"format": 1}')
    with pytest.raises(DataError):
        verify(target)


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "sub/../../outside.txt"])
def test_a_manifest_names_no_file_outside_of_its_folder(tmp_path: Path, name: str):
    target = publish(tmp_path / "data")
    (tmp_path / "outside.txt").write_text("x")
    content = json.loads((target / NAME).read_text())
    content["files"][name] = {"bytes": 1, "sha256": "0"}
    del content["digest"]
    (target / NAME).write_text(manifest._text(content))
    with pytest.raises(DataError, match="outside"):
        verify(target)


def test_a_manifest_of_format_1_is_read_without_its_digest(tmp_path: Path):
    target = publish(tmp_path / "data")
    content = json.loads((target / NAME).read_text()) | {"format": 1}
    del content["digest"]
    (target / NAME).write_text(json.dumps(content, indent=1))
    assert verify(target)["about"] == {"stage": "data"}
    flip(target)
    with pytest.raises(DataError, match=r"c\.txt"):
        verify(target)


def test_facts_of_any_json_type_pass_through_the_digest(tmp_path: Path):
    about = {"steps": {10: "x", 9: (1, 2)}, "lr": 0.1 + 0.2, "nan": float("nan"), "word": "Straße"}
    with new_folder(tmp_path / "data", about):
        pass
    assert verify(tmp_path / "data")["about"]["steps"] == {"10": "x", "9": [1, 2]}


def test_hashes_of_others_are_taken_and_files_beside_the_list_are_told(tmp_path: Path):
    known: dict[str, Any] = {}
    with new_folder(tmp_path / "data", {}, known) as folder:
        for name in ("theirs", "ours"):
            (folder / name).write_text(name)
        known |= {"theirs": {"bytes": 6, "sha256": "0" * 64}}
    content = manifest.read_manifest(tmp_path / "data")
    assert content["files"]["theirs"]["sha256"] == "0" * 64
    assert content["files"]["ours"]["sha256"] == manifest.sha256(tmp_path / "data" / "ours")
    with pytest.raises(DataError, match="theirs: damaged"):
        verify(tmp_path / "data")
    (tmp_path / "data" / "note.txt").write_text("mine")
    assert manifest.extra_files(tmp_path / "data", content) == ["note.txt"]


def test_a_failed_read_inside_is_no_storage_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "data", {}):
        (tmp_path / "input.txt").read_text()


def test_an_interrupted_atomic_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            atomic_write(tmp_path / "state.json", "new")
    assert names(tmp_path) == []


def test_digest_is_of_the_value_not_of_its_order():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2}) and digest([1, 2]) != digest([2, 1])
