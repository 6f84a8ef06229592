"""What new tokens give or cost: the prediction on curves made by hand, the choice, and small trials from end to end."""

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prealign_cpt.cli import main, run_recipe
from prealign_cpt.lab import sizes as module
from prealign_cpt.lab.compare.budget import Plan
from prealign_cpt.lab.sizes import Trial, _choice, predicted_gap
from prealign_cpt.run import launch
from tests.lab.compare.conftest import in_process

BASE = [(0.0, 3.0), (1.0, 2.0), (2.0, 1.8), (4.0, 1.6), (8.0, 1.4)]
"""Falls by 0.2 whenever the compute doubles."""


def _at(flops: float) -> float:
    return 2.0 - 0.2 * math.log2(flops)


def _curve(gap: Callable[[float], float]) -> list[tuple[float, float]]:
    """A size whose stages before training took 0.5 and that was scored between the base's points too."""
    return [(0.5, 2.9), *((flops, _at(flops) + gap(flops)) for flops in (1.5, 3.0, 5.0, 6.0, 8.0))]


def test_a_gap_that_grows_is_read_at_the_budget():
    growing = _curve(lambda flops: 0.1 + 0.05 * math.log2(flops / 8))
    assert predicted_gap(growing, BASE, 32.0) == pytest.approx(0.1 + 0.05 * 2)
    lead = _curve(lambda flops: -0.1 + 0.05 * math.log2(flops / 8))
    assert predicted_gap(lead, BASE, 64.0) == pytest.approx(-0.1 + 0.05 * 3), "a lead that shrinks is lost"


def test_a_gap_that_seems_to_close_is_not_trusted():
    closing = _curve(lambda flops: 0.1 - 0.05 * math.log2(flops))
    late = [0.1 - 0.05 * math.log2(flops) for flops in (5.0, 6.0, 8.0)]
    for budget in (9.0, 1e6):
        assert predicted_gap(closing, BASE, budget) == pytest.approx(sum(late) / 3), "level, whatever the budget"


def test_only_the_second_half_counts():
    early = _curve(lambda flops: 0.02 if flops >= 4 else 5.0)
    assert predicted_gap(early, BASE, 100.0) == pytest.approx(0.02)


@pytest.mark.parametrize("budget", [1.0, 8.0])
def test_a_run_that_is_not_longer_ends_where_the_trial_does(budget: float):
    growing = _curve(lambda flops: 0.1 + 0.05 * math.log2(flops / 8))
    assert predicted_gap(growing, BASE, budget) == pytest.approx(0.1)


def test_one_late_point_has_no_slope():
    assert predicted_gap([(0.5, 3.0), (8.0, 1.5)], BASE, 80.0) == pytest.approx(0.1)


def _trial(size: int, gap: float) -> Trial:
    plan = Plan(
        steps=8, sequences=1, sequence_length=1, english_share=0.0, bytes_per_token=1.0, parameters=1, text_bytes=10,
        align_bytes=0, rows_flops=0.0, align_flops=0.0,
    )  # fmt: skip
    bits = [{"step": s, "target_bpb": 3 - s / 8 + gap, "english_bpb": 1.0} for s in (0, 2, 4, 6, 8)]
    return Trial(size, size, 2.0 - size / 1e4, 1 + size / 1e4, plan, [{**point} for point in bits])


@pytest.mark.parametrize(
    ("gaps", "chosen"),
    [
        ({}, 0),
        ({100: 0.1, 200: 0.01}, 0),
        ({100: -0.004, 200: 0.01}, 0),
        ({100: -0.006, 200: 0.01}, 100),
        ({100: -0.1, 200: -0.2, 300: -0.15}, 200),
    ],
)
def test_the_lowest_prediction_is_chosen_if_it_is_more_than_noise(gaps: dict[int, float], chosen: int):
    choice = _choice([_trial(0, 0.0), *(_trial(size, gap) for size, gap in gaps.items())], 1000.0)
    assert choice["chosen"] == chosen
    assert choice["changes"]["vocab.size"] == chosen
    assert choice["why"].startswith(f"{chosen} new tokens")
    assert ("align.steps" in choice["changes"]) == (chosen == 0), "0 is the base as its trial was: no alignment"
    assert [row["predicted_gap"] for row in choice["rows"]] == pytest.approx([0.0, *gaps.values()])


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The processes that were started, made in this one."""
    lines: list[list[str]] = []

    def wait(line: list[str], num_processes: int, variables: dict[str, str]) -> int:
        lines.append(line[3:])
        return in_process(line, num_processes, variables)

    monkeypatch.setattr(launch, "_wait", wait)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # matrices this small only wait for a second thread
    return lines


def _auto(recipe: Path) -> None:
    """With a run that is longer than the text: a trial reads the text once, and has steps left beside its alignment."""
    text = recipe.read_text().replace("size = 30", 'size = "auto"')
    recipe.write_text(text.replace("steps = 6\n", "steps = 40\n"))


def test_sizes_from_end_to_end(recipe_file: Path, started: list[list[str]], capfd: Any):
    folder = recipe_file.parent / "runs" / "tiny-sizes"
    command = ["sizes", str(recipe_file), "--sizes", "1000,8,2000", "--trial-bytes", "2400", "--train.steps", "60"]
    assert main(command) == 0
    said = capfd.readouterr().out
    choice = json.loads((folder / "sizes.json").read_text())
    trials = folder / choice["trials"]

    # 0 is always there, and the list ends with what the text has to offer.
    assert [row["size"] for row in choice["rows"]] == [0, 8, 1000]
    assert [row["new_tokens"] for row in choice["rows"]][:2] == [0, 8] and 8 < choice["rows"][2]["new_tokens"] < 1000
    assert "so there are no larger sizes" in said
    assert sorted(path.name for path in trials.iterdir()) == ["new-0", "new-1000", "new-8"]
    assert [line[0] for line in started] == ["prepare"] + ["align", "train"] * 3

    # Equal compute, all stages counted; the base reads the text that was asked for.
    plans = [Plan.read(trials / f"new-{size}") for size in (0, 8, 1000)]
    assert abs(plans[0].bytes(plans[0].steps) - 2400) <= plans[0].bytes(1)
    assert plans[0].rows_flops == plans[0].align_flops == 0 < plans[1].align_flops
    for plan, row in zip(plans, choice["rows"], strict=True):
        assert plan.flops(plan.steps) <= choice["trial_flops"] < plan.flops(plan.steps + 1) * (1 + 1e-9)
        costs = sum(row[f"flops_{part}"] for part in ("rows", "alignment", "training"))
        assert costs == plan.flops(plan.steps) == row["curve"][-1][0]
        assert 4 <= len(row["curve"]) <= module.EVALUATIONS + 1
        assert row["end"] == row["curve"][-1][1] and row["before"] == row["curve"][0][1]
    assert choice["budget_flops"] == plans[0].flops(60) > choice["trial_flops"]
    assert choice["rows"][0]["bytes_per_token"] == 1.0 < choice["rows"][2]["bytes_per_token"]
    for row in choice["rows"]:
        curve = [tuple(point) for point in row["curve"]]
        base = [tuple(point) for point in choice["rows"][0]["curve"]]
        assert row["predicted_gap"] == predicted_gap(curve, base, choice["budget_flops"])
    assert not list(trials.glob("*/train/step-*")) and not list(trials.glob("*/export"))
    table = (folder / "table.md").read_text()
    assert table in said and table.count("**chosen**") == 1 and choice["why"] in table

    # A second start makes nothing twice and says the same.
    started.clear()
    assert main(command) == 0
    assert started == [] and json.loads((folder / "sizes.json").read_text()) == choice

    # Another length of the run is another prediction from the same trials.
    assert main([*command[:-1], "600"]) == 0
    longer = json.loads((folder / "sizes.json").read_text())
    assert started == [] and longer["budget_flops"] == pytest.approx(10 * choice["budget_flops"])

    # An interrupted trial goes on; another recipe has trials of its own.
    (trials / "new-8" / "train" / "summary.json").rename(trials / "summary.json")
    assert main(command) == 0
    assert [line[0] for line in started] == ["train"]
    assert main([*command, "--train.lr", "1e-3", "--sizes", "0"]) == 0
    assert json.loads((folder / "sizes.json").read_text())["trials"] != choice["trials"]


def test_auto_is_a_number_when_the_run_begins(recipe_file: Path, started: list[list[str]], capfd: Any):
    """`prealign run` makes the trials, takes the choice and the stages of the trial that it chose."""
    _auto(recipe_file)
    runs = recipe_file.parent / "runs"
    for command in ("prepare", "align", "train", "export", "eval"):
        assert main([command, str(recipe_file)]) == 78
        error = capfd.readouterr().err
        assert "sizes.json is missing or of another recipe" in error and f"`prealign sizes {recipe_file}`" in error
    assert started == [] and not (runs / "tiny").exists()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SIZES", (0, 8))
        patch.setattr(module, "NOISE", -10.0)  # so that the size with tokens is chosen whatever it predicts
        assert main(["run", str(recipe_file)]) == 0
    trials = ["prepare", "align", "train", "align", "train"]
    assert [line[0] for line in started] == [*trials, "prepare", "train", "export", "eval"]
    assert all("--vocab.size=8" in line for line in started[5:])
    assert "size = 8\n" in (runs / "tiny" / "recipe.toml").read_text()
    assert "align: taken from" in capfd.readouterr().out

    # The choice stands: other commands, and ranks under torchrun, take it as it is.
    started.clear()
    assert main(["eval", str(recipe_file)]) == 0 and started == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        patch.setenv("RANK", "1")
        flags, trials = module.resolve(recipe_file, ["--seed", "0"], None)
        assert flags == ["--seed", "0", "--vocab.size=8"] and trials.is_dir()
        # Another recipe, budget or text has no choice, and ranks make none.
        for changed in (["--train.lr", "1e-3"], ["--train.steps", "7"], ["--text.valid_target", "test_target.txt"]):
            assert run_recipe([str(recipe_file), *changed]) == 78
            assert main(["run", str(recipe_file), *changed]) == 78
        # What decides nothing may change.
        assert module.resolve(recipe_file, ["--train.micro_batch", "1", "--name", "tiny"], None)[1] == trials
    (recipe_file.parent / "target.txt").write_text("Das Haus.\n\n" * 200)
    assert main(["train", str(recipe_file)]) == 78
    assert started == []


def test_a_number_asks_for_no_choice(recipe_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "resolve", None)
    assert main(["prepare", str(recipe_file), "--skip", "data,init"]) == 0


def test_a_size_that_fails_is_left_out(recipe_file: Path, started: list[list[str]], capfd: Any):
    """A gate that closes, or no step left beside the alignment; the base's trial must not fail."""
    closed = ["--align.max_english_increase", "0", "--align.steps", "1"]
    assert main(["sizes", str(recipe_file), "--sizes", "8", "--trial-bytes", "1200", *closed]) == 0
    table = (recipe_file.parent / "runs" / "tiny-sizes" / "table.md").read_text()
    assert re.search(r"- 8 new tokens: left out: align: English bits per byte rose", table)
    assert "Chosen: 0 new tokens: no other size could be tried." in table
    assert main(["sizes", str(recipe_file), "--sizes", "8", "--trial-bytes", "300", "--align.steps", "50"]) == 0
    assert "left out: new-8: no training step fits" in (recipe_file.parent / "runs/tiny-sizes/table.md").read_text()


def test_what_is_refused(recipe_file: Path, started: list[list[str]], capfd: Any):
    recipe = str(recipe_file)
    for arguments, words in (
        (["sizes", recipe, "--sizes=-5"], "sizes are at least 0"),
        (["sizes", recipe, "--trial-bytes", "0"], "bytes at least 1"),
        (["sizes", recipe, "--vocab.tokenizer", "somewhere"], "vocab.tokenizer and align.rows are of one size"),
        (["demo", recipe, "--vocab.size", "auto"], "vocab.size: left open"),
        (["vecmap", recipe, "rows", "--vocab.size", "auto"], "vocab.size: left open"),
    ):
        assert main(arguments) == 78
        error = capfd.readouterr().err
        assert words in error and error.count("\n") == 1
    (recipe_file.parent / "valid_target.txt").unlink()
    assert main(["sizes", recipe]) == 66
    assert "valid_target.txt: cannot be read" in capfd.readouterr().err
    assert started == []
