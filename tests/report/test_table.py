"""The table of a run and its controls, and what is said of differences."""

import re
import shutil
from pathlib import Path

import pytest

from prealign_cpt.cli import main
from prealign_cpt.report import write_report
from prealign_cpt.report.collect import collect
from prealign_cpt.report.table import coverage, text_table, verdict
from prealign_cpt.run.folder import ORDER

from .conftest import Make, add_controls, page_of, put, read, scores, windows, write

TOP = {
    "labels", "models", "ours_less", "general", "fertility", "retrieval_heldout_p1", "unreachable_tokens",
    "english_lines_changed", "stages", "tokens_per_second", "parity", "verdict", "cautions", "exposure",
}  # fmt: skip

MODELS = {"base", "extended, before training", "ours", "base, trained", "subword-mean rows, trained"}

UNSCORED = "models before training were not scored (recipe key evaluate.before_training)"


def test_result_of_a_finished_run(make: Make, tmp_path: Path) -> None:
    run = make("run", 1.812)
    write_report(run, add_controls(tmp_path))
    result = read(run / "report/result.json")
    assert result.keys() == TOP
    assert result["models"].keys() == result["labels"].keys() == result["general"].keys() == MODELS
    assert result["models"]["ours"] == {"target_bpb": 1.812, "english_bpb": 1.212}
    assert result["models"]["base, trained"]["target_bpb"] == 1.75
    gap = result["ours_less"]["subword-mean rows, trained"]["target"]
    assert gap["mean"] == pytest.approx(-0.018) and gap["low"] < gap["mean"] < gap["high"]
    assert result["ours_less"].keys() == MODELS - {"ours"}
    assert result["general"]["base"]["english_bpb"] == pytest.approx(1.4)
    assert result["fertility"] == {"before": 3.1, "after": 2.0}
    assert result["retrieval_heldout_p1"]["ours"] == 0.5
    assert result["unreachable_tokens"] == 3 and result["english_lines_changed"] == 0.002
    assert result["stages"].keys() == set(ORDER)
    assert result["stages"]["train"] == {"seconds": 3700, "peak_mb": 900}
    assert result["tokens_per_second"] == 512.5 and result["parity"]["max_logprob_difference"] == 2e-6


def test_the_command_takes_several_controls(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [word for control in add_controls(tmp_path) for word in ("--control", str(control))]
    assert main(["report", str(make("run", 1.812)), *flags]) == 0
    shown = capsys.readouterr().out
    assert "not extended: the base's own tokens, same text" in shown and "subword-mean rows, same text" in shown


def test_absent_figures_are_null_with_a_reason(make: Make) -> None:
    run = make("run", 1.812)
    for stage in ("eval", "vocab", "serve", "train"):
        shutil.rmtree(run / stage)
    write_report(run)
    result = read(run / "report/result.json")
    assert {key for key in result if not key.endswith("_absent")} == TOP
    places = [(result["models"], "ours", "eval"), (result["ours_less"]["base"], "target", "eval")]
    places += [(result["retrieval_heldout_p1"], "ours", "eval"), (result["fertility"], "after", "vocab")]
    places += [(result, "unreachable_tokens", "vocab"), (result["stages"], "train", "train")]
    for place, key, reason in [*places, (result, "tokens_per_second", "train"), (result, "parity", "serve")]:
        assert place[key] is None and reason in place[f"{key}_absent"]


def test_result_never_holds_nan(run: Path) -> None:
    write(run / "serve/result.json", '{"parity": {"max_logprob_difference": NaN, "tokens": 3}}')
    write(run / "metrics.jsonl", '{"step": 0, "tokens": 0, "valid": {"target_bpb": NaN, "english_bpb": Infinity}}\n')
    shown = page_of(run).source + write_report(run)
    parity = read(run / "report/result.json")["parity"]
    assert parity["max_logprob_difference"] is None and parity["max_logprob_difference_absent"]
    assert ">nan" not in shown.lower() and "infinity" not in shown.lower() and "NaN" not in shown


def test_text_table_is_aligned_and_complete(make: Make, tmp_path: Path) -> None:
    record = collect(make("run", 1.812), add_controls(tmp_path))
    lines = text_table(record).splitlines()
    assert len({len(line) for line in lines[:7]}) == 1
    for line, model in zip(lines[2:7], record.models, strict=True):
        assert line.startswith(model.label)
    assert lines[4].split()[-5:] == ["1.812", "1.212", "2.012", "1.412", "0.500"], "ours has no difference to itself"
    assert "+0.062 [" in lines[5] and "-0.018 [" in lines[6]


def test_models_and_texts_that_were_not_scored_have_one_reason(make: Make) -> None:
    run, control = make("run", 1.8), make("control", 1.9)
    for folder in (run, control):
        trained = read(folder / "eval/report.json")["models"]["trained"]
        del trained["general"]
        write(folder / "eval/report.json", {"models": {"trained": trained}})
    text = text_table(collect(run, [control]))
    assert f"- base; extended, before training: {UNSCORED}" in text.splitlines()
    assert text.count("no text of another domain was scored") == 1
    write(control / "recipe.toml", 'language = "German"\n[train]\nlr = 3\n')
    assert "Caution: other rows, trained: its recipe also differs in" in write_report(run, [control])


def test_every_comparison_has_its_interval(make: Make, tmp_path: Path) -> None:
    record = collect(make("run", 1.812), add_controls(tmp_path, base=1.75, subword=1.83))
    base, trained, subword, english, tokens = verdict(record)
    assert base.startswith("Held-out German: 1.812 bits per byte, better than the base before training (2.986): -1.174")
    assert trained.startswith("Worse than training the base on the same text without new tokens (1.750): +0.062 [+")
    assert subword.startswith("Better than plain subword means on the same text (1.830): -0.018 [-")
    for sentence in (base, trained, subword):
        gap, low, high = map(float, re.findall(r"[+-][\d.]+\d", sentence.rsplit(": ", 1)[1]))
        assert low < gap < high and high - low < 0.05, "the windows differ by 0.2 bits per byte, the models do not"
    assert english.startswith("English lost: 1.212 where the base has 1.200: +0.012 [+")
    assert tokens == "Tokens per word of German: 35% fewer, 2.00 where the base has 3.10."
    assert "10 windows of German" in coverage(record) and "not the training seed" in coverage(record)


def test_what_the_interval_cannot_tell_from_nothing_is_not_told_apart(make: Make, tmp_path: Path) -> None:
    lines = verdict(collect(make("run", 1.8), add_controls(tmp_path, base=1.8001, subword=1.8002)))
    assert lines[1].startswith("Not told apart from training the base on the same text without new tokens (1.800): ")
    assert lines[2].startswith("Not told apart from plain subword means on the same text (1.800): ")


def test_controls_that_were_not_given_are_named_with_the_remedy(make: Make, tmp_path: Path) -> None:
    run, (base, subword) = make("run", 1.8), add_controls(tmp_path)
    plain, means = "training the base on the same text without new tokens", "plain subword means on the same text"
    end = "`make evidence` adds that (or --control RUN)."
    assert verdict(collect(run))[-1] == f"Not compared with {plain} nor with {means}: {end}"
    assert verdict(collect(run, [base]))[-1] == f"Not compared with {means}: {end}"
    assert verdict(collect(run, [subword]))[-1] == f"Not compared with {plain}: {end}"
    assert "make evidence" not in verdict(collect(run, [base, subword]))[-1]


def test_models_scored_on_other_windows_are_not_compared(make: Make, tmp_path: Path) -> None:
    run, (base, _) = make("run", 1.8), add_controls(tmp_path)
    put(base / "eval/report.json", "models", "trained", "test", "windows", "target", value=windows(1.75, 0)[1:])
    line = verdict(collect(run, [base]))[1]
    assert "ot compared with training the base" in line and "base, trained was scored on other text" in line


def test_verdict_without_its_figures(run: Path) -> None:
    write(run / "eval/report.json", {"models": {"trained": {"test": {"english_bpb": 1.1}}}})
    assert verdict(collect(run)) == ["No verdict: eval/report.json: models.trained has no test.target_bpb."]


@pytest.mark.parametrize(("english", "word"), [(1.15, "gained"), (1.2001, "kept, not told apart"), (1.3, "lost")])
def test_verdict_on_english(run: Path, english: float, word: str) -> None:
    put(run / "eval/report.json", "models", "trained", value=scores(1.8, english, 0.5))
    assert any(line.startswith(f"English {word}") for line in verdict(collect(run)))
