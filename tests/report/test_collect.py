"""A run's figures, read from its folders."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.errors import DataError, MissingInputError
from prealign_cpt.report.collect import Absent, collect

from .conftest import log, write

Make = Callable[[str, float], Path]


def test_reads_every_arm_and_stage(make: Make) -> None:
    record = collect(make("run", 1.812), make("control", 1.83))
    targets = [scores.target for scores in record.scores.values()]
    assert targets == [2.986, 3.5, 2.6, 2.4, 1.812, 1.83]
    assert record.language == "German" and record.name == "run"
    assert record.stages["vocab"].seconds == 2.5
    assert record.stages["cpt"].seconds == 3700 and record.stages["cpt"].peak_mb == 900, "from summary.json"
    assert [point.tokens for point in record.curve] == [0, 1024, 2048]


def test_the_last_line_of_a_repeated_step_wins(make: Make) -> None:
    run = make("run", 1.8)
    again = '{"step": 2, "tokens": 1024, "valid": {"target_bpb": 9.5, "english_bpb": 1.0}}\n'
    write(run / "metrics.jsonl", log(1.8) + '{"step": 3, "tok\n' + again)
    record = collect(run)
    assert [(point.step, point.target) for point in record.curve][1] == (2, 9.5)
    assert len(record.curve) == 3 and record.broken_lines == 1


def test_step_zero_needs_no_token_count(make: Make) -> None:
    run = make("run", 1.8)
    write(run / "metrics.jsonl", '{"step": 0, "valid": {"target_bpb": 2.0}}\n{"step": 1, "valid": {"target_bpb": 1}}\n')
    assert [(point.tokens, point.target, point.english) for point in collect(run).curve] == [(0, 2.0, None)]


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999", "null", "true", '"2"', "1" + "0" * 400])
def test_what_is_not_a_finite_number_is_absent(make: Make, text: str) -> None:
    run = make("run", 1.8)
    write(run / "eval/report.json", f'{{"scores": {{"test": {{"target_bpb": {text}, "english_bpb": 1}}}}}}')
    final = collect(run).scores["final"]
    assert isinstance(final.target, Absent) and "scores.test.target_bpb" in final.target.reason
    assert final.english == 1


def test_a_reason_given_by_a_stage_is_kept(make: Make) -> None:
    run = make("run", 1.8)
    write(run / "eval/report.json", {"scores": {"retrieval": None, "retrieval_absent": "no held-out word is known"}})
    assert collect(run).scores["final"].retrieval == Absent("no held-out word is known")


def test_quotients_over_nothing_are_absent(make: Make) -> None:
    run = make("run", 1.8)
    write(run / "vocab/report.json", {"fertility_before": 0.0, "english_changed_share": 0.0, "english_lines": 0})
    record = collect(run)
    assert isinstance(record.fertility["before"], Absent)
    assert isinstance(record.english_changed, Absent)
    write(run / "vocab/report.json", {"english_changed_share": 0.0, "english_lines": 7})
    assert collect(run).english_changed == 0.0


def test_every_stage_may_be_absent(make: Make) -> None:
    full = make("run", 1.8)
    for part in sorted(path for path in full.iterdir() if path.name != "recipe.toml"):
        shutil.rmtree(part) if part.is_dir() else part.unlink()
        collect(full)
    record = collect(full)
    assert record.scores["final"].target == Absent("stage eval has not been done")
    assert record.curve == () and record.curve_absent == "metrics.jsonl is not there"


def test_folders_that_are_no_runs(tmp_path: Path, make: Make) -> None:
    with pytest.raises(MissingInputError, match="nowhere"):
        collect(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInputError, match="empty"):
        collect(tmp_path / "empty")
    with pytest.raises(MissingInputError, match="nowhere"):
        collect(make("run", 1.8), tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["align/report.json", "cpt/summary.json", "vocab/MANIFEST.json", "recipe.toml"])
@pytest.mark.parametrize("text", ["{", "[1,"])
def test_damaged_files_are_named(make: Make, name: str, text: str) -> None:
    run = make("run", 1.8)
    write(run / name, text)
    with pytest.raises(DataError, match=name):
        collect(run)


def test_a_control_may_differ_only_in_what_it_controls(make: Make) -> None:
    run, control = make("run", 1.8), make("control", 1.9)
    assert collect(run, control).control_differs == ()
    write(control / "recipe.toml", 'name = "c"\nlanguage = "German"\n[align]\nsteps = 0\n[train]\nsteps = 3\n')
    assert collect(run, control).control_differs == ("train.steps (4, control 3)",)
