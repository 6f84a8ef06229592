"""The run folder: a lock, a state, and stages that are done once.

    runs/NAME/  recipe.toml  run_state.json  metrics.jsonl  lexicon/  vocab/  align/  data/  cpt/  export/  eval/

A stage's folder appears complete or not at all (manifest.py). Its manifest holds what it was made from; a stage whose
inputs are the same is skipped, one whose inputs changed stops the run and says which.
"""

import errno
import fcntl
import json
import os
import re
import resource
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prealign_cpt import __version__
from prealign_cpt.recipe.file import as_toml
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run import signals
from prealign_cpt.run.errors import BusyError, DataError, RecipeError, StorageError
from prealign_cpt.run.faults import fault
from prealign_cpt.run.manifest import NAME, atomic_write, new_folder, read_manifest, sha256, storage_error, verify

ORDER = ("lexicon", "vocab", "align", "data", "cpt", "export", "eval")
"""The stages' folders, in the order of the flow. Redoing one redoes those behind it."""


ACCEPTABLE = ("train.steps", "train.warmup", "train.decay")
"""Recipe keys that a started run may change with --accept, if the steps done so far would have been the same."""

EXPORT = "export"
"""Stands among the keys of --accept for an export whose function is not the trainer's within rounding."""

_NONE = object()


class Run:
    """A run folder that this process alone may change.

    Args:
        redo: throw away this stage and those behind it.
        borrow: a folder of runs; a stage that one of them has made from equal inputs is taken from there.
        accept: recipe keys of `ACCEPTABLE` that may differ from those a stage was made from.

    Raises:
        BusyError: another process holds the folder.
        StorageError: the folder cannot be made, locked, or is not one of ours.
    """

    def __init__(
        self, recipe: Recipe, redo: str | None = None, borrow: Path | None = None, accept: tuple[str, ...] = ()
    ) -> None:
        self.recipe = recipe
        self.folder = recipe.run
        self.accept = accept
        self._lenders = sorted(path for path in borrow.iterdir() if path.is_dir()) if borrow else []
        if redo is not None and redo not in ORDER:
            raise RecipeError(f"--redo: {redo!r} is not a stage; the stages are {', '.join(ORDER)}")
        wrong = sorted(set(accept) - {*ACCEPTABLE, EXPORT})
        if wrong:
            raise RecipeError(f"--accept: {', '.join(wrong)} may not change; {', '.join(ACCEPTABLE)} may, and {EXPORT}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "run.lock").open("a+")
        except OSError as error:
            raise storage_error(self.folder, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StorageError(
                    f"{self.folder}: this file system has no locks ({error.strerror}), so two runs could spoil each "
                    "other; choose an `out` elsewhere"
                ) from error
            self._lock.seek(0)
            raise BusyError(
                f"{self.folder}: another run works in this folder ({self._lock.read().strip() or 'unknown'}); "
                "wait for it, or choose another name"
            ) from error
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock.flush()
        for name in ORDER:
            if (self.folder / name).is_symlink():
                raise StorageError(
                    f"{self.folder / name}: is a link, and a run writes and removes only below its own folder; replace "
                    "it by what it points to, or let `out` name the other place"
                )
        if redo is not None:
            self._remove_from(redo)
        if redo is not None or not (self.folder / "recipe.toml").exists():
            self.describe()

    def describe(self) -> None:
        """Write `recipe.toml`; only once the stages have accepted the recipe, for it says what they are made from."""
        atomic_write(self.folder / "recipe.toml", as_toml(self.recipe))

    def close(self) -> None:
        """Give the folder free."""
        self._lock.close()

    def stage(self, name: str, inputs: dict[str, Any], fill: Callable[[Path], None]) -> Path:
        """The folder of a stage: made by `fill(folder)` if it is not there yet.

        Args:
            name: one of `ORDER`.
            inputs: JSON-serialisable; equal inputs mean an equal result.
            fill: writes the stage's files into the (hidden) folder it is given.

        Raises:
            RecipeError: the stage is there but was made from other inputs; the changed ones are named.
        """
        target = self.folder / name
        if target.exists():
            made_from = read_manifest(target)["about"]["inputs"]
            changed = changes(made_from, inputs, self.accept)
            if changed:
                raise RecipeError(
                    f"{target}: was made from other inputs ({', '.join(changed)}); start again with --redo {name}, "
                    "or give the run another name"
                )
            verify(target)
            say(f"{name}: done before, kept")
            return target
        signals.check()
        lender = next((run for run in self._lenders if _lends(run / name, inputs)), None)
        if lender is not None and _taken(lender / name, target):
            say(f"{name}: taken from {lender}")
            return target
        say(f"{name}: starts")
        about: dict[str, Any] = {"stage": name, "inputs": inputs, "version": __version__}
        clock = StageClock()
        with new_folder(target, about) as folder:
            fault(f"stage.{name}")
            fill(folder)
            about.update(clock.figures())
        say(f"{name}: done in {about['seconds']:.0f} s, peak {about['peak_mb']:.0f} MB")
        return target

    def state(self, status: str, **facts: Any) -> None:
        """Write `run_state.json`: how the run stands, and the exit code that launchers flatten."""
        write_state(self.folder, status, **facts)

    def _remove_from(self, redo: str) -> None:
        there = [name for name in ORDER[ORDER.index(redo) :] if (self.folder / name).exists()]
        for name in there:
            target = self.folder / name
            if name != "cpt" and not (target / NAME).is_file():
                raise StorageError(f"{target}: has no manifest, so it is not removed; move it away yourself")
        for name in reversed(there):
            aside = self.folder / f".tmp-{name}-{secrets.token_hex(4)}"
            os.rename(self.folder / name, aside)
            shutil.rmtree(aside)
            if name == "cpt":
                (self.folder / "metrics.jsonl").unlink(missing_ok=True)
            say(f"{name}: removed, will be done again")


def changes(old: dict[str, Any], new: dict[str, Any], accept: tuple[str, ...] = ()) -> list[str]:
    """`key: old value -> new value` of all inputs that differ, but for those to accept; digests are cut short."""
    old, new = _flat(old), _flat(new)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key, _NONE) != new.get(key, _NONE))
    return [f"{key}: {_short(old, key)} -> {_short(new, key)}" for key in keys if key not in accept]


def _flat(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs that are dictionaries, such as the digests of many files, by their own keys."""
    flat: dict[str, Any] = {}
    for key, value in inputs.items():
        flat |= {f"{key}[{k}]": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _short(inputs: dict[str, Any], key: str) -> str:
    if key not in inputs:
        return "none"
    text = json.dumps(inputs[key], ensure_ascii=False)
    return text[1:9] if re.fullmatch(r'"[0-9a-f]{64}"', text) else text


def _lends(stage: Path, inputs: dict[str, Any]) -> bool:
    try:
        about = read_manifest(stage)["about"]
    except DataError:
        return False
    return bool(about.get("inputs") == inputs and about.get("version") == __version__)


def _taken(stage: Path, target: Path) -> bool:
    """Take a finished stage of another run, as hard links where the disk has them; False if it is not whole."""
    aside = target.with_name(f".tmp-{target.name}-{secrets.token_hex(4)}")
    try:
        try:
            shutil.copytree(stage, aside, copy_function=os.link)
        except (OSError, shutil.Error):
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(stage, aside)
        verify(aside)
        os.rename(aside, target)
    except (OSError, shutil.Error, DataError):
        return False
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return True


class StageClock:
    """Seconds and peak memory of a piece of work in this process."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        _reset_peak()

    def figures(self) -> dict[str, float]:
        """`seconds` (wall clock) and `peak_mb` (resident memory, 10^6 bytes)."""
        return {"seconds": round(time.monotonic() - self._start, 1), "peak_mb": round(peak_mb(), 1)}


def write_state(folder: Path, status: str, **facts: Any) -> None:
    """Write `run_state.json` of a run folder, atomically."""
    atomic_write(folder / "run_state.json", json.dumps({"status": status, **facts}, indent=1) + "\n")


def peak_mb() -> float:
    """Peak resident memory of this process since the last reset, in 10^6 bytes."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


def _reset_peak() -> None:
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass  # not Linux: the peak is then that of the whole process


def file_digests(paths: list[Path]) -> dict[str, str]:
    """File name to SHA-256, for the inputs of a stage."""
    return {f"{n}:{path.name}": sha256(path) if path.is_file() else "missing" for n, path in enumerate(paths)}


def folder_digest(folder: Path) -> str:
    """SHA-256 of a stage folder's manifest: it changes when any file of the stage does."""
    return sha256(folder / NAME)


def say(text: str) -> None:
    """One line for the person who watches."""
    print(f"[prealign] {text}", flush=True)
