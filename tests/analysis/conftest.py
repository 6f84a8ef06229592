"""A finished run on English-Clone, made once."""

from pathlib import Path

import pytest

from prealign_cpt.cli import main
from tests.lab.clone import conftest as of_clones

clone_folder = of_clones.clone_folder


@pytest.fixture(scope="session")
def clone_run(tmp_path_factory: pytest.TempPathFactory, clone_folder: Path) -> Path:
    """A finished run of nine steps on English-Clone, whose new tokens are no English ones; not to be changed."""
    out = tmp_path_factory.mktemp("clones")
    flags = ["--device", "cpu", "--train.precision", "fp32", "--align.steps", "0", "--align.init", "mean"]
    flags += ["--train.steps", "9", "--train.sequences", "2", "--train.save_at", "log", "--evaluate.mixed_prompts", "0"]
    assert main(["export", str(clone_folder / "recipe.toml"), "--out", str(out), *flags]) == 0
    return out / "lab"
