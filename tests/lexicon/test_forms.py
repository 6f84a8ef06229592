"""Word forms that a text has, attached to the lemmas of a list."""

from pathlib import Path

import pytest

from prealign_cpt.lexicon import forms as module
from prealign_cpt.lexicon.forms import add_forms
from prealign_cpt.lexicon.pairs import Pair, pair_weights, read_pairs
from prealign_cpt.lexicon.stage import convert
from prealign_cpt.run.errors import MissingInputError, RecipeError

LEMMAS = {"häuser": "haus", "hauses": "haus", "ging": "gehen", "gingen": "gehen", "geht": "gehen"}


@pytest.fixture
def lemmas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_lemmatizer", lambda language: lambda word: LEMMAS.get(word.lower(), word.lower()))


def text(folder: Path, content: str) -> Path:
    path = folder / "text.txt"
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.usefixtures("lemmas")
def test_a_form_takes_the_english_of_its_lemma_and_a_part_of_its_weight(tmp_path: Path):
    pairs = [
        Pair("house", "Haus", 0.8),
        Pair("home", "Heim"),
        Pair("building", "Haus"),
        Pair("old house", "altes Haus"),
    ]
    found, counts = add_forms(pairs, [text(tmp_path, "das Haus, des Hauses, die Häuser, das Haus.")], "de")
    assert [(pair.source, pair.target, pair.probability) for pair in found] == [
        ("building", "Haus", round(3 / 7, 4)),
        ("building", "Hauses", round(2 / 7, 4)),
        ("building", "Häuser", round(2 / 7, 4)),
        ("home", "Heim", 1.0),
        ("house", "Haus", round(0.8 * 3 / 7, 4)),
        ("house", "Hauses", round(0.8 * 2 / 7, 4)),
        ("house", "Häuser", round(0.8 * 2 / 7, 4)),
        ("old house", "altes Haus", 1.0),
    ]
    assert counts == {"forms": 2, "covered": [0.25, 0.5]}
    total = sum(pair.probability or 0 for pair in found)
    assert total == pytest.approx(sum(pair_weights(pairs).values()), abs=1e-3)


@pytest.mark.usefixtures("lemmas")
def test_without_the_lemma_its_listed_forms_serve_and_listed_words_stay_as_they_are(tmp_path: Path):
    path = text(tmp_path, "sie gingen; er ging; er geht")
    found, _ = add_forms([Pair("went", "ging"), Pair("goes", "geht")], [path], "de")
    assert {(pair.source, pair.target) for pair in found} == {
        ("went", "ging"),
        ("went", "gingen"),
        ("goes", "geht"),
        ("goes", "gingen"),
    }
    found, _ = add_forms([Pair("go", "gehen"), Pair("went", "ging")], [path], "de")
    assert ("went", "gingen") not in {(pair.source, pair.target) for pair in found}


@pytest.mark.usefixtures("lemmas")
def test_the_command_writes_what_reads_back(tmp_path: Path):
    (tmp_path / "in.tsv").write_text("house\tHaus\n")
    counts = convert(tmp_path / "in.tsv", "auto", tmp_path / "out.tsv", "de", texts=[text(tmp_path, "Haus und Hauses")])
    assert [(pair.target, pair.probability) for pair in read_pairs(tmp_path / "out.tsv")] == [
        ("Haus", 0.5),
        ("Hauses", 0.5),
    ]
    assert (counts["forms"], counts["pairs"], counts["covered"]) == (1, 2, [0.3333, 0.6667])


def test_a_language_without_lemmas_is_named(tmp_path: Path):
    pytest.importorskip("simplemma")
    for language in ("", "Yoruba", "xx"):
        with pytest.raises(RecipeError, match=r"no lemmas are known; name one of .*de.*ru"):
            add_forms([Pair("a", "b")], [text(tmp_path, "b")], language)
    found, _ = add_forms([Pair("house", "Haus")], [text(tmp_path, "des Hauses")], "German")
    assert Pair("house", "Hauses") in found


def test_a_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "simplemma", None)
    with pytest.raises(MissingInputError, match=r'pip install "prealign-cpt\[lemmas\]"'):
        add_forms([Pair("a", "b")], [text(tmp_path, "b")], "de")
