"""What becomes of a stage in a process of its own."""

from pathlib import Path
from typing import Any

import pytest

from prealign_cpt.run import launch
from prealign_cpt.run.errors import DataError
from prealign_cpt.run.signals import StoppedError


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package of that name with the text that is given as its main module."""

    def write(text: str) -> None:
        (tmp_path / "prealign_cpt").mkdir(exist_ok=True)
        (tmp_path / "prealign_cpt" / "__main__.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.chdir(tmp_path)

    return write


SAYS = """
import json, os, sys
json.dump({"reason": "x.txt:3: bad", "exit_code": 65, "stopped": %s}, open(os.environ["PREALIGN_RESULT"], "w"))
sys.exit(1)  # as torchrun ends
"""


def test_a_stage_s_own_words_and_exit_code_arrive(program: Any) -> None:
    program(SAYS % "False")
    with pytest.raises(launch.StageError, match=r"^x.txt:3: bad$") as caught:
        launch.start(["align"])
    assert caught.value.exit_code == 65


def test_a_stage_that_was_asked_to_stop_stops_the_command(program: Any) -> None:
    program(SAYS % "True")
    with pytest.raises(StoppedError, match="bad"):
        launch.start(["align"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import sys; sys.exit(3)", "align: ended with exit code 3 before it could say why"),
        ("import os; os.kill(os.getpid(), 9)", "align: was killed by SIGKILL before it could say why"),
    ],
)
def test_a_stage_that_ends_without_a_word_gets_one(program: Any, text: str, words: str) -> None:
    program(text)
    with pytest.raises(launch.StageError, match=words) as caught:
        launch.start(["align"])
    assert caught.value.exit_code == 70


def test_it_ends_well_with_its_arguments_and_its_cores(program: Any, tmp_path: Path, monkeypatch: Any) -> None:
    program("import os, sys; print(sys.argv[1:], os.environ.get('RANK'), file=open('out', 'w'))")
    monkeypatch.setenv("RANK", "0")
    launch.start(["align", "tiny.toml"])
    assert (tmp_path / "out").read_text() == "['align', 'tiny.toml'] None\n", "a child of a rank is no rank"


def test_only_a_child_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not launch.tell(DataError("bad"), 65)
    monkeypatch.setenv("PREALIGN_RESULT", str(tmp_path / "result.json"))
    assert launch.tell(DataError("bad"), 65)
    assert '"reason": "bad"' in (tmp_path / "result.json").read_text()
