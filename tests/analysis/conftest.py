"""A tiny finished run that kept milestones, made once."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.cli import main
from tests.conftest import recipe_file
from tests.lab.clone import conftest as of_clones

clone_folder = of_clones.clone_folder


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    """Its folder, with everything up to the export; not to be changed."""
    make: Callable[..., Path] = inspect.unwrap(recipe_file)
    path = make(tmp_path_factory.mktemp("kept"), base_folder)
    flags = ["--out", str(path.parent / "runs"), "--train.save_at", "log", "--train.precision", "bf16"]
    assert main(["export", str(path), *flags]) == 0
    return path.parent / "runs" / "tiny"


@pytest.fixture(scope="session")
def clone_run(tmp_path_factory: pytest.TempPathFactory, clone_folder: Path) -> Path:
    """A finished run of nine steps on English-Clone, whose new tokens are no English ones; not to be changed."""
    out = tmp_path_factory.mktemp("clones")
    flags = ["--device", "cpu", "--train.precision", "fp32", "--align.steps", "0", "--align.init", "mean"]
    flags += ["--train.steps", "9", "--train.sequences", "2", "--train.save_at", "log", "--evaluate.mixed_prompts", "0"]
    assert main(["export", str(clone_folder / "recipe.toml"), "--out", str(out), *flags]) == 0
    return out / "lab"
