"""Language confusion: what passes, what fails, and what cannot be judged."""

import pytest

pytest.importorskip("py3langid")

from prealign_cpt.evaluate.confusion import (
    FAILED,
    PASSED,
    UNKNOWN,
    Identifier,
    english_vocabulary,
    has_english_word,
    judge,
    rate,
)
from prealign_cpt.text.languages import long_enough
from tests.conftest import ENGLISH, TARGET

RUSSIAN = ["Старый дом стоит у реки, и маленькая собака спит.", "Утром дети идут в школу и несут хлеб и воду."]
JAPANESE = [
    "古い家は川の近くにあります。小さな犬が家の前で寝ています。",
    "朝、子供たちは学校へ歩いて行きます。パンと水を持って。",
]


@pytest.fixture(scope="module")
def german() -> Identifier:
    return Identifier("de", TARGET, ENGLISH)


def test_empty_and_short_output_does_not_pass(german: Identifier):
    """The trap: a model that writes nothing has no wrong line."""
    nothing = ["", "\n\n", "Ja.", "42 17 3 9 8 1 2", "Gut so"]
    rates = rate(nothing, "target", german, frozenset())
    assert rates.verdicts == (UNKNOWN,) * 5 and rates.lpr == 0.0 and rates.coverage == 0.0
    mixed = rate([TARGET[0], "", "", ENGLISH[0]], "target", german, frozenset())
    assert mixed.verdicts == (PASSED, UNKNOWN, UNKNOWN, FAILED)
    assert mixed.lpr == 0.25 and mixed.coverage == 0.5


def test_one_wrong_line_fails(german: Identifier):
    assert judge("\n".join(TARGET), "target", german) == PASSED
    assert judge("\n".join([*TARGET, ENGLISH[3]]), "target", german) == FAILED
    assert judge("\n".join(TARGET), "english", german) == FAILED
    assert judge("\n".join([TARGET[0], "Yes.", "ok"]), "target", german) == PASSED, "short lines are not judged"


def test_both_directions_and_the_own_error_rate(german: Identifier):
    english = rate(ENGLISH, "english", german, frozenset())
    assert english.lpr == 1.0 and english.clean is None, "one script writes both languages: no word-level rate"
    wrong, shown = german.errors(TARGET, "target")
    assert wrong == 0 and shown == sum(long_enough(line) for text in TARGET for line in text.split("\n")) > 5
    wrong, shown = german.errors(ENGLISH, "target")
    assert wrong == shown, "English is not recognised as German"


def test_another_script_is_seen_without_any_word(german: Identifier):
    russian = Identifier("ru", RUSSIAN, ENGLISH)
    assert russian.by_script and not german.by_script
    assert [russian(text) for text in (*RUSSIAN, ENGLISH[0])] == ["target", "target", "english"]
    # Latin letters that py3langid may take for anything are not Russian; Cyrillic with Latin names is.
    assert russian("Staryj dom stoit u reki i malenkaja sobaka spit") != "target"
    assert russian("Пушкин родился в Москве, a Shakespeare в Англии") == "target"
    japanese = Identifier("ja", JAPANESE, ENGLISH)
    assert [japanese(text) for text in (*JAPANESE, ENGLISH[0])] == ["target", "target", "english"], "three scripts"
    assert long_enough(JAPANESE[0]) and not long_enough("はい。")


def test_a_script_does_for_a_language_that_py3langid_does_not_know():
    clone = [text.translate({ord("a") + i: 0x10D0 + i for i in range(26)}) for text in ENGLISH]
    identify = Identifier("", clone, ENGLISH)
    assert identify(clone[0].split("\n")[0]) == "target" and identify(ENGLISH[0]) == "english"
    with pytest.raises(ValueError, match="'qaa', and its script is that of English"):
        Identifier("qaa", TARGET, ENGLISH)


def test_words_of_the_other_language():
    russian = Identifier("ru", RUSSIAN, ENGLISH)
    words = english_vocabulary(ENGLISH)
    assert "children" in words and "the" not in words
    assert has_english_word("Старый house стоит", words) and not has_english_word("Старый Berlin стоит dom", words)
    found = rate([RUSSIAN[0], RUSSIAN[1].replace("школу", "school")], "target", russian, words)
    assert found.verdicts == (PASSED, PASSED) and found.clean == (True, False)
    found = rate([ENGLISH[0], ENGLISH[1].replace("water", "вода")], "english", russian, words)
    assert found.verdicts == (PASSED, PASSED) and found.clean == (True, False)
