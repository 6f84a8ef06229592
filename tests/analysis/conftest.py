"""A tiny finished run that kept milestones, made once."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.cli import main
from tests.conftest import recipe_file


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    """Its folder, with everything up to the export; not to be changed."""
    make: Callable[..., Path] = inspect.unwrap(recipe_file)
    path = make(tmp_path_factory.mktemp("kept"), base_folder)
    assert main(["export", str(path), "--train.save_at", "log", "--train.precision", "bf16"]) == 0
    return path.parent / "runs" / "tiny"
