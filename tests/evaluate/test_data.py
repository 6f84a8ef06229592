"""The evaluation data: what is read of it, and what is wrong with it."""

from pathlib import Path

import pytest

from prealign_cpt.evaluate.data import EvaluationData, NoDataError, data_from, read_prompts
from prealign_cpt.model.bits import held_out
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.errors import DataError, MissingInputError, RecipeError


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"English {i}\tDeutsch {i}\n" for i in range(20)), encoding="utf-8")
    return path


@pytest.fixture
def flores(tmp_path: Path) -> Path:
    folder = tmp_path / "flores"
    folder.mkdir()
    for name, word in (("eng_Latn", "English"), ("deu_Latn", "Deutsch"), ("rus_Cyrl", "Русский")):
        (folder / f"{name}.dev").write_text("".join(f"{word} {i}\n" for i in range(20)), encoding="utf-8")
    return folder


def test_pairs_of_both_forms(pairs: Path, flores: Path):
    from_file = EvaluationData(parallel=pairs).pairs()
    assert from_file[3] == ("English 3", "Deutsch 3") and len(from_file) == 20
    assert EvaluationData(parallel=flores, languages=("eng_Latn", "deu_Latn")).pairs() == from_file


def test_a_sample_is_drawn_by_the_seed_and_keeps_its_order(pairs: Path):
    some = EvaluationData(parallel=pairs, max_items=5).pairs()
    numbers = [int(english.split()[1]) for english, _ in some]
    assert len(some) == 5 and numbers == sorted(numbers)
    assert some == EvaluationData(parallel=pairs, max_items=5).pairs()
    assert some != EvaluationData(parallel=pairs, max_items=5, seed=1).pairs()


@pytest.mark.parametrize("line", ["no tab", "two\ttabs\there", "\tno English", "no target\t "])
def test_a_bad_line_is_named(pairs: Path, line: str):
    pairs.write_text(f"fine\tgut\n{line}\n")
    with pytest.raises(DataError, match=r"pairs\.tsv:2: "):
        EvaluationData(parallel=pairs).pairs()


def test_a_bad_folder(flores: Path):
    with pytest.raises(NoDataError, match="--languages"):
        EvaluationData(parallel=flores).pairs()
    with pytest.raises(MissingInputError, match="there are deu_Latn, eng_Latn, rus_Cyrl"):
        EvaluationData(parallel=flores, languages=("eng_Latn", "fra_Latn")).pairs()
    with (flores / "deu_Latn.dev").open("a") as file:
        file.write("one more\n")
    with pytest.raises(DataError, match=r"eng_Latn\.dev: ends before line 21 of .*deu_Latn\.dev"):
        EvaluationData(parallel=flores, languages=("eng_Latn", "deu_Latn")).pairs()
    (flores / "eng_Latn.dev").write_text("one\n\nthree\n")
    with pytest.raises(DataError, match=r"eng_Latn\.dev:2: a blank line"):
        EvaluationData(parallel=flores, languages=("eng_Latn", "deu_Latn")).pairs()


def test_windows_hold_the_text_and_know_their_document(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text("one two three\n\n" + "four five six seven eight nine ten " * 4 + "\n", encoding="utf-8")
    found = EvaluationData(target=(("test", path),), window_bytes=64).windows("target", "test")
    assert found[0] == (0, "one two three")
    assert [number for number, _ in found[1:]] == [1] * (len(found) - 1)
    assert all(len(text.encode()) <= 64 for _, text in found)
    assert "".join(text for _, text in found[1:]).split() == ("four five six seven eight nine ten " * 4).split()


def test_windows_are_those_on_which_a_run_is_validated(recipe_file: Path, tokenizer):
    """The same texts, and the same end of them, though documents are counted here."""
    (recipe_file.parent / "valid_target.txt").write_text("\n\n".join(f"{'word ' * 30}{i}" for i in range(9)))
    recipe = load_recipe(recipe_file, ["--evaluate.max_bytes", "500"])
    found = data_from(recipe, None, {}).windows("target", "valid")
    sizes = sorted(size for batch in held_out(recipe, "valid", tokenizer)["target"] for _, size in batch.windows)
    assert sorted(len(text.encode()) for _, text in found) == sizes
    assert {number for number, _ in found} == {0, 1, 2, 3}


def test_what_is_not_named_is_no_data():
    for read in (
        lambda data: data.pairs(),
        lambda data: data.documents("target", "test"),
        lambda data: data.lexicon(),
        lambda data: data.questions(),
        lambda data: data.classes(),
    ):
        with pytest.raises(NoDataError, match="no local data"):
            read(EvaluationData())


def test_a_recipe_its_run_and_flags(recipe_file: Path, tmp_path: Path, pairs: Path):
    run = load_recipe(recipe_file).run
    (run / "lexicon").mkdir(parents=True)
    for name in ("clean", "heldout"):
        (run / "lexicon" / f"{name}.tsv").write_text("house\tHaus\n")
    recipe = load_recipe(recipe_file)
    data = data_from(recipe, None, {"parallel": pairs, "max_items": 7})
    assert data.target == tuple((name, recipe_file.parent / f"{name}_target.txt") for name in ("valid", "test"))
    assert data.lexicon_heldout == run / "lexicon" / "heldout.tsv"
    assert (data.language, data.window_bytes, data.max_bytes, data.max_items) == ("German", 64, 24_000, 7)
    assert data_from(recipe, tmp_path, {}).lexicon_train is None, "another run's folder has none"
    with pytest.raises(MissingInputError, match=r"parallel: .*nothing\.tsv: no such file"):
        data_from(recipe, None, {"parallel": tmp_path / "nothing.tsv"})
    with pytest.raises(RecipeError, match="--max-items 0"):
        data_from(None, None, {"max_items": 0})


def test_digests_follow_the_content(pairs: Path, flores: Path):
    fields = ("parallel", "languages", "code")
    before = EvaluationData(parallel=pairs, code="deu_Latn").digests(fields)
    pairs.write_text(pairs.read_text() + "more\tmehr\n")
    assert EvaluationData(parallel=pairs, code="deu_Latn").digests(fields) != before
    folder = EvaluationData(parallel=flores).digests(fields)
    (flores / "deu_Latn.dev").rename(flores / "deu_Latn.devtest")
    assert EvaluationData(parallel=flores).digests(fields) != folder


def test_prompts(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_text("Once upon\n\nIn the year\n")
    assert read_prompts(path) == ("Once upon", "In the year")
