"""Lexicons out of packages that hold a dictd database."""

from pathlib import Path

import pytest

from prealign_cpt.lab.texts.debian import SOURCES
from prealign_cpt.lab.texts.dictionary import DICTIONARIES, write_lexicon
from prealign_cpt.lexicon.pairs import read_pairs
from prealign_cpt.run.errors import DataError
from tests.lexicon.test_dictd import build


def package(folder: Path, *entries: str) -> None:
    """Put a database of these entries where a Debian package has it."""
    (folder / "usr/share/dictd").mkdir(parents=True)
    build(folder / "usr/share/dictd", list(entries))


def lexicon(folder: Path, text: str, dictionaries: list[tuple[str, bool]]) -> list[tuple[str, str]]:
    (folder / "text").write_text(text)
    write_lexicon(dictionaries, folder, folder / "text", folder / "lexicon.tsv")
    return [(pair.source, pair.target) for pair in read_pairs(folder / "lexicon.tsv")]


def test_words_that_are_frequent_in_the_text_stand_first(tmp_path: Path) -> None:
    package(tmp_path / "eng-ell", "file\nλίμα, σειρά, κατά σειρά, α, β, γ, αρχείο\n", "big file\nτόμος\n")
    found = lexicon(tmp_path, "Αρχείο, αρχείο. Σειρά!", [("eng-ell", False)])
    assert found == [("file", target) for target in ("αρχείο", "σειρά", "λίμα", "α", "β")]


def test_vowel_signs_belong_to_words(tmp_path: Path) -> None:
    package(tmp_path / "eng-hin", "work\nकाम, कार्य\n")
    assert lexicon(tmp_path, "कार्य क म", [("eng-hin", False)]) == [("work", "कार्य"), ("work", "काम")]


def test_of_an_inverted_dictionary_only_words_of_the_text_are_taken(tmp_path: Path) -> None:
    package(tmp_path / "eng-ell", "page\nσελίδα\n")
    package(tmp_path / "ell-eng", "με\nwith\n", "οξυκέφαλος\nwith\n", "φύλλο\nleaf, page of a book\n")
    found = lexicon(tmp_path, "Με φύλλο", [("eng-ell", False), ("ell-eng", True)])
    assert found == [("leaf", "φύλλο"), ("page", "σελίδα"), ("with", "με")]


def test_a_package_without_a_dictionary(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="eng-ell: holds no dictionary"):
        lexicon(tmp_path, "", [("eng-ell", False)])


def test_dictionaries_belong_to_languages_with_text() -> None:
    assert DICTIONARIES.keys() <= SOURCES.keys()
