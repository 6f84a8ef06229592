"""Names and codes of languages."""

import pytest

from prealign_cpt.text.languages import _ROWS, Language, language_of


@pytest.mark.parametrize("given", [{"name": "German"}, {"code": "de"}, {"code": "deu"}, {"code": "deu_Latn"}])
def test_all_ways_to_say_german(given: dict[str, str]):
    assert language_of(**given) == Language("German", "de", "deu")


def test_a_code_goes_before_a_name_and_unknown_ones_stay():
    assert language_of("Deutsch", "deu_Latn") == Language("Deutsch", "de", "deu")
    assert language_of("", "arb_Arab") == Language("Arabic", "ar", "arb")
    assert language_of("Clone") == Language("Clone", "", "")
    assert language_of("Ligurian", "lij_Latn") == Language("Ligurian", "lij", "lij")


def test_no_code_means_two_languages():
    codes = [code for short, longs, _ in _ROWS for code in (short, *longs)]
    assert len(codes) == len(set(codes)) and all(code.islower() and len(code) in (2, 3) for code in codes)


def test_the_table_agrees_with_py3langid():
    langid = pytest.importorskip("py3langid.langid")
    known = set(langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE).labels)
    assert {short for short, _, _ in _ROWS} <= known
