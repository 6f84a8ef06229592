"""The arms file: what it may say, and what each run then is."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.lab.compare.arms import jobs, read_grid
from prealign_cpt.run.errors import MissingInputError, RecipeError

GOOD = """
seeds = [3, 0]
target_bytes = 1000
[[arm]]
name = "ours"
align.init = "subword+lexicon"
"codeswitch.ratio" = 0.25
[[arm]]
name = "subword"
switching = false
[arm.align]
init = "subword"
steps = 0
"""


def test_every_arm_and_seed_is_a_run_the_reference_first(recipe_file: Path, arms_file: Callable[[str], Path]):
    grid = read_grid(arms_file(GOOD))
    assert (grid.seeds, grid.budget, grid.reference) == ((3, 0), "bytes", "subword")
    found = jobs(grid, recipe_file, ["--train.lr", "1e-3", "--codeswitch.ratio", "0.1"])
    assert [job.run.name for job in found] == ["tiny-subword-s3", "tiny-ours-s3", "tiny-subword-s0", "tiny-ours-s0"]
    subword, ours = found[0].recipe, found[1].recipe
    assert (subword.align.init, subword.align.steps, subword.seed) == ("subword", 0, 3)
    assert (ours.align.init, ours.align.steps, ours.seed) == ("subword+lexicon", 3, 3)
    assert (subword.train.lr, ours.train.lr) == (1e-3, 1e-3)
    assert (subword.codeswitch.ratio, ours.codeswitch.ratio) == (0.1, 0.25), "an arm's key goes before a flag"
    assert not subword.evaluate.before_training and not ours.evaluate.before_training
    assert (found[0].switching, found[1].switching) == (False, True), "the label, or else what the recipe does"


def test_an_arm_may_ask_for_its_stages_to_be_scored(recipe_file: Path, arms_file: Callable[[str], Path]):
    grid = read_grid(arms_file(GOOD.replace("steps = 0", "steps = 0\n[arm.evaluate]\nbefore_training = true")))
    assert [job.recipe.evaluate.before_training for job in jobs(grid, recipe_file, [])][:2] == [True, False]


def test_what_all_arms_change_gives_way_to_flags_and_arms(recipe_file: Path, arms_file: Callable[[str], Path]):
    shared = '[all]\nname = "grid"\ntrain.lr = 5e-4\n"codeswitch.ratio" = 0.5\nevaluate.before_training = true\n[[arm]]'
    path = arms_file(GOOD.replace("[[arm]]", shared, 1))
    subword, ours = (job.recipe for job in jobs(read_grid(path), recipe_file, ["--codeswitch.ratio", "0.1"])[:2])
    assert subword.name == "grid-subword-s3"
    assert (subword.train.lr, subword.codeswitch.ratio, subword.evaluate.before_training) == (5e-4, 0.1, True)
    assert (ours.train.lr, ours.codeswitch.ratio) == (5e-4, 0.25)


def test_the_budget_may_be_given_beside_the_file(arms_file: Callable[[str], Path]):
    path = arms_file(GOOD)
    assert (read_grid(path).target_bytes, read_grid(path, 77).target_bytes) == (1000, 77)
    with pytest.raises(RecipeError, match="target_bytes: expected a whole number above 0, got 0"):
        read_grid(path, 0)


@pytest.mark.parametrize(
    ("recipe", "arms"), [("german", "bakeoff/arms"), ("russian", "bakeoff/arms"), ("german", "bakeoff/long")]
)
def test_grids_that_ship(recipe: str, arms: str):
    folder = Path(__file__).parents[3] / "benchmarks"
    grid = read_grid(folder / f"{arms}.toml")
    assert len(jobs(grid, folder / "bakeoff" / f"{recipe}.toml", [])) == len(grid.arms) * len(grid.seeds)


BAD = {
    "all no table": ("target_bytes", "all = 3\ntarget_bytes", r"all: expected a table .* got 3"),
    "all unknown key": ("target_bytes", "all.lr = 1\ntarget_bytes", r"all: lr: not a key of"),
    "all out of bounds": ("target_bytes", "all.align.steps = -1\ntarget_bytes", r"toml: all: align\.steps: -1 is too"),
    "all derived key": ("target_bytes", "all.seed = 1\ntarget_bytes", r"all: seed: is not for an"),
    "not TOML": ("seeds = [3, 0]", "seeds = [3, 0", r"arms\.toml: not valid TOML"),
    "unknown key": ("seeds = [3, 0]", "seeds = [0]\nseed = 1", r"arms\.toml: seed: unknown key; known keys: seeds"),
    "no seeds": ("seeds = [3, 0]", "", r"arms\.toml: seeds: expected a list of whole numbers .* got None"),
    "empty seeds": ("seeds = [3, 0]", "seeds = []", r"arms\.toml: seeds: expected a list"),
    "a seed twice": ("seeds = [3, 0]", "seeds = [3, 3]", r"arms\.toml: seeds: \[3, 3\] names a seed twice"),
    "a negative seed": ("seeds = [3, 0]", "seeds = [-1]", r"arms\.toml: seeds: expected a list"),
    "seeds true": ("seeds = [3, 0]", "seeds = [true]", r"arms\.toml: seeds: expected a list"),
    "no budget": ("target_bytes = 1000", "", r"arms\.toml: target_bytes: expected a whole number above 0, got None"),
    "budget of nothing": ("target_bytes = 1000", "target_bytes = 0", r"arms\.toml: target_bytes: .* got 0"),
    "unknown budget": ("seeds = [3, 0]", 'seeds = [0]\nbudget = "hours"', r"arms\.toml: budget: 'hours' is not one of"),
    "reference missing": ('name = "subword"', 'name = "other"', r"reference: 'subword' is not the name of an arm"),
    "duplicate name": ('name = "ours"', 'name = "subword"', r"arms\.toml: arm\.name: 'subword' stands there twice"),
    "no name": ('name = "ours"', "", r"arms\.toml: arm 1: name: expected a plain word .* got None"),
    "path for a name": ('name = "ours"', 'name = "../ours"', r"arms\.toml: arm 1: name: .* got '\.\./ours'"),
    "unknown recipe key": ("align.init =", "align.inti =", r"arms\.toml: arm ours: align\.inti: not a key of a recipe"),
    "a whole section": ("align.init =", "vocab =", r"arms\.toml: arm ours: vocab: not a key of a recipe"),
    "derived key": ("align.init =", "train.steps = 3\nalign.init =", r"arm ours: train\.steps: is not for an arm"),
    "keep a word": ("seeds = [3, 0]", 'seeds = [0]\nkeep_checkpoints = 1', r"toml: keep_checkpoints: expected"),
    "label a word": ("switching = false", 'switching = "no"', r"arm subword: switching: expected true or false"),
    "value out of bounds": ("steps = 0", "steps = -1", r"arms\.toml: arm subword: align\.steps: -1 is too small"),
    "value of a wrong type": ("steps = 0", 'steps = "x"', r"arms\.toml: arm subword: align\.steps: expected a whole"),
    "value not finite": ("steps = 0", "lr = nan", r"arms\.toml: arm subword: align\.lr: "),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_arms_files(case: str, recipe_file: Path, arms_file: Callable[[str], Path]):
    old, new, message = BAD[case]
    assert old in GOOD
    path = arms_file(GOOD.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        jobs(read_grid(path), recipe_file, [])
    assert re.search(message, str(caught.value)), caught.value
    assert "\n" not in str(caught.value).replace("\n(at", "")


def test_no_arms(arms_file: Callable[[str], Path], tmp_path: Path):
    for text in ("seeds = [0]\ntarget_bytes = 1\n", "seeds = [0]\ntarget_bytes = 1\narm = 3\n"):
        with pytest.raises(RecipeError, match=r"arm: expected at least one table \[\[arm\]\]"):
            read_grid(arms_file(text))
    with pytest.raises(MissingInputError, match="no such arms file"):
        read_grid(tmp_path / "absent.toml")
