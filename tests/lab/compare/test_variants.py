"""The variants file: what it may say, and what each run then is."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import race
from benchmarks.race import LANGUAGES
from prealign_cpt.lab.compare.variants import BASE, SUBWORD, read_grid, run_specs
from prealign_cpt.run.errors import MissingInputError, RecipeError

GOOD = """
seeds = [3, 0]
target_bytes = 1000
reference = "subword"
[[variant]]
name = "ours"
align.init = "subword+lexicon"
"codeswitch.ratio" = 0.25
[[variant]]
name = "subword"
[variant.align]
init = "subword"
steps = 0
"""


Write = Callable[[str], Path]


def test_every_variant_and_seed_is_a_run_the_reference_first(recipe_file: Path, variants_file: Write):
    grid = read_grid(variants_file(GOOD))
    assert (grid.seeds, grid.budgets, grid.reference) == ((3, 0), ("bytes",), "subword")
    specs = run_specs(grid, recipe_file, ["--train.lr", "1e-3", "--codeswitch.ratio", "0.1"])
    names = ["tiny-subword-s3", "tiny-ours-s3", "tiny-base-s3", "tiny-subword-s0", "tiny-ours-s0", "tiny-base-s0"]
    assert [spec.run.name for spec in specs] == names
    subword, ours = specs[0].recipe, specs[1].recipe
    assert (subword.align.init, subword.align.steps, subword.seed) == ("subword", 0, 3)
    assert (ours.align.init, ours.align.steps, ours.seed) == ("subword+lexicon", 3, 3)
    assert (subword.train.lr, ours.train.lr) == (1e-3, 1e-3)
    assert (subword.codeswitch.ratio, ours.codeswitch.ratio) == (0.1, 0.25), "a variant's key goes before a flag"
    assert subword.evaluate.before_training and ours.evaluate.before_training, "what the recipe says"
    assert [spec.switching for spec in specs[:3]] == [True, True, False]


def test_the_base_with_its_own_tokens_is_always_there(recipe_file: Path, variants_file: Write):
    grid = read_grid(variants_file(GOOD))
    base = next(spec.recipe for spec in run_specs(grid, recipe_file, []) if spec.variant == "base")
    assert (base.vocab.size, base.align.steps, base.codeswitch.ratio, base.train.composition_lr) == (0, 0, 0.0, 0.0)
    named = GOOD.replace('name = "ours"', 'name = "plain"\nvocab.size = 0')
    assert list(read_grid(variants_file(named)).variants) == ["plain", "subword"]
    with pytest.raises(RecipeError, match=r"variant base: needs vocab\.size = 0"):
        read_grid(variants_file(GOOD.replace('"ours"', '"base"')))


def test_the_base_is_the_reference_unless_another_is_named(variants_file: Write):
    unnamed = GOOD.replace('reference = "subword"\n', "")
    assert read_grid(variants_file(unnamed)).reference == "base"
    named = unnamed.replace('name = "ours"', 'name = "plain"\nvocab.size = 0')
    assert read_grid(variants_file(named)).reference == "plain"


def test_a_second_budget_has_runs_of_its_own(recipe_file: Path, variants_file: Write):
    both = GOOD.replace("seeds = [3, 0]", 'seeds = [3]\nbudget = ["bytes", "flops"]')
    grid = read_grid(variants_file(both))
    specs = run_specs(grid, recipe_file, [])
    assert [(spec.run.name, spec.budget) for spec in specs[:4]] == [
        ("tiny-subword-s3", "bytes"),
        ("tiny-subword-s3-flops", "flops"),
        ("tiny-ours-s3", "bytes"),
        ("tiny-ours-s3-flops", "flops"),
    ]
    assert [spec.recipe.evaluate.before_training for spec in specs] == [True, False] * 3, "scored once"


def test_what_all_variants_change_gives_way_to_flags_and_variants(recipe_file: Path, variants_file: Write):
    shared = 'train.lr = 5e-4\n"codeswitch.ratio" = 0.5\nevaluate.before_training = true\n[[variant]]'
    path = variants_file(GOOD.replace("[[variant]]", f'[all]\nname = "grid"\n{shared}', 1))
    subword, ours, _ = (s.recipe for s in run_specs(read_grid(path), recipe_file, ["--codeswitch.ratio", "0.1"])[:3])
    assert subword.name == "grid-subword-s3"
    assert (subword.train.lr, subword.codeswitch.ratio, subword.evaluate.before_training) == (5e-4, 0.1, True)
    assert (ours.train.lr, ours.codeswitch.ratio) == (5e-4, 0.25)


def test_the_budget_may_be_given_beside_the_file(variants_file: Write):
    path = variants_file(GOOD)
    assert (read_grid(path).target_bytes, read_grid(path, 77).target_bytes) == (1000, 77)
    with pytest.raises(RecipeError, match="target_bytes: expected a whole number above 0, got 0"):
        read_grid(path, 0)


@pytest.mark.parametrize(
    ("recipe", "variants"),
    [("german", "bakeoff/variants"), ("russian", "bakeoff/variants"), ("german", "bakeoff/long")],
)
def test_grids_that_ship(recipe: str, variants: str):
    folder = Path(__file__).parents[3] / "benchmarks"
    grid = read_grid(folder / f"{variants}.toml")
    specs = run_specs(grid, folder / "bakeoff" / f"{recipe}.toml", [])
    assert len(specs) == len(grid.variants) * len(grid.seeds)
    assert len(read_grid(folder / "clone" / "variants.toml").variants) > 10


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_race(language: str):
    folder = Path(race.__file__).parent / "race"
    grid = read_grid(folder / "variants.toml")
    specs = run_specs(grid, folder / f"{language}.toml", [])
    assert (grid.reference, grid.budgets) == ("base", ("bytes", "flops")) and specs[0].variant == "base"
    for variant, expected in {"base": BASE, "subword": SUBWORD}.items():
        recipe = next(spec.recipe for spec in specs if spec.variant == variant)
        changed = {key: getattr(getattr(recipe, key.split(".")[0]), key.split(".")[1]) for key in expected}
        assert changed == expected, "as plain as where the comparison adds it"


def test_stretches_of_the_training_text():
    text = "\n".join(f"line {i} of a long document" for i in range(40))
    parts = race.cut(text, 100)
    assert "\n".join(parts) == text and len(parts) > 1 and all(len(part) <= 100 for part in parts)
    pieces = [letter * 10 for letter in "abcdefgh"]
    assert race.stretch(pieces, 25, 0) == ["a" * 10, "b" * 10, "c" * 5]
    assert race.stretch(pieces, 25, 25) == ["d" * 10, "e" * 10, "f" * 5], "what was cut is not begun again"
    assert race.stretch(pieces, 25, 75) == ["a" * 10, "b" * 10, "c" * 5], "behind the last comes the first"
    assert race.stretch(["ä" * 5], 5, 0) == ["ää"], "no half characters"


SEEDS, FIRST, LAST = "seeds = [3, 0]", "align.init =", "steps = 0"
"""Lines of GOOD that the bad files replace."""

BAD = {
    "all no table": ("target_bytes", "all = 3\ntarget_bytes", r"all: expected a table .* got 3"),
    "all unknown key": ("target_bytes", "all.lr = 1\ntarget_bytes", r"all: lr: not a key of"),
    "all out of bounds": ("target_bytes", "all.align.steps = -1\ntarget_bytes", r"toml: all: align\.steps: -1 is too"),
    "all derived key": ("target_bytes", "all.seed = 1\ntarget_bytes", r"all: seed: is not for a"),
    "not TOML": (SEEDS, "seeds = [3, 0", r"variants\.toml: not valid TOML"),
    "unknown key": (SEEDS, "seeds = [0]\nseed = 1", r"variants\.toml: seed: unknown key; known keys: seeds"),
    "no seeds": (SEEDS, "", r"variants\.toml: seeds: expected different whole numbers .* got None"),
    "empty seeds": (SEEDS, "seeds = []", r"seeds: expected different"),
    "a seed twice": (SEEDS, "seeds = [3, 3]", r"seeds: expected different .* got \[3, 3\]"),
    "a negative seed": (SEEDS, "seeds = [-1]", r"seeds: expected different"),
    "seeds true": (SEEDS, "seeds = [true]", r"seeds: expected different"),
    "no budget": ("target_bytes = 1000", "", r"target_bytes: expected a whole number above 0, got None"),
    "budget of nothing": ("target_bytes = 1000", "target_bytes = 0", r"target_bytes: .* got 0"),
    "unknown budget": (SEEDS, 'seeds = [0]\nbudget = "hours"', r"budget: expected .*, got 'hours'"),
    "reference missing": ('= "subword"\n[[', '= "other"\n[[', r"reference: 'other' is no variant; they are ours, sub"),
    "a budget twice": (SEEDS, 'seeds = [0]\nbudget = ["bytes", "bytes"]', r"budget: expected .*, got \['bytes', 'by"),
    "no budgets": (SEEDS, 'seeds = [0]\nbudget = []', r"budget: expected .*, got \[\]"),
    "duplicate name": ('"ours"', '"subword"', r"variants\.toml: variant\.name: 'subword' stands there twice"),
    "no name": ('name = "ours"', "", r"variants\.toml: variant 1: name: expected a plain word .* got None"),
    "path for a name": ('"ours"', '"../ours"', r"variants\.toml: variant 1: name: .* got '\.\./ours'"),
    "unknown recipe key": (FIRST, "align.inti =", r"variant ours: align\.inti: not a key of a recipe"),
    "a whole section": (FIRST, "vocab =", r"variant ours: vocab: not a key of a recipe"),
    "derived key": (FIRST, "train.steps = 3\nalign.init =", r"ours: train\.steps: is not for a variant"),
    "keep a word": (SEEDS, 'seeds = [0]\nkeep_checkpoints = 1', r"toml: keep_checkpoints: expected"),
    "value out of bounds": (LAST, "steps = -1", r"variants\.toml: variant subword: align\.steps: -1 is too small"),
    "value of a wrong type": (LAST, 'steps = "x"', r"variant subword: align\.steps: expected a whole"),
    "value not finite": (LAST, "lr = nan", r"variant subword: align\.lr: "),
    "no variants": (GOOD, "seeds = [0]\ntarget_bytes = 1", r"variant: expected at least one table \[\[variant\]\]"),
    "variant no table": (GOOD, "seeds = [0]\ntarget_bytes = 1\nvariant = 3", r"variant: expected at least one table"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_variants_files(case: str, recipe_file: Path, variants_file: Write):
    old, new, message = BAD[case]
    assert old in GOOD
    path = variants_file(GOOD.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        run_specs(read_grid(path), recipe_file, [])
    assert re.search(message, str(caught.value)), caught.value
    assert "\n" not in str(caught.value).replace("\n(at", "")


def test_no_variants_file(tmp_path: Path):
    with pytest.raises(MissingInputError, match="no such variants file"):
        read_grid(tmp_path / "absent.toml")
