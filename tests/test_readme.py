"""The README's promises: its commands exist, its links lead somewhere, and the demo runs (on a reduced recipe)."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import make_model

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PREALIGN = Path(sys.executable).parent / "prealign"


def test_the_two_commands_are_make_targets_and_ci_runs_the_same():
    assert re.findall(r"^    make (\w+) ", README, re.M) == ["demo", "evidence", "test"]
    for target in ("demo", "evidence", "test"):
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_link_to_a_file_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_recipe_and_script_that_is_named_exists():
    named = re.findall(r"launch/[\w./-]+\.(?:toml|py)", README)
    assert len(named) > 3
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_command_of_the_readme_is_a_command():
    listed = subprocess.run([PREALIGN, "-h"], capture_output=True, text=True, check=True).stdout
    commands = set(re.search(r"\{([\w,]+)\}", listed).group(1).split(","))
    named = {word for words in re.findall(r"`?prealign ([a-z|\\]+)", README) for word in re.split(r"[\\|]+", words)}
    assert len(named) >= 10
    assert named - {"_cpt"} <= commands


@pytest.mark.slow
def test_the_demo_runs_and_a_second_call_keeps_what_is_done(recipe_file: Path, tmp_path: Path, tokenizer):
    base = tmp_path / "base"
    make_model(len(tokenizer), hidden=128, spread=0.05).save_pretrained(
        base
    )  # vLLM's CPU attention wants heads of 32 or more
    tokenizer.save_pretrained(base)
    (tmp_path / "general.txt").write_text("Niemand spricht.\n\nDas Haus ist alt.", encoding="utf-8")
    command = [PREALIGN, "demo", recipe_file, "--evidence", "--base.model", base, "--serve.max_model_len", "256"]
    command += ["--serve.prompts_target", '["Das alte Haus"]', "--serve.prompts_english", '["The old house"]']
    command += ["--text.general_target", "general.txt", "--text.general_english", "valid_english.txt"]
    first = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[:5000]
    run = tmp_path / "runs" / "tiny"
    result = json.loads((run / "report" / "result.json").read_text())
    models = {"base", "extended, before training", "ours", "base, trained", "subword-mean rows, trained"}
    assert set(result["models"]) == models
    for scores in result["models"].values():
        assert scores["target_bpb"] > 0 and scores["english_bpb"] > 0
    assert all(0 <= p1 <= 1 for p1 in result["retrieval_heldout_p1"].values())
    assert result["fertility"]["after"] < result["fertility"]["before"]
    assert result["unreachable_tokens"] == 0
    assert 0 <= result["english_lines_changed"] <= 1
    assert {"lexicon", "vocab", "data", "init", "align", "train", "export", "eval"} <= set(result["stages"])
    assert all(stage["seconds"] >= 0 and stage["peak_mb"] > 0 for stage in result["stages"].values())
    served = json.loads((run / "serve" / "result.json").read_text())
    assert served["parity"]["max_logprob_difference"] <= 1e-5
    assert [answer["prompt"] for answer in served["answers"]] == ["Das alte Haus", "The old house"]
    assert all(answer[kind]["finish_reason"] for answer in served["answers"] for kind in ("greedy", "sampled"))
    assert 0 <= served["ends"]["stopped"] <= served["ends"]["asked"] > 0
    assert "<svg" in (run / "report" / "index.html").read_text()
    steps = (run / "metrics.jsonl").read_text()

    second = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr[-3000:]
    assert ": starts" not in second.stdout and "serve: done before, kept" in second.stdout
    assert (run / "metrics.jsonl").read_text() == steps
