"""Every recipe in launch/recipes parses, names a lexicon that is there, and survives the way to TOML and back."""

import tomllib
from pathlib import Path

import pytest

from prealign_cpt.recipe.file import as_dict, as_toml, load_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "launch" / "recipes").glob("*.toml"))


def test_recipes_ship():
    assert {"demo_de.toml", "demo_ru.toml"} <= {path.name for path in RECIPES}
    names = [load_recipe(path).name for path in RECIPES]
    assert len(set(names)) == len(names), "two recipes would share a run folder"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREALIGN_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(path)
    assert tomllib.loads(as_toml(recipe)) == as_dict(recipe)
    lexicon = recipe.path(recipe.lexicon.path)
    assert lexicon.is_file(), f"{path.name} names {lexicon}"
    if recipe.lexicon.format == "tsv":
        with lexicon.open(encoding="utf-8") as lines:
            pairs = [line for line in lines if not line.startswith("#")]
        assert len(pairs) > 1000 and all(line.count("\t") == 1 for line in pairs)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_texts_come_from_the_cache_and_training_never_sees_held_out_files(path: Path):
    text = load_recipe(path).text
    training = set(text.target + text.english)
    held_out = [text.valid_target, text.valid_english, text.test_target, text.test_english]
    held_out += [name for name in (text.general_target, text.general_english) if name]
    assert len(set(held_out)) == len(held_out) and not training & set(held_out)
    assert all(name.startswith("cache:") for name in training | set(held_out))
