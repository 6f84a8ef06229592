"""Words as they are compared, and the hashes of stretches of them, beside the obvious way to do it."""

from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prealign_cpt.text.grams import Known, Words, normal

FEW = st.text(alphabet="ab \n.é图", max_size=12)
"""Texts that repeat words of each other."""


def test_words_have_no_case_no_punctuation_and_no_joiners():
    assert normal("  Der HUND, 2 Katzen -- Straße!\n") == "der hund 2 katzen strasse"
    assert normal("图书馆 in Rom, 3") == "图 书 馆 in rom 3"
    assert normal("กิน ข้าว") == "กิ น ข้ า ว", "marks stay with their letters"
    assert normal("می\u200cخواهم") == normal("میخواهم") and normal("?! …") == ""


@given(st.text())
def test_normal_text_stays_as_it_is(text: str):
    words = normal(text).split(" ")
    assert normal(normal(text)) == normal(text) and (words == [""] or all(words))


@given(st.lists(FEW, max_size=6), st.integers(1, 4))
def test_grams_are_equal_where_words_are_and_cross_no_document(documents: list[str], width: int):
    lines = [(i, normal(line)) for i, text in enumerate(documents) for line in text.split("\n")]
    words = Words([line for _, line in lines], [i for i, _ in lines])
    plain = [normal(text).split() for text in documents]
    expected = [
        (i, tuple(some[at : at + width])) for i, some in enumerate(plain) for at in range(len(some) - width + 1)
    ]
    hashes, first = words.grams(width)
    assert words.document[first].tolist() == [i for i, _ in expected]
    by_hash: dict[int, tuple[str, ...]] = {}
    for value, (_, gram) in zip(hashes.tolist(), expected, strict=True):
        assert by_hash.setdefault(value, gram) == gram, "one hash, one gram"
    assert len(by_hash) == len({gram for _, gram in expected}), "one gram, one hash"
    starts = [sum(map(len, plain[:i])) for i in range(len(plain))]
    assert first.tolist() == [starts[i] + at for i, some in enumerate(plain) for at in range(len(some) - width + 1)]
    assert words.counts.sum() == len(list(chain.from_iterable(plain)))


@given(st.lists(FEW, max_size=6))
def test_whole_lines_and_documents(documents: list[str]):
    lines = [(i, normal(line)) for i, text in enumerate(documents) for line in text.split("\n")]
    words = Words([line for _, line in lines], [i for i, _ in lines])
    for part, texts in (
        (words.line, [line for _, line in lines]),
        (words.document, [normal(text) for text in documents]),
    ):
        hashes, numbers = words.whole(part)
        assert numbers.tolist() == [i for i, text in enumerate(texts) if text]
        alone = [Words([texts[i]], [0]).whole(np.zeros(texts[i].count(" ") + 1, dtype=np.int64))[0][0] for i in numbers]
        assert hashes.tolist() == alone, "whatever stands before and behind"


@given(st.sets(st.integers(0, 2**64 - 1), max_size=50), st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_known_hashes_are_found_and_no_others(known: set[int], others: list[int]):
    own = np.array([*others, *known, *others], dtype=np.uint64)
    where, which = Known(np.array(sorted(known), dtype=np.uint64)).find(own)
    assert where.tolist() == [i for i, value in enumerate(own.tolist()) if value in known]
    assert [sorted(known)[i] for i in which] == own[where].tolist()
