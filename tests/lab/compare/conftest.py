"""Grids of tiny runs, made in this process instead of one each."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.cli import main, run_recipe
from prealign_cpt.run import launch

STARTED: list[list[str]] = []
"""The command lines that the comparison started."""


def in_process(line: list[str], num_processes: int, variables: dict[str, str]) -> int:
    """What `_wait` does, without a process of its own."""
    STARTED.append(line)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        command, recipe, *flags = line[3:]
        return run_recipe([recipe, *flags[:-2]]) if command == "run" else main([command, recipe, *flags])


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    STARTED.clear()
    monkeypatch.setattr(launch, "_wait", in_process)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # matrices this small only wait for a second thread
    return STARTED


@pytest.fixture
def variants_file(tmp_path: Path) -> Callable[[str], Path]:
    """Write a variants file."""

    def write(text: str) -> Path:
        path = tmp_path / "variants.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write
