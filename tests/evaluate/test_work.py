"""The evaluation data: what is read of it, and what is wrong with it."""

from pathlib import Path

import pytest

from prealign_cpt.evaluate.read import read_prompts
from prealign_cpt.evaluate.work import NoDataError, Work, work_from
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
    from_file = Work(parallel=pairs).pairs()
    assert from_file[3] == ("English 3", "Deutsch 3") and len(from_file) == 20
    assert Work(parallel=flores, languages=("eng_Latn", "deu_Latn")).pairs() == from_file


def test_a_sample_is_drawn_by_the_seed_and_keeps_its_order(pairs: Path):
    some = Work(parallel=pairs, max_items=5).pairs()
    numbers = [int(english.split()[1]) for english, _ in some]
    assert len(some) == 5 and numbers == sorted(numbers)
    assert some == Work(parallel=pairs, max_items=5).pairs()
    assert some != Work(parallel=pairs, max_items=5, seed=1).pairs()


@pytest.mark.parametrize("line", ["no tab", "two\ttabs\there", "\tno English", "no target\t "])
def test_a_bad_line_is_named(pairs: Path, line: str):
    pairs.write_text(f"fine\tgut\n{line}\n")
    with pytest.raises(DataError, match=r"pairs\.tsv:2: "):
        Work(parallel=pairs).pairs()


def test_a_bad_folder(flores: Path):
    with pytest.raises(NoDataError, match="--languages"):
        Work(parallel=flores).pairs()
    with pytest.raises(MissingInputError, match="there are deu_Latn, eng_Latn, rus_Cyrl"):
        Work(parallel=flores, languages=("eng_Latn", "fra_Latn")).pairs()
    with (flores / "deu_Latn.dev").open("a") as file:
        file.write("one more\n")
    with pytest.raises(DataError, match="eng_Latn has 20 lines, deu_Latn 21"):
        Work(parallel=flores, languages=("eng_Latn", "deu_Latn")).pairs()
    (flores / "eng_Latn.dev").write_text("one\n\nthree\n")
    with pytest.raises(DataError, match=r"eng_Latn\.dev:2: a blank line"):
        Work(parallel=flores, languages=("eng_Latn", "deu_Latn")).pairs()


def test_windows_hold_the_text_and_know_their_document(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text("one two three\n\n" + "four five six seven eight nine ten " * 4 + "\n", encoding="utf-8")
    found = Work(target=(("test", path),), window_bytes=64).windows("target", "test")
    assert found[0] == (0, "one two three")
    assert [number for number, _ in found[1:]] == [1] * (len(found) - 1)
    assert all(len(text.encode()) <= 64 for _, text in found)
    assert "".join(text for _, text in found[1:]).split() == ("four five six seven eight nine ten " * 4).split()


def test_what_is_not_named_is_no_data():
    for read in (
        lambda work: work.pairs(),
        lambda work: work.documents("target", "test"),
        lambda work: work.train_pairs(),
        lambda work: work.heldout_pairs(),
        lambda work: work.classes(),
    ):
        with pytest.raises(NoDataError, match="no local data"):
            read(Work())


def test_a_recipe_its_run_and_flags(recipe_file: Path, tmp_path: Path, pairs: Path):
    run = load_recipe(recipe_file).run
    (run / "lexicon").mkdir(parents=True)
    for name in ("clean", "heldout"):
        (run / "lexicon" / f"{name}.tsv").write_text("house\tHaus\n")
    work = work_from(recipe_file, None, {"parallel": pairs, "max_items": 7})
    assert work.target == (("test", recipe_file.parent / "test_target.txt"),)
    assert work.lexicon_heldout == run / "lexicon" / "heldout.tsv"
    assert (work.language, work.window_bytes, work.max_items) == ("German", 64, 7)
    assert work_from(None, run, {}).lexicon_train == run / "lexicon" / "clean.tsv"
    with pytest.raises(MissingInputError, match=r"parallel: .*nothing\.tsv: no such file"):
        work_from(recipe_file, None, {"parallel": tmp_path / "nothing.tsv"})
    with pytest.raises(RecipeError, match="--max-items 0"):
        work_from(None, None, {"max_items": 0})


def test_digests_follow_the_content(pairs: Path, flores: Path):
    fields = ("parallel", "languages", "code")
    before = Work(parallel=pairs, code="deu_Latn").digests(fields)
    pairs.write_text(pairs.read_text() + "more\tmehr\n")
    assert Work(parallel=pairs, code="deu_Latn").digests(fields) != before
    folder = Work(parallel=flores).digests(fields)
    (flores / "deu_Latn.dev").rename(flores / "deu_Latn.devtest")
    assert Work(parallel=flores).digests(fields) != folder


def test_prompts(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_text("Once upon\n\nIn the year\n")
    assert read_prompts(path) == ("Once upon", "In the year")
