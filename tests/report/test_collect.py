"""A run's figures, read from its folders."""

import shutil
from pathlib import Path

import pytest

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report.collect import collect
from prealign_cpt.report.table import less
from prealign_cpt.run.errors import DataError, MissingInputError

from .conftest import Make, add_controls, log, put, recipe, write

TEST = ("test", "target_bpb")


def test_reads_every_model_and_stage(make: Make, tmp_path: Path) -> None:
    record = collect(make("run", 1.812), add_controls(tmp_path, base=1.75, subword=1.83))
    assert [(model.name, model.scores.number(*TEST)) for model in record.models] == [
        ("base", 2.986), ("extended, before training", 2.4), ("ours", 1.812),
        ("base, trained", 1.75), ("subword-mean rows, trained", 1.83),
    ]  # fmt: skip
    labels = [model.label for model in record.others]
    assert labels == ["not extended: the base's own tokens, same text", "subword-mean rows, same text"]
    assert len({model.style for model in (record.base, record.ours, *record.others)}) == 4
    assert record.language == "German" and record.name == "run"
    assert record.costs["vocab"]["seconds"] == 2.5
    assert record.costs["train"] == {"seconds": 3700, "peak_mb": 900}, "from summary.json"
    assert [point.tokens for point in record.ours.curve] == [0, 1024, 2048]


def test_a_run_that_does_not_extend_has_no_model_before_training(make: Make) -> None:
    record = collect(recipe(make("run", 1.8), size=0))
    assert record.before is None and [model.name for model in record.models] == ["base", "ours"]
    assert record.ours.label == "the base's own tokens, trained (ours)"


def test_controls_of_one_kind_keep_apart(make: Make) -> None:
    controls = [recipe(make(f"c{n}", 1.9), init="focus") for n in range(2)]
    names = [model.name for model in collect(make("run", 1.8), controls).others]
    assert names == ["focus rows, trained", "focus rows, trained-2"]


def test_text_read_counts_bytes_of_the_target_language(make: Make, tmp_path: Path) -> None:
    record = collect(make("run", 1.8), add_controls(tmp_path)[:1])
    assert record.ours.curve[-1].text == pytest.approx(2048 * 0.75 * 3.2)
    assert record.others[0].curve[-1].text == pytest.approx(4 * 819 * 0.75 * 2.0), "more tokens for as much text"


def test_the_last_line_of_a_repeated_step_wins(run: Path) -> None:
    again = '{"step": 2, "tokens": 1024, "valid": {"target_bpb": 9.5, "english_bpb": 1.0}}\n'
    write(run / "metrics.jsonl", log(1.8) + '{"step": 3, "tok\n' + again)
    record = collect(run)
    assert [(point.step, point.target) for point in record.ours.curve][1] == (2, 9.5)
    assert len(record.ours.curve) == 3 and record.ours.broken_lines == 1
    # Step 0 needs no count of tokens, any other does.
    write(run / "metrics.jsonl", '{"step": 0, "valid": {"target_bpb": 2.0}}\n{"step": 1, "valid": {"target_bpb": 1}}\n')
    assert [(point.tokens, point.target, point.english) for point in collect(run).ours.curve] == [(0, 2.0, None)]


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999", "null", "true", '"2"', "1" + "0" * 400])
def test_what_is_not_a_finite_number_is_absent(run: Path, text: str) -> None:
    put(run / "eval/report.json", "models", "trained", "test", value={"target_bpb": "TEXT", "english_bpb": 1})
    write(run / "eval/report.json", (run / "eval/report.json").read_text().replace('"TEXT"', text))
    target, english = (collect(run).ours.scores.number("test", f"{of}_bpb") for of in ("target", "english"))
    assert isinstance(target, Absent) and "test.target_bpb" in target.reason
    assert english == 1


def test_a_reason_given_by_a_stage_is_kept(run: Path) -> None:
    trained = {"retrieval": None, "retrieval_absent": "no held-out word is known"}
    write(run / "eval/report.json", {"models": {"trained": trained}})
    assert collect(run).ours.scores.number("retrieval", "p1") == Absent("no held-out word is known")


def test_quotients_over_nothing_are_absent(run: Path) -> None:
    write(run / "vocab/report.json", {"fertility_before": 0.0, "english_changed_share": 0.0, "english_lines": 0})
    record = collect(run)
    assert isinstance(record.fertility["before"], Absent) and isinstance(record.english_changed, Absent)
    write(run / "vocab/report.json", {"english_changed_share": 0.0, "english_lines": 7})
    assert collect(run).english_changed == 0.0


def test_every_stage_may_be_absent(make: Make) -> None:
    full = make("run", 1.8)
    for part in sorted(path for path in full.iterdir() if path.name != "recipe.toml"):
        shutil.rmtree(part) if part.is_dir() else part.unlink()
        collect(full)
    record = collect(full)
    assert record.ours.scores.number(*TEST) == Absent("stage eval has not been done")
    assert record.ours.curve == () and record.ours.curve_absent == "metrics.jsonl is not there"


def test_folders_that_are_no_runs(tmp_path: Path, make: Make) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "empty"):
        with pytest.raises(MissingInputError, match=name):
            collect(tmp_path / name)
    with pytest.raises(MissingInputError, match="nowhere"):
        collect(make("run", 1.8), [tmp_path / "nowhere"])


@pytest.mark.parametrize("name", ["align/report.json", "train/summary.json", "vocab/MANIFEST.json", "recipe.toml"])
@pytest.mark.parametrize("text", ["{", "[1,"])
def test_damaged_files_are_named(run: Path, name: str, text: str) -> None:
    write(run / name, text)
    with pytest.raises(DataError, match=name):
        collect(run)


def test_a_control_may_differ_only_in_what_it_controls(run: Path, make: Make, tmp_path: Path) -> None:
    assert collect(run, add_controls(tmp_path)).cautions == ()
    control = recipe(make("control", 1.9), init="subword", steps=3, share=0.0)
    first, *others = collect(run, [control]).cautions
    assert first == "subword-mean rows, trained: its recipe also differs in data.english_share (0.25, there 0.0)"
    assert others == ["subword-mean rows, trained: it read 33% more text"]


@pytest.mark.parametrize("windows", [[], [[1.0]], [["x", 2]], 7, [[1.0, 2], [1.0]], [[None, 3]]])
def test_windows_of_another_shape_are_absent(run: Path, windows: object) -> None:
    put(run / "eval/report.json", "models", "trained", "test", "windows", "target", value=windows)
    record = collect(run)
    assert isinstance(less(record.ours, record.base), Absent)
