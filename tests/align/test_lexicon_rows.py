"""Weights of translations: worked examples, and lexicons that cannot serve."""

import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from prealign_cpt.align.lexicon_rows import Reach, TextStatistics, lexicon_mixture, reach
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.run.errors import DataError
from tests.vocab.conftest import sentence_piece


def weights_of(tokenizer, text: str, pairs: list[Pair], statistics: TextStatistics | None = None) -> dict[str, float]:
    """English pieces of one new token, and their weights."""
    mixture = lexicon_mixture([text], tokenizer, pairs, statistics)
    pieces = [tokenizer.decode([i]) for i in mixture.ids_N]
    return dict(zip(pieces, mixture.weights_N.tolist(), strict=True))


def english(text: str, target: str = "Haus Fluss und") -> TextStatistics:
    return TextStatistics([target], [text])


def test_an_ambiguous_english_word_counts_less(tokenizer):
    pairs = [Pair("house", "Haus"), Pair("house", "Heim"), Pair("house", "Bau"), Pair("water", "Haus")]
    assert weights_of(tokenizer, " Haus", pairs) == pytest.approx({" house": 0.25, " water": 0.75})


def test_a_probability_weighs_a_translation(tokenizer):
    pairs = [Pair("house", "Haus", 0.6), Pair("house", "Heim"), Pair("water", "Haus", 0.2)]
    assert weights_of(tokenizer, " Haus", pairs) == pytest.approx({" house": 0.75, " water": 0.25})


def test_a_lexicon_that_reaches_few_tokens_says_so():
    pairs = [Pair("house", "Haus"), Pair("river bank", "Ufer des Flusses")]
    found = reach([" Haus", " haus", " FLUSSES", " Baum", "heit", " 12", "."], pairs)
    assert found == Reach(tokens=7, words=4, listed=3)
    assert re.match(r"warning: .* reaches 3 of the 7 new tokens \(43%\), of which 4 are whole words", found.warning())
    assert not reach([" Haus", "heit"], pairs).warning()
    assert reach(["图书馆", "馆"], [Pair("library", "图书馆")]) == Reach(2, 2, 1)


def test_a_frequent_english_word_counts_more(tokenizer):
    pairs = [Pair("house", "Haus"), Pair("water", "Haus")]
    statistics = english("a house, the house. The House! no water")
    assert weights_of(tokenizer, " Haus", pairs, statistics) == pytest.approx({" house": 4 / 6, " water": 2 / 6})


def test_phrases_on_both_sides(tokenizer):
    pieces = tokenizer.encode(" old book", add_special_tokens=False)
    found = weights_of(tokenizer, " Schwarte", [Pair("old book", "Schwarte")])
    assert sum(found.values()) == pytest.approx(1) and len(found) == len(set(pieces))
    phrase = [Pair("book", "altes Buch im Haus"), Pair("water", "Haus am Fluss")]
    shares = weights_of(tokenizer, " Haus", phrase)
    assert shares[" water"] == pytest.approx(4 / 7), "a word of three counts more than a word of four"
    own = weights_of(tokenizer, " Haus", [*phrase, Pair("house", "Haus")])
    assert own == pytest.approx({" house": 1}), "a word that is listed itself needs no phrase"


def test_case_variants(tokenizer):
    pairs = [Pair("house", "Haus"), Pair("the", "die")]
    assert weights_of(tokenizer, " haus", pairs) == pytest.approx({" house": 1})
    assert weights_of(tokenizer, " Die", pairs) == pytest.approx({" The": 1}), "the English word takes the case"
    upper = tokenizer.decode(lexicon_mixture([" HAUS"], tokenizer, pairs).ids_N.sort().values)
    assert set(upper) <= set(" HOUSE")
    exact = [Pair("the", "die"), Pair("water", "Die")]
    assert weights_of(tokenizer, " Die", exact) == pytest.approx({" water": 1})


def test_english_is_spelled_as_the_text_spells_it(tokenizer):
    statistics = english("The River. The River. Nobody saw the river.")
    found = weights_of(tokenizer, " Fluss", [Pair("the", "Fluss")], statistics)
    assert found == pytest.approx({" The": 1})


def test_scripts_without_spaces(tokenizer):
    pairs = [Pair("house", "房子"), Pair("house", "haus")]
    assert lexicon_mixture(["房子", "haus"], tokenizer, pairs).covered_M.tolist() == [True, False]


def test_sentencepiece_words(tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(sentence_piece(tmp_path / "spm"))
    mixture = lexicon_mixture([" Haus"], tokenizer, [Pair("the house", "Haus")])
    assert mixture.ids_N.tolist() == tokenizer.encode("the house", add_special_tokens=False)


def test_an_order_of_pairs_means_nothing(tokenizer):
    pairs = [Pair("house", "Haus"), Pair("water", "Haus"), Pair("house", "Heim")]
    assert weights_of(tokenizer, " Haus", pairs) == weights_of(tokenizer, " Haus", pairs[::-1] + pairs)


@pytest.mark.parametrize(
    ("pairs", "text", "message"),
    [
        ([], "Haus", "lexicon: no pairs"),
        ([Pair("house", "maison"), Pair("aaron", "Aaron")], "das Haus Aaron", "none of its 1 target words occurs"),
    ],
)
def test_lexicons_that_cannot_serve(tokenizer, pairs: list[Pair], text: str, message: str):
    with pytest.raises(DataError, match=message):
        lexicon_mixture([" Haus", " Baum"], tokenizer, pairs, TextStatistics([text], ["the house"]))


def test_a_language_whose_words_no_spaces_part(tokenizer):
    statistics = TextStatistics(["这房子很大"], ["the house"])
    assert lexicon_mixture(["房子"], tokenizer, [Pair("house", "房子")], statistics).covered_M.all()


def test_text_is_read_when_it_is_needed_and_once():
    read = []

    def documents(name: str):
        for number in range(3):
            read.append((name, number))
            yield "Wörter " * 10

    statistics = TextStatistics(documents("target"), documents("english"))
    assert read == []
    assert len(statistics.target_text) == len(statistics.target_text) == 3
    assert read == [("target", number) for number in range(3)]
