"""The table of a run and its control."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.report import write_report
from prealign_cpt.report.collect import ARMS, collect
from prealign_cpt.report.table import LABELS, difference, text_table, verdict
from prealign_cpt.run import ORDER

from .conftest import read, scores, write

Make = Callable[[str, float], Path]

TOP = {
    "arms", "general", "fertility", "retrieval_heldout_p1", "unreachable_tokens", "english_lines_changed", "stages",
    "tokens_per_second", "parity",
}  # fmt: skip


def test_result_of_a_finished_run(make: Make) -> None:
    run = make("run", 1.812)
    write_report(run, make("control", 1.83))
    result = read(run / "report/result.json")
    assert result.keys() == TOP
    assert result["arms"].keys() == set(ARMS)
    assert result["arms"]["final"] == {"target_bpb": 1.812, "english_bpb": 1.212}
    assert result["arms"]["control"]["target_bpb"] == 1.83
    assert result["general"].keys() == set(ARMS) and result["general"]["base"]["english_bpb"] == pytest.approx(1.4)
    assert result["fertility"] == {"before": 3.1, "after": 2.0}
    assert result["retrieval_heldout_p1"]["final"] == 0.5
    assert result["unreachable_tokens"] == 3
    assert result["english_lines_changed"] == 0.002
    assert result["stages"].keys() == set(ORDER)
    assert result["stages"]["cpt"] == {"seconds": 3700, "peak_mb": 900}
    assert result["tokens_per_second"] == 512.5
    assert result["parity"]["max_logprob_difference"] == 2e-6


def test_absent_figures_are_null_with_a_reason(make: Make) -> None:
    run = make("run", 1.812)
    for stage in ("eval", "vocab", "serve", "cpt"):
        shutil.rmtree(run / stage)
    write_report(run)
    result = read(run / "report/result.json")
    assert {key for key in result if not key.endswith("_absent")} == TOP
    for place, key, reason in (
        (result["arms"], "final", "eval"),
        (result["arms"], "control", "--control"),
        (result["retrieval_heldout_p1"], "final", "eval"),
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


def test_verdict_when_the_lexicon_helped(make: Make) -> None:
    sentence = verdict(collect(make("run", 1.812), make("control", 1.83)))
    assert sentence == (
        "After CPT: 1.812 bits per byte of German, better than the control 1.830 (-0.018), better than the base 2.986 "
        "(-1.174); English lost: 1.212 against 1.200 in the base (+0.012)."
    )


def test_verdict_when_it_did_not(make: Make) -> None:
    worse = verdict(collect(make("run", 1.85), make("control", 1.83)))
    assert "NOT better than the control 1.830 (+0.020), better than the base" in worse
    same = verdict(collect(make("same", 1.8301), make("control", 1.83)))
    assert "as good as the control 1.830 (+0.000)" in same
    bad = verdict(collect(make("bad", 3.1), make("control", 1.83)))
    assert "NOT better than the base 2.986 (+0.114)" in bad


def test_verdict_without_its_figures(make: Make) -> None:
    run = make("run", 1.8)
    assert "not compared with the control (no control run was given (--control))" in verdict(collect(run))
    write(run / "eval/report.json", {"scores": {"test": {"english_bpb": 1.1}}})
    assert verdict(collect(run)).startswith("No verdict: eval/report.json has no scores.test.target_bpb")


@pytest.mark.parametrize(("english", "word"), [(1.19, "gained"), (1.2, "kept"), (1.3, "lost")])
def test_verdict_on_english(make: Make, english: float, word: str) -> None:
    run = make("run", 1.8)
    write(run / "eval/report.json", {"scores": scores(1.8, english, 0.5)})
    assert f"English {word}: {english:.3f} against 1.200" in verdict(collect(run))


def test_differences_are_those_of_the_printed_figures() -> None:
    assert difference(1.81249, 1.83) == "-0.018"
    assert difference(1.0004, 1.0) == "+0.000"
    assert difference(0.9996, 1.0) == "+0.000"


def test_text_table_is_aligned_and_complete(make: Make) -> None:
    lines = text_table(collect(make("run", 1.812))).splitlines()
    assert len({len(line) for line in lines[:8]}) == 1
    for line, arm in zip(lines[2:8], ARMS, strict=True):
        assert line.startswith(LABELS[arm])
    assert lines[7].split()[-5:] == ["-"] * 5
    assert lines[8] == f"- {LABELS['control']}: no control run was given (--control)"


def test_a_run_without_a_second_domain_has_one_reason_for_it(make: Make) -> None:
    run, control = make("run", 1.8), make("control", 1.9)
    for folder in (run, control):
        for name in ("align", "eval"):
            report = read(folder / name / "report.json")
            for arm in [report["scores"]] if name == "eval" else report["arms"].values():
                del arm["general"]
            write(folder / name / "report.json", report)
    text = text_table(collect(run, control))
    assert text.count("no text of another domain was scored") == 1


def test_a_control_with_another_training_is_pointed_out(make: Make) -> None:
    run, control = make("run", 1.8), make("control", 1.9)
    write(control / "recipe.toml", 'language = "German"\n[train]\nsteps = 3\n')
    assert "Caution: the control's recipe also differs in train.steps" in write_report(run, control)
