"""The run folder: stages done once, changed inputs, stages set aside, the lock and the state."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from prealign_cpt.recipe.file import anywhere, as_toml, load_recipe
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.digests import Digests
from prealign_cpt.run.errors import BusyError, DataError, RecipeError, StorageError
from prealign_cpt.run.folder import ORDER, Run, StageClock
from prealign_cpt.run.manifest import NAME, folder_digest, verify

FILLED: list[str] = []
HOLDER = """
import sys, time
from pathlib import Path
from prealign_cpt.run.errors import PrealignError
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.folder import Run
try:
    run = Run(load_recipe(Path(sys.argv[1])).run)
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
    with closing(Run(recipe.run)) as made:
        yield made


def fill(folder: Path) -> None:
    FILLED.append(folder.name)
    (folder / "out.txt").write_text("done")


def again(recipe: Recipe, *redo: str) -> list[str]:
    """Open the run anew; the stage folders that are left."""
    with closing(Run(recipe.run)) as run:
        run.set_aside(redo)
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


def test_redo_sets_stages_aside_and_deletes_nothing(recipe: Recipe, run: Run):
    for name in ORDER:
        if name == "train":
            (run.folder / name).mkdir()  # its checkpoints have manifests, the folder has none
        else:
            run.stage(name, {}, fill)
    (run.folder / "metrics.jsonl").write_text("{}\n")
    run.close()
    assert again(recipe) == list(ORDER)
    assert again(recipe, "export", "eval") == ["lexicon", "text", "vocab", "data", "init", "align", "train"]
    assert (run.folder / "metrics.jsonl").exists()
    assert again(recipe, "data", "train", "export", "eval") == ["lexicon", "text", "vocab", "init", "align"]
    assert not (run.folder / "metrics.jsonl").exists()
    first, second = run.folder / "redone-1", run.folder / "redone-2"
    assert (first / "eval" / "out.txt").read_text() == (second / "data" / "out.txt").read_text() == "done"
    assert (second / "metrics.jsonl").exists() and (second / "train").is_dir()


def test_redo_refuses_a_folder_that_is_not_ours(recipe: Recipe, run: Run):
    run.stage("lexicon", {}, fill)
    run.close()
    (run.folder / "vocab").mkdir()
    (run.folder / "vocab" / "thesis.txt").write_text("only copy")
    with pytest.raises(StorageError, match="no manifest"):
        again(recipe, "lexicon", "vocab")
    assert (run.folder / "vocab" / "thesis.txt").read_text() == "only copy"
    assert (run.folder / "lexicon" / NAME).exists()


def test_the_folder_has_one_owner(recipe: Recipe, run: Run):
    with pytest.raises(BusyError, match=r"process \d+ on ") as caught:
        Run(recipe.run)
    assert caught.value.exit_code == 75
    run.close()
    Run(recipe.run).close()


def test_the_folder_has_one_owner_across_processes(recipe: Recipe, recipe_file: Path):
    command = [sys.executable, "-c", HOLDER, str(recipe_file)]
    with subprocess.Popen([*command, "60"], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=f"process {holder.pid} on "):
            Run(recipe.run)
        second = subprocess.run([*command, "0"], capture_output=True, text=True, check=False)
        assert second.returncode == 75 and f"process {holder.pid} on " in second.stdout
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=10)
    Run(recipe.run).close()  # a lock dies with its holder


def test_the_recipe_lies_in_the_run_folder(recipe: Recipe, recipe_file: Path, run: Run):
    run.describe(as_toml(anywhere(recipe)))
    written = load_recipe(run.folder / "recipe.toml")
    assert written.train == recipe.train
    assert [path.read_text() for path in written.paths(written.text.target)] == [
        path.read_text() for path in recipe.paths(recipe.text.target)
    ]


def test_a_run_folder_that_cannot_be_made(recipe: Recipe):
    recipe.run.parent.write_text("a file, not a folder")
    with pytest.raises(StorageError, match="cannot write"):
        Run(recipe.run)


def _state(run: Run) -> dict[str, Any]:
    return dict(json.loads((run.folder / "run_state.json").read_text()))


def test_the_state(recipe: Recipe, run: Run):
    run.end(DataError("refused"))
    assert not (run.folder / "run_state.json").exists(), "no work had begun"
    run.start()
    assert _state(run) == {"status": "running"}
    run.end(StorageError("disk full"))
    assert _state(run) == {"status": "failed", "exit_code": 74, "reason": "disk full"}
    run.close()
    with closing(Run(recipe.run)) as later:
        later.end(DataError("refused"))
        assert _state(run)["reason"] == "disk full", "a refused command leaves it as it was"
        later.end()
        assert _state(run) == {"status": "finished", "exit_code": 0}


def test_a_child_of_the_holder_works_in_the_folder(recipe: Recipe, run: Run, monkeypatch: pytest.MonkeyPatch):
    for name, value in run.child_environment().items():
        monkeypatch.setenv(name, value)
    with closing(Run(recipe.run)) as child:
        child.stage("vocab", {}, fill)
    assert (run.folder / "vocab" / NAME).exists() and not (run.folder / "run_state.json").exists()


def test_digests_follow_content_and_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, kept = tmp_path / "one.txt", tmp_path / "digests.json"
    path.write_text("a")
    digests = Digests(kept)
    first = digests.sha256(path)
    digests.save()
    monkeypatch.setattr("prealign_cpt.run.digests.sha256", lambda path: "read again")
    assert Digests(kept).sha256(path) == first
    path.write_text("bb")
    assert Digests(kept).sha256(path) == "read again"
    kept.write_text("damaged")
    assert Digests(kept).sha256(path) == "read again"


def test_a_finished_stage_is_not_read_again(recipe: Recipe, run: Run, monkeypatch: pytest.MonkeyPatch):
    run.stage("vocab", {}, fill)
    run.close()
    monkeypatch.setattr("prealign_cpt.run.digests.sha256", lambda path: pytest.fail(f"{path} was read"))
    with closing(Run(recipe.run)) as later:
        assert later.has("vocab", {})


def test_a_changed_file_of_a_finished_stage_is_found(recipe: Recipe, run: Run):
    folder = run.stage("vocab", {}, fill)
    (folder / "out.txt").write_text("DONE")
    with pytest.raises(DataError, match="damaged"):
        run.stage("vocab", {}, fill)


def test_the_folder_digest_is_of_what_was_made_not_of_when(run: Run):
    def other(folder: Path) -> None:
        (folder / "out.txt").write_text("other")

    first = folder_digest(run.stage("vocab", {"made": "from this"}, fill))
    assert folder_digest(run.stage("data", {"made": "from that"}, fill)) == first
    assert folder_digest(run.stage("init", {}, other)) != first


def test_the_clock_measures_the_peak_since_its_start():
    clock = StageClock()
    block = bytearray(64_000_000)
    block[::4096] = b"1" * len(block[::4096])
    assert clock.figures()["peak_mb"] > 64


def test_a_stage_is_taken_from_another_run_if_its_inputs_are_equal(recipe: Recipe, run: Run, capsys: Any):
    first = run.stage("vocab", {"size": 5}, fill)
    other_folder = recipe.run.with_name("other")
    with closing(Run(other_folder, reuse=recipe.run.parent)) as other:
        taken = other.stage("vocab", {"size": 5}, fill)
        assert len(FILLED) == 1
        assert folder_digest(taken) == folder_digest(first) and verify(taken)
        assert f"vocab: taken from {recipe.run}" in capsys.readouterr().out
        other.stage("align", {"size": 5}, fill)
        assert len(FILLED) == 2, "another stage is not taken"
    with closing(Run(other_folder, reuse=recipe.run.parent)) as other:
        other.set_aside(["vocab"])
        other.stage("vocab", {"size": 6}, fill)
        assert len(FILLED) == 3, "other inputs are not taken"
    assert verify(first), "what was set aside leaves no trace where it came from"


def test_a_damaged_stage_is_not_taken(recipe: Recipe, run: Run):
    first = run.stage("vocab", {}, fill)
    (first / "out.txt").write_text("DONE")
    with closing(Run(recipe.run.with_name("other"), reuse=recipe.run.parent)) as other:
        assert (other.stage("vocab", {}, fill) / "out.txt").read_text() == "done"
        assert sorted(path.name for path in other.folder.iterdir() if path.is_dir()) == ["vocab"]
