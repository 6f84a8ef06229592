"""What becomes of a training in processes of its own."""

import json
from pathlib import Path

from prealign_cpt.run import torchrun

SAYS = "import json, sys; json.dump({'status': sys.argv[2], 'exit_code': int(sys.argv[3])}, open(sys.argv[1], 'w'));"


def _state(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "run_state.json").read_text()))


def test_the_exit_code_is_the_one_that_the_run_said(tmp_path: Path):
    arguments = [str(tmp_path / "run_state.json"), "failed", "65"]
    assert torchrun.start(["-c", SAYS + "sys.exit(1)"], arguments, tmp_path, 1) == 65  # as torchrun ends, with 1
    assert _state(tmp_path) == {"status": "failed", "exit_code": 65}


def test_a_run_that_ends_without_a_word_gets_one(tmp_path: Path):
    for program, words in (
        ("import sys; sys.exit(3)", "ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
    ):
        run = tmp_path / "new"
        assert torchrun.start(["-c", program], [], run, 1) == 70
        assert words in str(_state(run)["reason"])
    # what it said of an earlier start does not count, nor that it was running when it died
    assert torchrun.start(["-c", "import sys; sys.exit(1)"], [], run, 1) == 70
    arguments = [str(run / "run_state.json"), "running", "0"]
    assert torchrun.start(["-c", SAYS + "sys.exit(1)"], arguments, run, 1) == 70
    assert "exit code 1" in str(_state(run)["reason"])


def test_a_busy_run_keeps_its_state(tmp_path: Path):
    (tmp_path / "run_state.json").write_text('{"status": "running"}')
    assert torchrun.start(["-c", "import sys; sys.exit(75)"], [], tmp_path, 1) == 75
    assert _state(tmp_path) == {"status": "running"}
