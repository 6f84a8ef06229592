"""The clone's letters: case and kind as in English, and no token of the base across their borders."""

import json
import unicodedata
from pathlib import Path
from string import ascii_letters

import pytest

from prealign_cpt.lab.clone.tokenizer import SCRIPTS, make_cloner, script_letters
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.vocab.families import LETTER_OF
from tests.vocab.conftest import byte_level


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_behaves_as_the_latin_one(script: str):
    letters = script_letters(script)
    assert list(letters) == sorted(ascii_letters) and len(set(letters.values())) == 52
    for letter, clone in letters.items():
        assert clone.isalpha() and clone.lower() == letters[letter.lower()] and clone.upper() == letters[letter.upper()]
        assert clone.capitalize() == letters[letter.upper()] and unicodedata.normalize("NFC", clone) == clone
        assert unicodedata.name(clone).startswith(script.upper())


def test_scripts_that_would_be_mixed_up_are_passed_over(tmp_path: Path):
    base = byte_level(tmp_path / "base", llama3=False)
    assert make_cloner(base, ["only English"]).script == "Armenian"
    assert make_cloner(base, ["one Ա in it"]).script == "Glagolitic", "the text has such a letter"
    every = "".join(script_letters(script)["a"] for script in SCRIPTS)
    with pytest.raises(RecipeError, match=r"Armenian.*Adlam.*choose"):
        make_cloner(base, [every])


@pytest.mark.parametrize(
    ("left", "right", "text"),
    [
        (b" ", "Ա".encode()[:1], "x And"),  # the space before a letter and its first byte
        ("Ա".encode()[1:], "Բ".encode()[:1], "AB"),  # two letters
    ],
)
def test_a_merge_across_the_border_of_a_letter_is_seen(tmp_path: Path, left: bytes, right: bytes, text: str):
    base = byte_level(tmp_path / "base", llama3=False)
    path = base / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    rule = ["".join(LETTER_OF[byte] for byte in part) for part in (left, right)]
    content["model"]["vocab"]["".join(rule)] = max(content["model"]["vocab"].values()) + 1000
    content["model"]["merges"].append(rule if isinstance(content["model"]["merges"][0], list) else " ".join(rule))
    path.write_text(json.dumps(content), encoding="utf-8")
    assert make_cloner(base, [text]).script == "Glagolitic"
    assert make_cloner(base, ["b"]).script == "Armenian", "no such text, no such token"


def test_contractions_stay(tmp_path: Path):
    cloner = make_cloner(byte_level(tmp_path / "base", llama3=False), ["text"])
    a = script_letters(cloner.script)
    for english, kept in (("God's", "'s"), ("we're", "'re"), ("'tis", "'t")):
        start = english.index("'")
        expected = [english[i] if start <= i < start + len(kept) else a.get(c, c) for i, c in enumerate(english)]
        assert cloner.text(english) == "".join(expected)
    assert cloner.text("'said' 12 é!") == f"'{a['s']}{a['a']}{a['i']}{a['d']}' 12 é!" or "'s" in cloner.text("'said'")
    assert cloner.text("say 'such'").endswith(f" '{a['s']}{a['u']}{a['c']}{a['h']}'"), "behind a space it is a quote"
