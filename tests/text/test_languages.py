"""Names and codes of languages."""

import pytest

from prealign_cpt.text.languages import Identifier, Language, language_of


@pytest.mark.parametrize("given", [{"name": "German"}, {"code": "de"}, {"code": "deu"}, {"code": "deu_Latn"}])
def test_all_ways_to_say_german(given: dict[str, str]):
    assert language_of(**given) == Language("German", "de", "deu")


def test_a_code_goes_before_a_name_and_unknown_ones_stay():
    assert language_of("Deutsch", "deu_Latn") == Language("Deutsch", "de", "deu")
    assert language_of("", "arb_Arab") == Language("Arabic", "ar", "arb")
    assert language_of("Clone") == Language("Clone", "", "")
    assert language_of("Ligurian", "lij_Latn") == Language("Ligurian", "lij", "lij")


@pytest.mark.parametrize(
    ("given", "code"), [("Swahili", "sw"), ("swh_Latn", "sw"), ("Tagalog", "tl"), ("zh", "zh"), ("Persian", "fa")]
)
def test_names_and_codes_of_many_languages(given: str, code: str):
    assert language_of(given).short == code


def test_the_identifier_speaks_of_languages_by_the_same_codes():
    identify = Identifier()
    codes = {
        language_of(name).short for name in ("German", "Swahili", "Hindi", "Tagalog", "Chinese", "Odia", "Persian")
    }
    assert codes <= identify.languages
    assert identify("Habari ya asubuhi, unaendeleaje leo?") == "sw"
