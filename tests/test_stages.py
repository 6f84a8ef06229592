"""What a change of a recipe key makes anew, as the stages' inputs say it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from prealign_cpt.recipe.file import anywhere, keys, load_recipe
from prealign_cpt.run.digests import Digests
from prealign_cpt.run.folder import ORDER
from prealign_cpt.run.manifest import new_folder
from prealign_cpt.stages import READS, inputs, made_anew


def test_nothing_depends_on_the_evaluation() -> None:
    assert list(READS) == list(ORDER)
    assert not any("eval" in reads.stages for reads in READS.values())
    assert all(made_anew(key) == ["eval"] for key in keys() if key.startswith("evaluate."))


def test_a_stage_reads_only_earlier_ones() -> None:
    for stage, reads in READS.items():
        assert set(reads.stages) <= set(ORDER[: ORDER.index(stage)])


CHANGED: dict[str, Any] = {"lexicon.format": "muse", "codeswitch.labels": "vanilla", "train.precision": "bf16"}


@pytest.mark.parametrize("key", ["lexicon.heldout", "vocab.size", "align.steps", "train.clip", "evaluate.max_bytes"])
def test_the_inputs_of_a_stage_follow_the_table(recipe_file: Path, tmp_path: Path, key: str) -> None:
    """A stage's own inputs change with a key if and only if the table says that the stage reads it."""
    folders = {}
    for stage in ORDER:
        folders[stage] = tmp_path / stage
        with new_folder(folders[stage], {}) as folder:
            (folder / "out.txt").write_text(stage)
    recipe = load_recipe(recipe_file)
    section, name = key.split(".")
    part = getattr(recipe, section)
    changed = dataclasses.replace(recipe, **{section: dataclasses.replace(part, **{name: getattr(part, name) * 2 + 1})})
    digests = Digests(tmp_path / "digests.json")
    for stage, reads in READS.items():
        named = any(key == own or key.startswith(f"{own}.") for own in reads.keys)
        differ = inputs(stage, recipe, digests, folders) != inputs(stage, changed, digests, folders)
        assert differ == named, stage


def test_a_recipe_means_the_same_files_from_anywhere(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(recipe_file)
    moved = anywhere(recipe)
    monkeypatch.chdir("/")
    assert Path(moved.text.target[0]).is_file() and Path(moved.lexicon.path).is_file()
    assert moved.run.is_absolute() and anywhere(moved) == moved
