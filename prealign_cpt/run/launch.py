"""Stages as processes of their own: the command, and what became of it.

    stage + recipe + flags --start--> python (1 rank) or torchrun (more) --> StageError with the stage's own words

torchrun flattens every exit code to 1, so a process that was started here writes into the file named by `RESULT` how it
ended (`tell`), and leaves it to this one to say so.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from prealign_cpt.run.errors import PrealignError
from prealign_cpt.run.signals import StoppedError

RESULT = "PREALIGN_RESULT"
"""Environment variable: the file that takes the error of a process."""


class StageError(PrealignError):
    """A stage's process failed: its words and its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def start(arguments: list[str], num_processes: int = 1, environment: dict[str, str] | None = None) -> None:
    """Run `python -m prealign_cpt ARGUMENTS` on some ranks of this machine and wait for it.

    Args:
        num_processes: more than one start torchrun; 0 is one for each GPU, and one on a machine without.
        environment: variables beside those of this process.

    Raises:
        StageError: it failed.
        StoppedError: a signal to this process or to that one; it was asked to stop and has ended.
    """
    if num_processes == 0:
        import torch

        num_processes = max(1, torch.cuda.device_count())
    python = [sys.executable]
    if num_processes > 1:
        python += ["-m", "torch.distributed.run", "--nproc-per-node", str(num_processes), "--standalone"]
        python += ["--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"]
    with tempfile.TemporaryDirectory(prefix="prealign-") as folder:
        result = Path(folder) / "result.json"
        code = _wait(
            [*python, "-m", "prealign_cpt", *arguments], num_processes, {RESULT: str(result)} | (environment or {})
        )
        if code == 0:
            return
        if result.is_file():
            told = json.loads(result.read_text(encoding="utf-8"))
            if told["stopped"]:
                raise StoppedError(told["reason"])
            raise StageError(told["reason"], told["exit_code"])
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    raise StageError(f"{arguments[0]}: {how} before it could say why; see its output", 70)


def tell(error: BaseException, exit_code: int) -> bool:
    """Hand an error to the process that started this one; False if nobody waits for it."""
    path = os.environ.get(RESULT)
    if path is None:
        return False
    if os.environ.get("RANK", "0") == "0":
        with suppress(OSError):
            told = {"reason": str(error), "exit_code": exit_code, "stopped": isinstance(error, StoppedError)}
            Path(path).write_text(json.dumps(told), encoding="utf-8")
    return True


def _wait(line: list[str], num_processes: int, variables: dict[str, str]) -> int:
    """The exit code of a process; a signal to this one stops it first."""
    ranks = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}
    inherited = {
        name: value for name, value in os.environ.items() if name not in ranks and not name.startswith("TORCHELASTIC_")
    }
    if "RANK" in os.environ:
        inherited.pop("OMP_NUM_THREADS", None)  # torchrun's, which meant one of many ranks
    threads = str(max(1, len(os.sched_getaffinity(0)) // num_processes))
    # Threads that wait sleep: spinning takes the cores from whoever else works there.
    defaults = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}
    library = ctypes.CDLL(None)

    def die_with_parent() -> None:
        library.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a killed command leaves no run behind

    process = subprocess.Popen(
        line,
        env=defaults | inherited | variables,
        start_new_session=True,
        preexec_fn=die_with_parent if sys.platform == "linux" else None,
    )
    try:
        return process.wait()
    except StoppedError:
        process.terminate()
        process.wait()
        raise
