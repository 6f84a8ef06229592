"""The language of a line: by script for certain, else by an identifier that is checked."""

import pytest

from prealign_cpt.audit.judge import OTHER_SCRIPT, SHORT, UNSURE, Judge, Side, checked, scripts_of

from .texts import sentences

GERMAN = Side(("de",), ("Latin",), "en", ("Latin",))
ENGLISH = Side(("en",), ("Latin",), "ru", ("Cyrillic",))
RUSSIAN = "Старый король медленно шёл через лес, и никто не знал, куда он идёт."


def test_languages_of_lines():
    judge = Judge(GERMAN)
    assert [judge(line) for line in (*sentences("de", 20), *sentences("en", 20))] == ["de"] * 20 + ["en"] * 20
    assert judge("Ja, gern.") == SHORT and judge("C:\\> dir *.* /p /w 12 34 56") in (SHORT, UNSURE)
    assert judge(RUSSIAN) == "ru" and [judge.is_foreign(label) for label in ("de", "en", SHORT, UNSURE)] == [
        *(False, True, False, False)
    ]


def test_another_script_is_foreign_however_short():
    judge = Judge(ENGLISH)
    assert judge("Война") == "ru", "too short to identify, and in the script of the language that is looked for"
    assert judge("ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ") == OTHER_SCRIPT and judge("Αθήνα") == "el"
    assert judge("Ω") == SHORT and judge("The letter Ω is Greek, and the last.") == "en"


def test_scripts_are_those_of_held_out_text():
    assert scripts_of([RUSSIAN + " Windows, Linux, Debian GNU"], beside="Latin") == ("Cyrillic",)
    assert scripts_of(["Das ist ein Text."], beside="Latin") == ("Latin",)
    assert set(scripts_of(["図書館はとても大きいです。テレビ"], beside="Latin")) == {"Han", "Hiragana", "Katakana"}


def test_the_identifier_is_counted_on_held_out_text():
    own, other = sentences("de", 95), sentences("en", 5)
    side, told = checked(GERMAN, ["\n".join([*own, *other, "Ja."])])
    assert side.identified and told == {"asked": True, "lines": 100, "wrong": 5, "unsure": 0, "taken_for": {"en": 5}}


@pytest.mark.parametrize(
    "side", [Side(("qaa",), ("Latin",), "en", ("Latin",)), Side(("nl",), ("Latin",), "en", ("Latin",))]
)
def test_an_identifier_that_does_not_know_the_language_is_not_asked(side: Side):
    found, told = checked(side, sentences("de", 50))
    assert not found.identified and not told["asked"]
    judge = Judge(found)
    assert judge(sentences("en", 1)[0]) == side.own[0] and judge.is_foreign(judge(RUSSIAN))
