"""The run folder: a lock, a state, and stages that are done once.

    runs/NAME/  recipe.toml  run_state.json  metrics.jsonl  digests.json
                lexicon/  text/  vocab/  data/  init/  align/  train/  export/  eval/

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prealign_cpt import __version__
from prealign_cpt.run import signals
from prealign_cpt.run.digests import Digests
from prealign_cpt.run.errors import BusyError, DataError, PrealignError, RecipeError, StorageError
from prealign_cpt.run.faults import fault
from prealign_cpt.run.manifest import NAME, atomic_write, new_folder, read_manifest, storage_error, verify

ORDER = ("lexicon", "text", "vocab", "data", "init", "align", "train", "export", "eval")
"""The stages' folders, in the order of the flow."""

ASIDE = "redone-"
"""Folders of a run with what --redo has set aside, numbered."""

KEPT = "kept"
"""Folder of the milestones, in that of the checkpoints."""

OWNER = "PREALIGN_RUN_OWNED"
"""Environment variable: the run folder whose lock the parent process holds."""


ACCEPTABLE = ("train.steps", "train.warmup", "train.decay")
"""Recipe keys that a started run may change with --accept, if the steps done so far would have been the same."""

EXPORT = "export"
"""Stands among the keys of --accept for an export whose function is not the trainer's within rounding."""

_NONE = object()


class Run:
    """A run folder that this process alone may change.

    Args:
        folder: is made if it is not there.
        reuse: a folder of runs; a stage that one of them has made from equal inputs is taken from there.
        accept: recipe keys of `ACCEPTABLE` that may differ from those a stage was made from.

    Raises:
        BusyError: another process holds the folder.
        RecipeError: `accept` names another key.
        StorageError: the folder cannot be made, locked, or is not one of ours.
    """

    def __init__(self, folder: Path, reuse: Path | None = None, accept: tuple[str, ...] = ()) -> None:
        self.folder, self.accept = folder, accept
        self._sources = sorted(path for path in reuse.iterdir() if path.is_dir()) if reuse else []
        self._owner = os.environ.get(OWNER) != str(folder.resolve())
        self._started = self._refused = False
        self._said: set[str] = set()
        wrong = sorted(set(accept) - {*ACCEPTABLE, EXPORT})
        if wrong:
            raise RecipeError(f"--accept: {', '.join(wrong)} may not change; {', '.join(ACCEPTABLE)} may, and {EXPORT}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "run.lock").open("a+")
        except OSError as error:
            raise storage_error(folder, error) from error
        if self._owner:
            self._take_lock()
        for name in ORDER:
            if (folder / name).is_symlink():
                raise StorageError(
                    f"{folder / name}: is a link, and a run writes and removes only below its own folder; replace "
                    "it by what it points to, or let `out` name the other place"
                )
        self.digests = Digests(folder / "digests.json")

    def _take_lock(self) -> None:
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

    def describe(self, recipe: str) -> None:
        """Write `recipe.toml`; only once the stages have accepted the recipe, for it says what they are made from."""
        atomic_write(self.folder / "recipe.toml", recipe)

    def close(self) -> None:
        """Give the folder free."""
        if not self._refused:
            self.digests.save()
        self._lock.close()

    def has(self, name: str, inputs: dict[str, Any]) -> bool:
        """Whether a stage is there, sound and made from these inputs; another run's is taken if it is.

        Raises:
            RecipeError: the stage is there but was made from other inputs; the changed ones are named.
            DataError: it is damaged.
        """
        target = self.folder / name
        if target.exists():
            self.check_inputs(target, read_manifest(target)["about"]["inputs"], inputs, name)
            verify(target, self.digests.sha256)
            self.say_once(f"{name}: done before, kept")
            return True
        for source in self._sources:
            if _offers(source / name, inputs) and _taken(source / name, target):
                self.digests.add_folder(target)
                say(f"{name}: taken from {source}")
                return True
        return False

    def check_inputs(self, target: Path, made_from: dict[str, Any], inputs: dict[str, Any], stage: str) -> None:
        """Raises:
        RecipeError: a folder was made from other inputs; the changed ones are named.
        """
        if changed := changes(made_from, inputs, self.accept):
            raise RecipeError(
                f"{target}: was made from other inputs ({', '.join(changed)}); start again with --redo {stage}, "
                "or give the run another name"
            )

    def stage(self, name: str, inputs: dict[str, Any], fill: Callable[[Path], None]) -> Path:
        """The folder of a stage: made by `fill(folder)` if it is not there yet.

        Args:
            name: one of `ORDER`.
            inputs: JSON-serialisable; equal inputs mean an equal result.
            fill: writes the stage's files into the (hidden) folder it is given.

        Raises:
            as `has`.
        """
        target = self.folder / name
        if self.has(name, inputs):
            return target
        signals.check()
        self.start()
        say(f"{name}: starts")
        about: dict[str, Any] = {"stage": name, "inputs": inputs, "version": __version__}
        clock = StageClock()
        with new_folder(target, about) as folder:
            fault(f"stage.{name}")
            fill(folder)
            about.update(clock.figures())
        self.digests.add_folder(target)
        say(f"{name}: done in {about['seconds']:.0f} s, peak {about['peak_mb']:.0f} MB")
        return target

    def say_once(self, text: str) -> None:
        """One line for the person who watches, from the process that holds the folder."""
        if self._owner and text not in self._said:
            self._said.add(text)
            say(text)

    def start(self) -> None:
        """From here on work is done, and `run_state.json` says so; a refused command leaves it as it was."""
        if not self._started:
            self._started = True
            self._state("running")

    def end(self, error: BaseException | None = None) -> None:
        """Write into `run_state.json` how the run ended, and the exit code that launchers flatten."""
        if error is None:
            self._state("finished", exit_code=0)
        elif not self._started:
            self._refused = True
        else:
            code = error.exit_code if isinstance(error, PrealignError) else 70
            status = "stopped" if isinstance(error, signals.StoppedError) else "failed"
            self._state(status, exit_code=code, reason=str(error))

    def child_environment(self) -> dict[str, str]:
        """For a process that works in this folder on behalf of this one, which holds the lock."""
        return {OWNER: str(self.folder.resolve())}

    def _state(self, status: str, **facts: Any) -> None:
        if self._owner:
            write_state(self.folder, status, **facts)

    def set_aside(self, redo: Sequence[str]) -> None:
        """Move stages into `redone-N/`: what took hours is not deleted by a flag.

        Raises:
            StorageError: one of them is not ours.
        """
        there = [name for name in redo if (self.folder / name).exists()]
        for name in there:
            target = self.folder / name
            if name != "train" and not (target / NAME).is_file():
                raise StorageError(f"{target}: has no manifest, so it is not moved; move it away yourself")
        if not there:
            return
        number = 1 + max((int(path.name.removeprefix(ASIDE)) for path in self.folder.glob(f"{ASIDE}[0-9]*")), default=0)
        aside = self.folder / f"{ASIDE}{number}"
        aside.mkdir()
        for name in reversed(there):
            os.rename(self.folder / name, aside / name)
            if name == "train" and (self.folder / "metrics.jsonl").exists():
                os.rename(self.folder / "metrics.jsonl", aside / "metrics.jsonl")
        say(f"{', '.join(there)}: will be made anew; what was there is in {aside}, which you may delete")


@contextmanager
def ended(run: Run | None) -> Iterator[None]:
    """Work in a run; then `run_state.json` says how it ended, and the folder is free again. On ranks that have none
    nothing is said."""
    try:
        yield
        if run is not None:
            run.end()
    except BaseException as error:
        if run is not None:
            signals.ignore()
            run.end(error)
        raise
    finally:
        if run is not None:
            run.close()


@contextmanager
def alone(folder: Path, lock: str, what: str) -> Iterator[None]:
    """Make a folder, if it is not there, in which no other process does the same work meanwhile.

    Args:
        lock: name of the file that is locked.
        what: the work.

    Raises:
        BusyError: another process does.
        StorageError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / lock).open("a+")
    except OSError as error:
        raise storage_error(folder, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BusyError(f"{folder}: another {what} works here; wait for it, or choose another --out") from error
        yield


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


def _offers(stage: Path, inputs: dict[str, Any]) -> bool:
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


def say(text: str) -> None:
    """One line for the person who watches."""
    print(f"[prealign] {text}", flush=True)
