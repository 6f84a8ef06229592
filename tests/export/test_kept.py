"""`prealign export RUN --step N`: any kept step becomes the folder that the export stage would have made of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from prealign_cpt.cli import main
from prealign_cpt.run.manifest import verify
from prealign_cpt.train.checkpoint import KEPT
from prealign_cpt.verify import inspect


@pytest.fixture
def run(kept_run: Path, tmp_path: Path) -> Path:
    """A copy elsewhere, as a run that was moved."""
    return Path(shutil.copytree(kept_run, tmp_path / "moved"))


def test_a_milestone_and_the_last_step(run: Path, capsys: Any) -> None:
    assert main(["export", str(run), "--step", "2"]) == 0
    assert capsys.readouterr().out.endswith(f"{run / 'export-step2'}\n")
    assert main(["export", str(run), "--step", "6", "--out", str(run.parent / "last")]) == 0
    verify(run / "export-step2")
    at_2, last, exported = (load_file(folder / "model.safetensors") for folder in (
        run / "export-step2", run.parent / "last", run / "export"
    ))  # fmt: skip
    assert all(torch.equal(last[name], exported[name]) for name in exported)
    assert at_2.keys() == last.keys() and not all(torch.equal(at_2[name], last[name]) for name in last)
    for folder in (run / "export-step2", run.parent / "last"):
        assert json.loads((folder / "parity.json").read_text())["faults"] == []
    names = {path.name for path in (run / "export").iterdir()}
    assert {path.name for path in (run / "export-step2").iterdir()} == names
    card = (run / "export-step2" / "README.md").read_text()
    assert "2 of 6 steps" in card and "after step 0" in card and "after step 6" not in card
    assert AutoModelForCausalLM.from_pretrained(run / "export-step2").dtype == torch.bfloat16
    findings = inspect(run)
    assert not any(finding.damaged for finding in findings)
    assert sum("milestone, step 2 of 1 rank(s)" in finding.text for finding in findings) == 1


def test_what_is_not_there_is_told_in_one_line(run: Path, capsys: Any) -> None:
    assert main(["export", str(run), "--step", "3"]) == 78
    assert "--step 3: not kept" in (told := capsys.readouterr().err) and "there are 1, 2, 4, 6" in told
    assert told.count("\n") == 1
    assert main(["export", str(run / "align"), "--step", "3"]) == 66
    assert "no recipe.toml" in capsys.readouterr().err
    assert main(["export", str(run), "--step", "1", "--out", str(run / "export")]) == 74
    assert "exists already" in capsys.readouterr().err
    assert not list(run.glob(".tmp*")) and not (run / "export-step3").exists()


def test_a_damaged_milestone_is_refused(run: Path, capsys: Any) -> None:
    path = next((run / "train" / KEPT / "step-0000000001").glob("*.distcp"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert main(["export", str(run), "--step", "1"]) == 65
    assert path.name in capsys.readouterr().err and not (run / "export-step1").exists()


def test_weights_of_another_step_do_not_pass(run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate compares with what the trainer gave at that very step."""
    from prealign_cpt.export import kept

    def swapped(folder: Path) -> dict[int, Path]:
        return {1: folder / "train" / KEPT / "step-0000000001"}

    real = kept.verify
    other = verify(run / "train" / "step-0000000006")["about"]["probe"]

    def changed(path: Path) -> dict[str, Any]:
        manifest = real(path)
        return manifest | {"about": manifest["about"] | {"probe": other}}

    monkeypatch.setattr(kept, "kept", swapped)
    monkeypatch.setattr(kept, "verify", changed)
    assert main(["export", str(run), "--step", "1"]) == 79
    assert "differs from the trained one" in capsys.readouterr().err
    assert (run / "export-step1.rejected").is_dir() and not (run / "export-step1").exists()
    assert main(["export", str(run), "--step", "1", "--accept", "export"]) == 0


def test_a_step_of_another_recipe_is_refused(run: Path, capsys: Any) -> None:
    assert main(["export", str(run), "--step", "1", "--train.lr", "0.5"]) == 78
    assert "train.lr" in capsys.readouterr().err
