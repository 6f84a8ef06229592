"""Which conversation is the n-th: a pure function of the seed and n, with the shares that were asked for."""

import math
from collections import Counter
from dataclasses import replace
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from prealign_cpt.chat.crossing import Conversations
from prealign_cpt.chat.instructions import Item, Messages

COUNT = 4000


def _plain(asked: str, answer: str) -> Messages:
    return ("user", asked), ("assistant", answer)


ITEMS = [Item(_plain(f"q{i}", f"a{i}"), _plain(f"F{i}", f"A{i}")) for i in range(37)]
PAIRS = [(f"s{i}", f"S{i}") for i in range(23)]
BOTH = Conversations(ITEMS, PAIRS, "German", cross=0.5, translations=0.25, seed=3)


def _languages(messages: Messages) -> tuple[bool, bool]:
    """Whether question and answer are in the target language (capital letters here)."""
    return messages[-2][1][0].isupper(), messages[-1][1][0].isupper()


def test_the_same_seed_and_number_give_the_same_whatever_was_asked_before() -> None:
    forwards = [BOTH[n] for n in range(200)]
    again = replace(BOTH)
    assert [again[n] for n in reversed(range(200))] == forwards[::-1]
    assert [replace(BOTH, seed=4)[n] for n in range(200)] != forwards


def test_shares_are_near_what_was_asked_for() -> None:
    found = [BOTH[n] for n in range(COUNT)]
    translations = [one for one in found if "Translate" in one[0][1]]
    assert len(translations) == COUNT // 4  # spread evenly, not drawn
    instructions = [one for one in found if "Translate" not in one[0][1]]
    crossed = [_languages(one)[0] != _languages(one)[1] for one in instructions]
    bound = 4 * math.sqrt(0.25 / len(instructions))  # four standard errors
    assert abs(sum(crossed) / len(crossed) - 0.5) < bound
    for some in (instructions, translations):
        assert abs(sum(_languages(one)[0] for one in some) / len(some) - 0.5) < 4 * math.sqrt(0.25 / len(some))
    kinds = Counter(_languages(one) for one in instructions)  # which language asks says nothing of which answers
    assert all(abs(kinds[kind] / len(instructions) - 0.25) < bound for kind in product((False, True), repeat=2))
    few = replace(BOTH, cross=0.1)
    rate = sum(
        _languages(one)[0] != _languages(one)[1] for one in map(few.__getitem__, range(COUNT)) if "Tra" not in one[0][1]
    )
    assert abs(rate / (COUNT * 3 / 4) - 0.1) < 4 * math.sqrt(0.09 / (COUNT * 3 / 4))


def test_question_and_answer_belong_together_and_the_request_names_the_answers_language() -> None:
    for n in range(500):
        (_, question), (_, answer) = BOTH[n]
        asked, _, request = question.partition("\n\n")
        assert asked[1:] == answer[1:]
        wanted = "German" if answer[0].isupper() else "English"
        if asked[0] in "sS":
            assert request == f"Translate into {wanted}." and asked[0].isupper() != answer[0].isupper()
        elif asked[0].isupper() != answer[0].isupper():
            assert request == f"Answer in {wanted}."
        else:
            assert not request


def test_extremes() -> None:
    never, always = replace(BOTH, cross=0.0, translations=0.0), replace(BOTH, cross=1.0, translations=0.0)
    assert all(len(set(_languages(never[n]))) == 1 for n in range(300))
    assert all(len(set(_languages(always[n]))) == 2 for n in range(300))
    assert all("Translate" in replace(BOTH, items=())[n][0][1] for n in range(50))
    assert not any("Translate" in replace(BOTH, pairs=())[n][0][1] for n in range(50))
    alone = replace(BOTH, items=[Item(None, _plain("F", "A"))], pairs=())
    assert alone[0] == alone[1] == _plain("F", "A")


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 40), st.floats(0, 1), st.integers(0, 2**32))
def test_every_item_comes_once_an_epoch(items: int, pairs: int, share: float, seed: int) -> None:
    some = Conversations(ITEMS[:items], PAIRS[:pairs], "German", 0.5, share if items < 38 else 0.0, seed)
    found, n = [], 0
    while len(found) < min(items, 37) and n < 2000:
        question = some[n][0][1]
        if question[0] in "qF":
            found.append(question.partition("\n\n")[0][1:])
        n += 1
    assert len(set(found)) == len(found)


def test_only_the_last_answer_of_a_longer_conversation_is_crossed() -> None:
    english = (("system", "s"), *_plain("one", "two"), *_plain("three", "four"))
    target = (("system", "S"), *_plain("Eins", "Zwei"), *_plain("Drei", "Vier"))
    some = Conversations([Item(english, target)], (), "German", 1.0, 0.0, 0)
    found = {some[n] for n in range(20)}
    assert (*english[:3], ("user", "three\n\nAnswer in German."), ("assistant", "Vier")) in found
    assert (*target[:3], ("user", "Drei\n\nAnswer in English."), ("assistant", "four")) in found
    assert len(found) == 2
