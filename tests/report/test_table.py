"""The table of a run and its controls."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.cli import main
from prealign_cpt.report import write_report
from prealign_cpt.report.collect import collect
from prealign_cpt.report.table import text_table
from prealign_cpt.run.folder import ORDER

from .conftest import add_controls, read, write

Make = Callable[[str, float], Path]

TOP = {
    "labels", "models", "ours_less", "general", "fertility", "retrieval_heldout_p1", "unreachable_tokens",
    "english_lines_changed", "stages", "tokens_per_second", "parity", "verdict", "cautions",
}  # fmt: skip

MODELS = {"base", "extended, before training", "ours", "base, trained", "subword-mean rows, trained"}


def test_result_of_a_finished_run(make: Make, tmp_path: Path) -> None:
    run = make("run", 1.812)
    write_report(run, add_controls(tmp_path))
    result = read(run / "report/result.json")
    assert result.keys() == TOP
    assert result["models"].keys() == result["labels"].keys() == MODELS
    assert result["models"]["ours"] == {"target_bpb": 1.812, "english_bpb": 1.212}
    assert result["models"]["base, trained"]["target_bpb"] == 1.75
    gap = result["ours_less"]["subword-mean rows, trained"]["target"]
    assert gap["mean"] == pytest.approx(-0.018) and gap["low"] < gap["mean"] < gap["high"]
    assert result["ours_less"].keys() == MODELS - {"ours"}
    assert result["general"].keys() == MODELS and result["general"]["base"]["english_bpb"] == pytest.approx(1.4)
    assert result["fertility"] == {"before": 3.1, "after": 2.0}
    assert result["retrieval_heldout_p1"]["ours"] == 0.5
    assert result["unreachable_tokens"] == 3
    assert result["english_lines_changed"] == 0.002
    assert result["stages"].keys() == set(ORDER)
    assert result["stages"]["cpt"] == {"seconds": 3700, "peak_mb": 900}
    assert result["tokens_per_second"] == 512.5
    assert result["parity"]["max_logprob_difference"] == 2e-6


def test_the_command_takes_several_controls(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, controls = make("run", 1.812), add_controls(tmp_path)
    flags = [word for one in controls for word in ("--control", str(one))]
    assert main(["report", str(run), *flags]) == 0
    shown = capsys.readouterr().out
    assert "not extended: the base's own tokens, same text" in shown and "subword-mean rows, same text" in shown


def test_absent_figures_are_null_with_a_reason(make: Make) -> None:
    run = make("run", 1.812)
    for stage in ("eval", "vocab", "serve", "cpt"):
        shutil.rmtree(run / stage)
    write_report(run)
    result = read(run / "report/result.json")
    assert {key for key in result if not key.endswith("_absent")} == TOP
    for place, key, reason in (
        (result["models"], "ours", "eval"),
        (result["ours_less"]["base"], "target", "eval"),
        (result["retrieval_heldout_p1"], "ours", "eval"),
        (result["fertility"], "after", "vocab"),
        (result, "unreachable_tokens", "vocab"),
        (result["stages"], "cpt", "cpt"),
        (result, "tokens_per_second", "cpt"),
        (result, "parity", "serve"),
    ):
        assert place[key] is None and reason in place[f"{key}_absent"]


def test_result_never_holds_nan(make: Make) -> None:
    run = make("run", 1.8)
    write(run / "serve/result.json", '{"parity": {"max_logprob_difference": NaN, "tokens": 3}}')
    write(run / "metrics.jsonl", '{"step": 0, "tokens": 0, "valid": {"target_bpb": NaN, "english_bpb": Infinity}}\n')
    text = write_report(run)
    parity = read(run / "report/result.json")["parity"]
    assert parity["max_logprob_difference"] is None and parity["max_logprob_difference_absent"]
    page = (run / "report/index.html").read_text()
    for shown in (text, page):
        assert ">nan" not in shown.lower() and "infinity" not in shown.lower() and "NaN" not in shown


def test_text_table_is_aligned_and_complete(make: Make, tmp_path: Path) -> None:
    record = collect(make("run", 1.812), add_controls(tmp_path))
    lines = text_table(record).splitlines()
    assert len({len(line) for line in lines[:7]}) == 1
    for line, model in zip(lines[2:7], record.models, strict=True):
        assert line.startswith(model.label)
    assert lines[4].split()[-5:] == ["1.812", "1.212", "2.012", "1.412", "0.500"], "ours has no difference to itself"
    assert "+0.062 [" in lines[5] and "-0.018 [" in lines[6]


def test_a_model_that_was_not_scored_has_its_reason(make: Make) -> None:
    run = make("run", 1.8)
    report = read(run / "eval/report.json")
    write(run / "eval/report.json", {"models": {"trained": report["models"]["trained"]}})
    reason = (
        "- base; extended, before training: models before training were not scored "
        "(recipe key evaluate.before_training)"
    )
    assert reason in text_table(collect(run)).splitlines()


def test_a_run_without_a_second_domain_has_one_reason_for_it(make: Make) -> None:
    run, control = make("run", 1.8), make("control", 1.9)
    for folder in (run, control):
        report = read(folder / "eval/report.json")
        for scores in report["models"].values():
            del scores["general"]
        write(folder / "eval/report.json", report)
    text = text_table(collect(run, [control]))
    assert text.count("no text of another domain was scored") == 1


def test_a_control_with_another_training_is_pointed_out(make: Make) -> None:
    run, control = make("run", 1.8), make("control", 1.9)
    write(control / "recipe.toml", 'language = "German"\n[train]\nlr = 3\n')
    assert "Caution: other rows, trained: its recipe also differs in" in write_report(run, [control])
