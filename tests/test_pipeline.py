"""A whole tiny run under torchrun on two ranks, then everything a second start may meet.

The run is made once; tests that change something work on a copy of its folder (`--out`), with one rank in this process.
"""

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign_cpt.cli import main, run_recipe
from prealign_cpt.run.folder import ORDER
from prealign_cpt.run.manifest import verify
from tests.conftest import recipe_file

REPOSITORY = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def _torchrun(recipe: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, str(REPOSITORY / "launch" / "cpt.py"), str(recipe)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    make: Callable[..., Path] = inspect.unwrap(recipe_file)  # the fixture's function, for a scope of its own
    return make(tmp_path_factory.mktemp("pipeline"), base_folder)


@pytest.fixture(scope="module")
def first(recipe: Path) -> subprocess.CompletedProcess[str]:
    return _torchrun(recipe)


@pytest.fixture
def run(recipe: Path, first: Any) -> Path:
    """The folder of the finished run; not to be changed."""
    assert first.returncode == 0, first.stderr
    return recipe.parent / "runs" / "tiny"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of it, to be used with `--out`."""
    shutil.copytree(run, tmp_path / "runs" / "tiny")
    return tmp_path / "runs" / "tiny"


def _start(recipe: Path, copy: Path, *flags: str) -> int:
    return run_recipe([str(recipe), "--out", str(copy.parent), *flags])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _state(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "run_state.json").read_text()))


def _rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_every_stage_appears_and_verifies(run: Path, first: subprocess.CompletedProcess[str]) -> None:
    for stage in ORDER:
        assert (run / stage).is_dir(), stage
        assert f"{stage}: done" in first.stdout
        if stage != "train":
            about = verify(run / stage)["about"]
            assert about["stage"] == stage and about["seconds"] >= 0 and about["peak_mb"] > 0
    assert verify(run / "train" / "step-0000000006")["about"]["world"] == 2
    assert not list(run.rglob(".tmp-*"))
    assert _state(run) == {"status": "finished", "exit_code": 0}
    assert "train: 6 steps on 2 rank(s), cpu, fp32" in first.stdout
    assert "Traceback" not in first.stderr


def test_the_metrics_hold_each_step_and_the_evaluations(run: Path) -> None:
    rows = _rows(run)
    assert [row["step"] for row in rows] == list(range(7))
    assert [row["step"] for row in rows if "valid" in row] == [0, 3, 6]
    assert all(set(row["valid"]) == {"target_bpb", "english_bpb"} for row in rows if "valid" in row)
    assert [row["tokens"] for row in rows] == [step * 4 * 32 for step in range(7)]
    report = json.loads((run / "eval" / "report.json").read_text())
    assert set(report["models"]) == {"base", "aligned", "trained"}
    assert report["models"]["trained"]["test"]["target_bpb"] > 0


@pytest.mark.parametrize("method", ["rows", "qlora"])
def test_another_method_trains_and_exports_what_it_moves(recipe: Path, copy: Path, method: str) -> None:
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    assert _start(recipe, copy, "--redo", "train", "--train.method", method) == 0
    assert json.loads((copy / "export" / "parity.json").read_text())["faults"] == []
    new = json.loads((copy / "vocab" / "report.json").read_text())["new_tokens"]
    before, after = (AutoModelForCausalLM.from_pretrained(copy / stage).state_dict() for stage in ("align", "export"))
    for name, value in after.items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            assert torch.equal(value[:-new], before[name][:-new]) and not torch.equal(value[-new:], before[name][-new:])
        else:
            assert torch.equal(value, before[name]) == (method == "rows" or "_proj" not in name), name
    assert ("(rank 16)" if method == "qlora" else "New tokens' rows were") in (
        copy / "export" / "README.md"
    ).read_text()


def test_the_export_is_an_ordinary_model_folder(run: Path) -> None:
    export = run / "export"
    model = AutoModelForCausalLM.from_pretrained(export, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(export, local_files_only=True)
    report = json.loads((run / "vocab" / "report.json").read_text())
    assert report["new_tokens"] > 0
    assert len(tokenizer) == 420 + report["new_tokens"] == model.config.vocab_size
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert model.lm_head.weight is not model.model.embed_tokens.weight and not model.config.tie_word_embeddings
    assert json.loads((export / "parity.json").read_text())["faults"] == []
    card = (export / "README.md").read_text()
    assert "A text begins with `<|endoftext|>`" in card and "[train]" in card
    assert {path.suffix for path in export.iterdir()} <= {".json", ".safetensors", ".md", ".jinja"}


def test_a_second_start_skips_every_stage(recipe: Path, copy: Path, capsys: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    assert _start(recipe, copy) == 0
    said = capsys.readouterr().out
    for stage in ORDER:
        assert f"{stage}: done before, kept" in said
        assert f"{stage}: starts" not in said
    changed = {p.name for p, time in before.items() if p.stat().st_mtime_ns != time}
    assert changed <= {"run.lock", "run_state.json", "recipe.toml", "digests.json"}
    assert _state(copy) == {"status": "finished", "exit_code": 0}


def test_verify_finds_everything_sound_and_a_flipped_byte(run: Path, copy: Path, capsys: Any) -> None:
    assert main(["verify", str(run)]) == 0
    state, *lines = capsys.readouterr().out.splitlines()
    assert state.endswith(": state finished, exit code 0")
    assert len(lines) == len(ORDER) - 1 + 2 and all(": sound, " in line for line in lines)
    told = {line.split(": ")[0].removeprefix(f"{run}/"): line for line in lines}
    assert "step 6 of 2 rank(s)" in told["train/step-0000000006"] and "newest, LATEST" in told["train/step-0000000006"]
    assert "LATEST" not in told["train/step-0000000004"]
    assert told["export"].endswith("made from step-0000000006")
    _flip(copy / "export" / "model.safetensors")
    assert main(["verify", str(copy)]) == 65
    damaged = [line for line in capsys.readouterr().out.splitlines() if "DAMAGED" in line]
    assert len(damaged) == 1 and "export/model.safetensors" in damaged[0]


@pytest.mark.parametrize(
    ("stage", "key", "old", "new"),
    [
        ("lexicon", "lexicon.heldout", "0.2", "0.3"),
        ("lexicon", "seed", "0", "1"),
        ("vocab", "vocab.size", "30", "31"),
        ("align", "align.steps", "3", "4"),
        ("init", "train.precision", '"fp32"', '"bf16"'),
        ("data", "codeswitch.ratio", "0.5", "0.1"),
        ("data", "train.steps", "6", "8"),
        ("train", "train.clip", "1.0", "2.0"),
        ("train", "train.schedule", '"wsd"', '"cosine"'),
        ("eval", "evaluate.batch_tokens", "4096", "100"),
    ],
)
def test_a_changed_recipe_is_refused_with_the_old_and_the_new_value(
    recipe: Path, copy: Path, stage: str, key: str, old: str, new: str, capsys: Any
) -> None:
    code = _start(recipe, copy, f"--{key}", new.strip('"'))
    error = capsys.readouterr().err
    assert code == 78, error
    assert f"{key}: {old} -> {new}" in error and f"--redo {stage}" in error and "Traceback" not in error
    assert _state(copy) == {"status": "finished", "exit_code": 0}, "a refused command leaves the state as it was"


def test_a_refused_recipe_does_not_replace_the_one_that_made_the_folder(recipe: Path, copy: Path) -> None:
    assert _start(recipe, copy, "--train.clip", "2.0") == 78
    assert "clip = 1.0" in (copy / "recipe.toml").read_text()


def test_a_changed_text_is_refused(recipe: Path, copy: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(recipe.parent, tmp_path / "own", ignore=lambda *_: ["runs"])
    own = tmp_path / "own" / recipe.name
    with (own.parent / "target.txt").open("a") as file:
        file.write("\n\nEin neuer Satz.\n")
    assert _start(own, copy) == 78
    error = capsys.readouterr().err
    assert "other inputs (text.target[0:target.txt]: " in error and "start again with --redo text" in error


def test_what_does_not_decide_the_weights_may_change(recipe: Path, copy: Path, capsys: Any) -> None:
    assert _start(recipe, copy, "--train.save_every", "5", "--train.keep", "3", "--train.micro_batch", "1") == 0
    assert "train: done before, kept" in capsys.readouterr().out


def test_a_run_is_made_longer(recipe: Path, copy: Path, capsys: Any) -> None:
    """Accepted as long as the steps done so far would have been the same; here they would not have been."""
    flags = ["--train.steps", "9", "--accept", "train.steps", "--redo", "export"]
    assert _start(recipe, copy, *flags) == 78
    error = capsys.readouterr().err
    assert "--accept: train.steps: 6 -> 9: step " in error
    assert "of the 6 that are done would have had another learning rate" in error
    shutil.rmtree(copy)
    steady = ["--train.warmup", "0.0", "--train.decay", "0.0"]
    assert _start(recipe, copy, *steady) == 0
    assert _start(recipe, copy, *steady, *flags) == 0, capsys.readouterr().err
    assert [row["step"] for row in _rows(copy)] == list(range(10))
    assert _state(copy) == {"status": "finished", "exit_code": 0}
    assert verify(copy / "train" / "step-0000000009")["about"]["inputs"]["train.steps"] == 9


def test_redo_makes_a_stage_and_those_that_read_it_anew(recipe: Path, copy: Path, capsys: Any) -> None:
    assert _start(recipe, copy, "--redo", "export") == 0
    said = capsys.readouterr().out
    assert "train: done before, kept" in said and "export, eval: will be made anew" in said
    assert all(f"{stage}: done in" in said for stage in ("export", "eval"))
    assert (copy / "redone-1" / "export" / "model.safetensors").is_file()
    assert _start(recipe, copy, "--redo", "nonsense") == 78
    assert "not a stage" in capsys.readouterr().err


def test_other_evaluation_settings_cost_no_training(recipe: Path, copy: Path, capsys: Any) -> None:
    flags = ["--evaluate.max_bytes", "2000"]
    assert _start(recipe, copy, *flags) == 78
    assert "--redo eval" in capsys.readouterr().err
    assert _start(recipe, copy, *flags, "--redo", "eval") == 0
    said = capsys.readouterr().out
    assert "train: done before, kept" in said and "export: done before, kept" in said


def _without(copy: Path, *stages: str) -> None:
    for stage in stages:
        shutil.rmtree(copy / stage)


@pytest.mark.parametrize("name", ["align/model.safetensors", "data/target/00000-000.inputs.npy"])
def test_training_does_not_start_from_a_damaged_stage(recipe: Path, copy: Path, name: str, capsys: Any) -> None:
    _without(copy, "train", "export", "eval")
    _flip(copy / name)
    assert _start(recipe, copy) == 65
    assert name in capsys.readouterr().err
    assert not (copy / "export").exists() and not list(copy.glob("train/step-*"))


def test_an_older_checkpoint_is_never_exported_in_place_of_the_last(recipe: Path, copy: Path, capsys: Any) -> None:
    _without(copy, "export", "eval")
    _flip(copy / "train" / "step-0000000006" / "__0_0.distcp")
    assert _start(recipe, copy) in (65, 66)
    assert "--redo train" in capsys.readouterr().err.splitlines()[-1]
    assert not (copy / "export").exists()


def test_a_damaged_export_is_not_scored(recipe: Path, copy: Path, capsys: Any) -> None:
    _without(copy, "eval")
    _flip(copy / "export" / "model.safetensors")
    assert _start(recipe, copy) == 65
    assert "export/model.safetensors: damaged" in capsys.readouterr().err
    assert not (copy / "eval").exists()


def test_no_new_tokens_and_bf16_work_from_end_to_end(recipe: Path, tmp_path: Path, capsys: Any) -> None:
    flags = ["--vocab.size", "0", "--train.precision", "bf16", "--train.checkpoint_activations", "full"]
    assert _start(recipe, tmp_path / "runs" / "tiny", *flags) == 0, capsys.readouterr().err
    export = tmp_path / "runs" / "tiny" / "export"
    tokenizer = AutoTokenizer.from_pretrained(export, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(export, local_files_only=True)
    assert len(tokenizer) == model.config.vocab_size == 420
    assert model.dtype == torch.bfloat16
    assert _state(export.parent) == {"status": "finished", "exit_code": 0}
