"""Being asked to stop: what is finished is kept, nothing half done remains, the same command goes on from there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from prealign_cpt.align import stage
from prealign_cpt.cli import main, run_recipe
from prealign_cpt.run import signals
from prealign_cpt.train import loop

REPOSITORY = Path(__file__).resolve().parents[2]


def _state(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "run_state.json").read_text()))


def _stop_me() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_outside_of_training_a_signal_raises_where_the_program_is() -> None:
    signals.install()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        with pytest.raises(signals.StoppedError, match=f"stopped by {number.name}") as caught:
            os.kill(os.getpid(), number)
            time.sleep(1)
        signals._requested = None
        assert caught.value.exit_code == 75


def _asked(after: float, number: int = signal.SIGTERM) -> int:
    """Ask a forked process twice, with a pause; its id. It ends with 0 if it goes on."""
    child = os.fork()
    if child == 0:
        signals.install()
        with signals.deferred():
            os.kill(os.getpid(), number)
            assert signals.requested() == signal.Signals(number).name
            time.sleep(after)
            os.kill(os.getpid(), number)
            os._exit(0)
    return child


def _ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_inside_of_it_the_first_signal_asks_and_the_second_ends() -> None:
    children = {number: _asked(signals.ECHO + 0.1, number) for number in signals.NUMBERS}
    assert {number: _ended(child) for number, child in children.items()} == {n: -n for n in signals.NUMBERS}


def test_a_second_signal_at_once_is_an_echo_of_the_first() -> None:
    """Slurm signals all processes of a step, and torchrun hands on what it got: a rank may get it twice."""
    assert _ended(_asked(after=0.0)) == 0


def test_when_everything_is_saved_no_signal_disturbs() -> None:
    signals.install()
    signals.ignore()
    for number in signals.NUMBERS:
        os.kill(os.getpid(), number)
    assert signals.requested() is None


def test_a_stop_in_the_middle_of_a_stage_leaves_nothing_of_it(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run = recipe_file.parent / "runs" / "tiny"
    seen = []

    def interrupted(step: int, steps: int) -> float:
        if step == 1:
            seen.extend(path.name[:10] for path in run.glob(".tmp-*"))
            _stop_me()
        return 1.0

    with monkeypatch.context() as patch:
        patch.setattr(stage, "rate_factor", interrupted)
        assert main(["align", str(recipe_file)]) == 75
    assert seen == [".tmp-align"], "the signal must come while the stage is being filled"
    error = capsys.readouterr().err
    assert "stopped by SIGTERM; finished stages are kept, start the same command again" in error
    assert "Traceback" not in error
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["init", "lexicon", "text", "vocab"]
    state = _state(run)
    assert (state["status"], state["exit_code"]) == ("stopped", 75)
    signals._requested = None
    (run / ".tmp-align-deadbeef").mkdir()  # as kill -9 leaves it
    assert main(["align", str(recipe_file)]) == 0
    assert "vocab: done before, kept" in capsys.readouterr().out
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["align", "init", "lexicon", "text", "vocab"]


def test_a_stop_in_the_last_step_keeps_the_later_stages_from_starting(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run = recipe_file.parent / "runs" / "tiny"
    real = loop.train_step

    def interrupted(*arguments: Any) -> Any:
        if arguments[3] == 5:
            _stop_me()
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", interrupted)
        assert run_recipe([str(recipe_file)]) == 75
    assert _state(run)["status"] == "stopped"
    assert (run / "train" / "step-0000000006").is_dir() and not (run / "export").exists()
    signals._requested = None
    assert run_recipe([str(recipe_file)]) == 0
    said = capsys.readouterr().out
    assert "step 3:" not in said.partition("align: done before")[2], "nothing is trained again"
    assert _state(run) == {"status": "finished", "exit_code": 0}


def test_only_ranks_follow_their_parent_into_death(tmp_path: Path) -> None:
    """A rank must not outlive torchrun; but `nohup prealign demo &` must outlive the shell that started it."""
    code = (
        "import os, sys, time; from pathlib import Path; from prealign_cpt.run import signals; signals.install();"
        "here = Path(sys.argv[1]); (here / 'ready').touch(); time.sleep(1.5); (here / 'survived').touch()"
    )
    environment = {k: v for k, v in os.environ.items() if k != "RANK"} | {"PYTHONPATH": str(REPOSITORY)}
    script = '"$0" -c "$1" "$2" & until [ -e "$2/ready" ]; do sleep 0.05; done'
    for name, rank in (("command", {}), ("rank", {"RANK": "0"})):
        (tmp_path / name).mkdir()
        subprocess.run(
            ["sh", "-c", script, sys.executable, code, str(tmp_path / name)],
            env=environment | rank, check=True, timeout=30, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    time.sleep(2)
    assert [(tmp_path / name / "survived").exists() for name in ("command", "rank")] == [True, False]
