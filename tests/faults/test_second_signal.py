"""A second signal in the final save, and the warning that a stop will take long (rows 10, 11)."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from prealign_cpt.model.world import World
from prealign_cpt.run import signals
from prealign_cpt.run.manifest import verify
from prealign_cpt.train import checkpoint, saver
from prealign_cpt.train.saver import Saver
from tests.faults.ranks import Ranks
from tests.faults.runs import INPUTS, alone, make_base


def _asked_at_3(rank: int, size: int, folder: Path) -> Any:
    def act(step: int) -> None:
        if step == 3:
            end = time.monotonic() + 20
            while not (folder / "run" / "train" / "LATEST").exists() and time.monotonic() < end:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

    return alone(rank, size, folder, [{"name": "run", "act": act}], seconds=60)


@pytest.mark.slow
def test_a_second_signal_in_the_final_save_ends_both_ranks_at_once(tmp_path: Path) -> None:
    make_base(tmp_path)
    ranks = Ranks(2, _asked_at_3, tmp_path, fault="sleep=60@save.begin:count=2")
    folder = tmp_path / "run" / "train"
    end = time.monotonic() + 60
    while not list(folder.glob(".tmp-step-0000000003-*")):
        assert time.monotonic() < end, ranks.end(1)
        time.sleep(0.02)
    time.sleep(signals.ECHO + 0.2)
    began = time.monotonic()
    for pid in ranks.pids():
        os.kill(pid, signal.SIGTERM)
    assert [one.code for one in ranks.end(30)] == [-signal.SIGTERM] * 2, "a shell calls it 143"
    assert time.monotonic() - began < 5
    assert [path.name for path in folder.glob("step-*")] == ["step-0000000002"]
    assert verify(folder / "step-0000000002")
    assert checkpoint.latest(folder, INPUTS) == folder / "step-0000000002"
    assert not list(folder.glob(".tmp-*"))


def test_a_slow_save_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(saver, "SLOW", 0.0)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        world = World(0, 1, torch.device("cpu"), dist.HashStore())
        monkeypatch.setattr(saver, "snapshot", lambda *_: {"model": {"weight": torch.ones(3)}})
        with Saver(tmp_path, 2, world) as saving:
            for step in (1, 2):
                saving.save(step, None, None, {"inputs": {}})  # type: ignore[arg-type]
    finally:
        dist.destroy_process_group()
    said = capsys.readouterr().out
    assert said.count("a run that is asked to stop saves first: give it twice that time") == 1
