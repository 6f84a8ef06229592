"""Scripts: letters with their marks, and which go without spaces."""

import unicodedata

import pytest
import regex

from prealign_cpt.text.scripts import (
    MARKED,
    in_running_text,
    is_letters,
    is_unspaced,
    letters_of,
    marked_script,
    unspaced_share,
)


@pytest.mark.parametrize(
    "text", ["Haus", "हिन्दी", "العَرَبِيَّةُ", "ไทยดี", "ि", "e\u0301", "क्\u200dष", "می\u200cخواهم", "図書館", "ー"]
)
def test_letters(text: str) -> None:
    assert is_letters(text)


@pytest.mark.parametrize("text", ["", " ", "a1", "a b", "it's", "\ufe0f", "❤\ufe0f", "1\u20e3", "\u200d", "।", "٣"])
def test_no_letters(text: str) -> None:
    assert not is_letters(text)


def test_words_stand_in_text_as_their_script_has_it() -> None:
    for word in ("房子", "図書館", "ห้องสมุด", "コーヒー", "စာ", "ផ្ទះ", "ຫໍ", "ཡི"):
        assert is_unspaced(word) and in_running_text(word) == word
    for word in ("Haus", "집", "बात", "نور", "ვეფხვი", "ี", "", "1房"):
        assert not is_unspaced(word) and in_running_text(word) == f" {word}"
    assert unspaced_share("東京は12℃ ok") == 3 / 5 and unspaced_share("12 !") == 0.0


@pytest.mark.parametrize("script", ["Devanagari", "Arabic", "Thai"])
def test_the_letters_of_a_script(script: str) -> None:
    inside = regex.compile(f"[{letters_of(script)}]")
    for letter in map(chr, range(0x500, 0x1000)):
        named = unicodedata.name(letter, "").startswith(script.upper()) and unicodedata.category(letter)[0] == "L"
        named &= letter != "\u0640"  # the tatweel is of no script
        if unicodedata.category(letter) == "Cn":  # two libraries may know two versions of Unicode
            continue
        assert bool(inside.match(letter)) is named
        assert (marked_script(letter) == script) is named or unicodedata.category(letter)[0] != "L"


def test_every_script_is_known() -> None:
    assert all(letters_of(script) for script in MARKED)
