"""Whole runs under torchrun that are stopped in one way after the other (rows 6, 7, 8, 9, 11, 14).

One run folder: each start goes on from what the one before has left, and the last one ends.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from prealign_cpt.cli import run_recipe
from prealign_cpt.run import faults, signals
from prealign_cpt.run import folder as runs
from prealign_cpt.run.folder import ORDER
from prealign_cpt.run.manifest import verify
from prealign_cpt.verify import inspect
from tests.faults.runs import REPOSITORY, ranks_of, state, steps

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

FLAGS = ["--train.steps", "200", "--train.eval_every", "200", "--train.save_every", "200", "--train.sequences", "2"]
OPTIONS = ["--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1", "--shutdown-timeout", "5"]


@dataclass
class Launched:
    """torchrun with two ranks of `launch/cpt.py`."""

    recipe: Path
    fault: str = ""
    ranks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.run = self.recipe.parent / "runs" / "tiny"
        self.output = self.recipe.parent / "output"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *OPTIONS]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [*command, str(REPOSITORY / "launch" / "cpt.py"), str(self.recipe), *FLAGS],
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), faults.VARIABLE: self.fault},
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def until(self, true: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None and time.monotonic() < end, self.output.read_text()
            time.sleep(0.02)
        self.ranks = ranks_of(self.process.pid)

    def signal(self, number: int, rank: int | None = None) -> int:
        """Send a signal to torchrun, or to a rank; how torchrun ended. Afterwards no rank lives."""
        os.kill(self.process.pid if rank is None else self.ranks[rank], number)
        code = self.process.wait(timeout=60)
        end = time.monotonic() + 30
        while [rank for rank in self.ranks if Path(f"/proc/{rank}").exists()]:
            assert time.monotonic() < end, f"a rank outlived the run: {self.output.read_text()}"
            time.sleep(0.05)
        return code


def _latest(run: Path) -> int:
    return int((run / "train" / "LATEST").read_text().removeprefix("step-"))


def test_however_a_run_is_stopped_it_goes_on(recipe_file: Path, capsys: Any) -> None:
    run = recipe_file.parent / "runs" / "tiny"

    # Row 9: in the alignment, in which both ranks take part.
    one = Launched(recipe_file)
    one.until(lambda: "align: starts" in one.output.read_text())
    assert one.signal(signal.SIGTERM) != 0
    assert (state(run)["status"], state(run)["exit_code"]) == ("stopped", 75), one.output.read_text()
    assert sorted(p.name for p in run.iterdir() if p.is_dir()) in (
        ["data", "init", "lexicon", "text", "vocab"],
        ["align", "data", "init", "lexicon", "text", "vocab"],
    )

    # Row 7: SIGUSR1, as Slurm sends it, while training.
    one = Launched(recipe_file)
    one.until(lambda: max(steps(run), default=0) >= 5)
    assert one.signal(signal.SIGUSR1) != 0
    assert (state(run)["status"], state(run)["exit_code"]) == ("stopped", 75), one.output.read_text()
    first = _latest(run)
    assert first == steps(run)[-1] >= 5

    # Row 8: SIGTERM to one rank; both save the same step and leave.
    one = Launched(recipe_file)
    one.until(lambda: max(steps(run)) >= first + 5)
    assert one.signal(signal.SIGTERM, rank=0) != 0 and len(one.ranks) == 2
    told = one.output.read_text()
    assert f"continues after step {first}" in told and "the same command continues" in state(run)["reason"]
    assert 'Traceback (most recent call last):\n  File "' + str(REPOSITORY) not in told
    assert (state(run)["status"], state(run)["exit_code"]) == ("stopped", 75), told
    first = _latest(run)
    assert first == steps(run)[-1] < 200 and not list(run.rglob(".tmp-*"))

    # Row 14: the launcher is killed; the ranks get SIGTERM from the kernel, save and leave.
    one = Launched(recipe_file)
    one.until(lambda: max(steps(run)) >= first + 5)
    assert one.signal(signal.SIGKILL) == -signal.SIGKILL
    assert f"continues after step {first}" in one.output.read_text()
    assert (state(run)["status"], state(run)["exit_code"]) == ("stopped", 75), one.output.read_text()
    second = _latest(run)
    assert second == steps(run)[-1] >= first + 5

    # Rows 6 and 11: SIGTERM, and the save takes longer than torchrun waits; what was there before is still there.
    one = Launched(recipe_file, fault="sleep=60@save.begin")
    one.until(lambda: max(steps(run)) >= second + 2)
    assert one.signal(signal.SIGTERM) != 0
    assert _latest(run) == second and verify(run / "train" / f"step-{second:010d}")
    assert f"continues after step {second}" in one.output.read_text()
    assert not [finding for finding in inspect(run) if finding.damaged]

    assert run_recipe([str(recipe_file), *FLAGS]) == 0
    assert f"train: continues after step {second}" in capsys.readouterr().out
    assert sorted(step for step in steps(run) if step <= second) == list(range(second + 1)), "none twice, none left out"
    assert sorted(set(steps(run))) == list(range(201))
    assert state(run) == {"status": "finished", "exit_code": 0}


def test_a_signal_in_any_stage_leaves_the_finished_ones_and_the_network_is_never_asked(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Rows 9 and 54: one process, stopped at the start of every stage in turn, without a home and without a network."""
    run = recipe_file.parent / "runs" / "tiny"
    monkeypatch.setenv("HOME", "/nonexistent")
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"), f"asked {address}"
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    stages = [name for name in ORDER if name != "train"]
    for place, stage in enumerate(stages):

        def stop(point: str, stage: str = stage) -> None:
            if point == f"stage.{stage}":
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(runs, "fault", stop)
        assert run_recipe([str(recipe_file), "--train.steps", "2"]) == 75, capsys.readouterr()
        assert "Traceback" not in capsys.readouterr().err
        assert sorted(p.name for p in run.iterdir() if p.is_dir() and p.name != "train") == sorted(stages[:place])
        assert (state(run)["status"], state(run)["exit_code"]) == ("stopped", 75)
        signals._requested = None
    monkeypatch.setattr(runs, "fault", lambda point: None)
    assert run_recipe([str(recipe_file), "--train.steps", "2"]) == 0
    assert not [finding for finding in inspect(run) if finding.damaged]
