"""What is said of differences, and what of those that the interval cannot tell from nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.report.collect import collect
from prealign_cpt.report.table import coverage, verdict

from .conftest import add_controls, read, scores, windows, write

Make = Callable[[str, float], Path]


def numbers(sentence: str) -> list[float]:
    """Difference, low, high at the end of a sentence."""
    gap, low, high = sentence.rstrip(".]").rsplit(": ", 1)[1].replace("[", "").replace(",", "").split()
    return [float(gap), float(low), float(high)]


def test_every_comparison_has_its_interval(make: Make, tmp_path: Path) -> None:
    record = collect(make("run", 1.812), add_controls(tmp_path, base=1.75, subword=1.83))
    base, trained, subword, english, tokens = verdict(record)
    assert base.startswith(
        "Held-out German: 1.812 bits per byte, better than the base before training (2.986): -1.174 ["
    )
    assert trained.startswith("Worse than training the base on the same text without new tokens (1.750): +0.062 [+")
    assert subword.startswith("Better than plain subword means on the same text (1.830): -0.018 [-")
    for sentence in (base, trained, subword):
        gap, low, high = numbers(sentence)
        assert low < gap < high and high - low < 0.05, "the windows differ by 0.2 bits per byte, the models do not"
    assert english.startswith("English lost: 1.212 where the base has 1.200: +0.012 [+")
    assert tokens == "Tokens per word of German: 35% fewer, 2.00 where the base has 3.10."
    assert "10 windows of German" in coverage(record) and "not the training seed" in coverage(record)


def test_what_the_interval_cannot_tell_from_nothing_is_not_told_apart(make: Make, tmp_path: Path) -> None:
    controls = add_controls(tmp_path, base=1.8001, subword=1.8002)
    lines = verdict(collect(make("run", 1.8), controls))
    assert lines[1].startswith("Not told apart from training the base on the same text without new tokens (1.800): ")
    assert lines[2].startswith("Not told apart from plain subword means on the same text (1.800): ")


def test_controls_that_were_not_given_are_named_with_the_remedy(make: Make, tmp_path: Path) -> None:
    run, (base, subword) = make("run", 1.8), add_controls(tmp_path)
    assert verdict(collect(run))[-1] == (
        "Not compared with training the base on the same text without new tokens nor with plain subword means on the "
        "same text: `make evidence` adds that (or --control RUN)."
    )
    assert (
        "plain subword" in verdict(collect(run, [base]))[-1] and "own tokens" not in verdict(collect(run, [base]))[-1]
    )
    assert "without new tokens" in verdict(collect(run, [subword]))[-1]
    assert "make evidence" not in verdict(collect(run, [base, subword]))[-1]


def test_models_scored_on_other_windows_are_not_compared(make: Make, tmp_path: Path) -> None:
    run, (base, _) = make("run", 1.8), add_controls(tmp_path)
    report = read(base / "eval/report.json")
    report["models"]["trained"]["test"]["windows"]["target"] = windows(1.75, 0)[1:]
    write(base / "eval/report.json", report)
    assert "ot compared with training the base" in verdict(collect(run, [base]))[1]
    assert "base, trained was scored on other text" in verdict(collect(run, [base]))[1]


def test_verdict_without_its_figures(make: Make) -> None:
    run = make("run", 1.8)
    write(run / "eval/report.json", {"models": {"trained": {"test": {"english_bpb": 1.1}}}})
    assert verdict(collect(run)) == ["No verdict: eval/report.json: models.trained has no test.target_bpb."]


@pytest.mark.parametrize(("english", "word"), [(1.15, "gained"), (1.2001, "kept, not told apart"), (1.3, "lost")])
def test_verdict_on_english(make: Make, english: float, word: str) -> None:
    run = make("run", 1.8)
    report = read(run / "eval/report.json")
    write(run / "eval/report.json", {"models": report["models"] | {"trained": scores(1.8, english, 0.5)}})
    assert any(line.startswith(f"English {word}") for line in verdict(collect(run)))
