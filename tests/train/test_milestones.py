"""Milestones: the weights after 1, 2, 4, ... steps, whole or absent, on two ranks, through stops, kills and resumes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from prealign_cpt.model.load import load_whole
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.recipe.schema import Train
from prealign_cpt.run.errors import DataError
from prealign_cpt.run.manifest import read_manifest, verify
from prealign_cpt.train import checkpoint, stored
from prealign_cpt.train.optim import make_optimizer
from tests.faults.ranks import Ended, start, values
from tests.faults.runs import INPUTS, RECIPE, alone, make_base
from tests.train.conftest import load_weights, weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("milestones")
    make_base(folder)
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What rank 0 brought back of each start of a run."""
    jobs = [
        {"name": "straight", "save_at": "log"},
        {"name": "none"},
        {"name": "stopped", "save_at": "log", "stop": 4},
        {"name": "stopped", "save_at": "log"},
    ]
    found: dict[str, list[dict[str, Any]]] = {}
    for job, result in zip(jobs, values(start(2, alone, folder, jobs, seconds=120))[0], strict=True):
        found.setdefault(str(job["name"]), []).append(result)
    return found


def _kept(run: Path) -> list[int]:
    return [checkpoint.step_of(path) for path in sorted((run / "train" / checkpoint.KEPT).iterdir())]


def _weights(path: Path, base: Path) -> dict[str, Any]:
    module = LanguageModelLoss(load_whole(base))
    load_weights(path, module)
    return weights(module)


def test_steps_are_powers_of_two_before_the_last() -> None:
    log = Train(steps=64, sequences=1, eval_every=1, save_every=1, save_at="log")
    assert [step for step in range(70) if log.is_milestone(step)] == [1, 2, 4, 8, 16, 32]
    none = Train(steps=64, sequences=1, eval_every=1, save_every=1)
    assert not any(none.is_milestone(step) for step in range(70))


def test_milestones_stay_while_checkpoints_rotate(runs: Any, folder: Path) -> None:
    run = folder / "straight"
    assert _kept(run) == [1, 2, 4, 8] and sorted(checkpoint.kept(run)) == [1, 2, 4, 8, 9]
    assert (run / "train" / "LATEST").read_text() == "step-0000000009\n"
    assert not (run / "train" / checkpoint.KEPT / "LATEST").exists()
    assert not (folder / "none" / "train" / checkpoint.KEPT).exists()
    for path in (run / "train" / checkpoint.KEPT).iterdir():
        about = verify(path)["about"]
        assert about["world"] == 2 and about["inputs"] == INPUTS and len(list(path.glob("__*.distcp"))) == 2
        assert not any("optimizer" in key for key in stored.read_metadata(path).state_dict_metadata)


def test_a_milestone_holds_the_weights_of_its_step_and_what_the_trainer_gave(runs: Any, folder: Path) -> None:
    """The one of step 8 is the checkpoint of step 8; training is the same with and without them."""
    run = folder / "straight"
    ours, theirs = (_weights(path, folder / "tied") for path in (
        run / "train" / checkpoint.KEPT / "step-0000000008", run / "train" / "step-0000000008"
    ))  # fmt: skip
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    probes = [read_manifest(p)["about"]["probe"] for p in (run / "train").glob("**/step-0000000008")]
    assert probes[0] == probes[1] and len(probes[0]["nats"]["target"]) > 0
    without = runs["none"][0]["weights"]
    assert all((runs["straight"][0]["weights"][name] == without[name]).all() for name in without)


def test_a_run_stopped_at_a_milestone_catches_up_on_it(runs: Any, folder: Path) -> None:
    assert "StoppedError" in runs["stopped"][0]["error"] and not runs["stopped"][1]["error"]
    assert _kept(folder / "stopped") == [1, 2, 4, 8]
    at_4 = [_weights(folder / name / "train" / checkpoint.KEPT / "step-0000000004", folder / "tied")
            for name in ("straight", "stopped")]  # fmt: skip
    assert all((at_4[0][name] == at_4[1][name]).all() for name in at_4[0])


def test_a_kill_in_the_midst_of_saving_one(runs: Any, folder: Path) -> None:
    """The third save is the milestone of step 2 (after that of step 1 and the checkpoint of step 2). That a kill at any
    other point of a save leaves it whole or absent is enumerated in tests/faults/test_crash.py."""
    name, job = "killed", {"name": "killed", "save_at": "log"}
    ended: list[Ended] = start(2, alone, folder, [job], fault="kill@save.after_shard:rank=1:count=3")
    assert any(one.code == -9 for one in ended)
    kept = folder / name / "train" / checkpoint.KEPT
    assert sorted(path.name for path in kept.glob("step-*")) == ["step-0000000001"]
    for path in kept.glob("step-*"):
        verify(path)
    assert not values(start(2, alone, folder, [job], seconds=60))[0][0]["error"]
    assert _kept(folder / name) == [1, 2, 4, 8] and not list(kept.glob(".tmp*"))


def test_nothing_resumes_from_a_milestone(runs: Any, folder: Path) -> None:
    module = LanguageModelLoss(load_whole(folder / "tied"))
    path = folder / "straight" / "train" / checkpoint.KEPT / "step-0000000008"
    assert checkpoint.latest(path.parent, INPUTS) == path  # only if the folder itself is taken for a run's
    with pytest.raises(DataError, match="no state of the optimizer"):
        stored.load(path, module, make_optimizer(module, RECIPE))


def test_milestones_of_other_inputs_are_refused(runs: Any, folder: Path) -> None:
    """A run that died before its first checkpoint may have left some."""
    shutil.copytree(folder / "straight", folder / "other")
    for path in (folder / "other" / "train").glob("step-*"):
        shutil.rmtree(path)
    changed = INPUTS | {"align": "another"}
    (result,) = values(start(1, alone, folder, [{"name": "other", "inputs": changed}]))
    assert "RecipeError" in result[0]["error"] and "align" in result[0]["error"]


def test_milestones_are_rounded_to_what_is_computed_in(folder: Path) -> None:
    """In the type of the export they are half as large, and their export has the same bits."""
    module = LanguageModelLoss(load_whole(folder / "tied"))
    state = checkpoint.snapshot(module, None, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in state["model"].values()} == {torch.bfloat16}
    assert all(
        torch.equal(state["model"][f"model.{name}"], p.bfloat16()) for name, p in module.model.named_parameters()
    )
