"""A command that is refused changes nothing in a run: not a byte of it, and no folder that was not there."""

import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prealign_cpt.cli import main
from prealign_cpt.run.manifest import sha256
from tests.conftest import TARGET, recipe_file


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    """A recipe whose run is trained and exported, in the current folder."""
    make: Callable[..., Path] = inspect.unwrap(recipe_file)  # the fixture's function, for a scope of its own
    path = make(tmp_path_factory.mktemp("refused"), base_folder)
    assert main(["export", str(path)]) == 0
    return path


@pytest.fixture
def changed_text(recipe: Path) -> Iterator[Path]:
    text = recipe.parent / "target.txt"
    before = text.read_bytes()
    text.write_text("\n\n".join(TARGET[:4] * 9), encoding="utf-8")
    yield recipe
    text.write_bytes(before)


@pytest.fixture
def missing_text(recipe: Path) -> Iterator[Path]:
    text = recipe.parent / "target.txt"
    text.rename(recipe.parent / "away.txt")
    yield recipe
    (recipe.parent / "away.txt").rename(text)


def _content(recipe: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of the last change of every file below the folder of runs; but for the lock, which says who."""
    runs = recipe.parent / "runs"
    files = [path for path in runs.rglob("*") if path.is_file() and path.name != "run.lock"]
    return {str(path.relative_to(runs)): (sha256(path), os.stat(path).st_mtime_ns) for path in files} | {
        str(path.relative_to(runs)): ("", 0) for path in runs.rglob("*") if path.is_dir()
    }


def _refused(recipe: Path, code: int, line: list[str], capsys: Any) -> str:
    before = _content(recipe)
    capsys.readouterr()
    assert main([line[0], str(recipe), *line[1:]]) == code
    told = capsys.readouterr().err
    assert told.startswith("prealign: ") and "Traceback" not in told
    assert _content(recipe) == before
    return told


@pytest.mark.parametrize("command", ["prepare", "align", "train", "export", "run", "eval"])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--train.stepz", "3"], "--train.stepz: unknown key"),
        (["--nprok", "3"], "unknown option; did you mean --nproc?"),
        (["--seed"], "--seed: a value is missing"),
        (["--redo", "taining"], "--redo: 'taining' is not a stage"),
        (["--redo", "train", "--train.clip", "0"], "train.clip"),
        (["--accept", "train.lr"], "--accept: train.lr may not change"),
        (["--reuse", "nowhere"], "--reuse: nowhere is no folder"),
        (["--lexicon.heldout", "0.3"], "lexicon.heldout: "),
        (["--redo", "train", "--lexicon.heldout", "0.3"], "lexicon.heldout: "),
        (["--redo", "init", "--vocab.size", "20"], "vocab.size: 30 -> 20"),
    ],
)
def test_refused_flags(recipe: Path, command: str, flags: list[str], words: str, capsys: Any) -> None:
    if flags[0] == "--nprok" and command != "run":
        words = "--nprok: unknown key"
    assert words in _refused(recipe, 78, [command, *flags], capsys)


@pytest.mark.parametrize("flags", [[], ["--redo", "train"]])
def test_a_changed_text(changed_text: Path, flags: list[str], capsys: Any) -> None:
    assert "text.target[0:target.txt]" in _refused(changed_text, 78, ["train", *flags], capsys)


@pytest.mark.parametrize("flags", [[], ["--redo", "train"], ["--redo", "vocab"]])
def test_a_missing_text(missing_text: Path, flags: list[str], capsys: Any) -> None:
    assert "target.txt: no such file" in _refused(missing_text, 66, ["train", *flags], capsys)


def test_a_run_that_is_not_there_is_not_begun(recipe: Path, capsys: Any) -> None:
    _refused(recipe, 78, ["train", "--name", "other", "--train.clip", "0"], capsys)
    _refused(recipe, 78, ["train", "--name", "other", "--accept", "train.lr"], capsys)
