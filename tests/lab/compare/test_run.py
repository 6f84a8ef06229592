"""Tiny grids from end to end: budgets, shared stages, failing variants, interruptions, points and tables."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from prealign_cpt.cli import main
from prealign_cpt.data.mixture import Mixture, PackedText
from prealign_cpt.lab.compare.budget import Plan, plan
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run import launch, signals
from tests.lab.compare.conftest import in_process

real_wait = launch._wait

Write = Callable[[str], Path]

VARIANTS = """
seeds = [0, 1]
target_bytes = 2400
reference = "subword"
[[variant]]
name = "base"
vocab.size = 0
align = { steps = 0, calibrate = 0.0 }
[[variant]]
name = "subword"
align = { init = "subword", steps = 0, calibrate = 0.0 }
codeswitch.ratio = 0.0
"""
ALIGNED = """
[[variant]]
name = "aligned"
align = { init = "subword", steps = 3, calibrate = 0.0, target_tokens = 128 }
"""
BROKEN = """
[[variant]]
name = "broken"
align = { init = "subword", steps = 3, target_tokens = 128, lr = 1e30 }
"""


def _compare(recipe: Path, variants: Path, *flags: str) -> int:
    return main(["compare", str(recipe), "--variants", str(variants), "--train.save_every", "100", *flags])


def _points(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "points.jsonl").read_text().splitlines()]


def _table(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["variant"]: row for row in json.loads((folder / "table.json").read_text())[0]["variants"]}


def test_a_grid_with_a_failing_variant(
    recipe_file: Path, variants_file: Write, started: list[list[str]], capsys: pytest.CaptureFixture[str]
):
    variants, runs = variants_file(VARIANTS + BROKEN), recipe_file.parent / "runs"
    folder = runs / "compare-tiny"
    assert _compare(recipe_file, variants) == 1
    said = capsys.readouterr().out

    # Each variant is an ordinary run; the stages before training are made once for all that share their inputs.
    names = sorted(path.name for path in runs.iterdir() if path != folder)
    assert names == sorted(f"tiny-{variant}-s{seed}" for variant in ("base", "subword", "broken") for seed in (0, 1))
    assert said.count("lexicon: starts") == 2 and said.count("lexicon: taken from") == 4, "the split hangs on the seed"
    assert said.count("vocab: starts") == 2 and said.count("vocab: taken from") == 4, "with and without new tokens"
    inodes = {
        (runs / name / "vocab" / "tokenizer.json").stat().st_ino for name in ("tiny-subword-s0", "tiny-broken-s1")
    }
    assert len(inodes) == 1

    # The variant that fails is marked with its one line; the others are finished.
    table = _table(folder)
    assert {name: row["seeds"] for name, row in table.items()} == {"base": [0, 1], "subword": [0, 1], "broken": []}
    assert set(table["broken"]["not_finished"]) == {"0", "1"}
    assert "failed: align" in table["broken"]["not_finished"]["0"]
    text = (folder / "table.md").read_text()
    assert text in said
    assert "| `broken` **not finished** | yes | 0 of 2 |" in text and "- `broken`, seed 1: failed: align" in text

    # Bytes: the same for every tokenizer, within a step.
    for name in ("tiny-base-s0", "tiny-base-s1", "tiny-subword-s0", "tiny-subword-s1"):
        budget = Plan.read(runs / name)
        step = budget.sequences * budget.sequence_length * 0.75 * budget.bytes_per_token
        assert abs(budget.bytes(budget.steps) - 2400) <= step
        assert abs(_read_from_disk(runs / name, budget) - budget.bytes(budget.steps)) <= 0.1 * step * budget.steps
        assert f"steps = {budget.steps}\n" in (runs / name / "recipe.toml").read_text()
    assert Plan.read(runs / "tiny-base-s0").steps > Plan.read(runs / "tiny-subword-s0").steps

    # Points: the curve and the test figures of each finished run, with cumulative costs.
    points = _points(folder)
    assert {(p["variant"], p["seed"]) for p in points} == {
        (variant, seed) for variant in ("base", "subword") for seed in (0, 1)
    }
    own, budget = (
        [p for p in points if p["run"] == "tiny-base-s1" and p["stage"] == "text"],
        Plan.read(runs / "tiny-base-s1"),
    )
    assert [p["set"] for p in own] == ["valid"] * (len(own) - 1) + ["test"]
    assert own[0]["step"] == own[0]["bytes"] == own[0]["flops"] == 0
    assert own[-1]["step"] == own[-2]["step"] == budget.steps and own[-1]["flops"] == budget.flops(budget.steps)
    report = json.loads((runs / "tiny-base-s1" / "eval" / "report.json").read_text())["models"]["trained"]
    assert own[-1]["target_bpb"] == report["test"]["target_bpb"]
    assert own[-1]["retrieval_heldout"] == report["retrieval"]["p1"]
    assert own[-1]["retrieval_seen"] == report["retrieval"]["seen_p1"]
    assert {p["switching"] for p in points if p["variant"] == "subword"} == {False}

    # The table: means over seeds, differences on the windows of the test text.
    ended = [p for p in points if p["set"] == "test" and p["stage"] == "text"]
    figures = [p["target_bpb"] for p in ended if p["variant"] == "base"]
    assert table["base"]["test"]["target_bpb"]["mean"] == pytest.approx(sum(figures) / 2)
    assert table["base"]["test"]["target_bpb"]["sd"] == pytest.approx(abs(figures[0] - figures[1]) / math.sqrt(2))
    gap = table["base"]["test_target_difference"]
    means = [table[variant]["test"]["target_bpb"]["mean"] for variant in ("base", "subword")]
    assert gap["mean"] == pytest.approx(means[0] - means[1], abs=2e-4)
    assert gap["low"] <= gap["mean"] <= gap["high"]
    assert "test_target_difference" not in table["subword"]

    assert all(list(run.glob("train/step-*")) for run in runs.glob("tiny-base-*"))

    # A second start runs nothing but what failed, and writes nothing twice.
    started.clear()
    times = {path: path.stat().st_mtime_ns for path in runs.glob("tiny-*/eval/report.json")}
    assert _compare(recipe_file, variants, "--only", "subword,base") == 0
    assert started == [] and _points(folder) == points
    assert times == {path: path.stat().st_mtime_ns for path in runs.glob("tiny-*/eval/report.json")}

    # `--table-only` needs no run; points of other runs in the file stay.
    extra = json.dumps({"language": "Klingon", "run": "other"})
    (folder / "points.jsonl").write_text((folder / "points.jsonl").read_text() + extra + "\n")
    (folder / "table.md").unlink()
    assert _compare(recipe_file, variants, "--table-only") == 1
    assert started == [] and (folder / "table.md").read_text() == text
    assert [p for p in _points(folder) if p["run"] != "other"] == points and len(_points(folder)) == len(points) + 1

    # Another budget is refused by the runs that are there, not mixed with them; other seeds are left alone.
    assert _compare(recipe_file, variants, "--only", "base", "--seeds", "0", "--target-bytes", "4000") == 1
    base = _table(folder)["base"]
    assert "made from other inputs" in base["not_finished"].pop("0")
    assert base["seeds"] == [1] and not base["not_finished"]


def test_equal_text_and_equal_compute(recipe_file: Path, variants_file: Write, started: list[list[str]]):
    """Both readings of one grid, over a text of exactly the bytes that the base reads once."""
    size = (recipe_file.parent / "target.txt").stat().st_size
    (recipe_file.parent / "test_target.txt").write_text("Die Kinder gehen am Morgen ans Meer. Das Wasser ist kalt.")
    text = VARIANTS.replace("[0, 1]", '[0]\nbudget = ["bytes", "flops"]').replace("2400", str(size))
    text = text.replace('reference = "subword"\n', "") + ALIGNED
    runs = recipe_file.parent / "runs"
    assert _compare(recipe_file, variants_file(text)) == 0
    plans = {run.name: Plan.read(run) for run in runs.glob("tiny-*")}

    # Equal text: each trains on the text once, whatever its stages before read of it, and that is counted.
    for variant in ("base", "subword", "aligned"):
        once = plans[f"tiny-{variant}-s0"]
        step = once.sequences * once.sequence_length * 0.75 * once.bytes_per_token
        assert abs(once.bytes(once.steps) - once.align_bytes - size) <= step, variant
    # Equal compute: as many steps as fit into the base's FLOPs, so the text is read again.
    most = plans["tiny-base-s0"].flops(plans["tiny-base-s0"].steps)
    for variant in ("subword", "aligned"):
        again = plans[f"tiny-{variant}-s0-flops"]
        assert again.flops(again.steps) <= most < again.flops(again.steps + 1), variant
    assert plans["tiny-subword-s0-flops"].steps > plans["tiny-subword-s0"].steps
    read = [json.loads((runs / name / "data" / "report.json").read_text()) for name in ("tiny-subword-s0-flops",)]
    assert read[0]["sequences_used"]["target"] > read[0]["target"]["sequences"], "more than one pass"
    # The base costs what it costs: it is run once and stands for both.
    assert (runs / "tiny-base-s0-flops").readlink() == Path("tiny-base-s0")
    assert sum("base-s0" in " ".join(line) for line in started) == 2, "align and run"

    points = _points(runs / "compare-tiny")
    tests = {(p["variant"], p["stage"]): p for p in points if p["set"] == "test"}
    assert set(tests) == {(v, s) for v in ("base", "subword", "aligned") for s in ("before", "text", "compute")}
    assert sum(p["set"] == "test" for p in points) == 9
    models = {v: json.loads((runs / f"tiny-{v}-s0" / "eval" / "report.json").read_text())["models"] for v in FIRST}
    for variant, name in FIRST.items():
        assert tests[variant, "before"]["target_bpb"] == models[variant][name]["test"]["target_bpb"]
        assert tests[variant, "text"]["target_bpb"] == models[variant]["trained"]["test"]["target_bpb"]
    before, after = tests["aligned", "before"], tests["aligned", "compute"]
    assert before["flops"] == before["flops_alignment"] > 0 == before["flops_training"] == before["step"]
    assert after["flops"] == after["flops_rows"] + after["flops_alignment"] + after["flops_training"]
    assert after["passes"] == pytest.approx(after["bytes"] / size, rel=0.05) and after["passes"] > 1
    assert tests["base", "text"]["target_bpb"] == tests["base", "compute"]["target_bpb"]
    assert tests["base", "text"]["share_of_base_tokens"] == 1.0 > tests["subword", "text"]["share_of_base_tokens"]
    words = (recipe_file.parent / "test_target.txt").read_text()
    tokens = AutoTokenizer.from_pretrained(runs / "tiny-subword-s0" / "align", local_files_only=True)(words).input_ids
    assert tests["subword", "text"]["tokens_per_word"] == pytest.approx(len(tokens) / len(words.split()))
    assert tests["subword", "text"]["bytes_per_token"] == pytest.approx(len(words.encode()) / len(tokens))

    tables = json.loads((runs / "compare-tiny" / "table.json").read_text())
    assert [(table["budget"], table["reference"]) for table in tables] == [("bytes", "base"), ("flops", "base")]
    assert all(row["seeds"] == [0] for table in tables for row in table["variants"])
    shown = (runs / "compare-tiny" / "table.md").read_text()
    assert ", equal text\n" in shown and ", equal compute\n" in shown

    # A second start changes nothing.
    started.clear()
    assert _compare(recipe_file, variants_file(text)) == 0
    assert started == [] and _points(runs / "compare-tiny") == points


FIRST = {"base": "base", "subword": "aligned", "aligned": "aligned"}
"""The model before training, by variant, as the evaluation's report calls it."""


def test_a_second_budget_waits_for_the_first(
    recipe_file: Path, variants_file: Write, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
):
    text = VARIANTS.replace("[0, 1]", '[0]\nbudget = ["bytes", "flops"]')
    with monkeypatch.context() as patch:
        patch.setattr(launch, "_wait", lambda line, num_processes, variables: -9)
        assert _compare(recipe_file, variants_file(text), "--only", "subword") == 1
    runs = recipe_file.parent / "runs"
    assert not (runs / "tiny-subword-s0-flops").exists()
    assert _compare(recipe_file, variants_file(text), "--only", "subword") == 0
    assert (runs / "tiny-subword-s0-flops").is_symlink()


def _read_from_disk(run: Path, budget: Plan) -> int:
    """Bytes of the target sequences that the training read, decoded, and of the alignment stage."""
    tokenizer = AutoTokenizer.from_pretrained(run / "align", local_files_only=True)
    target, english = (PackedText(run / "data" / name) for name in ("target", "english"))
    mixture = Mixture([target], [english], budget.english_share, int(run.name[-1]))
    located = (mixture.locate(n) for n in range(budget.steps * budget.sequences))
    rows = [target.row(row)[0] for name, _, row in located if name == "target"]
    return budget.align_bytes + sum(len(tokenizer.decode(r, skip_special_tokens=True).encode()) for r in rows)


def test_equal_flops(recipe_file: Path, variants_file: Write, started: list[list[str]]):
    text = (VARIANTS + ALIGNED).replace("[0, 1]", '[0]\nbudget = "flops"\nkeep_checkpoints = false')
    assert _compare(recipe_file, variants_file(text)) == 0
    starts = len(started)
    assert _compare(recipe_file, variants_file(text)) == 0 and len(started) == starts, (
        "finished without its checkpoints too"
    )
    assert not list((recipe_file.parent / "runs").glob("*/train/step-*"))
    plans = {
        variant: Plan.read(recipe_file.parent / "runs" / f"tiny-{variant}-s0")
        for variant in ("base", "subword", "aligned")
    }
    most = plans["subword"].flops(plans["subword"].steps)
    for variant, budget in plans.items():
        assert budget.flops(budget.steps) <= most * (1 + 1e-9) < budget.flops(budget.steps + 1), variant
    assert plans["base"].parameters < plans["subword"].parameters, "more tokens, a larger head"
    assert plans["base"].bytes(plans["base"].steps) < plans["subword"].bytes(plans["subword"].steps)
    # What the alignment stage reads and costs is part of it.
    aligned = plans["aligned"]
    assert aligned.align_bytes >= 128 and aligned.align_flops > 0 == plans["subword"].align_flops
    point = next(p for p in _points(recipe_file.parent / "runs" / "compare-tiny") if p["variant"] == "aligned")
    assert (point["step"], point["bytes"], point["flops"]) == (0, aligned.align_bytes, aligned.align_flops)
    flags = ["--name=tiny-aligned-s0", "--align.init=subword", "--align.steps=3", "--align.target_tokens=128"]
    by_bytes = plan(load_recipe(recipe_file, flags), 2400)
    step = 4 * 32 * 0.75 * by_bytes.bytes_per_token
    assert abs(by_bytes.bytes(by_bytes.steps) - aligned.align_bytes - 2400) <= step


def test_an_alignment_stage_that_uses_the_budget_up(recipe_file: Path, variants_file: Write, started: list[list[str]]):
    text = (VARIANTS + ALIGNED).replace("2400", "300").replace("[0, 1]", '[0]\nbudget = "flops"')
    assert _compare(recipe_file, variants_file(text), "--only", "subword,aligned") == 1
    reason = _table(recipe_file.parent / "runs" / "compare-tiny")["aligned"]["not_finished"]["0"]
    assert "no training step fits into the budget" in reason and "before training use" in reason


def test_a_run_that_dies_without_a_word(recipe_file: Path, variants_file: Write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch, "_wait", lambda line, num_processes, variables: -9)
    assert _compare(recipe_file, variants_file(VARIANTS)) == 1
    for row in _table(recipe_file.parent / "runs" / "compare-tiny").values():
        assert "killed by SIGKILL" in row["not_finished"]["0"]


def test_what_is_wrong_is_said_before_anything_starts(
    recipe_file: Path, variants_file: Write, started: list[list[str]], capfd: pytest.CaptureFixture[str]
):
    variants = variants_file(VARIANTS)
    (recipe_file.parent / "lexicon.tsv").rename(recipe_file.parent / "elsewhere.tsv")
    for flags, code, message in (
        (["--only", "base,other"], 78, "--only: 'other' is no variant"),
        (["--seeds", "0,7"], 78, "--seeds: 7 is no seed of"),
        (["--train.stepz", "3"], 78, "--train.stepz: unknown key"),
        (["--name", "a/b"], 78, "name: 'a/b' must be a plain folder name"),
        ([], 66, "lexicon.tsv: no such file"),
    ):
        assert _compare(recipe_file, variants, *flags) == code
        lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("prealign:")]
        assert len(lines) == 1 and message in lines[0]
    assert main(["compare", str(recipe_file), str(recipe_file), "--variants", str(variants)]) == 78
    assert "two recipes of one name" in capfd.readouterr().err
    assert started == [] and not list((recipe_file.parent / "runs").glob("tiny-*"))


def test_points_that_are_no_points(recipe_file: Path, variants_file: Write, tmp_path: Path, capfd: Any):
    (tmp_path / "points.jsonl").write_text('{"run": "a"}\nnonsense\n')
    assert _compare(recipe_file, variants_file(VARIANTS), "--table-only", "--out", str(tmp_path / "points.jsonl")) == 65
    assert "points.jsonl:2: not a JSON object" in capfd.readouterr().err


def test_sigterm_stops_a_run_and_a_second_start_goes_on(
    recipe_file: Path, variants_file: Write, started: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A signal while a process trains: the comparison stops it, waits for it and ends; what was done is kept."""
    variants, runs = variants_file(VARIANTS.replace("[0, 1]", "[0]")), recipe_file.parent / "runs"
    script = tmp_path / "train.py"
    script.write_text(
        "import os, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (open({str(tmp_path / 'stopped')!r}, 'w').close(), sys.exit(75)))\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )

    def wait(line: list[str], num_processes: int, variables: dict[str, str]) -> int:
        if len(started) == 3:  # the second variant's training
            return real_wait([sys.executable, str(script)], num_processes, variables)
        return in_process(line, num_processes, variables)

    with monkeypatch.context() as patch:
        patch.setattr(launch, "_wait", wait)
        assert _compare(recipe_file, variants) == 75
    assert (tmp_path / "stopped").exists()
    assert (runs / "tiny-subword-s0" / "eval").is_dir() and not (runs / "tiny-base-s0" / "eval").exists()
    started.clear()
    signals._requested = None  # as in a new process
    assert _compare(recipe_file, variants) == 0
    assert len(started) == 1 and '--name="tiny-base-s0"' in started[0] and started[0][3] == "run"
