"""Trackers: the figures of metrics.jsonl, one curve over several starts, and nothing that stops a training."""

import json
import re
import signal
import sqlite3
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from prealign_cpt.cli import main
from prealign_cpt.train import progress, trackers
from prealign_cpt.train.metrics import Log
from prealign_cpt.train.progress import Progress, duration
from prealign_cpt.train.trackers import Trackers, curves
from tests.faults.ranks import start

LINE = {"step": 3, "loss": 2.5, "lr": 1e-3, "skipped": 0, "valid": {"target_bpb": 1.5, "english_bpb": 1.25}}
CURVES = {"train/loss": 2.5, "train/lr": 1e-3, "train/skipped": 0, "valid/target_bpb": 1.5, "valid/english_bpb": 1.25}


def _start(names: list[str], folder: Path, steps: range) -> None:
    """A start of a training that ends behind the last of these steps."""
    folder.mkdir(parents=True, exist_ok=True)
    with Trackers(names, folder, steps[0], {"train.lr": 0.1}) as active:
        log = Log(folder.parent / "metrics.jsonl", active=True, trackers=active)
        for step in steps:
            log.write({"step": step, "loss": 10.0 - step})


def _scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Curves of a TensorBoard folder, as its own reader has them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    found = {}
    for tag in reader.Tags()["scalars"]:
        events = reader.Scalars(tag)
        found[tag] = {event.step: event.value for event in events}
        assert len(found[tag]) == len(events), f"{tag}: a step stands there twice"
    return found


def test_a_line_as_curves() -> None:
    assert curves(LINE) == CURVES


def test_tensorboard_shows_one_curve_over_two_starts(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run" / "train"
    _start(["tensorboard"], run, range(1, 6))  # killed after step 5, while the last checkpoint is of step 3
    _start(["tensorboard"], run, range(4, 8))
    assert _scalars(run / "tensorboard") == {"train/loss": {step: 10.0 - step for step in range(1, 8)}}


def test_a_run_s_curves_are_its_metrics(recipe_file: Path, capsys: Any) -> None:
    pytest.importorskip("tensorboard")
    flags = ["--train.log", '["tensorboard"]', "--train.steps", "4", "--train.eval_every", "2"]
    assert main(["train", str(recipe_file), *flags]) == 0, capsys.readouterr().err
    run = recipe_file.parent / "runs" / "tiny"
    expected: dict[str, dict[int, float]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        for name, value in curves(json.loads(line)).items():
            expected.setdefault(name, {})[json.loads(line)["step"]] = pytest.approx(value, rel=1e-6)
    assert _scalars(run / "train" / "tensorboard") == expected
    assert set(expected["valid/target_bpb"]) == {0, 2, 4}
    assert main(["train", str(recipe_file), *flags, "--train.log", "[]"]) == 0, "no tracker decides what is trained"


def _main(rank: int, size: int, line: list[str]) -> int:
    return main(line)


def test_a_killed_run_goes_on_with_its_curve(recipe_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("tensorboard")
    line = [
        "train",
        str(recipe_file),
        "--train.log",
        '["tensorboard"]',
        "--train.steps",
        "6",
        "--train.save_every",
        "2",
    ]
    (killed,) = start(1, _main, line, fault="kill@step:count=6")
    assert killed.code == -signal.SIGKILL, killed
    run = recipe_file.parent / "runs" / "tiny"
    assert [json.loads(row)["step"] for row in (run / "metrics.jsonl").read_text().splitlines()] == [0, 1, 2, 3, 4, 5]
    time.sleep(1.1)  # TensorBoard reads files by their second, then by process; a real start takes longer than that
    assert main(line) == 0
    assert re.search("train: continues after step [24]", capsys.readouterr().out)
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == set(range(7)) and len(rows) > 7, "some steps were made twice"
    losses = _scalars(run / "train" / "tensorboard")["train/loss"]
    assert losses == {row["step"]: pytest.approx(row["loss"], rel=1e-6) for row in rows if row["step"]}


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run" / "train"
    _start(["wandb"], run, range(1, 4))
    _start(["wandb"], run, range(3, 6))
    files = sorted(run.glob("wandb/offline-run-*/run-*.wandb"))
    assert {file.stem for file in files} == {f"run-{(run / 'tracker_id').read_text()}"}, "both are of one run"
    assert all(b"train/loss" in file.read_bytes() for file in files)


def test_trackio_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio")
    run = tmp_path / "run" / "train"
    _start(["trackio"], run, range(1, 4))
    _start(["trackio"], run, range(4, 6))
    with sqlite3.connect(tmp_path / "trackio" / "prealign.db") as stored:
        rows = stored.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
    assert {name for name, _, _ in rows} == {f"run-{(run / 'tracker_id').read_text()}"}
    assert [(step, json.loads(values)) for _, step, values in rows] == [
        (n, {"train/loss": 10.0 - n}) for n in range(1, 6)
    ]


def test_a_tracker_that_fails_is_left_out_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    taken: list[int] = []

    def down(folder: Path, step: int, about: Any) -> trackers.Sink:
        raise ConnectionError("no route\nto host")

    def breaks(folder: Path, step: int, about: Any) -> trackers.Sink:
        return lambda values, step: 1 / 0 if step == 3 else taken.append(step), lambda: taken.append(-1)

    monkeypatch.setattr(trackers, "_SINKS", {"wandb": down, "trackio": breaks})
    _start(["wandb", "trackio"], tmp_path / "train", range(1, 6))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and taken == [1, 2]
    assert "wandb failed and is left out (ConnectionError: no route to host)" in said[0]
    assert "trackio failed and is left out (ZeroDivisionError" in said[1]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize("command", ["train", "run"])
def test_a_missing_package_is_told_before_anything_is_done(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, command: str
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == "trackio" else find_spec(name))
    assert main([command, str(recipe_file), "--train.log", '["trackio"]']) == 78
    told = capsys.readouterr().err
    assert told == 'prealign: train.log: trackio is not installed: pip install "prealign-cpt[trackio]"\n'
    assert not (recipe_file.parent / "runs").exists()
    assert main(["prepare", str(recipe_file), "--train.log", '["trackio"]']) == 0, "which trains nothing"


def test_off_a_terminal_a_line_tells_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown = Progress(100, done=10, active=True)
    for step in range(11, 17):
        clock[0] += 60 if step == 11 else 12  # the first step compiles
        shown.update(step, 2.0, 1234.5)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "[prealign] train: step 12 of 100: loss 2.000, 1,234 tokens/s, 18 min left",
        "[prealign] train: step 15 of 100: loss 2.000, 1,234 tokens/s, 17 min left",
    ]
    Progress(100, 0, active=False).update(1, 2.0, 1.0)
    assert capsys.readouterr().out == ""


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59, 61, 3599, 3600, 7500, 90_000)] == [
        "0 s", "59 s", "1 min", "1 h 00 min", "1 h 00 min", "2 h 05 min", "1 d 01 h"
    ]  # fmt: skip
