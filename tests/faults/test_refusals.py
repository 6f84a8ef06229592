"""What is refused, found or passed over in one process (rows 19, 21, 24, 26, 28, 29, 36, 43, 44, 49, 51-53, 55, 56)."""

import dataclasses
import gc
import json
import os
import pickle
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.world import World, process_group
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run import faults, manifest
from prealign_cpt.run.errors import DataError, RecipeError, StorageError
from prealign_cpt.run.faults import fault
from prealign_cpt.run.folder import Run
from prealign_cpt.run.manifest import new_folder, read_manifest, verify
from prealign_cpt.train import checkpoint, stored
from prealign_cpt.train import saver as saver_module
from prealign_cpt.train.loop import check_accepted
from prealign_cpt.train.optim import make_optimizer
from prealign_cpt.train.saver import Saver
from prealign_cpt.train.shard import sharded
from prealign_cpt.train.stored import read_metadata
from prealign_cpt.training import _agree
from prealign_cpt.verify import inspect
from tests.conftest import make_model
from tests.faults.ranks import start, values
from tests.faults.runs import INPUTS, RECIPE, go, make_base
from tests.train.conftest import load_weights


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        yield world


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory, world: World) -> tuple[LanguageModelLoss, Any]:
    folder = tmp_path_factory.mktemp("base")
    make_base(folder)
    module = sharded(folder / "tied", world, "fp32")
    return module, make_optimizer(module, RECIPE)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, trainer: Any, world: World) -> Path:
    folder = tmp_path_factory.mktemp("three") / "train"
    folder.mkdir()
    for step in (1, 2, 3):
        checkpoint.write(folder, step, checkpoint.snapshot(*trainer), {"inputs": INPUTS}, world)
    return folder


@pytest.fixture
def saved(three: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(three, tmp_path / "train"))


def _step(folder: Path, step: int) -> Path:
    return folder / f"step-{step:010d}"


def _signed_anew(folder: Path) -> None:
    """Write the manifest of a folder anew, as somebody does who changes a file on purpose."""
    about = read_manifest(folder)["about"]
    (folder / manifest.NAME).unlink()
    os.rename(folder, folder.with_name("changed"))
    with new_folder(folder, about) as new:
        shutil.copytree(folder.with_name("changed"), new, dirs_exist_ok=True)
    shutil.rmtree(folder.with_name("changed"))


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_row_19_an_evil_metadata_with_a_manifest_to_match_is_refused(
    saved: Path, tmp_path: Path, trainer: Any, world: World
) -> None:
    (_step(saved, 3) / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "pwned")))
    _signed_anew(_step(saved, 3))
    assert verify(_step(saved, 3)), "the hashes agree"
    with pytest.raises(DataError, match=r"\.metadata.*it asks for pathlib\.Path\.touch|it asks for"):
        stored.load(_step(saved, 3), *trainer)
    found = [one for one in inspect(saved.parent) if one.damaged]
    assert len(found) == 1 and "it asks for" in found[0].text
    assert not (tmp_path / "pwned").exists()


def test_row_19_an_evil_value_beside_the_tensors_is_refused(saved: Path, tmp_path: Path, trainer: Any) -> None:
    state = checkpoint.snapshot(*trainer)
    state["optimizer"]["param_groups"][0]["lr"] = Evil(tmp_path / "pwned")
    shutil.rmtree(_step(saved, 3))
    dcp.save(state, checkpoint_id=_step(saved, 3), no_dist=True)
    with pytest.raises(DataError, match="cannot be read"):
        stored.load(_step(saved, 3), *trainer)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04", pickle.dumps([1]), b"\x80\x04cos\nsystem\n."])
def test_row_19_what_is_no_description_is_refused(saved: Path, content: bytes) -> None:
    (_step(saved, 3) / ".metadata").write_bytes(content)
    with pytest.raises(DataError, match="not the description of a checkpoint"):
        read_metadata(_step(saved, 3))


def test_row_21_a_file_beside_the_checkpoint_is_told_and_not_read(saved: Path, capsys: Any) -> None:
    (_step(saved, 3) / "__7_0.distcp").write_bytes(b"whatever")
    assert checkpoint.latest(saved, INPUTS) == _step(saved, 3)
    assert "__7_0.distcp: no part of the checkpoint, not read" in capsys.readouterr().out
    assert "beside them, not read: __7_0.distcp" in str(inspect(saved.parent)[-1])


def test_row_21_verify_names_a_missing_manifest_and_a_missing_shard(saved: Path) -> None:
    (_step(saved, 2) / manifest.NAME).unlink()
    (_step(saved, 3) / "__0_0.distcp").unlink()
    told = {one.folder.name: one for one in inspect(saved.parent)}
    assert [one.damaged for one in told.values()] == [False, True, True]
    assert "__0_0.distcp: missing" in told["step-0000000003"].text
    assert "missing or damaged manifest" in told["step-0000000002"].text


def test_row_24_a_disk_too_small_for_two_checkpoints_is_refused_at_the_start(
    saved: Path, trainer: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(p.numel() for p in trainer[0].parameters()) * 4 * 3  # weights and two moments, fp32
    usage = shutil.disk_usage(saved)
    for free in (2 * size, 2 * size - 1):
        monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        if free == 2 * size:
            checkpoint.check_space(saved, *trainer, world)
        else:
            with pytest.raises(StorageError, match="GB are free, and two checkpoints need"):
                checkpoint.check_space(saved, *trainer, world)


def test_row_26_a_run_does_not_leave_its_folder_by_a_link(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    (tmp_path / "elsewhere").mkdir()
    recipe.run.mkdir(parents=True)
    (recipe.run / "train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="train: is a link"):
        Run(recipe.run)
    assert (tmp_path / "elsewhere").is_dir()


def test_row_26_a_link_among_the_checkpoints_is_passed_over(saved: Path, tmp_path: Path) -> None:
    shutil.move(_step(saved, 3), tmp_path / "outside")
    _step(saved, 3).symlink_to(tmp_path / "outside")
    assert checkpoint.latest(saved, INPUTS) == _step(saved, 2)
    checkpoint.prune(saved, 1, INPUTS)
    assert verify(tmp_path / "outside") and not _step(saved, 1).exists()


def test_row_28_nothing_is_removed_when_the_disk_spoils_what_was_just_written(
    saved: Path, trainer: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint.write

    def spoiled(*arguments: Any) -> Path:
        path = real(*arguments)
        os.truncate(path / "__0_0.distcp", 100)
        return path

    monkeypatch.setattr(saver_module, "write", spoiled)
    with pytest.raises(StorageError, match="written a moment ago"), Saver(saved, 2, world) as saver:
        saver.save(4, *trainer, {"inputs": INPUTS})
    assert all(verify(_step(saved, step)) for step in (1, 2, 3))


def test_row_29_checkpoints_of_another_run_are_refused_and_never_removed(
    saved: Path, trainer: Any, world: World
) -> None:
    checkpoint.write(saved, 9, checkpoint.snapshot(*trainer), {"inputs": {**INPUTS, "data": "other"}}, world)
    with pytest.raises(RecipeError, match=r'step-0000000009: was made from other inputs .data: "other" -> "d"'):
        checkpoint.latest(saved, INPUTS)
    checkpoint.prune(saved, 2, INPUTS)
    assert sorted(path.name for path in saved.glob("step-*")) == [_step(saved, n).name for n in (2, 3, 9)]


def test_row_36_a_row_of_spikes_does_not_push_out_the_last_healthy_checkpoint(
    saved: Path, trainer: Any, world: World
) -> None:
    for step in (4, 5):
        checkpoint.write(saved, step, checkpoint.snapshot(*trainer), {"inputs": INPUTS, "healthy": False}, world)
    checkpoint.prune(saved, 2, INPUTS)
    assert sorted(path.name for path in saved.glob("step-*")) == [_step(saved, n).name for n in (3, 4, 5)]


def test_rows_43_and_44_only_the_expected_tensors_are_loaded(saved: Path, trainer: Any) -> None:
    good = checkpoint.snapshot(*trainer)
    name = "model.model.norm.weight"
    changes: dict[str, tuple[dict[str, Any], str]] = {
        "no optimizer": ({"model": good["model"]}, "holds no state of the optimizer.*--redo train.*base.model"),
        "extra": (good | {"model": good["model"] | {"model.extra": torch.ones(3)}}, "model.extra is not expected"),
        "dtype": (good | {"model": good["model"] | {name: good["model"][name].double()}}, "float64.*where.*float32"),
        "shape": (good | {"model": good["model"] | {name: torch.ones(33)}}, r"\(33,\).*where.*\(32,\)"),
        "missing": (
            good | {"model": {k: v for k, v in good["model"].items() if k != name}},
            "model.norm.weight is missing",
        ),
    }  # fmt: skip
    before = [p.to_local().clone() for p in trainer[0].parameters()]
    for kind, (state, text) in changes.items():
        path = saved / kind
        dcp.save(state, checkpoint_id=path, no_dist=True)
        with pytest.raises(DataError, match=text):
            stored.load(path, *trainer)
    after = [p.to_local() for p in trainer[0].parameters()]
    assert all(map(torch.equal, before, after)), "a refused checkpoint changes nothing"


def test_row_49_the_clock_decides_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, step in enumerate((3, 2, 1)):
        for path in (_step(saved, step), *_step(saved, step).iterdir()):
            os.utime(path, (1e9 + age * 1e6, 1e9 + age * 1e6))
    monkeypatch.setattr(time, "time", lambda: -1e9)
    assert checkpoint.latest(saved, INPUTS) == _step(saved, 3)
    checkpoint.prune(saved, 2, INPUTS)
    assert not _step(saved, 1).exists() and _step(saved, 2).exists()
    with new_folder(saved / "stage", {}):
        pass
    package = Path(checkpoint.__file__).parent.parent
    asking = [p for p in package.rglob("*.py") if "time.time()" in p.read_text() or "datetime.now" in p.read_text()]
    found = [p.name for p in asking if p.parent == package or p.parent.name == "train"]
    assert found == ["cli.py"], "which writes it into torchrun's report, and nowhere else"


def test_row_51_ranks_with_another_recipe_are_refused(recipe_file: Path) -> None:
    recipe, store = load_recipe(recipe_file), dist.HashStore()
    _agree(recipe, World(0, 2, torch.device("cpu"), store))
    _agree(recipe, World(1, 2, torch.device("cpu"), store))
    other = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, lr=1.0))
    with pytest.raises(RecipeError, match="not that of rank 0"):
        _agree(other, World(1, 2, torch.device("cpu"), store))


def test_row_52_half_an_environment_of_torchrun_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    for name in ("WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="WORLD_SIZE"), process_group(torch.device("cpu")):
        pass


def _few_files(rank: int, size: int, folder: Path) -> dict[str, Any]:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with process_group(torch.device("cpu"), timeout_minutes=0.5) as world:

        def act(step: int) -> None:
            if step == 4:
                while any(thread.name == "save" for thread in threading.enumerate()):
                    time.sleep(0.01)  # the save of step 2 has files open itself
                gc.collect()  # or it would close some later
                lowest = os.dup(0)  # the limit is on numbers, not on how many are open
                os.close(lowest)
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, most))

        found = go(folder, "few", world, act=act)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return {"error": found["error"]}


def test_row_53_no_more_open_files_leaves_no_half_checkpoint(tmp_path: Path) -> None:
    make_base(tmp_path)
    error = values(start(1, _few_files, tmp_path))[0]["error"]
    assert "Too many open files" in error, error
    assert checkpoint.latest(tmp_path / "few" / "train", INPUTS) == _step(tmp_path / "few" / "train", 2)


@pytest.mark.parametrize("name", ["mit Leerzeichen", "Straße 🏠 дом", "zwei\nZeilen", "-redo", "a'b\"c;$(x)"])
def test_row_55_any_name_of_a_folder_works(tmp_path: Path, trainer: Any, world: World, name: str) -> None:
    folder = tmp_path / name / "train"
    folder.mkdir(parents=True)
    path = checkpoint.write(folder, 1, checkpoint.snapshot(*trainer), {"inputs": INPUTS}, world)
    assert checkpoint.latest(folder, INPUTS) == path
    assert stored.load(path, *trainer) == 1


def test_row_55_a_name_that_is_too_long_is_refused_before_any_work(recipe_file: Path) -> None:
    recipe = dataclasses.replace(load_recipe(recipe_file), name="x" * 300)
    with pytest.raises(StorageError, match="File name too long"):
        Run(recipe.run)


FIXTURE = Path(__file__).parent / "format1"
"""A checkpoint as version 0.1 wrote it: manifest format 1, without a digest of the manifest itself."""


def test_row_56_a_checkpoint_of_format_1_is_read(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURE, tmp_path / "train")
    path = checkpoint.latest(folder, {"align": "a", "data": "d", "recipe": "r"})
    assert path is not None and read_manifest(path)["format"] == 1
    module = LanguageModelLoss(make_model(13, layers=1, hidden=8))
    before = module.model.lm_head.weight.detach().clone()
    load_weights(path, module)
    assert not torch.equal(module.model.lm_head.weight, before)
    assert not [one for one in inspect(tmp_path) if one.damaged]


MADE = {"train.steps": 100, "train.warmup": 0.1, "train.decay": 0.2}


@pytest.mark.parametrize(
    ("done", "new", "refused"),
    [
        (60, {"train.steps": 100}, None),
        (60, {"train.steps": 200, "train.warmup": 0.05, "train.decay": 0.1}, None),
        (60, {"train.steps": 200}, "step 1 of the 60"),  # the warm-up is a share of the steps
        (81, {"train.steps": 200, "train.warmup": 0.05}, "step 81 of the 81"),  # it had begun to fall
        (60, {"train.steps": 50, "train.warmup": 0.2}, "has done 60 steps already"),
    ],
)
def test_row_42_a_change_is_accepted_only_if_no_step_would_have_been_another(
    done: int, new: dict[str, Any], refused: str | None
) -> None:
    inputs = MADE | new
    recipe = dataclasses.replace(RECIPE, **{key.removeprefix("train."): value for key, value in inputs.items()})
    if refused is None:
        check_accepted(MADE, inputs, recipe, done)
    else:
        with pytest.raises(RecipeError, match=refused):
            check_accepted(MADE, inputs, recipe, done)


def test_row_42_what_is_not_safe_is_not_accepted(recipe_file: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"--accept: train\.lr may not change; train.steps, train.warmup, train.decay may"
    ):
        Run(load_recipe(recipe_file).run, accept=("train.lr",))


def test_faults_are_met_at_their_point_rank_and_count_only(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        faults.arm("raise@here:rank=1:count=2,sleep=0.2@there")
        monkeypatch.setenv("RANK", "0")
        for _ in range(3):
            fault("here")
        monkeypatch.setenv("RANK", "1")
        fault("here")
        with pytest.raises(OSError, match="No space left"):
            fault("here")
        fault("here")
        began = time.monotonic()
        fault("there")
        assert 0.2 <= time.monotonic() - began < 2
        with pytest.raises(RecipeError, match="'explode@here' is no fault"):
            faults.arm("explode@here")
    finally:
        faults.arm("")
    began = time.perf_counter()
    for _ in range(100_000):
        fault("step")
    assert time.perf_counter() - began < 1, "a point costs less than ten microseconds"


def test_a_save_does_not_stop_the_steps_and_only_one_is_under_way(
    tmp_path: Path, trainer: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, running, most = checkpoint.write, [0], [0]

    def slow(*arguments: Any) -> Path:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.5)
        path = real(*arguments)
        running[0] -= 1
        return path

    monkeypatch.setattr(saver_module, "write", slow)
    with Saver(tmp_path, 2, world) as saver:
        first = saver.save(1, *trainer, {"inputs": INPUTS})
        with torch.no_grad():
            for parameter in trainer[0].parameters():  # the step after it changes the weights
                parameter.add_(1.0)
        assert not list(tmp_path.glob("step-*")) and first < 0.4
        assert saver.save(2, *trainer, {"inputs": INPUTS}) > 0.1, "the second waits for the first"
    assert most[0] == 1 and saver.figures()["saves"] == 2 and saver.figures()["stall_seconds"] >= first
    modules = [LanguageModelLoss(make_model(67)) for _ in range(2)]
    for step, module in enumerate(modules, 1):
        load_weights(_step(tmp_path, step), module)
    one, two = (module.model.model.norm.weight for module in modules)
    assert torch.equal(one + 1, two), "step 1 holds the weights of the moment in which it was saved"
    assert json.loads((_step(tmp_path, 1) / manifest.NAME).read_text())["about"]["step"] == 1
