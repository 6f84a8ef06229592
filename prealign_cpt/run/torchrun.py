"""Training as processes of its own: the command, and what became of it.

recipe + flags --start--> python (1 rank) or torchrun (more) --> exit code, from run_state.json where it says more
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from prealign_cpt.run import signals
from prealign_cpt.run.errors import BusyError, MissingInputError
from prealign_cpt.run.folder import write_state

SCRIPT = Path(__file__).resolve().parents[2] / "launch" / "cpt.py"
"""The training script, which is in a clone of the repository and not in the installed package."""


def check_script() -> None:
    """Raises:
    MissingInputError: the package runs without its clone.
    """
    if not SCRIPT.is_file():
        raise MissingInputError(f"{SCRIPT}: not there; run this from a clone of the repository")


def start(program: list[str], arguments: list[str], run: Path, num_processes: int) -> int:
    """Run a program on some ranks and wait for it; the exit code of the run, which torchrun flattens to 1.

    A run that ended without a word gets one in its `run_state.json`.

    Args:
        program: what python is given: `[str(SCRIPT)]`, or `["-m", "prealign_cpt", STAGE]`.
        arguments: of that program.
        run: the run folder, whose state tells the exit code.
        num_processes: ranks on this machine; more than one start torchrun.

    Raises:
        StoppedError: a signal to this process; the program was asked to stop and has ended.
    """
    python = [sys.executable]
    if num_processes > 1:
        python += ["-m", "torch.distributed.run", "--nproc-per-node", str(num_processes), "--standalone"]
        python += ["--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"]
    state = run / "run_state.json"
    before = _written(state)
    code = _wait([*python, *program, *arguments], num_processes)
    if code in (0, BusyError.exit_code):
        return code
    if _written(state) != before:
        said = json.loads(state.read_text(encoding="utf-8"))
        if said["status"] not in ("running", "finished") and said.get("exit_code"):
            if num_processes > 1:  # torchrun's report came after the rank's own line
                print(f"prealign: {said.get('reason')}", file=sys.stderr, flush=True)
            return int(said["exit_code"])
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    run.mkdir(parents=True, exist_ok=True)
    write_state(run, "failed", exit_code=70, reason=f"the run {how} before it could say why; see its output")
    return 70


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


def _wait(line: list[str], num_processes: int) -> int:
    """The exit code of a process; a signal to this one stops it first."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // num_processes))
    # Threads that wait sleep: where others use the cores too, spinning made a step ten times as long.
    environment = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"} | os.environ
    library = ctypes.CDLL(None)

    def die_with_parent() -> None:
        library.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a killed command leaves no run behind

    process = subprocess.Popen(
        line,
        env=environment,
        start_new_session=True,
        preexec_fn=die_with_parent if sys.platform == "linux" else None,
    )
    try:
        return process.wait()
    except signals.StoppedError:
        process.terminate()
        process.wait()
        raise
