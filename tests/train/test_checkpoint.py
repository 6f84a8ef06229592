"""Checkpoints: complete or absent, verified before they are read, and failing on all ranks together."""

import errno
import json
import os
import pickle
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint import FileSystemWriter

from prealign_cpt import __version__
from prealign_cpt.model.load import load_whole
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.world import World, process_group
from prealign_cpt.recipe.schema import Train
from prealign_cpt.run import manifest, signals
from prealign_cpt.run.errors import DataError, RecipeError, StorageError
from prealign_cpt.run.manifest import read_manifest, verify
from prealign_cpt.train import checkpoint, stored
from prealign_cpt.train.optim import make_optimizer
from prealign_cpt.train.shard import sharded
from tests.conftest import make_model, run_ranks
from tests.faults.ranks import start
from tests.train.conftest import load_weights, weights

VOCAB = 67
INPUTS = {"align": "a", "data": "d", "recipe": "r"}
RECIPE = Train(steps=9, sequences=2, precision="fp32", eval_every=9, save_every=9)


def _trainer(base: Path, world: World) -> tuple[LanguageModelLoss, torch.optim.Optimizer]:
    """A sharded model after one update, so that the optimizer has a state."""
    module = sharded(base, world, "fp32")
    optimizer = make_optimizer(module, RECIPE)
    _update(module, optimizer)
    return module, optimizer


def _update(module: LanguageModelLoss, optimizer: torch.optim.Optimizer) -> None:
    inputs = torch.arange(1, 21)[None]
    module(inputs, inputs, torch.arange(20)[None]).backward()
    optimizer.step()
    optimizer.zero_grad()


def _same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_model(VOCAB).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        yield world


@pytest.fixture(scope="module")
def trainer(base: Path, world: World) -> tuple[LanguageModelLoss, torch.optim.Optimizer]:
    return _trainer(base, world)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    return tmp_path / "train"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, trainer: Any, world: World) -> Path:
    """Checkpoints of the steps 1, 2 and 3; copied by the tests that change them."""
    folder = tmp_path_factory.mktemp("three") / "train"
    folder.mkdir()
    for step in (1, 2, 3):
        checkpoint.write(folder, step, checkpoint.snapshot(*trainer), {"inputs": INPUTS}, world)
    return folder


@pytest.fixture
def saved(three: Path, tmp_path: Path) -> Path:
    shutil.copytree(three, tmp_path / "train")
    return tmp_path / "train"


def test_a_checkpoint_is_published_whole_and_pointed_to(three: Path) -> None:
    assert _names(three) == ["LATEST", "step-0000000001", "step-0000000002", "step-0000000003"]
    assert (three / "LATEST").read_text() == "step-0000000003\n"
    about = verify(three / "step-0000000002")["about"]
    assert about == {"inputs": INPUTS, "step": 2, "world": 1, "version": __version__, "torch": torch.__version__}
    assert checkpoint.latest(three, INPUTS) == three / "step-0000000003"


def test_weights_and_optimizer_come_back_bit_by_bit(folder: Path, base: Path, world: World) -> None:
    module, optimizer = _trainer(base, world)
    path = checkpoint.write(folder, 5, checkpoint.snapshot(module, optimizer), {"inputs": INPUTS}, world)
    at_5 = weights(module)
    _update(module, optimizer)
    at_6 = weights(module)
    other = sharded(base, world, "fp32")
    other_optimizer = make_optimizer(other, RECIPE)
    assert stored.load(path, other, other_optimizer) == 5
    assert _same(weights(other), at_5)
    assert other.model.lm_head.weight is other.model.model.embed_tokens.weight
    _update(other, other_optimizer)
    assert _same(weights(other), at_6) and not _same(at_5, at_6)


def test_the_weights_alone_load_into_a_plain_model(
    three: Path, base: Path, trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, real, read = LanguageModelLoss(load_whole(base)), stored.read_metadata, []
    monkeypatch.setattr(stored, "read_metadata", lambda path: read.append(path) or real(path))
    load_weights(three / "step-0000000003", module)
    assert len(read) == 1, "the description of all tensors is read once, not for each of them"
    assert _same(weights(module), weights(trainer[0]))
    assert module.model.lm_head.weight is module.model.model.embed_tokens.weight


def test_a_checkpoint_is_never_overwritten(saved: Path, trainer: Any, world: World) -> None:
    before = (saved / "step-0000000003" / manifest.NAME).read_bytes()
    with pytest.raises(StorageError, match="step-0000000003: exists already"):
        checkpoint.write(saved, 3, checkpoint.snapshot(*trainer), {"inputs": INPUTS}, world)
    assert (saved / "step-0000000003" / manifest.NAME).read_bytes() == before
    assert len(_names(saved)) == 4


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", manifest.NAME])
def test_a_flipped_byte_is_noticed_and_the_older_one_is_taken(saved: Path, name: str, capsys: Any) -> None:
    _flip(saved / "step-0000000003" / name)
    assert checkpoint.latest(saved, INPUTS) == saved / "step-0000000002"
    said = capsys.readouterr().out
    assert name in said and "older checkpoint is tried" in said


def test_a_missing_or_cut_file_is_noticed(saved: Path) -> None:
    (saved / "step-0000000003" / ".metadata").unlink()
    os.truncate(saved / "step-0000000002" / "__0_0.distcp", 100)
    assert checkpoint.latest(saved, INPUTS) == saved / "step-0000000001"


def test_an_unknown_manifest_format_is_not_read(saved: Path, capsys: Any) -> None:
    path = saved / "step-0000000003" / manifest.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    assert checkpoint.latest(saved, INPUTS) == saved / "step-0000000002"
    assert "format 99 is unknown" in capsys.readouterr().out


def test_no_sound_checkpoint_is_none(saved: Path) -> None:
    for step in (1, 2, 3):
        _flip(saved / f"step-{step:010d}" / "__0_0.distcp")
    assert checkpoint.latest(saved, INPUTS) is None


@pytest.mark.parametrize("pointer", [None, "", "step-0000000009\n", "../../elsewhere\n"])
def test_without_a_usable_pointer_the_newest_is_taken(saved: Path, pointer: str | None) -> None:
    (saved / "LATEST").unlink()
    if pointer is not None:
        (saved / "LATEST").write_text(pointer)
    assert checkpoint.latest(saved, INPUTS) == saved / "step-0000000003"


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_foreign_metadata_pickle_is_never_executed(saved: Path, tmp_path: Path) -> None:
    pwned = tmp_path / "pwned"
    (saved / "step-0000000003" / ".metadata").write_bytes(pickle.dumps(_Evil(pwned)))
    assert checkpoint.latest(saved, INPUTS) == saved / "step-0000000002"
    assert not pwned.exists()


def test_other_inputs_are_refused_by_name(three: Path) -> None:
    with pytest.raises(
        RecipeError,
        match=r'other inputs \(data: "d" -> "other", recipe: "r" -> "other"\); .* --redo train',
    ):
        checkpoint.latest(three, {**INPUTS, "data": "other", "recipe": "other"})


def test_prune_keeps_the_newest_and_all_that_is_foreign(saved: Path) -> None:
    foreign = ["my-step-0000000005-backup", "step-5", "step-0000000001.keep", "step-0000000000", "old-step-0000000001"]
    for name in foreign:
        (saved / name).mkdir()
        (saved / name / "note.txt").write_text("mine")
    shutil.copy(saved / "step-0000000001" / manifest.NAME, saved / "my-step-0000000005-backup")
    checkpoint.prune(saved, 2, INPUTS)
    assert _names(saved) == sorted(["LATEST", "step-0000000002", "step-0000000003", *foreign])
    assert all((saved / name / "note.txt").read_text() == "mine" for name in foreign)
    checkpoint.prune(saved, 5, INPUTS)
    assert len(_names(saved)) == 3 + len(foreign)


def test_a_full_disk_leaves_the_older_checkpoints(
    saved: Path, trainer: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, storage_writer: FileSystemWriter, **__: Any) -> None:
        (Path(storage_writer.path) / "__0_0.distcp").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.dcp, "save", full)
    with pytest.raises(StorageError, match=r"step-0000000004: saving failed.*No space left"):
        checkpoint.write(saved, 4, checkpoint.snapshot(*trainer), {"inputs": INPUTS}, world)
    assert len(_names(saved)) == 4
    assert checkpoint.latest(saved, INPUTS) == saved / "step-0000000003"


def test_the_rest_of_a_killed_save_is_swept_by_the_next(saved: Path, trainer: Any, world: World) -> None:
    rest = saved / ".tmp-step-0000000004-deadbeef"
    rest.mkdir()
    (rest / "__0_0.distcp").write_bytes(b"half")
    checkpoint.write(saved, 4, checkpoint.snapshot(*trainer), {"inputs": INPUTS}, world)
    assert ".tmp-step-0000000004-deadbeef" not in _names(saved)


def test_an_error_on_rank_0_is_raised(world: World) -> None:
    def fail() -> None:
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        world.on_rank_0(fail)
    assert world.on_rank_0(lambda: 3) == 3


def _fault_by_fault(rank: int, size: int, base: Path, folder: Path) -> list[str]:
    """Saves that fail on one rank in turn, then the death of rank 1 in the middle of one; what was raised here."""
    raised = []
    real_shard, real_write = FileSystemWriter.write_data, manifest.atomic_write

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def dies(writer: FileSystemWriter, *_: Any, **__: Any) -> None:
        (Path(writer.path) / "__1_0.distcp").write_bytes(b"half a shard")
        os.kill(os.getpid(), signal.SIGKILL)

    with process_group(torch.device("cpu"), timeout_minutes=0.5) as world:
        module, optimizer = _trainer(base, world)
        about = {"inputs": INPUTS}
        checkpoint.write(folder, 1, checkpoint.snapshot(module, optimizer), about, world)

        def attempt(step: int) -> None:
            try:
                checkpoint.write(folder, step, checkpoint.snapshot(module, optimizer), about, world)
                raised.append("nothing")
            except BaseException as error:
                raised.append(type(error).__name__ + (" of many lines" if "\n" in str(error) else ""))

        attempt(1)  # is there already
        FileSystemWriter.write_data = fails if rank == 1 else real_shard
        attempt(2)
        FileSystemWriter.write_data = real_shard
        manifest.atomic_write = fails  # only rank 0 writes the manifest
        attempt(3)
        manifest.atomic_write = real_write
        attempt(4)
        FileSystemWriter.write_data = dies if rank == 1 else real_shard
        attempt(5)
    return raised


@pytest.mark.slow
def test_saves_fail_on_both_ranks_together_and_a_killed_rank_leaves_nothing_half(base: Path, folder: Path) -> None:
    ended = start(2, _fault_by_fault, base, folder)
    assert [one.code for one in ended] == [0, -signal.SIGKILL], ended
    raised = ended[0].value
    assert raised[:4] == ["StorageError", "StorageError", "StorageError", "nothing"]
    assert raised[4] != "nothing"
    assert _names(folder) == ["LATEST", "step-0000000001", "step-0000000004"]
    assert checkpoint.latest(folder, INPUTS) == folder / "step-0000000004"
    assert read_manifest(folder / "step-0000000001")["about"]["world"] == 2


def _shared_verification(rank: int, size: int, base: Path, folder: Path) -> dict[str, Any]:
    """Which files each rank reads, of a sound checkpoint and of one with a damaged shard of each rank in turn."""
    found: dict[str, Any] = {"read": [], "taken": []}
    read = manifest.sha256

    def counted(path: Path) -> str:
        found["read"].append(path.name)
        return read(path)

    with process_group(torch.device("cpu"), timeout_minutes=0.5) as world:
        state = checkpoint.snapshot(*_trainer(base, world))
        for step in (1, 2, 3, 4):
            checkpoint.write(folder, step, state, {"inputs": INPUTS}, world)
        checkpoint.verify = partial(manifest.verify, digest_of=counted)
        found["taken"].append(checkpoint.latest(folder, INPUTS, (), world).name)
        checkpoint.verify = manifest.verify
        for damaged in (0, 1):
            if rank == 0:
                _flip(folder / found["taken"][-1] / f"__{damaged}_0.distcp")
            world.any(False)  # a barrier
            found["taken"].append(checkpoint.latest(folder, INPUTS, (), world).name)
        try:
            checkpoint.latest(folder, {**INPUTS, "data": "other"}, (), world)
        except RecipeError as error:
            found["refused"] = "other inputs" in str(error)
    return found


def test_ranks_share_out_the_files_to_verify_and_decide_alike(base: Path, folder: Path) -> None:
    found = run_ranks(2, _shared_verification, base, folder)
    read = [rank.pop("read") for rank in found]
    assert all(read) and sorted([*read[0], *read[1]]) == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    assert found[0] == found[1]
    assert found[0]["taken"] == ["step-0000000004", "step-0000000003", "step-0000000002"] and found[0]["refused"]


def test_a_signal_while_metadata_is_read_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".metadata").write_bytes(b"")

    def stopped(self: Any) -> None:
        raise signals.StoppedError("stopped by SIGTERM")

    monkeypatch.setattr(stored._Unpickler, "load", stopped, raising=False)
    with pytest.raises(signals.StoppedError):
        stored.read_metadata(tmp_path)
