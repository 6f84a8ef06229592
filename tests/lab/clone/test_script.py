"""The clone's letters: case and kind as in English, and no merge of the base across their borders."""

import json
import unicodedata
from pathlib import Path
from string import ascii_letters

import pytest

from prealign_cpt.lab.clone.script import SCRIPTS, Script, _glues, choose_script
from prealign_cpt.lab.clone.tokenizer import make_cloner
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.vocab.families import LETTER_OF
from prealign_cpt.vocab.grow import family_of, load_tokenizer
from tests.vocab.conftest import byte_level


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_behaves_as_the_latin_one(script: Script):
    letters = script.letters
    assert list(letters) == sorted(ascii_letters) and len(set(letters.values())) == 52
    for letter, clone in letters.items():
        assert clone.isalpha() and clone.lower() == letters[letter.lower()] and clone.upper() == letters[letter.upper()]
        assert clone.capitalize() == letters[letter.upper()] and unicodedata.normalize("NFC", clone) == clone
        assert unicodedata.name(clone).startswith(script.name.upper())


@pytest.mark.parametrize(
    ("merged", "glues"),
    [
        ("Ա", False),  # the letter itself
        ("Ա"[:1], False),
        (" Ա", True),
        ("ԱԲ", True),
        ("Աx", True),
        ("é", False),
        ("Բ", False),  # another letter of the script: inside itself
    ],
)
def test_a_merge_across_a_border_is_seen(merged: str, glues: bool):
    assert _glues(merged.encode(), [letter.encode() for letter in SCRIPTS[0].letters.values()]) == glues


def test_parts_of_letters_that_glue():
    letters = ["Ա".encode()]  # d4 b1
    assert _glues(b" \xd4", letters) and _glues(b"\xb1,", letters)
    assert not _glues(b"\xb1", letters) and not _glues(b"\xd4", letters)
    assert not _glues(b"\xd4\xb2", letters), "another character"
    assert not _glues(b"\xd0\xb1", letters), "another character with the same last byte"
    assert not _glues(b"\xb1\xb1", letters), "no character ends and goes on"


def test_known_scripts_are_passed_over(tmp_path: Path):
    base = byte_level(tmp_path / "base", llama3=False)
    tokenizer = load_tokenizer(base)
    family = family_of(base, tokenizer, json.loads(tokenizer.backend_tokenizer.to_str()))
    assert choose_script(family, [], ["only English"]).name == "Armenian"
    assert choose_script(family, [], ["one Ա in it"]).name == "Glagolitic", "the text has such a letter"
    glue = (LETTER_OF[0x20], LETTER_OF["Ա".encode()[0]])
    assert choose_script(family, [glue], ["x"]).name == "Glagolitic", "a space would be glued to it"
    every = "".join(script.letters["a"] for script in SCRIPTS)
    with pytest.raises(RecipeError, match=r"Armenian.*Adlam.*choose"):
        choose_script(family, [], [every])


def test_contractions_stay(tmp_path: Path):
    cloner = make_cloner(byte_level(tmp_path / "base", llama3=False), ["text"])
    a = cloner.script.letters
    for english, kept in (("God's", "'s"), ("we're", "'re"), ("'tis", "'t")):
        start = english.index("'")
        expected = [english[i] if start <= i < start + len(kept) else a.get(c, c) for i, c in enumerate(english)]
        assert cloner.text(english) == "".join(expected)
    assert cloner.text("'said' 12 é!") == f"'{a['s']}{a['a']}{a['i']}{a['d']}' 12 é!" or "'s" in cloner.text("'said'")
    assert cloner.text("say 'such'").endswith(f" '{a['s']}{a['u']}{a['c']}{a['h']}'"), "behind a space it is a quote"
