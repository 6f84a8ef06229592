"""A folder of files in, a recipe that runs out; and a recipe of four lines."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from prealign_cpt.advise.choices import choose
from prealign_cpt.advise.fertility import Fertility
from prealign_cpt.advise.init import init, proposed, rows_rate
from prealign_cpt.cli import main
from prealign_cpt.recipe.file import left_open, load_recipe
from prealign_cpt.run.errors import RecipeError, StorageError
from tests.conftest import ENGLISH, PAIRS, START, TARGET
from tests.model.wrappers import make_wrapper


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of German and of English articles, in a current folder that is new."""
    monkeypatch.chdir(tmp_path)
    for name, texts in (("de", TARGET), ("en", ENGLISH)):
        (tmp_path / name).mkdir()
        for i in range(120):
            lines = [line for text in texts for line in text.split("\n")]
            text = "\n\n".join(f"{lines[(i + k) % len(lines)]} {i * k}" for k in range(5))
            (tmp_path / name / f"{i}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "words.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in PAIRS), encoding="utf-8")
    return tmp_path


def nothing() -> dict[str, Any]:
    raise AssertionError("English is given")


def made(base: Path, **named: Any) -> Path:
    return init(Path("mine"), str(base), "German", {"text": ["de"], "english": ["en"], "lexicon": "", **named}, nothing)


def test_the_recipe_is_whole(corpus: Path, base_folder: Path, capfd: pytest.CaptureFixture[str]):
    path = made(base_folder, lexicon="words.tsv")
    recipe = load_recipe(path, auto=True)
    assert (recipe.name, recipe.language, recipe.base.start_token) == ("mine", "German", START)
    assert recipe.text.target == ("../de",) and recipe.lexicon.path == "../words.tsv"
    assert set(left_open(recipe)) <= {"vocab.size"}
    text = path.read_text()
    assert "# de" in text and "tokens a word" in text and "each seen" in text and "GB" in text
    assert "120 files, one document a file" in capfd.readouterr().out
    with pytest.raises(StorageError, match="never overwritten"):
        made(base_folder)


@pytest.mark.slow
def test_a_multimodal_base_is_told(
    corpus: Path,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("PREALIGN_CACHE", str(corpus / "cache"))
    make_wrapper(corpus / "eyes", tokenizer, text={"vocab_size": len(tokenizer)})
    path = made(corpus / "eyes")
    told = "the language model of a Gemma3ForConditionalGeneration, as Gemma3ForCausalLM; left out: "
    assert f"init: base.model: {told}" in capsys.readouterr().out
    assert f'model = "{corpus / "eyes"}"  # {told}' in path.read_text()
    assert load_recipe(path, auto=True).base.model == str(corpus / "eyes")


def test_what_init_has_made_is_taken_over(corpus: Path, base_folder: Path, capsys: pytest.CaptureFixture[str]):
    path = made(base_folder)
    capsys.readouterr()
    flags = ["--skip", "data,init", "--vocab.size", "5"]
    assert main(["prepare", str(path), *flags]) == 0
    told = capsys.readouterr().out
    assert "text: done before, kept" in told and "vocab: 5 new" in told


@pytest.mark.parametrize(
    ("sizes", "num_bytes", "size"),
    [
        ([(250, 0.63, 27, True), (1000, 0.43, 8, True), (1396, 0.39, 4, True)], 400_000, 1000),  # Bengali
        ([(250, 0.53, 86, False), (1000, 0.39, 19, False)], 240_000, 0),  # Japanese: half is saved, but not by words
        ([(250, 0.80, 74, True), (1000, 0.69, 19, True)], 650_000, 0),  # Swahili: a third is saved
        ([(250, 0.80, 740, True), (1000, 0.69, 190, True)], 6_500_000, "auto"),
        ([(250, 0.95, 740, True)], 6_500_000, 0),
        ([(250, 0.43, 4, True)], 20_000, 0),
    ],
)
def test_the_number_of_new_tokens_that_is_proposed(sizes: list[Any], num_bytes: int, size: int | str):
    found = [Fertility(0, 1000, 1.0, 0.0)] + [Fertility(n, 0, share, seen, words) for n, share, seen, words in sizes]
    assert proposed(found, num_bytes)[0] == size


def test_new_rows_learn_faster_where_the_base_reads_letter_by_letter():
    letters, words = (Fertility(0, 1000, 1.0, 0.0, characters=n) for n in (1050, 2700))
    rate, why = rows_rate(letters, 800, 2e-4)
    assert rate == pytest.approx(1e-3) and "1.05 characters a token" in why
    assert rows_rate(letters, 800, 3e-4)[0] == 0.0015, "as one would write it"
    assert rows_rate(words, 800, 2e-4)[0] == rows_rate(letters, 0, 2e-4)[0] == 0


def test_parallel_text_becomes_a_source(corpus: Path, base_folder: Path, capfd: pytest.CaptureFixture[str]):
    for name, texts in (("a.en", ENGLISH), ("a.de", TARGET)):
        (corpus / name).write_text("\n".join(text.split("\n")[0] for text in texts * 4) + "\n", encoding="utf-8")
    recipe = load_recipe(made(base_folder, parallel=["a.en", "a.de"]), auto=True)
    assert [(one.name, one.target, one.english) for one in recipe.sources("target")] == [
        ("target", ("../de",), ()),
        ("parallel", ("../a.de",), ("../a.en",)),
    ]
    assert "text: target: parallel: ../a.en beside ../a.de: a sentence and its translation" in capfd.readouterr().out


def test_no_such_language(corpus: Path, base_folder: Path):
    with pytest.raises(RecipeError, match="--language 'Qwghlmian'"):
        init(Path("mine"), str(base_folder), "Qwghlmian", {"text": ["de"], "english": ["en"], "lexicon": ""}, nothing)
    assert not (corpus / "mine").exists()


def test_a_refused_text_leaves_no_recipe(corpus: Path, base_folder: Path):
    with pytest.raises(Exception, match="no such file or folder") as caught:
        made(base_folder, text=["nowhere"])
    assert getattr(caught.value, "exit_code", 0) == 66
    assert not list((corpus / "mine").glob("*"))


class TestFourLines:
    @pytest.fixture
    def path(self, corpus: Path, base_folder: Path) -> Path:
        path = corpus / "r.toml"
        path.write_text(f'name = "r"\nlanguage = "German"\nbase.model = "{base_folder}"\ntext.target = ["de"]\n')
        return path

    def english(self) -> dict[str, Any]:
        return {"text.english": ["en"]}

    def test_every_open_key_is_chosen_once(self, path: Path, capsys: pytest.CaptureFixture[str]):
        flags = choose(path, [], self.english)
        recipe = load_recipe(path, flags, auto=True)
        assert left_open(recipe) == ["vocab.size"]
        assert recipe.base.start_token == START and recipe.train.steps > 10
        capsys.readouterr()
        assert choose(path, [], nothing) == flags
        assert capsys.readouterr().out == ""
        assert json.loads((recipe.run / "choices.json").read_text())["chosen"]["text.english"] == ["en"]

    def test_more_text_is_chosen_for_anew(self, path: Path):
        before = choose(path, [], self.english)
        (path.parent / "de" / "more.txt").write_text("\n\n".join(TARGET * 500), encoding="utf-8")
        with pytest.raises(Exception, match="was made from other inputs"):
            choose(path, [], self.english)
        after = choose(path, ["--name", "again"], self.english)
        steps = [load_recipe(path, flags, auto=True).train.steps for flags in (before, after)]
        assert steps[1] > 2 * steps[0]

    def test_what_is_given_is_not_chosen(self, path: Path):
        flags = choose(path, ["--train.steps", "7", "--base.start_token", START], self.english)
        assert load_recipe(path, flags, auto=True).train.steps == 7
        assert sum("train.steps" in flag for flag in flags) == 1
