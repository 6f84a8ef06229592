"""The run folder: stages done once, changed inputs, --redo, the lock and the state."""

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from prealign_cpt import run as module
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import BusyError, DataError, RecipeError, StorageError
from prealign_cpt.run.folder import ORDER, Run, StageClock, file_digests, folder_digest
from prealign_cpt.run.manifest import NAME, verify

FILLED: list[str] = []
HOLDER = """
import sys, time
from pathlib import Path
from prealign_cpt.run.errors import PrealignError
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.folder import Run
try:
    run = Run(load_recipe(Path(sys.argv[1])))
except PrealignError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file)


@pytest.fixture
def run(recipe: Recipe) -> Iterator[Run]:
    FILLED.clear()
    with closing(Run(recipe)) as made:
        yield made


def fill(folder: Path) -> None:
    FILLED.append(folder.name)
    (folder / "out.txt").write_text("done")


def again(recipe: Recipe, redo: str | None = None) -> list[str]:
    """Open the run anew; the stage folders that are left."""
    with closing(Run(recipe, redo)):
        return [name for name in ORDER if (recipe.run / name).exists()]


def test_a_stage_is_done_once(run: Run, capsys: pytest.CaptureFixture[str]):
    folder = run.stage("vocab", {"texts": {"a.txt": "12"}, "size": 5}, fill)
    assert folder == run.folder / "vocab" and len(FILLED) == 1
    assert run.stage("vocab", {"size": 5, "texts": {"a.txt": "12"}}, fill) == folder
    assert len(FILLED) == 1 and "kept" in capsys.readouterr().out
    about = verify(folder)["about"]
    assert about["stage"] == "vocab" and about["inputs"]["size"] == 5
    assert about["seconds"] >= 0 and about["peak_mb"] > 1


def test_changed_inputs_are_named_with_the_remedy(run: Run):
    run.stage("vocab", {"texts": "12", "size": 5, "base": "x"}, fill)
    with pytest.raises(RecipeError, match=r"\(new: none -> 1, size: 5 -> 6\).*--redo vocab") as caught:
        run.stage("vocab", {"texts": "12", "size": 6, "base": "x", "new": 1}, fill)
    assert caught.value.exit_code == 78 and len(FILLED) == 1


def test_a_failed_stage_leaves_nothing_and_is_done_again(run: Run):
    def fail(folder: Path) -> None:
        fill(folder)
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        run.stage("vocab", {}, fail)
    assert not (run.folder / "vocab").exists()
    run.stage("vocab", {}, fill)
    assert len(FILLED) == 2


def test_a_stage_folder_without_a_manifest_is_not_believed(run: Run):
    (run.folder / "vocab").mkdir()
    with pytest.raises(DataError, match="manifest"):
        run.stage("vocab", {}, fill)


def test_redo_removes_the_stage_and_those_behind_it(recipe: Recipe, run: Run):
    for name in ORDER:
        if name == "cpt":
            (run.folder / name).mkdir()  # its checkpoints have manifests, the folder has none
        else:
            run.stage(name, {}, fill)
    (run.folder / "metrics.jsonl").write_text("{}\n")
    run.close()
    assert again(recipe) == list(ORDER)
    assert again(recipe, "export") == ["lexicon", "vocab", "align", "data", "cpt"]
    assert (run.folder / "metrics.jsonl").exists()
    assert again(recipe, "data") == ["lexicon", "vocab", "align"]
    assert not (run.folder / "metrics.jsonl").exists()
    assert again(recipe, "lexicon") == []


def test_redo_of_what_is_no_stage(recipe: Recipe):
    with pytest.raises(RecipeError, match="'train' is not a stage; the stages are lexicon"):
        Run(recipe, "train")
    assert not recipe.run.exists()


def test_redo_refuses_a_folder_that_is_not_ours(recipe: Recipe, run: Run):
    run.close()
    (run.folder / "vocab").mkdir()
    (run.folder / "vocab" / "thesis.txt").write_text("only copy")
    with pytest.raises(StorageError, match="no manifest"):
        again(recipe, "vocab")
    assert (run.folder / "vocab" / "thesis.txt").read_text() == "only copy"


def test_a_refused_redo_removes_nothing(recipe: Recipe, run: Run):
    run.stage("lexicon", {}, fill)
    run.close()
    (run.folder / "vocab").mkdir()
    with pytest.raises(StorageError, match="no manifest"):
        again(recipe, "lexicon")
    assert (run.folder / "lexicon" / NAME).exists()


def test_an_interrupted_redo_leaves_no_half_stage(recipe: Recipe, run: Run, monkeypatch: pytest.MonkeyPatch):
    run.stage("lexicon", {}, fill)
    run.close()

    def interrupted(folder: Path, *arguments: Any, **options: Any) -> None:
        (Path(folder) / "out.txt").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Run(recipe, "lexicon")
    assert not (run.folder / "lexicon").exists()


def test_the_folder_has_one_owner(recipe: Recipe, run: Run):
    with pytest.raises(BusyError, match=r"process \d+ on ") as caught:
        Run(recipe)
    assert caught.value.exit_code == 75
    run.close()
    Run(recipe).close()


def test_the_folder_has_one_owner_across_processes(recipe: Recipe, recipe_file: Path):
    command = [sys.executable, "-c", HOLDER, str(recipe_file)]
    with subprocess.Popen([*command, "60"], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=f"process {holder.pid} on "):
            Run(recipe)
        second = subprocess.run([*command, "0"], capture_output=True, text=True, check=False)
        assert second.returncode == 75 and f"process {holder.pid} on " in second.stdout
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=10)
    Run(recipe).close()  # a lock dies with its holder


def test_the_recipe_lies_in_the_run_folder(recipe: Recipe, recipe_file: Path, run: Run):
    written = load_recipe(run.folder / "recipe.toml")
    assert written.train == recipe.train and written.text == recipe.text


def test_a_run_folder_that_cannot_be_made(recipe: Recipe):
    recipe.run.parent.write_text("a file, not a folder")
    with pytest.raises(StorageError, match="cannot write"):
        Run(recipe)


def test_the_state(run: Run):
    run.state("running")
    run.state("failed", exit_code=74, reason="disk full")
    content = json.loads((run.folder / "run_state.json").read_text())
    assert content == {"status": "failed", "exit_code": 74, "reason": "disk full"}


def test_digests_follow_content(tmp_path: Path, run: Run):
    one = tmp_path / "one.txt"
    before = file_digests([one])
    one.write_text("a")
    there = file_digests([one])
    one.write_text("b")
    assert list(before.values()) == ["missing"] and there != file_digests([one])
    folder = run.stage("vocab", {}, fill)
    first = folder_digest(folder)
    (folder / NAME).write_text((folder / NAME).read_text() + " ")
    assert folder_digest(folder) != first


def test_digests_of_files_with_one_name(tmp_path: Path):
    for language in ("de", "en"):
        (tmp_path / language).mkdir()
        (tmp_path / language / "train.txt").write_text(language)
    paths = [tmp_path / "de" / "train.txt", tmp_path / "en" / "train.txt"]
    before = file_digests(paths)
    paths[0].write_text("changed")
    assert file_digests(paths) != before


def test_the_clock_measures_the_peak_since_its_start():
    clock = StageClock()
    block = bytearray(64_000_000)
    block[::4096] = b"1" * len(block[::4096])
    assert clock.figures()["peak_mb"] > 64


def test_a_stage_is_taken_from_another_run_if_its_inputs_are_equal(recipe: Recipe, run: Run, capsys: Any):
    lent = run.stage("vocab", {"size": 5}, fill)
    borrower = dataclasses.replace(recipe, name="borrower")
    with closing(Run(borrower, borrow=recipe.run.parent)) as other:
        taken = other.stage("vocab", {"size": 5}, fill)
        assert len(FILLED) == 1
        assert folder_digest(taken) == folder_digest(lent) and verify(taken)
        assert f"vocab: taken from {recipe.run}" in capsys.readouterr().out
        other.stage("align", {"size": 5}, fill)
        assert len(FILLED) == 2, "another stage is not lent"
    with closing(Run(borrower, "vocab", borrow=recipe.run.parent)) as other:
        other.stage("vocab", {"size": 6}, fill)
        assert len(FILLED) == 3, "other inputs are not lent"
    assert verify(lent), "what was taken is removed without a trace in the lender"


def test_a_damaged_stage_is_not_taken(recipe: Recipe, run: Run):
    lent = run.stage("vocab", {}, fill)
    (lent / "out.txt").write_text("DONE")
    with closing(Run(dataclasses.replace(recipe, name="borrower"), borrow=recipe.run.parent)) as other:
        assert (other.stage("vocab", {}, fill) / "out.txt").read_text() == "done"
        assert sorted(path.name for path in other.folder.iterdir() if path.is_dir()) == ["vocab"]
